package api

import (
	"testing"
	"time"

	"github.com/triward/triward/appliance/auth"
)

func TestPatternsAreAskedFor(t *testing.T) {
	s := newStand(t, nil)
	viewer := s.tokens[auth.RoleViewer]
	const end = int64(1_700_000_000_000_000_000)
	ask := func(params string) LogPatternsQuery {
		t.Helper()
		if w := s.do(call{method: "GET", path: "/v1/logs/patterns?start=1699990000000000000&end=1700000000000000000" + params, token: viewer}); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return s.parts.lastPatterns
	}
	if q := ask("&query=x&limit=7&step=1m&since=1699980000000000000"); q.Query != "x" || q.Limit != 7 || q.Step != time.Minute || q.Since != 1_699_980_000_000_000_000 || q.OnlyNew || q.End != end {
		t.Errorf("%+v", q)
	}
	if q := ask(""); q.Since != 0 || q.Step != 0 || q.Limit != 100 {
		t.Errorf("%+v", q)
	}
	if q := ask("&new=true"); q.Since != end-24*int64(time.Hour) || !q.OnlyNew {
		t.Errorf("%+v", q)
	}
}
