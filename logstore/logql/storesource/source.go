// Package storesource lets queries in LogQL read the store of log lines. It turns what a query asks for into the store's
// own filters, which decide by index and block what need not be read; what the store cannot decide the engine does.
package storesource

import (
	"context"
	"errors"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
)

// Store is what is needed of a *logstore.Store.
type Store interface {
	Walk(ctx context.Context, req logstore.Request, fn func(*logstore.Row) error) (logstore.Stats, error)
}

// Source reads a store. It is safe for concurrent use as the store is; it fails as the store's Walk does.
type Source struct{ Store Store }

var errEnough = errors.New("enough lines")

// Lines implements logql.Source.
func (s Source) Lines(ctx context.Context, q *logql.Query, fn func(*logql.Line) bool) (logql.SourceStats, error) {
	f, rest, exact := build(q)
	req := logstore.Request{Filter: f, Start: q.Start, End: q.End, Limit: q.Limit, Direction: logstore.OldestFirst}
	if q.Newest {
		req.Direction = logstore.NewestFirst
	}
	if !exact {
		req.Limit = 0 // more lines come than will be taken
	}
	if q.End <= q.Start { // the store takes 0 for no end
		return logql.SourceStats{}, nil
	}
	known := map[*wire.Label]bool{}
	var l logql.Line
	st, err := s.Store.Walk(ctx, req, func(r *logstore.Row) error {
		if len(rest) > 0 && !selects(known, rest, r.Labels) {
			return nil
		}
		l = logql.Line{T: r.T, Labels: r.Labels, Severity: r.Severity, Fields: r.Fields, Text: r.Text}
		if !fn(&l) {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return logql.SourceStats{
		Considered: int64(st.Considered), Skipped: int64(st.Skipped()), Blocks: int64(st.Blocks), Lines: st.Lines, Bytes: st.Bytes,
		Partial: st.Partial, Damaged: st.Damaged, Expired: st.Expired,
	}, err
}

func selects(known map[*wire.Label]bool, sel []*syntax.Matcher, ls wire.Labels) bool {
	if len(ls) == 0 {
		return logql.Selects(sel, ls)
	}
	yes, ok := known[&ls[0]]
	if !ok {
		if yes = logql.Selects(sel, ls); len(known) < 1<<16 {
			known[&ls[0]] = yes
		}
	}
	return yes
}

// Filter returns what the store decides of a query, besides the times, and the matchers on streams that it refuses, because
// it bounds expressions more narrowly than queries do: they are left to whoever reads.
func Filter(q *logql.Query) (f *query.Filter, rest []*syntax.Matcher) {
	f, rest, _ = build(q)
	return f, rest
}

// Exact returns a filter that matches exactly the lines of a query, unchanged. ok is false when there is none: the query parses
// lines, changes them or their labels, or its expressions are too large for the store.
func Exact(x *syntax.Log) (f *query.Filter, ok bool) {
	q, whole := logql.Decidable(x)
	f, _, all := build(q)
	return f, whole && all
}

func build(q *logql.Query) (f *query.Filter, rest []*syntax.Matcher, exact bool) {
	exact = true
	var all []*query.Filter
	for _, m := range q.Selector {
		own, err := matcher(m)
		if err != nil {
			rest, exact = append(rest, m), false
			continue
		}
		all = append(all, query.Label(own))
	}
	for _, m := range q.Fields {
		own, err := matcher(m)
		if err != nil { // the engine decides
			exact = false
			continue
		}
		all = append(all, query.Value(own))
	}
	for _, c := range q.Lines {
		f := lines(c)
		if f == nil {
			exact = false
			continue
		}
		all = append(all, f)
	}
	return query.And(all...), rest, exact
}

func matcher(m *syntax.Matcher) (*query.Matcher, error) {
	op := map[labels.MatchType]query.MatchOp{
		labels.MatchEqual: query.MatchEqual, labels.MatchNotEqual: query.MatchNotEqual,
		labels.MatchRegexp: query.MatchRegex, labels.MatchNotRegexp: query.MatchNotRegex,
	}[m.Type]
	return query.NewMatcher(m.Name, op, m.Value)
}

// lines returns nil for what the store refuses.
func lines(c logql.LineMatch) *query.Filter {
	any := make([]*query.Filter, 0, len(c.Texts))
	for _, s := range c.Texts {
		f := query.Literal(s)
		if c.Op == syntax.LineRegex || c.Op == syntax.LineNotRegex {
			var err error
			if f, err = query.LongRegex(s); err != nil {
				return nil
			}
		}
		any = append(any, f)
	}
	if c.Op.Negative() {
		return query.Not(query.Or(any...))
	}
	return query.Or(any...)
}
