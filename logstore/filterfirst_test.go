package logstore

import (
	"fmt"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// What is remembered of filters is asked first: blocks that it rules out are no candidates, and where it says all that the word index could say
// the index is not asked.
func TestRememberedFiltersAreAskedFirst(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	id := func(host, i int) string { return fmt.Sprintf("%04x%012x%016x", host, i, i*i) }
	b := wire.LogBatch{}
	const hosts = 20
	for host := range hosts {
		st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: fmt.Sprint(host)}}}
		for i := range 300 {
			text := fmt.Appendf(nil, "request %s served", id(host, i))
			if i%7 == 0 {
				text = fmt.Appendf(nil, "animal %s seen at %d", []string{"quokka", "wombat"}[host%2], i)
			}
			st.Lines = append(st.Lines, wire.LogLine{T: testDay*DayNs + int64(i), Severity: wire.SeverityInfo, Text: text})
		}
		b.Streams = append(b.Streams, st)
	}
	if err := s.ApplyLogs(1, []wire.LogEntry{{Index: 1, Batches: []wire.AcceptedLogs{{Batch: &b}}}}); err != nil {
		t.Fatal(err)
	}
	work(t, s, true)
	st := searchOf(t, s, "quokka", 1000).Stats
	if st.SkippedIndex != hosts/2 || st.Blocks != hosts/2 {
		t.Errorf("before any filter is remembered: %+v", st)
	}
	missing := id(hosts+1, 5)
	if got := searchOf(t, s, missing, 1000); len(got.Rows) != 0 { // it begins with a digit, so the index knows nothing of it and all filters are read
		t.Errorf("%d lines have an id that none has", len(got.Rows))
	}
	for text, want := range map[string]struct{ rows, blocks int }{
		id(7, 11): {1, 1}, "quokka": {43 * hosts / 2, hosts / 2}, "quokka wombat": {0, 0}, "wombat OR quokka": {43 * hosts, hosts}, "numbat": {0, 0},
	} {
		got := searchOf(t, s, text, 1000)
		st := got.Stats
		if len(got.Rows) != want.rows || st.Blocks > want.blocks+1 || st.SkippedIndex != 0 || st.SkippedFilter+st.Blocks+st.SkippedTemplates != hosts { // one block may be let through by chance
			t.Errorf("%s: %d lines, want %d, of at most %d blocks: %+v", text, len(got.Rows), want.rows, want.blocks, st)
		}
	}
	for text, ask := range map[string]bool{"quokka": false, "quokka animal": false, "quok*": true} {
		f, err := query.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		c, done, err := s.scan(t.Context(), f, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.sink = &top{limit: 10}
		w, err := c.walk(testDay)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.next(); err != nil || !ask && len(c.cands) != hosts/2 {
			t.Errorf("%s: %d candidates: %v", text, len(c.cands), err)
		}
		p := pruners{day: pruner{need: f.Need()}}
		if left, err := c.prune(testDay, &p, c.cands); err != nil || len(left) != hosts/2 || p.day.asked != ask {
			t.Errorf("%s: %d blocks are left, the index is asked: %v: %v", text, len(left), p.day.asked, err)
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
		done()
	}
	// Filters know no beginnings of words.
	if st := searchOf(t, s, "quok*", 1000).Stats; st.SkippedIndex != hosts/2 {
		t.Errorf("a prefix: %+v", st)
	}
}

// A scan that has ended leaves its memory to others, and nothing of the store in it.
func TestWhatAScanLeavesHoldsNothing(t *testing.T) {
	s := storeOf(t, 2000, func(i int) string { return fmt.Sprintf("job %d failed", i) })
	for range 100 { // the collector and the race detector may take away what is left
		c, done, err := s.scan(t.Context(), nil, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.sink = &top{limit: 10, newest: true}
		if err := c.run(); err != nil {
			t.Fatal(err)
		}
		left := c.decoded
		if len(left.cols.Times) == 0 {
			t.Fatal("no block was decoded")
		}
		done()
		if c.decoded != nil {
			t.Fatal("a scan that has ended has its memory still")
		}
		again, _ := s.decoded.Get().(*decoded)
		if again == nil {
			continue
		}
		all := again.cands[:cap(again.cands)]
		if again != left || len(all) == 0 {
			t.Fatalf("something else was left: %d candidates", len(all))
		}
		for i := range all {
			if all[i].st != nil || all[i].filter != nil {
				t.Fatal("a candidate was left")
			}
		}
		return
	}
	t.Fatal("nothing was left a hundred times")
}
