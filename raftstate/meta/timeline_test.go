package meta

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// A timeline must say of every time stamp what a plain set says, as long as its late floor lies below.
func TestTimelineAgainstSet(t *testing.T) {
	shapes := map[string]func(r *rand.Rand, i int, last int64) int64{
		"even":     func(_ *rand.Rand, i int, _ int64) int64 { return int64(i) * 15000 },
		"jittered": func(r *rand.Rand, i int, _ int64) int64 { return int64(i)*15000 + r.Int64N(20) },
		"backfill": func(_ *rand.Rand, i int, _ int64) int64 {
			if i%2 == 0 {
				return 10_000_000 + int64(i)*500
			}
			return int64(i) * 1000
		},
		"descending":  func(_ *rand.Rand, i int, _ int64) int64 { return 5_000_000 - int64(i)*10 },
		"small range": func(r *rand.Rand, _ int, _ int64) int64 { return r.Int64N(400) },
		"outages": func(r *rand.Rand, _ int, last int64) int64 {
			if r.IntN(20) == 0 {
				return last + r.Int64N(100_000)
			}
			return last + 10
		},
		"late now and then": func(r *rand.Rand, _ int, last int64) int64 {
			if r.IntN(10) == 0 {
				return last - r.Int64N(3000)
			}
			return last + 15
		},
	}
	for name, next := range shapes {
		for seed := range uint64(20) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				checkTimeline(t, rand.New(rand.NewPCG(seed, 1)), next)
			})
		}
	}
}

func checkTimeline(t *testing.T, r *rand.Rand, next func(r *rand.Rand, i int, last int64) int64) {
	held := make(map[int64]bool)
	tl := emptyTimeline(0)
	var last int64
	for i := range 1500 {
		at := next(r, i, last)
		if tl.count > 0 {
			last = tl.last()
		}
		to, v := tl.place(at, noFloor)
		switch {
		case v == verdictLate:
			if at > tl.floor {
				t.Fatalf("step %d: %d called late above the floor %d", i, at, tl.floor)
			}
		case v == verdictDuplicate:
			if !held[at] {
				t.Fatalf("step %d: %d called a duplicate, it is not there: %v", i, at, tl.runs(0))
			}
		case held[at]:
			t.Fatalf("step %d: %d accepted twice: %v", i, at, tl.runs(0))
		default:
			held[at] = true
			if to.floor < tl.floor {
				t.Fatalf("step %d: floor went from %d to %d", i, tl.floor, to.floor)
			}
			tl = to
		}
		f := fields{b: tl.append(nil)}
		if back := f.timeline(); f.end("timeline") != nil || *sameMemo(back, tl) != *tl {
			t.Fatalf("step %d: %+v was read back as %+v", i, tl, back)
		}
		if int(tl.nOlder) > maxRuns {
			t.Fatalf("step %d: %d older runs", i, tl.nOlder)
		}
	}
	known := 0
	for _, r := range tl.runs(0) {
		for k := range r.n {
			if !held[r.start+k*r.step] {
				t.Fatalf("%d is in a run but was never accepted", r.start+k*r.step)
			}
			known++
		}
	}
	for at := range held {
		if at > tl.floor {
			known--
		}
	}
	if known < 0 {
		t.Fatalf("%d accepted time stamps above the floor were forgotten", -known)
	}
}

func sameMemo(tl, like *timeline) *timeline {
	tl.memo, tl.memoGen = like.memo, like.memoGen
	return tl
}

func TestTimelineForgetsBeyondTheWindow(t *testing.T) {
	tl := emptyTimeline(0)
	for i := range int64(50) {
		tl, _ = tl.place(i*i*100, noFloor)
	}
	if tl.nOlder < 10 {
		t.Fatalf("%d older runs, the test wants many", tl.nOlder)
	}
	tl, v := tl.place(1_000_000, 900_000)
	if v != verdictAccept || tl.nOlder > 1 || tl.floor != noFloor {
		t.Errorf("%v: %+v", v, tl)
	}
}
