package scrub

import (
	"context"
	"fmt"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// Selection is what selectors pick of a kind and UTC day, as far as it came with entries up to Through.
type Selection struct {
	Through uint64
	// Picked has a digest for each selector: of the lines that it picks and none before it does.
	Picked []meta.Digest
}

// Select reads a day of lines or events at the rate of a pass and adds up what selectors pick. It vouches for the sums: all
// that it read must add up to the running digest, since whoever goes by them takes lines out of it on every node. Otherwise
// the day is compared, and reported when it differs, and the error matches ErrDiffers.
func (s *Scrubber) Select(ctx context.Context, kind command.Kind, day int64, selectors []*wire.Picker) (Selection, error) {
	out := Selection{Picked: make([]meta.Digest, len(selectors))}
	if err := s.day.take(ctx); err != nil {
		return out, err
	}
	defer s.day.leave()
	index, sums, err := s.cfg.Node.Settled(ctx)
	if err != nil {
		return out, err
	}
	out.Through = index
	all, picked, err := readSelected(ctx, s.deep.lines, kind, day, index, selectors, s.pacer(ctx, s.cfg.Rate))
	if err != nil {
		return out, fmt.Errorf("%s of day %d: %w", kind, day, err)
	}
	out.Picked = picked
	if all == find(sums, kind, day) {
		return out, nil
	}
	days, err := s.deep.compare(ctx, []command.Kind{kind}, day, s.pacer(ctx, s.cfg.Rate))
	if err != nil {
		return out, err
	}
	for i := range days {
		s.tell(&days[i])
	}
	return out, fmt.Errorf("%w: %s of day %d as of entry %d", ErrDiffers, kind, day, index)
}

// readSelected returns the digest of all lines of the kind that came up to an entry, and those of what selectors pick.
func readSelected(ctx context.Context, s Lines, kind command.Kind, day int64, through uint64, selectors []*wire.Picker, pace Pace) (meta.Digest, []meta.Digest, error) {
	all := meta.Digest{Kind: kind, Day: day}
	picked := make([]meta.Digest, len(selectors))
	for i := range picked {
		picked[i] = all
	}
	of := wire.StreamLog
	if kind == command.KindEvents {
		of = wire.StreamEvent
	}
	var buf []byte
	var line wire.LogLine
	var last wire.Labels
	var stream uint64
	var by int // the selector that picks the stream; len(selectors): none
	known, read := false, 0
	err := s.Each(ctx, day*dayMs*1e6, (day+1)*dayMs*1e6, func(r *logstore.Row) error {
		if r.Kind != of || r.Index > through {
			return nil
		}
		if !known || !sameLabels(last, r.Labels) {
			known, last, stream = true, r.Labels, meta.HashStream(r.Kind, r.Labels)
			for by = 0; by < len(selectors) && !selectors[by].Picks(r.Labels.Get); by++ {
			}
		}
		line = wire.LogLine{T: r.T, Severity: r.Severity, Fields: r.Fields, Text: r.Text}
		var h meta.Sum
		h, buf = meta.HashLine(stream, &line, buf)
		all.Count, all.Sum = all.Count+1, all.Sum.Add(h)
		if by < len(selectors) {
			picked[by].Count, picked[by].Sum = picked[by].Count+1, picked[by].Sum.Add(h)
		}
		if read += len(buf); read >= 1<<20 {
			n := read
			read = 0
			return pace(n)
		}
		return nil
	})
	if err == nil {
		err = pace(read)
	}
	return all, picked, err
}

func sameLabels(a, b wire.Labels) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
