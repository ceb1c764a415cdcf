package logql

import (
	"cmp"
	"math"
	"slices"

	"github.com/triward/triward/logstore/logql/syntax"
)

// groupOf is the series that one aggregation puts together.
type groupOf struct {
	*set
	step int // the last step, plus one, in which it has series
	n    float64
	v, w float64
	all  []point
}

// aggregate evaluates an aggregation over series.
func (ev *evaluation) aggregate(x *syntax.Vector, out emit) error {
	if r, ok := x.Expr.(*syntax.Range); ok && x.Op == syntax.AggSum && !ev.e.wide && early(r) {
		g := x.Grouping
		if g == nil {
			g = &syntax.Grouping{}
		}
		return ev.overRange(r, g, out)
	}
	a := &aggregation{ev: ev, x: x, of: map[*set]*groupOf{}, groups: map[*set]*groupOf{}}
	return ev.run(x.Expr, func(k int, in []point) error { return out(k, a.step(k, in)) })
}

// early reports whether the sum of a function's series is the function of all their lines together. Of absent_over_time it
// is not.
func early(r *syntax.Range) bool { return counts(r) && r.Op != syntax.OpAbsent }

type aggregation struct {
	ev     *evaluation
	x      *syntax.Vector
	of     map[*set]*groupOf
	groups map[*set]*groupOf
	active []*groupOf
	vec    []point
}

// step aggregates the series of one step.
func (a *aggregation) step(k int, in []point) []point {
	a.active, a.vec = a.active[:0], a.vec[:0]
	switch a.x.Op {
	case syntax.AggSort, syntax.AggSortDesc:
		a.vec = append(a.vec, in...)
		order(a.vec, a.x.Op == syntax.AggSortDesc)
		return a.vec
	}
	for _, p := range in {
		g := a.group(p.s)
		if g.step != k+1 {
			g.step, g.n, g.v, g.w, g.all = k+1, 0, 0, 0, g.all[:0]
			a.active = append(a.active, g)
		}
		a.take(g, p)
	}
	for _, g := range a.active {
		switch a.x.Op {
		case syntax.AggTopK, syntax.AggBottomK, syntax.AggApprox:
			order(g.all, a.x.Op != syntax.AggBottomK)
			a.vec = append(a.vec, g.all[:min(len(g.all), a.x.Param)]...)
		default:
			a.vec = append(a.vec, point{g.set, a.result(g)})
		}
	}
	return a.vec
}

func (a *aggregation) group(s *set) *groupOf {
	g, ok := a.of[s]
	if !ok {
		to := a.ev.intern(group(nil, s.labels, a.x.Grouping))
		if g, ok = a.groups[to]; !ok {
			g = &groupOf{set: to}
			a.groups[to] = g
		}
		a.of[s] = g
	}
	return g
}

func (a *aggregation) take(g *groupOf, p point) {
	g.n++
	switch a.x.Op {
	case syntax.AggSum, syntax.AggAvg:
		s := sumJoin(agg{v: g.v, w: g.w}, agg{v: p.v})
		g.v, g.w = s.v, s.w
	case syntax.AggMin:
		if g.n == 1 || p.v < g.v || math.IsNaN(g.v) {
			g.v = p.v
		}
	case syntax.AggMax:
		if g.n == 1 || p.v > g.v || math.IsNaN(g.v) {
			g.v = p.v
		}
	case syntax.AggStddev, syntax.AggStdvar:
		d := p.v - g.v
		g.v += d / g.n
		g.w += d * (p.v - g.v)
	case syntax.AggTopK, syntax.AggBottomK, syntax.AggApprox:
		g.all = append(g.all, p)
	}
}

func (a *aggregation) result(g *groupOf) float64 {
	switch a.x.Op {
	case syntax.AggSum:
		return g.v + g.w
	case syntax.AggAvg:
		return (g.v + g.w) / g.n
	case syntax.AggCount:
		return g.n
	case syntax.AggStdvar:
		return g.w / g.n
	case syntax.AggStddev:
		return math.Sqrt(g.w / g.n)
	}
	return g.v
}

// order sorts by value, NaN last, and equal values by labels so that all nodes answer alike.
func order(ps []point, greatest bool) {
	slices.SortFunc(ps, func(a, b point) int {
		if x, y := math.IsNaN(a.v), math.IsNaN(b.v); x != y {
			return int(boolean(x) - boolean(y))
		}
		c := cmp.Compare(a.v, b.v)
		if greatest {
			c = -c
		}
		if c != 0 {
			return c
		}
		return compareLabels(a.s.labels, b.s.labels)
	})
}
