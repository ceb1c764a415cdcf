package gateway

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/triward/triward/appliance/pki"
)

// sweepEvery is how often connections are looked at without an occasion: after an install no change is told.
const sweepEvery = 2 * time.Second

// sessions are the connections that agents opened with their certificates, to be cut when an agent is revoked.
type sessions struct {
	gateway *Gateway
	wake    chan struct{}
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once

	mu   sync.Mutex
	open map[*agentConn]holder
}

type holder struct{ agent, serial string }

func newSessions(g *Gateway) *sessions {
	s := &sessions{
		gateway: g, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		open: make(map[*agentConn]holder),
	}
	go s.run()
	return s
}

func (s *sessions) run() {
	defer close(s.done)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		case <-tick.C:
		}
		s.sweep()
	}
}

func (s *sessions) close() {
	s.once.Do(func() { close(s.stop) })
	<-s.done
}

// sweep cuts every connection whose agent may not use its certificate any more.
func (s *sessions) sweep() {
	s.mu.Lock()
	var cut []*agentConn
	for c, h := range s.open {
		if rec, _, err := s.gateway.opts.Auth.Agent(h.agent); err == nil && rec.Revoked {
			cut = append(cut, c)
			s.gateway.opts.Log.Info("connection of a revoked agent is cut", "agent", h.agent, "from", c.RemoteAddr())
		}
	}
	s.mu.Unlock()
	for _, c := range cut {
		_ = c.Close() // it is gone either way
	}
}

// Changed tells the gateway that records of agents may have changed. It never blocks, so that an observer may call it
// from the apply goroutine.
func (g *Gateway) Changed() {
	select {
	case g.sessions.wake <- struct{}{}:
	default: // it has a wake-up waiting already
	}
}

// agentConn is a connection that leaves the list when it is closed.
type agentConn struct {
	net.Conn
	sessions *sessions
}

// Close implements net.Conn.
func (c *agentConn) Close() error {
	c.sessions.mu.Lock()
	delete(c.sessions.open, c)
	c.sessions.mu.Unlock()
	return c.Conn.Close()
}

type agentListener struct {
	net.Listener
	sessions *sessions
}

// Accept implements net.Listener.
func (l *agentListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &agentConn{Conn: c, sessions: l.sessions}, nil
}

// Listen returns ln as the server must use it together with TLS, so that an agent's connections can be found.
func (g *Gateway) Listen(ln net.Listener) net.Listener { return &agentListener{ln, g.sessions} }

// TLS adds to a listener's configuration what agents are checked by. A client without a certificate may enroll. One
// that shows a certificate must show one that this cluster gave to an agent which is not revoked; that it has expired
// is judged by request, for it may be renewed.
func (g *Gateway) TLS(base *tls.Config) *tls.Config {
	base = base.Clone()
	base.ClientAuth = tls.RequestClientCert
	base.SessionTicketsDisabled = true // every connection is checked anew
	base.NextProtos = []string{"h2", "http/1.1"}
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		conf := base.Clone()
		conf.GetConfigForClient = nil
		conn, _ := hello.Conn.(*agentConn)
		conf.VerifyConnection = func(s tls.ConnectionState) error { return g.verifyConnection(conn, &s) }
		return conf, nil
	}
	return base
}

func (g *Gateway) verifyConnection(conn *agentConn, s *tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	id, serial, err := pki.CheckAgent(s.PeerCertificates[0], g.opts.Certificates.Pool())
	if err != nil {
		return err
	}
	if conn != nil { // before it is looked up: a change in between finds it
		g.sessions.mu.Lock()
		g.sessions.open[conn] = holder{id, serial}
		g.sessions.mu.Unlock()
	}
	if rec, _, err := g.opts.Auth.Agent(id); err == nil && rec.Revoked {
		return fmt.Errorf("agent %s was revoked", id)
	}
	return nil
}
