package raftstate

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/raftstate/command"
)

func TestSingleNodeKeepsWhatItAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		for range 20 {
			w.write(n)
		}
		w.check(n)
		index, sums := n.Digest()
		if len(sums) == 0 || index == 0 {
			t.Fatalf("no digest at %d", index)
		}
		c.kill("n1") // nothing was flushed: all comes from the log
		c.start("n1")
		n = c.leader()
		w.check(n)
		if err := n.Close(); err != nil { // a mark is taken: all comes from the stores
			t.Fatal(err)
		}
		c.start("n1")
		if st := n.Status(); st.MarkIndex == 0 {
			t.Errorf("no mark after Close: %+v", st)
		}
		n = c.leader()
		w.write(n)
		w.check(n)
		if _, after := n.Digest(); len(after) != len(sums) {
			t.Errorf("digest has %d rows, had %d", len(after), len(sums))
		}
	})
}

func TestThreeNodesLoseTheirLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, func(cfg *Config) { cfg.MarkInterval = 2 * time.Second })
		w := newWriter(t, c.follower(), "agent-1")
		for range 50 {
			w.write(c.follower())
		}
		c.settle()
		time.Sleep(5 * time.Second) // marks
		leader := c.leader()
		if leader.Status().MarkIndex == 0 {
			t.Error("no mark was made")
		}
		f := c.follower()
		c.kill(leader.id)
		began := time.Now()
		w.write(f)
		t.Logf("first acknowledgement %v after the leader was gone", time.Since(began))
		for range 50 {
			w.write(c.follower())
		}
		c.start(leader.id)
		w.write(c.nodes[leader.id])
		c.settle()
		for _, id := range c.ids {
			w.check(c.nodes[id])
		}
	})
}

func TestReadIndexCoversAcknowledgedWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		f := c.follower()
		for i := range 20 {
			w.must(c.leader(), command.NewMetaTxn(command.Txn{Ops: []command.Op{{Bucket: "settings", Key: "k", Value: []byte(fmt.Sprint(i))}}}))
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if err := f.Barrier(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
			if v, ok := f.State().Get("settings", "k"); !ok || string(v.Data) != fmt.Sprint(i) {
				t.Fatalf("follower reads %q after the barrier, written was %d", v.Data, i)
			}
		}
	})
}

func TestMinorityAnswersWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		leader := c.leader()
		for _, id := range c.ids {
			if id != leader.id {
				c.kill(id)
			}
		}
		time.Sleep(3 * time.Second) // the lease is gone
		began := time.Now()
		_, _, err := leader.Propose(context.Background(), command.NewTick("x"))
		if !errors.Is(err, ErrNoLeader) || time.Since(began) > 1200*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if _, err := leader.ReadIndex(context.Background()); !errors.Is(err, ErrNoLeader) {
			t.Errorf("read index: %v", err)
		}
	})
}

func TestEntriesReadTheLogAsAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		for range 10 {
			w.write(n)
		}
		batches, next := 0, uint64(1)
		for {
			entries, after, err := n.Entries(next, 3, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) == 0 {
				break
			}
			for i, e := range entries {
				if e.Index != next+uint64(i) {
					t.Fatalf("entry %d follows %d", e.Index, next)
				}
				for _, cmd := range e.Commands {
					if cmd.Type == command.TypeBatch {
						batches++
					}
				}
			}
			next = after
		}
		if batches != 20 || next <= n.AppliedIndex() {
			t.Errorf("%d batches up to entry %d", batches, next)
		}
		if _, first, err := n.Entries(0, 1, 1); !errors.Is(err, ErrGone) || first != 1 {
			t.Errorf("entry 0: %d, %v", first, err)
		}
	})
}
