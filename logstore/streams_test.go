package logstore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// manyStreams applies lines to n streams, `rounds` times, and seals each round.
func manyStreams(t testing.TB, s *Store, n, rounds int) {
	t.Helper()
	index := s.Applied()
	for r := range rounds {
		for i := 0; i < n; index++ {
			b := &wire.LogBatch{}
			for range wire.MaxStreams {
				b.Streams = append(b.Streams, wire.LogStream{
					Kind: wire.StreamLog,
					Labels: wire.LabelsFromMap(map[string]string{
						"agent": fmt.Sprint("agent-", i%100), "host": fmt.Sprint("host-", i%100), "source": "file",
						"file": fmt.Sprintf("/var/log/pods/default_web-%06d/nginx/0.log", i),
					}),
					Lines: []wire.LogLine{{T: (testDay+2)*DayNs + int64(i)*1000 + int64(r), Severity: wire.SeverityInfo, Text: fmt.Appendf(nil, "request %d served in round %d", i, r)}},
				})
				if i++; i == n {
					break
				}
			}
			if err := s.ApplyLogs(index+1, []wire.LogEntry{{Index: index + 1, Batches: []wire.AcceptedLogs{{Batch: b}}}}); err != nil {
				t.Fatal(err)
			}
		}
		work(t, s, true)
	}
}

// A query over a day of very many streams holds a part of them at a time.
func TestQueryOverManyStreamsIsBounded(t *testing.T) {
	n := rounds(60_000, 15_000)
	s := testStore(t, t.TempDir(), Options{})
	manyStreams(t, s, n, 1)
	day := (testDay + 2) * DayNs
	for text, want := range map[string]int{
		"*": n, "served": n, "host:host-7": n / 100, "file:/var/log/pods/default_web-000777/nginx/0.log": 1, "file:/000777/ OR severity:error": 1,
	} {
		f, err := query.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		req := Request{Filter: f, Start: day, End: day + DayNs}
		var a *Answer
		var h *Hits
		grown := heapDuring(func() {
			if a, err = s.Search(t.Context(), req); err == nil {
				h, err = s.Hits(t.Context(), req, DayNs)
			}
		})
		if err != nil || a.Stats.Partial || len(a.Rows) != min(want, 200) || h.Total != int64(want) {
			t.Errorf("%q: %v: %d rows and %d hits, want %d", text, err, len(a.Rows), h.Total, want)
		}
		if last := a.Rows[0]; want == n && string(last.Text) != fmt.Sprintf("request %d served in round 0", n-1) {
			t.Errorf("%q: the newest line is %q", text, last.Text)
		}
		if grown > 64<<20 { // with 200,000 streams 19 MiB, 39 MiB under the race detector; it was 293 MiB
			t.Errorf("%q took %d MiB", text, grown>>20)
		}
	}
	grown := heapDuring(func() {
		values, _, err := s.LabelValues(t.Context(), "file", day, day+DayNs)
		if err != nil || len(values) != maxLabelValues || !slices.IsSorted(values) || !strings.Contains(values[maxLabelValues-1], "web-009999") {
			t.Errorf("%v: %d values", err, len(values))
		}
	})
	if grown > 16<<20 { // with 200,000 streams 11 MiB; it was 72 MiB
		t.Errorf("values of a label took %d MiB", grown>>20)
	}
}

// Blocks of more streams than there are piles for are merged and indexed nevertheless.
func TestFewPilesLoseNoBlock(t *testing.T) {
	m := newModel(40)
	s := testStore(t, t.TempDir(), Options{})
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	e.ripe.maxPiles = 3 // of some ten streams
	for range 30 {
		m.apply(t, s, 3)
		work(t, s, true)
	}
	m.check(t, s, 20, minTime)
	if e.ripe.piles > e.ripe.maxPiles {
		t.Errorf("%d piles", e.ripe.piles)
	}
	for d := testDay; d < testDay+3; d++ {
		blocks, streams := 0, map[streamID]int{}
		err := e.rows(e.db, dayPrefix(prefixHeader, d), func(key, _ []byte) error {
			_, sid, _ := parseHeaderKey(key)
			blocks++
			streams[sid]++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		marks, err := e.marks(e.db, d)
		if err != nil {
			t.Fatal(err)
		}
		if over := d < testDay+2; over && len(marks) != 0 {
			t.Errorf("day %d is over: %d blocks are not indexed", d, len(marks))
		} else if !over && blocks > 2*mergeBlocks*len(streams) {
			t.Errorf("day %d: %d blocks of %d streams", d, blocks, len(streams))
		}
	}
}

// What is marked is found again at a start, whatever piles there were.
func TestPilesAreTheSameAfterAStart(t *testing.T) {
	m := newModel(41)
	dir := t.TempDir()
	s := testStore(t, dir, Options{})
	for range 5 {
		m.apply(t, s, 5)
		work(t, s, true)
	}
	tracked := func(s *Store) map[dayStream][]uint64 {
		out := map[dayStream][]uint64{}
		for d, piles := range s.engine.ripe.small {
			for id, p := range piles {
				for _, b := range p.blocks {
					out[dayStream{d, id}] = append(out[dayStream{d, id}], b.id)
				}
				slices.Sort(out[dayStream{d, id}])
			}
		}
		return out
	}
	before := tracked(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = testStore(t, dir, Options{})
	if after := tracked(s); len(before) == 0 || !maps.EqualFunc(before, after, slices.Equal) {
		t.Errorf("piles %v, were %v", after, before)
	}
}
