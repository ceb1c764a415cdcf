package raftstate

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	memberTimeout = 10 * time.Second
	// joinLag is how many entries a node may be behind and still become a voter.
	joinLag = 1000
	// changeWait is how long a change of membership looks for the leader: one that concerns the leader itself has another
	// take over first.
	changeWait = 15 * time.Second
	askTimeout = 2 * time.Second // for the other members to say how they are
)

type memberChange struct {
	Op   string `json:"op"`
	ID   string `json:"id"`
	Addr string `json:"addr,omitempty"`
}

const (
	opNonvoter = "nonvoter"
	opVoter    = "voter"
	opDemote   = "demote"
	opRemove   = "remove"
	opTransfer = "transfer"
	// opMay before one of them only asks whether it would be refused.
	opMay = "may_"
)

// AddNonvoter makes a node a member that receives the log without a vote, or gives a member a new address.
func (n *Node) AddNonvoter(ctx context.Context, id, addr string) error {
	return n.change(ctx, memberChange{Op: opNonvoter, ID: id, Addr: addr})
}

// AddVoter gives a node a vote. It is refused (ErrQuorum) when the node does not answer or has not caught up:
// a voter that is not there makes a majority harder to reach. Add it as a non-voter first.
func (n *Node) AddVoter(ctx context.Context, id, addr string) error {
	return n.change(ctx, memberChange{Op: opVoter, ID: id, Addr: addr})
}

// Demote takes a member's vote away; it goes on receiving the log. It is refused (ErrQuorum) like RemoveServer.
func (n *Node) Demote(ctx context.Context, id string) error {
	return n.change(ctx, memberChange{Op: opDemote, ID: id})
}

// MayDemote says whether Demote would be refused now, and why.
func (n *Node) MayDemote(ctx context.Context, id string) error {
	return n.change(ctx, memberChange{Op: opMay + opDemote, ID: id})
}

// MayRemove says whether RemoveServer would be refused now, and why.
func (n *Node) MayRemove(ctx context.Context, id string) error {
	return n.change(ctx, memberChange{Op: opMay + opRemove, ID: id})
}

// MayVote says whether AddVoter would be refused for a member now, and why.
func (n *Node) MayVote(ctx context.Context, id string) error {
	return n.change(ctx, memberChange{Op: opMay + opVoter, ID: id})
}

// RemoveServer takes a member out; when it leads, another takes over first. It is refused (ErrQuorum) when those who
// stay and answer are no majority, and ErrChanging while another change is under way. A node that is no member is no error.
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
	limit := time.NewTimer(changeWait)
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
	if op, dry := strings.CutPrefix(c.Op, opMay); dry {
		c.Op = op
		return nil, n.mayChange(ctx, &c)
	}
	if !n.changing.TryLock() {
		return nil, fmt.Errorf("%w: another one is being made", ErrChanging)
	}
	defer n.changing.Unlock()
	if err := n.mayChange(ctx, &c); err != nil {
		return nil, err
	}
	r := n.raft.Load()
	id, addr := raft.ServerID(c.ID), raft.ServerAddress(c.Addr)
	var future raft.IndexFuture
	switch c.Op {
	case opNonvoter:
		future = r.AddNonvoter(id, addr, 0, memberTimeout)
	case opVoter:
		future = r.AddVoter(id, addr, 0, memberTimeout)
	case opDemote, opRemove:
		if c.ID == n.cfg.NodeID { // the next leader goes on with it
			if err := n.transfer(""); err != nil {
				return nil, fmt.Errorf("%w: no other node could take over the leadership: %w", ErrQuorum, err)
			}
			return nil, errNotLeader
		}
		if c.Op == opDemote {
			future = r.DemoteVoter(id, 0, memberTimeout)
		} else {
			future = r.RemoveServer(id, 0, memberTimeout)
		}
	default:
		if c.ID == n.cfg.NodeID {
			return nil, nil
		}
		if err := memberError(n.transfer(c.ID)); err != nil && !errors.Is(err, errNotLeader) {
			return nil, fmt.Errorf("%w: the leadership was not handed over: %w", ErrQuorum, err)
		} else if err != nil {
			return nil, err
		}
		n.log.Info("leadership handed over", "to", c.ID)
		return nil, nil
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

// transfer hands leadership over to the member id, or to the one that knows most if empty.
func (n *Node) transfer(id string) error {
	r := n.raft.Load()
	if id == "" {
		return n.handOver(r, nil)
	}
	for _, s := range n.servers() {
		if string(s.ID) == id {
			return n.handOver(r, &s)
		}
	}
	return fmt.Errorf("%w: %s", ErrNoMember, id)
}

func (n *Node) servers() []raft.Server {
	future := n.raft.Load().GetConfiguration()
	if future.Error() != nil {
		return nil
	}
	return future.Configuration().Servers
}

// mayChange refuses what would endanger the majority, on the leader.
func (n *Node) mayChange(ctx context.Context, c *memberChange) error {
	future := n.raft.Load().GetConfiguration()
	if err := future.Error(); err != nil {
		return memberError(err)
	}
	if c.Op != opTransfer && future.Index() > n.raft.Load().CommitIndex() {
		return fmt.Errorf("%w: the one before is not committed yet", ErrChanging)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	servers := future.Configuration().Servers
	at := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == c.ID })
	switch c.Op {
	case opNonvoter:
		return nil
	case opVoter:
		if at >= 0 && servers[at].Suffrage == raft.Voter {
			return nil
		}
		if err := n.fit(ctx, c.ID); err != nil {
			return err
		}
		voters, answering := n.votersWithout(ctx, servers, c.ID)
		if voters++; answering+1 <= voters/2 {
			return fmt.Errorf("%w: with node %s as a voter %d of %d voters would answer, and a majority is %d", ErrQuorum, c.ID, answering+1, voters, voters/2+1)
		}
		return nil
	case opDemote, opRemove:
		if at < 0 {
			if c.Op == opRemove {
				return nil
			}
			return fmt.Errorf("%w: %s", ErrNoMember, c.ID)
		}
		if servers[at].Suffrage != raft.Voter {
			return nil
		}
		voters, answering := n.votersWithout(ctx, servers, c.ID)
		if voters == 0 {
			return fmt.Errorf("%w: node %s is the last voter", ErrQuorum, c.ID)
		}
		if answering <= voters/2 {
			return fmt.Errorf("%w: without node %s %d of %d voters would answer, and a majority is %d", ErrQuorum, c.ID, answering, voters, voters/2+1)
		}
		return nil
	case opTransfer:
		return n.mayTransfer(ctx, servers, c.ID)
	}
	return fmt.Errorf("change of membership %q is not known", c.Op)
}

// mayTransfer refuses to hand leadership to a node that could not lead.
func (n *Node) mayTransfer(ctx context.Context, servers []raft.Server, to string) error {
	if to == "" {
		if voters, answering := n.votersWithout(ctx, servers, n.cfg.NodeID); answering == 0 {
			return fmt.Errorf("%w: none of the %d other voters answers", ErrQuorum, voters)
		}
		return nil
	}
	at := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == to })
	switch {
	case at < 0:
		return fmt.Errorf("%w: %s", ErrNoMember, to)
	case servers[at].Suffrage != raft.Voter:
		return fmt.Errorf("%w: node %s has no vote and cannot lead", ErrQuorum, to)
	case to == n.cfg.NodeID:
		return nil
	}
	return n.fit(ctx, to)
}

// fit refuses a vote, or leadership, to a node that is not there or lags.
func (n *Node) fit(ctx context.Context, id string) error {
	st, err := n.PeerStatus(ctx, id)
	if err != nil {
		return fmt.Errorf("%w: node %s does not answer: %w", ErrQuorum, id, err)
	}
	switch commit := n.raft.Load().CommitIndex(); {
	case st.Fatal != "":
		return fmt.Errorf("%w: node %s has failed: %s", ErrQuorum, id, st.Fatal)
	case st.Installing:
		return fmt.Errorf("%w: node %s is installing an image", ErrQuorum, id)
	case st.AppliedIndex+joinLag < commit:
		return fmt.Errorf("%w: node %s has applied %d of %d entries", ErrQuorum, id, st.AppliedIndex, commit)
	case st.Probation:
		return fmt.Errorf("%w: node %s lost its data and has not caught up with all that was committed", ErrQuorum, id)
	}
	return nil
}

// votersWithout counts the voters but one, and those of them that answer.
func (n *Node) votersWithout(ctx context.Context, servers []raft.Server, id string) (voters, answering int) {
	var there atomic.Int32
	var wg sync.WaitGroup
	for _, s := range servers {
		if string(s.ID) == id || s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(s.ID) == n.cfg.NodeID {
			there.Add(1)
			continue
		}
		wg.Go(func() {
			if st, err := n.PeerStatus(ctx, string(s.ID)); err == nil && !st.Probation && !st.Installing && st.DiskFull == "" && st.Fatal == "" {
				there.Add(1)
			}
		})
	}
	wg.Wait()
	return voters, int(there.Load())
}
