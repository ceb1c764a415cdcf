// Package forward is how the nodes of a cluster reach one another: one TLS 1.3 listener whose connections are
// told apart by ALPN (raft's own protocol, or HTTP/2 for calls and for the appliance's peer pages), and calls
// from node to node by name.
//
// It promises: both ends of every connection hold a certificate of the node CA, and a dialled peer is the one
// that was asked for by name; a call that failed says whether the peer may have acted on it (ErrUnreachable: it
// has not). It knows the bytes of calls, not their meaning, and must not import other packages of Triward.
package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// MaxBody bounds the body of a call and of its answer, in bytes.
const MaxBody = 2 << 20

// ErrUnreachable says that a call did not reach the peer: it has not acted on it and will not.
var ErrUnreachable = errors.New("peer cannot be reached")

// Caller calls other nodes.
type Caller interface {
	// Call sends body to the method of the peer and returns its answer. Errors are ErrUnreachable, wrapped;
	// *RemoteError, which the peer answered with; or any other: whether the peer acted is not known then.
	Call(ctx context.Context, peer, method string, body []byte) ([]byte, error)
}

// Handler answers calls of other nodes. It may be called many times at once. body belongs to the handler.
type Handler interface {
	// ServeCall answers a call of the node from. An error that is a *RemoteError arrives as such; any other is
	// sent as code "internal".
	ServeCall(ctx context.Context, from, method string, body []byte) ([]byte, error)
}

// RemoteError is a failure that the peer itself answered with.
type RemoteError struct {
	Code    string // one word, for programs
	Message string
}

// Error implements error.
func (e *RemoteError) Error() string { return fmt.Sprintf("%s (%s)", e.Message, e.Code) }

// CodeInternal is the code of errors that a handler did not name.
const CodeInternal = "internal"

// CodeStarting is the code of the answer to a call while the node does not know yet who is a member: it does not lead.
const CodeStarting = "not_leader"

// RepairPath begins the paths that are served also then, so that nodes that have no state yet help one another to one.
const RepairPath = "/raftstate/repair/"

// CodeEnded is the code of every answer to a node that is no member any more.
const CodeEnded = "ended"

// Loopback connects nodes of one process without a network, for tests. The zero value is ready.
type Loopback struct {
	mu    sync.Mutex
	nodes map[string]Handler
	cut   map[[2]string]bool
	quiet bool
}

// Attach makes h answer the calls to id; nil takes it away.
func (l *Loopback) Attach(id string, h Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nodes == nil {
		l.nodes = make(map[string]Handler)
	}
	if h == nil {
		delete(l.nodes, id)
		return
	}
	l.nodes[id] = h
}

// Cut makes a and b unreachable for one another until cut is false.
func (l *Loopback) Cut(a, b string, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut == nil {
		l.cut = make(map[[2]string]bool)
	}
	l.cut[[2]string{a, b}], l.cut[[2]string{b, a}] = cut, cut
}

// Swallow makes calls between nodes that are cut off from one another wait for the end of their context, as in a network
// that drops what is sent, instead of failing at once.
func (l *Loopback) Swallow(quiet bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiet = quiet
}

// From returns the caller that the node id uses.
func (l *Loopback) From(id string) Caller { return loopCaller{l, id} }

type loopCaller struct {
	l    *Loopback
	from string
}

// Call implements Caller.
func (c loopCaller) Call(ctx context.Context, peer, method string, body []byte) ([]byte, error) {
	c.l.mu.Lock()
	h, cut, quiet := c.l.nodes[peer], c.l.cut[[2]string{c.from, peer}], c.l.quiet
	c.l.mu.Unlock()
	if cut && quiet {
		<-ctx.Done()
		return nil, fmt.Errorf("call %s of node %s: %w", method, peer, ctx.Err())
	}
	if h == nil || cut {
		return nil, fmt.Errorf("call %s of node %s: %w", method, peer, ErrUnreachable)
	}
	answer, err := h.ServeCall(ctx, c.from, method, append([]byte(nil), body...))
	return answer, asRemote(err)
}

func asRemote(err error) error {
	if err == nil {
		return nil
	}
	var remote *RemoteError
	if errors.As(err, &remote) {
		return remote
	}
	return &RemoteError{Code: CodeInternal, Message: err.Error()}
}
