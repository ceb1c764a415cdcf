package logstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

func selector(t testing.TB, text string) wire.Selector {
	t.Helper()
	s, err := wire.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// cutting makes cuts as the state would, and knows naively what they hide.
type cutting struct {
	list []wire.LogCut
	at   uint64
}

func (c *cutting) cut(t testing.TB, s *Store, kind wire.StreamKind, day int64, through uint64, selectors ...string) {
	t.Helper()
	c.at = max(c.at, through) + 1
	i := slices.IndexFunc(c.list, func(l wire.LogCut) bool { return l.Kind == kind && l.Day == day })
	if i < 0 {
		i = len(c.list)
		c.list = append(c.list, wire.LogCut{Kind: kind, Day: day})
	}
	l := &c.list[i]
	l.Index = c.at
	l.Selectors = slices.Clone(l.Selectors)
	for _, text := range selectors {
		l.Selectors = append(l.Selectors, wire.CutSelector{Selector: selector(t, text), Through: through})
	}
	s.SetCuts(slices.Clone(c.list))
}

func (c *cutting) hides(t testing.TB, r *Row) bool {
	for _, l := range c.list {
		if l.Kind != r.Kind || l.Day != Day(r.T) {
			continue
		}
		for _, sel := range l.Selectors {
			p, err := wire.NewPicker(sel.Selector)
			if err != nil {
				t.Fatal(err)
			}
			if r.Index <= sel.Through && p.Picks(r.Labels.Get) {
				return true
			}
		}
	}
	return false
}

// shown is the model of what is not hidden.
func (c *cutting) shown(t testing.TB, m *model) *model {
	out := *m
	out.rows = nil
	for i := range m.rows {
		if !c.hides(t, &m.rows[i]) {
			out.rows = append(out.rows, m.rows[i])
		}
	}
	return &out
}

// check holds every kind of answer against what is not hidden.
func (c *cutting) check(t testing.TB, s *Store, m *model) {
	t.Helper()
	shown := c.shown(t, m)
	shown.check(t.(*testing.T), s, 8, minTime)
	index := uint64(0)
	for _, l := range c.list {
		index = max(index, l.Index)
	}
	if err := s.Verify(t.Context(), m.index, shown.counts(m.index), index, noFloor); err != nil {
		t.Fatal(err)
	}
	walked := 0
	if _, err := s.Walk(t.Context(), Request{Direction: OldestFirst}, func(r *Row) error {
		if c.hides(t, r) {
			return fmt.Errorf("%v is walked over", r)
		}
		walked++
		return nil
	}); err != nil || walked != len(shown.rows) {
		t.Fatalf("%d lines are walked over: %v, want %d", walked, err, len(shown.rows))
	}
	for day := testDay; day < testDay+3; day++ {
		values := map[string]bool{}
		for i := range shown.rows {
			if r := &shown.rows[i]; Day(r.T) == day {
				values[r.Labels.Get("host")] = true
			}
		}
		got, _, err := s.LabelValues(t.Context(), "host", day*DayNs, (day+1)*DayNs)
		if want := slices.Sorted(maps.Keys(values)); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("hosts of day %d: %v %v, want %v", day, got, err, want)
		}
		streams := map[streamID]bool{}
		for i := range shown.rows {
			if r := &shown.rows[i]; Day(r.T) == day {
				streams[streamIDOf(r.Kind, r.Labels)] = true
			}
		}
		if got, err := s.Series(t.Context(), nil, day*DayNs, (day+1)*DayNs); err != nil || len(got.Streams) != len(streams) {
			t.Fatalf("%d series of day %d: %v, want %d", len(got.Streams), day, err, len(streams))
		}
		p, err := wire.NewPicker(selector(t, `{host=~"web-[01]"}`))
		if err != nil {
			t.Fatal(err)
		}
		want := int64(0)
		for i := range shown.rows {
			if r := &shown.rows[i]; Day(r.T) == day && r.Kind == wire.StreamLog && p.Picks(r.Labels.Get) {
				want++
			}
		}
		if n, err := s.Picked(t.Context(), KindDay{wire.StreamLog, day}, []*wire.Picker{p}); err != nil || n.Lines != want {
			t.Fatalf("%d lines are picked of day %d: %v, want %d", n.Lines, day, err, want)
		}
	}
}

// What selectors cut is in no answer from then on, wherever the lines are: in the inbox, in small blocks, in merged ones,
// in a copy that another node installed, on disk or not any more. What comes late stays until the next cut.
func TestCutsHideWhereverLinesAre(t *testing.T) {
	for seed := range rounds[uint64](2, 1) { // one with blocks of each version
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(100 + seed)
			dir := t.TempDir()
			s := testStore(t, filepath.Join(dir, "0"), Options{})
			s.SetFormat(1 + uint32(seed%2))
			var c cutting
			pool := []string{`{host="web-0"}`, `{host=~"web-[12]", unit!="` + m.words[0] + `"}`, `{unit!~".*a.*"}`, `{rack=""}`, `{nothing="here"}`}
			for round := range rounds(8, 4) {
				m.apply(t, s, 8)
				if round%3 > 0 {
					work(t, s, true)
				}
				m.apply(t, s, 4)
				through := m.entries[len(m.entries)-1-m.rng.IntN(6)].Index
				kind, day := wire.StreamLog, testDay+m.rng.Int64N(2)
				if m.rng.IntN(3) == 0 {
					kind = wire.StreamEvent
				}
				pick := m.rng.IntN(len(pool))
				if round < 6 && pool[pick] == `{rack=""}` { // everything of the day
					pick = 0
				}
				c.cut(t, s, kind, day, through, pool[pick])
				c.check(t, s, m)
				if round%2 == 0 { // not durable yet: nothing may be removed
					work(t, s, true)
					c.check(t, s, m)
				}
				m.apply(t, s, 3)
				c.check(t, s, m)
				s.Durable(c.at)
				work(t, s, false)
				c.check(t, s, m)
				if round%3 == 1 { // another node takes a copy, and knows of the cuts before it opens it
					to := filepath.Join(dir, fmt.Sprint(round+1))
					if err := s.Cut(to); err != nil {
						t.Fatal(err)
					}
					if err := s.Open(to); err != nil {
						t.Fatal(err)
					}
					c.check(t, s, m)
				}
				work(t, s, true)
				c.check(t, s, m)
			}
			if pending, err := s.Pending(); err != nil || pending {
				t.Errorf("pending: %v %v", pending, err)
			}
			if len(s.Damaged()) > 0 {
				t.Errorf("damaged: %v", s.Damaged())
			}
		})
	}
}

// A cut that a power loss may take back hides lines and removes none; the rest of a cut store counts as before when it is
// gone again.
func TestCutsNotDurableRemoveNothing(t *testing.T) {
	m := newModel(110)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 20)
	work(t, s, true)
	var c cutting
	c.cut(t, s, wire.StreamLog, testDay, m.index, `{host="web-0"}`, `{host="web-1"}`)
	s.Durable(c.at - 1)
	work(t, s, true)
	c.check(t, s, m)
	s.SetCuts(nil) // the node begins again at a mark before
	(&cutting{}).check(t, s, m)
	s.SetCuts(c.list)
	s.Durable(c.at)
	work(t, s, true)
	c.check(t, s, m)
	s.SetCuts(nil)
	if err := s.Verify(t.Context(), m.index, m.counts(m.index), 0, noFloor); !errors.Is(err, ErrDamaged) {
		t.Errorf("lines that were removed are counted as there: %v", err)
	}
}

// Counts that account for other cuts than the store knows of tell nothing, and least of all damage.
func TestVerifyOfOtherCuts(t *testing.T) {
	m := newModel(111)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 10)
	var c cutting
	c.cut(t, s, wire.StreamLog, testDay, m.index, `{host="web-0"}`)
	if err := s.Verify(t.Context(), m.index, m.counts(m.index), 0, noFloor); !errors.Is(err, ErrCutMeanwhile) {
		t.Errorf("counts of before the cut: %v", err)
	}
	if len(s.Damaged()) > 0 {
		t.Errorf("damaged: %v", s.Damaged())
	}
}

// A stream all of whose lines were cut while others of it wait in the inbox stays known.
func TestLateLinesKeepTheirStream(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	apply := func(index uint64, text string) {
		t.Helper()
		b := &wire.LogBatch{Streams: []wire.LogStream{{
			Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"unit": "a"}), Lines: []wire.LogLine{{T: testDay * DayNs, Text: []byte(text)}},
		}}}
		if err := s.ApplyLogs(index, []wire.LogEntry{{Index: index, Batches: []wire.AcceptedLogs{{Batch: b}}}}); err != nil {
			t.Fatal(err)
		}
	}
	apply(1, "early")
	work(t, s, true)
	apply(2, "late")
	var c cutting
	c.cut(t, s, wire.StreamLog, testDay, 1, `{unit="a"}`)
	s.Durable(c.at)
	work(t, s, false)
	work(t, s, true)
	page, err := s.Search(t.Context(), Request{})
	if err != nil || len(page.Rows) != 1 || string(page.Rows[0].Text) != "late" || page.Stats.Partial {
		t.Fatalf("%+v %v", page, err)
	}
	if err := s.Verify(t.Context(), 2, map[KindDay]int64{{wire.StreamLog, testDay}: 1}, c.at, noFloor); err != nil {
		t.Error(err)
	}
	c.cut(t, s, wire.StreamLog, testDay, 2, `{unit="a"}`)
	s.Durable(c.at)
	work(t, s, false)
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, p := range []byte("shcxfm") {
		if err := e.rows(e.db, dayPrefix(p, testDay), func(k, _ []byte) error { return fmt.Errorf("%q is still there", k) }); err != nil {
			t.Error(err)
		}
	}
	apply(7, "later still") // its stream is written anew
	work(t, s, true)
	if err := s.Verify(t.Context(), 7, map[KindDay]int64{{wire.StreamLog, testDay}: 1}, c.at, noFloor); err != nil {
		t.Error(err)
	}
}

// Lines that a selector cuts take their bytes with them while the other lines of their day stay.
func TestCutStreamsLeaveNothingOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, Options{})
	rng := rand.New(rand.NewPCG(29, 29))
	vocabulary := make([]string, 900) // few enough that blocks are given to the word index
	for i := range vocabulary {
		word := make([]byte, 8)
		for k := range word {
			word[k] = 'a' + byte(rng.IntN(26))
		}
		vocabulary[i] = string(word)
	}
	index := uint64(0)
	raw := map[string]int{}
	batches := rounds(12, 6)
	for range batches { // many blocks, in turn
		b := &wire.LogBatch{}
		for unit, n := range map[string]int{"gone": 150, "kept": 50} {
			var lines []wire.LogLine
			for i := range n {
				text := append(make([]byte, 0, 1<<10), unit+"secret"...)
				for len(text) < 1<<10-9 {
					text = append(append(text, ' '), vocabulary[rng.IntN(len(vocabulary))]...)
				}
				raw[unit] += len(text)
				lines = append(lines, wire.LogLine{T: testDay*DayNs + int64(index*1000) + int64(i), Text: text})
			}
			b.Streams = append(b.Streams, wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"unit": unit}), Lines: lines})
		}
		index++
		if err := s.ApplyLogs(index, []wire.LogEntry{{Index: index, Batches: []wire.AcceptedLogs{{Batch: b}}}}); err != nil {
			t.Fatal(err)
		}
		work(t, s, true)
	}
	onDisk := func() (n int64) {
		t.Helper()
		if err := s.Close(); err != nil { // what is obsolete is removed behind
			t.Fatal(err)
		}
		for _, kind := range []string{"pebble", "index"} {
			if err := filepath.WalkDir(filepath.Join(dir, kind), func(path string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				info, err := d.Info()
				if err == nil && !strings.Contains(path, "OPTIONS") {
					n += info.Size()
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	before := onDisk()
	s = testStore(t, dir, Options{})
	var c cutting
	c.cut(t, s, wire.StreamLog, testDay, index, `{unit="gone"}`)
	s.Durable(c.at)
	work(t, s, false)
	page, err := s.Search(t.Context(), Request{Filter: query.Phrase("keptsecret", false), Start: minTime, End: maxTime, Limit: MaxRows})
	if err != nil || len(page.Rows) != 50*batches {
		t.Errorf("%d rows of the stream that is kept: %v", len(page.Rows), err)
	}
	after := onDisk()
	// All but the quarter of the other stream must be gone. That lies there twice: the day's word index is made anew, and before that its small
	// blocks are merged, whose bytes Pebble frees when it compacts them.
	if after > 2*before/4+before/10 {
		t.Errorf("%d KiB of %d are on disk, %d of %d KiB of text were cut", after>>10, before>>10, raw["gone"]>>10, (raw["gone"]+raw["kept"])>>10)
	}
	t.Logf("%d KiB of %d are on disk, %d of %d KiB of text were cut", after>>10, before>>10, raw["gone"]>>10, (raw["gone"]+raw["kept"])>>10)
	s = testStore(t, dir, Options{})
	s.SetCuts(c.list)
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	it, err := e.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		if v, err := it.ValueAndErr(); err != nil || strings.Contains(string(v), "gone") {
			t.Errorf("key %q tells of the stream: %v", it.Key(), err)
		}
	}
}

// Whatever a power loss leaves of the removal of what was cut, and of the lines: with what the log brings again every
// answer and every count is what it was, and what came back is removed again.
func TestPowerLossWhileCutsAreCarriedOut(t *testing.T) {
	for seed := range rounds[uint64](4, 2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(120 + seed)
			mem := vfs.NewCrashableMem()
			dir := t.TempDir()
			var c cutting
			for round := range 4 {
				s := testStore(t, dir, Options{FS: mem, MemTableBytes: 256 << 10})
				s.SetCuts(c.list)
				s.Durable(c.at)
				m.replay(t, s)
				c.check(t, s, m)
				m.apply(t, s, 8)
				work(t, s, true)
				m.apply(t, s, 2)
				c.cut(t, s, wire.StreamKind(1+m.rng.IntN(2)), testDay+int64(round%2), m.index, fmt.Sprintf(`{host="web-%d"}`, m.rng.IntN(3)))
				s.Durable(c.at)
				done := make(chan error, 1)
				go func() { done <- s.Work(context.Background(), false) }()
				for range m.rng.IntN(200) {
					runtime.Gosched()
				}
				crashed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: m.rng.IntN(101), RNG: m.rng})
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				c.check(t, s, m)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				mem = crashed
			}
			s := testStore(t, dir, Options{FS: mem})
			s.SetCuts(c.list)
			s.Durable(c.at)
			m.replay(t, s)
			work(t, s, true)
			c.check(t, s, m)
		})
	}
}

// What cuts cost a question: over a day without any, and over one with 1 and 32 selectors, 20,000 streams of a line each.
func BenchmarkCuts(b *testing.B) {
	s := testStore(b, b.TempDir(), Options{NoIndex: true})
	for index := range uint64(200) {
		batch := &wire.LogBatch{}
		for k := range int64(100) {
			i := int64(index)*100 + k
			batch.Streams = append(batch.Streams, wire.LogStream{
				Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": fmt.Sprintf("web-%d", i), "unit": fmt.Sprintf("unit-%d", i%50), "env": "prod"}),
				Lines: []wire.LogLine{{T: testDay*DayNs + i, Text: []byte("a line")}},
			})
		}
		if err := s.ApplyLogs(index+1, []wire.LogEntry{{Index: index + 1, Batches: []wire.AcceptedLogs{{Batch: batch}}}}); err != nil {
			b.Fatal(err)
		}
	}
	work(b, s, true)
	for _, n := range []int{0, 1, 32} {
		for _, op := range []string{`="unit-%d"`, `=~"unit-%d"`} {
			b.Run(fmt.Sprintf("%d%.2s", n, op), func(b *testing.B) {
				var c cutting
				for i := range n {
					c.cut(b, s, wire.StreamLog, testDay, 1, "{unit"+fmt.Sprintf(op, 100+i)+"}")
				}
				s.SetCuts(c.list)
				for b.Loop() {
					h, err := s.Hits(b.Context(), Request{Start: testDay * DayNs, End: (testDay + 1) * DayNs}, DayNs)
					if err != nil || h.Total != 20_000 {
						b.Fatal(h.Total, err)
					}
				}
			})
		}
	}
}
