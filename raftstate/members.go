package raftstate

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

const (
	memberTimeout = 10 * time.Second
	// joinLag is how many entries a node may be behind and still become a voter.
	joinLag = 1000
)

type memberChange struct {
	Op   string `json:"op"`
	ID   string `json:"id"`
	Addr string `json:"addr,omitempty"`
}

const (
	opNonvoter = "nonvoter"
	opVoter    = "voter"
	opRemove   = "remove"
	opTransfer = "transfer"
)

// AddNonvoter makes a node a member that receives the log without a vote, or gives a member a new address.
func (n *Node) AddNonvoter(ctx context.Context, id, addr string) error {
	return n.change(ctx, memberChange{opNonvoter, id, addr})
}

// AddVoter gives a node a vote. It is refused (ErrQuorum) when the node does not answer or has not caught up:
// a voter that is not there makes a majority harder to reach. Add it as a non-voter first.
func (n *Node) AddVoter(ctx context.Context, id, addr string) error {
	return n.change(ctx, memberChange{opVoter, id, addr})
}

// Join adds a node as a non-voter and gives it a vote once it has caught up, or ctx ends.
func (n *Node) Join(ctx context.Context, id, addr string) error {
	if err := n.AddNonvoter(ctx, id, addr); err != nil {
		return err
	}
	for {
		err := n.AddVoter(ctx, id, addr)
		if err == nil || !errors.Is(err, ErrQuorum) && !errors.Is(err, ErrNoLeader) {
			return err
		}
		retry := time.NewTimer(200 * time.Millisecond)
		select {
		case <-retry.C:
		case <-n.closing:
			retry.Stop()
			return ErrStopped
		case <-ctx.Done():
			retry.Stop()
			return fmt.Errorf("node %s joined without a vote, which it has not got yet: %w: %w", id, ctx.Err(), err)
		}
	}
}

// RemoveServer takes a member out. It is refused (ErrQuorum) when those who stay and answer are no majority.
func (n *Node) RemoveServer(ctx context.Context, id string) error {
	return n.change(ctx, memberChange{Op: opRemove, ID: id})
}

// TransferLeadership hands leadership to the voter id; "" lets raft choose.
func (n *Node) TransferLeadership(ctx context.Context, id string) error {
	return n.change(ctx, memberChange{Op: opTransfer, ID: id})
}

// change carries out a change of membership on the leader.
func (n *Node) change(ctx context.Context, c memberChange) error {
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("change of membership: %w", err)
	}
	limit := time.NewTimer(leaderWait)
	defer limit.Stop()
	for {
		id, self := n.Leader()
		switch {
		case self:
			_, err = n.serveMember(ctx, body)
		case id != "":
			if _, err = n.caller.Call(ctx, id, callMember, body); err != nil {
				err = fromRemote(id, err)
			}
		default:
			err = errNotLeader
		}
		if !errors.Is(err, errNotLeader) {
			if err != nil {
				return fmt.Errorf("%s of node %s: %w", c.Op, c.ID, err)
			}
			return nil
		}
		why := err
		if err := n.nextLeader(ctx, limit.C); err != nil {
			return fmt.Errorf("%s of node %s: %w: %w", c.Op, c.ID, err, why)
		}
	}
}

// serveMember carries out a change of membership on this node, which must lead.
func (n *Node) serveMember(ctx context.Context, body []byte) ([]byte, error) {
	var c memberChange
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, fmt.Errorf("change of membership: %w", err)
	}
	if _, self := n.Leader(); !self {
		return nil, errNotLeader
	}
	if c.Op != opTransfer && !nodeIDForm.MatchString(c.ID) {
		return nil, fmt.Errorf("node id %q is not valid", c.ID)
	}
	r := n.raft.Load()
	id, addr := raft.ServerID(c.ID), raft.ServerAddress(c.Addr)
	var future raft.IndexFuture
	switch c.Op {
	case opNonvoter:
		future = r.AddNonvoter(id, addr, 0, memberTimeout)
	case opVoter:
		if err := n.mayVote(ctx, c.ID); err != nil {
			return nil, err
		}
		future = r.AddVoter(id, addr, 0, memberTimeout)
	case opRemove:
		if err := n.mayRemove(ctx, c.ID); err != nil {
			return nil, err
		}
		future = r.RemoveServer(id, 0, memberTimeout)
	case opTransfer:
		return nil, memberError(n.transfer(c.ID))
	default:
		return nil, fmt.Errorf("change of membership %q is not known", c.Op)
	}
	if err := future.Error(); err != nil {
		return nil, memberError(err)
	}
	n.log.Info("membership changed", "op", c.Op, "node", c.ID, "addr", c.Addr)
	return binary.LittleEndian.AppendUint64(nil, future.Index()), nil
}

func memberError(err error) error {
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		return errNotLeader
	}
	return err
}

func (n *Node) transfer(id string) error {
	r := n.raft.Load()
	if id == "" {
		return r.LeadershipTransfer().Error()
	}
	for _, s := range n.servers() {
		if string(s.ID) == id {
			return r.LeadershipTransferToServer(s.ID, s.Address).Error()
		}
	}
	return fmt.Errorf("node %s is no member", id)
}

func (n *Node) servers() []raft.Server {
	future := n.raft.Load().GetConfiguration()
	if future.Error() != nil {
		return nil
	}
	return future.Configuration().Servers
}

// mayVote refuses a vote to a node that is not there or lags.
func (n *Node) mayVote(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := n.PeerStatus(ctx, id)
	if err != nil {
		return fmt.Errorf("%w: node %s does not answer: %w", ErrQuorum, id, err)
	}
	if commit := n.raft.Load().CommitIndex(); st.AppliedIndex+joinLag < commit || st.Installing || st.Probation {
		return fmt.Errorf("%w: node %s has applied %d of %d entries", ErrQuorum, id, st.AppliedIndex, commit)
	}
	return nil
}

// mayRemove refuses a removal that leaves too few voters who answer.
func (n *Node) mayRemove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	voters, answering := 0, 0
	for _, s := range n.servers() {
		if string(s.ID) == id || s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(s.ID) == n.cfg.NodeID {
			answering++
			continue
		}
		if _, err := n.PeerStatus(ctx, string(s.ID)); err == nil {
			answering++
		}
	}
	if voters == 0 || answering <= voters/2 {
		return fmt.Errorf("%w: without node %s %d of %d voters would answer", ErrQuorum, id, answering, voters)
	}
	return nil
}
