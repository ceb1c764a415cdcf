package meta

import (
	"encoding/binary"
	"math"

	"github.com/triward/triward/agent/wire"
)

// timeline says which time stamps a series holds, within the window in which samples may come late. Series
// scraped together share one: it never changes once a series refers to it, and a scrape moves them all from
// one to its successor. The memo fields belong to the apply goroutine and are no state.
//
// The newest time stamps are a run (start, step, count), which a scrape at an even interval extends. Older and
// late ones are further runs, written out in `older`, at most maxRuns. When there are more the oldest goes and
// floor rises to its end: what lies at or below floor is no longer known and refused.
type timeline struct {
	start  int64
	floor  int64
	step   uint32
	count  uint32 // 0: the series holds no sample; start is when it was registered
	older  string // runs before the newest, ascending; see encodeRuns
	nOlder uint16

	memo    int32
	memoGen uint64
}

const (
	maxRuns = 128
	maxStep = math.MaxUint32
	noFloor = math.MinInt64
)

// emptyTimeline is that of series registered at the log time at.
func emptyTimeline(at int64) *timeline { return &timeline{start: at, floor: noFloor} }

// last is the newest time stamp, or when the series was registered.
func (tl *timeline) last() int64 { return tl.newest().end() }

func (tl *timeline) newest() run { return run{tl.start, int64(tl.step), int64(tl.count)} }

// run is a set of time stamps: start, start+step, ... n of them.
type run struct{ start, step, n int64 }

func (r run) end() int64 { return r.start + r.step*(r.n-1) }

func (r run) has(t int64) bool {
	if t == r.start {
		return true
	}
	return r.step > 0 && t > r.start && t <= r.end() && (t-r.start)%r.step == 0
}

// extended returns the run with t, which lies behind its end, when that is one run still.
func (r run) extended(t int64) (run, bool) {
	switch {
	case r.n == 1 && t-r.start <= maxStep:
		return run{r.start, t - r.start, 2}, true
	case r.n > 1 && r.n < math.MaxUint32 && t == r.end()+r.step:
		return run{r.start, r.step, r.n + 1}, true
	}
	return r, false
}

type verdict uint8

const (
	verdictAccept verdict = iota
	verdictDuplicate
	verdictLate
)

// place decides on a sample at t and returns what follows tl when it is accepted. Runs that end before oldest
// are forgotten on the way: no sample there is asked for any more.
func (tl *timeline) place(t, oldest int64) (*timeline, verdict) {
	if tl.count == 0 {
		return &timeline{start: t, count: 1, floor: tl.floor}, verdictAccept
	}
	newest := tl.newest()
	switch {
	case t > newest.end():
		if r, ok := newest.extended(t); ok {
			return &timeline{
				start: r.start, step: uint32(r.step), count: uint32(r.n), floor: tl.floor,
				older: tl.older, nOlder: tl.nOlder,
			}, verdictAccept
		}
		runs := append(tl.runs(1), run{t, 0, 1})
		return tl.with(runs, oldest), verdictAccept
	case t <= tl.floor:
		return nil, verdictLate
	case newest.has(t):
		return nil, verdictDuplicate
	}
	runs, fresh := insert(tl.runs(2), t)
	if !fresh {
		return nil, verdictDuplicate
	}
	return tl.with(runs, oldest), verdictAccept
}

// runs returns all runs in ascending order, with room for spare more.
func (tl *timeline) runs(spare int) []run {
	out := decodeRuns(make([]run, 0, int(tl.nOlder)+1+spare), tl.older)
	return append(out, tl.newest())
}

// with returns the successor of tl that holds runs.
func (tl *timeline) with(runs []run, oldest int64) *timeline {
	floor := tl.floor
	for len(runs) > 1 && runs[0].end() < oldest {
		runs = runs[1:]
	}
	for len(runs) > maxRuns+1 {
		floor = max(floor, runs[0].end())
		runs = runs[1:]
	}
	n := len(runs) - 1
	newest := runs[n]
	return &timeline{
		start: newest.start, step: uint32(newest.step), count: uint32(newest.n), floor: floor,
		older: encodeRuns(runs[:n]), nOlder: uint16(n),
	}
}

// insert puts t, which does not lie behind the last run, into runs and reports whether it was not there.
func insert(runs []run, t int64) ([]run, bool) {
	j := len(runs) - 1
	for j >= 0 && runs[j].start > t {
		j--
	}
	if j >= 0 && t <= runs[j].end() {
		r := runs[j]
		if r.has(t) {
			return runs, false
		}
		left := run{r.start, r.step, (t-r.start)/r.step + 1}
		right := run{left.end() + r.step, r.step, r.n - left.n}
		runs = append(runs, run{}, run{})
		copy(runs[j+3:], runs[j+1:])
		runs[j], runs[j+1], runs[j+2] = left.normal(), run{t, 0, 1}, right.normal()
		return runs, true
	}
	if j >= 0 {
		if r, ok := runs[j].extended(t); ok {
			runs[j] = r
			return joined(runs, j), true
		}
	}
	if k := j + 1; k < len(runs) {
		if r := runs[k]; r.n > 1 && r.n < math.MaxUint32 && t == r.start-r.step {
			runs[k] = run{t, r.step, r.n + 1}
			return runs, true
		}
	}
	runs = append(runs, run{})
	copy(runs[j+2:], runs[j+1:])
	runs[j+1] = run{t, 0, 1}
	return runs, true
}

// normal gives a run of one time stamp no step.
func (r run) normal() run {
	if r.n == 1 {
		r.step = 0
	}
	return r
}

// joined makes one run of the j-th and its successor when they continue each other.
func joined(runs []run, j int) []run {
	if j+1 >= len(runs) {
		return runs
	}
	a, b := runs[j], runs[j+1]
	if a.n < 2 || b.start != a.end()+a.step || (b.n > 1 && b.step != a.step) || a.n+b.n > math.MaxUint32 {
		return runs
	}
	runs[j] = run{a.start, a.step, a.n + b.n}
	return append(runs[:j+1], runs[j+2:]...)
}

// encodeRuns writes runs: the first start as varint, every other as uvarint behind the end of the run before;
// step and count as uvarints.
func encodeRuns(runs []run) string {
	if len(runs) == 0 {
		return ""
	}
	dst := make([]byte, 0, 8+6*len(runs))
	for i, r := range runs {
		if i == 0 {
			dst = binary.AppendVarint(dst, r.start)
		} else {
			dst = binary.AppendUvarint(dst, uint64(r.start-runs[i-1].end()))
		}
		dst = binary.AppendUvarint(dst, uint64(r.step))
		dst = binary.AppendUvarint(dst, uint64(r.n))
	}
	return string(dst)
}

// decodeRuns appends the runs in s to dst. It stops where s is not what encodeRuns writes.
func decodeRuns(dst []run, s string) []run {
	f := fields{b: []byte(s)}
	for i := 0; len(f.b) > 0; i++ {
		var r run
		if i == 0 {
			r.start = f.varint("start")
		} else {
			r.start = dst[len(dst)-1].end() + int64(f.uvarint("gap"))
		}
		r.step = int64(f.uvarint("step"))
		r.n = int64(f.uvarint("count"))
		if f.err != nil {
			break
		}
		dst = append(dst, r)
	}
	return dst
}

// append writes the timeline for the file.
func (tl *timeline) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(tl.count))
	dst = binary.AppendVarint(dst, tl.start)
	dst = binary.AppendUvarint(dst, uint64(tl.step))
	if tl.floor == noFloor {
		dst = append(dst, 0)
	} else {
		dst = append(dst, 1)
		dst = binary.AppendVarint(dst, tl.floor)
	}
	dst = binary.AppendUvarint(dst, uint64(tl.nOlder))
	return wire.AppendString(dst, tl.older)
}

func (f *fields) timeline() *timeline {
	tl := &timeline{floor: noFloor}
	tl.count = uint32(f.uvarint("count of a run"))
	tl.start = f.varint("start of a run")
	tl.step = uint32(f.uvarint("step of a run"))
	if f.uvarint("floor flag") == 1 {
		tl.floor = f.varint("late floor")
	}
	tl.nOlder = uint16(f.uvarint("count of older runs"))
	tl.older = string(f.prefixed("older runs"))
	return tl
}
