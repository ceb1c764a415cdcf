package raftstate

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/raftstate/command"
)

// clocks are the wall clocks of a cluster's nodes: the time of the bubble and how far each is set off it.
type clocks map[string]*atomic.Int64

func (k clocks) set(id string, by time.Duration) { k[id].Store(int64(by)) }

func newClockedCluster(t *testing.T, size int) (*testCluster, clocks) {
	k := clocks{}
	for _, id := range []string{"n1", "n2", "n3"}[:size] {
		k[id] = new(atomic.Int64)
	}
	return newTestCluster(t, size, func(cfg *Config) {
		off := k[cfg.NodeID]
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	}), k
}

// drift is log time against the true time after one more entry.
func (c *testCluster) drift() time.Duration {
	c.t.Helper()
	l := c.leader()
	if _, _, err := l.Propose(c.t.Context(), command.NewTick(l.id)); err != nil {
		c.t.Fatalf("propose: %v", err)
	}
	return time.Duration(l.State().LogTime()-time.Now().UnixMilli()) * time.Millisecond
}

func TestOneWrongClockMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, k := newClockedCluster(t, 3)
		if d := c.drift(); d.Abs() > time.Second {
			t.Fatalf("log time is %v off at the start", d)
		}
		for _, step := range []time.Duration{24 * time.Hour, -24 * time.Hour, 2 * time.Minute} {
			id := c.leader().id
			k.set(id, step)
			for range 3 { // at once, and after the members were asked again
				if d := c.drift(); d.Abs() > 2*time.Second {
					t.Errorf("clock of the leader set by %v: log time is %v off", step, d)
				}
				time.Sleep(6 * time.Second)
			}
			if c.leader().id == id && c.nodes[id].Status().ClockSuspect == "" {
				t.Errorf("clock set by %v is not reported", step)
			}
			k.set(id, 0)
			time.Sleep(6 * time.Second)
			if why := c.nodes[id].Status().ClockSuspect; c.leader().id == id && why != "" {
				t.Errorf("set right again, still reported: %s", why)
			}
		}
		// A node whose clock is wrong from before it leads.
		f := c.follower()
		k.set(f.id, 24*time.Hour)
		if err := c.leader().TransferLeadership(t.Context(), f.id); err != nil {
			t.Fatal(err)
		}
		c.wait("the node with the wrong clock to lead", func() bool { _, self := f.Leader(); return self })
		if d := c.drift(); d.Abs() > 2*time.Second {
			t.Errorf("led by a node a day ahead, log time is %v off", d)
		}
	})
}

func TestClocksThatAgreeAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, k := newClockedCluster(t, 3)
		c.drift()
		for id := range k {
			k.set(id, 72*time.Hour) // as after three days without power, or when time was set everywhere
		}
		time.Sleep(6 * time.Second)
		if d := c.drift() - 72*time.Hour; d.Abs() > 2*time.Second {
			t.Errorf("log time is %v off", d)
		}
	})
}

func TestSingleNodeFollowsItsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, k := newClockedCluster(t, 1)
		c.drift()
		k.set("n1", time.Hour)
		time.Sleep(6 * time.Second)
		if d := c.drift() - time.Hour; d.Abs() > 2*time.Second {
			t.Errorf("log time is %v off", d)
		}
	})
}

// lead makes the node lead.
func (c *testCluster) lead(id string) *testNode {
	c.t.Helper()
	if l := c.leader(); l.id != id {
		if err := l.TransferLeadership(c.t.Context(), id); err != nil {
			c.t.Fatal(err)
		}
		c.wait("node "+id+" to lead", func() bool { _, self := c.nodes[id].Leader(); return self })
	}
	return c.leader()
}

// TestFreshLeaderWithWrongClock starts a cluster again of which one node is missing and one has a wrong clock.
func TestFreshLeaderWithWrongClock(t *testing.T) {
	for _, wrong := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			c, k := newClockedCluster(t, 3)
			c.drift()
			for _, id := range c.ids {
				c.kill(id)
			}
			k.set("n1", wrong)
			c.start("n1")
			c.start("n2")
			c.lead("n1")
			for range 3 {
				if d := c.drift(); d.Abs() > 2*time.Second {
					t.Errorf("led by a fresh node %v off, log time is %v off", wrong, d)
				}
				time.Sleep(6 * time.Second)
			}
		})
	}
}

// TestClocksThatDifferAreAllWaitedFor: two answers that differ leave it to the third, although it is late.
func TestClocksThatDifferAreAllWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, k := newClockedCluster(t, 3)
		c.leader()
		for _, id := range c.ids {
			c.kill(id)
			c.wipe(id) // there is no log time to go by
		}
		k.set("n1", -24*time.Hour)
		c.slow = func(_, to string) time.Duration {
			if to == "n3" {
				return checkTimeout / 2
			}
			return 0
		}
		for _, id := range c.ids {
			c.start(id)
		}
		for _, id := range []string{c.leader().id, "n1", "n2"} {
			c.lead(id)
			if d := c.drift(); d.Abs() > 2*time.Second {
				t.Errorf("led by %s, log time is %v off", id, d)
			}
		}
	})
}

// TestLongJumpNeedsAMajority: three hours without power have passed, and only one of two clocks knows.
func TestLongJumpNeedsAMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, k := newClockedCluster(t, 3)
		w := newWriter(t, c.leader(), "agent-1")
		w.write(c.leader())
		before := c.leader().State().LogTime()
		for _, id := range c.ids {
			c.kill(id)
		}
		time.Sleep(3 * time.Hour)
		k.set("n1", -1000*time.Hour)
		c.start("n1")
		c.start("n2")
		for _, id := range []string{"n1", "n2"} {
			n := c.lead(id)
			if _, _, err := n.Propose(t.Context(), w.batch(1, nil)); !errors.Is(err, ErrClocks) {
				t.Errorf("data while it is not known how late it is: %v", err)
			}
			if _, _, err := n.Propose(t.Context(), command.NewTick("x")); err != nil {
				t.Error(err)
			}
			if moved := n.State().LogTime() - before; moved > time.Minute.Milliseconds() || n.Status().ClockSuspect == "" {
				t.Errorf("led by %s, log time moved by %d ms; suspect: %q", id, moved, n.Status().ClockSuspect)
			}
		}
		c.start("n3")
		time.Sleep(6 * time.Second)
		if d := c.drift(); d.Abs() > 2*time.Second {
			t.Errorf("with the third clock log time is %v off", d)
		}
		w.clock = time.Now().UnixMilli()
		w.write(c.leader())
	})
}

// TestLoneClockCutsNothingAfterAJump: a single node cannot tell a long rest from a wrong clock.
func TestLoneClockCutsNothingAfterAJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, k := newClockedCluster(t, 1)
		tune := c.tune
		c.tune = func(cfg *Config) {
			tune(cfg)
			cfg.TickInterval, cfg.MarkInterval = 10*time.Minute, 10*time.Minute
		}
		c.drift()
		cut := func(want bool) {
			t.Helper()
			for _, cmd := range []command.Command{command.NewRetentionCut(command.KindLogs, 1, command.CutAge), command.NewCollectSeries(nil)} {
				if _, _, err := c.leader().Propose(t.Context(), cmd); (err == nil) != want || err != nil && !errors.Is(err, ErrClocks) {
					t.Errorf("%s: %v, wanted that it is taken: %v", cmd.Type, err, want)
				}
			}
			for _, why := range []command.CutReason{command.CutSize, command.CutOperator} { // do not go by the time
				if _, _, err := c.leader().Propose(t.Context(), command.NewRetentionCut(command.KindLogs, 1, why)); err != nil {
					t.Errorf("cut by %s: %v", why, err)
				}
			}
			if held := c.leader().Status().CutsHeld; (held == "") != want {
				t.Errorf("cuts are held: %q", held)
			}
		}
		cut(true)
		c.kill("n1")
		k.set("n1", 1000*time.Hour)
		c.start("n1")
		if d := c.drift() - 1000*time.Hour; d.Abs() > 2*time.Second {
			t.Errorf("log time is %v off", d)
		}
		cut(false)
		c.kill("n1")
		c.start("n1")
		c.drift()
		cut(false) // a restart does not forget it
		time.Sleep(23 * time.Hour)
		cut(false)
		time.Sleep(90 * time.Minute)
		cut(true)
	})
}

func TestSettledOffsets(t *testing.T) {
	const h = time.Hour
	for _, k := range []struct {
		name    string
		offsets []time.Duration // against log time, this node's first
		voters  int
		fresh   bool // there is no log time
		want    time.Duration
		torn    bool
	}{
		{"median", []time.Duration{24 * h, 0, time.Second}, 3, false, time.Second, false},
		{"tie, the own one ahead", []time.Duration{24 * h, time.Second}, 3, false, time.Second, false},
		{"tie, the own one behind", []time.Duration{-24 * h, time.Second}, 3, false, time.Second, false},
		{"tie, one far behind", []time.Duration{h / 2, -24 * h}, 3, false, h / 2, false},
		{"tie without log time", []time.Duration{24 * h, 0}, 3, true, 0, false},
		{"jump of a majority", []time.Duration{3 * h, 3*h + time.Second}, 3, false, 3 * h, false},
		{"jump, the other one further", []time.Duration{3 * h, 9 * h}, 3, false, 3 * h, false},
		{"jump of one of two", []time.Duration{3 * h, -24 * h}, 3, false, 0, true},
		{"jump of one of three", []time.Duration{3 * h, 0, 0}, 3, false, 0, false},
		{"jump of a lone node", []time.Duration{1000 * h}, 1, false, 1000 * h, false},
		{"five, two of three jump", []time.Duration{3 * h, 3 * h, 0}, 5, false, 0, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newLogClock(time.Now)
			logTime := time.Now().UnixMilli()
			base := time.Duration(logTime)*time.Millisecond - c.elapsed()
			if k.fresh {
				logTime, base = 0, time.Duration(logTime)*time.Millisecond
			}
			for i := range k.offsets {
				k.offsets[i] += base
			}
			c.settle(k.offsets, k.voters, logTime)
			if got := c.agreed - base; got != k.want || (c.disagreement() != "") != k.torn {
				t.Errorf("%s: settled at %v, wanted %v; %q", k.name, got, k.want, c.disagreement())
			}
		})
	}
}
