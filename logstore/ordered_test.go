package logstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/triward/triward/agent/wire"
)

func (r *Row) clone() Row {
	c := *r
	c.Fields, c.Text = cloneFields(r.Fields), slices.Clone(r.Text)
	return c
}

// checkWalk walks over the lines with windows so small that there are many, now and then with a new snapshot after each
// day, and begun anew behind some line.
func (m *model) checkWalk(t *testing.T, s *Store, req Request, q question, want []Row) {
	t.Helper()
	defer func(b bounds) { s.bounds = b }(s.bounds)
	s.bounds.window = 3000 << m.rng.IntN(8)
	if m.rng.IntN(2) == 0 {
		s.bounds.pass = 0
	}
	req.Limit = 0
	if m.rng.IntN(3) == 0 {
		req.Limit = 1 + m.rng.IntN(len(want)+1)
		want = want[:min(req.Limit, len(want))]
	}
	var got []Row
	stop := errors.New("enough")
	until := m.rng.IntN(2 * (len(want) + 1))
	take := func(r *Row) error {
		got = append(got, r.clone())
		if len(got) == until {
			return stop
		}
		return nil
	}
	st, err := s.Walk(t.Context(), req, take)
	if errors.Is(err, stop) { // the line at which it stopped is asked for again
		got, until = got[:len(got)-1], -1
		if req.Limit > 0 {
			req.Limit -= len(got)
		}
		if req.Cursor = ""; len(got) > 0 {
			req.Cursor = CursorOf(&got[len(got)-1])
		}
		st, err = s.Walk(t.Context(), req, take)
	}
	if err != nil || st.Partial || st.Expired {
		t.Fatalf("walk %q: %v %+v", q.text, err, st)
	}
	if len(got) != len(want) {
		t.Fatalf("walk %q %+v: %d rows, want %d; %s", q.text, req, len(got), len(want), firstDifference(got, want))
	}
	for i := range got {
		if !sameRow(&got[i], &want[i]) {
			t.Fatalf("walk %q: row %d is %+v, want %+v", q.text, i, got[i], want[i])
		}
	}
	if req.Limit > 0 {
		return
	}
	req.Direction, req.Cursor, got, until = AnyOrder, "", nil, 0
	if st, err = s.Walk(t.Context(), req, take); err != nil || len(got) != len(want) {
		t.Fatalf("walk %q in any order: %d rows, want %d; %s: %v", q.text, len(got), len(want), firstDifference(got, want), err)
	}
	if st.Considered != st.SkippedHeader+st.SkippedIndex+st.SkippedFilter+st.SkippedTemplates+st.Counted+st.Blocks {
		t.Fatalf("walk %q: blocks do not add up: %+v", q.text, st)
	}
	slices.SortFunc(got, func(a, b Row) int { return a.Position.Compare(b.Position) })
	want = slices.Clone(want)
	slices.SortFunc(want, func(a, b Row) int { return a.Position.Compare(b.Position) })
	for i := range got {
		if !sameRow(&got[i], &want[i]) {
			t.Fatalf("walk %q in any order: row %d is %+v, want %+v", q.text, i, got[i], want[i])
		}
	}
}

// checkHitsBy counts by a field, now and then with room for so few values that it must go over the lines again.
func (m *model) checkHitsBy(t *testing.T, s *Store, req Request, q question, want []Row) {
	t.Helper()
	field := []string{"host", "user", "code", "severity", "kind", "nothing"}[m.rng.IntN(6)]
	step := []int64{6 * 3600e9, DayNs}[m.rng.IntN(2)]
	top := 1 + m.rng.IntN(4)
	defer func(b bounds) { s.bounds = b }(s.bounds)
	if m.rng.IntN(2) == 0 {
		s.bounds.values = 300
	}
	h, err := s.HitsBy(t.Context(), req, step, field, top)
	if err != nil {
		t.Fatalf("hits of %q by %s: %v", q.text, field, err)
	}
	counts, totals := map[string]map[int64]int64{}, map[string]int64{}
	for i := range want {
		v := naiveField(&want[i], field)
		if counts[v] == nil {
			counts[v] = map[int64]int64{}
		}
		counts[v][(want[i].T-h.T0)/step]++
		totals[v]++
	}
	var values []string
	for v := range totals {
		if v != "" {
			values = append(values, v)
		}
	}
	slices.SortFunc(values, func(a, b string) int { return cmp.Or(cmp.Compare(totals[b], totals[a]), cmp.Compare(a, b)) })
	if h.Total != int64(len(want)) {
		t.Fatalf("hits of %q by %s: total %d, want %d", q.text, field, h.Total, len(want))
	}
	if h.Capped {
		values = nil
		for _, g := range h.Groups { // what is told is exact all the same
			values = append(values, g.Value)
		}
	}
	values = values[:min(top, len(values))]
	if len(h.Groups) != len(values) {
		t.Fatalf("hits of %q by %s: %d groups, want %v", q.text, field, len(h.Groups), values)
	}
	sum := func(cs []int64) (n int64) {
		for _, c := range cs {
			n += c
		}
		return n
	}
	rest := h.Total - totals[""]
	for i, g := range h.Groups {
		if g.Value != values[i] || g.Total != totals[g.Value] || sum(g.Counts) != g.Total {
			t.Fatalf("hits of %q by %s: group %d is %q with %d lines, want %q with %d", q.text, field, i, g.Value, g.Total, values[i], totals[values[i]])
		}
		rest -= g.Total
		for b, n := range g.Counts {
			if n != counts[g.Value][int64(b)] {
				t.Fatalf("hits of %q by %s: %q has %d in interval %d, want %d", q.text, field, g.Value, n, b, counts[g.Value][int64(b)])
			}
		}
	}
	if sum(h.None) != totals[""] || sum(h.Other) != rest {
		t.Fatalf("hits of %q by %s: %d without, %d others; want %d, %d", q.text, field, sum(h.None), sum(h.Other), totals[""], rest)
	}
	f, err := s.Facets(t.Context(), Request{Filter: req.Filter, Start: req.Start, End: req.End, Limit: top}, field)
	if err != nil || f.Lines != h.Total-totals[""] || f.Capped != h.Capped && h.Capped {
		t.Fatalf("facets of %q by %s: %+v %v", q.text, field, f, err)
	}
	for i, v := range f.Values {
		if totals[v.Value] != v.Count || !f.Capped && v.Value != values[i] {
			t.Fatalf("facets of %q by %s: %+v", q.text, field, f.Values)
		}
	}
}

func naiveField(r *Row, field string) string {
	switch field {
	case "severity":
		return r.Severity.String()
	case "kind":
		if r.Kind == wire.StreamEvent {
			return "event"
		}
		return "log"
	}
	return fieldOf(r, field)
}

func TestWalkRefusesWhatItCannotDo(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	none := func(*Row) error { return nil }
	for _, req := range []Request{{Limit: -1}, {Cursor: "x"}, {Cursor: "1.2.3", Direction: AnyOrder}} {
		if _, err := s.Walk(t.Context(), req, none); !errors.Is(err, ErrRequest) {
			t.Errorf("%+v: %v", req, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := newModel(3)
	m.apply(t, s, 5)
	if _, err := s.Walk(ctx, Request{}, none); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}

// While a walk goes on, lines are sealed and merged and retention goes on too: each line comes once, in its place, and
// what retention took before its turn is said.
func TestWalkBesideSealingAndRetention(t *testing.T) {
	for _, order := range []Direction{NewestFirst, OldestFirst} {
		m := newModel(31 + uint64(order))
		s := testStore(t, t.TempDir(), Options{})
		s.bounds.window = 4000
		m.apply(t, s, 40)
		want := m.find(question{is: func(*Row) bool { return true }}, minTime, 0, order == NewestFirst)
		var got []Row
		if _, err := s.Walk(t.Context(), Request{Direction: order}, func(r *Row) error {
			if got = append(got, r.clone()); len(got)%(len(want)/6) == 0 {
				work(t, s, true)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("order %d: %d rows, want %d: %s", order, len(got), len(want), firstDifference(got, want))
		}
		for i := range got {
			if !sameRow(&got[i], &want[i]) {
				t.Fatalf("order %d: row %d is %v, want %v", order, i, got[i].Position, want[i].Position)
			}
		}
		floor := (testDay + 1) * DayNs
		seen, below := 0, 0
		st, err := s.Walk(t.Context(), Request{Direction: order}, func(r *Row) error {
			if seen++; seen == 1 {
				s.SetFloor(floor)
				work(t, s, true)
			}
			if r.T < floor {
				below++
			}
			return nil
		})
		if err != nil || !st.Expired {
			t.Errorf("order %d: %d rows, %d below the floor, %+v %v", order, seen, below, st, err)
		}
		if held := len(m.find(question{is: func(*Row) bool { return true }}, floor, 0, false)); seen-below != held {
			t.Errorf("order %d: %d rows above the floor, want %d", order, seen-below, held)
		}
		if st, err := s.Walk(t.Context(), Request{Direction: order}, func(*Row) error { return nil }); err != nil || st.Expired {
			t.Errorf("order %d: afterwards %+v %v", order, st, err)
		}
	}
}
