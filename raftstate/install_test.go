package raftstate

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// smallQueue makes marks frequent and the log short, so that a node that was away must install.
func smallQueue(cfg *Config) {
	cfg.MarkInterval = time.Second
	cfg.QueueBytes = 1
	cfg.TickInterval = time.Second
}

// writing keeps a writer busy at whatever node is there until the function it returns is called.
func writing(c *testCluster, w *writer, except string) (stop func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for !w.stop.Load() {
			for _, id := range c.ids {
				if id != except {
					w.write(c.nodes[id])
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	return func() {
		w.stop.Store(true)
		wg.Wait()
	}
}

func TestInstallWhileWritesGoOn(t *testing.T) {
	for name, wipe := range map[string]bool{"behind the log": false, "emptied": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCluster(t, 3, smallQueue)
				w := newWriter(t, c.leader(), "agent-1")
				w.text = strings.Repeat("x", 20_000)
				away := c.follower()
				for range 20 {
					w.write(c.leader())
				}
				c.settle()
				c.kill(away.id)
				if wipe {
					c.wipe(away.id)
				}
				for range 250 {
					w.write(c.leader())
				}
				c.wait("a short log", func() bool { w.write(c.leader()); return c.leader().Status().FirstIndex > 100 })
				stop := writing(c, w, away.id)
				time.Sleep(20 * time.Millisecond)
				c.addrs = nil // the emptied node must not start a cluster of its own
				c.start(away.id)
				n := c.nodes[away.id]
				c.wait("the install", func() bool {
					return n.seen.installs() > 0
				})
				time.Sleep(3 * time.Second)
				stop()
				c.settle()
				for _, id := range c.ids {
					w.check(c.nodes[id])
				}
				if n.Status().Installing {
					t.Error("the node still says that it installs")
				}
				// It comes up again from what it installed.
				time.Sleep(3 * time.Second)
				c.kill(away.id)
				c.start(away.id)
				w.write(c.leader())
				c.settle()
				w.check(c.nodes[away.id])
				if cuts := c.leader().metrics.cuts; cuts > 3 {
					t.Errorf("%d images were cut for one install", cuts)
				}
			})
		})
	}
}

// deciding returns the deciding state of a node as text, while nothing is applied.
func deciding(t *testing.T, n *testNode) string {
	t.Helper()
	n.fsm.mu.Lock()
	defer n.fsm.mu.Unlock()
	var b strings.Builder
	if err := n.State().Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The window of recent lines, the audit chain and the rest of the deciding state are the same on a node that installed
// them, and again after it replayed its log from its own mark.
func TestInstalledStateDecidesTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, smallQueue)
		w := newWriter(t, c.leader(), "agent-1")
		w.text = strings.Repeat("x", 20_000)
		sent := 0
		deliver := func(n *testNode, from, to int) command.Result {
			st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "agent", Value: "loki"}}}
			for i := from; i < to; i++ {
				st.Lines = append(st.Lines, wire.LogLine{T: w.clock*1e6 - int64(i), Text: fmt.Appendf(nil, "line %d", i)})
			}
			body := wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{st}})
			sent++
			return w.must(n,
				command.NewDeliver(command.Deliver{Source: "loki", Lane: wire.LaneLogs, Flags: command.RepeatsDropped, RawLen: len(body), Body: body}),
				command.NewMetaTxn(command.Txn{Audit: []command.AuditRecord{{Action: fmt.Sprint("delivery ", sent)}}}),
			)[0]
		}
		clock := w.clock
		away := c.follower()
		c.settle()
		c.kill(away.id)
		if got := deliver(c.leader(), 0, 1500); got.Accepted != 1500 {
			t.Errorf("%+v", got)
		}
		c.wait("a short log", func() bool { w.write(c.leader()); return c.leader().Status().FirstIndex > 100 })
		c.start(away.id)
		n := c.nodes[away.id]
		c.wait("the install", func() bool { return n.seen.installs() > 0 })
		same := func(when string) {
			t.Helper()
			c.settle()
			if got, want := deciding(t, n), deciding(t, c.leader()); got != want {
				t.Errorf("%s: the deciding state differs from the leader's:\n%s\nwant\n%s", when, got, want)
			}
		}
		same("installed")
		w.clock = clock
		if got := deliver(n, 1400, 1600); got.Duplicates != 100 || got.Accepted != 100 {
			t.Errorf("%+v", got)
		}
		c.kill(n.id)
		c.start(n.id)
		same("started again")
		if got := deliver(n, 1500, 1700); got.Duplicates != 100 || got.Accepted != 100 {
			t.Errorf("%+v", got)
		}
		same("at the end")
	})
}

func TestNoImageForAPeerThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, smallQueue)
		w := newWriter(t, c.leader(), "agent-1")
		w.text = strings.Repeat("x", 20_000)
		c.kill(c.follower().id)
		for range 400 {
			w.write(c.leader())
		}
		for range 30 {
			time.Sleep(time.Second)
			w.write(c.leader())
		}
		if n := c.leader(); n.Status().FirstIndex < 100 || n.metrics.cuts > 0 {
			t.Errorf("log begins at %d, %d images were cut", n.Status().FirstIndex, n.metrics.cuts)
		}
	})
}

func TestFullDiskHoldsApplyAndResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		w.write(c.leader())
		leader := c.leader()
		leader.metrics.failWith(syscall.ENOSPC)
		var wg sync.WaitGroup
		wg.Go(func() { w.write(leader) }) // is committed, waits to be applied
		c.wait("apply to be held up", func() bool { return leader.Status().DiskFull != "" })
		if _, _, err := leader.Propose(t.Context(), command.NewTick("x")); !errors.Is(err, ErrDiskFull) {
			t.Errorf("propose: %v", err)
		}
		if v := leader.State().LogTime(); v == 0 {
			t.Error("reads are not served")
		}
		leader.metrics.failWith(nil)
		wg.Wait()
		w.write(leader)
		if why := leader.Status().DiskFull; why != "" {
			t.Errorf("still held up: %s", why)
		}
		c.settle()
		w.check(leader)
	})
}

func TestLeadershipLeavesAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		leader, f := c.leader(), c.follower()
		leader.logs.failWith(syscall.ENOSPC)
		var wg sync.WaitGroup
		wg.Go(func() { w.write(leader) }) // is committed; the outcome is asked for again elsewhere
		c.wait("another leader", func() bool { id, _ := f.Leader(); return id != "" && id != leader.id })
		wg.Wait()
		for range 20 {
			w.write(f)
		}
		leader.logs.failWith(nil)
		c.settle()
		w.check(leader)
	})
}

func TestFollowerWithFullDiskDoesNotStopTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		leader, f := c.leader(), c.follower()
		f.logs.failWith(syscall.ENOSPC)
		for range 300 {
			w.write(leader)
		}
		if c.leader() != leader {
			t.Error("leadership moved")
		}
		if st := f.Status(); st.DiskFull == "" || st.LastIndex > st.AppliedIndex+heldBacklog+16 {
			t.Errorf("follower took too much: %+v", st)
		}
		f.logs.failWith(nil)
		c.settle()
		w.check(f)
	})
}

func TestBrokenStoreIsFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		f := c.follower()
		f.metrics.failWith(syscall.EIO)
		w.write(c.leader())
		var fatal *FatalError
		if err := <-f.fatal; !errors.As(err, &fatal) || fatal.Code != ExitStorage || !strings.Contains(err.Error(), "metrics") {
			t.Errorf("fatal: %v", err)
		}
		applied := f.Status().AppliedIndex
		c.kill(f.id)
		w.write(c.leader())
		c.start(f.id)
		w.write(c.leader())
		c.settle()
		w.check(c.nodes[f.id])
		if now := c.nodes[f.id].Status().AppliedIndex; now <= applied {
			t.Errorf("applied is %d, was %d", now, applied)
		}
	})
}

func TestUnknownCommandStopsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		e := command.Entry{Commands: []command.Command{{Type: 99, Version: 1}}}
		if err := n.raft.Load().Apply(e.Append(nil), 0).Error(); err != nil { // past the proposer, which refuses it
			t.Errorf("apply: %v", err)
		}
		var fatal *FatalError
		if err := <-n.fatal; !errors.As(err, &fatal) || fatal.ExitCode() != ExitDamaged || !errors.Is(err, ErrVersion) {
			t.Errorf("fatal: %v", err)
		}
	})
}

// TestStoresKnowTheFloorsBeforeTheyOpen: what was cut is never shown again, not even until the first command.
func TestStoresKnowTheFloorsBeforeTheyOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ms := time.Now().Add(-30 * 24 * time.Hour).UnixMilli()
		ns := ms * 1e6
		c := newTestCluster(t, 3, smallQueue)
		w := newWriter(t, c.leader(), "agent-1")
		w.text = strings.Repeat("x", 20_000)
		away, restarted := c.follower(), c.leader()
		c.kill(away.id)
		w.must(restarted, command.NewRetentionCut(command.KindMetrics, ms, command.CutAge), command.NewRetentionCut(command.KindLogs, ms, command.CutAge), command.NewRetentionCut(command.KindEvents, ms+1, command.CutAge))
		check := func(n *testNode, opened bool) {
			t.Helper()
			for _, s := range []struct {
				store *fakeStore
				want  map[string]int64
			}{
				{&n.metrics.fakeStore, map[string]int64{"metrics": ms}},
				{&n.logs.fakeStore, map[string]int64{"log": ns, "event": ns + 1_000_000}},
			} {
				now, atOpen := s.store.known()
				if !maps.Equal(now, s.want) || opened && !maps.Equal(atOpen, s.want) {
					t.Errorf("node %s: floors are %v, at open %v, wanted %v", n.id, now, atOpen, s.want)
				}
			}
		}
		check(restarted, false)
		c.wait("a short log", func() bool { w.write(c.leader()); return c.leader().Status().FirstIndex > 100 })
		c.start(away.id)
		c.wait("the install", func() bool { return away.seen.installs() > 0 })
		check(away, true)
		c.kill(restarted.id)
		c.start(restarted.id)
		check(restarted, true)
	})
}

// The state does not go back to an older image that comes late.
func TestOvertakenImageIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		w.write(n)
		at := n.Status().AppliedIndex
		for index, want := range map[uint64]error{at - 1: errOvertaken, at: nil} {
			sink, err := marks{n.Node}.Create(raft.SnapshotVersionMax, index, 1, raft.Configuration{}, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := sink.Write([]byte("image")); !errors.Is(err, want) {
				t.Errorf("image of entry %d with %d applied: %v, want %v", index, at, err, want)
			}
			if err := sink.Cancel(); err != nil && want == nil {
				t.Log(err)
			}
		}
	})
}
