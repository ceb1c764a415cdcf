package logstore

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/triward/triward/agent/wire"
)

// streamsOf reads the streams of a day as text.
func streamsOf(t testing.TB, s *Store, day int64) (all []string) {
	t.Helper()
	err := s.DayStreams(t.Context(), day, func(kind wire.StreamKind, labels wire.Labels, _ int64) error {
		all = append(all, string(labels.AppendKey([]byte{byte(kind)})))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCarriedLinesAreTheSame: what is read out of a store stream by stream and put into another one answers every question
// in the same way, whatever of it is sealed where.
func TestCarriedLinesAreTheSame(t *testing.T) {
	for seed := range rounds[uint64](3, 1) {
		m := newModel(100 + seed)
		dir := t.TempDir()
		from := testStore(t, filepath.Join(dir, "from"), Options{})
		m.apply(t, from, 40)
		work(t, from, true)
		m.apply(t, from, 10) // of which nothing is sealed
		to := testStore(t, filepath.Join(dir, "to"), Options{})
		var rows []Row
		flush := func() {
			m.rng.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
			if err := to.Load(rows); err != nil {
				t.Fatal(err)
			}
			rows = nil
		}
		for day := testDay; day < testDay+3; day++ {
			for _, key := range streamsOf(t, from, day) {
				labels, _, err := wire.LabelsFromKey([]byte(key[1:]))
				if err != nil {
					t.Fatal(err)
				}
				half := m.index / 2
				for _, span := range []Span{
					{day * DayNs, (day + 1) * DayNs, 0, half},
					{day * DayNs, day*DayNs + DayNs/2, half, m.index},
					{day*DayNs + DayNs/2, (day + 1) * DayNs, half, m.index},
				} {
					err := from.EachOf(t.Context(), span, func(kind wire.StreamKind, label func(string) string) bool {
						return byte(kind) == key[0] && !slices.ContainsFunc(labels, func(l wire.Label) bool { return label(l.Name) != l.Value })
					}, func(r *Row) error {
						if r.Index <= span.Above || r.Index > span.Through || r.T < span.From || r.T >= span.To {
							t.Fatalf("%s at %d is outside of %+v", r.Position, r.T, span)
						}
						row := *r
						row.Text, row.Fields = bytes.Clone(r.Text), slices.Clone(r.Fields)
						rows = append(rows, row)
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				if len(rows) > 500 {
					flush()
					work(t, to, m.rng.IntN(2) == 0)
				}
			}
		}
		flush()
		if to.Applied() > m.index {
			t.Fatalf("%d applied of %d", to.Applied(), m.index)
		}
		m.check(t, to, 40, minTime)
		work(t, to, true)
		m.check(t, to, 40, minTime)
	}
}

// TestLoadRefusesWhatCannotBeRead: a line that no reader would take again is refused, and the store stays as it was.
func TestLoadRefusesWhatCannotBeRead(t *testing.T) {
	s := testStore(t, filepath.Join(t.TempDir(), "s"), Options{})
	good := Row{T: testDay * DayNs, Position: Position{7, 0}, Kind: wire.StreamLog, Labels: wire.Labels{{Name: "a", Value: "b"}}, Text: []byte("good")}
	for name, spoil := range map[string]func(*Row){
		"kind":     func(r *Row) { r.Kind = 9 },
		"severity": func(r *Row) { r.Severity = 77 },
		"labels":   func(r *Row) { r.Labels = wire.Labels{{Name: "b", Value: "1"}, {Name: "a", Value: "1"}} },
		"utf8":     func(r *Row) { r.Labels = wire.Labels{{Name: "b", Value: "\xff"}} },
		"long":     func(r *Row) { r.Text = make([]byte, wire.MaxLine+1) },
		"fields":   func(r *Row) { r.Fields = make([]wire.Label, wire.MaxFields+1) },
		"name":     func(r *Row) { r.Fields = []wire.Label{{Name: string(make([]byte, wire.MaxLabelName+1)), Value: "x"}} },
	} {
		bad := good
		bad.Ord = 1
		spoil(&bad)
		if err := s.Load([]Row{good, bad}); !errors.Is(err, ErrUnloadable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(streamsOf(t, s, testDay)); n != 0 || s.Applied() != 0 {
		t.Fatalf("%d streams, applied %d", n, s.Applied())
	}
}
