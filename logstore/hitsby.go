package logstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/triward/triward/logstore/block"
)

// MaxGroups bounds the values that HitsBy tells apart.
const MaxGroups = 100

// Group is the counts of the lines with one value.
type Group struct {
	Value  string
	Total  int64
	Counts []int64 // per interval
}

// GroupedHits are counts per interval and value of a field: interval i holds the lines with T0+i*Step <= T < T0+(i+1)*Step.
type GroupedHits struct {
	T0, Step int64   // nanoseconds; T0 is a multiple of Step
	Total    int64   // matching lines
	Groups   []Group // of the most frequent values, most frequent first, then by value
	Other    []int64 // lines with other values
	None     []int64 // lines without the field
	Capped   bool    // one of the other values may be more frequent than one of Groups
	Stats    Stats
}

// HitsBy counts the matching lines of [Start, End) per step nanoseconds and value of a field (a label, a structured field,
// severity or kind), for the `top` most frequent values, 1 to MaxGroups. Limit, Cursor and Direction are not looked at. It
// goes over the lines once when there are few values, and two or three times when there are many.
func (s *Store) HitsBy(ctx context.Context, req Request, step int64, field string, top int) (*GroupedHits, error) {
	if field == "" || top < 1 || top > MaxGroups {
		return nil, fmt.Errorf("%w: hits by a field need its name and 1 to %d values", ErrRequest, MaxGroups)
	}
	t0, n, err := buckets(req.Start, req.End, step)
	if err != nil {
		return nil, err
	}
	c, done, err := s.query(ctx, &req)
	if err != nil {
		return nil, err
	}
	defer done()
	out := &GroupedHits{T0: t0, Step: step}
	g := &groupSink{countedBy: newCountedBy(field), most: s.bounds.values, t0: t0, step: step, n: n, groups: map[string]*Group{}}
	c.sink = g
	if err := c.run(); err != nil {
		return nil, err
	}
	if g.over {
		counts := newTally(field, s.bounds.values)
		if err := counts.run(c); err != nil {
			return nil, err
		}
		var values []Facet
		values, out.Capped = counts.top(top)
		g = &groupSink{countedBy: g.countedBy, t0: t0, step: step, n: n, groups: map[string]*Group{}, fixed: true}
		for _, v := range values {
			g.groups[v.Value] = &Group{Value: v.Value}
		}
		c.sink = g
		if err := c.run(); err != nil {
			return nil, err
		}
	}
	g.fill(out, top)
	out.Stats = c.stats
	return out, nil
}

// groupSink counts by interval and value.
type groupSink struct {
	*countedBy
	t0, step    int64
	n           int
	groups      map[string]*Group
	other, none []int64
	total       int64
	bytes, most int  // of groups
	fixed       bool // others than those in groups are not told apart
	over        bool // they do not fit
}

func (v *groupSink) bucket(t int64) int { return int((t - v.t0) / v.step) }

func (v *groupSink) count(value string, bucket int, lines int64) {
	if lines == 0 || v.over {
		return
	}
	v.total += lines
	if value == "" {
		v.none = v.in(v.none, bucket, lines)
		return
	}
	g := v.groups[value]
	if g == nil && v.fixed {
		v.other = v.in(v.other, bucket, lines)
		return
	}
	if g == nil {
		if v.bytes += len(value) + valueOverhead + 8*v.n; v.bytes > v.most {
			v.over, v.groups = true, nil
			return
		}
		g = &Group{Value: strings.Clone(value)}
		v.groups[g.Value] = g
	}
	g.Total += lines
	g.Counts = v.in(g.Counts, bucket, lines)
}

func (v *groupSink) in(counts []int64, bucket int, lines int64) []int64 {
	if counts == nil {
		counts = make([]int64, v.n)
	}
	counts[bucket] += lines
	return counts
}

func (v *groupSink) fill(out *GroupedHits, top int) {
	groups := make([]Group, 0, len(v.groups))
	for _, g := range v.groups {
		if g.Total > 0 {
			groups = append(groups, *g)
		}
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Value, b.Value))
	})
	for _, g := range groups[min(top, len(groups)):] {
		for i, n := range g.Counts {
			v.other = v.in(v.other, i, n)
		}
	}
	out.Total, out.Groups, out.Other, out.None = v.total, groups[:min(top, len(groups))], v.other, v.none
}

func (v *groupSink) wants(int64, int64, uint64, uint64) bool { return !v.over }

func (v *groupSink) whole(st *stream, h *block.Header) bool {
	b := v.bucket(h.MinT)
	if b != v.bucket(h.MaxT) {
		return false
	}
	return v.countedBy.whole(st, h, func(value string, n int64) { v.count(value, b, n) })
}

func (v *groupSink) add(st *stream, l *block.Line) bool {
	v.count(v.of(st, l), v.bucket(l.T), 1)
	return !v.over
}
