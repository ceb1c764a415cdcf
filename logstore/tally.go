package logstore

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"github.com/triward/triward/logstore/block"
	"github.com/zeebo/xxh3"
)

// valueOverhead is about what a counted value takes beside its bytes.
const valueOverhead = 96

// tally counts the values of a field within a bound. When they do not fit it goes over the lines twice: the first time
// it only estimates, never too low (a count-min sketch), the second time it counts exactly what is frequent enough. What it
// finds does not depend on the order of lines, so nodes with the same lines agree.
type tally struct {
	*countedBy
	counts map[string]*tallied
	bytes  int
	most   int // bytes of the values that are counted at once
	each   int // what one takes beside its bytes, about
	lines  int64
	sketch *sketch // nil as long as they fit
	again  bool    // it is the second time
	bar    bar
}

type tallied struct {
	n, estimate int64
	hash        uint64
	pattern     *patternTally // of a value that is a pattern: what more is known of all its n lines
}

// bar tells which values are counted the second time: those that are estimated to be in at least next(least) lines, and
// of those in at least `least` the ones whose hash begins with so many zero bits. It is raised until they fit, in steps that
// are always the same, each of which lets fewer pass; so it ends at the first step at which all that pass fit.
type bar struct {
	least int64
	zeros int
}

func next(n int64) int64 { return n + max(1, n/8) }

func (b *bar) passes(v *tallied) bool {
	return v.estimate >= next(b.least) || v.estimate >= b.least && bits.LeadingZeros64(v.hash) >= b.zeros
}

func (b *bar) raise() {
	if b.zeros += 4; b.zeros > 20 {
		b.least, b.zeros = next(b.least), 0
	}
}

// sure is the number of lines from which a value passes without fail.
func (b *bar) sure() int64 {
	if b.zeros == 0 {
		return b.least
	}
	return next(b.least)
}

func newTally(field string, most int) *tally {
	return &tally{countedBy: newCountedBy(field), most: most, each: valueOverhead, counts: map[string]*tallied{}}
}

// run counts over the lines of a scan.
func (v *tally) run(c *scan) error {
	c.sink = v
	if err := c.run(); err != nil || v.sketch == nil {
		return err
	}
	v.second()
	return c.run()
}

// second begins to count anew, with what the sketch knows.
func (v *tally) second() {
	v.again, v.lines, v.counts, v.bytes, v.bar = true, 0, map[string]*tallied{}, 0, bar{least: 1}
}

// top returns the n most frequent values, and whether a value that is not among them may be more frequent than one that is.
func (v *tally) top(n int) (values []Facet, capped bool) {
	values = v.all()
	return values[:min(n, len(values))], v.capped(values, n)
}

// all returns the values that were counted, most frequent first.
func (v *tally) all() (values []Facet) {
	for value, t := range v.counts {
		values = append(values, Facet{value, t.n})
	}
	slices.SortFunc(values, func(a, b Facet) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Value, b.Value))
	})
	return values
}

// capped reports whether a value that is not among the first n of all may be more frequent than one that is.
func (v *tally) capped(all []Facet, n int) bool {
	sure := v.bar.sure()
	return v.again && sure > 1 && (len(all) < n || all[n-1].Count < sure)
}

func (v *tally) count(value string, n int64) {
	if value != "" && n != 0 {
		v.take(value, n)
	}
}

// take counts n lines with a value, and returns what is known of it: nil when it is not counted by itself.
func (v *tally) take(value string, n int64) *tallied {
	v.lines += n
	if v.sketch != nil && !v.again {
		v.sketch.add(value, n)
		return nil
	}
	if t := v.counts[value]; t != nil {
		t.n += n
		return t
	}
	t := &tallied{n: n}
	if v.again {
		if t.hash, t.estimate = v.sketch.estimate(value); !v.bar.passes(t) {
			return nil
		}
	}
	v.counts[strings.Clone(value)] = t
	if v.bytes += len(value) + v.each; v.bytes <= v.most {
		return t
	}
	if !v.again {
		v.sketch = &sketch{}
		for value, t := range v.counts {
			v.sketch.add(value, t.n)
		}
		v.counts = nil
		return nil
	}
	for v.bytes > v.most {
		v.bar.raise()
		for value, t := range v.counts {
			if !v.bar.passes(t) {
				v.bytes -= len(value) + v.each
				delete(v.counts, value)
			}
		}
	}
	if !v.bar.passes(t) {
		return nil
	}
	return t
}

func (v *tally) wants(int64, int64, uint64, uint64) bool { return true }
func (v *tally) whole(st *stream, h *block.Header) bool {
	return v.countedBy.whole(st, h, v.count)
}

func (v *tally) add(st *stream, l *block.Line) bool {
	v.count(v.of(st, l), 1)
	return true
}

// sketch estimates in how many lines a value is, never too low.
type sketch [4][1 << 17]int64

func (s *sketch) each(value string, fn func(cell *int64)) (hash uint64) {
	h := xxh3.HashString128(value)
	for i, at := range [4]uint64{h.Lo, h.Lo >> 32, h.Hi, h.Hi >> 20} {
		fn(&s[i][at%uint64(len(s[i]))])
	}
	return h.Hi
}

func (s *sketch) add(value string, n int64) { s.each(value, func(cell *int64) { *cell += n }) }

func (s *sketch) estimate(value string) (hash uint64, lines int64) {
	lines = maxTime
	return s.each(value, func(cell *int64) { lines = min(lines, *cell) }), lines
}
