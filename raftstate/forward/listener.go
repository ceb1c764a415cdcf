package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Who has no certificate yet may hold this much: connections in their handshake, those of one source among them, and
// for how long. Beyond the first the oldest is closed, since a node is through in milliseconds; beyond the second the
// new one is.
const (
	maxHandshakes    = 128
	maxFromSource    = 16
	handshakeTimeout = 3 * time.Second
)

// Listener accepts the connections of other nodes on one port.
type Listener struct {
	id     *Identity
	log    *slog.Logger
	tcp    net.Listener
	tls    *tls.Config
	within time.Duration // who has not shown its certificate by then is cut off
	stream *Stream
	http   *queue
	server *http.Server

	mu      sync.Mutex
	begun   uint64
	pending map[net.Conn]handshake
	sources map[netip.Prefix]int // of those pending
	closed  bool
	wg      sync.WaitGroup
}

// handshake is a connection of which it is not known yet who is at the other end.
type handshake struct {
	number uint64 // in the order of their beginning
	source netip.Prefix
}

// Listen opens the peer port. Connections wait until Stream is accepted from and Serve was called.
func Listen(addr string, id *Identity, log *slog.Logger) (*Listener, error) {
	return listen(addr, id, log, handshakeTimeout)
}

func listen(addr string, id *Identity, log *slog.Logger, within time.Duration) (*Listener, error) {
	if err := id.check(); err != nil {
		return nil, err
	}
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	l := &Listener{
		id: id, log: log, tcp: tcp, tls: id.server(), within: within,
		http:    newQueue(tcp.Addr()),
		pending: make(map[net.Conn]handshake),
		sources: make(map[netip.Prefix]int),
	}
	l.stream = &Stream{queue: newQueue(tcp.Addr()), id: id}
	l.wg.Add(1)
	go l.accept()
	return l, nil
}

// Addr returns the address of the listener.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Stream returns the raft side of the listener.
func (l *Listener) Stream() *Stream { return l.stream }

// Serve answers the calls of other nodes with h and everything else under other paths with pages (nil: 404).
func (l *Listener) Serve(h Handler, pages http.Handler) {
	mux := http.NewServeMux()
	mux.Handle("POST "+callPath+"{method}", callServer{h})
	if pages != nil {
		mux.Handle("/", pages)
	}
	l.server = &http.Server{
		Handler:           l.members(mux),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 512, SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		if err := l.server.Serve(l.http); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			l.log.Error("peer server ended", "err", err)
		}
	}()
}

// members serves those who are members now: a connection may be older than the end of a membership.
func (l *Listener) members(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			http.Error(w, "client certificate of a node is needed", http.StatusForbidden)
			return
		}
		err := l.id.judge(r.TLS)
		if errors.Is(err, ErrUnready) {
			switch {
			case strings.HasPrefix(r.URL.Path, RepairPath):
				err = nil
			case strings.HasPrefix(r.URL.Path, callPath):
				w.Header().Set(codeHeader, CodeStarting)
				http.Error(w, ErrUnready.Error(), http.StatusConflict)
				return
			default:
				err = l.known(r)
			}
		}
		if err != nil {
			said := err.Error()
			if errors.Is(err, ErrEnded) {
				w.Header().Set(codeHeader, CodeEnded)
				if _, why, ok := strings.Cut(said, ErrEnded.Error()+": "); ok {
					said = why
				}
			}
			http.Error(w, said, http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// known waits until it can be known whether the node that asks is a member.
func (l *Listener) known(r *http.Request) error {
	retry := time.NewTicker(unreadyRetry)
	defer retry.Stop()
	for {
		if err := l.id.judge(r.TLS); !errors.Is(err, ErrUnready) {
			return err
		}
		select {
		case <-retry.C:
		case <-r.Context().Done():
			return ErrUnready
		}
	}
}

func (l *Listener) accept() {
	defer l.wg.Done()
	for {
		conn, err := l.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, or the connection is gone already
			l.log.Warn("accept peer connection", "err", err)
			timer := time.NewTimer(50 * time.Millisecond)
			<-timer.C
			continue
		}
		if !l.begin(conn) {
			_ = conn.Close()
			continue
		}
		go l.handshake(conn)
	}
}

// begin notes that the handshake of a connection begins; false when there are too many.
func (l *Listener) begin(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	source := sourceOf(conn.RemoteAddr())
	if l.closed || l.sources[source] >= maxFromSource {
		return false
	}
	if len(l.pending) >= maxHandshakes {
		var oldest net.Conn
		for c, h := range l.pending {
			if oldest == nil || h.number < l.pending[oldest].number {
				oldest = c
			}
		}
		l.endLocked(oldest)
		_ = oldest.Close()
	}
	l.begun++
	l.pending[conn] = handshake{l.begun, source}
	l.sources[source]++
	l.wg.Add(1)
	return true
}

// endLocked notes that the handshake of a connection is over, once.
func (l *Listener) endLocked(conn net.Conn) {
	h, ok := l.pending[conn]
	if !ok {
		return
	}
	delete(l.pending, conn)
	if l.sources[h.source]--; l.sources[h.source] == 0 {
		delete(l.sources, h.source)
	}
}

// sourceOf is what counts as one source: an address, or the network that one subscriber of IPv6 has.
func sourceOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	source, _ := ip.Prefix(bits) // fails for no address of an open connection
	return source
}

func (l *Listener) handshake(raw net.Conn) {
	defer l.wg.Done()
	tuneConn(raw)
	conn := tls.Server(raw, l.tls)
	ctx, cancel := context.WithTimeout(context.Background(), l.within)
	err := conn.HandshakeContext(ctx)
	cancel()
	l.mu.Lock()
	l.endLocked(raw)
	l.mu.Unlock()
	if err != nil {
		l.log.Warn("peer connection refused", "from", raw.RemoteAddr().String(), "err", err)
		_ = raw.Close()
		return
	}
	target := l.http
	if conn.ConnectionState().NegotiatedProtocol == protoRaft {
		target = l.stream.queue
	}
	if !target.put(conn) {
		_ = conn.Close()
	}
}

// Close stops listening, ends the calls being served and the connections that nobody accepted. It waits for its
// goroutines. Connections that raft accepted are raft's to close.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		l.wg.Wait()
		return nil
	}
	l.closed = true
	for c := range l.pending {
		_ = c.Close()
	}
	l.mu.Unlock()
	err := l.tcp.Close()
	_ = l.stream.Close()
	_ = l.http.Close()
	if l.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if l.server.Shutdown(ctx) != nil {
			_ = l.server.Close()
		}
		cancel()
	}
	l.wg.Wait()
	return err
}

// queue is a net.Listener that is handed its connections.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn, maxHandshakes), done: make(chan struct{})}
}

func (q *queue) put(c net.Conn) bool {
	select {
	case <-q.done:
		return false
	default:
	}
	select {
	case q.conns <- c:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case <-q.done:
		return nil, net.ErrClosed
	case c := <-q.conns:
		return c, nil
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.once.Do(func() {
		close(q.done)
		for {
			select {
			case c := <-q.conns:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.addr }

// Stream is the raft.StreamLayer of the listener.
type Stream struct {
	*queue
	id *Identity
}

// PeerAddress joins a node's id and its host:port into the form that Dial wants.
func PeerAddress(id, addr string) raft.ServerAddress { return raft.ServerAddress(id + "@" + addr) }

// Dial implements raft.StreamLayer. The address must be one of PeerAddress: whom to expect is part of it.
func (s *Stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for i := 0; i < len(address); i++ {
		if address[i] == '@' {
			return dial(ctx, s.id, string(address[:i]), string(address[i+1:]), protoRaft)
		}
	}
	return nil, fmt.Errorf("dial peer %s: no node id is known for this address", address)
}

func dial(ctx context.Context, id *Identity, peer, addr, proto string) (net.Conn, error) {
	d := net.Dialer{Control: dialControl, KeepAlive: 15 * time.Second}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial node %s: %w", peer, err)
	}
	conn := tls.Client(raw, id.client(peer, proto))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("dial node %s at %s: %w", peer, addr, err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != proto {
		_ = conn.Close()
		return nil, fmt.Errorf("dial node %s at %s: it speaks %q, not %q", peer, addr, got, proto)
	}
	return conn, nil
}
