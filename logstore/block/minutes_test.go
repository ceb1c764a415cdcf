package block

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/triward/triward/agent/wire"
)

// minuteLines returns n lines of a few severities from a time on, the given nanoseconds apart on average.
func minuteLines(rng *rand.Rand, n int, from, apart int64) []Line {
	lines := make([]Line, n)
	for i := range lines {
		lines[i] = Line{T: from, Index: 1, Ord: uint32(i), Severity: []wire.Severity{wire.SeverityInfo, wire.SeverityInfo, wire.SeverityError, wire.SeverityDebug}[rng.IntN(4)], Text: fmt.Appendf(nil, "line %d", i)}
		from += rng.Int64N(2*apart + 1)
	}
	return lines
}

func TestMinutesAreThoseOfTheLines(t *testing.T) {
	c, rng := codec(t), rand.New(rand.NewPCG(9, 9))
	var m Minutes // of the block before
	found := 0
	for range 150 {
		from, apart := rng.Int64N(1e18), []int64{1, 1e8, 3e8, 1e9, 4e9, 3600e9}[rng.IntN(6)]
		if rng.IntN(4) == 0 {
			from -= from%nsPerMinute + rng.Int64N(2) // at the border of a minute
		}
		lines := minuteLines(rng, 1+rng.IntN(3000), from, apart)
		columns, _ := encode(t, c, lines, Version2)
		h := HeaderOf(lines)
		ok, err := c.DecodeMinutes(&m, columns, &h)
		if err != nil {
			t.Fatal(err)
		}
		minutes := h.MaxT/nsPerMinute - h.MinT/nsPerMinute + 1
		if dense := minutes > 1 && 3*minutes <= int64(len(lines)/4); ok != dense && !(ok && minutes > 1) {
			t.Fatalf("%d lines in %d minutes: they are counted: %v", len(lines), minutes, ok)
		}
		if !ok {
			continue
		}
		found++
		want := map[[2]int64]uint32{}
		for i := range lines {
			want[[2]int64{int64(lines[i].Severity), lines[i].T - lines[i].T%nsPerMinute}]++
		}
		for s, counts := range m.Counts {
			for i, n := range counts {
				if at := [2]int64{int64(s), m.First + int64(i)*nsPerMinute}; want[at] != n {
					t.Fatalf("severity %d, minute of %d: %d lines, want %d", s, at[1], n, want[at])
				} else {
					delete(want, at)
				}
			}
		}
		if len(want) > 0 {
			t.Fatalf("not counted: %v", want)
		}
	}
	if found < 10 {
		t.Errorf("only %d blocks have their minutes", found)
	}
}

func TestMinutesAreLeftOut(t *testing.T) {
	c, rng := codec(t), rand.New(rand.NewPCG(9, 10))
	for what, lines := range map[string][]Line{
		"one minute":                minuteLines(rng, 500, 5*nsPerMinute, 1e6),
		"before 1970":               minuteLines(rng, 2000, -3*nsPerMinute, 1e8),
		"hardly a line in a minute": minuteLines(rng, 500, 5*nsPerMinute, nsPerMinute),
	} {
		for _, version := range []int{Version1, Version2} {
			columns, _ := encode(t, c, lines, version)
			h := HeaderOf(lines)
			var m Minutes
			if ok, err := c.DecodeMinutes(&m, columns, &h); ok || err != nil {
				t.Errorf("%s, version %d: %v %v", what, version, ok, err)
			}
		}
	}
}

// Minutes that do not fit to the header, and sections of which a bit is flipped, are damage and no answer.
func TestDamagedMinutes(t *testing.T) {
	c, rng := codec(t), rand.New(rand.NewPCG(9, 11))
	lines := minuteLines(rng, 2000, 1e18, 3e8)
	columns, _ := encode(t, c, lines, Version2)
	right := HeaderOf(lines)
	var m Minutes
	if ok, err := c.DecodeMinutes(&m, columns, &right); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for what, change := range map[string]func(h *Header){
		"fewer errors":     func(h *Header) { h.Severities[wire.SeverityError]-- },
		"more errors":      func(h *Header) { h.Severities[wire.SeverityError]++ },
		"no errors":        func(h *Header) { h.Severities[wire.SeverityError] = 0 },
		"another severity": func(h *Header) { h.Severities[wire.SeverityCritical] = 1 },
		"more minutes":     func(h *Header) { h.MaxT += nsPerMinute },
		"fewer minutes":    func(h *Header) { h.MinT += nsPerMinute },
		"one minute":       func(h *Header) { h.MaxT = h.MinT },
		"before 1970":      func(h *Header) { h.MinT = -1 },
	} {
		h := right
		change(&h)
		if ok, err := c.DecodeMinutes(&m, columns, &h); ok || !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v %v", what, ok, err)
		}
	}
	_, secs, err := c.unpack(nil, columns)
	if err != nil {
		t.Fatal(err)
	}
	section := secs.get(secMinutes).b
	at := bytes.Index(columns, section)
	if at < 0 || len(section) == 0 {
		t.Fatal("no section")
	}
	for i := range section {
		b := slices.Clone(columns)
		b[at+i] ^= 1 << (i % 8)
		if ok, err := c.DecodeMinutes(&m, b, &right); ok || !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d flipped: %v %v", i, ok, err)
		}
	}
}
