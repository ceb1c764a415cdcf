package logql

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

// grid is the times of a query: n of them.
type grid struct {
	start, step int64
	n           int
}

func (g grid) at(k int) int64 { return g.start + int64(k)*g.step }

// set is the labels of a series. Within one evaluation equal labels are one set, so that places can be compared.
type set struct {
	labels wire.Labels
	key    string
}

// point is what a series has at a step.
type point struct {
	s *set
	v float64
}

// emit receives the series of one step. Steps come in order, each once; vec is valid only during the call.
type emit func(k int, vec []point) error

// evaluation is one run of a query for numbers.
type evaluation struct {
	e      *Engine
	ctx    context.Context
	grid   grid
	limits Limits
	sets   map[string]*set
	buf    []byte
	stats  Stats
	taken  int64 // lines that functions over ranges took
	held   int   // points of the left sides of operators, all at hand
	memory int64 // of the windows at hand, and the labels of all series
}

// metric answers a query for numbers.
func (e *Engine) metric(ctx context.Context, x syntax.Metric, g grid, l Limits, instant bool) (*Result, error) {
	ev := &evaluation{e: e, ctx: ctx, grid: g, limits: l, sets: map[string]*set{}}
	if v, ok := scalar(x); ok {
		return scalarResult(v, g, instant), nil
	}
	var out []*Series
	at := map[*set]*Series{}
	points := 0
	err := ev.run(x, func(k int, vec []point) error {
		if points += len(vec); points > l.Result {
			return ev.tooMany(points)
		}
		for _, p := range vec {
			s, ok := at[p.s]
			if !ok {
				s = &Series{Labels: p.s.labels}
				at[p.s] = s
				out = append(out, s)
			}
			s.Points = append(s.Points, Point{g.at(k), p.v})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := &Result{Kind: Matrix, Stats: ev.stats}
	if instant {
		r.Kind = Vector
		for _, s := range out {
			r.Vector = append(r.Vector, Sample{s.Labels, s.Points[0]})
		}
		if !ordered(x) {
			slices.SortFunc(r.Vector, func(a, b Sample) int { return compareLabels(a.Labels, b.Labels) })
		}
		return r.done(), nil
	}
	for _, s := range out {
		r.Matrix = append(r.Matrix, *s)
	}
	slices.SortFunc(r.Matrix, func(a, b Series) int { return compareLabels(a.Labels, b.Labels) })
	return r.done(), nil
}

func (ev *evaluation) tooMany(n int) error {
	return &LimitError{fmt.Sprintf("the answer, or what its operators hold on their way, has more than %d points (%d at least)", ev.limits.Result, n), "use a longer step, a shorter time or fewer series, such as with sum by (…)"}
}

// ordered reports whether the order of the series at one time is part of the answer.
func ordered(x syntax.Metric) bool {
	v, ok := x.(*syntax.Vector)
	if !ok {
		return false
	}
	switch v.Op {
	case syntax.AggSort, syntax.AggSortDesc, syntax.AggTopK, syntax.AggBottomK, syntax.AggApprox:
		return true
	}
	return false
}

func scalarResult(v float64, g grid, instant bool) *Result {
	if instant {
		return &Result{Kind: Scalar, Scalar: Point{g.start, v}}
	}
	s := Series{Points: make([]Point, g.n)}
	for k := range s.Points {
		s.Points[k] = Point{g.at(k), v}
	}
	return &Result{Kind: Matrix, Matrix: []Series{s}}
}

// intern returns the set of sorted labels; it copies labels it has not seen.
func (ev *evaluation) intern(ls wire.Labels) *set {
	ev.buf = appendKey(ev.buf[:0], ls)
	s, ok := ev.sets[string(ev.buf)]
	if !ok {
		s = &set{cloneLabels(ls), string(ev.buf)}
		ev.sets[s.key] = s
		ev.memory += 2*int64(len(s.key)) + labelBytes*int64(len(ls)) // whoever asks for series looks at it
	}
	return s
}

// scalar returns the value of an expression of plain numbers.
func scalar(x syntax.Metric) (float64, bool) {
	switch x := x.(type) {
	case *syntax.Number:
		return x.Value, true
	case *syntax.Binary:
		if l, ok := scalar(x.Left); ok && !isSet(x.Op) {
			if r, ok := scalar(x.Right); ok {
				v, yes := operate(x.Op, l, r)
				if isComparison(x.Op) {
					v = boolean(yes)
				}
				return v, true
			}
		}
	}
	return 0, false
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// run evaluates an expression step by step.
func (ev *evaluation) run(x syntax.Metric, out emit) error {
	switch x := x.(type) {
	case *syntax.Range:
		return ev.overRange(x, nil, out)
	case *syntax.Vector:
		return ev.aggregate(x, out)
	case *syntax.Binary:
		return ev.binary(x, out)
	case *syntax.LabelReplace:
		return ev.labelReplace(x, out)
	case *syntax.Number: // a number where series are needed stands for one without labels
		return ev.constant(x.Value, out)
	case *syntax.Constant:
		return ev.constant(x.Value, out)
	}
	return badf("expression %T is not known", x)
}

func (ev *evaluation) err() error {
	if ev.ctx.Err() != nil {
		return fmt.Errorf("log query: %w", context.Cause(ev.ctx))
	}
	return nil
}

func (ev *evaluation) constant(v float64, out emit) error {
	vec := []point{{ev.intern(nil), v}}
	for k := range ev.grid.n {
		if err := out(k, vec); err != nil {
			return err
		}
	}
	return ev.err()
}

// labelReplace sets a label from another one where the expression matches all of it.
func (ev *evaluation) labelReplace(x *syntax.LabelReplace, out emit) error {
	re, err := regexp.Compile("^(?s:" + x.Regex + ")$")
	if err != nil {
		return badf("label_replace: %v", err)
	}
	made := map[*set]*set{}
	seen := map[*set]int{}
	var vec []point
	return ev.run(x.Expr, func(k int, in []point) error {
		vec = vec[:0]
		for _, p := range in {
			to, ok := made[p.s]
			if !ok {
				to = p.s
				src := p.s.labels.Get(x.Src)
				if m := re.FindStringSubmatchIndex(src); m != nil {
					to = ev.intern(with(p.s.labels, x.Dst, string(re.ExpandString(nil, x.Replacement, src, m))))
				}
				made[p.s] = to
			}
			if last, ok := seen[to]; ok && last == k+1 {
				return badf("label_replace makes several series with the labels %s", labelText(to.labels))
			}
			seen[to] = k + 1
			vec = append(vec, point{to, p.v})
		}
		return out(k, vec)
	})
}

// with returns labels with one of them set, or taken away when the value is "".
func with(ls wire.Labels, name, value string) wire.Labels {
	out := make(wire.Labels, 0, len(ls)+1)
	for _, l := range ls {
		if l.Name != name {
			out = append(out, l)
		}
	}
	if value != "" {
		out = append(out, wire.Label{Name: name, Value: value})
		slices.SortFunc(out, byName)
	}
	return out
}

// group returns the labels by which series are put together.
func group(dst wire.Labels, ls wire.Labels, g *syntax.Grouping) wire.Labels {
	for _, l := range ls {
		if (g != nil && slices.Contains(g.Names, l.Name)) != (g != nil && g.Without) && g != nil {
			dst = append(dst, l)
		}
	}
	return dst
}

func operate(op string, a, b float64) (v float64, yes bool) {
	switch op {
	case "+":
		return a + b, true
	case "-":
		return a - b, true
	case "*":
		return a * b, true
	case "/":
		if b == 0 {
			return math.NaN(), true
		}
		return a / b, true
	case "%":
		if b == 0 {
			return math.NaN(), true
		}
		return math.Mod(a, b), true
	case "^":
		return math.Pow(a, b), true
	case "==":
		return a, a == b
	case "!=":
		return a, a != b
	case ">":
		return a, a > b
	case ">=":
		return a, a >= b
	case "<":
		return a, a < b
	}
	return a, a <= b
}

func isSet(op string) bool { return op == "and" || op == "or" || op == "unless" }

func isComparison(op string) bool {
	switch op {
	case "==", "!=", ">", ">=", "<", "<=":
		return true
	}
	return false
}
