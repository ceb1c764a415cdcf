package raftstate

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
)

// Calls between nodes.
const (
	callPropose   = "propose"    // entry without a stamp; answer: index and results
	callReadIndex = "read_index" // nothing; answer: index
	callStatus    = "status"     // nothing; answer: Status as JSON
	callMember    = "member"     // memberChange as JSON; answer: index
	callEntries   = "entries"    // from, count and bytes as uvarints; answer: entries (peerqueue.go)
)

// codes are the errors that keep their meaning between nodes.
var codes = []struct {
	code string
	err  error
}{
	{"not_leader", errNotLeader},
	{"busy", ErrBusy},
	{"disk_full", ErrDiskFull},
	{"making_room", ErrMakingRoom},
	{"too_large", ErrTooLarge},
	{"unknown", ErrUnknown},
	{"no_leader", ErrNoLeader},
	{"quorum", ErrQuorum},
	{"changing", ErrChanging},
	{"no_such_member", ErrNoMember},
	{"unsupported", ErrUnsupported},
	{"clocks", ErrClocks},
	{"stopped", ErrStopped},
	{"gone", ErrGone},
}

func toRemote(err error) error {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return &forward.RemoteError{Code: c.code, Message: err.Error()}
		}
	}
	return err
}

// fromRemote turns the failure of a call to the leader into one of our errors.
func fromRemote(peer string, err error) error {
	if errors.Is(err, forward.ErrUnreachable) || errors.Is(err, errNotLeader) {
		return fmt.Errorf("leader %s: %w: %w", peer, errNotLeader, err)
	}
	var remote *forward.RemoteError
	if errors.As(err, &remote) {
		for _, c := range codes {
			if c.code == remote.Code {
				if c.err == ErrStopped { //nolint:errorlint // the table's own value
					return fmt.Errorf("leader %s: %w", peer, ErrUnknown)
				}
				if why, more := strings.CutPrefix(remote.Message, c.err.Error()+": "); more { // the reason of a refusal
					return fmt.Errorf("leader %s: %w: %s", peer, c.err, why)
				}
				return fmt.Errorf("leader %s: %w", peer, c.err)
			}
		}
		return fmt.Errorf("leader %s: %w", peer, remote)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// proposeAt hands a proposal to the leader.
func (n *Node) proposeAt(ctx context.Context, leader string, cmds []command.Command, size int) (outcome, error) {
	e := command.Entry{Commands: cmds}
	answer, err := n.callLeader(ctx, leader, callPropose, e.Append(make([]byte, 0, size+command.Overhead)))
	if err != nil {
		return outcome{}, fromRemote(leader, err)
	}
	if len(answer) < 8 {
		return outcome{}, fmt.Errorf("leader %s: answer of %d bytes: %w", leader, len(answer), ErrUnknown)
	}
	results, err := command.DecodeResults(answer[8:])
	if err != nil || len(results) != len(cmds) {
		return outcome{}, fmt.Errorf("leader %s: %d results for %d commands: %w: %w",
			leader, len(results), len(cmds), ErrUnknown, err)
	}
	return outcome{index: binary.LittleEndian.Uint64(answer), results: results}, nil
}

// ServeCall implements forward.Handler.
func (n *Node) ServeCall(ctx context.Context, from, method string, body []byte) ([]byte, error) {
	if !n.started.Load() {
		return nil, toRemote(errNotLeader)
	}
	var answer []byte
	var err error
	switch method {
	case callPropose:
		answer, err = n.servePropose(ctx, body)
	case callReadIndex:
		var index uint64
		if index, err = n.leaderIndex(ctx); err == nil {
			answer = binary.LittleEndian.AppendUint64(nil, index)
		}
	case callStatus:
		answer, err = json.Marshal(n.Status())
	case callMember:
		answer, err = n.serveMember(ctx, body)
	case callEntries:
		answer, err = n.serveEntries(body)
	default:
		why := fmt.Sprintf("node %s asked for %q, which this version does not know", from, method)
		err = &forward.RemoteError{Code: "unknown_method", Message: why}
	}
	return answer, toRemote(err)
}

func (n *Node) servePropose(ctx context.Context, body []byte) ([]byte, error) {
	e, err := command.Decode(body)
	if err != nil {
		return nil, err
	}
	if _, self := n.Leader(); !self {
		return nil, errNotLeader
	}
	size := 0
	for i := range e.Commands {
		size += e.Commands[i].Size()
	}
	if len(e.Commands) == 0 || size+command.Overhead > command.MaxEntry {
		return nil, ErrTooLarge
	}
	if !n.budget.take(int64(size)) {
		n.metrics.busy.Inc()
		return nil, ErrBusy
	}
	o, err := n.proposeHere(ctx, e.Commands)
	if err != nil {
		return nil, err
	}
	return command.AppendResults(binary.LittleEndian.AppendUint64(nil, o.index), o.results), nil
}

// ReadIndex returns an index that covers everything acknowledged before the call, anywhere in the cluster: a read
// after WaitApplied(index) is linearizable. Errors: ErrNoLeader, or that of ctx.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	limit := time.NewTimer(leaderWait)
	defer limit.Stop()
	why := errors.New("none is known here")
	for {
		id, self := n.Leader()
		var index uint64
		var err error
		switch {
		case self:
			index, err = n.leaderIndex(ctx)
		case id != "":
			index, err = n.indexFrom(ctx, id)
		default:
			err = why
		}
		if err == nil {
			return index, nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("read index: %w", ctx.Err())
		}
		why = err
		if err := n.nextLeader(ctx, limit.C); err != nil {
			return 0, fmt.Errorf("read index: %w: %w", err, why)
		}
	}
}

func (n *Node) indexFrom(ctx context.Context, leader string) (uint64, error) {
	answer, err := n.callLeader(ctx, leader, callReadIndex, nil)
	if err != nil {
		return 0, fromRemote(leader, err)
	}
	if len(answer) != 8 {
		return 0, fmt.Errorf("leader %s: answer of %d bytes", leader, len(answer))
	}
	return binary.LittleEndian.Uint64(answer), nil
}

// leaderIndex is ReadIndex on the leader. Its commit index covers all that was acknowledged, and all that others have
// applied and shown, only once an entry of its own term is applied, and only if it is still the leader, in the same
// term, after looking (Ongaro, Raft, 6.4). What it has applied itself is less while its Apply waits for room.
func (n *Node) leaderIndex(ctx context.Context) (uint64, error) {
	r := n.raft.Load()
	term := r.CurrentTerm()
	for n.ready.Load() != term {
		if r.State() != raft.Leader || r.CurrentTerm() != term {
			return 0, errNotLeader
		}
		retry := time.NewTimer(leaderRetry)
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			return 0, ctx.Err()
		case <-n.closing:
			retry.Stop()
			return 0, ErrStopped
		}
	}
	index := n.committed(r)
	asked := n.confirms.send()
	if err := n.verify(ctx, r); err != nil { // it also makes raft ask them at once
		return 0, err
	}
	if err := n.confirmed(ctx, r, term, asked); err != nil {
		return 0, err
	}
	return index, nil
}

// committed returns the last committed entry that Apply gets to see; of raft's own it is never told.
func (n *Node) committed(r *raft.Raft) uint64 {
	var l raft.Log
	for i := r.CommitIndex(); ; i-- {
		if i <= n.fsm.applied.Load() || n.store.GetLog(i, &l) != nil || l.Type == raft.LogCommand || l.Type == raft.LogConfiguration {
			return i
		}
	}
}

// verify asks the others whether this node still leads. The answer may take as long as a disk hangs, and does not come
// at all when raft ends first: Close waits for what was asked before (settle), and nothing is asked behind that.
func (n *Node) verify(ctx context.Context, r *raft.Raft) error {
	if !n.questions.begin() {
		return ErrStopped
	}
	said := make(chan error, 1)
	go func() {
		defer n.questions.wg.Done()
		said <- r.VerifyLeader().Error()
	}()
	select {
	case err := <-said:
		if err != nil {
			return errNotLeader
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.closing:
		return ErrStopped
	}
}

// questions counts what raft was asked and has not answered.
type questions struct {
	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

// begin reports whether raft may be asked; if so, wg.Done must follow the answer.
func (q *questions) begin() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.ended {
		q.wg.Add(1)
	}
	return !q.ended
}

// end lets no more be asked.
func (q *questions) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
}

// WaitApplied waits until this node's state and stores hold the entry index, and its observers, from which views are made,
// were told of it.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	return n.fsm.waiters.wait(ctx, index, n.closing)
}

// Barrier waits until this node has applied everything acknowledged before the call.
func (n *Node) Barrier(ctx context.Context) error {
	index, err := n.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return n.WaitApplied(ctx, index)
}

// PeerStatus asks another member for its status.
func (n *Node) PeerStatus(ctx context.Context, id string) (Status, error) {
	var st Status
	answer, err := n.caller.Call(ctx, id, callStatus, nil)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(answer, &st); err != nil {
		return st, fmt.Errorf("status of node %s: %w", id, err)
	}
	return st, nil
}

// provider makes raft dial members by name, so that the certificate of the other end is held against it.
type provider struct{ n *Node }

// ServerAddr implements raft.ServerAddressProvider.
func (p provider) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	addr, err := p.n.address(string(id))
	if err != nil {
		return "", err
	}
	return forward.PeerAddress(string(id), addr), nil
}

type peerAddr string

// Network implements net.Addr.
func (peerAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a peerAddr) String() string { return string(a) }
