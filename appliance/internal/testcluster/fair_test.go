package testcluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/logstore"
)

// Whoever asks a little is answered while a dashboard asks much that takes minutes: its token has all places but one, and waits and is
// refused for itself, by its name.
func TestOneAskerLeavesAPlaceToOthers(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 1, func(cfg *appliance.Config) { cfg.Limits.QueryTimeout = appliance.Duration(time.Hour) })
	n := c.Nodes[0]
	s := n.App.Logs()
	a := c.NewAgent(t, "worst")
	start := time.Now().Add(-10 * time.Minute)
	for i := range 20 {
		_, err := a.Send(n, a.Lines(start.UnixNano()+int64(i)*1e6, worstLine))
		must(t, err)
	}
	_, err := a.Send(n, a.Lines(time.Now().UnixNano(), "walrus"))
	must(t, err)
	var made struct{ Token string }
	must(t, c.Post(n, "/v1/tokens/api", map[string]string{"name": "panels", "role": "viewer"}, &made))
	dashboard := *c
	dashboard.Token = made.Token

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	heavy := asking{route: "GET /v1/logs/query", q: url.Values{"query": {"/" + worstExpression + "/"}, "end": {fmt.Sprint(start.Add(time.Minute).UnixNano())}, "start": {"0"}, "timeout": {"5m"}}}
	answers := make(chan error, 100)
	for range 67 {
		go func() { answers <- heavy.ask(ctx, &dashboard, n) }()
	}
	want := func(running, waiting int) {
		t.Helper()
		Until(t, fmt.Sprintf("%d to run and %d to wait", running, waiting), func() error {
			if l := s.QueryLoad(logstore.LanePeople); l.Running != running || l.Waiting != waiting {
				return fmt.Errorf("%+v", l)
			}
			return nil
		})
	}
	want(3, 64)
	if err := heavy.ask(ctx, &dashboard, n); err == nil || !strings.HasPrefix(err.Error(), "429") || !strings.Contains(err.Error(), "3 and 65 of them for admin (token panels") {
		t.Errorf("one too many: %v", err)
	}
	for _, light := range []asking{
		{name: "lines", route: "GET /v1/logs/query", q: url.Values{"query": {"walrus"}, "start": {"now-1m"}}},
		{name: "loki", route: "GET /loki/api/v1/query_range", q: url.Values{"query": {`{file="/var/log/test.log"} |= "walrus"`}, "since": {"1m"}}},
		{name: "tail", route: "GET /v1/live", live: "events"},
	} {
		switch err := light.ask(t.Context(), c, n); {
		case light.live != "" && strings.Contains(err.Error(), `"op":"snap"`):
		case light.live == "" && strings.HasPrefix(err.Error(), "200") && strings.Contains(err.Error(), "walrus"):
		default:
			t.Errorf("%s of somebody else: %v", light.name, err)
		}
	}
	live := asking{route: "GET /v1/live", live: "events"}
	if err := live.ask(t.Context(), &dashboard, n); !strings.Contains(err.Error(), "3 and 65 of them for admin (token panels") {
		t.Errorf("a live subscription of the same token: %v", err)
	}
	want(3, 64)
	leave()
	for range 67 {
		if err := <-answers; !errors.Is(err, context.Canceled) {
			t.Errorf("one that waited: %v", err)
		}
	}
	want(0, 0)
}
