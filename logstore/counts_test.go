package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// counts is what the state's digests say of the entries up to through.
func (m *model) counts(through uint64) map[KindDay]int64 {
	out := map[KindDay]int64{}
	for i := range m.rows {
		if r := &m.rows[i]; r.Index <= through {
			out[KindDay{r.Kind, Day(r.T)}]++
		}
	}
	return out
}

func noFloor(wire.StreamKind) int64 { return minTime }

func TestVerifyCountsTheLinesOfAnyIndex(t *testing.T) {
	m := newModel(30)
	s := testStore(t, t.TempDir(), Options{})
	floor := int64(minTime)
	for round := range 5 {
		m.apply(t, s, 15)
		for range 2 {
			for range 4 {
				through := m.entries[m.rng.IntN(len(m.entries))].Index
				want := m.counts(through)
				if err := s.Verify(t.Context(), through, want, 0, noFloor); err != nil {
					t.Fatalf("through %d: %v", through, err)
				}
				got, err := s.Counts(t.Context(), through)
				maps.DeleteFunc(want, func(k KindDay, _ int64) bool { return k.Day < Day(floor) })
				maps.DeleteFunc(got, func(k KindDay, _ int64) bool { return k.Day < Day(floor) })
				if err != nil || !maps.Equal(got, want) {
					t.Fatalf("through %d: %v: %v, want %v", through, err, got, want)
				}
			}
			work(t, s, true)
		}
		if round == 3 {
			floor = (testDay+1)*DayNs + 5
			s.SetFloor(floor)
		}
	}
	if err := s.Verify(t.Context(), m.index+1, m.counts(m.index), 0, noFloor); !errors.Is(err, ErrBehind) {
		t.Errorf("a store that is behind gives %v", err)
	}
	if d := s.Damaged(); len(d) != 0 {
		t.Errorf("damaged: %v", d)
	}
	if err := s.Verify(t.Context(), m.index, map[KindDay]int64{{wire.StreamLog, testDay + 2}: 1}, 0, func(wire.StreamKind) int64 { return maxTime }); err != nil {
		t.Errorf("a day that was cut meanwhile gives %v", err)
	}
	want := m.counts(m.index)
	k := KindDay{wire.StreamLog, testDay + 2}
	want[k]++
	if err := s.Verify(t.Context(), m.index, want, 0, noFloor); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), k.String()) {
		t.Errorf("a line that is missing gives %v", err)
	}
	for day, partial := range map[int64]bool{testDay + 1: false, testDay + 2: true} {
		a, err := s.Search(t.Context(), Request{Start: day * DayNs, End: (day + 1) * DayNs})
		if err != nil || a.Stats.Partial != partial {
			t.Errorf("day %d: %v: %+v", day, err, a.Stats)
		}
	}
}

// Rows that are not there when the store opens are missed by nobody who only reads what is there.
func TestVerifyFindsRowsThatAreMissing(t *testing.T) {
	for _, prefix := range []byte{prefixHeader, prefixInbox, prefixStream} {
		t.Run(string(prefix), func(t *testing.T) {
			m := newModel(31)
			var told []*DamageError
			dir := t.TempDir()
			opt := Options{OnDamage: func(d *DamageError) { told = append(told, d) }}
			s := testStore(t, dir, opt)
			m.apply(t, s, 30)
			work(t, s, true)
			m.apply(t, s, 5)
			e, release, err := s.acquire()
			if err != nil {
				t.Fatal(err)
			}
			var key []byte
			if err := e.rows(e.db, []byte{prefix}, func(k, _ []byte) error { key = bytes.Clone(k); return nil }); err != nil {
				t.Fatal(err)
			}
			if err := e.db.Delete(key, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			release()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}

			s = testStore(t, dir, opt)
			if s.Applied() != m.index || len(told) != 0 || len(s.Damaged()) != 0 {
				t.Fatalf("applied %d of %d, told of %v", s.Applied(), m.index, told)
			}
			if err := s.Verify(t.Context(), m.index, m.counts(m.index), 0, noFloor); !errors.Is(err, ErrDamaged) {
				t.Errorf("verify gives %v", err)
			}
			if len(told) == 0 || len(s.Damaged()) != len(told) {
				t.Errorf("told of %v, known are %v", told, s.Damaged())
			}
			a, err := s.Search(t.Context(), Request{})
			if err != nil || !a.Stats.Partial || len(a.Stats.Damaged) == 0 {
				t.Errorf("%v: %+v", err, a.Stats)
			}
		})
	}
}

// Pebble opens with a manifest in which a bit is flipped, as of an older version. The store that opens is whole, or does
// not hold the log as far as its mark says, or is found to be damaged.
func TestFlippedManifestIsNoticed(t *testing.T) {
	m := newModel(33)
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	s := testStore(t, from, Options{NoIndex: true})
	for range 4 {
		m.apply(t, s, 10)
		work(t, s, true)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]int{}
	for i := range 60 {
		to := filepath.Join(dir, fmt.Sprint(i))
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(to, "pebble", "MANIFEST-*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%v %v", files, err)
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		b[m.rng.IntN(len(b))] ^= 1 << m.rng.IntN(8)
		if err := os.WriteFile(files[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := New(Options{NoIndex: true, Manual: true})
		if err != nil {
			t.Fatal(err)
		}
		if s.Open(to) != nil {
			outcomes["refused"]++
		} else if s.Applied() < m.index {
			outcomes["behind its mark"]++
		} else if err := s.Verify(t.Context(), m.index, m.counts(m.index), 0, noFloor); err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			outcomes["found"]++
		} else {
			outcomes["whole"]++
			m.check(t, s, 3, minTime)
		}
		if err := s.Close(); err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	}
	t.Log(outcomes)
}

// A part of a day that cannot be read does not keep the other days from being searched, and the answer says so.
func TestSearchGoesOnBesideADamagedDay(t *testing.T) {
	m := newModel(32)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 30)
	work(t, s, true)
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := e.db.Set(dayPrefix(prefixIndex, testDay+1), []byte("\x01no name of an index"), pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	f, err := query.Parse("timeout") // the day's index is asked
	if err != nil {
		t.Fatal(err)
	}
	var want int64
	for i := range m.rows {
		if r := &m.rows[i]; Day(r.T) != testDay+1 && Matches(t.Context(), f, r.Kind, r.Labels, &wire.LogLine{Severity: r.Severity, Text: r.Text, Fields: r.Fields}) {
			want++
		}
	}
	h, err := s.Hits(t.Context(), Request{Filter: f, Start: testDay * DayNs, End: (testDay + 3) * DayNs}, DayNs)
	if err != nil || !h.Stats.Partial || len(h.Stats.Damaged) != 1 || h.Total != want || want == 0 {
		t.Errorf("%v: %d hits, want %d; %+v", err, h.Total, want, h.Stats)
	}
	if len(s.Damaged()) != 1 {
		t.Errorf("known are %v", s.Damaged())
	}
}

// A day that retention takes away while its lines are counted is not damaged. Excise reaches into snapshots.
func TestDayDroppedWhileCountedIsNotDamaged(t *testing.T) {
	m := newModel(34)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 30)
	work(t, s, true)
	c, done, err := s.scan(t.Context(), nil, minTime, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	var id uint64
	var h block.Header
	err = c.e.rows(c.snap, dayPrefix(prefixHeader, testDay), func(key, value []byte) (err error) {
		next, err := block.ParseHeader(value)
		if err == nil && next.MinIndex < next.MaxIndex {
			_, _, id = parseHeaderKey(key)
			h = next
		}
		return err
	})
	if err != nil || h.MinIndex == h.MaxIndex {
		t.Fatalf("%+v: %v", h, err)
	}
	s.SetFloor((testDay + 1) * DayNs)
	work(t, s, false)
	if n, err := c.linesBetween(testDay, wire.StreamLog, id, &h, 0, h.MinIndex); err != nil || n != 0 {
		t.Errorf("%d lines: %v", n, err)
	}
}
