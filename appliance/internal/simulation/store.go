package simulation

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate"
)

// Sample is one sample of a store.
type Sample struct {
	Series uint64
	T      int64 // milliseconds since 1970
	V      float64
}

// Line is one line of a store. Its place in the log orders it.
type Line struct {
	Index uint64
	Ord   uint32
	T     int64 // nanoseconds since 1970
	Text  string
}

// Stores are what a node feeds, and how one looks into them at the end.
type Stores interface {
	Sinks() (raftstate.MetricSink, raftstate.LogSink)
	// Content returns everything that readers are shown, samples by series and time, lines by place.
	Content(n *raftstate.Node) ([]Sample, []Line, error)
}

// Bed is what a store stands on: time that passes when it does, and how its disk is. Real stores ignore it.
type Bed struct {
	sleep func(time.Duration) bool
	full  func() bool
}

// plainStores are stores in memory. Like the real ones they hold after a crash what they held at the last Flush.
type plainStores struct {
	metrics plainMetrics
	logs    plainLogs
}

// newPlainStores returns empty stores.
func newPlainStores(bed Bed) Stores {
	s := &plainStores{}
	s.metrics.bed, s.logs.bed = bed, bed
	return s
}

// Sinks implements Stores.
func (s *plainStores) Sinks() (raftstate.MetricSink, raftstate.LogSink) { return &s.metrics, &s.logs }

// Content implements Stores.
func (s *plainStores) Content(*raftstate.Node) ([]Sample, []Line, error) {
	s.metrics.mu.Lock()
	defer s.metrics.mu.Unlock()
	s.logs.mu.Lock()
	defer s.logs.mu.Unlock()
	var samples []Sample
	for k, v := range s.metrics.content.Samples {
		if k.T >= s.metrics.floor {
			samples = append(samples, Sample{k.Series, k.T, v})
		}
	}
	slices.SortFunc(samples, compareSamples)
	var lines []Line
	for i, l := range s.logs.content.Lines {
		if l.T >= s.logs.floor && !s.logs.cut(i) {
			lines = append(lines, l)
		}
	}
	return samples, lines, nil
}

func compareSamples(a, b Sample) int {
	switch {
	case a.Series != b.Series:
		return cmpInt(a.Series, b.Series)
	default:
		return cmpInt(a.T, b.T)
	}
}

func cmpInt[T uint64 | int64 | uint32](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

type sampleKey struct {
	Series uint64
	T      int64
}

// content is what a store holds; a store of metrics has no lines, and the other way round.
type content struct {
	Samples map[sampleKey]float64
	Lines   []Line
	Of      []lineStream // of each line
	Through uint64
}

type lineStream struct {
	Kind   wire.StreamKind
	Labels wire.Labels
}

// plainStore is what both have in common.
type plainStore struct {
	bed Bed

	mu      sync.Mutex
	dir     string
	content content
	changed bool // since the last save
	paused  int
	floor   int64
}

const contentFile = "content"

// Open implements raftstate.Sink.
func (s *plainStore) Open(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	c := content{Samples: map[sampleKey]float64{}}
	b, err := os.ReadFile(filepath.Join(dir, contentFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&c); err != nil {
			return fmt.Errorf("content of %s: %w", dir, err)
		}
	}
	s.dir, s.content, s.changed = dir, c, true
	return nil
}

func (s *plainStore) saveLocked(dir string) error {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(s.content); err != nil {
		return err
	}
	tmp := filepath.Join(dir, contentFile+".new")
	if err := os.WriteFile(tmp, b.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, contentFile))
}

// Flush implements raftstate.Sink. It takes a while, in which more is applied.
func (s *plainStore) Flush(ctx context.Context) error {
	if !s.bed.sleep(rand.N(20 * time.Millisecond)) {
		return errDead
	}
	if s.bed.full() {
		return fmt.Errorf("flush: %w", syscall.ENOSPC)
	}
	s.mu.Lock()
	var err error
	if s.changed {
		err = s.saveLocked(s.dir)
		s.changed = err != nil
	}
	s.mu.Unlock()
	if err == nil && !s.bed.sleep(rand.N(20*time.Millisecond)) {
		return errDead
	}
	return errors.Join(err, ctx.Err())
}

// Pause implements raftstate.Sink.
func (s *plainStore) Pause(context.Context) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.paused--
	}), nil
}

// Cut implements raftstate.Sink.
func (s *plainStore) Cut(dst string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused == 0 {
		return errors.New("cut without a pause")
	}
	if err := os.Mkdir(dst, 0o700); err != nil {
		return err
	}
	return s.saveLocked(dst)
}

// Close implements raftstate.Sink.
func (s *plainStore) Close() error { return nil }

func (s *plainStore) room() error {
	if s.bed.full() {
		return fmt.Errorf("store in %s: %w", s.dir, syscall.ENOSPC)
	}
	return nil
}

type plainMetrics struct{ plainStore }

// SetFloor implements raftstate.MetricSink.
func (s *plainMetrics) SetFloor(ms int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.floor = max(s.floor, ms)
}

// ApplySamples implements raftstate.MetricSink.
func (s *plainMetrics) ApplySamples(in *wire.Samples) error {
	if err := s.room(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = true
	for i, id := range in.IDs {
		k := sampleKey{id, in.T[i]}
		if _, ok := s.content.Samples[k]; !ok {
			s.content.Samples[k] = in.Values[i]
		}
	}
	return nil
}

type plainLogs struct {
	plainStore
	cuts []wire.LogCut
}

// SetCuts implements raftstate.LogSink.
func (s *plainLogs) SetCuts(cuts []wire.LogCut) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts = cuts
}

// Durable implements raftstate.LogSink. Nothing is removed here.
func (s *plainLogs) Durable(uint64) {}

// cut reports whether a selector has cut line i. The caller holds mu.
func (s *plainLogs) cut(i int) bool {
	l, of := &s.content.Lines[i], &s.content.Of[i]
	for _, c := range s.cuts {
		if c.Kind != of.Kind || c.Day != l.T/(24*time.Hour).Nanoseconds() {
			continue
		}
		for _, sel := range c.Selectors {
			if p, err := wire.NewPicker(sel.Selector); l.Index <= sel.Through && (err != nil || p.Picks(of.Labels.Get)) {
				return true
			}
		}
	}
	return false
}

// SetFormat implements raftstate.LogSink.
func (s *plainLogs) SetFormat(uint32) {}

// SetKindFloor implements raftstate.LogSink.
func (s *plainLogs) SetKindFloor(kind wire.StreamKind, ns int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind == wire.StreamLog {
		s.floor = max(s.floor, ns)
	}
}

// ApplyLogs implements raftstate.LogSink.
func (s *plainLogs) ApplyLogs(through uint64, entries []wire.LogEntry) error {
	if err := s.room(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = true
	for _, e := range entries {
		if e.Index <= s.content.Through {
			continue
		}
		ord := uint32(0)
		for _, b := range e.Batches {
			for _, st := range b.Batch.Streams {
				for _, l := range st.Lines {
					s.content.Lines = append(s.content.Lines, Line{Index: e.Index, Ord: ord, T: l.T, Text: Told(l.Text)})
					s.content.Of = append(s.content.Of, lineStream{st.Kind, st.Labels.Clone()})
					ord++
				}
			}
		}
	}
	s.content.Through = max(s.content.Through, through)
	return nil
}

// Applied implements raftstate.LogSink.
func (s *plainLogs) Applied() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content.Through
}
