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
	store *logstore.Store
	now   func() int64 // log time, ms
	back  time.Duration
	// patience is how long it looks for the first lines, or for those it missed; what is not found by then is not waited for.
	patience time.Duration
	only     *query.Filter // of all lines; nil for all
	// stages says that queries may have stages which parse or change lines.
	stages bool
	encode func(t int64, pos string, sev wire.Severity, text []byte, labels wire.Labels, fields []wire.Label) json.RawMessage
}

// lineTails are the tails of lines.
func lineTails(store *logstore.Store, now func() int64) *tails {
	return &tails{
		store: store, now: now, back: tailBack, patience: tailPatience, stages: true,
		encode: func(t int64, pos string, sev wire.Severity, text []byte, labels wire.Labels, fields []wire.Label) json.RawMessage {
			return encodeRow(apiRow(t, pos, sev, text, labels, fields))
		},
	}
}

// eventTails are the live streams of events.
func eventTails(store *logstore.Store, now func() int64) *tails {
	return &tails{
		store: store, now: now, back: eventsBack, patience: tailPatience, only: query.KindIs(wire.StreamEvent),
		encode: func(t int64, pos string, sev wire.Severity, text []byte, labels wire.Labels, fields []wire.Label) json.RawMessage {
			return encodeRow(apiEvent(t, pos, sev, text, labels, fields))
		},
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
		return nil, nil, &ui.QueryError{Pos: q.Pos, Message: q.Message}
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
	return m.tails.encode(l.T, l.Pos.String(), l.Severity, l.Text, l.Labels, l.Fields), true
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
	return m.tails.encode(l.T, l.Pos.String(), l.Severity, []byte(text), labels, nil), true
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
	return ui.Row{
		Pos: ui.Position{Index: r.Index, Ord: r.Ord},
		Row: t.encode(r.T, r.Position.String(), r.Severity, r.Text, r.Labels, r.Fields),
	}
}

// Newest implements ui.TailSource: newest by time, which for a tail is what people mean.
func (t *tails) Newest(ctx context.Context, text string, n int) ([]ui.Row, error) {
	f, x, err := t.compile(text)
	if err != nil || n <= 0 {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	var rows []ui.Row
	if x != nil {
		rows, err = t.newestStaged(within, x, n)
	} else {
		var a *logstore.Answer
		if a, err = t.store.Search(within, logstore.Request{Filter: f, Start: t.since(), End: math.MaxInt64, Limit: n}); err == nil {
			for i := range a.Rows {
				rows = append(rows, t.row(&a.Rows[i]))
			}
		}
	}
	if err != nil && (within.Err() == nil || ctx.Err() != nil) {
		return nil, err
	}
	slices.SortFunc(rows, func(x, y ui.Row) int {
		return cmp.Or(cmp.Compare(x.Pos.Index, y.Pos.Index), cmp.Compare(x.Pos.Ord, y.Pos.Ord))
	})
	return rows, nil
}

// newestStaged is Newest with a pipeline; with an error it returns what it found.
func (t *tails) newestStaged(ctx context.Context, x *syntax.Log, n int) (rows []ui.Row, err error) {
	l := &logQueries{t.store}
	bytes := 0
	_, err = l.walkStaged(ctx, x, logstore.Request{Start: t.since(), End: math.MaxInt64}, func(r *logstore.Row, labels wire.Labels, text string) error {
		row := t.encode(r.T, r.Position.String(), r.Severity, []byte(text), labels, nil)
		rows = append(rows, ui.Row{Pos: ui.Position{Index: r.Index, Ord: r.Ord}, Row: row})
		if bytes += len(row); len(rows) == n || bytes > maxPageBytes {
			return errEnough
		}
		return nil
	})
	return rows, err
}

// ReadAfter implements ui.TailSource.
func (t *tails) ReadAfter(ctx context.Context, text string, after ui.Position, limit int) ([]ui.Row, bool, error) {
	f, x, err := t.compile(text)
	if err != nil {
		return nil, false, err
	}
	within, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	rows, complete, err := t.readAfter(within, f, x, after, limit)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		return nil, false, nil // too far to be looked for
	}
	return rows, complete, err
}

func (t *tails) readAfter(ctx context.Context, f *query.Filter, x *syntax.Log, after ui.Position, limit int) (rows []ui.Row, complete bool, err error) {
	from := logstore.Position{Index: after.Index, Ord: after.Ord}
	if x == nil {
		found, err := t.store.ReadAfter(ctx, from, f, t.since(), limit)
		if err != nil {
			return nil, false, err
		}
		for i := range found.Rows {
			rows = append(rows, t.row(&found.Rows[i]))
		}
		return rows, !found.More && !found.Stats.Partial, nil
	}
	m, err := t.stageMatcher(x)
	if err != nil {
		return nil, false, err
	}
	q := m.lines.Query()
	f, _ = storesource.Filter(&q)
	for range resumeLooks {
		found, err := t.store.ReadAfter(ctx, from, f, t.since(), logstore.MaxRows)
		if err != nil {
			return nil, false, err
		}
		for i := range found.Rows {
			r := &found.Rows[i]
			pos := ui.Position{Index: r.Index, Ord: r.Ord}
			row, ok := m.Match(ctx, &ui.Line{Pos: pos, Kind: r.Kind, Labels: r.Labels, LogLine: wire.LogLine{T: r.T, Severity: r.Severity, Text: r.Text, Fields: r.Fields}})
			switch {
			case ctx.Err() != nil:
				return nil, false, ctx.Err()
			case !ok:
				continue
			case len(rows) == limit:
				return rows, false, nil
			}
			rows = append(rows, ui.Row{Pos: pos, Row: row})
		}
		if !found.More || len(found.Rows) == 0 || found.Stats.Partial {
			return rows, !found.More && !found.Stats.Partial, nil
		}
		from = found.Rows[len(found.Rows)-1].Position
	}
	return rows, false, nil
}
