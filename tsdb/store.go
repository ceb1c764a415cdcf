// Package tsdb is the metrics store: it keeps accepted samples in a Prometheus time series database, and answers
// PromQL from it.
//
// It owns one directory and everything in it: write-ahead logs, head, blocks, compaction and the deletion of blocks
// below the retention floor. It promises that a sample is visible once ApplySamples returned and durable once Flush
// returned and the file system was synced; that applying a sample again changes no answer; that a copy made by Cut
// answers as the store did; and that damage is reported (ErrDamaged), never opened with fewer samples. Nothing of a
// sample is decided here (DESIGN D2): which are accepted is for the state machine.
//
// It must not import the other parts of Triward, except agent/wire.
package tsdb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Store is the metrics store of a node. Its methods may be called from any goroutine.
type Store struct {
	opts    Options
	metrics *storeMetrics
	floor   atomic.Int64

	current atomic.Pointer[generation]
	applyMu sync.RWMutex // ApplySamples shares it; Cut, Flush and Open hold it while no sample may be on its way

	openMu   sync.Mutex // one Open or Close at a time
	closed   bool
	stop     chan struct{}
	tasks    sync.WaitGroup // the schedule and generations on their way out
	retireMu sync.Mutex
	retired  []error // of generations that were closed in the background
}

// New makes a store that is not open yet. Close ends it.
func New(opts Options) (*Store, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := newStoreMetrics(opts.Registerer)
	if err != nil {
		return nil, fmt.Errorf("metrics store: %w", err)
	}
	s := &Store{opts: opts, metrics: m, stop: make(chan struct{})}
	s.floor.Store(math.MinInt64)
	if opts.CompactEvery > 0 {
		s.tasks.Go(s.schedule)
	}
	return s, nil
}

// Open opens the store kept in dir, which is made when absent. A store that is open is replaced: readers that come
// later get the new one, the former is closed once its readers are gone, which are ended after SwapPatience. Opening
// the directory that is open closes it first; readers wait meanwhile. When Open fails on another directory the
// former store stays. An error that matches ErrDamaged names the file.
func (s *Store) Open(dir string) error {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	if s.closed {
		return fmt.Errorf("open metrics store %s: %w", dir, ErrClosed)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("open metrics store: %w", err)
	}
	old := s.current.Load()
	if old == nil || old.dir == dir {
		return s.reopen(old, dir)
	}
	old.reg.suspend()
	g, err := openGeneration(dir, &s.opts, &s.floor)
	if err != nil {
		return errors.Join(err, old.reg.resume())
	}
	s.applyMu.Lock()
	s.current.Store(g)
	s.applyMu.Unlock()
	s.tasks.Go(func() {
		if err := old.retire(s.opts.SwapPatience); err != nil {
			s.opts.Logger.Error("the replaced metrics store did not close", "dir", old.dir, "error", err)
			s.retireMu.Lock()
			s.retired = append(s.retired, err)
			s.retireMu.Unlock()
		}
	})
	return nil
}

// reopen opens dir while nothing else is open.
func (s *Store) reopen(old *generation, dir string) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.current.Store(nil)
	if old != nil {
		if err := old.retire(s.opts.SwapPatience); err != nil && old.usable() == nil {
			return err
		}
	}
	g, err := openGeneration(dir, &s.opts, &s.floor)
	if err != nil {
		return err
	}
	s.current.Store(g)
	return nil
}

// Close closes the store and waits for its readers, which are ended after SwapPatience. It is idempotent.
func (s *Store) Close() error {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.stop)
	s.applyMu.Lock()
	g := s.current.Swap(nil)
	s.applyMu.Unlock()
	var err error
	if g != nil {
		err = g.retire(s.opts.SwapPatience)
	}
	s.tasks.Wait()
	s.metrics.unregister(s.opts.Registerer)
	s.retireMu.Lock()
	defer s.retireMu.Unlock()
	return errors.Join(append(s.retired, err)...)
}

// Flush makes all that was applied before the call durable, except for directories of blocks, which a syncfs of the
// store's directory covers. It runs beside ApplySamples.
func (s *Store) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("flush metrics store: %w", err)
	}
	g, err := s.hold()
	if err != nil {
		return fmt.Errorf("flush metrics store: %w", err)
	}
	defer g.release()
	s.applyMu.Lock() // waits for the calls under way: between two of them the logs end with a whole record
	pos, err := g.ends()
	s.applyMu.Unlock()
	if err == nil {
		err = g.usable()
	}
	if err == nil {
		err = g.flush(pos)
	}
	if err != nil {
		return fmt.Errorf("flush metrics store: %w", err)
	}
	return nil
}

// Pause waits until compaction and the deletion of blocks stand still and keeps them so until resume is called,
// which may be called more than once. It applies to the directory that is open now.
func (s *Store) Pause(ctx context.Context) (resume func(), err error) {
	g, err := s.hold()
	if err != nil {
		return nil, fmt.Errorf("pause metrics store: %w", err)
	}
	g.paused.Add(1)
	if err := g.work.Acquire(ctx, 1); err != nil {
		g.paused.Add(-1)
		g.release()
		return nil, fmt.Errorf("pause metrics store: %w", err)
	}
	resume = sync.OnceFunc(func() {
		g.paused.Add(-1)
		g.work.Release(1)
		g.release()
	})
	// The library looks for blocks to delete every minute; this takes the lock under which it does, and there are
	// never tombstones to clean.
	if err := g.db.CleanTombstones(); err != nil {
		resume()
		return nil, fmt.Errorf("pause metrics store: %w", err)
	}
	return resume, nil
}

// hold counts the caller in as a reader of the store that is open; it must release it.
func (s *Store) hold() (*generation, error) {
	for {
		g := s.current.Load()
		if g == nil {
			// Open on the same directory holds applyMu until the new store is there.
			s.applyMu.RLock()
			g = s.current.Load()
			s.applyMu.RUnlock()
			if g == nil {
				return nil, ErrClosed
			}
		}
		if g.acquire() {
			return g, nil
		}
		if s.current.Load() == g {
			return nil, ErrClosed
		}
	}
}

// noticed is generation.noticed of the store that is open.
func (s *Store) noticed(err error) error {
	if err == nil {
		return nil
	}
	g, herr := s.hold()
	if herr != nil {
		return err
	}
	defer g.release()
	return g.noticed(err)
}

// Check says why the store takes and answers nothing; nil when it does.
func (s *Store) Check() error {
	g, err := s.hold()
	if err != nil {
		return err
	}
	defer g.release()
	return g.usable()
}

// SetFloor hides all samples before ms, in milliseconds since 1970, from queries at once; blocks that lie below it
// as a whole are deleted later. It never goes back.
func (s *Store) SetFloor(ms int64) {
	for {
		old := s.floor.Load()
		if ms <= old || s.floor.CompareAndSwap(old, ms) {
			return
		}
	}
}

// Floor returns what SetFloor was called with, math.MinInt64 before.
func (s *Store) Floor() int64 { return s.floor.Load() }

// Compact runs what the schedule runs: full ranges of the head become blocks, blocks are merged. It returns at once
// when the store is paused.
func (s *Store) Compact(ctx context.Context) error {
	g, err := s.hold()
	if err != nil {
		return fmt.Errorf("compact metrics store: %w", err)
	}
	defer g.release()
	if !g.work.TryAcquire(pauses) {
		return nil
	}
	defer g.work.Release(pauses)
	free, err := freeBytes(g.dir)
	if err != nil {
		return fmt.Errorf("compact metrics store: %w", err)
	}
	if need := 4*g.opts.ReserveBytes + dirBytes(filepath.Join(g.dir, walDir)); free < need {
		s.metrics.compactions.WithLabelValues("no_space").Inc()
		return nil
	}
	err = errors.Join(g.db.Compact(ctx), g.noteBlocks())
	if err != nil && g.compactCtx.Err() == nil && ctx.Err() == nil {
		s.metrics.compactions.WithLabelValues("failed").Inc()
		return fmt.Errorf("compact metrics store %s: %w", g.dir, err)
	}
	s.metrics.compactions.WithLabelValues("done").Inc()
	return nil
}

// schedule compacts at fixed places of the clock, shifted by Stagger.
func (s *Store) schedule() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	every := s.opts.CompactEvery
	for {
		now := time.Now()
		next := now.Truncate(every).Add(s.opts.Stagger % every)
		for !next.After(now) {
			next = next.Add(every)
		}
		timer := time.NewTimer(next.Sub(now))
		select {
		case <-s.stop:
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := s.Compact(ctx); err != nil && !errors.Is(err, ErrClosed) {
			s.opts.Logger.Error("compaction failed; the next run tries again", "error", err)
		}
	}
}
