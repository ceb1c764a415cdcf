package appliance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
)

func linesForLogQL(t *testing.T) *logQueries {
	t.Helper()
	s, err := logstore.New(logstore.Options{Manual: true, CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err == nil {
		err = s.Open(t.TempDir())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range 40 {
		b := wire.LogBatch{Streams: []wire.LogStream{{
			Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": fmt.Sprint("h", i%2), "source": "journal"}),
			Lines: []wire.LogLine{{T: int64(i) * 1e9, Severity: wire.Severity(i % 3), Text: fmt.Appendf(nil, "n=%d kind=%s", i, []string{"even", "odd"}[i%2])}},
		}}}
		e := wire.LogEntry{Index: uint64(i + 1), Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		if err := s.ApplyLogs(e.Index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	return &logQueries{s}
}

// What begins with { is LogQL wherever lines are asked for; pages of one with a pipeline follow each other without a gap.
func TestLogQLInTheSearchBox(t *testing.T) {
	l := linesForLogQL(t)
	for text, want := range map[string]int{
		`{source="journal"}`: 40, ` {host="h1"} |= "n=1"`: 6, `{host="h1"} | source="journal" != "n=1"`: 14,
		`{source="journal"} | logfmt | n >= 30`: 10, `{host="h0"} | logfmt | kind="odd"`: 0,
		"{source=\"journal\"} | logfmt | n < 12 | line_format `{{.kind}} {{.n}}`": 12,
	} {
		for _, oldest := range []bool{false, true} {
			var got []string
			q := api.LogQuery{Query: text, End: 100e9, Limit: 5, Oldest: oldest}
			for {
				page, err := l.Query(t.Context(), q)
				if err != nil {
					t.Fatal(text, err)
				}
				for _, r := range page.Rows {
					got = append(got, r.T)
					if strings.Contains(text, "line_format") && (!strings.HasPrefix(r.Text, r.Labels["kind"]+" ") || r.Labels["n"] == "") {
						t.Errorf("%s: row %+v", text, r)
					}
				}
				if q.Cursor = page.Next; page.Next == "" {
					break
				}
			}
			seen := map[string]bool{}
			for _, at := range got {
				seen[at] = true
			}
			if len(got) != want || len(seen) != want {
				t.Errorf("%s: %d rows, %d different ones, expected %d", text, len(got), len(seen), want)
			}
		}
		h, err := l.Hits(t.Context(), text, 0, 100e9, 10*time.Second)
		if err != nil || h.Total != int64(want) {
			t.Errorf("%s: %d hits, %v", text, h.Total, err)
		}
	}
	for _, text := range []string{`{source="journal"`, `{}`, `{source="journal"} | nothing`, `sum(rate({source="journal"}[5m]))`} {
		var bad *api.QueryError
		if _, err := l.Query(t.Context(), api.LogQuery{Query: text, End: 1}); !errors.As(err, &bad) {
			t.Errorf("%s: %v", text, err)
		}
	}
	var bad *api.QueryError
	if _, err := l.Facets(t.Context(), `{source="journal"} | logfmt`, 0, 1e9, "n", 10); !errors.As(err, &bad) || !strings.Contains(bad.Message, "leave out") {
		t.Errorf("top values behind a parser: %v", err)
	}
	if f, err := l.Facets(t.Context(), `{host="h1"} |= "n=1"`, 0, 100e9, "host", 10); err != nil || f.Lines != 6 {
		t.Errorf("top values: %+v, %v", f, err)
	}
}

// An export gives what the query gives, also the lines that a pipeline makes; it stops at its limit and goes on behind a cursor.
func TestExportOfLogQL(t *testing.T) {
	l := linesForLogQL(t)
	export := func(q api.LogQuery) (texts, cursors []string, begun bool, err error) {
		_, err = l.Export(t.Context(), q, func() func(*api.LogRow) error {
			begun = true
			return func(r *api.LogRow) error {
				texts, cursors = append(texts, r.Text+"|"+r.Labels["kind"]), append(cursors, r.Cursor())
				return nil
			}
		})
		return texts, cursors, begun, err
	}
	q := api.LogQuery{Query: "{source=\"journal\"} | logfmt | n >= 30 | line_format `{{.kind}} {{.n}}`", End: 100e9, Oldest: true}
	all, cursors, _, err := export(q)
	if err != nil || len(all) != 10 || all[0] != "even 30|even" || all[9] != "odd 39|odd" {
		t.Fatalf("%q, %v", all, err)
	}
	q.Limit, q.Cursor = 3, cursors[3]
	if some, _, _, err := export(q); err != nil || !slices.Equal(some, all[4:7]) {
		t.Errorf("three lines behind the fourth: %q, %v", some, err)
	}
	plain, _, _, err := export(api.LogQuery{Query: `{host="h1"} |= "n=1"`, End: 100e9, Oldest: true})
	if err != nil || len(plain) != 6 {
		t.Errorf("a query that a filter answers: %q, %v", plain, err)
	}
	for _, text := range []string{`{source="journal"} | nothing`, `{source="journal"`} {
		var bad *api.QueryError
		if _, _, begun, err := export(api.LogQuery{Query: text, End: 100e9}); !errors.As(err, &bad) || begun {
			t.Errorf("%s: begun %v, %v", text, begun, err)
		}
	}
}

// A query for numbers is no search for its words: whoever asks for lines with one is told where it begins and what to do.
func TestQueriesForNumbersAreRefused(t *testing.T) {
	l := linesForLogQL(t)
	const text = ` sum by (host) (rate({source="journal"}[5m]))`
	event := api.EventQuery{Query: text, End: 100e9, Limit: 5}
	for name, ask := range map[string]func() error{
		"query": func() error { _, err := l.Query(t.Context(), api.LogQuery{Query: text, End: 100e9}); return err },
		"hits":  func() error { _, err := l.Hits(t.Context(), text, 0, 100e9, 1e9); return err },
		"hits by": func() error {
			_, err := l.HitsBy(t.Context(), text, 0, 100e9, 1e9, "host", 5)
			return err
		},
		"top":    func() error { _, err := l.Facets(t.Context(), text, 0, 100e9, "host", 5); return err },
		"series": func() error { _, err := l.Series(t.Context(), text, 0, 100e9, 5); return err },
		"patterns": func() error {
			_, err := l.Patterns(t.Context(), api.LogPatternsQuery{Query: text, End: 100e9})
			return err
		},
		"export": func() error {
			_, err := l.Export(t.Context(), api.LogQuery{Query: text, End: 100e9}, func() func(*api.LogRow) error { t.Error("begun"); return nil })
			return err
		},
		"events":         func() error { _, err := l.Events(t.Context(), event); return err },
		"hits of events": func() error { _, err := l.EventHits(t.Context(), event, 1e9); return err },
		"top of events":  func() error { _, err := l.EventFacets(t.Context(), event, "host", 5); return err },
		"rule":           func() error { return (&alertLogs{}).CheckQuery(text) },
		"count of a rule": func() error {
			_, _, err := (&alertLogs{}).Count(t.Context(), text, 0, 100, "", 5)
			return err
		},
	} {
		bad, ok := errors.AsType[*api.QueryError](ask())
		if !ok || bad.Pos != 1 || !strings.Contains(bad.Message, "numbers") || !strings.Contains(bad.Hint, "query_range") {
			t.Errorf("%s: %+v", name, bad)
		}
	}
	if err := (&alertLogs{}).CheckQuery(text); !strings.HasPrefix(err.Error(), "at byte 1: ") || !strings.Contains(err.Error(), "below logql") {
		t.Errorf("a rule says %v", err)
	}
	for _, words := range []string{`"rate({a})"`, "rate", "sum of it", "rate limit"} {
		if _, err := compile(words); err != nil {
			t.Errorf("%s: %v", words, err)
		}
	}
}
