package api

import (
	"context"
	"net/http"

	"github.com/triward/triward/appliance/auth"
)

// LogSuggestQuery is a query that somebody types, and where.
type LogSuggestQuery struct {
	Query      string
	At         int   // byte of Query behind which the next character will stand
	Start, End int64 // ns
	Limit      int
}

// LogSuggestion is a text to put in the place of the bytes From to To of the query.
type LogSuggestion struct {
	Kind   string `json:"kind"` // word, name or value
	Text   string `json:"text"`
	Insert string `json:"insert"` // Text as the language needs it there
	From   int    `json:"from"`
	To     int    `json:"to"`
	// Lines is in how many lines it was seen; there may be more.
	Lines int64 `json:"lines"`
	// Open says that words begin with Text; Insert ends with a star then.
	Open bool `json:"open,omitempty"`
	// Lead says that there was no time to look for a line with it.
	Lead bool `json:"lead,omitempty"`
}

// LogSuggestions are what may be typed next, the most frequent first.
type LogSuggestions struct {
	Items   []LogSuggestion `json:"items"`
	Cut     bool            `json:"cut,omitempty"`     // the time was over before all lines were looked at
	Partial bool            `json:"partial,omitempty"` // something damaged on this node was left out
	Lines   int64           `json:"scanned_lines"`
	Ms      float64         `json:"ms"`
}

// LogSuggester completes queries of lines while they are typed.
type LogSuggester interface {
	Suggest(ctx context.Context, q LogSuggestQuery) (LogSuggestions, error)
}

func suggestRoutes() []Route {
	return []Route{{
		Method: "GET", Path: "/v1/logs/suggest", Permission: auth.Read,
		Summary: "What goes on from a query of lines that is being typed: words, names of fields, values",
		Params: []Param{
			{Name: "query", Kind: paramText, MaxLen: 16 << 10, Doc: "the query so far; it need not be right"},
			{Name: "at", Kind: paramInt, Min: 0, Max: 16 << 10, Doc: "byte of the query where is typed; its end when absent"},
			{Name: "start", Kind: paramTime, Default: "now-1h", Doc: "of lines from this time on"},
			{Name: "end", Kind: paramTime, Default: "now", Doc: "of lines before this time"},
			limitParam(10, 50),
		},
		Fresh: true, Answer: LogSuggestions{}, serve: (*API).logsSuggest,
	}}
}

func (a *API) logsSuggest(q *request) error {
	start, end, err := q.logRange()
	if err != nil {
		return err
	}
	text := q.v.str("query")
	at := len(text)
	if q.v.has("at") {
		at = int(q.v.int("at"))
	}
	if at > len(text) {
		return badParam("at", "is behind the end of the query, which has %d bytes", len(text))
	}
	out, err := a.cfg.Logs.Suggest(q.ctx(), LogSuggestQuery{Query: text, At: at, Start: start, End: end, Limit: int(q.v.int("limit"))})
	if err != nil {
		return err
	}
	if out.Items == nil {
		out.Items = []LogSuggestion{}
	}
	return q.answer(http.StatusOK, out)
}
