package forward

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Protocols by ALPN.
const (
	protoRaft = "triward-raft/1"
	protoHTTP = "h2"
)

// Identity is who a node is to others and whom it trusts. The functions are asked for each connection, so
// renewed certificates and a second CA count at once; they may be called many times at once.
type Identity struct {
	// ID is the name of the node: the certificate carries it as a DNS name.
	ID string
	// Certificate returns the node's certificate, good for both ends of a connection, and its key.
	Certificate func() (*tls.Certificate, error)
	// Roots returns the CAs of nodes.
	Roots func() *x509.CertPool
	// Verify, when set, may refuse the node called id although its certificate is good. It is asked for each connection and
	// each call. A node that it refuses with ErrEnded is told so: it may connect for calls, and every call is answered with
	// the reason.
	Verify func(id string, cert *x509.Certificate) error
}

// ErrEnded says that a node is no member any more.
var ErrEnded = errors.New("it is no member of this cluster any more")

// Ended reports whether a node answered a request with the reason of ErrEnded, and returns that.
func Ended(resp *http.Response) (why string, ended bool) {
	if resp.Header.Get(codeHeader) != CodeEnded {
		return "", false
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what came of it says enough
	return strings.TrimSpace(string(body)), true
}

func (i *Identity) check() error {
	if i.ID == "" || i.Certificate == nil || i.Roots == nil {
		return errors.New("peer identity needs a node id, a certificate and the node CA")
	}
	return nil
}

// server returns the configuration of the accepting end.
func (i *Identity) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{protoRaft, protoHTTP},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{
				MinVersion:     tls.VersionTLS13,
				NextProtos:     []string{protoRaft, protoHTTP},
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.Certificate() },
				ClientAuth:     tls.RequireAndVerifyClientCert,
				ClientCAs:      i.Roots(),
				VerifyConnection: func(s tls.ConnectionState) error {
					err := i.verify(s, "")
					if errors.Is(err, ErrEnded) && s.NegotiatedProtocol == protoHTTP { // see Listener.Serve
						return nil
					}
					return err
				},
			}, nil
		},
	}
}

// client returns the configuration for dialling the node called peer.
func (i *Identity) client(peer, proto string) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		NextProtos:           []string{proto},
		ServerName:           peer,
		RootCAs:              i.Roots(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.Certificate() },
		VerifyConnection:     func(s tls.ConnectionState) error { return i.verify(s, peer) },
	}
}

func (i *Identity) verify(s tls.ConnectionState, want string) error {
	id := PeerID(&s)
	if want != "" && id != "" && id != want {
		return fmt.Errorf("peer is node %q, node %q was asked for", id, want)
	}
	err := i.judge(&s)
	for began := time.Now(); errors.Is(err, ErrUnready); err = i.judge(&s) {
		if s.NegotiatedProtocol == protoHTTP { // a node without a state must be able to ask for one
			return nil
		}
		if time.Since(began) > unreadyPatience { // who votes and who sends entries must be known
			break
		}
		retry := time.NewTimer(unreadyRetry)
		<-retry.C
	}
	return err
}

// judge asks Verify of the node at the other end, once.
func (i *Identity) judge(s *tls.ConnectionState) error {
	id := PeerID(s)
	if id == "" {
		return errors.New("certificate of the peer carries no node id")
	}
	if i.Verify == nil {
		return nil
	}
	if err := i.Verify(id, s.PeerCertificates[0]); err != nil {
		return fmt.Errorf("node %q is refused: %w", id, err)
	}
	return nil
}

// ErrUnready is what Verify returns while it cannot know who is a member. Raft waits a little and is refused then. For other
// requests connections are let through, by their certificates: those below RepairPath are served, calls are answered with
// CodeStarting, and the others wait until it is known.
var ErrUnready = errors.New("this node is only being opened")

const (
	unreadyPatience = 2 * time.Second // less than a handshake may take
	unreadyRetry    = 20 * time.Millisecond
)

// PeerID returns the id of the node at the other end: the first DNS name of its certificate; "" without one.
func PeerID(s *tls.ConnectionState) string {
	if s == nil || len(s.PeerCertificates) == 0 || len(s.PeerCertificates[0].DNSNames) == 0 {
		return ""
	}
	return s.PeerCertificates[0].DNSNames[0]
}

// userTimeout is how long sent bytes may stay unacknowledged before a connection is given up, so that a peer
// which never answers does not hold an install for ever.
const userTimeoutMillis = 60_000

func tuneConn(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // best effort: without it the system's own, longer, time-out holds
		_ = setUserTimeout("", "", fd)
	})
}

func setUserTimeout(_, _ string, fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, userTimeoutMillis)
}

func dialControl(network, address string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { _ = setUserTimeout(network, address, fd) })
}
