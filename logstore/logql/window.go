package logql

import (
	"math"
	"slices"

	"github.com/triward/triward/logstore/logql/syntax"
)

// agg is what a range function keeps of some samples that follow each other. Two of them can be put together, the older one
// first, which gives the same as taking all their samples one by one.
type agg struct {
	n      float64 // samples
	v, w   float64 // sum and its lost digits; or mean and squares; or the extreme; or first and last
	t0, t1 int64   // of first and last
	up     float64 // rate_counter: increase between first and last
	all    []float64
}

// fold says how a function puts things together, and what comes out.
type fold struct {
	one    func(t int64, v float64) agg
	join   func(a, b agg) agg // a is older
	result func(a *agg, w span) float64
	keeps  bool // holds every value
}

// span is a window: (from, to], and its length in seconds.
type span struct {
	from, to int64
	seconds  float64
}

func single(t int64, v float64) agg { return agg{n: 1, v: v, w: v, t0: t, t1: t} }

func sumOne(_ int64, v float64) agg { return agg{n: 1, v: v} }

// sumJoin adds with the digits that a plain addition loses (Neumaier).
func sumJoin(a, b agg) agg {
	out := agg{n: a.n + b.n, v: a.v + b.v, w: a.w + b.w}
	switch {
	case math.IsInf(out.v, 0) || math.IsNaN(out.v):
		out.w = 0
	case math.Abs(a.v) >= math.Abs(b.v):
		out.w += (a.v - out.v) + b.v
	default:
		out.w += (b.v - out.v) + a.v
	}
	return out
}

func total(a *agg) float64 { return a.v + a.w }

func varianceJoin(a, b agg) agg { // Chan et al.
	n := a.n + b.n
	d := b.v - a.v
	return agg{n: n, v: a.v + d*b.n/n, w: a.w + b.w + d*d*a.n*b.n/n}
}

func extreme(better func(a, b float64) bool) func(a, b agg) agg {
	return func(a, b agg) agg {
		n := a.n + b.n
		if better(b.v, a.v) || math.IsNaN(a.v) {
			a = b
		}
		a.n = n
		return a
	}
}

var folds = map[syntax.RangeOp]fold{
	syntax.OpSum: {one: sumOne, join: sumJoin, result: func(a *agg, _ span) float64 { return total(a) }},
	syntax.OpAvg: {one: sumOne, join: sumJoin, result: func(a *agg, _ span) float64 { return total(a) / a.n }},
	syntax.OpRate: {one: sumOne, join: sumJoin, result: func(a *agg, w span) float64 {
		return total(a) / w.seconds
	}},
	syntax.OpMin: {
		one: sumOne, join: extreme(func(a, b float64) bool { return a < b }),
		result: func(a *agg, _ span) float64 { return a.v },
	},
	syntax.OpMax: {
		one: sumOne, join: extreme(func(a, b float64) bool { return a > b }),
		result: func(a *agg, _ span) float64 { return a.v },
	},
	syntax.OpFirst: {
		one: single, join: func(a, b agg) agg { a.n += b.n; return a },
		result: func(a *agg, _ span) float64 { return a.v },
	},
	syntax.OpLast: {
		one: single, join: func(a, b agg) agg { b.n += a.n; return b },
		result: func(a *agg, _ span) float64 { return a.v },
	},
	syntax.OpStdvar:      {one: sumOne, join: varianceJoin, result: func(a *agg, _ span) float64 { return a.w / a.n }},
	syntax.OpStddev:      {one: sumOne, join: varianceJoin, result: func(a *agg, _ span) float64 { return math.Sqrt(a.w / a.n) }},
	syntax.OpRateCounter: {one: single, join: counterJoin, result: counterRate},
	syntax.OpQuantile: {
		keeps: true,
		one:   func(_ int64, v float64) agg { return agg{n: 1, all: []float64{v}} },
		join:  func(a, b agg) agg { return agg{n: a.n + b.n, all: append(a.all, b.all...)} },
	},
}

// counterJoin counts a fall as a start from 0.
func counterJoin(a, b agg) agg {
	step := b.v - a.w
	if b.v < a.w {
		step = b.v
	}
	return agg{n: a.n + b.n, v: a.v, w: b.w, t0: a.t0, t1: b.t1, up: a.up + step + b.up}
}

// counterRate is the increase per second over the window, extended to its ends as Prometheus' rate does: up to the end when
// the last sample is near it, otherwise half a distance between samples; not below zero at the beginning.
func counterRate(a *agg, w span) float64 {
	if a.n < 2 || a.t1 == a.t0 {
		return math.NaN()
	}
	const ns = 1e9
	sampled := float64(a.t1-a.t0) / ns
	mean := sampled / (a.n - 1)
	start, end := float64(a.t0-w.from)/ns, float64(w.to-a.t1)/ns
	if start >= mean*1.1 {
		start = mean / 2
	}
	if a.up > 0 && a.v >= 0 {
		start = min(start, sampled*(a.v/a.up))
	}
	if end >= mean*1.1 {
		end = mean / 2
	}
	return a.up * ((sampled + start + end) / sampled) / w.seconds
}

// quantile interpolates between the values next to it.
func quantile(q float64, values []float64) float64 {
	switch {
	case len(values) == 0 || math.IsNaN(q):
		return math.NaN()
	case q < 0:
		return math.Inf(-1)
	case q > 1:
		return math.Inf(1)
	}
	slices.Sort(values) // NaN first
	rank := q * float64(len(values)-1)
	low := math.Floor(rank)
	i := int(low)
	k := min(i+1, len(values)-1)
	weight := rank - low
	return values[i]*(1-weight) + values[k]*weight
}

// pane is samples that enter and leave the windows together.
type pane struct {
	last int // the last step whose window holds them
	agg
}

// window is a queue of panes that knows what all of them make together. Panes go in at the back and out at the front; each
// is put together with others about twice, however long the queue is.
type window struct {
	front []pane // turned around: the last one is the oldest, and holds it and all behind it in front together
	raw   []pane // the back, oldest first
	back  agg    // all of raw together
}

func (w *window) empty() bool { return len(w.front) == 0 && len(w.raw) == 0 }

// add puts a sample in, whose last step is `last`. It returns how many panes more there are.
func (w *window) add(f *fold, last int, a agg) int {
	grown := 0
	if n := len(w.raw); n > 0 && w.raw[n-1].last == last {
		w.raw[n-1].agg = f.join(w.raw[n-1].agg, a)
	} else {
		w.raw = append(w.raw, pane{last, a})
		grown = 1
	}
	if w.back.n == 0 {
		w.back = agg{n: a.n, v: a.v, w: a.w, t0: a.t0, t1: a.t1, up: a.up}
	} else if !f.keeps {
		w.back = f.join(w.back, a)
	}
	return grown
}

// drop takes out the panes whose last step is before k, and returns how many.
func (w *window) drop(f *fold, k int) (gone int) {
	for {
		if len(w.front) == 0 {
			w.turn(f)
		}
		n := len(w.front)
		if n == 0 || w.front[n-1].last >= k {
			return gone
		}
		w.front = w.front[:n-1]
		gone++
	}
}

func (w *window) turn(f *fold) {
	for i := len(w.raw) - 1; i >= 0; i-- {
		p := w.raw[i]
		if n := len(w.front); n > 0 && !f.keeps {
			p.agg = f.join(p.agg, w.front[n-1].agg)
		}
		w.front = append(w.front, p)
	}
	w.raw, w.back = w.raw[:0], agg{}
}

// sum returns all panes together.
func (w *window) sum(f *fold) agg {
	n := len(w.front)
	switch {
	case n == 0:
		return w.back
	case w.back.n == 0:
		return w.front[n-1].agg
	}
	return f.join(w.front[n-1].agg, w.back)
}

// values appends all values of a window that keeps them.
func (w *window) values(dst []float64) []float64 {
	for i := range w.front {
		dst = append(dst, w.front[i].all...)
	}
	for i := range w.raw {
		dst = append(dst, w.raw[i].all...)
	}
	return dst
}

// held returns the number of values of a window that keeps them.
func (w *window) held() (n int) {
	for i := range w.front {
		n += len(w.front[i].all)
	}
	for i := range w.raw {
		n += len(w.raw[i].all)
	}
	return n
}
