package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/api/lokiapi"
	"github.com/triward/triward/logstore"
)

// standIns are other nodes: what each answers with.
type standIns struct {
	t     *testing.T
	nodes map[string]func(q *peerQuestion) (any, error)
	asked []string
}

func (s *standIns) others(ids ...string) *others {
	return &others{
		nodes: func() []string { return ids },
		index: func() uint64 { return 40 },
		post: func(_ context.Context, node, path string, body []byte) (*http.Response, error) {
			s.asked = append(s.asked, node)
			var q peerQuestion
			if err := json.Unmarshal(body, &q); err != nil || path != peerLogsPath || q.Index != 40 {
				s.t.Errorf("%s is asked %s at %s: %v", node, body, path, err)
			}
			answer, err := s.nodes[node](&q)
			if err != nil {
				return nil, err
			}
			text, err := json.Marshal(answer)
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(text))}, err
		},
		asking: make(chan struct{}, asksAtOnce),
		asked:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "asked"}, []string{"outcome"}),
	}
}

// lacking makes the store say that lines of a day are missing, and has them missing.
func lacking(l *logQueries) {
	for _, kind := range []wire.StreamKind{wire.StreamLog, wire.StreamEvent} {
		l.store.Report("", logstore.KindDay{Kind: kind, Day: 0}, errors.New("planted"))
	}
}

// What a damaged node would answer in part is what another one answers, which is named; when none has it, or none can be
// asked, the part stands. Nobody is asked for what is whole, or when only this node is meant.
func TestPartialAnswersAreAskedElsewhere(t *testing.T) {
	l, good := linesForLogQL(t), linesForLogQL(t)
	for _, to := range []*logQueries{l, good} {
		var streams []wire.LogStream
		for i := range 4 {
			streams = append(streams, wire.LogStream{
				Kind: wire.StreamEvent, Labels: wire.LabelsFromMap(map[string]string{"host": fmt.Sprint("h", i%2), "name": "unit_failed"}),
				Lines: []wire.LogLine{{T: int64(i) * 1e9, Text: []byte("the unit failed")}},
			})
		}
		b := wire.LogBatch{Streams: streams}
		e := wire.LogEntry{Index: 41, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		if err := to.store.ApplyLogs(41, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	fromStore := func(q *peerQuestion) (any, error) { return q.answer(t.Context(), good) }
	partly := func(q *peerQuestion) (any, error) { return q.answer(t.Context(), l) }
	down := func(*peerQuestion) (any, error) { return nil, errors.New("connection refused") }
	page, err := good.Query(t.Context(), api.LogQuery{Query: "kind", End: 100e9, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	line := page.Rows[0]
	at := int64(39e9)
	type asks struct {
		w interface {
			api.Logs
			api.Events
		}
		ctx context.Context
	}
	ops := map[string]func(a asks) (any, *api.LogStats, error){
		"query": func(a asks) (any, *api.LogStats, error) {
			p, err := a.w.Query(a.ctx, api.LogQuery{Query: "odd", End: 100e9, Limit: 7, Oldest: true})
			return p.Rows, &p.Stats, err
		},
		"page of LogQL": func(a asks) (any, *api.LogStats, error) {
			p, err := a.w.Query(a.ctx, api.LogQuery{Query: `{source="journal"} | logfmt | n >= 30`, End: 100e9, Limit: 3})
			return fmt.Sprint(p.Rows, p.Next), &p.Stats, err
		},
		"hits": func(a asks) (any, *api.LogStats, error) {
			h, err := a.w.Hits(a.ctx, "odd", 0, 100e9, 10*time.Second)
			if h.Partial != h.Stats.Partial {
				t.Errorf("partial: %v %v", h.Partial, h.Stats.Partial)
			}
			return h.Series, &h.Stats, err
		},
		"hits by": func(a asks) (any, *api.LogStats, error) {
			h, err := a.w.HitsBy(a.ctx, "odd", 0, 100e9, 10*time.Second, "host", 3)
			return h.Series, &h.Stats, err
		},
		"top": func(a asks) (any, *api.LogStats, error) {
			f, err := a.w.Facets(a.ctx, "", 0, 100e9, "host", 5)
			return f.Values, &f.Stats, err
		},
		"context": func(a asks) (any, *api.LogStats, error) {
			c, err := a.w.Context(a.ctx, line.Pos, at, 2, 1)
			return fmt.Sprint(c.Rows, c.At), &c.Stats, err
		},
		"labels": func(a asks) (any, *api.LogStats, error) {
			n, err := a.w.Labels(a.ctx, 0, 100e9)
			return n.Names, &n.Stats, err
		},
		"values": func(a asks) (any, *api.LogStats, error) {
			n, err := a.w.LabelValues(a.ctx, "host", 0, 100e9, 1)
			return n.Names, &n.Stats, err
		},
		"series": func(a asks) (any, *api.LogStats, error) {
			s, err := a.w.Series(a.ctx, "host:h1", 0, 100e9, 5)
			return s.Streams, &s.Stats, err
		},
		"patterns": func(a asks) (any, *api.LogStats, error) {
			p, err := a.w.Patterns(a.ctx, api.LogPatternsQuery{Query: "odd", End: 100e9, Limit: 5})
			return fmt.Sprint(p.Patterns, p.Lines), &p.Stats, err
		},
		"events": func(a asks) (any, *api.LogStats, error) {
			p, err := a.w.Events(a.ctx, api.EventQuery{Query: "unit", Hosts: []string{"h0"}, End: 100e9, Limit: 2})
			return fmt.Sprint(p.Events, p.Next), &p.Stats, err
		},
		"hits of events": func(a asks) (any, *api.LogStats, error) {
			h, err := a.w.EventHits(a.ctx, api.EventQuery{Kinds: []string{"unit_failed"}, End: 100e9}, 10*time.Second)
			return h.Series, &h.Stats, err
		},
		"top of events": func(a asks) (any, *api.LogStats, error) {
			f, err := a.w.EventFacets(a.ctx, api.EventQuery{End: 100e9}, "host", 5)
			return f.Values, &f.Stats, err
		},
		"export": func(a asks) (any, *api.LogStats, error) {
			var rows []string
			st, err := a.w.Export(a.ctx, api.LogQuery{Query: `{source="journal"} | logfmt | n >= 30`, End: 100e9, Limit: 7}, func() func(*api.LogRow) error {
				return func(r *api.LogRow) error {
					rows = append(rows, fmt.Sprint(*r))
					return nil
				}
			})
			return rows, &st, err
		},
	}
	for name, op := range ops {
		t.Run(name, func(t *testing.T) {
			want, _, err := op(asks{good, t.Context()})
			if err != nil || reflect.ValueOf(want).Len() == 0 || want == "[]" {
				t.Fatal(want, err)
			}
			s := &standIns{t: t, nodes: map[string]func(*peerQuestion) (any, error){"n2": down, "n3": fromStore}}
			w := &wholeLogs{logQueries: good, others: s.others("n2", "n3")}
			if got, st, err := op(asks{w, t.Context()}); err != nil || st.Node != "" || !reflect.DeepEqual(got, want) || len(s.asked) != 0 {
				t.Errorf("a whole answer: %v %+v, asked %v", err, st, s.asked)
			}
			lacking(l)
			w = &wholeLogs{logQueries: l, others: s.others("n2", "n3")}
			got, st, err := op(asks{w, t.Context()})
			if err != nil || st.Partial || st.Node != "n3" || len(st.Damaged) != 0 || !reflect.DeepEqual(got, want) {
				t.Errorf("%v: %+v\n%v\nwant %v", err, st, got, want)
			}
			if fmt.Sprint(s.asked) != "[n2 n3]" {
				t.Errorf("asked %v", s.asked)
			}
			if _, st, err = op(asks{w, lokiapi.Alone(t.Context())}); err != nil || !st.Partial || !st.Unasked || len(s.asked) != 2 {
				t.Errorf("alone: %v %+v, asked %v", err, st, s.asked)
			}
			s = &standIns{t: t, nodes: map[string]func(*peerQuestion) (any, error){"n2": partly, "n3": down}}
			w.others = s.others("n2", "n3")
			if _, st, err = op(asks{w, t.Context()}); err != nil || !st.Partial || st.Unasked || st.Node != "" || fmt.Sprint(s.asked) != "[n2 n3]" {
				t.Errorf("nobody has it: %v %+v, asked %v", err, st, s.asked)
			}
			s.asked = nil
			for range asksAtOnce {
				w.others.asking <- struct{}{}
			}
			if _, st, err = op(asks{w, t.Context()}); err != nil || !st.Partial || !st.Unasked || len(s.asked) != 0 {
				t.Errorf("too many ask already: %v %+v, asked %v", err, st, s.asked)
			}
		})
	}
	q := peerQuestion{Op: "everything"}
	if _, err := q.answer(t.Context(), good); err == nil {
		t.Error("an unknown question is answered")
	}
}

// An export of a damaged node goes on page by page with what another node has: every line once, in order, up to the limit.
func TestExportOfADamagedNode(t *testing.T) {
	l, good := linesForLogQL(t), linesForLogQL(t)
	lines := make([]wire.LogLine, 2*exportPageLines)
	for i := range lines {
		lines[i] = wire.LogLine{T: 50e9 + int64(i/3), Text: fmt.Appendf(nil, "many %05d", i)}
	}
	b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "h9"}), Lines: lines}}}
	e := wire.LogEntry{Index: 41, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	for _, to := range []*logQueries{l, good} {
		if err := to.store.ApplyLogs(41, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	lacking(l)
	s := &standIns{t: t, nodes: map[string]func(*peerQuestion) (any, error){"n2": func(q *peerQuestion) (any, error) { return q.answer(t.Context(), good) }}}
	w := &wholeLogs{logQueries: l, others: s.others("n2")}
	for limit, pages := range map[int]int{0: 3, exportPageLines: 1, exportPageLines + 1: 2} {
		s.asked = nil
		begun, n := 0, 0
		st, err := w.Export(t.Context(), api.LogQuery{Query: "many OR kind", End: 100e9, Oldest: true, Limit: limit}, func() func(*api.LogRow) error {
			begun++
			return func(r *api.LogRow) error {
				if want := fmt.Sprintf("many %05d", n-40); n >= 40 && r.Text != want {
					return fmt.Errorf("line %d is %q", n, r.Text)
				}
				n++
				return nil
			}
		})
		want := 40 + len(lines)
		if limit > 0 {
			want = limit
		}
		if err != nil || begun != 1 || n != want || st.Partial || st.Node != "n2" || len(s.asked) != pages {
			t.Errorf("limit %d: %d lines of %d, begun %d times, asked %v, %+v, %v", limit, n, want, begun, s.asked, st, err)
		}
	}
	var bad *api.QueryError
	if _, err := w.Export(t.Context(), api.LogQuery{Query: `{a="b"`, End: 1}, func() func(*api.LogRow) error { t.Error("begun"); return nil }); !errors.As(err, &bad) {
		t.Error(err)
	}
}

// Suggestions of a damaged node are those of another one, asked in a place of their own: typing takes none from questions.
func TestSuggestionsOfADamagedNode(t *testing.T) {
	l, good := linesForLogQL(t), linesForLogQL(t)
	ask := api.LogSuggestQuery{Query: "kind:", At: 5, End: 100e9, Limit: 5}
	want, err := good.Suggest(t.Context(), ask)
	if err != nil || len(want.Items) == 0 || want.Partial {
		t.Fatal(want, err)
	}
	lacking(l)
	up := true
	s := &standIns{t: t, nodes: map[string]func(*peerQuestion) (any, error){"n2": func(q *peerQuestion) (any, error) {
		if !up {
			return nil, errors.New("connection refused")
		}
		return q.answer(t.Context(), good)
	}}}
	o := s.others("n2")
	w := &wholeLogs{l, o, o.forHints()}
	for range asksAtOnce {
		o.asking <- struct{}{}
	}
	got, err := w.Suggest(t.Context(), ask)
	if err != nil || got.Partial || !reflect.DeepEqual(got.Items, want.Items) || len(s.asked) != 1 {
		t.Errorf("%v: %+v\nwant %+v, asked %v", err, got, want, s.asked)
	}
	if len(o.asking) != asksAtOnce {
		t.Errorf("%d places of questions are taken", len(o.asking))
	}
	up = false
	if got, err := w.Suggest(t.Context(), ask); err != nil || !got.Partial || len(s.asked) != 2 {
		t.Errorf("nobody has more: %v %+v, asked %v", err, got, s.asked)
	}
}
