package forward

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nodes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c := &ca{cert, key, x509.NewCertPool()}
	c.pool.AddCert(cert)
	return c
}

func (c *ca) identity(t *testing.T, id string) *Identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if id != "" {
		tmpl.DNSNames = []string{id}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, &key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	pair := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &Identity{ID: id, Certificate: func() (*tls.Certificate, error) { return pair, nil }, Roots: func() *x509.CertPool { return c.pool }}
}

type echo struct{}

func (echo) ServeCall(_ context.Context, from, method string, body []byte) ([]byte, error) {
	switch method {
	case "refuse":
		return nil, fmt.Errorf("wrapped: %w", &RemoteError{Code: "busy", Message: "come back later"})
	case "fail":
		return nil, errors.New("broken")
	case "large":
		return make([]byte, MaxBody+1), nil
	}
	return []byte(from + ":" + method + ":" + string(body)), nil
}

// patience is how long anything may take on a busy machine: it only ends what hangs.
const patience = 2 * time.Minute

func serve(t *testing.T, id *Identity) *Listener {
	t.Helper()
	return serveFor(t, id, patience)
}

// serveFor gives whoever connects so long for the handshake.
func serveFor(t *testing.T, id *Identity, within time.Duration) *Listener {
	t.Helper()
	l, err := listen("127.0.0.1:0", id, slog.New(slog.DiscardHandler), within)
	if err != nil {
		t.Fatal(err)
	}
	l.Serve(echo{}, http.NotFoundHandler())
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func client(t *testing.T, id *Identity, addr string) *Client {
	t.Helper()
	c := NewClient(id, func(string) (string, error) { return addr, nil })
	t.Cleanup(c.Close)
	return c
}

func TestCalls(t *testing.T) {
	nodes := newCA(t)
	l := serve(t, nodes.identity(t, "n1"))
	overTLS := client(t, nodes.identity(t, "n2"), l.Addr().String())
	var loop Loopback
	loop.Attach("n1", echo{})
	for name, c := range map[string]Caller{"tls": overTLS, "loopback": loop.From("n2")} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			answer, err := c.Call(ctx, "n1", "status", []byte("body"))
			if err != nil || string(answer) != "n2:status:body" {
				t.Errorf("answer %q, %v", answer, err)
			}
			var remote *RemoteError
			if _, err := c.Call(ctx, "n1", "refuse", nil); !errors.As(err, &remote) || remote.Code != "busy" || remote.Message != "come back later" {
				t.Errorf("refused call: %v", err)
			}
			if _, err := c.Call(ctx, "n1", "fail", nil); !errors.As(err, &remote) || remote.Code != CodeInternal {
				t.Errorf("failed call: %v", err)
			}
		})
	}
	if _, err := overTLS.Call(t.Context(), "n1", "status", make([]byte, MaxBody+1)); err == nil {
		t.Error("a body beyond the bound was taken")
	}
	if _, err := overTLS.Call(t.Context(), "n1", "large", nil); err == nil {
		t.Error("an answer beyond the bound was taken")
	}
	loop.Cut("n1", "n2", true)
	if _, err := loop.From("n2").Call(t.Context(), "n1", "status", nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("call over a cut link: %v", err)
	}
}

func TestOnlyTheRightPeerIsSpokenTo(t *testing.T) {
	nodes, others := newCA(t), newCA(t)
	id := nodes.identity(t, "n1")
	id.Verify = func(id string, _ *x509.Certificate) error {
		if id == "revoked" {
			return errors.New("it was removed")
		}
		return nil
	}
	l := serve(t, id)
	addr := l.Addr().String()
	foreign := others.identity(t, "n2")
	foreign.Roots = func() *x509.CertPool { return nodes.pool } // it trusts us, we do not trust it
	for name, k := range map[string]struct {
		id   *Identity
		peer string
	}{
		"certificate of another CA": {foreign, "n1"}, "peer is another node": {nodes.identity(t, "n2"), "n3"},
		"certificate without a name": {nodes.identity(t, ""), "n1"}, "refused by us": {nodes.identity(t, "revoked"), "n1"},
		"we do not trust its CA": {others.identity(t, "n2"), "n1"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if answer, err := client(t, k.id, addr).Call(ctx, k.peer, "status", nil); err == nil {
				t.Errorf("it answered %q", answer)
			}
			stream := &Stream{queue: newQueue(nil), id: k.id}
			conn, err := stream.Dial(PeerAddress(k.peer, addr), patience)
			if err != nil {
				return
			}
			defer conn.Close()
			// With TLS 1.3 the server's refusal arrives with the first read.
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			var timeout net.Error
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("the connection stands: %v", err)
			}
		})
	}
	if _, err := (&Stream{queue: newQueue(nil), id: id}).Dial("127.0.0.1:1", time.Second); err == nil || !strings.Contains(err.Error(), "no node id") {
		t.Errorf("dial without a name: %v", err)
	}
}

func TestUnreachableIsToldApart(t *testing.T) {
	nodes := newCA(t)
	held := idle(t, "127.0.0.1", serve(t, nodes.identity(t, "n1")).Addr().String())
	addr := held.LocalAddr().String() // nobody listens there, and nobody else is given it
	if _, err := client(t, nodes.identity(t, "n2"), addr).Call(t.Context(), "n1", "status", nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("call to nobody: %v", err)
	}
}

func TestStreamCarriesRaft(t *testing.T) {
	nodes := newCA(t)
	l := serve(t, nodes.identity(t, "n1"))
	other := &Stream{queue: newQueue(nil), id: nodes.identity(t, "n2")}
	conn, err := other.Dial(PeerAddress("n1", l.Addr().String()), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in, err := l.Stream().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(in, b); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
}

// idle opens a connection from a source and says nothing on it.
func idle(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// refused waits until the other end has closed the connection.
func refused(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("the connection stands: %v", err)
	}
}

// TestIdleConnectionsDoNotKeepNodesOut opens connections without a certificate, from one address and from many.
func TestIdleConnectionsDoNotKeepNodesOut(t *testing.T) {
	nodes := newCA(t)
	for name, sources := range map[string]int{"one source": 1, "many sources": 40} {
		t.Run(name, func(t *testing.T) {
			l := serveFor(t, nodes.identity(t, "n1"), time.Hour) // none of them goes by itself
			addr := l.Addr().String()
			var conns []net.Conn
			for i := range 2 * maxHandshakes {
				conns = append(conns, idle(t, fmt.Sprintf("127.0.1.%d", 1+i%sources), addr))
			}
			if sources == 1 {
				refused(t, conns[len(conns)-1]) // the first have their slots still
			} else {
				refused(t, conns[0])
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if answer, err := client(t, nodes.identity(t, "n2"), addr).Call(ctx, "n1", "status", nil); err != nil || string(answer) != "n2:status:" {
				t.Errorf("answer %q, %v", answer, err)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			for source, n := range l.sources {
				if n > maxFromSource {
					t.Errorf("%v has %d handshakes", source, n)
				}
			}
			if len(l.pending) > maxHandshakes {
				t.Errorf("%d handshakes", len(l.pending))
			}
		})
	}
}

func TestSources(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7:1": "192.0.2.7/32", "[::ffff:192.0.2.7]:1": "192.0.2.7/32", "[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64", "[fe80::1%lo]:1": "fe80::/64",
	} {
		tcp := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))
		if got := sourceOf(tcp); got.String() != want {
			t.Errorf("%s is of source %v, not %s", addr, got, want)
		}
	}
}
