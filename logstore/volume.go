package logstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// Volume is what one stream holds.
type Volume struct {
	Stream
	Lines, Bytes int64
	Per          []int64 // bytes in each interval
}

// Volumes are what streams hold, sorted by labels. Interval i is T0+i*Step <= T < T0+(i+1)*Step.
type Volumes struct {
	T0, Step int64
	Streams  []Volume
	More     bool // there are others beyond MaxSeries
	Stats    Stats
}

// Volumes tells how many lines and bytes before compression the streams that the filter selects
// hold in [start, end), as the store counts a line (text, fields, and a few bytes for itself), per step nanoseconds; step 0 is one interval. Only labels are looked at (query.Label,
// query.KindIs). A block within the range is counted by its header; where it reaches over several intervals its bytes are
// spread evenly over its time, so that an interval is an estimate while sums are exact.
func (s *Store) Volumes(ctx context.Context, f *query.Filter, start, end, step int64) (*Volumes, error) {
	if end <= start {
		return nil, fmt.Errorf("%w: the end is not behind the start", ErrRequest)
	}
	t0, n := start, 1
	if step == 0 {
		step = end - start
	} else {
		var err error
		if t0, n, err = buckets(start, end, step); err != nil {
			return nil, err
		}
	}
	c, done, err := s.query(ctx, &Request{Filter: f, Start: start, End: end})
	if err != nil {
		return nil, err
	}
	defer done()
	v := &volumeSink{t0: t0, step: step, n: n, of: map[streamID]*Volume{}}
	c.sink = v
	if err := c.run(); err != nil {
		return nil, err
	}
	out := &Volumes{T0: t0, Step: step, More: v.more, Stats: c.stats}
	for _, s := range v.of {
		out.Streams = append(out.Streams, *s)
	}
	slices.SortFunc(out.Streams, func(a, b Volume) int {
		return cmp.Or(slices.CompareFunc(a.Labels, b.Labels, compareLabel), cmp.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

// maxVolumeCells bounds the counters of an answer.
const maxVolumeCells = 2_000_000

type volumeSink struct {
	t0, step int64
	n        int
	of       map[streamID]*Volume
	more     bool
}

func (v *volumeSink) stream(st *stream) *Volume {
	s := v.of[st.id]
	if s == nil {
		if len(v.of) >= MaxSeries || (len(v.of)+1)*v.n > maxVolumeCells {
			v.more = true
			return nil
		}
		s = &Volume{Stream: Stream{Kind: st.kind, Labels: st.labels()}, Per: make([]int64, v.n)}
		v.of[st.id] = s
	}
	return s
}

func (v *volumeSink) bucket(t int64) int { return min(max(int((t-v.t0)/v.step), 0), v.n-1) }

func (v *volumeSink) wants(int64, int64, uint64, uint64) bool { return true }
func (v *volumeSink) needs() (positions, fields, text bool)   { return false, true, true }

func (v *volumeSink) whole(st *stream, h *block.Header) bool {
	s := v.stream(st)
	if s == nil {
		return true
	}
	s.Lines += int64(h.Lines)
	s.Bytes += int64(h.Bytes)
	first, last := v.bucket(h.MinT), v.bucket(h.MaxT)
	left := int64(h.Bytes)
	for b := first; b < last; b++ {
		edge := v.t0 + int64(b+1)*v.step
		from := max(h.MinT, edge-v.step)
		share := int64(float64(h.Bytes) * float64(edge-from) / float64(h.MaxT-h.MinT+1))
		share = min(share, left)
		s.Per[b] += share
		left -= share
	}
	s.Per[last] += left
	return true
}

func (v *volumeSink) add(st *stream, l *block.Line) bool {
	if s := v.stream(st); s != nil {
		n := int64(block.Size(l.Text, l.Fields))
		s.Lines++
		s.Bytes += n
		s.Per[v.bucket(l.T)] += n
	}
	return true
}
