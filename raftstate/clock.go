package raftstate

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// maxClockStep is how far clocks may lie apart, and how far one may be set, before it counts as wrong.
const maxClockStep = 60 * time.Second

// A round of asking the members for their clocks ends clockGrace after a majority has answered, and in any case
// after checkTimeout.
const (
	checkTimeout = 500 * time.Millisecond
	clockGrace   = 50 * time.Millisecond
)

// logClock gives the leader the stamps of entries, of which log time is made (DESIGN D11). The wall clock of one
// machine is not believed alone: its distance from a clock that is never set (the monotonic one) must be the one
// that the members' clocks agree on. A leader whose clock is wrong, or is set while it leads, goes on in the time
// of the others, so nothing expires and nothing is cut because of it.
type logClock struct {
	wall  func() time.Time
	start time.Time // with the monotonic reading that elapsed counts from

	mu      sync.Mutex
	known   bool          // agreed was set since the process started
	agreed  time.Duration // wall minus monotonic, as the members agree on it
	suspect string        // why this node's own clock is not believed
}

func newLogClock(wall func() time.Time) *logClock {
	return &logClock{wall: wall, start: time.Now()}
}

func (c *logClock) elapsed() time.Duration { return time.Since(c.start) }

// offset is the wall clock minus the monotonic one.
func (c *logClock) offset() time.Duration {
	return time.Duration(c.wall().UnixMilli())*time.Millisecond - c.elapsed()
}

// now returns the time to stamp with, in milliseconds since 1970; false as long as the members were not asked.
func (c *logClock) now() (ms int64, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		return 0, false
	}
	elapsed, wall := c.elapsed(), c.wall().UnixMilli()
	own := time.Duration(wall)*time.Millisecond - elapsed
	if (own - c.agreed).Abs() <= maxClockStep {
		return wall, true
	}
	if c.suspect == "" {
		c.suspect = fmt.Sprintf("the clock was set by %s", (own - c.agreed).Round(time.Second))
	}
	return (c.agreed + elapsed).Milliseconds(), true
}

// suspicion says why this node's clock is not believed; "" when it is.
func (c *logClock) suspicion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.suspect
}

// settle takes the offsets that a majority of the members (this one first) was found to have. Their median is
// what counts; between two middle ones that differ, the one nearer to what was agreed before.
func (c *logClock) settle(offsets []time.Duration) (suspect string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := offsets[0]
	before := own
	if c.known {
		before = c.agreed
	}
	sorted := slices.Sorted(slices.Values(offsets))
	median := sorted[len(sorted)/2]
	if len(sorted)%2 == 0 {
		if lower := sorted[len(sorted)/2-1]; (lower - before).Abs() < (median - before).Abs() {
			median = lower
		}
	}
	c.known, c.agreed, c.suspect = true, median, ""
	if d := own - median; d.Abs() <= maxClockStep {
		c.agreed = own
	} else {
		c.suspect = fmt.Sprintf("the clock is %s away from those of the other nodes", d.Round(time.Second))
	}
	return c.suspect
}

// askClocks asks the voters for their clocks and settles what is stamped, once a majority has answered. It
// reports whether the time is known.
func (n *Node) askClocks() bool {
	ctx, cancel := context.WithTimeout(n.ctx, checkTimeout)
	defer cancel()
	offsets := []time.Duration{n.clock.offset()}
	type answer struct {
		offset time.Duration
		full   bool
		err    error
	}
	servers := n.servers()
	answers := make(chan answer, len(servers))
	voters, asked, full := 0, 0, fullVoters{}
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(s.ID) == n.cfg.NodeID {
			continue
		}
		asked++
		go func() {
			sent := n.clock.elapsed()
			st, err := n.PeerStatus(ctx, string(s.ID))
			middle := (sent + n.clock.elapsed()) / 2
			answers <- answer{time.Duration(st.Clock)*time.Millisecond - middle, st.DiskFull != "", err}
		}()
	}
	var enough <-chan time.Time // a new leader is not held up by a member that does not answer
	for waiting := asked; waiting > 0; {
		if len(offsets) > voters/2 && enough == nil {
			enough = time.After(clockGrace)
		}
		select {
		case a := <-answers:
			waiting--
			if a.err == nil {
				offsets = append(offsets, a.offset)
			}
			if a.full {
				full.full++
			}
		case <-enough:
			waiting = 0
		}
	}
	full.voters = voters
	n.fullVoters.Store(&full)
	if len(offsets) <= voters/2 {
		_, known := n.clock.now()
		return known
	}
	before := n.clock.suspicion()
	if why := n.clock.settle(offsets); why != before {
		if why != "" {
			n.log.Error("this node's clock is not believed, log time follows the other nodes", "why", why)
		} else {
			n.log.Info("this node's clock is believed again")
		}
	}
	return true
}

// askClocksUntilKnown repeats askClocks for a new leader, which takes no entries before it knows the time.
func (n *Node) askClocksUntilKnown(r *raft.Raft) {
	retry := time.NewTicker(leaderRetry)
	defer retry.Stop()
	for !n.askClocks() && r.State() == raft.Leader {
		select {
		case <-retry.C:
		case <-n.closing:
			return
		}
	}
}
