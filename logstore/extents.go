package logstore

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// Extent is some lines of one stream: a block, of which some may lie outside of what was asked for, or a line that is in no
// block yet.
type Extent struct {
	Kind       wire.StreamKind
	Labels     wire.Labels // may be kept
	MinT, MaxT int64       // of its lines, nanoseconds
	Lines      int64
	Bytes      int64 // of text and fields, not compressed; a field counts 32 more than its name and value
	Block      bool
}

// Extents calls fn for the parts of [start, end) (end 0 is no end) of the streams that the filter does not rule out by kind and
// labels, in no particular order: how much there is, from the headers of blocks alone. No block is read, so how the lines
// of one lie within its times is not known, nor exactly what a cut of retention hides of one that reaches over it. The part is valid only during the call. It ends with the error of fn as it is,
// and fails with ErrRequest when the filter looks at more than streams.
func (s *Store) Extents(ctx context.Context, f *query.Filter, start, end int64, fn func(*Extent) error) (Stats, error) {
	if f != nil && (f.NeedsText() || f.NeedsFields()) {
		return Stats{}, fmt.Errorf("%w: a question about streams takes conditions on their labels only", ErrRequest)
	}
	c, done, err := s.query(ctx, &Request{Filter: f, Start: start, End: end})
	if err != nil {
		return Stats{}, err
	}
	defer done()
	v := &extentSink{fn: fn}
	c.sink = v
	if c.start > c.last || c.filter.IsNone() {
		return c.stats, nil
	}
	c.shortDay()
	if err := c.spoiled("inbox", c.inbox()); err != nil {
		return c.stats, err
	}
	days, err := c.days()
	if err != nil {
		return c.stats, err
	}
	for _, d := range days {
		if v.err != nil {
			break
		}
		if d < Day(c.start) || d > Day(c.last) {
			continue
		}
		if err := c.spoiled(fmt.Sprintf("day %d", d), c.extents(d, v)); err != nil {
			return c.stats, err
		}
	}
	c.stats.Duration = time.Since(c.began)
	return c.stats, v.err
}

// extents hands out the blocks of a day.
func (c *scan) extents(d int64, v *extentSink) (err error) {
	w, err := c.walk(d)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := w.close(); err == nil {
			err = cerr
		}
	}()
	for more := true; more && v.err == nil; {
		if more, err = w.next(); err != nil {
			return err
		}
		for i := range c.cands {
			if i%1024 == 0 {
				if err := c.turn(); err != nil {
					return err
				}
			}
			if !c.cands[i].filter.IsAll() {
				return fmt.Errorf("%w: a question about streams takes conditions on their labels only", ErrRequest)
			}
			c.stats.Counted++
			c.stats.Lines += int64(c.cands[i].head.Lines)
			if !v.block(c.cands[i].st, &c.cands[i].head, c.cands[i].cut) {
				return nil
			}
		}
	}
	return nil
}

// perLine is what block.Size counts for a line beside its bytes.
var perLine = int64(block.Size(nil, nil))

// extentSink passes parts on.
type extentSink struct {
	fn  func(*Extent) error
	err error
}

func (v *extentSink) wants(int64, int64, uint64, uint64) bool { return v.err == nil }
func (v *extentSink) whole(*stream, *block.Header) bool       { return false }
func (v *extentSink) needs() (positions, fields, text bool)   { return false, true, true }

func (v *extentSink) add(st *stream, l *block.Line) bool {
	v.err = v.fn(&Extent{Kind: st.kind, Labels: st.labels(), MinT: l.T, MaxT: l.T, Lines: 1, Bytes: int64(block.Size(l.Text, l.Fields)) - perLine})
	return v.err == nil
}

// block passes a block on. What a cut hides of it is taken off by the share of its entries, which its header tells.
func (v *extentSink) block(st *stream, h *block.Header, cut uint64) bool {
	p := Extent{Kind: st.kind, Labels: st.labels(), MinT: h.MinT, MaxT: h.MaxT, Lines: int64(h.Lines), Bytes: int64(h.Bytes) - int64(h.Lines)*perLine, Block: true}
	if cut > 0 {
		share := float64(h.MaxIndex-cut) / (float64(h.MaxIndex-h.MinIndex) + 1)
		all := p.Lines
		p.Lines = max(1, int64(float64(all)*share))
		p.Bytes = int64(float64(p.Bytes) * float64(p.Lines) / float64(all))
	}
	v.err = v.fn(&p)
	return v.err == nil
}

// Within returns how much of the part lies in [from, to), as if its lines were all of one size and evenly spread from the
// first to the last time. Over intervals that follow each other it adds up to the part.
func (p *Extent) Within(from, to int64) (lines, bytes float64) {
	n := p.before(to) - p.before(from)
	if n <= 0 {
		return 0, 0
	}
	return n, float64(p.Bytes) * n / float64(p.Lines)
}

// before returns how many of the lines are earlier than t.
func (p *Extent) before(t int64) float64 {
	switch {
	case t <= p.MinT:
		return 0
	case t > p.MaxT:
		return float64(p.Lines)
	}
	return math.Min(float64(p.Lines), math.Ceil((float64(t)-float64(p.MinT))*float64(p.Lines-1)/(float64(p.MaxT)-float64(p.MinT))))
}
