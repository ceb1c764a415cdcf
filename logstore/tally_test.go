package logstore

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// However long and many the values are, what is held of them is bounded.
func TestTallyIsBoundedInBytes(t *testing.T) {
	v := newTally("x", defaultBounds.values)
	value := make([]byte, 256<<10)
	const values = 2000
	pass := func() {
		for i := range values {
			binary.BigEndian.PutUint64(value, uint64(i)+1)
			for range 1 + 3*(i/(values-5)) { // the last few are the frequent ones
				v.count(unsafe.String(unsafe.SliceData(value), len(value)), 1)
			}
			held := 0
			for k := range v.counts {
				held += len(k)
			}
			if held > v.most || v.bytes > v.most+len(value)+valueOverhead {
				t.Fatalf("%d bytes of values are held", held)
			}
		}
	}
	pass()
	if v.sketch == nil {
		t.Fatal("the values fit")
	}
	v.second()
	pass()
	top, capped := v.top(5)
	if len(top) != 5 || capped || top[0].Count != 4 || top[4].Count != 4 || v.lines != values+5*3 {
		t.Errorf("%d of %d lines, capped %v", len(top), v.lines, capped)
	}
}

// The order of lines, which differs between nodes, changes nothing, and what is told is exact.
func TestTallyDoesNotDependOnTheOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var lines []string
	want := map[string]int64{}
	for i := range 3000 {
		value := fmt.Sprint("value-", i)
		for range 1 + rng.IntN(2+i/100) {
			lines = append(lines, value)
			want[value]++
		}
	}
	var first []Facet
	for _, most := range []int{2000, 20_000, 1 << 20} {
		for round := range 3 {
			rng.Shuffle(len(lines), func(i, k int) { lines[i], lines[k] = lines[k], lines[i] })
			v := newTally("x", most)
			for _, l := range lines {
				v.count(l, 1)
			}
			if v.sketch != nil {
				v.second()
				rng.Shuffle(len(lines), func(i, k int) { lines[i], lines[k] = lines[k], lines[i] })
				for _, l := range lines {
					v.count(l, 1)
				}
			}
			top, capped := v.top(10)
			for _, f := range top {
				if want[f.Value] != f.Count {
					t.Fatalf("%q: %d, want %d", f.Value, f.Count, want[f.Value])
				}
			}
			if round > 0 && !slices.Equal(top, first) {
				t.Fatalf("in %d bytes %v, before %v", most, top, first)
			}
			if first = top; capped != (most == 2000) || len(top) != 10 { // among the most frequent too many are alike
				t.Errorf("in %d bytes: %d values, capped %v", most, len(top), capped)
			}
		}
	}
	v := newTally("x", 500) // no more than four: it cannot know ten
	for range 2 {
		for _, l := range lines {
			v.count(l, 1)
		}
		if !v.again {
			v.second()
		}
	}
	if top, capped := v.top(10); !capped {
		t.Errorf("%v is not said to be capped", top)
	}
}
