package raftstate

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// disks are the free bytes of a cluster's nodes. Their reserve is 1000, their segments 1 MiB.
type disks map[string]*atomic.Int64

const plenty, tight, low, none = 1 << 30, 1000, 999, 499

func (d disks) set(free int64, ids ...string) {
	for _, id := range ids {
		d[id].Store(free)
	}
}

func newDiskCluster(t *testing.T, size int, tune func(*Config)) (*testCluster, disks) {
	d := disks{}
	for _, id := range []string{"n1", "n2", "n3"}[:size] {
		d[id] = new(atomic.Int64)
		d[id].Store(plenty)
	}
	return newTestCluster(t, size, func(cfg *Config) {
		free := d[cfg.NodeID]
		cfg.DiskReserve = 1000
		cfg.FreeBytes = func(string) (int64, error) { return free.Load(), nil }
		if tune != nil {
			tune(cfg)
		}
	}), d
}

// takes holds which commands are taken against what is wanted.
func (w *writer) takes(n *testNode, data, control bool) {
	w.t.Helper()
	set := command.NewMetaTxn(command.Txn{Ops: []command.Op{{Bucket: "settings", Key: "k", Value: []byte("v")}}})
	for _, k := range []struct {
		cmd  command.Command
		want bool
	}{
		{command.NewTick(n.id), control},
		{command.NewRetentionCut(command.KindLogs, 1, command.CutAge), control},
		{command.NewCollectSeries(nil), control},
		{command.NewHeartbeats(nil), control},
		{set, control},
		{command.NewForgetAgent("nobody"), control},
		{command.NewDeliver(command.Deliver{Source: "loki", Lane: wire.LaneLogs}), data},
		{command.NewRegisterSeries(w.name, nil), data},
		{command.NewOpenEpoch(w.name, w.epoch), data},
		{w.batch(1, []byte("no batch: it is refused when it is applied")), data},
		{command.Command{Type: 77 | command.Ignorable, Version: 1}, data},
	} {
		_, _, err := n.Propose(w.t.Context(), k.cmd)
		if k.want && err != nil || !k.want && !errors.Is(err, ErrDiskFull) {
			w.t.Errorf("node %s, %s: %v, wanted that it is taken: %v", n.id, k.cmd.Type, err, k.want)
		}
	}
}

// While what fills the disk is being removed senders are told to wait, whichever node they ask.
func TestFullDiskThatGetsRoomSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var makes atomic.Bool
		c, d := newDiskCluster(t, 3, func(cfg *Config) { cfg.MakesRoom = makes.Load })
		w := newWriter(t, c.leader(), "agent-1")
		for _, step := range []struct {
			free  int64
			makes bool
			want  error
		}{{tight, true, nil}, {low, true, ErrMakingRoom}, {low, false, ErrDiskFull}, {none, true, ErrMakingRoom}, {plenty, false, nil}} {
			d.set(step.free, c.ids...)
			makes.Store(step.makes)
			time.Sleep(11 * time.Second)
			for _, n := range []*testNode{c.leader(), c.follower()} {
				_, _, err := n.Propose(t.Context(), command.NewDeliver(command.Deliver{Source: "loki", Lane: wire.LaneLogs}))
				if !errors.Is(err, step.want) {
					t.Errorf("node %s, %d bytes free, room is being made: %v: %v, want %v", n.id, step.free, step.makes, err, step.want)
				}
			}
		}
		w.write(c.leader())
		c.settle()
	})
}

func TestFullDiskTakesWhatFreesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDiskCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		for _, step := range []struct {
			free          int64
			data, control bool
		}{{tight, true, true}, {low, false, true}, {none, false, false}, {low, false, true}, {plenty, true, true}} {
			d.set(step.free, c.ids...)
			time.Sleep(11 * time.Second) // the voters are asked again
			w.takes(c.leader(), step.data, step.control)
			w.takes(c.follower(), step.data, step.control)
			for _, id := range c.ids {
				if why := c.nodes[id].Status().DiskFull; (why == "") != step.data {
					t.Errorf("node %s with %d bytes free says of its disk: %q", id, step.free, why)
				}
			}
		}
		w.write(c.leader())
		c.settle()
	})
}

// TestDataWaitsForAMajorityWithRoom fills the disks of both followers: data that they do not store would hold up cuts.
func TestDataWaitsForAMajorityWithRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDiskCluster(t, 3, nil)
		leader := c.leader()
		w := newWriter(t, leader, "agent-1")
		var others []string
		for _, id := range c.ids {
			if id != leader.id {
				others = append(others, id)
			}
		}
		d.set(low, others[0])
		time.Sleep(6 * time.Second)
		w.takes(leader, true, true) // one of three does not stop the others
		d.set(low, others[1])
		time.Sleep(6 * time.Second)
		if c.leader() != leader {
			t.Fatal("leadership moved to a node without room")
		}
		w.takes(leader, false, true)
		d.set(plenty, others[0])
		time.Sleep(6 * time.Second)
		w.takes(leader, true, true)
	})
}

// TestNearlyFullDiskShortensTheLog: what the log keeps for peers and readers goes before data is refused.
func TestNearlyFullDiskShortensTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDiskCluster(t, 1, func(cfg *Config) { cfg.MarkInterval = 2 * time.Second })
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		w.text = strings.Repeat("x", 20_000)
		for range 300 {
			w.write(n)
		}
		time.Sleep(5 * time.Second) // a mark
		if st := n.Status(); st.FirstIndex != 1 || st.MarkIndex < 200 {
			t.Fatalf("before: %+v", st)
		}
		block := make(chan struct{}) // no mark is made any more
		n.metrics.block.Store(&block)
		w.write(n)
		d.set(tight, "n1")
		time.Sleep(2 * roomInterval)
		if st := n.Status(); st.FirstIndex != st.MarkIndex-minTrailing+1 || st.LogSegments > 3 {
			t.Errorf("the log begins at %d and has %d segments, the mark is %d", st.FirstIndex, st.LogSegments, st.MarkIndex)
		}
		w.write(n)
		close(block)
		time.Sleep(5 * time.Second)
		if st := n.Status(); st.FirstIndex != st.MarkIndex-minTrailing+1 {
			t.Errorf("with the next mark the log begins at %d, the mark is %d", st.FirstIndex, st.MarkIndex)
		}
		c.kill("n1")
		c.start("n1")
		w.check(c.leader())
	})
}

// A node whose disk fills up while the end of its log is to be replaced goes on once there is room.
func TestEndOfTheLogIsReplacedWhenThereIsRoom(t *testing.T) {
	for name, c := range map[string]struct {
		before int           // entries that all have
		full   time.Duration // how long the leader goes back in what it sends, an entry for each refusal
	}{"soon": {1, 5 * time.Second}, "after the leader came with what is there already": {40, 5 * time.Minute}} {
		t.Run(name, func(t *testing.T) { replaceTheEnd(t, c.before, c.full) })
	}
}

func replaceTheEnd(t *testing.T, before int, full time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		c, disks := newDiskCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		for range before {
			w.write(c.leader())
		}
		old, f := c.leader(), c.follower()
		c.isolate(old.id, true)
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if _, _, err := old.Propose(ctx, command.NewTick("x")); err == nil {
				t.Error("a leader without a majority acknowledged")
			}
			cancel()
		}
		c.wait("the old leader to step down", func() bool { _, self := old.Leader(); return !self })
		for range 10 {
			w.write(f)
		}
		disks.set(0, old.id)
		c.isolate(old.id, false)
		time.Sleep(full)
		if at := old.Status(); at.LastIndex > at.AppliedIndex+20 || at.DiskFull == "" {
			t.Errorf("full disk: %+v", at)
		}
		disks.set(plenty, old.id)
		c.settle()
		w.check(old)
	})
}
