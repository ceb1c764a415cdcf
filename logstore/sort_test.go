package logstore

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// Lines of any days come into the groups of their streams and days with their positions, and none from below the floor.
func TestSortInKeepsPositions(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 4))
	for round := range 200 {
		low := floors{}
		low[wire.StreamLog] = (testDay + 1) * DayNs
		groups, want := map[dayStream]*group{}, map[dayStream][]block.Line{}
		for index := uint64(5); index < 9; index++ {
			ord := uint32(rng.IntN(100))
			b, at := wire.LogBatch{}, ord
			for s := range 1 + rng.IntN(3) {
				st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"s": fmt.Sprint(s)})}
				day := int64(testDay)
				for i := range rng.IntN(12) {
					if rng.IntN(3) == 0 {
						day = testDay + rng.Int64N(4)
					}
					l := wire.LogLine{T: day*DayNs + int64(i), Severity: wire.SeverityInfo, Text: fmt.Append(nil, round, i)}
					st.Lines = append(st.Lines, l)
					if day > testDay {
						k := dayStream{day, streamIDOf(st.Kind, st.Labels)}
						want[k] = append(want[k], block.Line{T: l.T, Index: index, Ord: at, Severity: l.Severity, Text: l.Text})
					}
					at++
				}
				b.Streams = append(b.Streams, st)
			}
			sortIn(groups, &b, index, ord, &low)
		}
		got := map[dayStream][]block.Line{}
		for k, g := range groups {
			if got[k] = g.appendTo(nil); len(got[k]) != g.lines {
				t.Fatalf("%d lines are counted as %d", len(got[k]), g.lines)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: %v, want %v", round, got, want)
		}
	}
}
