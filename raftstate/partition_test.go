package raftstate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/command"
)

// isolate cuts a node off from the others, or joins it again.
func (c *testCluster) isolate(id string, cut bool) {
	n := c.nodes[id]
	for _, other := range c.nodes {
		if other == n {
			continue
		}
		c.loop.Cut(id, other.id, cut)
		if cut {
			n.trans.Disconnect(raft.ServerAddress(other.id))
			other.trans.Disconnect(raft.ServerAddress(id))
		} else {
			n.trans.Connect(raft.ServerAddress(other.id), other.trans)
			other.trans.Connect(raft.ServerAddress(id), n.trans)
		}
	}
}

func TestIsolatedLeaderLosesNothingAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, func(cfg *Config) { cfg.MarkInterval = time.Second })
		w := newWriter(t, c.leader(), "agent-1")
		for range 20 {
			w.write(c.leader())
		}
		old, f := c.leader(), c.follower()
		c.isolate(old.id, true)
		// Entries that only the old leader has: not acknowledged, and overwritten later.
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			_, _, err := old.Propose(ctx, command.NewMetaTxn(command.Txn{Ops: []command.Op{{Bucket: "settings", Key: "lost", Value: []byte("x")}}}))
			cancel()
			if err == nil {
				t.Error("a leader without a majority acknowledged")
			}
		}
		c.wait("the old leader to step down", func() bool { _, self := old.Leader(); return !self })
		began := time.Now()
		if _, _, err := old.Propose(t.Context(), command.NewTick("x")); !errors.Is(err, ErrNoLeader) || !strings.Contains(err.Error(), "led last") {
			t.Errorf("minority: %v", err)
		}
		if d := time.Since(began); d > 1200*time.Millisecond {
			t.Errorf("minority answered after %v", d)
		}
		for range 30 {
			w.write(f)
		}
		if _, err := old.ReadIndex(t.Context()); !errors.Is(err, ErrNoLeader) {
			t.Errorf("linearizable read in the minority: %v", err)
		}
		c.isolate(old.id, false)
		w.write(f)
		c.settle()
		for _, id := range c.ids {
			w.check(c.nodes[id])
			if _, ok := c.nodes[id].State().Get("settings", "lost"); ok {
				t.Errorf("node %s holds what was never committed", id)
			}
		}
		// The overwritten tail must not look like damage at the next start.
		c.kill(old.id)
		c.start(old.id)
		w.write(c.leader())
		c.settle()
	})
}

func TestFlappingFollowerDoesNotUnseatTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		leader, f := c.leader(), c.follower()
		term := leader.Status().Term
		for range 6 {
			c.isolate(f.id, true)
			time.Sleep(4 * time.Second)
			w.write(leader)
			c.isolate(f.id, false)
			time.Sleep(2 * time.Second)
			w.write(leader)
		}
		if st := leader.Status(); st.Role != "leader" || st.Term != term {
			t.Errorf("leader became %s of term %d, was of term %d", st.Role, st.Term, term)
		}
		c.settle()
		w.check(f)
	})
}

// A network that drops what is sent gives no error: a follower must not wait for a leader that it has lost.
func TestCallsToALostLeaderEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		w.write(c.leader())
		old, f := c.leader(), c.follower()
		c.loop.Swallow(true)
		c.isolate(old.id, true)
		began := time.Now()
		if _, _, err := f.Propose(t.Context(), command.NewTick("x")); !errors.Is(err, ErrUnknown) || !errors.Is(err, errLeaderLost) {
			t.Errorf("proposal to a leader that is cut off: %v", err)
		}
		if _, err := f.ReadIndex(t.Context()); err != nil && !errors.Is(err, ErrNoLeader) {
			t.Errorf("read: %v", err)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("the follower answered after %v", d)
		}
		w.write(f)
		c.isolate(old.id, false)
		c.settle()
		w.check(old)
	})
}
