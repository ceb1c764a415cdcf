package logql

import (
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

// binary evaluates an operator.
func (ev *evaluation) binary(x *syntax.Binary, out emit) error {
	if v, ok := scalar(x); ok {
		return ev.constant(v, out)
	}
	l, left := scalar(x.Left)
	r, right := scalar(x.Right)
	switch {
	case isSet(x.Op) && (left || right):
		return badf("%s needs series on both sides", x.Op)
	case left:
		return ev.withScalar(x, x.Right, l, true, out)
	case right:
		return ev.withScalar(x, x.Left, r, false, out)
	}
	return ev.vectors(x, out)
}

// withScalar applies an operator to each series and a number. A comparison keeps the series for which it holds, with their
// own value.
func (ev *evaluation) withScalar(x *syntax.Binary, side syntax.Metric, num float64, first bool, out emit) error {
	var vec []point
	return ev.run(side, func(k int, in []point) error {
		vec = vec[:0]
		for _, p := range in {
			a, b := p.v, num
			if first {
				a, b = num, p.v
			}
			v, yes := operate(x.Op, a, b)
			switch {
			case x.Bool:
				v = boolean(yes)
			case !yes:
				continue
			case isComparison(x.Op):
				v = p.v
			}
			vec = append(vec, point{p.s, v})
		}
		return out(k, vec)
	})
}

// vectors applies an operator to series on both sides: it evaluates the left one first and holds it.
func (ev *evaluation) vectors(x *syntax.Binary, out emit) error {
	left := make([][]point, ev.grid.n)
	err := ev.run(x.Left, func(k int, in []point) error {
		if ev.held += len(in); ev.held > ev.limits.Result {
			return ev.tooMany(ev.held)
		}
		left[k] = slices.Clone(in)
		return nil
	})
	if err != nil {
		return err
	}
	m := &matching{ev: ev, x: x, by: map[*set]*set{}, made: map[[2]*set]*set{}, seen: map[*set]int{}, right: map[*set]found{}, left: map[*set]int{}}
	return ev.run(x.Right, func(k int, in []point) error {
		vec, err := m.step(k, left[k], in)
		ev.held -= len(left[k])
		left[k] = nil
		if err != nil {
			return err
		}
		return out(k, vec)
	})
}

// matching finds the series of two sides that belong together.
type matching struct {
	ev    *evaluation
	x     *syntax.Binary
	by    map[*set]*set // the labels by which a series is matched
	made  map[[2]*set]*set
	seen  map[*set]int // results, by the step (plus one) in which they were last made
	right map[*set]found
	left  map[*set]int
	vec   []point
}

type found struct {
	point
	step int
}

// signature returns the labels by which a series is matched.
func (m *matching) signature(s *set) *set {
	sig, ok := m.by[s]
	if !ok {
		sig = s
		if mm := m.x.Matching; mm != nil {
			sig = m.ev.intern(group(nil, s.labels, &syntax.Grouping{Without: !mm.On, Names: mm.Names}))
		}
		m.by[s] = sig
	}
	return sig
}

func (m *matching) step(k int, left, right []point) ([]point, error) {
	m.vec = m.vec[:0]
	if isSet(m.x.Op) {
		m.sets(k, left, right)
		return m.vec, nil
	}
	// the side with one series for each match is looked up in; the other one is gone through
	many, one, swapped := left, right, false
	if mm := m.x.Matching; mm != nil && mm.Group == "right" {
		many, one, swapped = right, left, true
	}
	for _, p := range one {
		sig := m.signature(p.s)
		if f, ok := m.right[sig]; ok && f.step == k+1 {
			return nil, badf("%s finds several series for the labels %s on the side that may have one: %s and %s", m.x.Op, labelText(sig.labels), labelText(f.s.labels), labelText(p.s.labels))
		}
		m.right[sig] = found{p, k + 1}
	}
	grouped := m.x.Matching != nil && m.x.Matching.Group != ""
	for _, p := range many {
		sig := m.signature(p.s)
		f, ok := m.right[sig]
		if !ok || f.step != k+1 {
			continue
		}
		a, b := p.v, f.v
		if swapped {
			a, b = b, a
		}
		v, yes := operate(m.x.Op, a, b)
		if m.x.Bool {
			v = boolean(yes)
		} else if !yes {
			continue
		}
		if !grouped && m.left[sig] == k+1 {
			return nil, badf("%s finds several series for the labels %s on the left: use group_left to allow that", m.x.Op, labelText(sig.labels))
		}
		m.left[sig] = k + 1
		to := m.result(p.s, f.s)
		if m.seen[to] == k+1 {
			return nil, badf("%s makes several series with the labels %s", m.x.Op, labelText(to.labels))
		}
		m.seen[to] = k + 1
		m.vec = append(m.vec, point{to, v})
	}
	return m.vec, nil
}

// result returns the labels of a result: those matched by, or those of the side with many and what is taken over.
func (m *matching) result(many, one *set) *set {
	key := [2]*set{many, one}
	to, ok := m.made[key]
	if ok {
		return to
	}
	to = many
	if mm := m.x.Matching; mm != nil && mm.Group == "" {
		to = m.signature(many)
	} else if mm != nil {
		var ls wire.Labels = many.labels
		for _, n := range mm.Include {
			ls = with(ls, n, one.labels.Get(n))
		}
		to = m.ev.intern(ls)
	}
	m.made[key] = to
	return to
}

// sets does and, or, unless.
func (m *matching) sets(k int, left, right []point) {
	for _, p := range right {
		m.right[m.signature(p.s)] = found{p, k + 1}
	}
	for _, p := range left {
		f, ok := m.right[m.signature(p.s)]
		has := ok && f.step == k+1
		m.left[m.signature(p.s)] = k + 1
		if m.x.Op == "or" || has == (m.x.Op == "and") {
			m.vec = append(m.vec, p)
		}
	}
	if m.x.Op == "or" {
		for _, p := range right {
			if m.left[m.signature(p.s)] != k+1 {
				m.vec = append(m.vec, p)
			}
		}
	}
}
