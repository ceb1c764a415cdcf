package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
	"github.com/triward/triward/ui"
)

// Bounds of what a tail looks for when it begins.
const (
	tailBack     = day             // how far back in time it looks for its first lines and for what it missed
	tailPatience = 5 * time.Second // for either
	resumeLooks  = 4               // pages of lines that a pipeline judges to find what was missed
)

// tails answers what live tails ask of the log store. It implements ui.TailSource.
type tails struct {
	store  *logstore.Store
	others *others      // nil on a node that answers another one
	now    func() int64 // log time, ms
	back   time.Duration
	// patience is how long it looks for the first lines, or for those it missed; what is not found by then is not waited for.
	patience time.Duration
	only     *query.Filter // of all lines; nil for all
	// stages says that queries may have stages which parse or change lines.
	stages bool
	encode func(r *logstore.Row) json.RawMessage
}

// lineTails are the tails of lines.
func lineTails(store *logstore.Store, o *others, now func() int64) *tails {
	return &tails{
		store: store, others: o, now: now, back: tailBack, patience: tailPatience, stages: true,
		encode: func(r *logstore.Row) json.RawMessage { return encodeRow(apiRow(r, r.Labels.Map())) },
	}
}

// eventTails are the live streams of events.
func eventTails(store *logstore.Store, o *others, now func() int64) *tails {
	return &tails{
		store: store, others: o, now: now, back: eventsBack, patience: tailPatience, only: query.KindIs(wire.StreamEvent),
		encode: func(r *logstore.Row) json.RawMessage { return encodeRow(apiEvent(r)) },
	}
}

func encodeRow(r any) json.RawMessage {
	body, err := json.Marshal(r)
	if err != nil { // texts and maps of texts always encode
		return json.RawMessage("null")
	}
	return body
}

// compile reads a query: x is nil when f answers it. Errors are the hub's.
func (t *tails) compile(text string) (f *query.Filter, x *syntax.Log, err error) {
	if t.stages {
		x, err = staged(text)
	}
	if err == nil && x == nil {
		f, err = compile(text)
	}
	if q, ok := errors.AsType[*api.QueryError](err); ok {
		bad := &ui.QueryError{Pos: q.Pos, Message: q.Message}
		if q.Hint != "" {
			bad.Message += ": " + q.Hint
		}
		return nil, nil, bad
	}
	if err == nil && t.only != nil {
		f = query.And(t.only, f)
	}
	return f, x, err
}

// filterMatcher judges lines by a filter.
type filterMatcher struct {
	filter *query.Filter
	tails  *tails
}

// Match implements ui.Matcher.
func (m filterMatcher) Match(ctx context.Context, l *ui.Line) (json.RawMessage, bool) {
	if !logstore.Matches(ctx, m.filter, l.Kind, l.Labels, &l.LogLine) {
		return nil, false
	}
	return m.tails.encode(rowOf(l)), true
}

// stageMatcher puts lines through the pipeline of a query.
type stageMatcher struct {
	lines *logql.Matcher
	ended func() bool // of the call to Match
	tails *tails
}

func (t *tails) stageMatcher(x *syntax.Log) (*stageMatcher, error) {
	m := &stageMatcher{tails: t}
	var err error
	m.lines, err = logql.Tail(x, true, func() bool { return m.ended() })
	return m, err
}

// Match implements ui.Matcher. The row has the labels and the text that the pipeline makes.
func (m *stageMatcher) Match(ctx context.Context, l *ui.Line) (json.RawMessage, bool) {
	m.ended = func() bool { return ctx.Err() != nil }
	labels, text, ok := m.lines.Match(&logql.Line{T: l.T, Labels: l.Labels, Severity: l.Severity, Fields: l.Fields, Text: l.Text})
	if !ok {
		return nil, false
	}
	return m.tails.encode(stagedRow(rowOf(l), labels, text)), true
}

// rowOf is a line that comes, as the store has it.
func rowOf(l *ui.Line) *logstore.Row {
	return &logstore.Row{
		T: l.T, Position: logstore.Position{Index: l.Pos.Index, Ord: l.Pos.Ord}, Kind: l.Kind, Severity: l.Severity,
		Labels: l.Labels, Fields: l.Fields, Text: l.Text,
	}
}

// Compile implements ui.TailSource.
func (t *tails) Compile(text string) (ui.Matcher, error) {
	f, x, err := t.compile(text)
	switch {
	case err != nil:
		return nil, err
	case x == nil:
		return filterMatcher{f, t}, nil
	}
	m, err := t.stageMatcher(x)
	if err != nil {
		return nil, &ui.QueryError{Pos: -1, Message: err.Error()}
	}
	return m, nil
}

// since is the time before which a tail does not look, in nanoseconds.
func (t *tails) since() int64 { return t.now()*1e6 - t.back.Nanoseconds() }

func (t *tails) row(r *logstore.Row) ui.Row {
	return ui.Row{Pos: ui.Position{Index: r.Index, Ord: r.Ord}, Row: t.encode(r)}
}

// tailRows is what a tail finds in the store.
type tailRows struct {
	Rows  []ui.Row     `json:"rows"` // in ascending order of position
	More  bool         `json:"more"` // there is more behind the last row, or more than was looked at
	Late  bool         `json:"late"` // the time was over before all was looked at
	Stats api.LogStats `json:"stats"`
}

func statsOfTail(r *tailRows) *api.LogStats { return &r.Stats }

// newest finds the newest n lines from since on: newest by time, which for a tail is what people mean.
func (t *tails) newest(ctx context.Context, text string, n int, since int64) (out tailRows, err error) {
	f, x, err := t.compile(text)
	if err != nil {
		return out, err
	}
	within, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	if x != nil {
		err = t.newestStaged(within, x, n, since, &out)
	} else {
		var a *logstore.Answer
		if a, err = t.store.Search(within, logstore.Request{Filter: f, Start: since, End: math.MaxInt64, Limit: n}); err == nil {
			out.Stats = apiStats(&a.Stats)
			for i := range a.Rows {
				out.Rows = append(out.Rows, t.row(&a.Rows[i]))
			}
		}
	}
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		out.Late, err = true, nil
	}
	slices.SortFunc(out.Rows, func(x, y ui.Row) int {
		return cmp.Or(cmp.Compare(x.Pos.Index, y.Pos.Index), cmp.Compare(x.Pos.Ord, y.Pos.Ord))
	})
	return out, err
}

// newestStaged is newest with a pipeline; with an error out holds what it found.
func (t *tails) newestStaged(ctx context.Context, x *syntax.Log, n int, since int64, out *tailRows) error {
	l := &logQueries{t.store}
	bytes := 0
	st, err := l.walkStaged(ctx, x, logstore.Request{Start: since, End: math.MaxInt64}, func(r *logstore.Row, labels wire.Labels, text string) error {
		row := t.row(stagedRow(r, labels, text))
		out.Rows = append(out.Rows, row)
		if bytes += len(row.Row); len(out.Rows) == n || bytes > maxPageBytes {
			return errEnough
		}
		return nil
	})
	out.Stats = apiStats(&st)
	return err
}

// behind finds up to limit lines from since on that came into the log behind a position.
func (t *tails) behind(ctx context.Context, text string, after ui.Position, limit int, since int64) (out tailRows, err error) {
	f, x, err := t.compile(text)
	if err != nil {
		return out, err
	}
	within, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	out, err = t.readBehind(within, f, x, after, limit, since)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		return tailRows{Late: true}, nil // too far to be looked for
	}
	return out, err
}

func (t *tails) readBehind(ctx context.Context, f *query.Filter, x *syntax.Log, after ui.Position, limit int, since int64) (out tailRows, err error) {
	from := logstore.Position{Index: after.Index, Ord: after.Ord}
	if x == nil {
		found, err := t.store.ReadAfter(ctx, from, f, since, limit)
		if err != nil {
			return out, err
		}
		for i := range found.Rows {
			out.Rows = append(out.Rows, t.row(&found.Rows[i]))
		}
		out.More, out.Stats = found.More, apiStats(&found.Stats)
		return out, nil
	}
	m, err := t.stageMatcher(x)
	if err != nil {
		return out, err
	}
	q := m.lines.Query()
	f, _ = storesource.Filter(&q)
	for range resumeLooks {
		found, err := t.store.ReadAfter(ctx, from, f, since, logstore.MaxRows)
		if err != nil {
			return tailRows{}, err
		}
		st := apiStats(&found.Stats)
		out.Stats.Add(&st)
		for i := range found.Rows {
			r := &found.Rows[i]
			pos := ui.Position{Index: r.Index, Ord: r.Ord}
			row, ok := m.Match(ctx, &ui.Line{Pos: pos, Kind: r.Kind, Labels: r.Labels, LogLine: wire.LogLine{T: r.T, Severity: r.Severity, Text: r.Text, Fields: r.Fields}})
			switch {
			case ctx.Err() != nil:
				return tailRows{}, ctx.Err()
			case !ok:
				continue
			case len(out.Rows) == limit:
				out.More = true
				return out, nil
			}
			out.Rows = append(out.Rows, ui.Row{Pos: pos, Row: row})
		}
		if out.More = found.More && len(found.Rows) > 0; !out.More || found.Stats.Partial {
			return out, nil
		}
		from = found.Rows[len(found.Rows)-1].Position
	}
	return out, nil
}

// Newest implements ui.TailSource. What this node has of the lines only in part is asked of another one.
func (t *tails) Newest(ctx context.Context, text string, n int) ([]ui.Row, ui.Lack, error) {
	if n <= 0 {
		return nil, ui.LackNothing, nil
	}
	since := t.since()
	found, err := t.newest(ctx, text, n, since)
	if err != nil {
		return nil, ui.LackNothing, err
	}
	found = t.whole(ctx, peerQuestion{Op: opTailNewest, Ask: api.LogQuery{Query: text, Start: since, Limit: n}}, found)
	switch {
	case found.Stats.Partial:
		return found.Rows, ui.LackDamaged, nil
	case found.Late:
		return found.Rows, ui.LackTime, nil
	}
	return found.Rows, ui.LackNothing, nil
}

// ReadAfter implements ui.TailSource. What this node has of the lines only in part is asked of another one.
func (t *tails) ReadAfter(ctx context.Context, text string, after ui.Position, limit int) ([]ui.Row, bool, error) {
	since := t.since()
	found, err := t.behind(ctx, text, after, limit, since)
	if err != nil {
		return nil, false, err
	}
	found = t.whole(ctx, peerQuestion{Op: opTailBehind, Ask: api.LogQuery{Query: text, Start: since, Limit: limit}, Pos: after.String()}, found)
	return found.Rows, !found.More && !found.Late && !found.Stats.Partial, nil
}

// whole returns own, or what another node has when this one lacks something: a tail waits for it as long as for its own.
func (t *tails) whole(ctx context.Context, q peerQuestion, own tailRows) tailRows {
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	q.Event = t.only != nil
	return whole(ctx, t.others, q, own, statsOfTail)
}
