package api

import (
	"context"
	"net/http"
	"time"

	"github.com/triward/triward/appliance/auth"
)

// LogPatternsQuery asks for the patterns of lines.
type LogPatternsQuery struct {
	Query      string
	Start, End int64 // ns since 1970; End is not part of it
	Limit      int
	Step       time.Duration // counts of intervals of so long; 0 for none
	Since      int64         // ns; 0 when it is not asked which patterns are new
	OnlyNew    bool
}

// LogPattern is what lines with one pattern have in common.
type LogPattern struct {
	Pattern    string           `json:"pattern"`         // <*> for what differs
	Query      string           `json:"query"`           // condition of the search box that finds exactly these lines
	LogQL      string           `json:"logql,omitempty"` // filter of LogQL that finds these lines, and sometimes others
	Lines      int64            `json:"lines"`
	Share      float64          `json:"share"` // of all lines that match, 0 to 1
	First      string           `json:"first"` // ns since 1970, of the span that was asked for
	Last       string           `json:"last"`
	Pos        string           `json:"pos"` // of the last line; last and pos are the id of a line to look at
	Severities map[string]int64 `json:"severities"`
	Counts     []int64          `json:"counts,omitempty"` // lines by step
	New        bool             `json:"new,omitempty"`    // no line before `since` has it
}

// LogPatterns are patterns, most frequent first.
type LogPatterns struct {
	T0       int64        `json:"t0,omitempty"`   // ms, of counts
	Step     int64        `json:"step,omitempty"` // ms
	Lines    int64        `json:"lines"`          // that match
	Patterns []LogPattern `json:"patterns"`
	Other    int64        `json:"other"`              // lines of patterns that are not here
	Distinct int          `json:"distinct,omitempty"` // how many patterns there are; absent when too many to be told
	// Since is the time (ms) since when patterns are told to be new, New how many are. KeptFrom is the time (ms) from which on
	// lines are kept: of what was before nothing is known.
	Since    int64 `json:"since,omitempty"`
	New      int   `json:"new"`
	KeptFrom int64 `json:"kept_from,omitempty"`
	// Capped says that a pattern which is not here may be more frequent than one which is; the counts are exact all the same.
	Capped bool `json:"capped,omitempty"`
	// Partial says that something damaged on this node was left out: ask another one.
	Partial bool     `json:"partial,omitempty"`
	Stats   LogStats `json:"stats"`
}

// LogPatterner finds the patterns of lines.
type LogPatterner interface {
	// Patterns ends with ctx; a query that cannot be read is a *QueryError.
	Patterns(ctx context.Context, q LogPatternsQuery) (LogPatterns, error)
}

func patternRoutes() []Route {
	return []Route{{
		Method: "GET", Path: "/v1/logs/patterns", Permission: auth.Read, Fresh: true,
		Summary: "The patterns of lines, most frequent first, and which of them are new",
		Params: with(logRange, limitParam(100, 1000),
			Param{Name: "step", Kind: paramDuration, Min: 1000, Max: 30 * 86400_000, Doc: "also count by intervals of this width"},
			Param{Name: "since", Kind: paramTime, Doc: "say which patterns no line before this time has, within what is kept"},
			Param{Name: "new", Kind: paramChoice, Choices: []string{"true", "false"}, Default: "false", Doc: "only new ones; since is 24 hours before the end when absent"}),
		Answer: LogPatterns{}, serve: (*API).logsPatterns,
	}}
}

func (a *API) logsPatterns(q *request) error {
	start, end, err := q.logRange()
	if err != nil {
		return err
	}
	ask := LogPatternsQuery{
		Query: q.v.str("query"), Start: start, End: end, Limit: int(q.v.int("limit")), Step: time.Duration(q.v.int("step")),
		Since: q.v.int("since"), OnlyNew: q.v.str("new") == "true",
	}
	if ask.Step > 0 && (end-start)/int64(ask.Step) > maxBars {
		return badParam("step", "%s gives more than %d intervals", ask.Step, maxBars).WithHint("choose a greater step")
	}
	if ask.OnlyNew && ask.Since == 0 {
		ask.Since = max(1, end-24*int64(time.Hour))
	}
	if ask.Since > end {
		return badParam("since", "is after the end")
	}
	found, err := q.logs.Patterns(q.ctx(), ask)
	if err != nil {
		return err
	}
	if found.Patterns == nil {
		found.Patterns = []LogPattern{}
	}
	return q.answer(http.StatusOK, found)
}
