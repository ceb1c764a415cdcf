package syslog

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/wire"
)

// A connection holds what came, not what was announced, and of a long message no more than a line may have.
func TestCountedMessagesTakeTheRoomOfWhatCame(t *testing.T) {
	buf, _, err := readCounted(bufio.NewReader(strings.NewReader("1000000 <13>a: b")), nil)
	if err == nil || cap(buf) > 64<<10 {
		t.Errorf("%v, %d bytes are held for a message that did not come", err, cap(buf))
	}
	r := bufio.NewReader(strings.NewReader("900000 " + strings.Repeat("x", 900_000) + "4 next"))
	buf, cut, err := readCounted(r, buf[:0])
	if err != nil || !cut || len(buf) != keptOfFrame || keptOfFrame <= wire.MaxLine {
		t.Errorf("%v, cut: %v, %d bytes are kept", err, cut, len(buf))
	}
	if buf, cut, err = readCounted(r, buf[:0]); err != nil || cut || string(buf) != "next" {
		t.Errorf("%v, cut: %v, %.20q", err, cut, buf)
	}
}

// hookedConn tells when it is closed.
type hookedConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *hookedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// slowListener gives out one connection at once and one while the server closes the first.
type slowListener struct {
	first       *hookedConn
	late        net.Conn
	given, done bool
}

func (l *slowListener) Accept() (net.Conn, error) {
	switch {
	case !l.given:
		l.given = true
		return l.first, nil
	case !l.done:
		l.done = true
		<-l.first.closed
		return l.late, nil
	}
	return nil, net.ErrClosed
}
func (l *slowListener) Close() error   { return nil }
func (l *slowListener) Addr() net.Addr { return &net.TCPAddr{} }

// A connection that was accepted while the server closes the others does not keep it from ending.
func TestCloseEndsConnectionsAcceptedMeanwhile(t *testing.T) {
	s := newSite(t)
	a, peerA := net.Pipe()
	b, peerB := net.Pipe()
	defer peerA.Close()
	defer peerB.Close()
	first := &hookedConn{Conn: a, closed: make(chan struct{})}
	server, err := New(Options{
		Streams: []net.Listener{&slowListener{first: first, late: b}}, Zone: time.UTC, Node: "n1", Dir: t.TempDir(), BufferBytes: 8 << 20,
		Cluster: s, Coder: s.coder, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.conns) == 1
	})
	done := make(chan error, 1)
	go func() { done <- server.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		_ = peerB.Close()
		t.Fatal("the server does not end")
	}
}

// Who opens a connection of TLS and says nothing is cut off.
func TestSilentHandshakeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		s := &Server{ctx: t.Context()}
		if err := s.handshake(tls.Server(ours, &tls.Config{MinVersion: tls.VersionTLS12})); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is open: %v", err)
		}
	})
}

// The zone of a link-local address, which is the name of an interface, keeps nobody out.
func TestAddressesHaveNoZone(t *testing.T) {
	c := addressed{addr: &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}}
	s := &Server{opts: Options{Allow: []netip.Prefix{netip.MustParsePrefix("fe80::/10")}}}
	if from := addressOf(c); !s.allowed(from) {
		t.Errorf("%s may not send", from)
	}
}

type addressed struct {
	net.Conn
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }
