package logstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// testStore opens a store whose background work is done by hand. To it, it is noon of the last day of the
// model, so that older days are over.
func testStore(t testing.TB, dir string, opt Options) *Store {
	t.Helper()
	opt.Manual = true
	opt.Now = func() time.Time { return time.Unix(0, (testDay+2)*DayNs+DayNs/2) }
	opt.OnFallback = func(err error) { t.Error(err) }
	if opt.templateLines == 0 {
		opt.templateLines = 2 // blocks of a few lines are as those of thousands
	}
	s, err := New(opt)
	if err == nil {
		s.SetFormat(2)
		err = s.Open(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (m *model) apply(t testing.TB, s *Store, n int) {
	t.Helper()
	for range n {
		e := m.entry()
		if err := s.ApplyLogs(e.Index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
}

// replay applies all entries that the store does not have.
func (m *model) replay(t testing.TB, s *Store) {
	t.Helper()
	if err := s.ApplyLogs(m.index, m.entries); err != nil {
		t.Fatal(err)
	}
}

func work(t testing.TB, s *Store, force bool) {
	t.Helper()
	if err := s.Work(t.Context(), force); err != nil {
		t.Fatal(err)
	}
}

// rounds is how often a test does what one goroutine does by itself. The race detector, for which tests are run with -short,
// has nothing to find in more of it and takes ten times as long.
func rounds[N int | uint64](n, raced N) N {
	if testing.Short() {
		return raced
	}
	return n
}

func TestSearchIsExactWhereverLinesAre(t *testing.T) {
	for seed := range rounds[uint64](3, 1) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(seed)
			dir := t.TempDir()
			// Outlines are remembered, pushed out again and again, and not kept at all.
			s := testStore(t, filepath.Join(dir, "0"), Options{OutlineBytes: []int64{0, 30 << 10, -1}[seed]})
			for round := range 6 {
				switch { // blocks of version 2, of version 1, and of one merged with the other
				case seed == 1, seed == 2 && round < 3:
					s.SetFormat(1)
				default:
					s.SetFormat(2)
				}
				m.apply(t, s, 12)
				m.check(t, s, 15, minTime)
				work(t, s, true)
				m.check(t, s, 15, minTime)
				m.apply(t, s, 3)
				if round%2 == 1 { // a copy without the word index takes over
					to := filepath.Join(dir, fmt.Sprint(round))
					if err := s.Cut(to); err != nil {
						t.Fatal(err)
					}
					if err := s.Open(to); err != nil {
						t.Fatal(err)
					}
				}
				m.check(t, s, 15, minTime)
			}
			work(t, s, true)
			e, release, err := s.acquire()
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			marks, err := e.marks(e.db, testDay)
			if err != nil || len(marks) != 0 {
				t.Errorf("%d blocks of a day that is over are not indexed: %v", len(marks), err)
			}
		})
	}
}

func TestApplyPassesOverWhatItHas(t *testing.T) {
	m := newModel(1)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 20)
	for _, force := range []bool{true, false} {
		if err := s.ApplyLogs(m.index, m.entries); err != nil {
			t.Fatal(err)
		}
		if err := s.ApplyLogs(m.index-1, m.entries); err != nil {
			t.Fatal(err)
		}
		work(t, s, force)
		m.check(t, s, 5, minTime)
	}
	if s.Applied() != m.index {
		t.Errorf("applied %d, want %d", s.Applied(), m.index)
	}
	// A group that overlaps what is there brings only the rest, and `through` may be beyond its entries.
	more := []wire.LogEntry{m.entries[len(m.entries)-1], m.entry()}
	if err := s.ApplyLogs(m.index+5, more); err != nil {
		t.Fatal(err)
	}
	m.index += 5
	if s.Applied() != m.index {
		t.Errorf("applied %d, want %d", s.Applied(), m.index)
	}
	m.check(t, s, 10, minTime)
}

func TestReopenedStoreIsTheSame(t *testing.T) {
	m := newModel(2)
	dir := t.TempDir()
	for range 3 {
		s := testStore(t, dir, Options{})
		m.apply(t, s, 10)
		m.check(t, s, 10, minTime)
		work(t, s, true)
		m.apply(t, s, 2)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := testStore(t, dir, Options{})
	if s.Applied() != m.index {
		t.Fatalf("applied %d, want %d", s.Applied(), m.index)
	}
	m.check(t, s, 30, minTime)
}

// The power goes at any moment: Pebble comes back as of some moment before, the word index may be ahead.
func TestPowerLossAtAnyMoment(t *testing.T) {
	for seed := range rounds[uint64](6, 3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(100 + seed)
			mem := vfs.NewCrashableMem()
			dir := t.TempDir()
			for range 4 {
				s := testStore(t, dir, Options{FS: mem, MemTableBytes: 256 << 10})
				s.SetFormat(1 + uint32(seed+1)%2)
				m.replay(t, s)
				m.check(t, s, 8, minTime)
				mem = m.liveAndCrash(t, s, mem)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// liveAndCrash works on the store and returns its file system as of a crash at a random moment.
func (m *model) liveAndCrash(t *testing.T, s *Store, mem *vfs.MemFS) *vfs.MemFS {
	var crashed *vfs.MemFS
	at := m.rng.IntN(12)
	for i := range 12 {
		done := make(chan error, 1)
		switch m.rng.IntN(4) {
		case 0, 1:
			m.apply(t, s, 1+m.rng.IntN(4))
			done <- nil
		case 2:
			go func() { done <- s.Work(context.Background(), true) }()
		case 3:
			go func() { done <- s.Flush(context.Background()) }()
		}
		if i == at {
			crashed = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: m.rng.IntN(101), RNG: m.rng})
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	return crashed
}

func TestLostOrDamagedIndexIsBuiltAgain(t *testing.T) {
	for _, harm := range []string{"remove", "truncate", "flip"} {
		t.Run(harm, func(t *testing.T) {
			m := newModel(3)
			dir := t.TempDir()
			s := testStore(t, dir, Options{})
			m.apply(t, s, 60)
			work(t, s, true)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "index", "*", "store", "*"))
			if err != nil || len(files) == 0 {
				t.Fatalf("no files of an index: %v", err)
			}
			for _, f := range files {
				if harm == "remove" {
					if err := os.RemoveAll(filepath.Dir(filepath.Dir(f))); err != nil {
						t.Fatal(err)
					}
					continue
				}
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				switch harm {
				case "truncate":
					err = os.WriteFile(f, b[:len(b)/2], 0o600)
				case "flip":
					if filepath.Ext(f) == ".zap" {
						b[m.rng.IntN(len(b))] ^= 1 << m.rng.IntN(8)
					}
					err = os.WriteFile(f, b, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			s = testStore(t, dir, Options{})
			m.check(t, s, 20, minTime)
			work(t, s, true)
			work(t, s, true)
			m.check(t, s, 20, minTime)
		})
	}
}

func TestRetentionDropsDaysAndHidesAtOnce(t *testing.T) {
	m := newModel(4)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 40)
	work(t, s, true)
	m.apply(t, s, 10)
	floor := (testDay+1)*DayNs + DayNs/3
	s.SetFloor(floor)
	s.SetFloor(floor - 5) // never lowered
	m.check(t, s, 20, floor)
	work(t, s, true)
	m.check(t, s, 20, floor)
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, p := range []byte("hsd") {
		days, err := e.days(e.db, p, false)
		if err != nil || len(days) == 0 || days[0] != testDay+1 {
			t.Errorf("days of %c: %v %v", p, days, err)
		}
	}
	for _, p := range []byte("cxfm") {
		if err := e.rows(e.db, dayPrefix(p, testDay), func(k, _ []byte) error { return fmt.Errorf("%q is still there", k) }); err != nil {
			t.Error(err)
		}
	}
	if dirs, err := filepath.Glob(filepath.Join(e.dir, "index", fmt.Sprint(testDay)+"-*")); err != nil || len(dirs) != 0 {
		t.Errorf("index of a dropped day: %v %v", dirs, err)
	}
}

func TestFloorsOfLogsAndEventsAreApart(t *testing.T) {
	m := newModel(9)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 30)
	work(t, s, true)
	m.apply(t, s, 10)
	floor := (testDay+2)*DayNs + 5
	s.SetKindFloor(wire.StreamEvent, floor)
	kept := m.rows[:0:0]
	for _, r := range m.rows {
		if r.Kind != wire.StreamEvent || r.T >= floor {
			kept = append(kept, r)
		}
	}
	m.rows = kept
	for range 2 {
		m.check(t, s, 20, minTime)
		work(t, s, true)
	}
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	err = e.rows(e.db, dayPrefix(prefixStream, testDay), func(k, v []byte) error {
		if st, err := streamOf(streamID(k[5:21]), v); err != nil || st.kind == wire.StreamEvent {
			return fmt.Errorf("%+v is still there: %w", st, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDamagedBlockIsNotServed(t *testing.T) {
	m := newModel(5)
	var told []*DamageError
	s := testStore(t, t.TempDir(), Options{OnDamage: func(d *DamageError) { told = append(told, d) }})
	m.apply(t, s, 30)
	work(t, s, true)
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	var key, value []byte
	err = e.rows(e.db, []byte{prefixText}, func(k, v []byte) error {
		key, value = append([]byte(nil), k...), append([]byte(nil), v...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	value[len(value)/2] ^= 4
	if err := e.db.Set(key, value, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	a, err := s.Search(t.Context(), Request{Limit: MaxRows})
	if err != nil || !a.Stats.Partial || len(a.Stats.Damaged) != 1 || len(a.Rows) >= len(m.rows) {
		t.Fatalf("%v %+v: %d rows of %d", err, a.Stats, len(a.Rows), len(m.rows))
	}
	if len(told) != 1 || !errors.Is(told[0], ErrDamaged) {
		t.Errorf("told of %v", told)
	}
	if err := s.Each(t.Context(), minTime, 0, func(*Row) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("a full read of a damaged store gives %v", err)
	}
	dst := filepath.Join(t.TempDir(), "copy")
	if err := s.Cut(dst); !errors.Is(err, ErrDamaged) {
		t.Errorf("a copy of a damaged store gives %v", err)
	}
	if _, err := os.Stat(dst); err == nil {
		t.Error("a copy of a damaged store is there")
	}
}

func TestTailGoesOnAtAPosition(t *testing.T) {
	m := newModel(6)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 20)
	work(t, s, true)
	m.apply(t, s, 20)
	var pos Position
	seen := 0
	for {
		a, err := s.ReadAfter(t.Context(), pos, query.All(), minTime, 70)
		if err != nil {
			t.Fatal(err)
		}
		for i := range a.Rows { // the model's rows are in the order of the log
			if !sameRow(&a.Rows[i], &m.rows[seen]) {
				t.Fatalf("row %d is %+v, want %+v", seen, a.Rows[i], m.rows[seen])
			}
			seen++
			pos = a.Rows[i].Position
		}
		if !a.More {
			break
		}
	}
	if seen != len(m.rows) {
		t.Errorf("%d rows of %d", seen, len(m.rows))
	}
}

func TestContextOfALine(t *testing.T) {
	m := newModel(7)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 20)
	work(t, s, true)
	m.apply(t, s, 10)
	for range 30 {
		r := &m.rows[m.rng.IntN(len(m.rows))]
		want := m.find(question{is: func(o *Row) bool { return streamIDOf(o.Kind, o.Labels) == streamIDOf(r.Kind, r.Labels) }}, minTime, 0, false)
		a, err := s.Context(t.Context(), r.Position, r.T, 3, 4)
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		for want[at].Position != r.Position {
			at++
		}
		want = want[max(0, at-3):min(len(want), at+5)]
		if len(a.Rows) != len(want) || !sameRow(&a.Rows[a.At], r) {
			t.Fatalf("%d rows, want %d", len(a.Rows), len(want))
		}
		for i := range want {
			if !sameRow(&a.Rows[i], &want[i]) {
				t.Fatalf("row %d is %+v, want %+v", i, a.Rows[i], want[i])
			}
		}
	}
	if _, err := s.Context(t.Context(), Position{1 << 40, 0}, 5, 1, 1); !errors.Is(err, ErrNoLine) {
		t.Errorf("a line that is not there gives %v", err)
	}
}

func TestFacetsAndLabels(t *testing.T) {
	m := newModel(8)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 20)
	work(t, s, true)
	m.apply(t, s, 10)
	for _, field := range []string{"host", "unit", "code", "user", "severity", "kind"} {
		counts := map[string]int64{}
		for i := range m.rows {
			r := &m.rows[i]
			v := fieldOf(r, field)
			switch field {
			case "severity":
				v = r.Severity.String()
			case "kind":
				v = map[wire.StreamKind]string{wire.StreamLog: "log", wire.StreamEvent: "event"}[r.Kind]
			}
			if v != "" {
				counts[v]++
			}
		}
		f, err := s.Facets(t.Context(), Request{Limit: MaxFacets}, field)
		if err != nil || len(f.Values) != len(counts) {
			t.Fatalf("%s: %v: %d values, want %d", field, err, len(f.Values), len(counts))
		}
		for _, v := range f.Values {
			if counts[v.Value] != v.Count {
				t.Errorf("%s=%q: %d, want %d", field, v.Value, v.Count, counts[v.Value])
			}
		}
	}
	names, _, err := s.Labels(t.Context(), minTime, 0)
	if err != nil || fmt.Sprint(names) != "[host unit]" {
		t.Errorf("labels %v %v", names, err)
	}
	values, _, err := s.LabelValues(t.Context(), "host", testDay*DayNs, (testDay+1)*DayNs)
	if err != nil || fmt.Sprint(values) != "[web-0 web-1 web-2]" {
		t.Errorf("values %v %v", values, err)
	}
}
