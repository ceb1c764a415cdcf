package logstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// Lines of random words are found although their blocks are in no word index: before and after they are sealed, after the store was opened
// again and after its index was made anew. Nothing looks at their words twice.
func TestBlocksOfTooManyWordsAreLeftToTheirFilters(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	word := func() string {
		b := make([]byte, 12)
		for i := range b {
			b[i] = 'g' + byte(rng.IntN(20))
		}
		return string(b)
	}
	const lines = 6000
	var texts []string
	b := wire.LogBatch{Streams: []wire.LogStream{
		{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "random"})},
		{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "plain"})},
	}}
	for i := range lines {
		texts = append(texts, fmt.Sprintf("user=%s token=%s did it", word(), word()))
		b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{T: testDay*DayNs + int64(i), Text: []byte(texts[i])})
		b.Streams[1].Lines = append(b.Streams[1].Lines, wire.LogLine{T: testDay*DayNs + int64(i), Text: fmt.Appendf(nil, "plain line of kind %d", i%7)})
	}
	if err := s.ApplyLogs(1, []wire.LogEntry{{Index: 1, Batches: []wire.AcceptedLogs{{Batch: &b}}}}); err != nil {
		t.Fatal(err)
	}
	marks := func() int {
		t.Helper()
		got, err := s.engine.marks(s.engine.db, testDay)
		if err != nil {
			t.Fatal(err)
		}
		return len(got)
	}
	check := func(when string) {
		t.Helper()
		for _, text := range []string{texts[0][5:17], texts[lines/2][5:17], texts[lines-1][24:36]} {
			a, err := s.Search(t.Context(), Request{Filter: query.Phrase(text, false)})
			if err != nil || len(a.Rows) != 1 {
				t.Errorf("%s: %d rows with %s, %v", when, len(a.Rows), text, err)
			}
		}
		a, err := s.Search(t.Context(), Request{Filter: query.Phrase("nowhere", false)})
		if err != nil || len(a.Rows) != 0 {
			t.Errorf("%s: %d rows with a word that is nowhere, %v", when, len(a.Rows), err)
		}
	}
	check("as they came")
	if err := s.Work(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if n := marks(); n != 1 {
		t.Errorf("%d blocks have a mark, want that of random words", n)
	}
	check("in blocks")
	name, ok, err := s.engine.indexName(s.engine.db, testDay)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	terms, err := s.engine.index.Terms(t.Context(), testDay, name, "", 10_000)
	if err != nil || len(terms) > 10 {
		t.Errorf("%d terms, %v", len(terms), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = testStore(t, dir, Options{})
	for range 2 {
		if err := s.Work(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := s.engine.marks(s.engine.db, testDay)
	if err != nil {
		t.Fatal(err)
	}
	for id := range ids {
		if _, _, err := s.engine.terms(madeBlock{k: dayStream{day: testDay}, id: id}, name, true); !errors.Is(err, errLookedAt) {
			t.Errorf("opened again: its words are looked at once more: %v", err)
		}
	}
	if n := marks(); n != 1 || len(s.engine.ripe.ready) != 0 {
		t.Errorf("opened again: %d blocks have a mark, %d days wait for the index", n, len(s.engine.ripe.ready))
	}
	check("opened again")
	s.engine.distrust(testDay, name, fmt.Errorf("planted"))
	for range 3 {
		if err := s.Work(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	if n := marks(); n != 1 {
		t.Errorf("index made anew: %d blocks have a mark", n)
	}
	check("index made anew")
}
