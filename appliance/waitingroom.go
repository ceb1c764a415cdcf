package appliance

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/triward/triward/agent/systemd"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/problem"
)

// roomAfter is how long a start may take before whoever asks is told so.
const roomAfter = 2 * time.Second

// waitingRoom answers browsers and senders while the node is not open yet: a start may read much, or take the whole
// state of another node. It keeps the service manager waiting as long as a repair goes on.
type waitingRoom struct {
	app    *App
	lent   *lentListener
	server *http.Server
	done   chan struct{}
	wg     sync.WaitGroup
}

// openWaitingRoom serves on the listener for browsers after a while; close gives it back.
func (a *App) openWaitingRoom() *waitingRoom {
	r := &waitingRoom{app: a, lent: &lentListener{Listener: a.httpListener, ended: make(chan struct{})}, done: make(chan struct{})}
	r.server = api.NewServer(http.HandlerFunc(r.answer), a.part("api"))
	r.wg.Go(r.run)
	return r
}

func (r *waitingRoom) run() {
	wait := time.NewTimer(roomAfter)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-r.done:
		return
	}
	r.wg.Go(r.extend)
	var err error
	if r.app.cfg.Listen.HTTP.PlainHTTP {
		err = r.server.Serve(r.lent)
	} else {
		if r.server.TLSConfig, err = r.app.listenerTLS(r.app.certs[1]); err == nil {
			err = r.server.ServeTLS(r.lent, "", "")
		}
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		r.app.log.Warn("nobody is told that the node is starting", "err", err)
	}
}

// extend puts off the end of the service manager's patience while a repair goes on.
func (r *waitingRoom) extend() {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		if r.app.repairs.Status().Doing != "" {
			if err := systemd.Notify("EXTEND_TIMEOUT_USEC=120000000"); err != nil {
				r.app.log.Debug("service manager does not hear", "err", err)
			}
		}
		select {
		case <-tick.C:
		case <-r.done:
			return
		}
	}
}

func (r *waitingRoom) answer(w http.ResponseWriter, _ *http.Request) {
	p := problem.New(http.StatusServiceUnavailable, "this node is starting").WithHint("ask another node").WithRetryAfter(5 * time.Second)
	if r.app.repairs.Status().Doing != "" {
		p = problem.New(http.StatusServiceUnavailable, "this node is repairing its data").WithHint("ask another node").WithRetryAfter(5 * time.Second)
	}
	p.Write(w)
}

// close ends it; the listener serves somebody else from then on.
func (r *waitingRoom) close() {
	close(r.done)
	r.lent.end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if r.server.Shutdown(ctx) != nil {
		_ = r.server.Close() // whoever holds on to a request is cut off
	}
	r.wg.Wait()
	r.lent.giveBack()
}

// lentListener lets a server accept from a listener that outlives it.
type lentListener struct {
	net.Listener
	once  sync.Once
	ended chan struct{}
}

// Accept implements net.Listener.
func (l *lentListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	select {
	case <-l.ended:
		if conn != nil {
			_ = conn.Close()
		}
		return nil, net.ErrClosed
	default:
		return conn, err
	}
}

// Close implements net.Listener; the lender's listener stays open.
func (l *lentListener) Close() error {
	l.end()
	return nil
}

func (l *lentListener) end() {
	l.once.Do(func() {
		close(l.ended)
		if d, ok := l.Listener.(interface{ SetDeadline(t time.Time) error }); ok {
			_ = d.SetDeadline(time.Now()) // wakes who accepts; a listener that is closed needs no waking
		}
	})
}

func (l *lentListener) giveBack() {
	if d, ok := l.Listener.(interface{ SetDeadline(t time.Time) error }); ok {
		_ = d.SetDeadline(time.Time{})
	}
}
