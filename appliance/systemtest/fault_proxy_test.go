package systemtest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy is a cable with a temper: it carries TCP connections to one address, slowly or not at all, and can lose the
// answers to what it has carried.
type proxy struct {
	l  net.Listener
	to string

	delay  atomic.Int64 // of every byte, ns
	rate   atomic.Int64 // bytes a second each way and connection; 0: as they come
	silent atomic.Bool  // what comes is swallowed
	passed atomic.Int64 // bytes carried to the address

	mu    sync.Mutex
	conns map[*cable]struct{}
	work  sync.WaitGroup
}

// cable is one connection through a proxy.
type cable struct {
	in, out net.Conn
	deaf    atomic.Bool // nothing goes back any more
}

func (c *cable) close() { _ = errors.Join(c.in.Close(), c.out.Close()) }

// newProxy listens at address and carries to the other one.
func newProxy(address, to string) (*proxy, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	p := &proxy{l: l, to: to, conns: make(map[*cable]struct{})}
	p.work.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.carry(in) })
		}
	})
	return p, nil
}

// close ends all connections and waits for them.
func (p *proxy) close() {
	_ = p.l.Close()
	p.reset()
	p.work.Wait()
}

// reset breaks all connections.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}

// loseAnswers lets nothing go back on the connections there are, carries what comes for a while, and breaks them. It
// returns how many there were.
func (p *proxy) loseAnswers(ctx context.Context) int {
	p.mu.Lock()
	var all []*cable
	for c := range p.conns {
		c.deaf.Store(true)
		all = append(all, c)
	}
	p.mu.Unlock()
	_ = pause(ctx, 200*time.Millisecond)
	for _, c := range all {
		c.close()
	}
	return len(all)
}

func (p *proxy) carry(in net.Conn) {
	out, err := net.DialTimeout("tcp", p.to, 3*time.Second)
	if err != nil {
		_ = in.Close()
		return
	}
	c := &cable{in: in, out: out}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pour(out, in, nil, &p.passed); c.close() })
	both.Go(func() { p.pour(in, out, &c.deaf, nil); c.close() })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// drop is a piece on its way.
type drop struct {
	b   []byte
	due time.Time
}

// pour carries one direction. At most 64 pieces of 16 KiB are on their way.
func (p *proxy) pour(to io.Writer, from io.Reader, deaf *atomic.Bool, count *atomic.Int64) {
	way := make(chan drop, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed := false
		for d := range way {
			if failed {
				continue
			}
			time.Sleep(time.Until(d.due))
			for p.silent.Load() {
				time.Sleep(10 * time.Millisecond)
			}
			if deaf != nil && deaf.Load() {
				continue
			}
			if _, err := to.Write(d.b); err != nil {
				failed = true
			}
			if count != nil {
				count.Add(int64(len(d.b)))
			}
			if rate := p.rate.Load(); rate > 0 {
				time.Sleep(time.Duration(int64(len(d.b)) * int64(time.Second) / rate))
			}
		}
	}()
	for {
		b := make([]byte, 16<<10)
		n, err := from.Read(b)
		if n > 0 {
			way <- drop{b[:n], time.Now().Add(time.Duration(p.delay.Load()))}
		}
		if err != nil {
			break
		}
	}
	close(way)
	<-done
}

// proxies puts a proxy before the peers' port of every node of a plan; the trial ends them.
func (tr *trial) proxies(p *plan) error {
	if err := needBench(); err != nil {
		return err
	}
	nodes := max(p.nodes, 3)
	all := make([]*proxy, nodes)
	for i := range all {
		px, err := newProxy(net.JoinHostPort(loopback(100+i), "8002"), net.JoinHostPort(loopback(11+i), "8002"))
		if err != nil {
			return err
		}
		tr.atEnd(px.close)
		all[i] = px
	}
	tr.peers = all
	p.config = func(i int, c map[string]any) {
		listen, _ := c["listen"].(map[string]any)
		peer, _ := listen["peer"].(map[string]any)
		peer["advertise"] = all[i].l.Addr().String()
	}
	return nil
}
