package simulation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/forward"
)

var (
	errDead    = errors.New("simulated process is dead")
	errReset   = errors.New("connection was reset")
	errTimeout = errors.New("no answer in time")
)

const (
	rpcTimeout  = 10 * time.Second // as on the real transport
	dialTimeout = 3 * time.Second
)

// network carries what nodes send one another. A link is one direction between two of them.
type network struct {
	mu        sync.Mutex
	processes map[string]*process // by id, those that run
	links     map[[2]string]link
	changed   chan struct{} // closed and replaced whenever a link changes
	installs  int           // bytes after which the stream of an image breaks; 0: none does
	cuts      int           // streams broken
}

// link is how one direction is. The zero value is a good one.
type link struct {
	cut   bool
	loss  float64
	twice float64       // requests that arrive a second time, later
	delay time.Duration // at most
}

func newNetwork() *network {
	return &network{processes: make(map[string]*process), links: make(map[[2]string]link), changed: make(chan struct{})}
}

// set changes links.
func (n *network) set(change func(l func(from, to string, l link))) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(func(from, to string, l link) { n.links[[2]string{from, to}] = l })
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *network) attach(p *process, up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case up:
		n.processes[p.id] = p
	case n.processes[p.id] == p:
		delete(n.processes, p.id)
	}
}

func (n *network) process(id string) *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.processes[id]
}

func (n *network) look(from, to string) (link, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[[2]string{from, to}], n.changed
}

// pass takes as long as a message from one node to another does. What meets a cut link waits for it, as TCP does, until
// ctx ends.
func (n *network) pass(ctx context.Context, from, to string) error {
	for {
		l, changed := n.look(from, to)
		if !l.cut {
			if rand.Float64() < l.loss { // it is sent again, or the connection breaks
				if rand.IntN(2) == 0 {
					return errReset
				}
				if err := wait(ctx, 200*time.Millisecond+rand.N(time.Second)); err != nil {
					return err
				}
			}
			return wait(ctx, 200*time.Microsecond+rand.N(max(time.Millisecond, l.delay)))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errTimeout
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errTimeout
	}
}

// endpoint is the transport of one process.
type endpoint struct {
	p     *process
	net   *network
	rpcs  chan raft.RPC
	mu    sync.Mutex
	beats func(raft.RPC)
}

var (
	_ raft.Transport   = (*endpoint)(nil)
	_ raft.WithPreVote = (*endpoint)(nil)
)

// Consumer implements raft.Transport.
func (e *endpoint) Consumer() <-chan raft.RPC { return e.rpcs }

// LocalAddr implements raft.Transport.
func (e *endpoint) LocalAddr() raft.ServerAddress { return raft.ServerAddress(e.p.id) }

// EncodePeer implements raft.Transport.
func (e *endpoint) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

// DecodePeer implements raft.Transport.
func (e *endpoint) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (e *endpoint) SetHeartbeatHandler(cb func(raft.RPC)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.beats = cb
}

// heartbeat reports whether the request goes past raft's own queue, as on the real transport.
func heartbeat(command any) bool {
	r, ok := command.(*raft.AppendEntriesRequest)
	return ok && r.Term != 0 && r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

// take gives a request to raft.
func (e *endpoint) take(ctx context.Context, rpc raft.RPC) error {
	if !e.p.hold() {
		return errReset
	}
	e.mu.Lock()
	beats := e.beats
	e.mu.Unlock()
	if beats != nil && heartbeat(rpc.Command) {
		beats(rpc)
		return nil
	}
	select {
	case e.rpcs <- rpc:
		return nil
	case <-e.p.dead:
		return errReset
	case <-ctx.Done():
		return errTimeout
	}
}

// deliver brings a request to its target and returns where its answer comes.
func (e *endpoint) deliver(ctx context.Context, to string, command any, body io.Reader) (*process, chan raft.RPCResponse, error) {
	if !e.p.hold() {
		return nil, nil, errDead
	}
	l, _ := e.net.look(e.p.id, to)
	if err := e.net.pass(ctx, e.p.id, to); err != nil {
		return nil, nil, err
	}
	target := e.net.process(to)
	if target == nil {
		return nil, nil, errReset
	}
	said := make(chan raft.RPCResponse, 1)
	if err := target.end.take(ctx, raft.RPC{Command: command, Reader: body, RespChan: said}); err != nil {
		return nil, nil, err
	}
	if body == nil && rand.Float64() < l.twice {
		go e.again(to, command)
	}
	return target, said, nil
}

// again brings a request a second time, and nobody waits for the answer.
func (e *endpoint) again(to string, command any) {
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	if !e.p.sleep(rand.N(2*time.Second)) || e.net.pass(ctx, e.p.id, to) != nil {
		return
	}
	if target := e.net.process(to); target != nil {
		_ = target.end.take(ctx, raft.RPC{Command: command, RespChan: make(chan raft.RPCResponse, 1)})
	}
}

// answered waits for the answer of target and its way back.
func (e *endpoint) answered(ctx context.Context, target *process, said chan raft.RPCResponse) (any, error) {
	select {
	case r := <-said:
		if !target.hold() {
			return nil, errReset
		}
		if err := e.net.pass(ctx, target.id, e.p.id); err != nil {
			return nil, err
		}
		if !e.p.hold() {
			return nil, errDead
		}
		return r.Response, r.Error
	case <-target.dead:
		return nil, errReset
	case <-e.p.dead:
		return nil, errDead
	case <-ctx.Done():
		return nil, errTimeout
	}
}

func request[T any](e *endpoint, to raft.ServerAddress, command any, body io.Reader, into *T) error {
	limit := rpcTimeout
	if body != nil {
		limit = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	target, said, err := e.deliver(ctx, string(to), command, body)
	if err != nil {
		return err
	}
	answer, err := e.answered(ctx, target, said)
	if err != nil {
		return err
	}
	out, ok := answer.(*T)
	if !ok {
		return fmt.Errorf("answer is a %T", answer)
	}
	*into = *out
	return nil
}

// AppendEntries implements raft.Transport.
func (e *endpoint) AppendEntries(_ raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return request(e, to, args, nil, resp)
}

// RequestVote implements raft.Transport.
func (e *endpoint) RequestVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return request(e, to, args, nil, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (e *endpoint) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return request(e, to, args, nil, resp)
}

// TimeoutNow implements raft.Transport.
func (e *endpoint) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return request(e, to, args, nil, resp)
}

// InstallSnapshot implements raft.Transport.
func (e *endpoint) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	e.net.mu.Lock()
	left := e.net.installs
	e.net.mu.Unlock()
	return request(e, to, args, &stream{Reader: data, e: e, to: string(to), left: left}, resp)
}

// stream is the body of an install on its way.
type stream struct {
	io.Reader
	e    *endpoint
	to   string
	left int // bytes until it breaks; 0: it does not
	read int
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	p = p[:min(len(p), 16<<10)]
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	if err := s.e.net.pass(ctx, s.e.p.id, s.to); err != nil {
		return 0, err
	}
	if !s.e.p.hold() {
		return 0, errReset
	}
	if s.left > 0 && s.read >= s.left {
		s.e.net.mu.Lock()
		s.e.net.cuts++
		s.e.net.mu.Unlock()
		return 0, errReset
	}
	n, err := s.Reader.Read(p)
	s.read += n
	return n, err
}

// pipeline sends entries without waiting for each answer, in order.
type pipeline struct {
	e     *endpoint
	to    string
	queue chan *sent
	asked chan *sent
	done  chan raft.AppendFuture
	ctx   context.Context
	close context.CancelFunc
}

// sent is a request of a pipeline. It implements raft.AppendFuture.
type sent struct {
	start  time.Time
	args   *raft.AppendEntriesRequest
	resp   *raft.AppendEntriesResponse
	target *process
	said   chan raft.RPCResponse
	err    error
	ready  chan struct{}
}

// Error implements raft.Future.
func (s *sent) Error() error { <-s.ready; return s.err }

// Start implements raft.AppendFuture.
func (s *sent) Start() time.Time { return s.start }

// Request implements raft.AppendFuture.
func (s *sent) Request() *raft.AppendEntriesRequest { return s.args }

// Response implements raft.AppendFuture.
func (s *sent) Response() *raft.AppendEntriesResponse { return s.resp }

// AppendEntriesPipeline implements raft.Transport.
func (e *endpoint) AppendEntriesPipeline(_ raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	p := &pipeline{e: e, to: string(to), queue: make(chan *sent, 2), asked: make(chan *sent, 2), done: make(chan raft.AppendFuture, 4)}
	p.ctx, p.close = context.WithCancel(context.Background())
	go p.send()
	go p.receive()
	return p, nil
}

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	s := &sent{start: time.Now(), args: args, resp: resp, ready: make(chan struct{})}
	select {
	case p.queue <- s:
		return s, nil
	case <-p.ctx.Done():
		return nil, raft.ErrPipelineShutdown
	case <-p.e.p.dead:
		return nil, errDead
	}
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.close()
	return nil
}

func (p *pipeline) send() {
	for {
		select {
		case s := <-p.queue:
			ctx, cancel := context.WithTimeout(p.ctx, rpcTimeout)
			s.target, s.said, s.err = p.e.deliver(ctx, p.to, s.args, nil)
			cancel()
			select {
			case p.asked <- s:
			case <-p.ctx.Done():
				return
			}
		case <-p.ctx.Done():
			return
		}
	}
}

func (p *pipeline) receive() {
	for {
		select {
		case s := <-p.asked:
			if s.err == nil {
				ctx, cancel := context.WithTimeout(p.ctx, rpcTimeout)
				var answer any
				answer, s.err = p.e.answered(ctx, s.target, s.said)
				cancel()
				if out, ok := answer.(*raft.AppendEntriesResponse); ok && s.err == nil {
					*s.resp = *out
				} else if s.err == nil {
					s.err = fmt.Errorf("answer is a %T", answer)
				}
			}
			close(s.ready)
			select {
			case p.done <- s:
			case <-p.ctx.Done():
				return
			}
		case <-p.ctx.Done():
			return
		}
	}
}

// caller makes the calls of one process. It implements forward.Caller.
type caller struct{ e *endpoint }

// Call implements forward.Caller.
func (c caller) Call(ctx context.Context, peer, method string, body []byte) ([]byte, error) {
	e := c.e
	if !e.p.hold() {
		return nil, errDead
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if l, _ := e.net.look(e.p.id, peer); l.cut && rand.IntN(2) == 0 { // no connection is open
		_ = wait(ctx, rand.N(dialTimeout))
		return nil, fmt.Errorf("dial %s: %w", peer, forward.ErrUnreachable)
	}
	if err := e.net.pass(ctx, e.p.id, peer); err != nil {
		return nil, err
	}
	target := e.net.process(peer)
	if target == nil || !target.hold() {
		return nil, fmt.Errorf("dial %s: %w", peer, forward.ErrUnreachable)
	}
	h := target.handler.Load()
	if h == nil {
		return nil, fmt.Errorf("dial %s: %w", peer, forward.ErrUnreachable)
	}
	type answer struct {
		body []byte
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		b, err := (*h).ServeCall(ctx, e.p.id, method, append([]byte(nil), body...))
		done <- answer{b, remote(err)}
	}()
	select {
	case a := <-done:
		if !target.hold() {
			return nil, errReset
		}
		if err := e.net.pass(ctx, peer, e.p.id); err != nil {
			return nil, err
		}
		if !e.p.hold() {
			return nil, errDead
		}
		return a.body, a.err
	case <-target.dead:
		return nil, errReset
	case <-e.p.dead:
		return nil, errDead
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// remote is the error of a handler as it arrives.
func remote(err error) error {
	var r *forward.RemoteError
	if err == nil || errors.As(err, &r) {
		return err
	}
	return &forward.RemoteError{Code: forward.CodeInternal, Message: err.Error()}
}
