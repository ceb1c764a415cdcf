package logstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// suggest is Suggest without a bound of time, looking at so many lines before it asks the index.
func suggest(t *testing.T, s *Store, req SuggestRequest, lines int) *Suggestions {
	t.Helper()
	req.Budget = time.Hour
	g := &suggester{store: s, req: req, caller: t.Context(), ctx: t.Context(), began: time.Now(), lines: lines}
	out, err := g.run()
	if err != nil {
		t.Fatalf("suggest %+v: %v", req, err)
	}
	return out
}

func isCJK(r rune) bool {
	return unicode.Is(unicode.Han, r) || unicode.Is(unicode.Hiragana, r) || unicode.Is(unicode.Katakana, r) || unicode.Is(unicode.Hangul, r)
}

// naiveCompletions are the words of a text that go on from a prefix; of CJK characters, those and the next one.
func naiveCompletions(text []byte, prefix string) map[string]bool {
	out := map[string]bool{}
	first, _ := utf8.DecodeRuneInString(prefix)
	if !isCJK(first) {
		for _, w := range naiveWords(text) {
			if r, _ := utf8.DecodeRuneInString(w); strings.HasPrefix(w, prefix) && !isCJK(r) {
				out[w] = true
			}
		}
		return out
	}
	for s := string(text); s != ""; {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			w := prefix
			if r, _ := utf8.DecodeRuneInString(rest); isCJK(r) {
				w += string(r)
			}
			out[w] = true
		}
		_, n := utf8.DecodeRuneInString(s)
		s = s[n:]
	}
	return out
}

// completions is how many visible lines of the model hold each completion.
func (m *model) completions(req *SuggestRequest, floor int64) map[string]int64 {
	out := map[string]int64{}
	starts := func(text string) bool {
		return text != "" && len(text) <= suggestBytes && strings.HasPrefix(foldNaively(text), foldNaively(req.Prefix))
	}
	for i := range m.rows {
		r := &m.rows[i]
		if r.T < max(req.Start, floor) || req.End != 0 && r.T >= req.End {
			continue
		}
		found := map[string]bool{}
		switch {
		case req.Kind == SuggestWord:
			found = naiveCompletions(r.Text, req.Prefix)
		case req.Kind == SuggestName:
			for _, name := range []string{"severity", "kind"} {
				found[name] = starts(name)
			}
			for _, l := range slices.Concat(r.Labels, wire.Labels(r.Fields)) {
				found[l.Name] = starts(l.Name)
			}
			for name := range naiveMembers(r.Text) {
				found[name] = starts(name) && query.IsFieldName(name)
			}
		case req.Field == "severity":
			found[r.Severity.String()] = starts(r.Severity.String())
		default:
			found[fieldOf(r, req.Field)] = starts(fieldOf(r, req.Field))
		}
		for text, ok := range found {
			if ok {
				out[text]++
			}
		}
	}
	return out
}

func foldNaively(s string) string {
	return strings.Map(func(r rune) rune {
		if l := unicode.ToLower(r); r < 128 || l >= 128 {
			return l
		}
		return r
	}, s)
}

// prefix takes the beginning of something that is there, or is not.
func (m *model) prefix(kind SuggestKind) string {
	var s string
	switch {
	case kind == SuggestWord:
		s = foldNaively(m.word())
		if m.rng.IntN(2) == 0 {
			s = m.phraseOf(1)[0]
		}
		if len(naiveWords([]byte(s))) != 1 && !isCJK([]rune(s)[0]) || len(s) > 30 {
			s = "ab"
		}
		return string([]rune(s)[:1+m.rng.IntN(len([]rune(s)))])
	case kind == SuggestName:
		s = []string{"HOST", "unit", "code", "user.", "severity", "kind", "x", "path"}[m.rng.IntN(8)]
	default:
		s = []string{"WEB-", "web-1", "5", "a", "error", "磁"}[m.rng.IntN(6)]
	}
	return string([]rune(s)[:m.rng.IntN(len([]rune(s))+1)])
}

func (m *model) checkSuggestions(t *testing.T, s *Store, n int, floor int64) {
	t.Helper()
	items, rare := 0, 0
	for range n {
		req := SuggestRequest{Kind: SuggestKind(m.rng.IntN(3)), Start: minTime, Limit: 1 + m.rng.IntN(MaxSuggestions)}
		req.Prefix = m.prefix(req.Kind)
		if m.rng.IntN(2) == 0 {
			req.Start = testDay*DayNs + m.rng.Int64N(3*DayNs)
			req.End = req.Start + 1 + m.rng.Int64N(2*DayNs)
		}
		if req.Kind == SuggestValue {
			req.Field = []string{"host", "unit", "code", "user", "severity", "nothing"}[m.rng.IntN(6)]
		}
		all := m.completions(&req, floor)
		var want []Suggestion
		for text, lines := range all {
			want = append(want, Suggestion{Kind: req.Kind, Text: text, Lines: lines})
		}
		slices.SortFunc(want, func(a, b Suggestion) int {
			return cmp.Or(cmp.Compare(b.Lines, a.Lines), cmp.Compare(a.Text, b.Text))
		})
		want = want[:min(len(want), req.Limit)]
		if got := suggest(t, s, req, suggestLines).Items; !slices.Equal(got, want) {
			t.Fatalf("suggest %+v: %+v, want %+v", req, got, want)
		}
		items += len(want)
		// The index knows what is rare; nothing that no line has is suggested.
		for _, it := range suggest(t, s, req, 1).Items {
			lines := all[it.Text]
			if req.Kind == SuggestWord {
				is := question{it.Text, naivePhrase(naiveWords([]byte(it.Text)), it.Open)}
				lines = int64(len(m.find(is, max(req.Start, floor), req.End, false)))
			}
			if it.Lead || it.Lines < 1 || it.Lines > lines {
				t.Fatalf("suggest %+v after one line: %+v, which %d lines have", req, it, lines)
			}
			rare++
		}
	}
	if items < 100 || rare < 50 {
		t.Errorf("only %d and %d were suggested", items, rare)
	}
}

func TestSuggestionsAreWhatLinesHave(t *testing.T) {
	for _, form := range []string{"inbox", "blocks", "indexed", "retention"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			m := newModel(77)
			s := testStore(t, t.TempDir(), Options{NoIndex: form == "blocks"})
			m.apply(t, s, 40)
			floor := int64(minTime)
			if form != "inbox" {
				work(t, s, true)
			}
			if form == "retention" { // the dictionary still has the words of the lines that are hidden
				floor = testDay*DayNs + DayNs + DayNs/2
				s.SetFloor(floor)
			}
			m.checkSuggestions(t, s, 150, floor)
		})
	}
}

// Words that only hidden lines have are in the dictionary of the day and are not suggested.
func TestHiddenWordsAreNotSuggested(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	noon := testDay*DayNs + DayNs/2
	b := &wire.LogBatch{Streams: []wire.LogStream{{
		Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "a"}),
		Lines: []wire.LogLine{{T: noon - 1, Text: []byte("password hunter2")}, {T: noon, Text: []byte("passage")}},
	}}}
	e := wire.LogEntry{Index: 1, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, b), Batch: b}}}
	if err := s.ApplyLogs(1, []wire.LogEntry{e}); err != nil {
		t.Fatal(err)
	}
	work(t, s, true)
	req := SuggestRequest{Prefix: "pass", Start: minTime, Limit: 10}
	if got := suggest(t, s, req, 1).Items; len(got) != 2 || got[0].Text != "passage" || got[1].Text != "password" {
		t.Fatalf("%+v", got)
	}
	s.SetFloor(noon)
	if got := suggest(t, s, req, 1).Items; len(got) != 1 || got[0].Text != "passage" {
		t.Fatalf("after retention: %+v", got)
	}
}

// Without the time to look for a line a word is a lead, unless lines that retention hides may be all that have it.
func TestHiddenWordsAreNoLeads(t *testing.T) {
	for name, c := range map[string]struct {
		hide func(s *Store)
		lead bool
	}{
		"nothing hidden":         {func(*Store) {}, true},
		"another day's selector": {func(s *Store) { (&cutting{}).cut(t, s, wire.StreamLog, testDay+1, 1, `{host="a"}`) }, true},
		"floor within the day":   {func(s *Store) { s.SetKindFloor(wire.StreamLog, testDay*DayNs+DayNs/2) }, false},
		"floor behind the days":  {func(s *Store) { s.SetKindFloor(wire.StreamLog, (testDay+1)*DayNs) }, false},
		"selector": {func(s *Store) {
			c := &cutting{}
			c.cut(t, s, wire.StreamLog, testDay, 1, `{host="a"}`)
			c.cut(t, s, wire.StreamLog, testDay-2, 1, `{host="a"}`)
		}, false},
		"selector of the first day with it": {func(s *Store) { (&cutting{}).cut(t, s, wire.StreamLog, testDay-2, 1, `{host="a"}`) }, true},
		"selector of the last day with it":  {func(s *Store) { (&cutting{}).cut(t, s, wire.StreamLog, testDay, 1, `{host="a"}`) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, t.TempDir(), Options{})
			b := &wire.LogBatch{Streams: []wire.LogStream{{
				Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "a"}),
				Lines: []wire.LogLine{{T: testDay * DayNs, Text: []byte("password hunter2")}, {T: (testDay - 2) * DayNs, Text: []byte("password")}},
			}}}
			e := wire.LogEntry{Index: 1, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, b), Batch: b}}}
			if err := s.ApplyLogs(1, []wire.LogEntry{e}); err != nil {
				t.Fatal(err)
			}
			work(t, s, true)
			c.hide(s)
			g := &suggester{
				store: s, req: SuggestRequest{Prefix: "pass", Start: minTime, Limit: 10}, caller: t.Context(), ctx: t.Context(), began: time.Now(),
				seen: map[string]int64{}, lines: suggestLines,
			}
			g.begin()
			texts, err := g.rarer()
			if err != nil || len(texts) != 1 || texts[0] != "password" {
				t.Fatalf("the index has %q: %v", texts, err)
			}
			var cancel context.CancelFunc
			g.ctx, cancel = context.WithCancel(t.Context())
			cancel()
			if err := g.confirm(texts); err != nil || !g.out.Cut {
				t.Fatalf("%v %+v", err, g.out)
			}
			if c.lead && (len(g.out.Items) != 1 || !g.out.Items[0].Lead || !g.out.Items[0].Open) || !c.lead && len(g.out.Items) != 0 {
				t.Errorf("%+v", g.out.Items)
			}
		})
	}
}

func TestSuggestionsAreBounded(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	for _, req := range []SuggestRequest{
		{Limit: MaxSuggestions + 1},
		{Limit: -1},
		{Budget: MaxSuggestBudget + 1},
		{Kind: SuggestValue},
		{Kind: 9},
		{Prefix: strings.Repeat("a", suggestBytes+1)},
	} {
		if _, err := s.Suggest(t.Context(), req); !errors.Is(err, ErrRequest) {
			t.Errorf("%.80q: %v", req.Prefix, err)
		}
	}
	// More than so many at once wait, and give up when their time is over.
	for range suggestAtOnce {
		s.suggesting <- struct{}{}
	}
	out, err := s.Suggest(t.Context(), SuggestRequest{Prefix: "a", Budget: time.Nanosecond})
	if err != nil || !out.Cut || len(out.Items) != 0 {
		t.Errorf("%+v %v", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Suggest(ctx, SuggestRequest{Prefix: "a"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for range suggestAtOnce {
		<-s.suggesting
	}
	out, err = s.Suggest(t.Context(), SuggestRequest{Prefix: "two words"})
	if err != nil || len(out.Items) != 0 {
		t.Errorf("%+v %v", out, err)
	}
	_ = s.Close()
	if _, err := s.Suggest(t.Context(), SuggestRequest{Prefix: "a"}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// What is suggested can be put into the search box and finds lines.
func TestSuggestionsFindLines(t *testing.T) {
	m := newModel(5)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 20)
	work(t, s, true)
	for range 100 {
		req := SuggestRequest{Kind: SuggestKind(m.rng.IntN(3)), Field: "unit", Start: minTime, Limit: 20}
		req.Prefix = m.prefix(req.Kind)
		for _, it := range suggest(t, s, req, 5).Items {
			text := it.Text
			switch {
			case it.Kind == SuggestName && (text == "kind" || text == "severity"):
				continue
			case it.Kind == SuggestName:
				text += ":*"
			case it.Kind == SuggestValue:
				text = "unit:" + query.QuoteValue(text)
			case it.Open:
				text += "*"
			}
			f, err := query.Parse(text)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			a, err := s.Search(t.Context(), Request{Filter: f, Start: minTime, Limit: 1})
			if err != nil || len(a.Rows) != 1 {
				t.Fatalf("%q finds %d lines: %v", text, len(a.Rows), err)
			}
		}
	}
}
