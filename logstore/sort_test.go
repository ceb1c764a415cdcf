package logstore

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
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

// Small blocks have no templates, what is merged of them has; both know the names of their fields.
func TestSmallBlocksHaveNoTemplates(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{templateLines: templateLines})
	next := uint64(0)
	versions := func(lines int) (versions []byte) {
		t.Helper()
		next++
		b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "a"})}}}
		for i := range lines {
			b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{
				T: (testDay+2)*DayNs + int64(i), Text: fmt.Appendf(nil, "line %d of %d", i, next), Fields: []wire.Label{{Name: "code", Value: "7"}},
			})
		}
		if err := s.ApplyLogs(next, []wire.LogEntry{{Index: next, Batches: []wire.AcceptedLogs{{Batch: &b}}}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Work(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		e, release, err := s.acquire()
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if err := e.rows(e.db, []byte{prefixText}, func(_, v []byte) error {
			versions = append(versions, v[0])
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := e.rows(e.db, []byte{prefixHeader}, func(_, v []byte) error {
			h, err := block.ParseHeader(v)
			if err == nil && (h.MayHaveField("other") || !h.MayHaveField("code")) {
				t.Error("a header does not know the names of fields")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(versions)
		return versions
	}
	if v := versions(templateLines); !slices.Equal(v, []byte{2}) {
		t.Errorf("%d lines are in blocks of versions %v", templateLines, v)
	}
	for k := 1; k < mergeBlocks-1; k++ {
		if v := versions(templateLines - 1); len(v) != 1+k || v[k-1] != 1 {
			t.Errorf("blocks of versions %v", v)
		}
	}
	if v := versions(templateLines - 1); !slices.Equal(v, []byte{2}) {
		t.Errorf("merged blocks are of versions %v", v)
	}
	a, err := s.Search(t.Context(), Request{Limit: 2 * mergeBlocks * templateLines})
	if want := templateLines + (mergeBlocks-1)*(templateLines-1); err != nil || len(a.Rows) != want {
		t.Errorf("%d lines are found, want %d: %v", len(a.Rows), want, err)
	}
}

// However few lines a stream gets at once, they are not merged with all that was merged before each time: that was 144, 48, 8 and 3 times
// for 1, 3, 20 and 65 lines.
func TestFewLinesAreNotMergedAgainAndAgain(t *testing.T) {
	for each, most := range map[uint16]int{1: 20, 3: 8, 20: 3, 65: 2, 300: 1, 1000: 1} {
		var p pile
		sealed, merged, waiting := 0, 0, 0
		for sealed < 20000 {
			p.add(smallBlock{lines: each})
			sealed += int(each)
			for n := p.due(false); n > 0; n = p.due(false) {
				sum := 0
				for _, b := range p.blocks[:n] {
					sum += int(b.lines)
				}
				p.blocks, p.lines, merged = slices.Clone(p.blocks[n:]), p.lines-int32(sum), merged+sum
				if isSmall(sum, 0) {
					p.add(smallBlock{lines: uint16(sum)})
				}
			}
			waiting = max(waiting, len(p.blocks))
		}
		if merged > most*sealed || waiting >= 2*mergeBlocks {
			t.Errorf("%d lines at once are merged %.1f times, at most %d are expected; %d blocks wait", each, float64(merged)/float64(sealed), most, waiting)
		}
	}
}
