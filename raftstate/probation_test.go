package raftstate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// What two nodes alone hold is not lost when one of them comes back empty while the other is down: the empty one does
// not help the third, which lacks it, to lead. Once it has caught up it votes as before.
func TestEmptiedNodeHelpsNobodyToLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		w.write(c.leader())
		c.settle()
		full := c.leader()
		var emptied, behind string
		for _, id := range c.ids {
			switch {
			case id == full.id:
			case emptied == "":
				emptied = id
			default:
				behind = id
			}
		}
		c.kill(behind)
		for range 10 {
			w.write(full)
		}
		c.kill(full.id)
		c.kill(emptied)
		c.wipe(emptied)

		founders := c.addrs
		c.addrs = nil // it is no new cluster
		c.start(emptied)
		c.addrs = founders
		c.start(behind)
		nobodyLeads := func() {
			t.Helper()
			for range 300 {
				time.Sleep(100 * time.Millisecond)
				for _, id := range []string{emptied, behind} {
					if leader, _ := c.nodes[id].Leader(); leader != "" {
						t.Fatalf("%s leads, and lacks what was acknowledged", leader)
					}
				}
			}
		}
		nobodyLeads()
		c.addrs = nil
		c.kill(emptied) // a restart does not end it
		c.start(emptied)
		c.addrs = founders
		nobodyLeads()
		if !c.nodes[emptied].Status().Probation {
			t.Error("the emptied node does not say that it has no vote")
		}

		c.start(full.id)
		c.wait("the emptied node to catch up", func() bool { return !c.nodes[emptied].Status().Probation })
		c.settle()
		for _, id := range c.ids {
			w.check(c.nodes[id])
		}
		// With its vote back the two go on without the third, whichever of them led.
		c.kill(full.id)
		w.write(c.nodes[emptied])
		c.settle()
		w.check(c.nodes[emptied])
		// And it stays so over a restart.
		c.start(full.id)
		c.kill(emptied)
		c.start(emptied)
		if c.nodes[emptied].Status().Probation {
			t.Error("a restart brings the probation back")
		}
		c.settle()
	})
}

// An emptied node is on probation until it holds what was committed, not until it holds anything.
func TestProbationEndsWhenAllCommittedIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, smallQueue)
		w := newWriter(t, c.leader(), "agent-1")
		for range 20 {
			w.write(c.leader())
		}
		c.settle()
		f := c.follower()
		c.kill(f.id)
		c.wipe(f.id)
		c.addrs = nil
		stop := writing(c, w, f.id)
		c.start(f.id)
		n := c.nodes[f.id]
		var committed uint64
		c.wait("the end of the probation", func() bool {
			if n.Status().Probation {
				committed = c.leader().Status().CommitIndex
				return false
			}
			return true
		})
		if last := n.Status().LastIndex; last < committed {
			t.Errorf("it ended at entry %d, %d were committed before", last, committed)
		}
		stop()
		c.settle()
		w.check(n)
	})
}

// A cluster that is founded with all its members at once has nodes that hold nothing and are told so.
func TestFoundingNodesVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, func(cfg *Config) {
			if cfg.NodeID != "n1" {
				cfg.Bootstrap, cfg.Founding = nil, true
			}
		})
		w := newWriter(t, c.leader(), "agent-1")
		w.write(c.leader())
		c.settle()
	})
}

// The vote comes back when the node holds all that its leader may count of what it acknowledged before it lost it, not
// when it holds what is committed now.
func TestProbationLastsUntilAllAcknowledgedIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		w.write(c.leader())
		c.settle()
		n, leader := c.follower(), c.leader()
		st := leader.Status()
		n.probation.Store(true)
		req := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: []byte(leader.id)}, Term: st.Term, LeaderCommitIndex: n.Status().CommitIndex}
		n.acknowledged.Store(&acknowledged{term: st.Term, index: req.LeaderCommitIndex + 1})
		n.caughtUp(req)
		if !n.probation.Load() {
			t.Error("the vote came back before all that was acknowledged is held")
		}
		n.acknowledged.Store(&acknowledged{term: st.Term - 1, index: 1}) // by a leader of before
		n.caughtUp(req)
		if !n.probation.Load() {
			t.Error("the vote came back before the leader was asked")
		}
		synctest.Wait()
		if a := n.acknowledged.Load(); a == nil || a.term != st.Term || a.index < st.LastIndex {
			t.Fatalf("the leader said %+v", a)
		}
		n.caughtUp(req)
		if n.probation.Load() && leader.Status().LastIndex == req.LeaderCommitIndex {
			t.Error("the vote does not come back")
		}
	})
}
