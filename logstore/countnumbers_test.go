package logstore

import (
	"fmt"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// Counts by the numbers of a field are those of a walk over all lines, however often they are asked for: by what is remembered, by lines,
// for parts of blocks and for short intervals, sealed, merged, and with room for few numbers.
func TestCountsByNumbersAreThoseOfLines(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(40 + seed)
			s := testStore(t, t.TempDir(), Options{OutlineBytes: []int64{0, 20 << 10, -1}[seed]})
			counted := 0
			for range 3 {
				m.apply(t, s, 25)
				work(t, s, true)
				for range 12 {
					q := m.askNumber()
					if b := m.askNumber(); m.rng.IntN(2) == 0 && q.text[:4] == b.text[:4] { // of one field
						op := []string{" ", " OR "}[m.rng.IntN(2)]
						a := q
						q = question{"(" + a.text + op + b.text + ")", func(r *Row) bool {
							if op == " " {
								return a.is(r) && b.is(r)
							}
							return a.is(r) || b.is(r)
						}}
					}
					f, err := query.Parse(q.text)
					if err != nil {
						t.Fatal(err)
					}
					for round := range 4 {
						req := Request{Filter: f, Start: testDay * DayNs, End: (testDay + 3) * DayNs}
						if round%2 > 0 {
							req.Start += m.rng.Int64N(DayNs)
							req.End = req.Start + 1 + m.rng.Int64N(DayNs)
						}
						m.checkHits(t, s, req, q, m.find(q, req.Start, req.End, true))
						h, err := s.Hits(t.Context(), req, 30*DayNs)
						if err != nil {
							t.Fatal(err)
						}
						counted += h.Stats.Counted
					}
				}
			}
			if (counted > 0) != (seed < 2) {
				t.Errorf("%d blocks were counted by what is remembered", counted)
			}
		})
	}
}

// What is cut from a block is not counted by the numbers that are remembered of it. They are remembered from the second question on.
func TestRememberedNumbersKnowCuts(t *testing.T) {
	n := &numbered{s: testStore(t, t.TempDir(), Options{}), hosts: 2}
	n.apply(t)
	n.apply(t)
	work(t, n.s, true)
	ask := func() (int64, int) {
		t.Helper()
		f, err := query.Parse("took<1000 host:0")
		if err != nil {
			t.Fatal(err)
		}
		h, err := n.s.Hits(t.Context(), Request{Filter: f, Start: testDay * DayNs, End: (testDay + 1) * DayNs}, DayNs)
		if err != nil || h.Stats.Partial {
			t.Fatal(err)
		}
		return h.Total, h.Stats.Counted
	}
	for round, want := range []int{0, 0, 1} {
		if lines, counted := ask(); lines != 160 || counted != want {
			t.Errorf("asked %d times before: %d lines, %d blocks counted by what is remembered", round, lines, counted)
		}
	}
	var cuts cutting
	cuts.cut(t, n.s, wire.StreamLog, testDay, 1, `{host="0"}`) // the first entry of the host
	if lines, counted := ask(); lines != 80 || counted != 0 {
		t.Errorf("after the cut of half of them: %d lines, %d blocks counted by what is remembered", lines, counted)
	}
}
