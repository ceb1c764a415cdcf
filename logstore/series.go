package logstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// Bounds of Series.
const (
	MaxSeries      = 50_000
	maxSeriesBytes = 32 << 20 // of names and values
)

// Stream is what its lines have in common.
type Stream struct {
	Kind   wire.StreamKind
	Labels wire.Labels
}

// Streams are what Series found, sorted by labels and then by kind.
type Streams struct {
	Streams []Stream
	More    bool // there are others beyond the bounds: those with the least ids are here, on every node the same
	Stats   Stats
}

// Series returns the streams that have lines on the days which [start, end) touches (end 0 is no end) and that the filter
// does not rule out by kind and labels (query.KindIs, query.Label). Nothing of lines is looked at.
func (s *Store) Series(ctx context.Context, f *query.Filter, start, end int64) (*Streams, error) {
	c, done, err := s.query(ctx, &Request{Filter: f, Start: start, End: end})
	if err != nil {
		return nil, err
	}
	defer done()
	if c.start > c.last || c.filter.IsNone() {
		return &Streams{}, nil
	}
	c.shortDay()
	days, err := c.e.days(c.snap, prefixStream, false)
	if err != nil {
		return nil, err
	}
	found := map[streamID]Stream{}
	out := &Streams{}
	bytes := 0
	var beyond streamID // what comes behind it is not wanted any more, once More is set
	for _, d := range days {
		if d < Day(c.start) || d > Day(c.last) {
			continue
		}
		n := 0
		err := c.e.rows(c.snap, dayPrefix(prefixStream, d), func(key, value []byte) error {
			if n++; n%1024 == 0 {
				if err := c.err(); err != nil {
					return err
				}
			}
			id := streamID(key[5:])
			if _, known := found[id]; known || out.More && slices.Compare(id[:], beyond[:]) >= 0 {
				return nil
			}
			var st stream
			if err := parseStream(&st, id, value); err != nil {
				return c.spoiled(fmt.Sprintf("key %x", key), err)
			}
			if d < Day(c.floors.of(st.kind)) || c.reducer.Stream(st.kind, st.label).IsNone() {
				return nil
			}
			if cut := c.cuts.hidden(d, &st); cut > 0 {
				if some, err := c.shows(d, &st, cut); err != nil || !some {
					return err
				}
			}
			found[id] = Stream{st.kind, st.labels()}
			bytes += len(value)
			if len(found) > MaxSeries || bytes > maxSeriesBytes {
				out.More = true
				beyond, bytes = halve(found)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, st := range found {
		out.Streams = append(out.Streams, st)
	}
	slices.SortFunc(out.Streams, func(a, b Stream) int {
		return cmp.Or(slices.CompareFunc(a.Labels, b.Labels, compareLabel), cmp.Compare(a.Kind, b.Kind))
	})
	out.Stats = c.stats
	out.Stats.Duration = time.Since(c.began)
	return out, nil
}

func compareLabel(a, b wire.Label) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Value, b.Value))
}

// halve leaves the half with the least ids, and returns the first id that was left out and the bytes of the rest.
func halve(found map[streamID]Stream) (beyond streamID, bytes int) {
	ids := slices.SortedFunc(maps.Keys(found), func(a, b streamID) int { return slices.Compare(a[:], b[:]) })
	for i, id := range ids {
		if i >= len(ids)/2 {
			delete(found, id)
			continue
		}
		for _, l := range found[id].Labels {
			bytes += len(l.Name) + len(l.Value) + 4
		}
	}
	return ids[len(ids)/2], bytes
}
