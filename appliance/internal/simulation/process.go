package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/meta"
)

// process is one start of a node: what a process of the operating system is. A process that is killed is cut off from
// everything at once; its goroutines are wound up behind that, on a directory that nobody looks at any more.
type process struct {
	id   string
	life int
	dir  string
	rec  *recorder

	dead    chan struct{}
	die     sync.Once
	mu      sync.Mutex
	resumed chan struct{} // closed when a pause ends; nil: not paused
	full    bool          // stores have no room
	end     *endpoint
	disk    *disk
	stores  Stores
	handler atomic.Pointer[forward.Handler]
	node    atomic.Pointer[raftstate.Node]
	fatal   atomic.Pointer[error]
	leaving atomic.Bool   // Close was called in good order
	closed  chan struct{} // Close has returned
}

// hold returns when the process may go on: at once unless it is paused. It returns false once the process is dead.
func (p *process) hold() bool {
	for {
		p.mu.Lock()
		ch := p.resumed
		p.mu.Unlock()
		if ch == nil {
			return p.alive()
		}
		select {
		case <-ch:
		case <-p.dead:
			return false
		}
	}
}

func (p *process) alive() bool {
	select {
	case <-p.dead:
		return false
	default:
		return true
	}
}

// sleep waits; it returns false once the process is dead.
func (p *process) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.dead:
		return false
	}
}

func (p *process) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resumed == nil {
		p.resumed = make(chan struct{})
	}
}

func (p *process) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resumed != nil {
		close(p.resumed)
		p.resumed = nil
	}
}

func (p *process) setFull(full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.full = full
}

func (p *process) isFull() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.full && p.alive()
}

// Observe implements raftstate.Observer.
func (p *process) Observe(a *raftstate.Applied) {
	n := p.node.Load()
	if n == nil || !p.alive() {
		return
	}
	rec := Record{Kind: kindApplied, Node: p.id, Life: p.life, Index: a.Index, Time: a.LogTime}
	if a.Installed {
		rec.Text = installed
	}
	if index, sums := n.Digest(); index == a.Index {
		rec.Sum = meta.FoldDigests(sums)
	}
	p.rec.add(rec)
}

// member is a node over all its starts.
type member struct {
	id    string
	root  string
	lives int
	dir   string // of the next start
	wiped bool   // since then it was not seen to have its vote again
	proc  *process
	skew  atomic.Int64 // of its clock, nanoseconds
	marks []string     // copies of the metadata as crashes left it
}

// cluster is the nodes of one run.
type cluster struct {
	plan    *Plan
	opt     Options
	rec     *recorder
	net     *network
	members []*member
	byID    map[string]*member
	rand    *rand.Rand // of the goroutine that carries out the plan
	winding sync.WaitGroup
	root    string
	log     *slog.Logger
}

func (c *cluster) addMember(id string) *member {
	m := &member{id: id, root: filepath.Join(c.root, id)}
	m.dir = filepath.Join(m.root, "1")
	c.members = append(c.members, m)
	c.byID[id] = m
	return m
}

// start brings a member up with what its directory holds.
func (c *cluster) start(m *member, bootstrap []raftstate.Server) error {
	m.lives++
	p := &process{id: m.id, life: m.lives, dir: m.dir, rec: c.rec, dead: make(chan struct{}), closed: make(chan struct{})}
	p.disk = newDisk(p)
	p.end = &endpoint{p: p, net: c.net, rpcs: make(chan raft.RPC)}
	p.stores = c.opt.stores(Bed{sleep: p.sleep, full: p.isFull})
	metrics, logs := p.stores.Sinks()
	cfg := raftstate.Config{
		NodeID: m.id, DataDir: m.dir, Bootstrap: bootstrap, Logger: c.log.With("life", m.lives),
		LogSegment: 64 << 10, DiskReserve: diskReserve, FreeBytes: p.disk.freeBytes, LogFiles: p.disk,
		MarkInterval: c.plan.MarkInterval, QueueBytes: c.plan.QueueBytes, LogCache: c.plan.LogCache,
		TickInterval: time.Second, InstallPause: 100 * time.Millisecond,
		Now: func() time.Time { return time.Now().Add(time.Duration(m.skew.Load())) },
		Transport: &raftstate.Transport{Raft: p.end, Caller: caller{p.end}, Serve: func(h forward.Handler) {
			if h == nil {
				p.handler.Store(nil)
			} else {
				p.handler.Store(&h)
			}
		}},
		OnFatal: func(err error) { p.fatal.Store(&err) },
	}
	c.net.attach(p, true)
	m.proc = p
	n, err := raftstate.Open(context.Background(), cfg, raftstate.Sinks{
		Metrics: metrics, Logs: logs, Observers: []raftstate.Observer{p},
	})
	if err != nil {
		c.net.attach(p, false)
		p.die.Do(func() { close(p.dead) })
		close(p.closed)
		c.rec.add(Record{Kind: kindRefused, Node: m.id, Life: m.lives, Text: err.Error()})
		return fmt.Errorf("start node %s: %w", m.id, err)
	}
	p.node.Store(n)
	c.opt.opened(p.stores, n)
	c.rec.add(Record{Kind: kindUp, Node: m.id, Life: m.lives})
	return nil
}

// diskReserve is small, so that plans can fill disks in steps.
const diskReserve = 1 << 20

// up reports whether the member runs.
func (m *member) up() bool { return m.proc != nil && m.proc.alive() && m.proc.node.Load() != nil }

// node returns the node of a member that runs, nil otherwise.
func (m *member) node() *raftstate.Node {
	if !m.up() {
		return nil
	}
	return m.proc.node.Load()
}

// kill ends a process at once. What its directory holds is what the process wrote; with power lost, what of it was
// made durable and some of the rest.
func (c *cluster) kill(m *member, power bool, why string) {
	p := m.proc
	if p == nil || !p.alive() {
		return
	}
	next := filepath.Join(m.root, fmt.Sprint(m.lives+1))
	err := copyTree(p.dir, next)
	if err == nil && power {
		err = p.disk.losePower(p.dir, next, c.rand)
	}
	p.die.Do(func() { close(p.dead) })
	c.net.attach(p, false)
	c.rec.add(Record{Kind: kindDown, Node: m.id, Life: p.life, Text: why})
	if err != nil {
		panic(fmt.Sprintf("simulation: copy directory of %s: %v", m.id, err))
	}
	m.dir = next
	c.windUp(p)
}

// stop ends a process in good order. It is dead when Close has returned.
func (c *cluster) stop(m *member) {
	p := m.proc
	if p == nil || !p.alive() || p.leaving.Swap(true) {
		return
	}
	p.resume()
	c.winding.Go(func() {
		err := p.node.Load().Close()
		c.net.attach(p, false)
		if p.alive() {
			c.rec.add(Record{Kind: kindDown, Node: m.id, Life: p.life, Text: "stopped"})
			if err != nil && p.fatal.Load() == nil {
				c.rec.add(Record{Kind: kindRefused, Node: m.id, Life: p.life, Text: "close: " + err.Error()})
			}
		}
		p.die.Do(func() { close(p.dead) })
		close(p.closed)
	})
}

// windUp lets the goroutines of a dead process end.
func (c *cluster) windUp(p *process) {
	c.winding.Go(func() {
		if p.leaving.Load() { // it is being closed already
			<-p.closed
			return
		}
		defer close(p.closed)
		_ = p.node.Load().Close() // what a dead process says counts for nothing
		_ = os.RemoveAll(p.dir)
	})
}

// wipe takes a member's data away.
func (c *cluster) wipe(m *member) {
	c.kill(m, false, "wiped")
	_ = os.RemoveAll(m.dir)
	m.dir = filepath.Join(m.root, fmt.Sprint(m.lives+1)+"-empty")
	m.wiped = true
}

// fallen restarts nothing, but notes processes that ended themselves, and returns the error of the first one.
func (c *cluster) fallen(m *member) error {
	p := m.proc
	if p == nil || !p.alive() {
		return nil
	}
	if err := p.fatal.Load(); err != nil {
		c.kill(m, false, "fatal: "+(*err).Error())
		return *err
	}
	return nil
}

// damaged reports whether the error says that a person must look.
func damaged(err error) bool {
	var fatal *raftstate.FatalError
	return errors.As(err, &fatal) && fatal.Code == raftstate.ExitDamaged
}
