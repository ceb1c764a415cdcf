package scrub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// State tells the running digests and retention floors of the node.
type State interface {
	// Settled returns the running digests once they cover all that the stores have been given.
	Settled(ctx context.Context) (index uint64, sums []meta.Digest, err error)
	// Floor is the retention floor of a kind in milliseconds since 1970.
	Floor(kind command.Kind) int64
}

// Verdict is what comparing a day came to.
type Verdict string

// The verdicts.
const (
	Equal    Verdict = "equal"
	Differs  Verdict = "differs"
	Partial  Verdict = "partial"  // retention has removed a part of it: no more than was accepted is there
	Changing Verdict = "changing" // data came while it was read
	Dropped  Verdict = "dropped"  // retention has removed it meanwhile
	Damaged  Verdict = "damaged"  // it could not be read as a whole
)

// Day is the comparison of what a store answers about a kind and a UTC day with what was accepted.
type Day struct {
	Kind    string  `json:"kind"`
	Day     int64   `json:"day"` // since 1970
	Verdict Verdict `json:"verdict"`
	Count   uint64  `json:"count"` // as read
	Sum     string  `json:"sum"`
	Want    uint64  `json:"want"` // as accepted
	WantSum string  `json:"want_sum"`
	Error   string  `json:"error,omitempty"`

	dir string // of the store that it was read from
	err error
}

// tries is how often a day is read again when data came meanwhile, or when it differs.
const tries = 3

// deep reads a day of metrics, or of lines and events, and compares it.
type deep struct {
	samples Samples
	lines   Lines
	state   State
	spoilt  func(error) bool // tells damage from a store that cannot be read now
}

func find(sums []meta.Digest, kind command.Kind, day int64) meta.Digest {
	for _, d := range sums {
		if d.Kind == kind && d.Day == day {
			return d
		}
	}
	return meta.Digest{Kind: kind, Day: day}
}

// read returns the deep digests of kinds, which are in one store.
func (d *deep) read(ctx context.Context, kinds []command.Kind, day int64, pace Pace) ([]meta.Digest, error) {
	if kinds[0] == command.KindMetrics {
		m, err := MetricsDigest(ctx, d.samples, day, pace)
		return []meta.Digest{m}, err
	}
	logs, events, err := LinesDigest(ctx, d.lines, day, pace)
	var out []meta.Digest
	for _, k := range kinds {
		if k == command.KindEvents {
			out = append(out, events)
		} else {
			out = append(out, logs)
		}
	}
	return out, err
}

// dir tells the stores apart that follow each other when data is taken from another node.
func (d *deep) dir(kinds []command.Kind) string {
	if kinds[0] == command.KindMetrics {
		return d.samples.Dir()
	}
	return d.lines.Dir()
}

// compare reads a day of kinds that are in one store. A difference counts only when it is read twice from the store that is
// open then. An error says that nothing is known.
func (d *deep) compare(ctx context.Context, kinds []command.Kind, day int64, pace Pace) (out []Day, err error) {
	var last []Day
	for range tries {
		dir := d.dir(kinds)
		_, before, err := d.state.Settled(ctx)
		if err != nil {
			return nil, err
		}
		got, rerr := d.read(ctx, kinds, day, pace)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if rerr != nil && !d.spoilt(rerr) {
			return nil, rerr
		}
		_, after, err := d.state.Settled(ctx)
		if err != nil {
			return nil, err
		}
		out = out[:0:0]
		again, stable := false, make([]bool, len(kinds))
		replaced := d.dir(kinds) != dir // what was read says nothing of what is there now
		for i, kind := range kinds {
			var g meta.Digest
			if rerr == nil {
				g = got[i]
			}
			one := d.judge(kind, day, g, find(before, kind, day), find(after, kind, day), rerr)
			one.dir = dir
			if replaced && one.Verdict != Dropped {
				one.Verdict, one.Error, one.err = Changing, "", nil
			}
			out = append(out, one)
			stable[i] = one.Verdict != Differs || last != nil && last[i] == one
			again = again || one.Verdict == Changing || !stable[i]
		}
		last = slices.Clone(out)
		for i := range out { // each time something else: whatever it is, it does not stand still
			if !stable[i] {
				out[i].Verdict = Changing
			}
		}
		if !again {
			break
		}
	}
	return out, nil
}

func (d *deep) judge(kind command.Kind, day int64, got, before, after meta.Digest, rerr error) Day {
	out := Day{
		Kind: kind.String(), Day: day, Verdict: Equal, Count: got.Count, Sum: got.Sum.String(), Want: after.Count, WantSum: after.Sum.String(),
	}
	floor := d.state.Floor(kind)
	switch {
	case (day+1)*dayMs <= floor:
		out.Verdict = Dropped
	case rerr != nil:
		out.Verdict, out.Error, out.err = Damaged, rerr.Error(), rerr
	case before != after:
		out.Verdict = Changing
	case day*dayMs < floor:
		if out.Verdict = Partial; got.Count > after.Count {
			out.Verdict = Differs
		}
	case got != after:
		out.Verdict = Differs
	}
	if out.Verdict == Differs {
		out.Error = differs(&out).Error()
	}
	return out
}

// ErrDiffers says that a store does not answer what was accepted.
var ErrDiffers = errors.New("what is stored is not what was accepted")

func differs(d *Day) error {
	return fmt.Errorf("%w: %s: %d with digest %s are there, %d with %s were accepted", ErrDiffers, d.Place(), d.Count, d.Sum, d.Want, d.WantSum)
}

// Place names the day: "metrics of 2026-11-26".
func (d *Day) Place() string {
	return d.Kind + " of " + time.UnixMilli(d.Day*dayMs).UTC().Format(time.DateOnly)
}
