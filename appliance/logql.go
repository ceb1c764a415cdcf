package appliance

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
)

// parseLogQL reads a query for lines in LogQL.
func parseLogQL(text string) (*syntax.Log, error) {
	x, err := syntax.ParseLog(text)
	if bad, ok := errors.AsType[*syntax.Error](err); ok {
		return nil, &api.QueryError{Pos: bad.Pos, Message: bad.Msg}
	}
	return x, err
}

// compileLogQL makes a filter of a query in LogQL that only selects and filters.
func compileLogQL(text string) (*query.Filter, error) {
	x, err := parseLogQL(text)
	if err != nil {
		return nil, err
	}
	f, ok := storesource.Exact(x)
	if !ok {
		return nil, &api.QueryError{
			Pos:     strings.IndexByte(text, '}') + 1,
			Message: "here only a selector, filters on the line and filters on labels that lines come with can be answered; leave out the stages that parse or change lines",
		}
	}
	return f, nil
}

// numbersError refuses a query for numbers where lines are asked for: taken for words of the search box it would find nothing, or
// by chance something.
func numbersError(text string) *api.QueryError {
	return &api.QueryError{
		Pos:     len(text) - len(strings.TrimLeft(text, " \t\r\n")),
		Message: "here begins a query for numbers in LogQL, and only lines can be asked for here",
		Hint: "numbers are answered by the page Logs, by `triward logs query` and by /loki/api/v1/query and query_range, and a rule of them stands below logql; " +
			"ask here with its selector and its filters alone, such as {host=\"web-1\"} |= \"error\", or put words that are meant as they stand in quotes",
	}
}

// staged returns a query in LogQL whose lines must go through a pipeline, nil for one that compile reads or refuses.
func staged(text string) (*syntax.Log, error) {
	if len(text) > maxLogQuery || !syntax.ForLines(text) {
		return nil, nil
	}
	x, err := parseLogQL(text)
	if err != nil {
		return nil, err
	}
	if _, exact := storesource.Exact(x); exact {
		return nil, nil
	}
	return x, nil
}

var errEnough = errors.New("enough lines")

// walkStaged calls fn for each line that passes the pipeline of a query, with the labels and the text that it makes.
func (l *logQueries) walkStaged(ctx context.Context, x *syntax.Log, req logstore.Request, fn func(r *logstore.Row, labels wire.Labels, text string) error) (logstore.Stats, error) {
	m, err := logql.Tail(x, true, func() bool { return ctx.Err() != nil })
	if err != nil {
		return logstore.Stats{}, problem.Wrap(http.StatusBadRequest, err)
	}
	q := m.Query()
	req.Filter, _ = storesource.Filter(&q)
	st, err := l.store.Walk(ctx, req, func(r *logstore.Row) error {
		labels, text, ok := m.Match(&logql.Line{T: r.T, Labels: r.Labels, Severity: r.Severity, Fields: r.Fields, Text: r.Text})
		if err := ctx.Err(); err != nil {
			return err
		}
		if !ok {
			return nil
		}
		return fn(r, labels, text)
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return st, logError(err)
}

const maxPageBytes = 32 << 20 // of text and labels

// queryStaged is Query with a pipeline. Rows hold the labels and the text that it makes.
func (l *logQueries) queryStaged(ctx context.Context, x *syntax.Log, q *api.LogQuery) (api.LogPage, error) {
	req := request(nil, q)
	if err := req.Check(); err != nil {
		return api.LogPage{}, logError(err)
	}
	limit := req.Limit
	if limit == 0 || limit > logstore.MaxRows {
		limit = logstore.MaxRows
	}
	req.Limit = 0
	page, bytes, last := api.LogPage{Rows: []api.LogRow{}}, 0, ""
	st, err := l.walkStaged(ctx, x, req, func(r *logstore.Row, labels wire.Labels, text string) error {
		if len(page.Rows) == limit || bytes > maxPageBytes {
			page.Next = last
			return errEnough
		}
		page.Rows = append(page.Rows, apiRow(stagedRow(r, labels, text), labels.Map()))
		for _, l := range labels {
			bytes += len(l.Name) + len(l.Value) + 32
		}
		bytes += len(text) + 128
		last = logstore.CursorOf(r)
		return nil
	})
	page.Stats = apiStats(&st)
	return page, err
}

// exportStaged gives the lines of an export that pass a pipeline, with the labels and the text that it makes. It calls begin
// once the pipeline is known to be right.
func (l *logQueries) exportStaged(ctx context.Context, x *syntax.Log, req logstore.Request, begin func() func(*api.LogRow) error) (logstore.Stats, error) {
	limit := req.Limit
	req.Limit = 0 // of lines that pass
	if _, err := logql.Tail(x, true, nil); err != nil {
		return logstore.Stats{}, problem.Wrap(http.StatusBadRequest, err)
	}
	line, n := begin(), 0
	return l.walkStaged(ctx, x, req, func(r *logstore.Row, labels wire.Labels, text string) error {
		if limit > 0 && n == limit {
			return errEnough
		}
		n++
		row := apiRow(stagedRow(r, labels, text), labels.Map())
		return line(&row)
	})
}

// hitsStaged is Hits with a pipeline.
func (l *logQueries) hitsStaged(ctx context.Context, x *syntax.Log, start, end int64, step time.Duration) (api.LogHits, error) {
	if step <= 0 || end <= start || (end-start)/int64(step) >= logstore.MaxBuckets {
		return api.LogHits{}, problem.New(http.StatusBadRequest, "hits need start < end and a step that makes at most 11000 intervals")
	}
	h := logstore.Hits{T0: start - ((start%int64(step))+int64(step))%int64(step), Step: int64(step)}
	n := int((end-1-h.T0)/h.Step) + 1
	st, err := l.walkStaged(ctx, x, logstore.Request{Start: start, End: end, Direction: logstore.AnyOrder}, func(r *logstore.Row, _ wire.Labels, _ string) error {
		if h.Counts[r.Severity] == nil {
			h.Counts[r.Severity] = make([]int64, n)
		}
		h.Counts[r.Severity][(r.T-h.T0)/h.Step]++
		h.Total++
		return nil
	})
	h.Stats = st
	return apiHits(&h), err
}
