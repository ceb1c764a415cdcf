package lokiapi

import (
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
)

// maxPatternSteps bounds the steps that lines are counted by for each of very many patterns.
const maxPatternSteps = 11_000

// pattern is one of the answer of patterns: the times, in seconds, are where steps begin.
type pattern struct {
	Pattern string     `json:"pattern"`
	Samples [][2]int64 `json:"samples"`
}

// patterns answers patterns: the most frequent patterns of lines, and how many lines each has by step.
func (a *API) patterns(q *request) error {
	start, end, err := q.span(lookback)
	if err != nil {
		return err
	}
	end = max(end, start+1)
	e, err := q.expr()
	if err != nil {
		return err
	}
	x, is := e.(*syntax.Log)
	if !is {
		return badf("a query for lines is wanted, such as {host=\"web-1\"}")
	}
	f, exact := storesource.Exact(x)
	if !exact {
		return badf("patterns can be told of a selector, filters on the line and filters on labels that lines come with: leave out the stages that parse or change lines")
	}
	step, err := q.step(start, end)
	if err != nil {
		return err
	}
	if (end-start)/int64(step) >= maxPatternSteps {
		return badf("parameter step: %s makes more than %d steps; take a longer one", step, maxPatternSteps)
	}
	found, err := a.opts.Store.Patterns(q.ctx(), logstore.PatternsRequest{
		Filter: f, Start: start, End: end, Limit: logstore.MaxPatterns, Step: int64(step),
	})
	if err != nil || a.elsewhere(q, found.Stats.Partial) {
		return err
	}
	out := []pattern{}
	for i := range found.Patterns {
		p := pattern{Pattern: query.PatternSlots(found.Patterns[i].Text), Samples: [][2]int64{}}
		for k, n := range found.Patterns[i].Counts {
			if n > 0 {
				p.Samples = append(p.Samples, [2]int64{(found.T0 + int64(k)*found.Step) / 1e9, n})
			}
		}
		out = append(out, p)
	}
	return q.data(out, partial(&found.Stats)...)
}
