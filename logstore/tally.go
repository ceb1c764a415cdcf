package logstore

import (
	"cmp"
	"slices"
	"strings"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/zeebo/xxh3"
)

// valueOverhead is about what a counted value takes beside its bytes.
const valueOverhead = 96

// tally counts the values of a field within a bound. When they do not fit it goes over the lines twice: the first time
// it only estimates, never too low (a count-min sketch), the second time it counts exactly what may be frequent enough.
// What it finds does not depend on the order of lines, so nodes with the same lines agree.
type tally struct {
	field  countedBy
	counts map[string]int64
	bytes  int
	most   int // bytes of the values that are counted at once
	lines  int64
	sketch *sketch
	again  bool  // it is the second time
	least  int64 // then: values that are estimated lower are not counted; every value that is in so many lines is
}

func newTally(field string, most int) *tally {
	return &tally{field: countedBy(field), most: most, counts: map[string]int64{}}
}

// run counts over the lines of a scan.
func (v *tally) run(c *scan) error {
	c.sink = v
	if err := c.run(); err != nil || v.sketch == nil {
		return err
	}
	v.again, v.least, v.lines, v.counts, v.bytes = true, 1, 0, map[string]int64{}, 0
	return c.run()
}

// top returns the n most frequent values, and whether a value that is not among them may be more frequent than one that is.
func (v *tally) top(n int) (values []Facet, capped bool) {
	for val, n := range v.counts {
		values = append(values, Facet{val, n})
	}
	slices.SortFunc(values, func(a, b Facet) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Value, b.Value))
	})
	capped = v.least > 1 && (len(values) < n || values[n-1].Count < v.least)
	return values[:min(n, len(values))], capped
}

func (v *tally) count(value string, n int64) {
	if value == "" || n == 0 {
		return
	}
	v.lines += n
	if v.sketch != nil && !v.again {
		v.sketch.add(value, n)
		return
	}
	if _, ok := v.counts[value]; ok {
		v.counts[value] += n
		return
	}
	if v.again && v.sketch.estimate(value) < v.least {
		return
	}
	v.counts[strings.Clone(value)] = n
	if v.bytes += len(value) + valueOverhead; v.bytes <= v.most {
		return
	}
	if !v.again {
		v.sketch = &sketch{}
		for value, n := range v.counts {
			v.sketch.add(value, n)
		}
		v.counts = nil
		return
	}
	for v.bytes > v.most {
		v.least *= 2
		for value := range v.counts {
			if v.sketch.estimate(value) < v.least {
				v.bytes -= len(value) + valueOverhead
				delete(v.counts, value)
			}
		}
	}
}

func (v *tally) wants(int64, int64, uint64, uint64) bool { return true }
func (v *tally) needs() (positions, fields, text bool)   { return false, v.field.perLine(), false }
func (v *tally) whole(st *stream, h *block.Header) bool  { return v.field.whole(st, h, v.count) }
func (v *tally) add(st *stream, l *block.Line) bool      { v.count(v.field.of(st, l), 1); return true }

// countedBy is the name of what lines are counted by: severity (or level), kind, a label of the stream or else a structured field.
type countedBy string

// perLine reports whether the fields of lines may have to be looked at.
func (f countedBy) perLine() bool { return f != "severity" && f != "level" && f != "kind" }

// of returns the value of a line, "" when it has none.
func (f countedBy) of(st *stream, l *block.Line) string {
	switch {
	case f == "kind":
		return kindName(st.kind)
	case !f.perLine():
		return l.Severity.String()
	}
	if value := st.labels().Get(string(f)); value != "" {
		return value
	}
	return wire.Labels(l.Fields).Get(string(f))
}

// whole counts all lines of a block by its header, and reports whether it could.
func (f countedBy) whole(st *stream, h *block.Header, count func(value string, n int64)) bool {
	switch {
	case f == "kind":
		count(kindName(st.kind), int64(h.Lines))
		return true
	case !f.perLine():
		for s, n := range h.Severities {
			count(wire.Severity(s).String(), int64(n))
		}
		return true
	}
	value := st.label(string(f))
	if value == "" && h.HasFields {
		return false
	}
	count(value, int64(h.Lines))
	return true
}

// sketch estimates in how many lines a value is, never too low.
type sketch [4][1 << 17]int64

func (s *sketch) each(value string, fn func(cell *int64)) {
	h := xxh3.HashString128(value)
	for i, at := range [4]uint64{h.Lo, h.Lo >> 32, h.Hi, h.Hi >> 32} {
		fn(&s[i][at%uint64(len(s[i]))])
	}
}

func (s *sketch) add(value string, n int64) { s.each(value, func(cell *int64) { *cell += n }) }

func (s *sketch) estimate(value string) int64 {
	least := int64(maxTime)
	s.each(value, func(cell *int64) { least = min(least, *cell) })
	return least
}
