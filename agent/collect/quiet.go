package collect

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// repeatAfter is how long the same complaint of a collector is not repeated.
const repeatAfter = time.Hour

// maxComplaints bounds how many complaints are told apart.
const maxComplaints = 256

// Quiet wraps the handler of a logger that is given to node_exporter's collectors, which tell about their start at
// level info and complain on every scrape: only warnings and worse pass, the same one once an hour.
func Quiet(h slog.Handler) slog.Handler {
	return &quiet{Handler: h, seen: &seen{last: map[string]time.Time{}}}
}

type quiet struct {
	slog.Handler
	about string
	seen  *seen
}

type seen struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// Enabled implements slog.Handler.
func (q *quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (q *quiet) Handle(ctx context.Context, r slog.Record) error {
	key := q.about + r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "name" || a.Key == "collector" {
			key += "/" + a.Value.String()
		}
		return true
	})
	if !q.seen.fresh(key, r.Time) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (s *seen) fresh(key string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.last[key]; ok && now.Sub(t) < repeatAfter {
		return false
	}
	if len(s.last) >= maxComplaints {
		clear(s.last)
	}
	s.last[key] = now
	return true
}

// WithAttrs implements slog.Handler.
func (q *quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	about := q.about
	for _, a := range attrs {
		about += a.Value.String() + "/"
	}
	return &quiet{Handler: q.Handler.WithAttrs(attrs), about: about, seen: q.seen}
}

// WithGroup implements slog.Handler.
func (q *quiet) WithGroup(name string) slog.Handler {
	return &quiet{Handler: q.Handler.WithGroup(name), about: q.about, seen: q.seen}
}
