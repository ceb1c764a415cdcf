package logstore

import (
	"fmt"
	"testing"

	"github.com/triward/triward/agent/wire"
)

// A block that waits to be put into the word index of its day is searched although the index, which knows nothing of it, is asked: for
// what all lines need, and for what is left of a filter in blocks without the fields asked for.
func TestBlocksThatWaitForTheIndexAreSearched(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{OutlineBytes: -1}) // filters that are remembered would be asked instead
	index := uint64(0)
	apply := func(text string) {
		b := &wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"unit": text})}}}
		for i := range 40 {
			line := wire.LogLine{T: testDay*DayNs + int64(index)*100 + int64(i), Text: fmt.Appendf(nil, "%s stands in line %d", text, i)}
			b.Streams[0].Lines = append(b.Streams[0].Lines, line)
		}
		index++
		if err := s.ApplyLogs(index, []wire.LogEntry{{Index: index, Batches: []wire.AcceptedLogs{{Batch: b}}}}); err != nil {
			t.Fatal(err)
		}
	}
	apply("apple")
	work(t, s, true)
	apply("zebra")
	for again := true; again; {
		var err error
		if again, err = s.engine.seal(); err != nil {
			t.Fatal(err)
		}
	}
	for _, indexed := range []bool{false, true} {
		if indexed {
			work(t, s, true)
		}
		for text, want := range map[string]int{"zebra": 40, "apple": 40, "zeb*": 40, "colour:red OR zebra": 40, "colour:red OR apple": 40, "colour:red OR zebra OR apple": 80, "colour:red OR quince": 0} {
			a := searchOf(t, s, text, 100)
			if len(a.Rows) != want || a.Stats.Pending > 0 == indexed {
				t.Errorf("%s, the block is in the index: %v: %d lines, want %d; %d blocks wait", text, indexed, len(a.Rows), want, a.Stats.Pending)
			}
			if indexed && want < 80 && a.Stats.SkippedIndex == 0 {
				t.Errorf("%s: the index rules nothing out", text)
			}
		}
	}
}
