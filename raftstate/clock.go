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

// maxJump is how far log time may move on at once without a majority of clocks that say so. Log time never goes back:
// what a wrong clock had expired, cut or refused would be lost for good.
const maxJump = time.Hour

// cutsRest is how long, in log time, nothing is cut after a jump that no other clock could confirm.
const cutsRest = 24 * time.Hour

// A round of asking the members for their clocks ends clockGrace after a majority has answered that agrees, and in
// any case after checkTimeout.
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
	torn    string        // why log time goes on by itself: the clocks that answer do not agree that it is so late
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

// disagreement says why it is not known what time it is, so that no data should be dated; "" when it is.
func (c *logClock) disagreement() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.torn
}

// settle takes the offsets that a majority of the voters (this one first) was found to have. Their median counts; of
// two middle ones the one nearer to log time, since the other would move it further. A jump of more than maxJump needs
// a majority of all voters whose clocks are that late; without one log time goes on from where it is. It returns how
// far log time jumps.
func (c *logClock) settle(offsets []time.Duration, voters int, logTime int64) (jump time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := time.Duration(logTime)*time.Millisecond - c.elapsed()
	own, chosen := offsets[0], middle(offsets, held)
	c.known, c.agreed, c.suspect, c.torn = true, chosen, "", ""
	if jump = chosen - held; logTime > 0 && jump > maxJump {
		late := 0
		for _, o := range offsets {
			if o >= chosen-maxClockStep {
				late++
			}
		}
		if late <= voters/2 {
			c.agreed = held
			c.torn = fmt.Sprintf("%d of %d clocks say that %s have passed: it is not known whether they have", late, voters, jump.Round(time.Second))
			c.suspect = c.torn
			return 0
		}
	}
	if d := own - chosen; d.Abs() <= maxClockStep {
		c.agreed = own
	} else {
		c.suspect = fmt.Sprintf("the clock is %s away from those of the other nodes", d.Round(time.Second))
	}
	return jump
}

// middle is the median of the offsets; of two middle ones the one nearer to held, of equally near ones the lower.
func middle(offsets []time.Duration, held time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(offsets))
	upper := sorted[len(sorted)/2]
	lower := sorted[(len(sorted)-1)/2]
	if (upper - held).Abs() < (lower - held).Abs() {
		return upper
	}
	return lower
}

// round is one round of asking the voters.
type round struct {
	offsets []time.Duration // of the clocks that answered, this node's first
	full    fullVoters
}

func (r *round) majority() bool { return len(r.offsets) > r.full.voters/2 }

func (r *round) agrees() bool { return slices.Max(r.offsets)-slices.Min(r.offsets) <= maxClockStep }

// askVoters asks the other voters how they are. A new leader is not held up by a member that does not answer as long
// as the clocks of those that do agree.
func (n *Node) askVoters() round {
	ctx, cancel := context.WithTimeout(n.ctx, checkTimeout)
	defer cancel()
	type answer struct {
		offset time.Duration
		full   bool
		err    error
	}
	servers := n.servers()
	answers := make(chan answer, len(servers))
	r := round{offsets: []time.Duration{n.clock.offset()}}
	waiting := 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		r.full.voters++
		if string(s.ID) == n.cfg.NodeID {
			continue
		}
		waiting++
		go func() {
			sent := n.clock.elapsed()
			st, err := n.PeerStatus(ctx, string(s.ID))
			middle := (sent + n.clock.elapsed()) / 2
			answers <- answer{time.Duration(st.Clock)*time.Millisecond - middle, st.DiskFull != "", err}
		}()
	}
	for waiting > 0 {
		var enough <-chan time.Time
		if r.majority() && r.agrees() {
			enough = time.After(clockGrace)
		}
		select {
		case a := <-answers:
			waiting--
			if a.err == nil {
				r.offsets = append(r.offsets, a.offset)
			}
			if a.full {
				r.full.full++
			}
		case <-enough:
			return r
		}
	}
	return r
}

// askClocks asks the voters for their clocks and settles what is stamped, once a majority has answered. It
// reports whether the time is known.
func (n *Node) askClocks() bool {
	r := n.askVoters()
	n.fullVoters.Store(&r.full)
	if !r.majority() {
		_, known := n.clock.now()
		return known
	}
	before := n.clock.suspicion()
	logTime := max(n.state.LogTime(), n.logged) // a fresh leader has not applied all of its log yet
	jump := n.clock.settle(r.offsets, r.full.voters, logTime)
	if r.full.voters == 1 && jump > maxJump && logTime > 0 {
		n.restCuts(jump)
	}
	if why := n.clock.suspicion(); why != before {
		if why != "" {
			n.log.Error("this node's clock is not believed", "why", why)
		} else {
			n.log.Info("this node's clock is believed again")
		}
	}
	return true
}

// cutsKey in raft's own storage holds the log time up to which this node proposes no cuts.
const cutsKey = "triward.cuts_rest_until"

// restCuts notes, durably, that log time followed the only clock there is over a long gap: the node may have been off
// for so long, or the clock may be wrong. Data is taken either way, but nothing is cut until log time has gone on
// for a day, which it does not do while it is ahead of a clock that was set right again.
func (n *Node) restCuts(jump time.Duration) {
	now, _ := n.clock.now()
	until := uint64(now + cutsRest.Milliseconds())
	if err := n.store.SetUint64([]byte(cutsKey), until); err != nil {
		n.fatal(brokenDisk("log", err))
		return
	}
	n.cutsRest.Store(until)
	n.log.Warn("the clock is far ahead of the last entry and no other node can confirm it: nothing is cut for a day", "by", jump)
}

// cutsHeld says why no cuts are made now; "" when they are.
func (n *Node) cutsHeld() string {
	until := int64(n.cutsRest.Load())
	if until <= n.state.LogTime() {
		return ""
	}
	return fmt.Sprintf("time jumped and no other clock confirmed it: nothing is cut before %s of the cluster's time",
		time.UnixMilli(until).UTC().Format(time.RFC3339))
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
