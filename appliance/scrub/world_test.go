package scrub

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
)

// firstDay is the oldest day of tests.
const firstDay = 20_000

// world is two stores that are fed as Apply does it, with the digests that Apply would keep.
type world struct {
	t       testing.TB
	rng     *rand.Rand
	noise   bool // lines that compress badly, so that there are values of their own
	metrics *tsdb.Store
	logs    *logstore.Store
	dirs    [2]string
	damage  []string // that the stores told of
	damMu   sync.Mutex

	mu     sync.Mutex // held as Apply holds its lock
	index  uint64
	sums   meta.Digests
	floors map[command.Kind]int64
	broken error             // of reading the metadata file
	held   map[[2]int64]bool // series and time
	clock  int64             // ms
}

func (w *world) SeriesLabels(id uint64) (wire.Labels, bool) {
	return wire.Labels{{Name: "__name__", Value: fmt.Sprintf("m%d", id%5)}, {Name: "host", Value: fmt.Sprintf("h%d", id)}}, true
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), floors: map[command.Kind]int64{}, held: map[[2]int64]bool{},
		clock: firstDay*dayMs + 1000, dirs: [2]string{filepath.Join(t.TempDir(), "tsdb"), filepath.Join(t.TempDir(), "logs")},
	}
	t.Cleanup(func() { w.close() })
	w.open()
	return w
}

// copied is another world of what a closed one left on disk, not opened yet.
func (w *world) copied(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	c := &world{
		t: t, rng: rand.New(rand.NewPCG(1, 1)), index: w.index, floors: maps.Clone(w.floors), clock: w.clock,
		dirs: [2]string{filepath.Join(dir, "tsdb"), filepath.Join(dir, "logs")},
	}
	w.mu.Lock()
	for _, d := range w.sums.List() {
		c.sums.AddDigest(d)
	}
	w.mu.Unlock()
	for i := range c.dirs {
		if err := os.CopyFS(c.dirs[i], os.DirFS(w.dirs[i])); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(c.close)
	return c
}

func (w *world) note(place string) {
	w.damMu.Lock()
	defer w.damMu.Unlock()
	w.damage = append(w.damage, place)
}

func (w *world) told() []string {
	w.damMu.Lock()
	defer w.damMu.Unlock()
	return append([]string(nil), w.damage...)
}

func (w *world) open() {
	w.t.Helper()
	if err := w.tryOpen(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryOpen() error {
	var err error
	w.metrics, err = tsdb.New(tsdb.Options{
		Dictionary: w, Logger: slog.New(slog.DiscardHandler), CompactEvery: -1, StripeSize: 64, WALSegmentBytes: 32 << 10,
		OnDamage: func(d *tsdb.DamageError) { w.note("metrics " + d.File) },
	})
	if err != nil {
		return err
	}
	w.logs, err = logstore.New(logstore.Options{
		Manual: true, SealBytes: 64 << 10, MemTableBytes: 1 << 20,
		OnDamage: func(d *logstore.DamageError) { w.note("logs " + d.Place) },
		OnIndex:  func(day int64, _ error) { w.note(fmt.Sprint("index ", day)) },
	})
	if err != nil {
		return err
	}
	if err := w.metrics.Open(w.dirs[0]); err != nil {
		return err
	}
	return w.logs.Open(w.dirs[1])
}

func (w *world) close() {
	if w.metrics != nil {
		_ = w.metrics.Close()
	}
	if w.logs != nil {
		_ = w.logs.Close()
	}
	w.metrics, w.logs = nil, nil
}

// Settled implements State.
func (w *world) Settled(context.Context) (uint64, []meta.Digest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.index, w.digests(), nil
}

func (w *world) digests() (out []meta.Digest) {
	for _, d := range w.sums.List() {
		if (d.Day+1)*dayMs > w.floors[d.Kind] {
			out = append(out, d)
		}
	}
	return out
}

// Floor implements State.
func (w *world) Floor(k command.Kind) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.floors[k]
}

// ScrubLog implements Node.
func (w *world) ScrubLog(context.Context, uint64, func(int) error) error { return nil }

// ScrubState implements Node.
func (w *world) ScrubState(func(int) error) (string, error) { return "", w.broken }

// apply feeds a group of samples and lines, mostly of now and some of up to a week ago.
func (w *world) apply(samples, lines int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	var s wire.Samples
	for range samples {
		id, t := int64(1+w.rng.IntN(20)), w.clock
		if w.rng.IntN(10) == 0 {
			t -= w.rng.Int64N(6 * dayMs)
		}
		t = max(t, firstDay*dayMs) / 1000 * 1000
		if t < w.floors[command.KindMetrics] || w.held[[2]int64{id, t}] {
			continue
		}
		w.held[[2]int64{id, t}] = true
		s.IDs, s.T, s.Values = append(s.IDs, uint64(id)), append(s.T, t), append(s.Values, float64(w.rng.IntN(1000))/8)
		ls, _ := w.SeriesLabels(uint64(id))
		w.sums.Add(command.KindMetrics, t, meta.HashSample(meta.HashLabels(ls), t, s.Values[len(s.Values)-1]))
		w.clock += 1000
	}
	if err := w.metrics.ApplySamples(&s); err != nil {
		w.t.Fatal(err)
	}
	batch := &wire.LogBatch{}
	for i := range 3 {
		st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": fmt.Sprint(i)})}
		if i == 2 {
			st.Kind = wire.StreamEvent
		}
		for range lines / 3 {
			t := w.clock*1e6 + w.rng.Int64N(1e9)
			if w.rng.IntN(10) == 0 {
				t -= w.rng.Int64N(6 * dayMs * 1e6)
			}
			kind := command.KindLogs
			if i == 2 {
				kind = command.KindEvents
			}
			if t/1e6 < max(w.floors[kind], firstDay*dayMs) {
				continue
			}
			l := wire.LogLine{T: t, Severity: wire.Severity(w.rng.IntN(5)), Text: []byte(fmt.Sprintf("request %d took %d ms %s", w.rng.IntN(1e6), w.rng.IntN(900), strings.Repeat("word ", w.rng.IntN(9))))}
			if w.noise {
				for range 40 {
					l.Text = strconv.AppendUint(append(l.Text, ' '), w.rng.Uint64(), 36)
				}
			}
			if w.rng.IntN(3) == 0 {
				l.Fields = []wire.Label{{Name: "code", Value: fmt.Sprint(w.rng.IntN(600))}}
			}
			st.Lines = append(st.Lines, l)
			sum, _ := meta.HashLine(meta.HashStream(st.Kind, st.Labels), &l, nil)
			w.sums.Add(kind, t/1e6, sum)
		}
		if len(st.Lines) > 0 {
			batch.Streams = append(batch.Streams, st)
		}
	}
	entries := []wire.LogEntry{{Index: w.index, Batches: []wire.AcceptedLogs{{Agent: "a", Batch: batch}}}}
	if err := w.logs.ApplyLogs(w.index, entries); err != nil {
		w.t.Fatal(err)
	}
}

// pass lets time go on by hours.
func (w *world) hours(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock += n * 3600 * 1000
}

// cut raises the floor of a kind.
func (w *world) cut(kind command.Kind, floor int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.floors[kind] = floor
	switch kind {
	case command.KindMetrics:
		w.metrics.SetFloor(floor)
	case command.KindLogs:
		w.logs.SetKindFloor(wire.StreamLog, floor*1e6)
	default:
		w.logs.SetKindFloor(wire.StreamEvent, floor*1e6)
	}
}

func (w *world) work() {
	w.t.Helper()
	if err := w.metrics.Compact(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	if err := w.logs.Work(context.Background(), w.rng.IntN(2) == 0); err != nil {
		w.t.Fatal(err)
	}
}

// flush makes everything durable as a mark does.
func (w *world) flush() {
	w.t.Helper()
	if err := w.metrics.Flush(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	if err := w.logs.Flush(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) scrubber(found *[]Damage) *Scrubber {
	return New(Config{
		Metrics: w.metrics, Logs: w.logs, Node: w, File: filepath.Join(w.t.TempDir(), "scrub.json"), Every: dayMs * 1e6,
		Log: slog.New(slog.DiscardHandler), OnDamage: func(d Damage) { *found = append(*found, d) },
	})
}

func (w *world) reopen() {
	w.t.Helper()
	w.close()
	w.open()
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
