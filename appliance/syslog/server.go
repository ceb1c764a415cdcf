// Package syslog takes messages of RFC 5424 and RFC 3164 over UDP, TCP and TLS and brings them into the log.
//
// Senders of syslog hear of nothing and repeat nothing. So a message is written to a buffer on this node's disk, after
// its secrets were masked, and goes from there into the replicated log as the batches of an agent do: under an identity
// of its own (DESIGN D5), each exactly once, however often a batch has to be proposed. While the cluster takes nothing
// the buffer fills; when it is full, connections are not read from, and datagrams are dropped and counted. What was not
// in the buffer yet when a node dies is lost: up to flushEvery of messages and what the kernel holds.
//
// Nothing is ever taken for a repeat (D18). Streams are host and program, bounded in number. The package must not
// import the stores, the API or the gateway of agents.
package syslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/pipeline"
	"github.com/triward/triward/raftstate/command"
)

const (
	// flushEvery is how long a message waits at most before it is written to the disk.
	flushEvery = 100 * time.Millisecond
	// maxQueue and maxQueueBytes bound the datagrams between the socket and the buffer.
	maxQueue      = 16 << 10
	maxQueueBytes = 16 << 20
	socketBuffer  = 4 << 20 // asked of the kernel for datagrams; it may give less
	maxDatagram   = 64 << 10
	// closePatience is how long Close tries to write what was received.
	closePatience = 2 * time.Second
)

// Cluster is the replicated log as the server needs it.
type Cluster interface {
	// Propose returns when the commands are applied on the leader: their results and the index of their entry.
	Propose(ctx context.Context, cmds ...command.Command) (index uint64, results []command.Result, err error)
}

// Options are the parts and bounds of a Server. The sockets become the server's.
type Options struct {
	Packets *net.UDPConn   // nil: no datagrams
	Streams []net.Listener // of TCP and TLS
	Allow   []netip.Prefix // who may send; empty: everybody
	Zone    *time.Location // of times that name none

	Node        string // whose buffer it is
	Dir         string // of the buffer
	BufferBytes int64
	Cluster     Cluster
	Coder       *wire.Coder
	Redactor    *pipeline.Redactor
	Log         *slog.Logger
	Metrics     prometheus.Registerer
	// Fatal is told when the disk of the buffer fails: what it holds is only known after opening it again.
	Fatal func(error)
}

// Server receives messages. Make it with New, end it with Close.
type Server struct {
	opts    Options
	parser  *Parser
	spool   *spool.Spool
	batcher *lines.Batcher
	streams *streams
	met     metrics
	warn    *rate.Limiter

	queue      chan datagram
	queueBytes atomic.Int64

	ctx     context.Context // ends when nothing more is received
	cancel  context.CancelFunc
	receive sync.WaitGroup // who reads sockets
	queued  sync.WaitGroup // who empties the queue
	flushed sync.WaitGroup // who writes to the disk
	deliver sync.WaitGroup // who proposes
	stop    context.CancelFunc
	once    sync.Once
	err     error

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool // no connection is added any more
}

type datagram struct {
	text []byte
	from netip.Addr
}

// New opens the buffer and begins to receive and to deliver. When it fails the sockets stay the caller's.
func New(opts Options) (*Server, error) {
	s := &Server{
		opts: opts, parser: NewParser(opts.Zone), streams: newStreams(), warn: rate.NewLimiter(rate.Every(10*time.Second), 3),
		queue: make(chan datagram, maxQueue), conns: make(map[net.Conn]struct{}),
	}
	s.met = newMetrics(s)
	var damage *spool.Damage
	var err error
	s.spool, damage, err = spool.OpenOrReplace(opts.Dir, spool.Options{
		MaxBytes: opts.BufferBytes, Log: opts.Log,
		OnDrop: func(d spool.Drop) { s.lost("refused", int(d.Items), "batch given up: "+d.Reason) },
	}, time.Now())
	if err != nil {
		return nil, fmt.Errorf("open the buffer of syslog: %w", err)
	}
	if damage != nil {
		opts.Log.Error("the buffer of syslog was damaged and is set aside: messages in it are not delivered", "folder", damage.SetAside, "err", damage.Cause)
	}
	if opts.Metrics != nil {
		if err := s.met.register(opts.Metrics); err != nil {
			return nil, errors.Join(err, s.spool.Close())
		}
	}
	s.batcher = lines.NewBatcher(wire.LaneLogs, s.spool, opts.Coder, nil, opts.Log, nil)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	delivering, stop := context.WithCancel(context.Background())
	s.stop = stop
	d := &deliverer{server: s, agent: identityOf(opts.Node), made: s.spool.NextAtOpen(wire.LaneLogs)}
	s.deliver.Go(func() { d.run(delivering) })
	s.queued.Go(s.drain)
	s.flushed.Go(func() { s.flush(s.ctx) })
	if opts.Packets != nil {
		_ = opts.Packets.SetReadBuffer(socketBuffer) // the kernel gives what it may
		s.receive.Go(func() { s.readPackets(opts.Packets) })
	}
	for _, ln := range opts.Streams {
		s.receive.Go(func() { s.accept(ln) })
	}
	return s, nil
}

// Close stops receiving, writes what was received into the buffer and ends. What is in the buffer is delivered at the
// next start.
func (s *Server) Close() error {
	s.once.Do(func() {
		if s.opts.Packets != nil {
			s.err = errors.Join(s.err, s.opts.Packets.Close())
		}
		for _, ln := range s.opts.Streams {
			if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
				s.err = errors.Join(s.err, err)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), closePatience)
		defer cancel()
		stopWaiting := context.AfterFunc(ctx, s.cancel) // of a full buffer
		s.mu.Lock()
		s.closed = true
		for c := range s.conns {
			_ = c.Close() // it is gone either way
		}
		s.mu.Unlock()
		s.receive.Wait()
		close(s.queue)
		s.queued.Wait()
		s.cancel()
		s.flushed.Wait()
		stopWaiting()
		s.err = errors.Join(s.err, s.batcher.Close(ctx))
		s.stop()
		s.deliver.Wait()
		s.err = errors.Join(s.err, s.spool.Close())
	})
	return s.err
}

// flush writes what waits in memory, often, so that little is lost with the process.
func (s *Server) flush(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.batcher.Flush(ctx); err != nil && ctx.Err() == nil {
				s.failed(err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// failed ends the node when the buffer cannot be used any more.
func (s *Server) failed(err error) {
	if (s.spool.Failed() != nil || errors.Is(err, spool.ErrDamaged)) && s.opts.Fatal != nil {
		s.opts.Fatal(fmt.Errorf("the buffer of syslog: %w", err))
	}
}

// allowed reports whether messages are taken from an address.
func (s *Server) allowed(from netip.Addr) bool {
	if len(s.opts.Allow) == 0 {
		return true
	}
	return slices.ContainsFunc(s.opts.Allow, func(p netip.Prefix) bool { return p.Contains(from) })
}

// readPackets puts datagrams into the queue and never waits for it.
func (s *Server) readPackets(conn *net.UDPConn) {
	overflows := newOverflows(conn)
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := overflows.read(conn, buf)
		if lost := overflows.lost(); lost > 0 {
			s.lost("kernel", lost, "the socket was full")
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.opts.Log.Warn("receive datagrams of syslog", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		addr := from.Addr().Unmap().WithZone("") // networks have no zone
		if !s.allowed(addr) {
			s.lost("not_allowed", 1, "not among listen.syslog.allow: "+addr.String())
			continue
		}
		if s.queueBytes.Add(int64(n)+64) > maxQueueBytes {
			s.queueBytes.Add(-int64(n) - 64)
			s.lost("queue", 1, "the buffer is full or its disk is slow")
			continue
		}
		select {
		case s.queue <- datagram{append([]byte(nil), buf[:n]...), addr}:
		default:
			s.queueBytes.Add(-int64(n) - 64)
			s.lost("queue", 1, "the buffer is full or its disk is slow")
		}
	}
}

// drain takes datagrams from the queue until it is closed.
func (s *Server) drain() {
	for d := range s.queue {
		if err := s.take("udp", d.text, d.from); err != nil {
			s.lost("queue", 1, err.Error())
		}
		s.queueBytes.Add(-int64(len(d.text)) - 64)
	}
}

// take puts one message into the buffer, waiting while that is full. The error says that it was not taken.
func (s *Server) take(transport string, raw []byte, from netip.Addr) error {
	now := time.Now()
	m := s.parser.Parse(raw, now)
	if len(m.Text) == 0 && m.App == "" && len(m.Data) == 0 {
		return nil // an empty datagram, or nothing but a priority
	}
	s.met.messages.WithLabelValues(transport).Inc()
	if m.Malformed != "" {
		s.met.malformed.Inc()
	}
	sender := from.String()
	l := wire.LogLine{T: now.UnixNano(), Text: m.Text, Severity: lines.SyslogSeverity(m.Severity), Fields: m.fields(sender)}
	host, app := m.Host, m.App
	if host == "" {
		host = sender
	}
	stream, fields, err := s.streams.of(host, app, s.opts.Redactor)
	if err != nil {
		return fmt.Errorf("labels of a message: %w", err)
	}
	l.Fields = append(l.Fields, fields...)
	if m.HasTime {
		lines.SetTime(&l, m.Time, now, now)
	}
	if l.Severity == wire.SeverityUnknown {
		l.Severity = lines.Severity(l.Text)
	}
	s.opts.Redactor.Line(&l)
	l.Fields = tidy(l.Fields)
	return s.batcher.Add(s.ctx, stream, l, lines.Mark{})
}

// tidy makes fields sorted, without doubles and within the bounds of the wire.
func tidy(fs []wire.Label) []wire.Label {
	slices.SortStableFunc(fs, func(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) })
	kept := fs[:0]
	for _, f := range fs {
		f.Name, f.Value = lines.Valid(f.Name, wire.MaxLabelName), lines.Valid(f.Value, wire.MaxLabelValue)
		if f.Value == "" || len(kept) > 0 && kept[len(kept)-1].Name >= f.Name || len(kept) == wire.MaxFields-2 {
			continue
		}
		kept = append(kept, f)
	}
	return kept
}

// lost counts messages that are lost and says so in the node's log, not too often.
func (s *Server) lost(reason string, n int, detail string) {
	if n == 0 {
		return
	}
	s.met.dropped.WithLabelValues(reason).Add(float64(n))
	if s.warn.Allow() {
		s.opts.Log.Warn("messages of syslog are lost", "reason", reason, "detail", detail, "count", n)
	}
}
