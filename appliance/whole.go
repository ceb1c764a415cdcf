package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/api/lokiapi"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/ui"
)

// A node that knows its log store to be damaged leaves parts out until they are repaired, and says so. Whoever asks through
// a balancer would see holes at random. So what would be answered in part is asked of another node once, and its answer is
// given when that is whole. The other node answers from its own store alone, so no question goes round in circles.

// Paths on the peer port.
const (
	peerLogsPath = "/appliance/logs" // POST peerQuestion; the answer of that question
	peerLokiPath = "/appliance/loki" // POST lokiQuestion; the answer of Loki's API
)

// Bounds of asking another node.
const (
	askPatience     = 10 * time.Second // for one node
	askCatchUp      = 2 * time.Second  // for it to hold what this one does
	hintPatience    = time.Second      // for all of them, while somebody types
	asksAtOnce      = 2                // others show what this node has
	maxPeerAnswer   = 96 << 20         // bytes
	exportPageLines = 5000
	maxPeerAsk      = 2 << 20
	nodeHeader      = "X-Triward-Node" // names the node that answered in place of the one that was asked
	outcomeWhole    = "whole"
	outcomePartial  = "partial"
)

// peerQuestion is a question about lines.
type peerQuestion struct {
	Op    string       `json:"op"`
	Index uint64       `json:"index"` // of the log, up to which the answer must be
	Ask   api.LogQuery `json:"ask"`
	Step  int64        `json:"step,omitempty"` // ns
	Field string       `json:"field,omitempty"`
	Top   int          `json:"top,omitempty"`
	Pos   string       `json:"pos,omitempty"`
	T     int64        `json:"t,omitempty"`
	// Before and After are how many lines around one.
	Before int `json:"before,omitempty"`
	After  int `json:"after,omitempty"`

	Events   *api.EventQuery       `json:"events,omitempty"`
	Patterns *api.LogPatternsQuery `json:"patterns,omitempty"`
	Suggest  *api.LogSuggestQuery  `json:"suggest,omitempty"`

	Event bool `json:"event,omitempty"` // a tail is of events
}

// lokiQuestion is a request to Loki's API.
type lokiQuestion struct {
	Index  uint64      `json:"index"`
	Path   string      `json:"path"`
	Form   string      `json:"form"` // encoded as a query
	Header http.Header `json:"header,omitempty"`
}

// others asks nodes for what this one would answer in part.
type others struct {
	nodes  func() []string // that may be asked
	index  func() uint64   // that this node has applied
	post   func(ctx context.Context, node, path string, body []byte) (*http.Response, error)
	asking chan struct{}
	asked  *prometheus.CounterVec
}

func newOthers(a *App) *others {
	o := &others{
		nodes: func() (ids []string) {
			for _, m := range a.node.Status().Members {
				if m.ID != a.cfg.NodeID {
					ids = append(ids, m.ID)
				}
			}
			return ids
		},
		index: func() uint64 { return a.node.AppliedIndex() },
		post: func(ctx context.Context, node, path string, body []byte) (*http.Response, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+node+path, bytes.NewReader(body))
			if err != nil {
				return nil, err
			}
			return a.node.PeerClient().Transport().RoundTrip(req)
		},
		asking: make(chan struct{}, asksAtOnce),
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_logs_asked_elsewhere_total",
			Help: "Questions about lines that were asked of another node, as this one is damaged: its answer was whole, or partial, or there was none.",
		}, []string{"outcome"}),
	}
	a.registry.MustRegister(o.asked)
	return o
}

// forHints returns others who are asked while somebody types, which takes no place from questions.
func (o *others) forHints() *others {
	hints := *o
	hints.asking = make(chan struct{}, 1)
	return &hints
}

// first asks one node after the other until take has taken an answer, and reports whether it has, and whether any answered.
// take reports whether the answer was whole.
func (o *others) first(ctx context.Context, path string, question any, take func(node string, resp *http.Response) (whole bool, err error)) (took, answered bool) {
	select {
	case o.asking <- struct{}{}:
		defer func() { <-o.asking }()
	default:
		return false, false
	}
	body, err := json.Marshal(question)
	if err != nil || len(body) > maxPeerAsk {
		return false, false
	}
	for _, node := range o.nodes() {
		if ctx.Err() != nil {
			return false, answered
		}
		outcome := outcomePartial
		whole, err := o.one(ctx, node, path, body, take)
		switch {
		case err != nil:
			outcome = "none"
		case whole:
			outcome = outcomeWhole
		}
		o.asked.WithLabelValues(outcome).Inc()
		if whole {
			return true, true
		}
		answered = answered || err == nil
	}
	return false, answered
}

func (o *others) one(ctx context.Context, node, path string, body []byte, take func(string, *http.Response) (bool, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	resp, err := o.post(ctx, node, path, body)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("node %s: %s", node, resp.Status)
	}
	return take(node, resp)
}

// wholeLogs are the questions about lines of which another node is asked.
type wholeLogs struct {
	*logQueries
	others *others
	hints  *others // for suggestions
}

// whole returns own, or the answer of another node when own lacks something that it has.
func whole[T any](ctx context.Context, o *others, q peerQuestion, own T, stats func(*T) *api.LogStats) T {
	if !stats(&own).Partial {
		return own
	}
	if lokiapi.IsAlone(ctx) {
		stats(&own).Unasked = true
		return own
	}
	q.Index = o.index()
	took, answered := o.first(ctx, peerLogsPath, q, func(node string, resp *http.Response) (bool, error) {
		var got T
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxPeerAnswer)).Decode(&got); err != nil {
			return false, err
		}
		st := stats(&got)
		if st.Partial {
			return false, nil
		}
		st.Node = node
		own = got
		return true, nil
	})
	if !took {
		stats(&own).Unasked = !answered
	}
	return own
}

// Operations of a peerQuestion.
const (
	opQuery   = "query"
	opHits    = "hits"
	opHitsBy  = "hits_by"
	opFacets  = "facets"
	opContext = "context"
	opLabels  = "labels"
	opValues  = "values"
	opSeries  = "series"
	opExport  = "export"

	opTailNewest = "tail_newest"
	opTailBehind = "tail_behind"

	opSuggest     = "suggest"
	opPatterns    = "patterns"
	opEvents      = "events"
	opEventHits   = "event_hits"
	opEventFacets = "event_facets"
)

// Query implements api.Logs.
func (l *wholeLogs) Query(ctx context.Context, q api.LogQuery) (api.LogPage, error) {
	page, err := l.logQueries.Query(ctx, q)
	if err != nil {
		return page, err
	}
	return whole(ctx, l.others, peerQuestion{Op: opQuery, Ask: q}, page, func(p *api.LogPage) *api.LogStats { return &p.Stats }), nil
}

func statsOfHits(h *api.LogHits) *api.LogStats { return &h.Stats }

// Hits implements api.Logs.
func (l *wholeLogs) Hits(ctx context.Context, text string, start, end int64, step time.Duration) (api.LogHits, error) {
	h, err := l.logQueries.Hits(ctx, text, start, end, step)
	if err != nil {
		return h, err
	}
	ask := peerQuestion{Op: opHits, Ask: api.LogQuery{Query: text, Start: start, End: end}, Step: int64(step)}
	return whole(ctx, l.others, ask, h, statsOfHits), nil
}

// HitsBy implements api.Logs.
func (l *wholeLogs) HitsBy(ctx context.Context, text string, start, end int64, step time.Duration, field string, top int) (api.LogHits, error) {
	h, err := l.logQueries.HitsBy(ctx, text, start, end, step, field, top)
	if err != nil {
		return h, err
	}
	ask := peerQuestion{Op: opHitsBy, Ask: api.LogQuery{Query: text, Start: start, End: end}, Step: int64(step), Field: field, Top: top}
	return whole(ctx, l.others, ask, h, statsOfHits), nil
}

// Facets implements api.Logs.
func (l *wholeLogs) Facets(ctx context.Context, text string, start, end int64, field string, limit int) (api.Facet, error) {
	f, err := l.logQueries.Facets(ctx, text, start, end, field, limit)
	if err != nil {
		return f, err
	}
	ask := peerQuestion{Op: opFacets, Ask: api.LogQuery{Query: text, Start: start, End: end}, Field: field, Top: limit}
	return whole(ctx, l.others, ask, f, func(f *api.Facet) *api.LogStats { return &f.Stats }), nil
}

// Context implements api.Logs.
func (l *wholeLogs) Context(ctx context.Context, pos string, t int64, before, after int) (api.LogAround, error) {
	around, err := l.logQueries.Context(ctx, pos, t, before, after)
	stats := func(a *api.LogAround) *api.LogStats { return &a.Stats }
	ask := peerQuestion{Op: opContext, Pos: pos, T: t, Before: before, After: after}
	var p *problem.Problem
	if errors.As(err, &p) && p.Status == http.StatusNotFound && len(l.store.Damaged()) > 0 { // the line may be what is damaged
		around.Stats.Partial = true
		if around = whole(ctx, l.others, ask, around, stats); !around.Stats.Partial {
			return around, nil
		}
		return api.LogAround{}, err
	}
	if err != nil {
		return around, err
	}
	return whole(ctx, l.others, ask, around, stats), nil
}

func statsOfNames(n *api.LogNames) *api.LogStats { return &n.Stats }

// Labels implements api.Logs.
func (l *wholeLogs) Labels(ctx context.Context, start, end int64) (api.LogNames, error) {
	names, err := l.logQueries.Labels(ctx, start, end)
	if err != nil {
		return names, err
	}
	return whole(ctx, l.others, peerQuestion{Op: opLabels, Ask: api.LogQuery{Start: start, End: end}}, names, statsOfNames), nil
}

// LabelValues implements api.Logs.
func (l *wholeLogs) LabelValues(ctx context.Context, name string, start, end int64, limit int) (api.LogNames, error) {
	values, err := l.logQueries.LabelValues(ctx, name, start, end, limit)
	if err != nil {
		return values, err
	}
	ask := peerQuestion{Op: opValues, Ask: api.LogQuery{Start: start, End: end, Limit: limit}, Field: name}
	return whole(ctx, l.others, ask, values, statsOfNames), nil
}

// Series implements api.Logs.
func (l *wholeLogs) Series(ctx context.Context, text string, start, end int64, limit int) (api.LogStreams, error) {
	found, err := l.logQueries.Series(ctx, text, start, end, limit)
	if err != nil {
		return found, err
	}
	ask := peerQuestion{Op: opSeries, Ask: api.LogQuery{Query: text, Start: start, End: end, Limit: limit}}
	return whole(ctx, l.others, ask, found, func(s *api.LogStreams) *api.LogStats { return &s.Stats }), nil
}

// Patterns implements api.LogPatterner.
func (l *wholeLogs) Patterns(ctx context.Context, q api.LogPatternsQuery) (api.LogPatterns, error) {
	found, err := l.logQueries.Patterns(ctx, q)
	if err != nil {
		return found, err
	}
	return whole(ctx, l.others, peerQuestion{Op: opPatterns, Patterns: &q}, found, func(p *api.LogPatterns) *api.LogStats { return &p.Stats }), nil
}

// suggested is suggestions with what whole looks at.
type suggested struct {
	api.LogSuggestions
	Stats api.LogStats `json:"stats"`
}

func newSuggested(s api.LogSuggestions) suggested {
	return suggested{s, api.LogStats{Partial: s.Partial}}
}

// Suggest implements api.LogSuggester.
func (l *wholeLogs) Suggest(ctx context.Context, q api.LogSuggestQuery) (api.LogSuggestions, error) {
	own, err := l.logQueries.Suggest(ctx, q)
	if err != nil {
		return own, err
	}
	ctx, cancel := context.WithTimeout(ctx, hintPatience)
	defer cancel()
	ask := peerQuestion{Op: opSuggest, Suggest: &q}
	return whole(ctx, l.hints, ask, newSuggested(own), func(s *suggested) *api.LogStats { return &s.Stats }).LogSuggestions, nil
}

// Events implements api.Events.
func (l *wholeLogs) Events(ctx context.Context, q api.EventQuery) (api.EventPage, error) {
	page, err := l.logQueries.Events(ctx, q)
	if err != nil {
		return page, err
	}
	return whole(ctx, l.others, peerQuestion{Op: opEvents, Events: &q}, page, func(p *api.EventPage) *api.LogStats { return &p.Stats }), nil
}

// EventHits implements api.Events.
func (l *wholeLogs) EventHits(ctx context.Context, q api.EventQuery, step time.Duration) (api.LogHits, error) {
	h, err := l.logQueries.EventHits(ctx, q, step)
	if err != nil {
		return h, err
	}
	return whole(ctx, l.others, peerQuestion{Op: opEventHits, Events: &q, Step: int64(step)}, h, statsOfHits), nil
}

// EventFacets implements api.Events.
func (l *wholeLogs) EventFacets(ctx context.Context, q api.EventQuery, field string, limit int) (api.Facet, error) {
	f, err := l.logQueries.EventFacets(ctx, q, field, limit)
	if err != nil {
		return f, err
	}
	return whole(ctx, l.others, peerQuestion{Op: opEventFacets, Events: &q, Field: field, Top: limit}, f, func(f *api.Facet) *api.LogStats { return &f.Stats }), nil
}

// Export implements api.Logs. While the store is known to be damaged it is made of pages, each of which another node may give.
func (l *wholeLogs) Export(ctx context.Context, q api.LogQuery, begin func() func(*api.LogRow) error) (api.LogStats, error) {
	if len(l.store.Damaged()) == 0 || lokiapi.IsAlone(ctx) {
		st, err := l.logQueries.Export(ctx, q, begin)
		st.Unasked = st.Partial
		return st, err
	}
	var all api.LogStats
	var line func(*api.LogRow) error
	left := q.Limit
	for {
		ask := q
		if ask.Limit = exportPageLines; q.Limit > 0 {
			ask.Limit = min(left, exportPageLines)
		}
		page, err := l.exportPage(ctx, ask)
		if err != nil {
			return all, err
		}
		page = whole(ctx, l.others, peerQuestion{Op: opExport, Ask: ask}, page, func(p *api.LogPage) *api.LogStats { return &p.Stats })
		all.Add(&page.Stats)
		if line == nil {
			line = begin()
		}
		for i := range page.Rows {
			if err := line(&page.Rows[i]); err != nil {
				return all, err
			}
		}
		left -= len(page.Rows)
		if q.Cursor = page.Next; page.Next == "" || q.Limit > 0 && left <= 0 {
			return all, nil
		}
	}
}

// exportPage gives up to Limit lines of an export, and the cursor to go on behind them.
func (l *logQueries) exportPage(ctx context.Context, q api.LogQuery) (page api.LogPage, err error) {
	if q.Limit <= 0 || q.Limit > exportPageLines {
		q.Limit = exportPageLines
	}
	bytes := 0
	page.Stats, err = l.Export(ctx, q, func() func(*api.LogRow) error {
		return func(r *api.LogRow) error {
			page.Rows = append(page.Rows, *r)
			if bytes += len(r.Text) + len(r.TextB64) + 256; bytes > maxPageBytes || len(page.Rows) == q.Limit {
				page.Next = r.Cursor()
				return errEnough
			}
			return nil
		}
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return page, err
}

// answer answers another node's question from this node's store.
func (q *peerQuestion) answer(ctx context.Context, l *logQueries) (any, error) {
	a := &q.Ask
	switch q.Op {
	case opQuery:
		return l.Query(ctx, *a)
	case opHits:
		return l.Hits(ctx, a.Query, a.Start, a.End, time.Duration(q.Step))
	case opHitsBy:
		return l.HitsBy(ctx, a.Query, a.Start, a.End, time.Duration(q.Step), q.Field, q.Top)
	case opFacets:
		return l.Facets(ctx, a.Query, a.Start, a.End, q.Field, q.Top)
	case opContext:
		return l.Context(ctx, q.Pos, q.T, q.Before, q.After)
	case opLabels:
		return l.Labels(ctx, a.Start, a.End)
	case opValues:
		return l.LabelValues(ctx, q.Field, a.Start, a.End, a.Limit)
	case opSeries:
		return l.Series(ctx, a.Query, a.Start, a.End, a.Limit)
	case opExport:
		return l.exportPage(ctx, *a)
	case opTailNewest:
		return q.tails(l.store).newest(ctx, a.Query, a.Limit, a.Start)
	case opTailBehind:
		after, err := ui.ParsePosition(q.Pos)
		if err != nil {
			return nil, problem.Wrap(http.StatusBadRequest, err)
		}
		return q.tails(l.store).behind(ctx, a.Query, after, a.Limit, a.Start)
	}
	switch {
	case q.Op == opSuggest && q.Suggest != nil:
		s, err := l.Suggest(ctx, *q.Suggest)
		return newSuggested(s), err
	case q.Op == opPatterns && q.Patterns != nil:
		return l.Patterns(ctx, *q.Patterns)
	case q.Op == opEvents && q.Events != nil:
		return l.Events(ctx, *q.Events)
	case q.Op == opEventHits && q.Events != nil:
		return l.EventHits(ctx, *q.Events, time.Duration(q.Step))
	case q.Op == opEventFacets && q.Events != nil:
		return l.EventFacets(ctx, *q.Events, q.Field, q.Top)
	}
	return nil, problem.New(http.StatusBadRequest, fmt.Sprintf("question %.40q is not known", q.Op))
}

// tails are those whose questions of the store q may be.
func (q *peerQuestion) tails(store *logstore.Store) *tails {
	if q.Event {
		return eventTails(store, nil, nil)
	}
	return lineTails(store, nil, nil)
}

// serveOthers answers what other nodes cannot.
func (a *App) serveOthers(mux *http.ServeMux) {
	handle := func(path string, fn func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if !a.isOpen(r.Context()) {
				problemOf(raftstate.ErrStopped).Write(w)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxPeerAsk)
			r = r.WithContext(logstore.AskedBy(r.Context(), logstore.Asker{Key: "peers", Name: "other nodes"}))
			if err := fn(w, r); err != nil {
				problemOf(err).Write(w)
			}
		})
	}
	handle(peerLogsPath, func(w http.ResponseWriter, r *http.Request) error {
		var q peerQuestion
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			return problem.Wrap(http.StatusBadRequest, err)
		}
		if err := a.caughtUp(r.Context(), q.Index); err != nil {
			return err
		}
		answer, err := q.answer(r.Context(), &logQueries{a.logs})
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // the other node is gone: it shows what it has
		return nil
	})
	handle(peerLokiPath, func(w http.ResponseWriter, r *http.Request) error {
		var q lokiQuestion
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			return problem.Wrap(http.StatusBadRequest, err)
		}
		loki := a.loki.Load()
		if loki == nil || !strings.HasPrefix(q.Path, lokiapi.Prefix) || strings.HasSuffix(q.Path, "/tail") {
			return problem.New(http.StatusNotFound, "there is nothing to ask at this path")
		}
		if err := a.caughtUp(r.Context(), q.Index); err != nil {
			return err
		}
		inner, err := http.NewRequestWithContext(lokiapi.Alone(r.Context()), http.MethodGet, (&url.URL{Path: q.Path, RawQuery: q.Form}).String(), nil)
		if err != nil {
			return problem.Wrap(http.StatusBadRequest, err)
		}
		inner.Header = q.Header
		loki.ServeHTTP(w, inner)
		return nil
	})
}

// caughtUp waits until this node holds what the one that asks does, and refuses while it cannot be asked.
func (a *App) caughtUp(ctx context.Context, index uint64) error {
	if err := a.checkReplay(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askCatchUp)
	defer cancel()
	return a.node.WaitApplied(ctx, index)
}

// elsewhere is lokiapi.Options.Elsewhere.
func (o *others) elsewhere(w http.ResponseWriter, r *http.Request) bool {
	q := lokiQuestion{Index: o.index(), Path: r.URL.Path, Form: r.Form.Encode(), Header: http.Header{}}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Loki-") {
			q.Header[name] = r.Header[name]
		}
	}
	begun := false
	took, _ := o.first(r.Context(), peerLokiPath, q, func(node string, resp *http.Response) (bool, error) {
		if begun || resp.Header.Get(lokiapi.PartialHeader) != "" {
			return false, nil
		}
		begun = true
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.Header().Set(nodeHeader, node)
		if _, err := io.Copy(w, resp.Body); err != nil {
			panic(http.ErrAbortHandler) // a piece of an answer must not look like all of it
		}
		return true, nil
	})
	return took
}
