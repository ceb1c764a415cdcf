package appliance

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
)

// asking has the log store tell by session or token who asks: whoever shares a token waits for the others who do.
func asking(ctx context.Context, who auth.Principal) context.Context {
	return logstore.AskedBy(ctx, logstore.Asker{Key: string(who.Kind) + ":" + who.Key, Name: who.Actor()})
}

// logQueries answers the API's questions about lines from the log store.
type logQueries struct{ store *logstore.Store }

// maxLogQuery bounds the text of a query before it is parsed.
const maxLogQuery = 16 << 10

// compile reads a query in the language of the search box, or in LogQL; an empty one matches every line.
func compile(text string) (*query.Filter, error) {
	if len(text) > maxLogQuery {
		return nil, &api.QueryError{Pos: maxLogQuery, Message: "the query is longer than " + strconv.Itoa(maxLogQuery) + " bytes"}
	}
	switch {
	case syntax.ForNumbers(text):
		return nil, numbersError(text)
	case syntax.ForLines(text):
		return compileLogQL(text)
	}
	f, err := query.Parse(text)
	if bad, ok := errors.AsType[*query.SyntaxError](err); ok {
		return nil, &api.QueryError{Pos: bad.Pos, Message: bad.Msg}
	}
	return f, err
}

// logError turns what the store says of a bad request into an answer.
func logError(err error) error {
	switch {
	case errors.Is(err, logstore.ErrRequest):
		return problem.Wrap(http.StatusBadRequest, err)
	case errors.Is(err, logstore.ErrNoLine):
		return problem.Wrap(http.StatusNotFound, err)
	}
	return err
}

// Query implements api.Logs.
func (l *logQueries) Query(ctx context.Context, q api.LogQuery) (api.LogPage, error) {
	if x, err := staged(q.Query); err != nil {
		return api.LogPage{}, err
	} else if x != nil {
		return l.queryStaged(ctx, x, &q)
	}
	f, err := compile(q.Query)
	if err != nil {
		return api.LogPage{}, err
	}
	a, err := l.store.Search(ctx, request(f, &q))
	if err != nil {
		return api.LogPage{}, logError(err)
	}
	return api.LogPage{Rows: apiRows(a.Rows), Next: a.Next, Stats: apiStats(&a.Stats)}, nil
}

// request is a question for lines as the store takes it.
func request(f *query.Filter, q *api.LogQuery) logstore.Request {
	r := logstore.Request{Filter: f, Start: q.Start, End: q.End, Limit: q.Limit, Cursor: q.Cursor}
	if q.Oldest {
		r.Direction = logstore.OldestFirst
	}
	return r
}

func apiStats(s *logstore.Stats) api.LogStats {
	return api.LogStats{
		Considered: s.Considered, Skipped: s.Skipped(), SkippedHeader: s.SkippedHeader, SkippedIndex: s.SkippedIndex,
		SkippedFilter: s.SkippedFilter, SkippedTemplates: s.SkippedTemplates, Counted: s.Counted, Blocks: s.Blocks, Pending: s.Pending, Lines: s.Lines, Bytes: s.Bytes,
		Ms: float64(s.Duration.Microseconds()) / 1000, Partial: s.Partial, Damaged: s.Damaged, Expired: s.Expired,
	}
}

func apiRows(rows []logstore.Row) []api.LogRow {
	out := make([]api.LogRow, len(rows))
	for i := range rows {
		out[i] = apiRow(&rows[i], rows[i].Labels.Map())
	}
	return out
}

// apiRow is a line as it is shown, with its labels as a map.
func apiRow(r *logstore.Row, labels map[string]string) api.LogRow {
	row := api.LogRow{T: strconv.FormatInt(r.T, 10), Pos: r.Position.String(), Severity: r.Severity.String(), Labels: labels}
	if r.Kind == wire.StreamEvent {
		row.Kind = kindOf(r.Kind)
	}
	row.SetText(r.Text)
	if len(r.Fields) > 0 {
		row.Fields = wire.Labels(r.Fields).Map()
	}
	return row
}

// stagedRow is a line as a pipeline makes it: with its labels and text, and without the fields of before.
func stagedRow(r *logstore.Row, labels wire.Labels, text string) *logstore.Row {
	made := *r
	made.Labels, made.Text, made.Fields = labels, []byte(text), nil
	return &made
}

// validText is the line as JSON can carry it; bytes that are no UTF-8 become U+FFFD.
func validText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return string([]rune(string(b)))
}

// Hits implements api.Logs.
func (l *logQueries) Hits(ctx context.Context, text string, start, end int64, step time.Duration) (api.LogHits, error) {
	if x, err := staged(text); err != nil {
		return api.LogHits{}, err
	} else if x != nil {
		return l.hitsStaged(ctx, x, start, end, step)
	}
	f, err := compile(text)
	if err != nil {
		return api.LogHits{}, err
	}
	h, err := l.store.Hits(ctx, logstore.Request{Filter: f, Start: start, End: end}, int64(step))
	if err != nil {
		return api.LogHits{}, logError(err)
	}
	return apiHits(h), nil
}

func apiHits(h *logstore.Hits) api.LogHits {
	out := api.LogHits{T0: h.T0 / 1e6, Step: h.Step / 1e6, Total: h.Total, Series: []api.HitsSeries{}, Partial: h.Stats.Partial, Stats: apiStats(&h.Stats)}
	for severity, counts := range h.Counts {
		if counts != nil {
			out.Series = append(out.Series, api.HitsSeries{Severity: wire.Severity(severity).String(), Counts: counts})
		}
	}
	return out
}

// Facets implements api.Logs.
func (l *logQueries) Facets(ctx context.Context, text string, start, end int64, field string, limit int) (api.Facet, error) {
	f, err := compile(text)
	if err != nil {
		return api.Facet{}, err
	}
	found, err := l.store.Facets(ctx, logstore.Request{Filter: f, Start: start, End: end, Limit: limit}, field)
	if err != nil {
		return api.Facet{}, logError(err)
	}
	return apiFacet(field, found), nil
}

func apiFacet(field string, found *logstore.Facets) api.Facet {
	out := api.Facet{
		Field: field, Lines: found.Lines, Values: []api.FacetValue{}, Capped: found.Capped, Partial: found.Stats.Partial, Stats: apiStats(&found.Stats),
	}
	for _, v := range found.Values {
		out.Values = append(out.Values, api.FacetValue{Value: v.Value, Count: v.Count})
	}
	return out
}

// HitsBy implements api.Logs.
func (l *logQueries) HitsBy(ctx context.Context, text string, start, end int64, step time.Duration, field string, top int) (api.LogHits, error) {
	f, err := compile(text)
	if err != nil {
		return api.LogHits{}, err
	}
	h, err := l.store.HitsBy(ctx, logstore.Request{Filter: f, Start: start, End: end}, int64(step), field, top)
	if err != nil {
		return api.LogHits{}, logError(err)
	}
	out := api.LogHits{
		T0: h.T0 / 1e6, Step: h.Step / 1e6, Total: h.Total, Field: field, Series: []api.HitsSeries{}, Other: h.Other, Without: h.None,
		Capped: h.Capped, Partial: h.Stats.Partial, Stats: apiStats(&h.Stats),
	}
	for i := range h.Groups {
		out.Series = append(out.Series, api.HitsSeries{Value: h.Groups[i].Value, Counts: h.Groups[i].Counts})
	}
	return out, nil
}

// Labels implements api.Logs.
func (l *logQueries) Labels(ctx context.Context, start, end int64) (api.LogNames, error) {
	names, st, err := l.store.Labels(ctx, start, end)
	return api.LogNames{Names: names, Stats: apiStats(&st)}, logError(err)
}

// LabelValues implements api.Logs.
func (l *logQueries) LabelValues(ctx context.Context, name string, start, end int64, limit int) (api.LogNames, error) {
	values, st, err := l.store.LabelValues(ctx, name, start, end)
	return api.LogNames{Names: values[:min(limit, len(values))], Stats: apiStats(&st)}, logError(err)
}

// Series implements api.Logs.
func (l *logQueries) Series(ctx context.Context, text string, start, end int64, limit int) (api.LogStreams, error) {
	f, err := compile(text)
	if err != nil {
		return api.LogStreams{}, err
	}
	found, err := l.store.Series(ctx, f, start, end)
	if err != nil {
		return api.LogStreams{}, logError(err)
	}
	out := api.LogStreams{More: found.More || len(found.Streams) > limit, Stats: apiStats(&found.Stats)}
	for i := range found.Streams[:min(limit, len(found.Streams))] {
		st := &found.Streams[i]
		out.Streams = append(out.Streams, api.LogStream{Kind: kindOf(st.Kind), Labels: st.Labels.Map()})
	}
	return out, nil
}

func kindOf(k wire.StreamKind) string {
	if k == wire.StreamEvent {
		return "event"
	}
	return "log"
}

// Context implements api.Logs.
func (l *logQueries) Context(ctx context.Context, pos string, t int64, before, after int) (api.LogAround, error) {
	p, err := logstore.ParsePosition(pos)
	if err != nil {
		return api.LogAround{}, problem.Wrap(http.StatusBadRequest, err)
	}
	around, err := l.store.Context(ctx, p, t, before, after)
	if err != nil {
		return api.LogAround{}, logError(err)
	}
	return api.LogAround{Rows: apiRows(around.Rows), At: around.At, Members: textFields(&around.Rows[around.At]), Stats: apiStats(&around.Stats)}, nil
}

// Export implements api.Logs.
func (l *logQueries) Export(ctx context.Context, q api.LogQuery, begin func() func(*api.LogRow) error) (api.LogStats, error) {
	x, err := staged(q.Query)
	if err != nil {
		return api.LogStats{}, err
	}
	var f *query.Filter
	if x == nil {
		if f, err = compile(q.Query); err != nil {
			return api.LogStats{}, err
		}
	}
	req := request(f, &q)
	if err := req.Check(); err != nil {
		return api.LogStats{}, logError(err)
	}
	ctx, leave, err := l.store.Admit(logstore.InLane(ctx, logstore.LaneExport), logstore.WalkBytes)
	if err != nil {
		return api.LogStats{}, err
	}
	defer leave()
	var st logstore.Stats
	if x != nil {
		st, err = l.exportStaged(ctx, x, req, begin)
	} else {
		line := begin()
		rows := rowMaker{maps: map[*wire.Label]map[string]string{}}
		st, err = l.store.Walk(ctx, req, func(r *logstore.Row) error { return line(rows.row(r)) })
	}
	return apiStats(&st), logError(err)
}

// rowMaker makes rows of one answer; those of one stream share their labels.
type rowMaker struct {
	maps map[*wire.Label]map[string]string
	last api.LogRow
}

// maxLabelMaps bounds the streams whose labels are remembered.
const maxLabelMaps = 4096

// row returns a row that is valid until the next call.
func (m *rowMaker) row(r *logstore.Row) *api.LogRow {
	if len(r.Labels) == 0 {
		m.last = apiRow(r, r.Labels.Map())
		return &m.last
	}
	labels, ok := m.maps[&r.Labels[0]]
	if !ok {
		if len(m.maps) >= maxLabelMaps {
			clear(m.maps)
		}
		labels = r.Labels.Map()
		m.maps[&r.Labels[0]] = labels
	}
	m.last = apiRow(r, labels)
	return &m.last
}
