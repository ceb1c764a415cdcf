package appliance

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/query"
)

// Events are structured lines of the stream kind `event`. What an event is called is the label `name` of its stream;
// the stream's other labels say whose it is, the line's fields are the event's tags, of which key, title and count have
// a meaning of their own.
const (
	labelEventName = "name"
	fieldKey       = "key"
	fieldTitle     = "title"
	fieldCount     = "count"
	// sourceAlerts is the source of events about alerts. No rule is evaluated over them: an alert whose event made it
	// fire again would never end.
	sourceAlerts = "alerts"
	maxTitle     = 160 // bytes of a title made from the text
)

// eventFilter is what an EventQuery asks for.
func eventFilter(q *api.EventQuery) (*query.Filter, error) {
	f, err := compile(q.Query)
	if err != nil {
		return nil, err
	}
	all := []*query.Filter{query.KindIs(wire.StreamEvent), f}
	anyOf := func(field string, values []string) {
		if len(values) == 0 {
			return
		}
		var some []*query.Filter
		for _, v := range values {
			some = append(some, query.StoredField(field, query.Equal, v))
		}
		all = append(all, query.Or(some...))
	}
	anyOf(labelEventName, q.Kinds)
	anyOf("source", q.Sources)
	if len(q.Hosts) > 0 {
		var some []*query.Filter
		for _, h := range q.Hosts {
			some = append(some, query.StoredField("host", query.Equal, h), query.And(
				query.Not(query.StoredField("host", query.Exists, "")), query.StoredField("agent_id", query.Equal, h)))
		}
		all = append(all, query.Or(some...))
	}
	if q.Severity != "" {
		var mask uint16
		found := false
		for s := wire.SeverityUnknown; s <= wire.SeverityCritical; s++ {
			if found = found || s.String() == q.Severity; found {
				mask |= 1 << s
			}
		}
		all = append(all, query.SeverityIn(mask))
	}
	return query.And(all...), nil
}

// Events implements api.Events.
func (l *logQueries) Events(ctx context.Context, q api.EventQuery) (api.EventPage, error) {
	f, err := eventFilter(&q)
	if err != nil {
		return api.EventPage{}, err
	}
	a, err := l.store.Search(ctx, logstore.Request{Filter: f, Start: q.Start, End: q.End, Limit: q.Limit, Cursor: q.Cursor})
	if err != nil {
		return api.EventPage{}, logError(err)
	}
	page := api.EventPage{Events: make([]api.EventRow, len(a.Rows)), Next: a.Next, Stats: apiStats(&a.Stats)}
	for i := range a.Rows {
		page.Events[i] = apiEvent(&a.Rows[i])
	}
	return page, nil
}

// EventHits implements api.Events.
func (l *logQueries) EventHits(ctx context.Context, q api.EventQuery, step time.Duration) (api.LogHits, error) {
	f, err := eventFilter(&q)
	if err != nil {
		return api.LogHits{}, err
	}
	h, err := l.store.Hits(ctx, logstore.Request{Filter: f, Start: q.Start, End: q.End}, int64(step))
	if err != nil {
		return api.LogHits{}, logError(err)
	}
	return apiHits(h), nil
}

// EventFacets implements api.Events.
func (l *logQueries) EventFacets(ctx context.Context, q api.EventQuery, field string, limit int) (api.Facet, error) {
	f, err := eventFilter(&q)
	if err != nil {
		return api.Facet{}, err
	}
	if field == "kind" { // of the event; all have the same kind of stream
		field = labelEventName
	}
	found, err := l.store.Facets(ctx, logstore.Request{Filter: f, Start: q.Start, End: q.End, Limit: limit}, field)
	if err != nil {
		return api.Facet{}, logError(err)
	}
	return apiFacet(field, found), nil
}

// apiEvent is an event as it is shown.
func apiEvent(r *logstore.Row) api.EventRow {
	e := api.EventRow{
		ID: r.Position.String(), T: strconv.FormatInt(r.T, 10), Severity: r.Severity.String(), Message: validText(r.Text), Count: 1,
		Kind: r.Labels.Get(labelEventName), Host: r.Labels.Get("host"), Agent: r.Labels.Get("agent"), Source: r.Labels.Get("source"),
	}
	tags := make(map[string]string)
	for _, l := range r.Labels {
		switch l.Name {
		case labelEventName, "host", "agent", "source":
		default:
			tags[l.Name] = l.Value
		}
	}
	for _, f := range r.Fields {
		switch f.Name {
		case fieldKey:
			e.Key = f.Value
			continue
		case fieldTitle:
			e.Title = f.Value
			continue
		case fieldCount:
			if n, err := strconv.ParseInt(f.Value, 10, 64); err == nil && n > 0 {
				e.Count = n
				continue
			}
		case "severity": // the event has it as its own
			if f.Value == e.Severity {
				continue
			}
		}
		tags[f.Name] = f.Value
	}
	if e.Host == "" {
		e.Host = tags["agent_id"]
		delete(tags, "agent_id")
	}
	if e.Title == "" {
		e.Title = titleOf(e.Message)
	}
	if len(tags) > 0 {
		e.Tags = tags
	}
	return e
}

// titleOf is the first line of a text, or the beginning of a long one.
func titleOf(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if len(line) <= maxTitle {
		return line
	}
	end := maxTitle
	for end > 0 && !utf8.RuneStart(line[end]) {
		end--
	}
	return line[:end] + "…"
}
