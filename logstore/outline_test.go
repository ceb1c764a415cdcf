package logstore

import (
	"fmt"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// storeOf returns a store with one sealed block of lines, a second apart.
func storeOf(t *testing.T, n int, text func(i int) string) *Store {
	t.Helper()
	s := testStore(t, t.TempDir(), Options{NoIndex: true})
	s.SetFormat(2)
	b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: "a"}}}}}
	for i := range n {
		b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{T: testDay*DayNs + int64(i)*1e9, Severity: wire.SeverityInfo, Text: []byte(text(i))})
	}
	e := wire.LogEntry{Index: 1, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	if err := s.ApplyLogs(1, []wire.LogEntry{e}); err != nil {
		t.Fatal(err)
	}
	work(t, s, true)
	return s
}

func searchOf(t *testing.T, s *Store, text string, limit int) *Answer {
	t.Helper()
	f, err := query.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Search(t.Context(), Request{Filter: f, Limit: limit})
	if err != nil || a.Stats.Partial {
		t.Fatalf("%q: %v %+v", text, err, a)
	}
	return a
}

// Words that a block has in lines of different forms have nobody read it, and after the first time not even what it has in common.
func TestBlocksArePassedOverByWhatTheirLinesHaveInCommon(t *testing.T) {
	s := storeOf(t, 2000, func(i int) string {
		switch {
		case i == 700:
			return "an error: it failed, only here"
		case i%3 == 0:
			return fmt.Sprintf("error on disk %d", i)
		case i%3 == 1:
			return fmt.Sprintf("job %d failed", i)
		}
		return fmt.Sprintf("level=warning user=u%d job=closed", i)
	})
	for round := range 3 {
		for _, text := range []string{`"job error"`, "error closed", "/disk \\d+ on/", `"failed closed"`, "severity:info disk warning"} {
			st := searchOf(t, s, text, 10).Stats
			if st.SkippedTemplates+st.SkippedFilter != 1 && (round > 1 || text != "error closed" && text != `"job error"`) {
				t.Errorf("%s in round %d: %+v", text, round, st)
			}
			if round > 1 && st.Bytes != 0 {
				t.Errorf("%s: %d bytes were read of a block that is known not to match", text, st.Bytes)
			}
		}
		for text, want := range map[string]int{"error failed": 1, "error": 668, `"failed only"`: 1, `"failed here"`: 0, "it failed": 1, "closed warning": 666, "warn*": 666, "-level": 1334, "/^job/": 666, "user:*": 666, "user:u5": 1, "nobody:*": 0} {
			if got := len(searchOf(t, s, text, MaxRows).Rows); got != want {
				t.Errorf("%s in round %d: %d rows, want %d", text, round, got, want)
			}
		}
	}
	if bytes, blocks, _ := s.engine.outlines.Bytes(); blocks != 1 || bytes == 0 {
		t.Errorf("%d blocks in %d bytes are remembered", blocks, bytes)
	}
}

// A page that is full has no line looked at that would come behind it.
func TestFullPageLooksAtNoLineBehindIt(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{NoIndex: true})
	s.SetFormat(2)
	for host := range 5 {
		b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: fmt.Sprint(host)}}}}}
		for i := range 1000 {
			b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{T: testDay*DayNs + int64(i)*1e9, Text: fmt.Appendf(nil, "job %d done", i)})
		}
		e := wire.LogEntry{Index: uint64(1 + host), Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		if err := s.ApplyLogs(e.Index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	work(t, s, true)
	for _, direction := range []Direction{NewestFirst, OldestFirst} {
		for _, text := range []string{"done", "job -closed", "/do.e/", "severity:unknown"} {
			f, err := query.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			a, err := s.Search(t.Context(), Request{Filter: f, Limit: 20, Direction: direction})
			if err != nil || len(a.Rows) != 20 {
				t.Fatal(err, len(a.Rows))
			}
			if a.Stats.Lines > 1000+4*21 {
				t.Errorf("%s: %d lines were looked at for a page of 20", text, a.Stats.Lines)
			}
		}
	}
}

// What the text alone decides is not found of lines that a selector has cut, in a block that has later ones too.
func TestCutLinesAreNotFoundByTheirTextAlone(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{NoIndex: true})
	s.SetFormat(2)
	for index := uint64(1); index <= 2; index++ {
		b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: "a"}}}}}
		for i := range 200 {
			b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{T: testDay*DayNs + int64(i), Text: fmt.Appendf(nil, "job %d of entry %d", i, index)})
		}
		e := wire.LogEntry{Index: index, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		if err := s.ApplyLogs(index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	work(t, s, true)
	(&cutting{}).cut(t, s, wire.StreamLog, testDay, 1, `{host="a"}`)
	for range 3 { // the block is remembered from the first time on
		for text, want := range map[string]int{"job": 200, "entry -job": 0, `"entry 1"`: 0, `"entry 2"`: 200, "/job 7 .*2$/": 1} {
			if got := len(searchOf(t, s, text, MaxRows).Rows); got != want {
				t.Errorf("%s: %d rows, want %d", text, got, want)
			}
		}
	}
	if _, blocks, _ := s.engine.outlines.Bytes(); blocks != 1 {
		t.Errorf("%d blocks are remembered", blocks)
	}
}

// A full page has of lines of the same time those that come first, whichever stream they are of.
func TestFullPageHasTheFirstOfEqualTimes(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{NoIndex: true})
	s.SetFormat(2)
	const hosts, each = 8, 150
	for host := range hosts {
		b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: fmt.Sprint(host)}}}}}
		for i := range each {
			b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{T: testDay*DayNs + int64(i/50), Text: fmt.Appendf(nil, "job %d done", i)})
		}
		e := wire.LogEntry{Index: uint64(1 + host), Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		if err := s.ApplyLogs(e.Index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	work(t, s, true)
	f, err := query.Parse("done")
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{1, 60, 410, 450} {
		for _, direction := range []Direction{NewestFirst, OldestFirst} {
			a, err := s.Search(t.Context(), Request{Filter: f, Limit: limit, Direction: direction})
			if err != nil || len(a.Rows) != limit {
				t.Fatal(err, len(a.Rows))
			}
			for i := range a.Rows {
				at := i
				if direction == NewestFirst {
					at = hosts*each - 1 - i
				}
				// By time, of which each host has 50 lines, then by entry.
				tick, host, ord := at/(50*hosts), at/50%hosts, at/(50*hosts)*50+at%50
				if r := &a.Rows[i]; r.T != testDay*DayNs+int64(tick) || r.Index != uint64(1+host) || int(r.Ord) != ord {
					t.Fatalf("row %d of %d, direction %v: time %d, %v; want %d, %d.%d", i, limit, direction, r.T-testDay*DayNs, r.Position, tick, 1+host, ord)
				}
			}
		}
	}
}

// A condition on a field beside one on the text is decided by the field, also in a block whose forms are known.
func TestFieldsBesideTextsOfKnownForms(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{NoIndex: true})
	s.SetFormat(2)
	b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: "a"}}}}}
	for i := range 200 {
		b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{
			T: testDay*DayNs + int64(i), Text: fmt.Appendf(nil, "job %d done", i), Fields: []wire.Label{{Name: "code", Value: fmt.Sprint(i % 4)}},
		})
	}
	e := wire.LogEntry{Index: 1, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	if err := s.ApplyLogs(1, []wire.LogEntry{e}); err != nil {
		t.Fatal(err)
	}
	work(t, s, true)
	for op, want := range map[query.MatchOp]int{query.MatchEqual: 50, query.MatchNotEqual: 150} {
		m, err := query.NewMatcher("code", op, "3")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			a, err := s.Search(t.Context(), Request{Filter: query.And(query.Phrase("done", false), query.Value(m)), Limit: MaxRows})
			if err != nil || len(a.Rows) != want {
				t.Errorf("%v: %d rows, want %d: %v", op, len(a.Rows), want, err)
			}
		}
	}
}
