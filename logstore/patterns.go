package logstore

import (
	"context"
	"fmt"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// MaxPatterns bounds the patterns of an answer.
const MaxPatterns = 1000

const (
	patternOverhead  = valueOverhead + 160 // of a pattern that is counted, without its intervals
	narrowedPatterns = 64                  // so many patterns are looked up in the word index at once
)

// PatternsRequest asks for the patterns of lines.
type PatternsRequest struct {
	Filter     *query.Filter // nil for all
	Start, End int64         // nanoseconds, Start <= T < End
	Limit      int           // patterns, 1 to MaxPatterns; 0 is 100
	Step       int64         // when not 0, lines are also counted by intervals of so many nanoseconds
	Since      int64         // when not 0, it is told which patterns are new since this time, at most End
	OnlyNew    bool          // leaves the others out
}

// Pattern is what the lines of [Start, End) with one pattern (block.AppendPattern) have in common.
type Pattern struct {
	Text  string
	Lines int64
	PatternLines
	New bool // no line that is kept and matches the filter has it before Since
}

// PatternLines is what is known of the lines of a pattern.
type PatternLines struct {
	First, Last int64                            // times
	Position    Position                         // of the last line
	Severities  [wire.SeverityCritical + 1]int64 // lines by severity
	Counts      []int64                          // lines by interval
}

// Patterns are the most frequent ones first, then by their text.
type Patterns struct {
	T0, Step int64 // of the intervals
	Patterns []Pattern
	Lines    int64 // that match, of all patterns
	Distinct int   // patterns that they have; 0 when there are too many to be told
	New      int   // of those that were counted, how many are new
	Capped   bool  // there are so many patterns that one which is not here may be more frequent than one which is
	// Horizon is the time from which on lines of the streams asked for are kept, 0 when there are none: nothing is known of
	// patterns before. It is told when Since is.
	Horizon int64
	Stats   Stats
}

// Patterns counts the matching lines of [Start, End) by pattern. Every line has one, wherever it is kept, so the answer is
// the same on every node with the same lines, and exact. When the patterns are too many to be held the lines are gone over
// twice, and Capped may be set. It fails with ErrRequest, ErrBusy, the context's error, ErrClosed or ErrDamaged.
func (s *Store) Patterns(ctx context.Context, req PatternsRequest) (*Patterns, error) {
	if req.Limit == 0 {
		req.Limit = 100
	}
	if req.Limit < 0 || req.Limit > MaxPatterns {
		return nil, fmt.Errorf("%w: %d patterns, 1 to %d are allowed", ErrRequest, req.Limit, MaxPatterns)
	}
	if req.Since > req.End || req.OnlyNew && req.Since == 0 {
		return nil, fmt.Errorf("%w: new patterns need the time since when they are, which is not after the end", ErrRequest)
	}
	v := &patternSink{n: 1}
	out := &Patterns{Step: req.Step}
	if req.Step != 0 {
		var err error
		if out.T0, v.n, err = buckets(req.Start, req.End, req.Step); err != nil {
			return nil, err
		}
	}
	v.t0, v.step = out.T0, req.Step
	v.tally = newTally("", s.bounds.values)
	v.tally.each = patternOverhead
	if req.Step != 0 {
		v.tally.each += 8 * v.n
	}
	c, done, err := s.query(ctx, &Request{Filter: req.Filter, Start: minTime, End: req.End})
	if err != nil {
		return nil, err
	}
	defer done()
	low := c.start
	c.start = max(low, req.Start)
	if err := v.run(c); err != nil {
		return nil, err
	}
	if req.Since != 0 {
		if err := out.tellNew(c, v.tally, &req, low); err != nil {
			return nil, err
		}
	}
	out.fill(v.tally, &req)
	out.Stats = c.stats
	return out, nil
}

// fill takes the most frequent of what was counted.
func (p *Patterns) fill(v *tally, req *PatternsRequest) {
	all := v.all()
	p.Lines, p.Capped = v.lines, v.capped(all, req.Limit)
	if v.sketch == nil {
		p.Distinct = len(all)
	}
	for _, f := range all {
		t := v.counts[f.Value]
		isNew := req.Since != 0 && !t.pattern.old
		if isNew {
			p.New++
		}
		if len(p.Patterns) < req.Limit && (isNew || !req.OnlyNew) {
			p.Patterns = append(p.Patterns, Pattern{f.Value, f.Count, t.pattern.PatternLines, isNew})
		}
	}
	if req.OnlyNew {
		p.Capped = v.capped(all, len(all)+1)
	}
}

// patternTally is a pattern while lines are counted.
type patternTally struct {
	PatternLines
	old bool // it is not new
}

// patternSink counts lines by pattern.
type patternSink struct {
	tally    *tally
	t0, step int64
	n        int // intervals
	buf      []byte
}

// run counts over the lines of a scan.
func (v *patternSink) run(c *scan) error {
	c.sink = v
	if err := c.run(); err != nil || v.tally.sketch == nil {
		return err
	}
	v.tally.second()
	return c.run()
}

func (v *patternSink) wants(int64, int64, uint64, uint64) bool { return true }
func (v *patternSink) whole(*stream, *block.Header) bool       { return false }
func (v *patternSink) needs() (positions, fields, text bool)   { return true, false, true }

func (v *patternSink) add(_ *stream, l *block.Line) bool {
	v.buf = block.AppendPattern(v.buf[:0], l.Text)
	if p := v.of(1); p != nil {
		v.line(p, l.T, l.Severity, Position{l.Index, l.Ord})
	}
	return true
}

// of counts n lines of the pattern in buf, and returns it when it is counted by itself.
func (v *patternSink) of(n int64) *patternTally {
	t := v.tally.counts[string(v.buf)]
	if t != nil {
		t.n += n
		v.tally.lines += n
	} else if t = v.tally.take(string(v.buf), n); t == nil {
		return nil
	}
	if t.pattern == nil {
		t.pattern = &patternTally{PatternLines: PatternLines{First: maxTime, Last: minTime}}
	}
	return t.pattern
}

func (v *patternSink) line(p *patternTally, t int64, severity wire.Severity, at Position) {
	p.First = min(p.First, t)
	if t > p.Last || t == p.Last && at.Compare(p.Position) > 0 {
		p.Last, p.Position = t, at
	}
	p.Severities[severity]++
	if v.step == 0 {
		return
	}
	if p.Counts == nil {
		p.Counts = make([]int64, v.n)
	}
	p.Counts[(t-v.t0)/v.step]++
}

func (v *patternSink) templates(texts *block.View, cols *block.Columns, in query.Bits) error {
	take := func(i int, p *patternTally) {
		v.line(p, cols.Times[i], wire.Severity(cols.Severities[i]), Position{cols.Indexes[i], cols.Ords[i]})
	}
	for i := range texts.Templates() {
		t := texts.Template(i)
		n := int64(0)
		for _, line := range t.Lines() {
			if in.Has(int(line)) {
				n++
			}
		}
		if n == 0 {
			continue
		}
		v.buf = t.AppendPattern(v.buf[:0])
		p := v.of(n)
		if p == nil {
			continue
		}
		for _, line := range t.Lines() {
			if in.Has(int(line)) {
				take(int(line), p)
			}
		}
	}
	return eachFlat(texts, in, func(i int, text []byte) {
		v.buf = block.AppendPattern(v.buf[:0], text)
		if p := v.of(1); p != nil {
			take(i, p)
		}
	})
}

// eachFlat calls fn for the lines of the set that have no template.
func eachFlat(texts *block.View, in query.Bits, fn func(i int, text []byte)) error {
	for k, i := range texts.FlatLines() {
		if !in.Has(int(i)) {
			continue
		}
		if _, flat := texts.Flat(); texts.Err() == nil {
			fn(int(i), flat.At(k))
		}
	}
	return texts.Err()
}

// tellNew finds out which of the patterns that were counted are new, and since when that can be known.
func (p *Patterns) tellNew(c *scan, v *tally, req *PatternsRequest, low int64) error {
	var err error
	if p.Horizon, err = c.horizon(low); err != nil {
		return err
	}
	known := &knownSink{left: map[string]*patternTally{}, looked: map[string]struct{}{}}
	for value, t := range v.counts {
		if t.pattern.First < req.Since {
			t.pattern.old = true
		} else {
			known.left[value] = t.pattern
		}
	}
	before := min(req.Since, req.Start)
	if before <= low {
		return nil
	}
	c.start, c.last, c.sink = low, min(c.last, before-1), known
	return c.run()
}

// knownSink finds out which patterns lines have.
type knownSink struct {
	left   map[string]*patternTally // those that no line was found of
	looked map[string]struct{}      // keys of templates that were looked at
	buf    []byte
}

// Bounds of knownSink.looked.
const (
	maxLooked    = 1 << 13
	maxLookedKey = 1 << 10
)

func (v *knownSink) wants(int64, int64, uint64, uint64) bool { return len(v.left) > 0 }
func (v *knownSink) whole(*stream, *block.Header) bool       { return false }
func (v *knownSink) needs() (positions, fields, text bool)   { return false, false, true }

func (v *knownSink) add(_ *stream, l *block.Line) bool {
	v.buf = block.AppendPattern(v.buf[:0], l.Text)
	return v.found()
}

// found takes note of the pattern in buf, and reports whether there are others to look for.
func (v *knownSink) found() bool {
	if p := v.left[string(v.buf)]; p != nil {
		p.old = true
		delete(v.left, string(v.buf))
	}
	return len(v.left) > 0
}

func (v *knownSink) templates(texts *block.View, _ *block.Columns, in query.Bits) error {
	for i := range texts.Templates() {
		t := texts.Template(i)
		if _, known := v.looked[string(t.Key())]; known || !anyOf(in, t.Lines()) {
			continue
		}
		v.buf = t.AppendPattern(v.buf[:0])
		if !v.found() {
			return nil
		}
		if len(v.looked) < maxLooked && len(t.Key()) <= maxLookedKey {
			v.looked[string(t.Key())] = struct{}{}
		}
	}
	return eachFlat(texts, in, func(_ int, text []byte) {
		v.buf = block.AppendPattern(v.buf[:0], text)
		v.found()
	})
}

func anyOf(in query.Bits, lines []uint16) bool {
	for _, i := range lines {
		if in.Has(int(i)) {
			return true
		}
	}
	return false
}

// narrow looks for the patterns that are left by their words, once they are few.
func (v *knownSink) narrow(n query.Need) query.Need {
	if len(v.left) > narrowedPatterns {
		return n
	}
	some := query.Need{Op: query.NeedAny}
	for text := range v.left {
		k := query.Pattern(text).Need()
		if k.Op == query.NeedAnything {
			return n
		}
		some.Kids = append(some.Kids, k)
	}
	if n.Op == query.NeedAnything {
		return some
	}
	return query.Need{Op: query.NeedAll, Kids: []query.Need{n, some}}
}

// horizon returns the time from which on lines of the streams that the filter does not rule out are kept, to the day and not
// before low; 0 when there are none.
func (c *scan) horizon(low int64) (int64, error) {
	days, err := c.e.days(c.snap, prefixStream, false)
	if err != nil {
		return 0, err
	}
	for _, d := range days {
		if d < Day(low) || d > Day(c.last) {
			continue
		}
		some := false
		err := c.e.rows(c.snap, dayPrefix(prefixStream, d), func(key, value []byte) error {
			if err := c.err(); err != nil {
				return err
			}
			var st stream
			if err := parseStream(&st, streamID(key[5:]), value); err != nil {
				return c.spoiled(fmt.Sprintf("key %x", key), err)
			}
			if d < Day(c.floors.of(st.kind)) || c.reducer.Stream(st.kind, st.label).IsNone() {
				return nil
			}
			some = true
			if cut := c.cuts.hidden(d, &st); cut > 0 {
				var err error
				if some, err = c.shows(d, &st, cut); err != nil {
					return err
				}
			}
			if some {
				return errStop
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		if some && d == Day(low) {
			return low, nil
		} else if some {
			return d * DayNs, nil
		}
	}
	return 0, nil
}
