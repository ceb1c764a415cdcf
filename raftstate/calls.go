package raftstate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// callGrace is how long a call may still be answered by a leader that is none any more as far as is known here.
const callGrace = 250 * time.Millisecond

// errLeaderLost ends calls to a node that is no longer the leader known here. Where the network swallows what is sent
// they would otherwise wait until the connection is given up.
var errLeaderLost = errors.New("the leader was lost meanwhile")

// leaderCalls are the calls to the leader that wait for its answer.
type leaderCalls struct {
	mu   sync.Mutex
	next uint64
	all  map[uint64]leaderCall

	last atomic.Pointer[string] // who led last as far as is known here
}

type leaderCall struct {
	leader string
	end    context.CancelCauseFunc
}

// begin returns the context of a call, which ends when the leader is lost, and what is to be called after it.
func (l *leaderCalls) begin(ctx context.Context, leader string) (context.Context, func()) {
	ctx, end := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make(map[uint64]leaderCall)
	}
	l.next++
	id := l.next
	l.all[id] = leaderCall{leader, end}
	return ctx, func() {
		l.mu.Lock()
		delete(l.all, id)
		l.mu.Unlock()
		end(nil)
	}
}

// endOthers ends the calls to every node but the leader.
func (l *leaderCalls) endOthers(leader string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.all {
		if c.leader != leader {
			c.end(errLeaderLost)
		}
	}
}

// callLeader calls a node that led a moment ago. The call ends as one whose outcome is not known when the node learns
// that another leads, or nobody.
func (n *Node) callLeader(ctx context.Context, leader, method string, body []byte) ([]byte, error) {
	ctx, done := n.calls.begin(ctx, leader)
	defer done()
	if id, _ := n.Leader(); id != leader { // it was lost before the call was noted, so nobody would end it
		return nil, errNotLeader
	}
	answer, err := n.caller.Call(ctx, leader, method, body)
	if err != nil && context.Cause(ctx) == errLeaderLost { //nolint:errorlint // set here
		err = errors.Join(errLeaderLost, err)
	}
	return answer, err
}

// watchLeader ends calls to nodes that lead no more.
func (n *Node) watchLeader(r *raft.Raft, changes <-chan raft.Observation) {
	grace := time.NewTimer(callGrace)
	defer grace.Stop()
	for {
		select {
		case <-changes:
			grace.Reset(callGrace)
		case <-grace.C:
			_, id := r.LeaderWithID()
			n.calls.endOthers(string(id))
			if last := string(id); last != "" {
				n.calls.last.Store(&last)
			}
		case <-n.closing:
			return
		}
	}
}

// leaderChanges tells that the leader known here is another one. What is not taken in time is the same news.
func leaderChanges(r *raft.Raft) <-chan raft.Observation {
	ch := make(chan raft.Observation, 1)
	r.RegisterObserver(raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	}))
	return ch
}
