package raftstate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/meta"
)

// voters lists the voters as a node has them.
func voters(n *testNode) (ids []string) {
	for _, m := range n.Status().Members {
		if m.Voter {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// What would leave too few who answer is refused with the reason, wherever it is asked for, and changes nothing.
func TestChangesThatEndangerTheMajorityAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		ctx := context.Background()
		leader, follower := c.leader(), c.follower()
		var other string
		for _, id := range c.ids {
			if id != leader.id && id != follower.id {
				other = id
			}
		}
		c.kill(other)
		c.wait("the leader to know that a voter is down", func() bool { _, lost := leader.peers.lostSince(raft.ServerID(other)); return lost })
		for _, asked := range []*testNode{leader, follower} {
			for name, err := range map[string]error{
				"remove one of two that are left": asked.RemoveServer(ctx, follower.id),
				"the same, asked before":          asked.MayRemove(ctx, follower.id),
				"demote one of two that are left": asked.Demote(ctx, follower.id),
				"remove the leader of two":        asked.RemoveServer(ctx, leader.id),
				"a vote for one that is not there": func() error {
					if err := asked.AddNonvoter(ctx, "n9", "n9"); err != nil {
						return err
					}
					return asked.AddVoter(ctx, "n9", "n9")
				}(),
				"lead, where nobody answers": asked.TransferLeadership(ctx, other),
			} {
				if !errors.Is(err, ErrQuorum) {
					t.Errorf("at %s, %s: %v", asked.id, name, err)
					continue
				}
				if _, why, ok := strings.Cut(err.Error(), ErrQuorum.Error()+": "); !ok || why == "" {
					t.Errorf("at %s, %s: no reason in %q", asked.id, name, err)
				}
			}
		}
		if got := voters(c.leader()); len(got) != 3 {
			t.Errorf("voters are %v", got)
		}
		if err := follower.Demote(ctx, "n8"); !errors.Is(err, ErrNoMember) {
			t.Errorf("demote a stranger: %v", err)
		}
		// The one that is down goes: those who are left are a majority of themselves.
		if err := follower.RemoveServer(ctx, other); err != nil {
			t.Fatal(err)
		}
		w := newWriter(t, leader, "agent-1")
		w.write(follower)
	})
}

// A leader that is removed hands over first; one voter is left in the end, and cannot be removed.
func TestRemoveTheLeaderUntilOneIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		ctx := context.Background()
		w := newWriter(t, c.leader(), "agent-1")
		for len(voters(c.leader())) > 1 {
			leader := c.leader()
			w.write(leader)
			if err := leader.RemoveServer(ctx, leader.id); err != nil {
				t.Fatal(err)
			}
			c.kill(leader.id)
			w.write(c.leader())
		}
		last := c.leader()
		for _, err := range []error{last.RemoveServer(ctx, last.id), last.Demote(ctx, last.id)} {
			if !errors.Is(err, ErrQuorum) || !strings.Contains(err.Error(), "last voter") {
				t.Errorf("the last voter: %v", err)
			}
		}
		w.check(last)
	})
}

// A member without a vote holds everything, does not count, and never leads; with a vote back it may.
func TestDemotedMemberNeitherVotesNorLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		ctx := context.Background()
		w := newWriter(t, c.leader(), "agent-1")
		quiet := c.follower()
		if err := quiet.Demote(ctx, quiet.id); err != nil {
			t.Fatal(err)
		}
		if err := c.leader().TransferLeadership(ctx, quiet.id); !errors.Is(err, ErrQuorum) {
			t.Errorf("leadership to one without a vote: %v", err)
		}
		w.write(c.leader())
		c.settle()
		w.check(quiet)
		leader := c.leader()
		c.kill(leader.id) // one voter of two is left: with the third it would be a majority
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			for _, id := range c.ids {
				if n := c.nodes[id]; n.up && n.raft.Load().State() == raft.Leader {
					t.Fatalf("%s leads without a majority of the voters", id)
				}
			}
		}
		c.start(leader.id)
		if err := c.leader().AddVoter(ctx, quiet.id, quiet.id); err != nil {
			t.Fatal(err)
		}
		c.kill(c.leader().id)
		w.write(c.leader())
		c.settle()
	})
}

// Five voters bear the loss of two.
func TestFiveVotersBearTheLossOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 5, nil)
		w := newWriter(t, c.leader(), "agent-1")
		w.write(c.leader())
		c.kill(c.leader().id)
		w.write(c.leader())
		c.kill(c.leader().id)
		w.write(c.leader())
		c.settle()
		for _, id := range c.ids {
			if c.nodes[id].up {
				w.check(c.nodes[id])
			}
		}
	})
}

// A node that is left alone goes on with all that its log holds, also what it did not know to be committed. What the others
// then have is of no cluster any more: whoever joins takes everything from it.
func TestAloneKeepsTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		for range 20 {
			w.write(c.leader())
		}
		c.settle()
		left := c.follower()
		for _, id := range c.ids {
			c.kill(id)
		}
		before, err := Inspect(t.Context(), left.dir)
		if err != nil || len(before.Members) != 3 || before.Last == 0 {
			t.Fatalf("%+v %v", before, err)
		}
		var first uint64
		for range 2 { // it can be repeated
			cfg := c.config(left, nil)
			cfg.Bootstrap, cfg.Advertise = nil, left.id
			metrics, logs := &fakeMetrics{}, &fakeLogs{}
			through, err := Alone(t.Context(), cfg, Sinks{Metrics: metrics, Logs: logs}, func(*meta.Store) {})
			if err != nil {
				t.Fatal(err)
			}
			if first == 0 {
				if first = through; through != before.Last+1 {
					t.Errorf("applied through %d, the log ended at %d", through, before.Last)
				}
			}
			if got := len(logs.snapshot().Lines); got != w.lines {
				t.Errorf("%d lines, acknowledged were %d", got, w.lines)
			}
			after, err := Inspect(t.Context(), left.dir)
			if err != nil || len(after.Members) != 1 || after.Mark.Index < through {
				t.Fatalf("%+v %v", after, err)
			}
		}
		if err := Renew(left.dir, Server{left.id, left.id}, 1<<40, nil); err == nil {
			t.Error("a state that lacks a part of the log was taken")
		}
		if err := Renew(left.dir, Server{left.id, left.id}, first, func(tx *meta.Tx) error { tx.Put("b", "k", []byte("v"), 0); return nil }); err != nil {
			t.Fatal(err)
		}
		held, err := Inspect(t.Context(), left.dir)
		if err != nil || held.Unapplied() != 0 || len(held.Members) != 1 {
			t.Fatalf("%+v %v", held, err)
		}
	})
}
