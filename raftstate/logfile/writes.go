package logfile

import (
	"sync"
	"time"
)

// writes are those in flight. There may be several: raft stores a term beside the entries that it is about to store, and
// one that hangs must not be forgotten because another has begun.
type writes struct {
	mu    sync.Mutex
	next  uint64
	began map[uint64]time.Time
}

// begin notes that a write is under way until the function it returns is called.
func (w *writes) begin() (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.began == nil {
		w.began = make(map[uint64]time.Time)
	}
	id := w.next
	w.next++
	w.began[id] = time.Now()
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.began, id)
	}
}

// oldest is for how long the oldest of them is under way.
func (w *writes) oldest() (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.began {
		d = max(d, time.Since(t))
	}
	return d
}

// Writing returns for how long the oldest write in flight has been running, 0 when there is none.
func (s *Store) Writing() time.Duration { return s.writes.oldest() }
