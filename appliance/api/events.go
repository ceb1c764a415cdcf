package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/triward/triward/appliance/auth"
)

// EventQuery asks for events.
type EventQuery struct {
	Query      string   // in the language of the search box
	Hosts      []string // any of them; empty for all
	Kinds      []string // likewise
	Sources    []string // likewise
	Severity   string   // at least; "" for all
	Start, End int64    // ns since 1970; End is not part of it
	Limit      int
	Cursor     string // of the page before, "" for the first
}

// EventRow is one event.
type EventRow struct {
	ID       string            `json:"id"` // its place in the log, <index>.<ordinal>: the same on every node
	T        string            `json:"t"`  // ns since 1970, as text because JavaScript's numbers are too short
	Kind     string            `json:"kind"`
	Severity string            `json:"severity"`
	Title    string            `json:"title"`
	Message  string            `json:"message"`
	Host     string            `json:"host"`            // "" when it is about none
	Agent    string            `json:"agent,omitempty"` // id
	Source   string            `json:"source"`          // agent, cluster, alerts, api or what a sender says
	Key      string            `json:"key,omitempty"`   // what it happened to; events of one host, kind and key are the same thing again
	Count    int64             `json:"count"`           // how often it happened
	Tags     map[string]string `json:"tags,omitempty"`
}

// EventPage is some of the events, newest first.
type EventPage struct {
	Events []EventRow `json:"events"`
	Next   string     `json:"next"` // cursor of the next page, "" for none
	Stats  LogStats   `json:"stats"`
}

// Events answers questions about events. A query that cannot be read is a *QueryError. All methods end with ctx.
type Events interface {
	Events(ctx context.Context, q EventQuery) (EventPage, error)
	// EventHits counts in steps of step from q.Start, which is a multiple of it.
	EventHits(ctx context.Context, q EventQuery, step time.Duration) (LogHits, error)
	EventFacets(ctx context.Context, q EventQuery, field string, limit int) (Facet, error)
}

// maxNames bounds the values that a filter of events takes.
const maxNames = 50

func eventRoutes() []Route {
	filter := []Param{
		{Name: "query", Kind: paramText, MaxLen: 16 << 10, Doc: "filter, in the language of logs; all when absent"},
		{Name: "start", Kind: paramTime, Default: "now-24h", Doc: "from this time on"},
		{Name: "end", Kind: paramTime, Default: "now+10m", Doc: "before this time"},
		{Name: "host", Kind: paramText, MaxLen: 8 << 10, Doc: "only of these hosts, parted by commas"},
		{Name: "kind", Kind: paramText, MaxLen: 8 << 10, Doc: "only of these kinds, parted by commas: unit_failed,oom_kill"},
		{Name: "source", Kind: paramText, MaxLen: 8 << 10, Doc: "only of these sources, parted by commas: agent,cluster,alerts,api"},
		{
			Name: "severity", Kind: paramChoice, Doc: "at least this severe",
			Choices: []string{"debug", "info", "notice", "warning", "error", "critical"},
		},
	}
	return []Route{
		{
			Method: "GET", Path: "/v1/events", Permission: auth.Read, Summary: "Events, newest first", Fresh: true,
			Params: with(filter, limitParam(200, 5000),
				Param{Name: "cursor", Kind: paramText, MaxLen: 512, Doc: "`next` of the page before"}),
			Answer: EventPage{}, serve: (*API).events,
		},
		{
			Method: "GET", Path: "/v1/events/hits", Permission: auth.Read, Summary: "How many events, by time and severity", Fresh: true,
			Params: with(filter, Param{
				Name: "step", Kind: paramDuration, Min: 1000, Max: 30 * 86400_000,
				Doc: "width of a bar; chosen for about 100 bars when absent",
			}),
			Answer: LogHits{}, serve: (*API).eventsHits,
		},
		{
			Method: "GET", Path: "/v1/events/facets", Permission: auth.Read, Summary: "The most frequent hosts, kinds, sources or other fields of events",
			Fresh: true, Params: with(filter,
				Param{Name: "field", Kind: paramText, Required: true, Doc: "kind, host, source, severity, key or the name of a tag"}, limitParam(20, 1000)),
			Answer: Facet{}, serve: (*API).eventsFacets,
		},
	}
}

// eventQuery reads what the three have in common.
func (q *request) eventQuery() (EventQuery, error) {
	var e EventQuery
	var err error
	if e.Start, e.End, err = q.logRange(); err != nil {
		return e, err
	}
	e.Query, e.Severity = q.v.str("query"), q.v.str("severity")
	for _, f := range []struct {
		name string
		into *[]string
	}{{"host", &e.Hosts}, {"kind", &e.Kinds}, {"source", &e.Sources}} {
		for v := range strings.SplitSeq(q.v.str(f.name), ",") {
			if v = strings.TrimSpace(v); v != "" {
				*f.into = append(*f.into, v)
			}
		}
		if len(*f.into) > maxNames {
			return e, badParam(f.name, "%d values; at most %d", len(*f.into), maxNames)
		}
	}
	return e, nil
}

func (a *API) events(q *request) error {
	e, err := q.eventQuery()
	if err != nil {
		return err
	}
	e.Limit, e.Cursor = int(q.v.int("limit")), q.v.str("cursor")
	page, err := a.cfg.Events.Events(q.ctx(), e)
	if err != nil {
		return err
	}
	if page.Events == nil {
		page.Events = []EventRow{}
	}
	return q.answer(http.StatusOK, page)
}

func (a *API) eventsHits(q *request) error {
	e, err := q.eventQuery()
	if err != nil {
		return err
	}
	step := time.Duration(q.v.int("step"))
	if step == 0 {
		step = barStep(time.Duration(e.End - e.Start))
	}
	if (e.End-e.Start)/int64(step) > maxBars {
		return badParam("step", "%s gives more than %d bars", step, maxBars).WithHint("choose a greater step")
	}
	hits, err := a.cfg.Events.EventHits(q.ctx(), e, step)
	if err != nil {
		return err
	}
	if hits.Series == nil {
		hits.Series = []HitsSeries{}
	}
	return q.answer(http.StatusOK, hits)
}

func (a *API) eventsFacets(q *request) error {
	e, err := q.eventQuery()
	if err != nil {
		return err
	}
	facet, err := a.cfg.Events.EventFacets(q.ctx(), e, q.v.str("field"), int(q.v.int("limit")))
	if err != nil {
		return err
	}
	facet.Field = q.v.str("field")
	if facet.Values == nil {
		facet.Values = []FacetValue{}
	}
	return q.answer(http.StatusOK, facet)
}
