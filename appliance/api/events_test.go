package api

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/auth"
)

// eventParts stands for the events of the node.
type eventParts struct {
	*parts
	last  EventQuery
	step  time.Duration
	field string
}

func (p *eventParts) Events(_ context.Context, q EventQuery) (EventPage, error) {
	p.last = q
	return EventPage{}, p.logErr
}

func (p *eventParts) EventHits(_ context.Context, q EventQuery, step time.Duration) (LogHits, error) {
	p.last, p.step = q, step
	return LogHits{}, p.logErr
}

func (p *eventParts) EventFacets(_ context.Context, q EventQuery, field string, _ int) (Facet, error) {
	p.last, p.field = q, field
	return Facet{}, p.logErr
}

func TestEventsAreAskedAsWanted(t *testing.T) {
	p := &eventParts{}
	s := newStand(t, func(c *Config) { p.parts, c.Events = c.Logs.(*parts), p })
	viewer := s.tokens[auth.RoleViewer]
	w := s.do(call{method: "GET", path: "/v1/events?query=x&host=a,%20b&kind=oom_kill&source=agent&severity=error&start=1700000000000&end=1700003600000&limit=7&cursor=q", token: viewer})
	want := EventQuery{
		Query: "x", Hosts: []string{"a", "b"}, Kinds: []string{"oom_kill"}, Sources: []string{"agent"}, Severity: "error",
		Start: 1700000000_000_000_000, End: 1700003600_000_000_000, Limit: 7, Cursor: "q",
	}
	if w.Code != 200 || !reflect.DeepEqual(p.last, want) || !strings.HasPrefix(w.Body.String(), `{"events":[],"next":""`) {
		t.Fatalf("%d %+v %s", w.Code, p.last, w.Body)
	}
	if w := s.do(call{method: "GET", path: "/v1/events/hits?start=1700000000001&end=1700003600001", token: viewer}); w.Code != 200 || p.step != 30*time.Second || p.last.Start != 1700000000_001_000_000 {
		t.Fatal(w.Code, p.step, p.last.Start)
	}
	if w := s.do(call{method: "GET", path: "/v1/events/facets?field=kind", token: viewer}); w.Code != 200 || p.field != "kind" {
		t.Fatal(w.Code, w.Body)
	}
	for _, bad := range []string{
		"/v1/events?severity=worse", "/v1/events?host=" + strings.Repeat("a,", maxNames+1), "/v1/events?start=now&end=now-1h", "/v1/events/facets",
		"/v1/events/hits?step=1s&start=now-7d", "/v1/events?limit=100000", "/v1/events?nonsense=1",
	} {
		s.problem(bad, s.do(call{method: "GET", path: bad, token: viewer}), 400)
	}
	s.problem("ingest", s.do(call{method: "GET", path: "/v1/events", token: s.tokens[auth.RoleIngest]}), 403)
}
