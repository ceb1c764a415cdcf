package appliance

import (
	"context"
	"time"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/query"
)

const (
	// namesBeside is how many names of fields are suggested where a word is typed.
	namesBeside = 4
	nameBudget  = 100 * time.Millisecond
)

// Suggest implements api.LogSuggester.
func (l *logQueries) Suggest(ctx context.Context, q api.LogSuggestQuery) (out api.LogSuggestions, err error) {
	spot, ok := query.SpotAt(q.Query, q.At)
	if !ok {
		return out, nil
	}
	ask := func(req logstore.SuggestRequest, item func(*logstore.Suggestion) (api.LogSuggestion, bool)) error {
		req.Start, req.End = q.Start, q.End
		found, err := l.store.Suggest(ctx, req)
		if err != nil {
			return logError(err)
		}
		for i := range found.Items {
			s := &found.Items[i]
			it, ok := item(s)
			if it.Text, it.Lines, it.Open, it.Lead = s.Text, s.Lines, s.Open, s.Lead; ok && len(out.Items) < q.Limit {
				out.Items = append(out.Items, it)
			}
		}
		out.Cut = out.Cut || found.Cut
		out.Partial = out.Partial || found.Stats.Partial
		out.Lines += found.Stats.Lines
		out.Ms += float64(found.Stats.Duration.Microseconds()) / 1000
		return nil
	}
	if spot.Field != "" {
		return out, ask(logstore.SuggestRequest{Kind: logstore.SuggestValue, Field: spot.Field, Prefix: spot.Prefix, Limit: q.Limit},
			func(s *logstore.Suggestion) (api.LogSuggestion, bool) {
				return api.LogSuggestion{Kind: "value", Insert: query.QuoteValue(s.Text), From: spot.From, To: spot.To}, true
			})
	}
	names := 0
	if spot.Named {
		names = min(q.Limit/3, namesBeside)
		if spot.Prefix == "" {
			names = q.Limit
		}
	}
	if spot.Prefix != "" && q.Limit > names {
		err = ask(logstore.SuggestRequest{Prefix: spot.Prefix, Limit: q.Limit - names}, func(s *logstore.Suggestion) (api.LogSuggestion, bool) {
			it := api.LogSuggestion{Kind: "word", Insert: s.Text, From: spot.From, To: spot.To}
			if s.Open {
				it.Insert += "*"
			}
			return it, !s.Open || !spot.Quoted // in quotes a star is none
		})
	}
	if names > 0 && err == nil {
		err = ask(logstore.SuggestRequest{Kind: logstore.SuggestName, Prefix: spot.Name, Limit: names, Budget: nameBudget},
			func(s *logstore.Suggestion) (api.LogSuggestion, bool) {
				return api.LogSuggestion{Kind: "name", Insert: s.Text + ":", From: spot.NameFrom, To: spot.To}, true
			})
	}
	return out, err
}
