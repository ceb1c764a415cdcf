package raftstate

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/triward/triward/agent/wire"
)

type sampleKey struct {
	ID uint64
	T  int64
}

// fakeContent is what a fake store holds.
type fakeContent struct {
	Samples map[sampleKey]float64
	Lines   map[string]string // "<index>.<ordinal>" to text
	Through uint64
}

// fakeStore keeps its content in memory and, as of the last Flush, in a file: like the real stores it forgets
// what was not flushed when the node dies.
type fakeStore struct {
	mu                   sync.Mutex
	dir                  string
	content              fakeContent
	paused               int
	cuts                 int
	floors, floorsAtOpen map[string]int64              // by kind
	fail                 atomic.Pointer[error]         // what applying returns
	block                atomic.Pointer[chan struct{}] // Flush waits for it, when set
}

const fakeFile = "content.gob"

func (s *fakeStore) Open(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	c := fakeContent{Samples: map[sampleKey]float64{}, Lines: map[string]string{}}
	f, err := os.Open(filepath.Join(dir, fakeFile))
	if err == nil {
		defer f.Close()
		if err := gob.NewDecoder(f).Decode(&c); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.dir, s.content = dir, c
	s.floorsAtOpen = maps.Clone(s.floors)
	return nil
}

func (s *fakeStore) save(dir string) error {
	tmp := filepath.Join(dir, fakeFile+".new")
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(gob.NewEncoder(f).Encode(s.content), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, fakeFile))
}

func (s *fakeStore) Flush(ctx context.Context) error {
	if block := s.block.Load(); block != nil {
		select {
		case <-*block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.save(s.dir)
}

func (s *fakeStore) Pause(context.Context) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.paused--
	}), nil
}

func (s *fakeStore) Cut(dst string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused == 0 {
		return errors.New("cut without a pause")
	}
	if err := os.Mkdir(dst, 0o700); err != nil {
		return err
	}
	s.cuts++
	return s.save(dst)
}

func (s *fakeStore) Close() error { return nil }

func (s *fakeStore) failure() error {
	if err := s.fail.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *fakeStore) failWith(err error) {
	if err == nil {
		s.fail.Store(nil)
		return
	}
	s.fail.Store(&err)
}

func (s *fakeStore) snapshot() fakeContent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fakeContent{Samples: maps.Clone(s.content.Samples), Lines: maps.Clone(s.content.Lines), Through: s.content.Through}
}

func (s *fakeStore) setFloor(kind string, floor int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.floors == nil {
		s.floors = map[string]int64{}
	}
	s.floors[kind] = floor
}

// known returns the floors now and when the store was opened last.
func (s *fakeStore) known() (now, atOpen map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.floors), s.floorsAtOpen
}

type fakeMetrics struct{ fakeStore }

func (s *fakeMetrics) SetFloor(ms int64) { s.setFloor("metrics", ms) }

func (s *fakeMetrics) ApplySamples(in *wire.Samples) error {
	if err := s.failure(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range in.IDs {
		k := sampleKey{id, in.T[i]}
		if _, ok := s.content.Samples[k]; !ok {
			s.content.Samples[k] = in.Values[i]
		}
	}
	return nil
}

type fakeLogs struct {
	fakeStore
	largest int // bytes of text in one call
	format  atomic.Uint32

	durable, durableAtOpen atomic.Uint64
	hidden, hiddenAtOpen   atomic.Pointer[[]wire.LogCut]
}

func (s *fakeLogs) SetCuts(cuts []wire.LogCut) { s.hidden.Store(&cuts) }

// Open notes what was known before.
func (s *fakeLogs) Open(dir string) error {
	s.hiddenAtOpen.Store(s.hidden.Load())
	s.durableAtOpen.Store(s.durable.Load())
	return s.fakeStore.Open(dir)
}

func (s *fakeLogs) Durable(index uint64) { s.durable.Store(index) }

func (s *fakeLogs) SetFormat(format uint32) { s.format.Store(format) }

func (s *fakeLogs) ApplyLogs(through uint64, entries []wire.LogEntry) error {
	if err := s.failure(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := 0
	defer func() { s.largest = max(s.largest, bytes) }()
	for _, e := range entries {
		if e.Index <= s.content.Through {
			continue
		}
		n := 0
		for _, b := range e.Batches {
			for _, st := range b.Batch.Streams {
				for _, l := range st.Lines {
					bytes += len(l.Text)
					text := l.Text[max(0, len(l.Text)-40):] // long lines are only there to fill the log
					s.content.Lines[fmt.Sprintf("%d.%d", e.Index, n)] = string(text)
					n++
				}
			}
		}
	}
	s.content.Through = max(s.content.Through, through)
	return nil
}

func (s *fakeLogs) SetKindFloor(kind wire.StreamKind, ns int64) {
	s.setFloor(map[wire.StreamKind]string{wire.StreamLog: "log", wire.StreamEvent: "event"}[kind], ns)
}

func (s *fakeLogs) Applied() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content.Through
}

// recorder notes what it was told.
type recorder struct {
	mu        sync.Mutex
	last      uint64
	samples   int
	installed int
	backwards bool
	hold      chan struct{} // nil: nothing holds it up
}

func (r *recorder) Observe(a *Applied) {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		<-hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Installed {
		r.installed++
	} else {
		r.backwards = r.backwards || a.Index <= r.last
		r.samples += len(a.Samples.IDs)
	}
	r.last = a.Index
}

// holdUp lets what comes wait until the channel is closed.
func (r *recorder) holdUp(until chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = until
}

func (r *recorder) outOfOrder() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.backwards
}

func (r *recorder) installs() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.installed
}
