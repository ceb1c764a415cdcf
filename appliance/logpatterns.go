package appliance

import (
	"context"
	"strconv"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/query"
)

// Patterns implements api.LogPatterner.
func (l *logQueries) Patterns(ctx context.Context, q api.LogPatternsQuery) (api.LogPatterns, error) {
	f, err := compile(q.Query)
	if err != nil {
		return api.LogPatterns{}, err
	}
	found, err := l.store.Patterns(ctx, logstore.PatternsRequest{
		Filter: f, Start: q.Start, End: q.End, Limit: q.Limit, Step: int64(q.Step), Since: q.Since, OnlyNew: q.OnlyNew,
	})
	if err != nil {
		return api.LogPatterns{}, logError(err)
	}
	out := api.LogPatterns{
		T0: found.T0 / 1e6, Step: found.Step / 1e6, Lines: found.Lines, Other: found.Lines, Distinct: found.Distinct,
		Since: q.Since / 1e6, New: found.New, KeptFrom: found.Horizon / 1e6, Capped: found.Capped,
		Partial: found.Stats.Partial, Stats: apiStats(&found.Stats),
	}
	for i := range found.Patterns {
		p := &found.Patterns[i]
		out.Other -= p.Lines
		row := api.LogPattern{
			Pattern: p.Text, Query: query.PatternQuery(p.Text), LogQL: query.PatternLogQL(p.Text), Lines: p.Lines,
			Share: float64(p.Lines) / float64(found.Lines), First: strconv.FormatInt(p.First, 10), Last: strconv.FormatInt(p.Last, 10),
			Pos: p.Position.String(), Severities: map[string]int64{}, Counts: p.Counts, New: p.New,
		}
		for severity, n := range p.Severities {
			if n > 0 {
				row.Severities[wire.Severity(severity).String()] = n
			}
		}
		out.Patterns = append(out.Patterns, row)
	}
	return out, nil
}
