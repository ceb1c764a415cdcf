package storesource

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/syntax"
)

// flat is a source that decides nothing but selector and times.
type flat []logql.Line

func (f flat) Lines(_ context.Context, q *logql.Query, fn func(*logql.Line) bool) (st logql.SourceStats, err error) {
	for i := range f {
		l := f[i]
		if q.Newest {
			l = f[len(f)-1-i]
		}
		if l.T >= q.Start && l.T < q.End && logql.Selects(q.Selector, l.Labels) && !fn(&l) {
			break
		}
	}
	return st, nil
}

type golden struct {
	Query     string `json:"query"`
	Corpus    string `json:"corpus"`
	Type      string `json:"type"`
	Start     int64  `json:"start,string"`
	End       int64  `json:"end,string"`
	Time      int64  `json:"time,string"`
	Step      int64  `json:"step"`
	Limit     int    `json:"limit"`
	Direction string `json:"direction"`
}

func read(t *testing.T) (map[string]flat, []golden) {
	t.Helper()
	var corpora struct {
		Corpora map[string][]struct {
			Stream map[string]string   `json:"stream"`
			Values [][]json.RawMessage `json:"values"`
		} `json:"corpora"`
	}
	var all []golden
	for name, into := range map[string]any{"corpora.json": &corpora, "queries.json": &all} {
		b, err := os.ReadFile(filepath.Join("..", "testdata", name))
		must(t, err)
		must(t, json.Unmarshal(b, into))
	}
	out := map[string]flat{}
	for name, streams := range corpora.Corpora {
		var f flat
		for _, s := range streams {
			ls := wire.LabelsFromMap(s.Stream)
			for _, v := range s.Values {
				var at, text string
				var fields map[string]string
				must(t, json.Unmarshal(v[0], &at))
				must(t, json.Unmarshal(v[1], &text))
				if len(v) > 2 {
					must(t, json.Unmarshal(v[2], &fields))
				}
				n, err := strconv.ParseInt(at, 10, 64)
				must(t, err)
				f = append(f, logql.Line{T: n, Labels: ls, Text: []byte(text), Fields: wire.LabelsFromMap(fields)})
			}
		}
		slices.SortStableFunc(f, func(a, b logql.Line) int { return int(a.T - b.T) })
		out[name] = f
	}
	return out, all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (g *golden) answer(src logql.Source) string {
	x, err := logql.Parse(g.Query)
	if err != nil {
		return err.Error()
	}
	e := &logql.Engine{Source: src, Levels: true}
	var r *logql.Result
	if g.Type == "instant" {
		r, err = e.Instant(context.Background(), x, g.Time)
	} else {
		r, err = e.Range(context.Background(), x, logql.Params{
			Start: g.Start, End: g.End, Step: time.Duration(g.Step) * time.Second, Limit: g.Limit, Oldest: g.Direction == "forward",
		})
	}
	if err != nil {
		return err.Error()
	}
	return string(r.AppendJSON(nil))
}

// fill puts each line into the store as an entry of its own, and does background work after each fourth when seal is set, so
// that blocks are sealed, indexed and merged, while the last lines wait in the inbox.
func fill(t *testing.T, f flat, seal bool) *logstore.Store {
	t.Helper()
	s, err := logstore.New(logstore.Options{
		Manual: true, CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
		Now: func() time.Time { return time.Unix(0, f[len(f)-1].T).Add(72 * time.Hour) },
	})
	must(t, err)
	must(t, s.Open(t.TempDir()))
	t.Cleanup(func() { must(t, s.Close()) })
	for i, l := range f {
		b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: l.Labels, Lines: []wire.LogLine{{T: l.T, Text: l.Text, Fields: l.Fields, Severity: l.Severity}}}}}
		e := wire.LogEntry{Index: uint64(i + 1), Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		must(t, s.ApplyLogs(e.Index, []wire.LogEntry{e}))
		if seal && i%4 != 3 {
			must(t, s.Work(t.Context(), true))
		}
	}
	return s
}

// Every query of the table answers the same from lines in the inbox, from blocks, and from a plain list.
func TestQueriesOverTheStore(t *testing.T) {
	corpora, all := read(t)
	for name, f := range corpora {
		for i := range f { // every severity
			f[i].Severity = wire.Severity(i % 7)
		}
		t.Run(name, func(t *testing.T) {
			inbox, sealed := Source{fill(t, f, false)}, Source{fill(t, f, true)}
			n := 0
			for i := range all {
				g := &all[i]
				if g.Corpus != name {
					continue
				}
				n++
				want := g.answer(f)
				for where, src := range map[string]Source{"inbox": inbox, "blocks": sealed} {
					if got := g.answer(src); got != want {
						t.Errorf("%s from %s\n   gives %s\nexpected %s", g.Query, where, got, want)
					}
				}
			}
			if n == 0 {
				t.Error("no query asks for this corpus")
			}
		})
	}
}

// What the store is asked for is what the query says, not less: otherwise it would read everything.
func TestWhatTheStoreDecides(t *testing.T) {
	corpora, _ := read(t)
	src := Source{fill(t, corpora["plain"], true)}
	for text, most := range map[string]int64{
		`{app="db"}`: 2, `{app="web"} |= "login"`: 6, `{app="none"}`: 0, `{app=~".+"} | app="db"`: 2,
	} {
		x, err := logql.Parse(text)
		must(t, err)
		r, err := (&logql.Engine{Source: src}).Range(t.Context(), x, logql.Params{Start: 0, End: 1 << 62})
		must(t, err)
		if r.Stats.Lines > most {
			t.Errorf("%s looked at %d lines, at most %d are of use", text, r.Stats.Lines, most)
		}
	}
}

// An expression that the store refuses as too large is decided all the same.
func TestLargeExpressions(t *testing.T) {
	corpora, _ := read(t)
	src := Source{fill(t, corpora["plain"], true)}
	large := strings.Repeat("x{0,900}y", 7) // more than the store compiles, and less than a query may hold
	for _, text := range []string{
		`{app=~"` + large + `|db"}`, `{app="db"} |~ "` + large + `|slow|check"`, `{app="db"} | app=~"` + large + `|db"`,
	} {
		x, err := logql.Parse(text)
		must(t, err)
		if _, exact := Exact(x.(*syntax.Log)); exact {
			t.Fatalf("the store takes %.40s…: the test is in vain", text)
		}
		r, err := (&logql.Engine{Source: src}).Range(t.Context(), x, logql.Params{Start: 0, End: 1 << 62})
		must(t, err)
		if len(r.Streams) != 1 || len(r.Streams[0].Entries) != 2 {
			t.Errorf("%s: %d streams", text, len(r.Streams))
		}
	}
	x, err := logql.Parse(`{app="db"} |~ "` + large + `|slow"`) // the other line is newer
	must(t, err)
	r, err := (&logql.Engine{Source: src}).Range(t.Context(), x, logql.Params{Start: 0, End: 1 << 62, Limit: 1})
	must(t, err)
	if len(r.Streams) != 1 {
		t.Error("the limit counted lines that the store could not judge")
	}
}
