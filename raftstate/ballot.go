package raftstate

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// A node that starts with nothing may have lost what it acknowledged: its data directory may have been emptied while
// the others still count it as a voter. Raft would let it vote at once, also for a node that lacks entries which it
// had helped to commit. So a node that begins empty, and does not found a cluster, takes no part in elections until it
// has applied everything that was acknowledged anywhere before a leader answered it.

// barredKey in raft's own storage is 1 as long as the node must not vote.
const barredKey = "triward.barred"

// earnRetry is how often a barred node looks for a leader to catch up with.
const earnRetry = 50 * time.Millisecond

var errBarred = errors.New("this node began empty and has not caught up: it does not vote yet")

// bar keeps the node from voting if it begins empty now, or did and has not caught up since.
func (n *Node) bar(empty bool) error {
	held, err := n.store.GetUint64([]byte(barredKey))
	if err != nil {
		return refused("log", err)
	}
	if held == 0 && !empty {
		return nil
	}
	if err := n.store.SetUint64([]byte(barredKey), 1); err != nil {
		return brokenDisk("log", err)
	}
	n.barred.Store(true)
	return nil
}

// earnVote lifts the bar once this node has caught up.
func (n *Node) earnVote() {
	retry := time.NewTicker(earnRetry)
	defer retry.Stop()
	for {
		select {
		case <-n.closing:
			return
		case <-retry.C:
		}
		if id, _ := n.Leader(); id == "" {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, proposeLimit)
		err := n.Barrier(ctx)
		cancel()
		if err != nil {
			continue
		}
		if err := n.store.SetUint64([]byte(barredKey), 0); err != nil {
			n.fatal(brokenDisk("log", err))
			return
		}
		n.barred.Store(false)
		n.log.Info("caught up: this node votes from now on", "applied", n.fsm.applied.Load())
		return
	}
}

// ballot is the transport of a node that is barred when it starts.
type ballot struct {
	raft.Transport
	raft.WithPreVote
	n     *Node
	calls chan raft.RPC
}

// withBallot puts a ballot before the node's transport.
func (n *Node) withBallot() (raft.Transport, error) {
	pre, ok := n.trans.(raft.WithPreVote)
	if !ok {
		return nil, errors.New("start raft: the transport knows no pre-vote")
	}
	b := &ballot{Transport: n.trans, WithPreVote: pre, n: n, calls: make(chan raft.RPC)}
	n.wg.Go(b.pass)
	return b, nil
}

// Consumer implements raft.Transport.
func (b *ballot) Consumer() <-chan raft.RPC { return b.calls }

// pass hands calls on to raft, except for those that ask a barred node for its vote.
func (b *ballot) pass() {
	for {
		var rpc raft.RPC
		select {
		case <-b.n.closing:
			return
		case rpc = <-b.Transport.Consumer():
		}
		if b.n.barred.Load() && refuseVote(&rpc) {
			continue
		}
		select {
		case <-b.n.closing:
			return
		case b.calls <- rpc:
		}
	}
}

func refuseVote(rpc *raft.RPC) bool {
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}
	switch req := rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{RPCHeader: header, Term: req.Term}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: header, Term: req.Term}, nil)
	default:
		return false
	}
	return true
}

// RequestPreVote implements raft.WithPreVote: a barred node does not stand for election either.
func (b *ballot) RequestPreVote(
	id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse,
) error {
	if b.n.barred.Load() {
		return errBarred
	}
	return b.WithPreVote.RequestPreVote(id, target, args, resp)
}
