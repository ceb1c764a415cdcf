package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/triward/triward/appliance"
)

// Bounds of clocks.
const (
	clockWatch   = time.Second           // how long the clock is watched for being set
	clockStep    = 50 * time.Millisecond // more than that against the monotonic clock: it was set
	clockError   = time.Second           // estimated error that is worth a word
	offsetWarn   = time.Second           // against another node
	offsetBelief = time.Minute           // beyond it the cluster does not go by this clock (raftstate)
)

// released is a day that no clock can be before: this program did not exist then.
var released = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const setClock = "set the clock and keep a time service running (systemd-timesyncd, chrony); without any network, one machine of the site serves the time to all"

// clock says whether this machine's clock is kept right and stands still for nobody.
func clock(ctx context.Context, _ *appliance.Config, _ bool) (r Report) {
	began := time.Now()
	wait := time.NewTimer(clockWatch)
	defer wait.Stop()
	select {
	case <-ctx.Done():
	case <-wait.C:
	}
	ended := time.Now()
	if f := step(ended.Round(0).Sub(began.Round(0)), ended.Sub(began)); f != nil {
		r = append(r, *f)
	}
	if ended.Before(released) {
		r.Add("clock", "time", Problem, fmt.Sprintf("the clock says %s", ended.UTC().Format(time.RFC3339)), setClock)
	} else {
		r.Add("clock", "time", OK, ended.UTC().Format(time.RFC3339), "")
	}
	sync, estimated, err := timeService()
	switch {
	case err != nil:
		r.Add("clock", "time service", Warning, err.Error(), setClock)
	case !sync:
		r.Add("clock", "time service", Warning, "no time service keeps this clock", setClock)
	case estimated > clockError:
		r.Add("clock", "time service", Warning, fmt.Sprintf("the clock is kept, and may be %s off", estimated.Round(time.Millisecond)), setClock)
	default:
		r.Add("clock", "time service", OK, fmt.Sprintf("the clock is kept, at most %s off", estimated.Round(time.Microsecond)), "")
	}
	return r
}

// step judges by how much the clock went on while the monotonic one did.
func step(wall, real time.Duration) *Finding {
	off := wall - real
	if off.Abs() <= clockStep {
		return nil
	}
	return &Finding{
		"clock", "step", Warning, fmt.Sprintf("the clock was set by %s while it was looked at", off.Round(time.Millisecond)),
		"find out what sets it: two time services against each other, or a hypervisor",
	}
}

// Offset judges how far another node's clock is from this one's; within is how exactly that is known.
func Offset(node string, offset, within time.Duration) Finding {
	f := Finding{Check: "clock", Subject: "against " + node, Status: OK, Detail: fmt.Sprintf("%s ± %s", offset.Round(time.Millisecond), within.Round(time.Millisecond))}
	sure := offset.Abs() - within
	switch {
	case sure > offsetBelief:
		f.Status, f.Detail = Problem, f.Detail+"; the cluster goes by the clocks of the majority"
	case sure > offsetWarn:
		f.Status = Warning
	}
	if f.Status != OK {
		f.Remedy = setClock
	}
	return f
}
