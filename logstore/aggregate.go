package logstore

import (
	"context"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// Bounds of aggregations.
const (
	MaxBuckets     = 11000
	MaxFacets      = 1000 // values in an answer
	maxLabelValues = 10_000
)

// Hits are counts per interval: bucket i holds the lines with T0+i*Step <= T < T0+(i+1)*Step.
type Hits struct {
	T0, Step int64 // nanoseconds; T0 is a multiple of Step
	Total    int64
	Counts   [wire.SeverityCritical + 1][]int64 // nil for a severity without a line
	Stats    Stats
}

// Hits counts the matching lines of [Start, End) per step nanoseconds and severity. Limit, Cursor and Direction
// are not looked at.
func (s *Store) Hits(ctx context.Context, req Request, step int64) (*Hits, error) {
	t0, n, err := buckets(req.Start, req.End, step)
	if err != nil {
		return nil, err
	}
	c, done, err := s.query(ctx, &req)
	if err != nil {
		return nil, err
	}
	defer done()
	h := &Hits{T0: t0, Step: step}
	c.sink = &hitSink{h: h, n: n}
	if err := c.run(); err != nil {
		return nil, err
	}
	h.Stats = c.stats
	return h, nil
}

// buckets returns where the first of the intervals that [start, end) reaches into begins, and how many there are.
func buckets(start, end, step int64) (t0 int64, n int, err error) {
	if step <= 0 || end <= start {
		return 0, 0, fmt.Errorf("%w: hits need start < end and a step", ErrRequest)
	}
	t0 = start - ((start%step)+step)%step
	count := (uint64(end-1)-uint64(t0))/uint64(step) + 1
	if count > MaxBuckets {
		return 0, 0, fmt.Errorf("%w: %d intervals, at most %d are allowed: take a longer step", ErrRequest, count, MaxBuckets)
	}
	return t0, int(count), nil
}

type hitSink struct {
	h *Hits
	n int
}

func (v *hitSink) wants(int64, int64, uint64, uint64) bool { return true }
func (v *hitSink) needs() (positions, fields, text bool)   { return false, false, false }
func (v *hitSink) bucket(t int64) int                      { return int((t - v.h.T0) / v.h.Step) }
func (v *hitSink) count(s wire.Severity, bucket int, lines int64) {
	if v.h.Counts[s] == nil {
		v.h.Counts[s] = make([]int64, v.n)
	}
	v.h.Counts[s][bucket] += lines
	v.h.Total += lines
}

func (v *hitSink) whole(_ *stream, h *block.Header) bool {
	b := v.bucket(h.MinT)
	if b != v.bucket(h.MaxT) {
		return false
	}
	for s, n := range h.Severities {
		if n > 0 {
			v.count(wire.Severity(s), b, int64(n))
		}
	}
	return true
}

func (v *hitSink) add(_ *stream, l *block.Line) bool {
	v.count(l.Severity, v.bucket(l.T), 1)
	return true
}

// byMinutes implements minuted: no minute is in two intervals.
func (v *hitSink) byMinutes() bool { return v.h.Step%int64(time.Minute) == 0 }

// addMinutes implements minuted.
func (v *hitSink) addMinutes(m *block.Minutes) {
	for s, counts := range m.Counts {
		for i, lines := range counts {
			if lines > 0 {
				v.count(wire.Severity(s), v.bucket(m.First+int64(i)*int64(time.Minute)), int64(lines))
			}
		}
	}
}

// timed implements counter.
func (v *hitSink) timed(h *block.Header) bool { return v.bucket(h.MinT) != v.bucket(h.MaxT) }

// addAll implements counter; times ascend.
func (v *hitSink) addAll(h *block.Header, times []int64, severities []byte, in query.Bits) {
	var n [wire.SeverityCritical + 1]int64 // of the bucket
	bucket, next := v.bucket(h.MinT), int64(maxTime)
	if len(times) > 0 {
		next = minTime // lines before next are in the bucket
	}
	for k, w := range in {
		for ; w != 0; w &= w - 1 {
			i := k*64 + bits.TrailingZeros64(w)
			if len(times) > 0 && times[i] >= next {
				v.flush(bucket, &n)
				bucket = v.bucket(times[i])
				if next = v.h.T0 + int64(bucket+1)*v.h.Step; next < times[i] { // beyond what can be said
					next = maxTime
				}
			}
			n[severities[i]]++
		}
	}
	v.flush(bucket, &n)
}

// flush counts n, which it clears.
func (v *hitSink) flush(bucket int, n *[wire.SeverityCritical + 1]int64) {
	for s, lines := range n {
		if lines > 0 {
			v.count(wire.Severity(s), bucket, lines)
		}
	}
	clear(n[:])
}

// Facet is a value and in how many lines it occurs.
type Facet struct {
	Value string
	Count int64
}

// Facets are the most frequent values of a field.
type Facets struct {
	Values []Facet // most frequent first, then by value
	Lines  int64   // matching lines that have the field
	Capped bool    // there are so many values that one which is not here may be more frequent than one which is
	Stats  Stats
}

// Facets counts the values of a label or structured field (or of severity or kind) over the matching lines of
// [Start, End) and returns the req.Limit (20) most frequent. The counts are exact, and the same on every node with the
// same lines; when the values are too many to be held the lines are gone over twice.
func (s *Store) Facets(ctx context.Context, req Request, field string) (*Facets, error) {
	if field == "" || req.Limit < 0 || req.Limit > MaxFacets {
		return nil, fmt.Errorf("%w: facets need a field and a limit of at most %d", ErrRequest, MaxFacets)
	}
	if req.Limit == 0 {
		req.Limit = 20
	}
	c, done, err := s.query(ctx, &req)
	if err != nil {
		return nil, err
	}
	defer done()
	v := newTally(field, s.bounds.values)
	if err := v.run(c); err != nil {
		return nil, err
	}
	out := &Facets{Lines: v.lines}
	out.Values, out.Capped = v.top(req.Limit)
	out.Stats = c.stats
	return out, nil
}

func kindName(k wire.StreamKind) string {
	if k == wire.StreamEvent {
		return "event"
	}
	return "log"
}

// Labels returns the names of the labels of the streams that have lines on the days which [start, end) touches,
// sorted.
func (s *Store) Labels(ctx context.Context, start, end int64) ([]string, Stats, error) {
	return s.labels(ctx, start, end, func(st *stream, add func([]byte)) {
		_ = walkLabels(st.row, func(name, _ []byte) bool { // checked when it was read
			add(name)
			return true
		})
	})
}

// LabelValues returns the values of a label in the same way, at most 10,000, sorted.
func (s *Store) LabelValues(ctx context.Context, name string, start, end int64) ([]string, Stats, error) {
	return s.labels(ctx, start, end, func(st *stream, add func([]byte)) {
		_ = walkLabels(st.row, func(n, v []byte) bool {
			if string(n) == name {
				add(v)
			}
			return true
		})
	})
}

func (s *Store) labels(ctx context.Context, start, end int64, each func(*stream, func([]byte))) ([]string, Stats, error) {
	c, done, err := s.query(ctx, &Request{Start: start, End: end})
	if err != nil {
		return nil, Stats{}, err
	}
	defer done()
	c.shortDay()
	var set smallest
	days, err := c.e.days(c.snap, prefixStream, false)
	if err != nil {
		return nil, c.stats, err
	}
	for _, d := range days {
		if d < Day(c.start) || d > Day(c.last) {
			continue
		}
		if err := c.err(); err != nil {
			return nil, c.stats, err
		}
		err := c.e.rows(c.snap, dayPrefix(prefixStream, d), func(key, value []byte) error {
			var st stream
			if err := parseStream(&st, streamID(key[5:]), value); err != nil {
				return c.spoiled(fmt.Sprintf("key %x", key), err)
			}
			if d < Day(c.floors.of(st.kind)) {
				return nil
			}
			if cut := c.cuts.hidden(d, &st); cut > 0 {
				if some, err := c.shows(d, &st, cut); err != nil || !some {
					return err
				}
			}
			each(&st, set.add)
			return nil
		})
		if err != nil {
			return nil, c.stats, err
		}
	}
	c.stats.Duration = time.Since(c.began)
	return set.sorted(), c.stats, nil
}

// smallest keeps the maxLabelValues least of the values added, and for a while as many more.
type smallest struct {
	values map[string]struct{}
	beyond string // when not empty, values from here on are not wanted any more
}

func (s *smallest) add(v []byte) {
	if _, ok := s.values[string(v)]; ok || s.beyond != "" && string(v) >= s.beyond {
		return
	}
	if s.values == nil {
		s.values = map[string]struct{}{}
	}
	s.values[string(v)] = struct{}{}
	if len(s.values) >= 2*maxLabelValues {
		for _, more := range s.all()[maxLabelValues:] {
			delete(s.values, more)
			if s.beyond == "" || more < s.beyond {
				s.beyond = more
			}
		}
	}
}

func (s *smallest) all() []string { return slices.Sorted(maps.Keys(s.values)) }

func (s *smallest) sorted() []string {
	out := s.all()
	return out[:min(len(out), maxLabelValues)]
}
