package logstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// Bounds of aggregations.
const (
	MaxBuckets     = 11000
	maxFacetValues = 100_000 // distinct values counted
	MaxFacets      = 1000    // values in an answer
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
	if step <= 0 || req.End <= req.Start {
		return nil, fmt.Errorf("%w: hits need start < end and a step", ErrRequest)
	}
	t0 := req.Start - ((req.Start%step)+step)%step
	n := (uint64(req.End-1)-uint64(t0))/uint64(step) + 1
	if n > MaxBuckets {
		return nil, fmt.Errorf("%w: %d intervals, at most %d are allowed: take a longer step", ErrRequest, n, MaxBuckets)
	}
	c, done, err := s.scan(ctx, req.Filter, req.Start, req.End)
	if err != nil {
		return nil, err
	}
	defer done()
	h := &Hits{T0: t0, Step: step}
	c.sink = &hitSink{h: h, n: int(n)}
	if err := c.run(); err != nil {
		return nil, err
	}
	h.Stats = c.stats
	return h, nil
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

// Facet is a value and in how many lines it occurs.
type Facet struct {
	Value string
	Count int64
}

// Facets are the most frequent values of a field.
type Facets struct {
	Values []Facet // most frequent first, then by value
	Lines  int64   // matching lines that have the field
	Capped bool    // more distinct values than are counted: the counts are of those met first
	Stats  Stats
}

// Facets counts the values of a label or structured field (or of severity or kind) over the matching lines of
// [Start, End) and returns the req.Limit (20) most frequent.
func (s *Store) Facets(ctx context.Context, req Request, field string) (*Facets, error) {
	if field == "" || req.Limit < 0 || req.Limit > MaxFacets {
		return nil, fmt.Errorf("%w: facets need a field and a limit of at most %d", ErrRequest, MaxFacets)
	}
	if req.Limit == 0 {
		req.Limit = 20
	}
	c, done, err := s.scan(ctx, req.Filter, req.Start, req.End)
	if err != nil {
		return nil, err
	}
	defer done()
	v := &facetSink{field: field, counts: map[string]int64{}}
	c.sink = v
	if err := c.run(); err != nil {
		return nil, err
	}
	out := &Facets{Lines: v.lines, Capped: v.capped, Stats: c.stats}
	for val, n := range v.counts {
		out.Values = append(out.Values, Facet{val, n})
	}
	slices.SortFunc(out.Values, func(a, b Facet) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Value, b.Value))
	})
	out.Values = out.Values[:min(req.Limit, len(out.Values))]
	return out, nil
}

type facetSink struct {
	field  string
	counts map[string]int64
	lines  int64
	capped bool
}

func (v *facetSink) wants(int64, int64, uint64, uint64) bool { return true }
func (v *facetSink) needs() (positions, fields, text bool)   { return false, v.perLine(), false }
func (v *facetSink) perLine() bool {
	return v.field != "severity" && v.field != "level" && v.field != "kind"
}

func (v *facetSink) count(value string, n int64) {
	if value == "" {
		return
	}
	v.lines += n
	if _, ok := v.counts[value]; !ok {
		if len(v.counts) >= maxFacetValues {
			v.capped = true
			return
		}
		value = strings.Clone(value)
	}
	v.counts[value] += n
}

func kindName(k wire.StreamKind) string {
	if k == wire.StreamEvent {
		return "event"
	}
	return "log"
}

func (v *facetSink) whole(st *stream, h *block.Header) bool {
	switch value := st.label(v.field); {
	case v.field == "kind":
		v.count(kindName(st.kind), int64(h.Lines))
	case !v.perLine():
		for s, n := range h.Severities {
			if n > 0 {
				v.count(wire.Severity(s).String(), int64(n))
			}
		}
	case value != "":
		v.count(value, int64(h.Lines))
	default:
		return !h.HasFields
	}
	return true
}

func (v *facetSink) add(st *stream, l *block.Line) bool {
	switch value := st.labels().Get(v.field); {
	case v.field == "kind":
		v.count(kindName(st.kind), 1)
	case !v.perLine():
		v.count(l.Severity.String(), 1)
	case value != "":
		v.count(value, 1)
	default:
		v.count(wire.Labels(l.Fields).Get(v.field), 1)
	}
	return true
}

// Labels returns the names of the labels of the streams that have lines on the days which [start, end) touches,
// sorted.
func (s *Store) Labels(ctx context.Context, start, end int64) ([]string, error) {
	return s.labels(ctx, start, end, func(st *stream, add func([]byte)) {
		_ = walkLabels(st.row, func(name, _ []byte) bool { // checked when it was read
			add(name)
			return true
		})
	})
}

// LabelValues returns the values of a label in the same way, at most 10,000, sorted.
func (s *Store) LabelValues(ctx context.Context, name string, start, end int64) ([]string, error) {
	return s.labels(ctx, start, end, func(st *stream, add func([]byte)) {
		_ = walkLabels(st.row, func(n, v []byte) bool {
			if string(n) == name {
				add(v)
			}
			return true
		})
	})
}

func (s *Store) labels(ctx context.Context, start, end int64, each func(*stream, func([]byte))) ([]string, error) {
	c, done, err := s.scan(ctx, nil, start, end)
	if err != nil {
		return nil, err
	}
	defer done()
	var set smallest
	days, err := c.e.days(c.snap, prefixStream, false)
	if err != nil {
		return nil, err
	}
	for _, d := range days {
		if d < Day(c.start) || d > Day(c.last) {
			continue
		}
		if err := c.err(); err != nil {
			return nil, err
		}
		err := c.e.rows(c.snap, dayPrefix(prefixStream, d), func(key, value []byte) error {
			var st stream
			if err := parseStream(&st, streamID(key[5:]), value); err != nil {
				return err
			}
			if d >= Day(c.floors.of(st.kind)) {
				each(&st, set.add)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return set.sorted(), nil
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
