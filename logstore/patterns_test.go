package logstore

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

func patternOf(r *Row) string { return string(block.AppendPattern(nil, r.Text)) }

// patternQuestion asks for the lines of a pattern.
func (m *model) patternQuestion() question {
	want := "no <*> such"
	if len(m.rows) > 0 {
		want = patternOf(&m.rows[m.rng.IntN(len(m.rows))])
	}
	return question{query.PatternQuery(want), func(r *Row) bool { return patternOf(r) == want }}
}

// naivePatterns is what Patterns has to answer about lines, of which those before start are only known.
func naivePatterns(lines []Row, start, since, t0, step int64, n int) (out []Pattern, old map[string]bool) {
	byText := map[string]*Pattern{}
	old = map[string]bool{}
	for i := range lines {
		r := &lines[i]
		text := patternOf(r)
		if r.T < since {
			old[text] = true
		}
		if r.T < start {
			continue
		}
		p := byText[text]
		if p == nil {
			p = &Pattern{Text: text, PatternLines: PatternLines{First: r.T, Last: r.T, Position: r.Position}}
			if step != 0 {
				p.Counts = make([]int64, n)
			}
			byText[text] = p
		}
		p.Lines++
		p.First = min(p.First, r.T)
		if r.T > p.Last || r.T == p.Last && r.Position.Compare(p.Position) > 0 {
			p.Last, p.Position = r.T, r.Position
		}
		p.Severities[r.Severity]++
		if step != 0 {
			p.Counts[(r.T-t0)/step]++
		}
	}
	for _, p := range byText {
		p.New = since != 0 && !old[p.Text]
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Pattern) int { return cmp.Or(cmp.Compare(b.Lines, a.Lines), cmp.Compare(a.Text, b.Text)) })
	return out, old
}

// checkPatterns compares the patterns of a question with those of the lines that it finds, now and then with room for so few
// that the store must go over the lines again. What is not kept any more lies before floor.
func (m *model) checkPatterns(t *testing.T, s *Store, asked Request, q question, floor int64, want []Row) {
	t.Helper()
	req := PatternsRequest{Filter: asked.Filter, Start: asked.Start, End: asked.End, Limit: 1 + m.rng.IntN(40)}
	if req.End == 0 {
		req.Start, req.End = testDay*DayNs, (testDay+3)*DayNs // all there is
	}
	if m.rng.IntN(2) == 0 {
		req.Step = []int64{6 * 3600e9, DayNs}[m.rng.IntN(2)]
	}
	if m.rng.IntN(2) == 0 {
		req.Since = testDay*DayNs + m.rng.Int64N(req.End-testDay*DayNs)
		req.OnlyNew = m.rng.IntN(2) == 0
	}
	defer func(b bounds) { s.bounds = b }(s.bounds)
	if m.rng.IntN(3) == 0 {
		s.bounds.values = 4000
	}
	got, err := s.Patterns(t.Context(), req)
	if err != nil || got.Stats.Partial {
		t.Fatalf("patterns of %q: %v %+v", q.text, err, got)
	}
	n := 0
	if req.Step != 0 {
		_, n, _ = buckets(req.Start, req.End, req.Step)
	}
	known := m.find(q, floor, req.End, false)
	all, _ := naivePatterns(known, req.Start, req.Since, got.T0, req.Step, n)
	isNew := 0
	for i := range all {
		if all[i].New {
			isNew++
		}
	}
	if got.Lines != int64(len(want)) || got.Distinct != 0 && got.Distinct != len(all) || got.Distinct == 0 && len(all) > 0 && s.bounds.values == defaultBounds.values ||
		got.Distinct != 0 && got.New != isNew {
		t.Fatalf("patterns of %q: %d lines, %d distinct, %d new, want %d, %d, %d", q.text, got.Lines, got.Distinct, got.New, len(want), len(all), isNew)
	}
	if req.OnlyNew {
		all = slices.DeleteFunc(all, func(p Pattern) bool { return !p.New })
	}
	if got.Capped { // what is told is exact all the same
		told := map[string]bool{}
		for i := range got.Patterns {
			told[got.Patterns[i].Text] = true
		}
		all = slices.DeleteFunc(all, func(p Pattern) bool { return !told[p.Text] })
	}
	all = all[:min(len(all), req.Limit)]
	if len(got.Patterns) != len(all) {
		t.Fatalf("patterns of %q, %+v: %d, want %d", q.text, req, len(got.Patterns), len(all))
	}
	for i := range all {
		if a, b := fmt.Sprintf("%+v", got.Patterns[i]), fmt.Sprintf("%+v", all[i]); a != b {
			t.Fatalf("patterns of %q, %+v: number %d is\n%s, want\n%s", q.text, req, i, a, b)
		}
	}
	if req.Since != 0 && len(known) > 0 && got.Horizon > known[0].T {
		t.Fatalf("patterns of %q: nothing is said to be known before %d, and there is a line of %d", q.text, got.Horizon, known[0].T)
	}
}

// onlyLines makes an entry of lines of one stream.
func onlyLines(index uint64, t0 int64, texts ...string) wire.LogEntry {
	b := &wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "web-1"})}}}
	for i, text := range texts {
		b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{T: t0 + int64(i)*1e6, Severity: wire.SeverityInfo, Text: []byte(text)})
	}
	return wire.LogEntry{Index: index, Batches: []wire.AcceptedLogs{{Batch: b}}}
}

// What is new is looked for by the words of the patterns that are left, so days that do not have them are not opened.
func TestNewPatternsAreLookedUp(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	s.SetFormat(2)
	const first = testDay - 4 // so that the last one is today, and the others are indexed
	index := uint64(0)
	apply := func(day int64, texts ...string) {
		t.Helper()
		index++
		if err := s.ApplyLogs(index, []wire.LogEntry{onlyLines(index, day*DayNs, texts...)}); err != nil {
			t.Fatal(err)
		}
	}
	for day := range int64(6) {
		apply(first+day, "request 1 served", "request 2 served", "request 3 served", fmt.Sprintf("the night job of day %c ended", 'g'+day))
		work(t, s, true)
	}
	apply(first+6, "request 4 served", "disk sda failed after 17 hours", "the night job of day h ended")
	work(t, s, true)
	day := (first + 6) * DayNs
	got, err := s.Patterns(t.Context(), PatternsRequest{Start: day, End: day + DayNs, Since: day})
	if err != nil || len(got.Patterns) != 3 || got.New != 1 || got.Horizon != first*DayNs {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, p := range got.Patterns {
		if p.New != (p.Text == "disk sda failed after <*> hours") {
			t.Errorf("new is %v of %q", p.New, p.Text)
		}
	}
	// That day itself is opened, and the one before, which knows the requests. Of the others only the second one has the
	// words that are left.
	if got.Stats.Blocks > 3 {
		t.Errorf("%d blocks were opened: %+v", got.Stats.Blocks, got.Stats)
	}
}

func TestPatternsRefuseWhatTheyCannotAnswer(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	for _, req := range []PatternsRequest{
		{Start: 1, End: 2, Limit: MaxPatterns + 1},
		{Start: 1, End: 2, Limit: -1},
		{Start: 1, End: 2, Since: 3},
		{Start: 1, End: 2, OnlyNew: true},
		{Start: 2, End: 1, Step: 1},
		{Start: 0, End: 1 << 60, Step: 1},
		{Start: 1, End: 2, Step: -1},
	} {
		if got, err := s.Patterns(t.Context(), req); err == nil {
			t.Errorf("%+v is answered: %+v", req, got)
		}
	}
}
