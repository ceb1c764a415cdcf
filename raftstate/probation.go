package raftstate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// A node whose data is gone has forgotten what it acknowledged and whom it voted for. Raft takes such a node for one of
// a cluster that is only beginning and lets it vote for anybody, also for one that lacks what this node and the lost
// leader alone held. So a node that comes up with nothing, and was not told that its cluster is new, is on probation: it
// takes the log as any other, but neither votes nor stands for election until it holds all that was committed when it
// came back.

// probationKey in raft's own storage holds probationOn while the node is on probation.
const (
	probationKey = "triward.probation"
	probationOn  = "on"
)

var errProbation = errors.New("this node lost its data and has not caught up yet: it neither votes nor leads")

// beginProbation is called once, by a node that holds nothing.
func (n *Node) beginProbation() error {
	if len(n.cfg.Bootstrap) > 0 || n.cfg.Founding {
		return nil
	}
	if err := n.store.Set([]byte(probationKey), []byte(probationOn)); err != nil {
		return brokenDisk("log", err)
	}
	return nil
}

// cautious puts a node behind a transport that looks at what it is asked, and keeps it from elections on probation.
func (n *Node) cautious(trans raft.Transport) (raft.Transport, error) {
	held, err := n.store.Get([]byte(probationKey))
	if err != nil {
		return nil, refused("log", err)
	}
	if string(held) == probationOn {
		n.probation.Store(true)
		n.log.Info("this node holds nothing of its cluster: it has no vote until it has caught up")
	}
	t := &cautiousTransport{Transport: trans, n: n, rpcs: make(chan raft.RPC)}
	n.wg.Go(t.pass)
	return t, nil
}

// caughtUp ends the probation when req, which was taken, shows that the node holds everything committed before: a leader
// that has committed an entry of its own term holds all that was ever committed, up to its commit index; so does whoever
// holds that entry.
func (n *Node) caughtUp(req *raft.AppendEntriesRequest) {
	var l raft.Log
	if mark := n.mark.Load(); mark.Index == req.LeaderCommitIndex {
		l.Term = mark.Term
	} else if n.store.GetLog(req.LeaderCommitIndex, &l) != nil {
		return
	}
	if l.Term != req.Term || !n.beyondAcknowledged(req) {
		return
	}
	if err := n.store.Set([]byte(probationKey), nil); err != nil {
		n.fatal(brokenDisk("log", err))
		return
	}
	n.probation.Store(false)
	if r := n.pending.Swap(nil); r != nil {
		r.Took = max(r.Took, time.Since(n.startedAt))
		n.mended(*r)
	} else if n.cfg.Repairs != nil { // of a start before this one
		n.cfg.Repairs.Done(Repaired{Parts: []string{PartLog}, How: HowLogCut, Index: req.LeaderCommitIndex})
	}
	n.log.Info("this node has caught up and has its vote again", "index", req.LeaderCommitIndex)
}

// acknowledged is up to where the leader of a term may count what this node acknowledged and has lost since.
type acknowledged struct{ term, index uint64 }

// beyondAcknowledged reports whether this node holds all that it may have acknowledged to the leader before it lost it: a
// leader never counts less than it was told once. That is not more than its log held when it was asked, after this start.
func (n *Node) beyondAcknowledged(req *raft.AppendEntriesRequest) bool {
	if a := n.acknowledged.Load(); a != nil && a.term == req.Term {
		return req.LeaderCommitIndex >= a.index
	}
	if !n.asking.CompareAndSwap(false, true) {
		return false
	}
	leader := string(req.ID)
	n.wg.Go(func() {
		defer n.asking.Store(false)
		ctx, cancel := context.WithTimeout(n.ctx, askPatience)
		defer cancel()
		if st, err := n.PeerStatus(ctx, leader); err == nil && st.Term == req.Term {
			n.acknowledged.Store(&acknowledged{st.Term, st.LastIndex})
		}
	})
	return false // the next time it speaks
}

// cautiousTransport looks at what peers ask before raft does.
type cautiousTransport struct {
	raft.Transport
	n    *Node
	rpcs chan raft.RPC
}

var (
	_ raft.WithPreVote = (*cautiousTransport)(nil)
	_ raft.WithClose   = (*cautiousTransport)(nil)
)

// Consumer implements raft.Transport.
func (t *cautiousTransport) Consumer() <-chan raft.RPC { return t.rpcs }

// pass hands what peers ask to raft until the node closes.
func (t *cautiousTransport) pass() {
	for {
		select {
		case rpc := <-t.Transport.Consumer():
			t.one(rpc)
		case <-t.n.closing:
			return
		}
	}
}

func (t *cautiousTransport) one(rpc raft.RPC) {
	if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
		rpc.Command = committedAtMost(req)
	}
	if t.n.probation.Load() {
		switch req := rpc.Command.(type) {
		case *raft.RequestVoteRequest:
			rpc.Respond(&raft.RequestVoteResponse{RPCHeader: t.header(), Term: req.Term}, nil)
			return
		case *raft.RequestPreVoteRequest:
			rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: t.header(), Term: req.Term}, nil)
			return
		case *raft.TimeoutNowRequest:
			rpc.Respond(&raft.TimeoutNowResponse{RPCHeader: t.header()}, errProbation)
			return
		case *raft.AppendEntriesRequest:
			t.watched(rpc, req)
			return
		}
	}
	t.hand(rpc)
}

// committedAtMost returns the request with no more told as committed than what it shows: the last entry that it brings, or
// the one before them, as in figure 2 of the Raft paper. Hashicorp/raft 1.7.3 takes the end of its own log instead. Where it
// could not replace that end, for want of room, the leader goes back entry by entry, comes with such as are there already,
// and the wrong end would be committed.
func committedAtMost(req *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	shown := req.PrevLogEntry
	if n := len(req.Entries); n > 0 {
		shown = req.Entries[n-1].Index
	}
	if req.LeaderCommitIndex <= shown {
		return req
	}
	c := *req // the sender's is its own
	c.LeaderCommitIndex = shown
	return &c
}

func (t *cautiousTransport) hand(rpc raft.RPC) {
	select {
	case t.rpcs <- rpc:
	case <-t.n.closing:
	}
}

// watched lets raft take entries and looks at what it says.
func (t *cautiousTransport) watched(rpc raft.RPC, req *raft.AppendEntriesRequest) {
	said := make(chan raft.RPCResponse, 1)
	asked := rpc.RespChan
	rpc.RespChan = said
	t.hand(rpc)
	select {
	case r := <-said:
		if resp, ok := r.Response.(*raft.AppendEntriesResponse); ok && r.Error == nil && resp.Success {
			t.n.caughtUp(req)
		}
		asked <- r
	case <-t.n.closing:
	}
}

func (t *cautiousTransport) header() raft.RPCHeader {
	id := raft.ServerID(t.n.cfg.NodeID)
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: t.EncodePeer(id, t.LocalAddr())}
}

// RequestVote implements raft.Transport.
func (t *cautiousTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.n.probation.Load() {
		return errProbation
	}
	return t.Transport.RequestVote(id, target, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *cautiousTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.n.probation.Load() {
		return errProbation
	}
	p, ok := t.Transport.(raft.WithPreVote)
	if !ok {
		return fmt.Errorf("%T knows no pre-vote", t.Transport)
	}
	return p.RequestPreVote(id, target, args, resp)
}

// Close implements raft.WithClose.
func (t *cautiousTransport) Close() error {
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}
