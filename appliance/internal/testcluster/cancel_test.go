package testcluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/logstore"
)

// worstExpression takes seconds on each line of worstLines.
const worstExpression = `(x?x?x?x?){200}[yz]`

// A client that goes away frees the place of its question, whatever it asked and wherever the lines are: the question is at the first of
// lines that it would be at for minutes.
func TestClientsThatGoFreeTheirSearches(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 1, func(cfg *appliance.Config) { cfg.Limits.QueryTimeout = appliance.Duration(time.Hour) })
	n := c.Nodes[0]
	a := c.NewAgent(t, "worst")
	start := time.Now().Add(-10 * time.Minute)
	long := strings.Repeat("x", 256<<10)
	for i := range 60 {
		_, err := a.Send(n, a.Lines(start.UnixNano()+int64(i)*1e6, long))
		must(t, err)
	}
	at := func(d time.Duration) string { return fmt.Sprint(start.Add(d).UnixNano()) }
	own := func(more ...string) url.Values {
		q := url.Values{"query": {"/" + worstExpression + "/"}, "start": {at(-time.Minute)}, "end": {at(time.Hour)}}
		for i := 0; i < len(more); i += 2 {
			q.Set(more[i], more[i+1])
		}
		return q
	}
	loki := func(query string) url.Values {
		return url.Values{"query": {query}, "start": {at(-time.Minute)}, "end": {at(10_999*time.Second - time.Minute)}, "step": {"1s"}}
	}
	const selector = `{file="/var/log/test.log"}`
	filtered := selector + " |~ `" + worstExpression + "`"
	kinds := []struct {
		name, path string
		q          url.Values
		lane       logstore.Lane
	}{
		{"lines", "/v1/logs/query", own(), logstore.LanePeople},
		{"hits", "/v1/logs/hits", own("step", "1h"), logstore.LanePeople},
		{"hits by field", "/v1/logs/hits", own("step", "1h", "field", "host"), logstore.LanePeople},
		{"top", "/v1/logs/facets", own("field", "host"), logstore.LanePeople},
		{"patterns", "/v1/logs/patterns", own("step", "1h"), logstore.LanePeople},
		{"export", "/v1/logs/export", own(), logstore.LaneExport},
		{"stages", "/v1/logs/query", own("query", selector+" | regexp `(?P<n>"+worstExpression+")`"), logstore.LanePeople},
		{"export of stages", "/v1/logs/export", own("query", selector+" | regexp `(?P<n>"+worstExpression+")`"), logstore.LaneExport},
		{"loki lines", "/loki/api/v1/query_range", loki(filtered), logstore.LanePeople},
		{"loki range of 11,000 steps", "/loki/api/v1/query_range", loki("sum by (host) (count_over_time(" + filtered + " [1m]))"), logstore.LanePeople},
		{"loki range of stages", "/loki/api/v1/query_range", loki("count_over_time(" + selector + " | regexp `(?P<n>" + worstExpression + ")` [1m])"), logstore.LanePeople},
		{"loki range of label filters", "/loki/api/v1/query_range", loki("count_over_time(" + selector + " | regexp `(?P<n>x+)` | n =~ `.*" + worstExpression + "` [1m])"), logstore.LanePeople},
		{"loki tail", "/loki/api/v1/tail", url.Values{"query": {filtered}, "start": {at(-time.Minute)}}, logstore.LanePeople},
	}
	running := func(in logstore.Lane, want int) func() error {
		return func() error {
			if l := n.App.Logs().QueryLoad(in); l.Running != want {
				return fmt.Errorf("%d searches run, %d are to", l.Running, want)
			}
			return nil
		}
	}
	for _, where := range []string{"as they came", "in blocks"} {
		for _, k := range kinds {
			what := k.name + " of lines " + where
			ctx, leave := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.askAndWait(ctx, n, k.path+"?"+k.q.Encode()) }()
			Until(t, what+" to begin", func() error {
				select {
				case err := <-ended:
					t.Fatalf("%s has ended: %v", what, err)
				default:
				}
				return running(k.lane, 1)()
			})
			leave()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", what, err)
			}
			Until(t, what+" to end", running(k.lane, 0))
		}
		must(t, n.App.Logs().Work(t.Context(), true))
	}
}

// askAndWait sends a request and reads the answer to its end, over a websocket where the path is that of a tail.
func (c *Cluster) askAndWait(ctx context.Context, n *Node, path string) error {
	if strings.Contains(path, "/tail?") {
		dialer := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: c.TLS.RootCAs, MinVersion: tls.VersionTLS13}}
		ws, resp, err := dialer.DialContext(ctx, "wss"+strings.TrimPrefix(n.URL(), "https")+path, http.Header{"Authorization": {"Bearer " + c.Token}})
		if resp != nil {
			defer resp.Body.Close()
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		defer ws.Close()
		return errors.New("the tail has begun")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL()+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %s", resp.Status, said)
}
