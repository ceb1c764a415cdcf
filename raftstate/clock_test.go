package raftstate

import (
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
