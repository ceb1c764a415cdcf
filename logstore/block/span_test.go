package block

import (
	"fmt"
	"strings"
	"testing"
)

// A span has every number of its column, or nothing is known.
func TestSpanHasEveryNumber(t *testing.T) {
	for _, c := range []struct {
		values []string
		span   Span
		known  bool
	}{
		{[]string{"7"}, Span{7, 7}, true},
		{[]string{"", "x", "-2.5", "1e3", "NaN", "7"}, Span{-2.5, 1000}, true},
		{[]string{"x", "", "NaN"}, noNumbers, true},
		{append(strings.Split(strings.Repeat("x,", 20), ","), "9"), Span{}, false},
		{append(strings.Split(strings.Repeat("5,", 20)+strings.Repeat("x,", 19), ","), "9"), Span{5, 9}, true},
	} {
		var data []byte
		var ends []uint32
		var all []int
		for i, v := range c.values {
			data = append(data, v...)
			ends, all = append(ends, uint32(len(data))), append(all, i)
		}
		for _, distinct := range [][]int{nil, all} {
			span, known := spanOf(data, ends, distinct)
			if known != c.known || known && span != c.span {
				t.Errorf("%q: %+v, %v, want %+v, %v", c.values, span, known, c.span, c.known)
			}
		}
	}
}

// The lengths of a slot rule out no length that a value has, however long.
func TestLengthsOfSlots(t *testing.T) {
	c := codec(t)
	var lines []Line
	for i := range 40 {
		lines = append(lines, Line{T: int64(i), Text: fmt.Appendf(nil, "id=%s of 7", strings.Repeat("9", 200+10*i))})
	}
	_, text := encode(t, c, lines, Version2)
	var v View
	if ok, err := c.View(&v, text, len(lines)); !ok || err != nil || v.Templates() != 1 {
		t.Fatal(ok, err, v.Templates())
	}
	for _, l := range []struct {
		slot, n    int
		more, want bool
	}{
		{0, 199, false, false},
		{0, 199, true, true},
		{0, 200, false, true},
		{0, 255, false, true},
		{0, 590, false, true},
		{0, 590, true, true},
		{1, 0, true, true},
		{1, 1, false, true},
		{1, 2, false, false},
		{1, 2, true, false},
	} {
		if got := v.Template(0).MayHaveLength(l.slot, l.n, l.more); got != l.want {
			t.Errorf("slot %d may have a length of %d, or more (%v): %v", l.slot, l.n, l.more, got)
		}
	}
}
