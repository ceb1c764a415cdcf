package api

import (
	"context"
	"net/http"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/retention"
)

// Selectors are the rules of retention for single streams.
type Selectors interface {
	// SetSelector makes a rule, or changes the age of the one with its kind and selector. One that picks everything is
	// refused unless that is said to be meant.
	SetSelector(ctx context.Context, r retention.SelectorRule, everything bool, by auth.AuditRecord) error
	// RemoveSelector takes a rule away. What it removed does not come back.
	RemoveSelector(ctx context.Context, kind, sel string, by auth.AuditRecord) error
	// PreviewSelector counts what a rule would remove now, on the node that is asked.
	PreviewSelector(ctx context.Context, r retention.SelectorRule) (SelectorPreview, error)
}

// RetentionSelector is a rule for single streams and what it has removed. Times are milliseconds since 1970.
type RetentionSelector struct {
	retention.SelectorRule        // AgeMs is 0 when there is no such rule any more
	By                     string `json:"by,omitempty"`
	At                     int64  `json:"at,omitempty"` // when it was set
	// Before is the end of the newest day that it has cut, 0: none. Lines and Days are what it has removed of days that
	// retention has not removed as a whole since.
	Before int64  `json:"before"`
	Lines  uint64 `json:"lines"`
	Days   int    `json:"days"`
	CutAt  int64  `json:"cut_at"` // of the last cut
}

// SelectorPreview is what a rule would remove.
type SelectorPreview struct {
	Select string `json:"select"` // as it is kept
	// Everything says that the selector picks all streams, or all lines there are of the kind before Before.
	Everything bool  `json:"everything"`
	Before     int64 `json:"before"`  // ms; lines of the days before go
	Oldest     int64 `json:"oldest"`  // ms; the first of those days that has some, 0: none
	Days       int   `json:"days"`    // that have some
	Streams    int   `json:"streams"` // that have some, at most of one day
	Lines      int64 `json:"lines"`
	Total      int64 `json:"total"` // lines of the kind on the days before Before
	Bytes      int64 `json:"bytes"` // of lines, before they are compressed, as far as they are in blocks
}

type selectorBody struct {
	retention.SelectorRule
	// Everything must be true for a selector that picks all streams.
	Everything bool `json:"everything,omitempty"`
}

const maxSelectorParam = 2048

func selectorRoutes() []Route {
	kind := Param{Name: "kind", Kind: paramChoice, Choices: []string{"logs", "events"}, Default: "logs", Doc: "what the streams are of"}
	sel := Param{Name: "select", Required: true, MaxLen: maxSelectorParam, Doc: `the selector, such as {unit="nginx"}`}
	return []Route{
		{
			Method: "PUT", Path: "/v1/retention/selectors", Permission: auth.Administer, Summary: "Set how long lines of some streams are kept",
			Body: selectorBody{}, MaxBody: 8 << 10, Status: http.StatusNoContent, serve: (*API).setSelector,
		},
		{
			Method: "DELETE", Path: "/v1/retention/selectors", Permission: auth.Administer, Summary: "Take the rule for some streams away",
			Params: []Param{kind, sel}, Status: http.StatusNoContent, serve: (*API).removeSelector,
		},
		{
			Method: "GET", Path: "/v1/retention/selectors/preview", Permission: auth.Read, Fresh: true,
			Summary: "Count what a rule for some streams would remove", Answer: SelectorPreview{}, serve: (*API).previewSelector,
			Params: []Param{kind, sel, {Name: "age", Kind: paramDuration, Required: true, Min: retention.DayMs, Max: 3650 * retention.DayMs, Doc: "how long lines would be kept, such as 7d"}},
		},
	}
}

func (a *API) setSelector(q *request) error {
	var b selectorBody
	if err := q.body(&b); err != nil {
		return err
	}
	return q.done(a.cfg.Retention.SetSelector(q.ctx(), b.SelectorRule, b.Everything, q.audit()))
}

func (a *API) removeSelector(q *request) error {
	return q.done(a.cfg.Retention.RemoveSelector(q.ctx(), q.v.str("kind"), q.v.str("select"), q.audit()))
}

func (a *API) previewSelector(q *request) error {
	p, err := a.cfg.Retention.PreviewSelector(q.ctx(), retention.SelectorRule{
		Kind: q.v.str("kind"), Select: q.v.str("select"), AgeMs: q.v.int("age") / 1e6,
	})
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, p)
}
