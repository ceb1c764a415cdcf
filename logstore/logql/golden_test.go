package logql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/triward/triward/agent/wire"
)

// golden is a query with its result. The results were reasoned from Loki's public documentation, each with its reason, and
// not taken from a running Loki; they have the form of Loki's API (what stands below "data"), and the corpora that of its
// push API, so that one can be asked the same.
type golden struct {
	Query     string          `json:"query"`
	Corpus    string          `json:"corpus"`
	Why       string          `json:"why"`
	Type      string          `json:"type"` // range or instant
	Start     int64           `json:"start,string"`
	End       int64           `json:"end,string"`
	Time      int64           `json:"time,string"`
	Step      int64           `json:"step"` // seconds
	Limit     int             `json:"limit"`
	Direction string          `json:"direction"`
	Result    json.RawMessage `json:"result"`
	Error     string          `json:"error"` // a piece of the message, when an error is right
}

func readGolden(t testing.TB) (map[string]*memory, []golden) {
	t.Helper()
	var corpora struct {
		Corpora map[string][]struct {
			Stream map[string]string   `json:"stream"`
			Values [][]json.RawMessage `json:"values"`
		} `json:"corpora"`
	}
	var all []golden
	for name, into := range map[string]any{"corpora.json": &corpora, "queries.json": &all} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatal(name, err)
		}
	}
	out := map[string]*memory{}
	for name, streams := range corpora.Corpora {
		m := &memory{}
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
				m.lines = append(m.lines, Line{T: n, Labels: ls, Text: []byte(text), Fields: wire.LabelsFromMap(fields)})
			}
		}
		slices.SortStableFunc(m.lines, func(a, b Line) int { return int(a.T - b.T) })
		out[name] = m
	}
	return out, all
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (g *golden) run(e *Engine) (*Result, error) {
	x, err := Parse(g.Query)
	if err != nil {
		return nil, err
	}
	if g.Type == "instant" {
		return e.Instant(context.Background(), x, g.Time)
	}
	return e.Range(context.Background(), x, Params{
		Start: g.Start, End: g.End, Step: time.Duration(g.Step) * time.Second, Limit: g.Limit, Oldest: g.Direction == "forward",
	})
}

// normal makes a result comparable: series in the order of their labels (but a sorted vector stays as it is), values as
// numbers, and no details of mistakes, whose words are free.
func normal(t testing.TB, g *golden, data []byte) any {
	t.Helper()
	var v struct {
		ResultType string
		Result     json.RawMessage
	}
	must(t, json.Unmarshal(data, &v))
	if v.ResultType == "scalar" {
		var p []any
		must(t, json.Unmarshal(v.Result, &p))
		return []any{v.ResultType, p[0], p[1]}
	}
	var list []map[string]any
	must(t, json.Unmarshal(v.Result, &list))
	for _, s := range list {
		for _, k := range []string{"stream", "metric"} {
			if m, ok := s[k].(map[string]any); ok {
				delete(m, "__error_details__")
			}
		}
	}
	if first := strings.SplitN(g.Query, "(", 2)[0]; !strings.HasPrefix(first, "sort") && !strings.HasPrefix(first, "topk") && !strings.HasPrefix(first, "bottomk") {
		slices.SortStableFunc(list, func(a, b map[string]any) int {
			x, _ := json.Marshal([]any{a["stream"], a["metric"]})
			y, _ := json.Marshal([]any{b["stream"], b["metric"]})
			return strings.Compare(string(x), string(y))
		})
	}
	out := []any{v.ResultType}
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

// same compares what normal returned; numbers may differ in their last digits.
func same(a, b any) bool {
	return cmp.Equal(a, b, cmp.Comparer(func(a, b string) bool {
		x, xerr := strconv.ParseFloat(a, 64)
		y, yerr := strconv.ParseFloat(b, 64)
		return a == b || xerr == nil && yerr == nil && math.Abs(x-y) <= 1e-9*max(math.Abs(x), math.Abs(y))
	}))
}

func (g *golden) check(t testing.TB, e *Engine) {
	t.Helper()
	r, err := g.run(e)
	if g.Error != "" {
		var se *SyntaxError
		if err == nil || !strings.Contains(err.Error(), g.Error) {
			t.Errorf("%s: error %v, expected %q (%s)", g.Query, err, g.Error, g.Why)
		} else if !errors.Is(err, ErrQuery) && !errors.As(err, &se) {
			t.Errorf("%s: error %v is none of the query", g.Query, err)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v (%s)", g.Query, err, g.Why)
		return
	}
	got := "{" + string(r.AppendJSON(nil)) + "}"
	if !same(normal(t, g, []byte(got)), normal(t, g, g.Result)) {
		t.Errorf("%s over %s\n   gives %s\nexpected %s\n because %s", g.Query, g.Corpus, got, g.Result, g.Why)
	}
}

func TestQueriesOfTheTable(t *testing.T) {
	corpora, all := readGolden(t)
	if len(all) < 150 {
		t.Fatalf("%d queries", len(all))
	}
	for i := range all {
		g := &all[i]
		m := corpora[g.Corpus]
		if m == nil {
			t.Fatalf("%s: no corpus %s", g.Query, g.Corpus)
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			g.check(t, &Engine{Source: m})
			g.check(t, &Engine{Source: m, wide: true})
			again := *g // the canonical form means the same
			if x, err := Parse(g.Query); err == nil {
				again.Query = x.String()
				again.check(t, &Engine{Source: m})
			}
		})
	}
}
