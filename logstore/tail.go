package logstore

import (
	"context"
	"sync"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// Matches reports whether a line matches a filter, for live tails that see lines as they are applied. Once ctx ends a long line is
// given up, and what is returned means nothing.
func Matches(ctx context.Context, f *query.Filter, kind wire.StreamKind, labels wire.Labels, l *wire.LogLine) bool {
	return f.Match(&query.Line{
		T: l.T, Kind: kind, Severity: l.Severity, Labels: labels, Fields: l.Fields, Text: l.Text, Stop: func() bool { return ctx.Err() != nil },
	})
}

// feed tells waiters that lines were applied.
type feed struct {
	mu   sync.Mutex
	next chan struct{}
	done bool
}

// Changed returns a channel that is closed when more has been applied than at the time of the call, or the
// store is closed.
func (s *Store) Changed() <-chan struct{} {
	s.tails.mu.Lock()
	defer s.tails.mu.Unlock()
	if s.tails.next == nil {
		s.tails.next = make(chan struct{})
		if s.tails.done {
			close(s.tails.next)
		}
	}
	return s.tails.next
}

func (f *feed) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next != nil && !f.done {
		close(f.next)
		f.next = nil
	}
}

func (f *feed) close() {
	f.wake()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = true
}
