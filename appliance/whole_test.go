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
	l.store.Report("", logstore.KindDay{Kind: wire.StreamLog, Day: 0}, errors.New("planted"))
}

// What a damaged node would answer in part is what another one answers, which is named; when none has it, or none can be
// asked, the part stands. Nobody is asked for what is whole, or when only this node is meant.
func TestPartialAnswersAreAskedElsewhere(t *testing.T) {
	l := linesForLogQL(t)
	good := linesForLogQL(t)
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
		w   api.Logs
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
	}
	for name, op := range ops {
		t.Run(name, func(t *testing.T) {
			want, _, err := op(asks{good, t.Context()})
			if err != nil {
				t.Fatal(err)
			}
			s := &standIns{t: t, nodes: map[string]func(*peerQuestion) (any, error){"n2": down, "n3": fromStore}}
			w := &wholeLogs{good, s.others("n2", "n3")}
			if got, st, err := op(asks{w, t.Context()}); err != nil || st.Node != "" || !reflect.DeepEqual(got, want) || len(s.asked) != 0 {
				t.Errorf("a whole answer: %v %+v, asked %v", err, st, s.asked)
			}
			lacking(l)
			w = &wholeLogs{l, s.others("n2", "n3")}
			got, st, err := op(asks{w, t.Context()})
			if err != nil || st.Partial || st.Node != "n3" || len(st.Damaged) != 0 || !reflect.DeepEqual(got, want) {
				t.Errorf("%v: %+v\n%v\nwant %v", err, st, got, want)
			}
			if fmt.Sprint(s.asked) != "[n2 n3]" {
				t.Errorf("asked %v", s.asked)
			}
			if _, st, err = op(asks{w, lokiapi.Alone(t.Context())}); err != nil || !st.Partial || len(s.asked) != 2 {
				t.Errorf("alone: %v %+v, asked %v", err, st, s.asked)
			}
			s = &standIns{t: t, nodes: map[string]func(*peerQuestion) (any, error){"n2": partly, "n3": down}}
			w.others = s.others("n2", "n3")
			if _, st, err = op(asks{w, t.Context()}); err != nil || !st.Partial || st.Node != "" || fmt.Sprint(s.asked) != "[n2 n3]" {
				t.Errorf("nobody has it: %v %+v, asked %v", err, st, s.asked)
			}
			s.asked = nil
			for range asksAtOnce {
				w.others.asking <- struct{}{}
			}
			if _, st, err = op(asks{w, t.Context()}); err != nil || !st.Partial || len(s.asked) != 0 {
				t.Errorf("too many ask already: %v %+v, asked %v", err, st, s.asked)
			}
		})
	}
	q := peerQuestion{Op: "everything"}
	if _, err := q.answer(t.Context(), good); err == nil {
		t.Error("an unknown question is answered")
	}
}
