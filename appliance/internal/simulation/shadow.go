package simulation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/triward/triward/raftstate"
)

// shadow keeps copies of the directories of a process's stores as of their last Flush. A mark syncs the file system right
// after it, so a copy is the least that a loss of power leaves once there is a mark.
type shadow struct {
	p    *process
	mu   sync.Mutex
	dirs map[string]string // copy by directory
	n    int
}

// take copies a directory.
func (s *shadow) take(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.p.alive() {
		return errDead
	}
	s.n++
	to := fmt.Sprintf("%s-shadow-%d", s.p.dir, s.n)
	if err := copyTree(dir, to); err != nil {
		return err
	}
	old := s.dirs[dir]
	s.dirs[dir] = to
	if old == "" {
		return nil
	}
	return os.RemoveAll(old)
}

// restore puts the copies into the place of what was copied to the directory to.
func (s *shadow) restore(to string) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for dir, kept := range s.dirs {
		rel, err := filepath.Rel(s.p.dir, dir)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if _, err := os.Stat(dst); err != nil { // a generation that was replaced
			continue
		}
		errs = append(errs, os.RemoveAll(dst), copyTree(kept, dst))
	}
	return errors.Join(errs...)
}

// drop removes the copies.
func (s *shadow) drop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kept := range s.dirs {
		_ = os.RemoveAll(kept)
	}
}

// shadowed follows which directory is open and copies it after each Flush.
type shadowed struct {
	s   *shadow
	mu  sync.Mutex
	dir string
}

func (w *shadowed) opened(dir string, open func(string) error) error {
	if err := open(dir); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dir = dir
	return nil
}

func (w *shadowed) flushed(err error) error {
	if err != nil {
		return err
	}
	w.mu.Lock()
	dir := w.dir
	w.mu.Unlock()
	return w.s.take(dir)
}

type shadowedMetrics struct {
	raftstate.MetricSink
	w shadowed
}

// Open implements raftstate.Sink.
func (m *shadowedMetrics) Open(dir string) error { return m.w.opened(dir, m.MetricSink.Open) }

// Flush implements raftstate.Sink.
func (m *shadowedMetrics) Flush(ctx context.Context) error {
	return m.w.flushed(m.MetricSink.Flush(ctx))
}

type shadowedLogs struct {
	raftstate.LogSink
	w shadowed
}

// Open implements raftstate.Sink.
func (l *shadowedLogs) Open(dir string) error { return l.w.opened(dir, l.LogSink.Open) }

// Flush implements raftstate.Sink.
func (l *shadowedLogs) Flush(ctx context.Context) error { return l.w.flushed(l.LogSink.Flush(ctx)) }
