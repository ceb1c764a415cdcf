package testcluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/ui"
)

// worstExpression takes seconds on each of worstLine.
const worstExpression = `(x?x?x?x?){200}[yz]`

var worstLine = strings.Repeat("x", 256<<10)

// asking is a kind of question about lines.
type asking struct {
	name  string
	route string // of api.Routes
	path  string // when it has names in it, else that of the route
	q     url.Values
	body  string // of a POST
	live  string // the subscription on the live socket, when that is the route
	lane  logstore.Lane
	// slow says that it looks at each line by an expression, and may be left while it does.
	slow bool
	// brief says that it waits for so short a time of its own that nobody can leave it before.
	brief bool
}

// treeFile is a file of the tree of the archive, which need not be there.
const treeFile = "/logs/worst/2026-01-01/file/x"

// askings are all the kinds of questions about lines, with lines of file from start on.
func askings(start time.Time) []asking {
	at := func(d time.Duration) string { return fmt.Sprint(start.Add(d).UnixNano()) }
	own := func(more ...string) url.Values {
		q := url.Values{"query": {"/" + worstExpression + "/"}, "start": {at(-time.Minute)}, "end": {at(time.Hour)}}
		for i := 0; i < len(more); i += 2 {
			q.Set(more[i], more[i+1])
		}
		return q
	}
	loki := func(query string, more ...string) url.Values {
		return own(append(more, "query", query, "step", "60s")...)
	}
	const selector = `{file="/var/log/test.log"}`
	filtered := selector + " |~ `" + worstExpression + "`"
	staged := selector + " | regexp `(?P<n>" + worstExpression + ")`"
	counted := "sum by (host) (count_over_time(" + filtered + " [1m]))"
	preview, _ := json.Marshal(map[string]any{
		"name": "x", "hours": 1, "body": "logql: [{name: g, rules: [{alert: A, expr: 'count_over_time(" + strings.ReplaceAll(filtered, "'", "''") + " [1m]) > 0'}]}]",
	})
	const people, export = logstore.LanePeople, logstore.LaneExport
	all := []asking{
		{name: "lines", route: "GET /v1/logs/query", q: own(), slow: true},
		{name: "lines of stages", route: "GET /v1/logs/query", q: own("query", staged), slow: true},
		{name: "hits", route: "GET /v1/logs/hits", q: own("step", "1h"), slow: true},
		{name: "hits of stages", route: "GET /v1/logs/hits", q: own("step", "1h", "query", staged), slow: true},
		{name: "hits by field", route: "GET /v1/logs/hits", q: own("step", "1h", "field", "host"), slow: true},
		{name: "top values", route: "GET /v1/logs/facets", q: own("field", "host"), slow: true},
		{name: "patterns", route: "GET /v1/logs/patterns", q: own("step", "1h"), slow: true},
		{name: "context", route: "GET /v1/logs/context", q: url.Values{"pos": {"1.0"}, "t": {at(0)}}},
		{name: "labels", route: "GET /v1/logs/labels"},
		{name: "values", route: "GET /v1/logs/labels/{name}/values", path: "/v1/logs/labels/host/values"},
		{name: "series", route: "GET /v1/logs/series"},
		{name: "suggested words", route: "GET /v1/logs/suggest", q: url.Values{"query": {"xx"}, "at": {"2"}}, brief: true},
		{name: "suggested values", route: "GET /v1/logs/suggest", q: url.Values{"query": {"host:w"}, "at": {"6"}}, brief: true},
		{name: "export", route: "GET /v1/logs/export", q: own(), lane: export, slow: true},
		{name: "export of stages", route: "GET /v1/logs/export", q: own("query", staged), lane: export, slow: true},
		{name: "export as CSV", route: "GET /v1/logs/export", q: own("format", "csv"), lane: export, slow: true},
		{name: "export as text", route: "GET /v1/logs/export", q: own("format", "text"), lane: export, slow: true},
		{name: "tree", route: "GET /v1/logs/tree"},
		{name: "file of the tree", route: "GET /v1/logs/cat", q: url.Values{"path": {treeFile}}, lane: export},
		{name: "events", route: "GET /v1/events", q: own()},
		{name: "event hits", route: "GET /v1/events/hits", q: own("step", "1h")},
		{name: "event values", route: "GET /v1/events/facets", q: own("field", "kind")},
		{name: "preview of a selector", route: "GET /v1/retention/selectors/preview", q: url.Values{"kind": {"logs"}, "select": {selector}, "age": {"1d"}}},
		{name: "preview of rules", route: "POST /v1/rules/preview", body: string(preview), slow: true},
		{name: "live lines", route: "GET /v1/live", live: "logs.tail", slow: true},
		{name: "live events", route: "GET /v1/live", live: "events"},
		{name: "loki tail", route: "GET /loki/api/v1/tail", q: url.Values{"query": {filtered}, "start": {at(-time.Minute)}}, slow: true},
		{name: "loki range of stages", route: "GET /loki/api/v1/query_range", q: loki("count_over_time(" + staged + " [1m])"), slow: true},
		{
			name: "loki range of label filters", route: "GET /loki/api/v1/query_range", slow: true,
			q: loki("count_over_time(" + selector + " | regexp `(?P<n>x+)` | n =~ `.*" + worstExpression + "` [1m])"),
		},
		{name: "loki range of numbers", route: "GET /loki/api/v1/query_range", q: loki(counted), slow: true},
	}
	for _, k := range []asking{
		{name: "loki lines", route: "query_range", q: loki(filtered), slow: true},
		{name: "loki numbers", route: "query", q: loki(strings.ReplaceAll(counted, "1m", "1h"), "time", at(time.Minute)), slow: true},
		{name: "loki labels", route: "labels"},
		{name: "loki values", route: "label/{name}/values", path: "label/host/values"},
		{name: "loki series", route: "series", q: url.Values{"match[]": {selector}}},
		{name: "loki stats", route: "index/stats", q: loki(selector)},
		{name: "loki volume", route: "index/volume", q: loki(selector)},
		{name: "loki volume_range", route: "index/volume_range", q: loki(selector)},
		{name: "loki patterns", route: "patterns", q: loki(selector)},
		{name: "loki detected labels", route: "detected_labels", q: loki(selector)},
		{name: "loki detected fields", route: "detected_fields", q: loki(filtered), slow: true},
		{name: "loki detected values", route: "detected_field/{name}/values", path: "detected_field/n/values", q: loki(filtered), slow: true},
	} {
		if k.path != "" {
			k.path = "/loki/api/v1/" + k.path
		}
		get, post := k, k
		get.route, post.route = "GET /loki/api/v1/"+k.route, "POST /loki/api/v1/"+k.route
		post.name += " by a form"
		post.slow = false // it is the same from there on
		all = append(all, get, post)
	}
	return all
}

// ask asks and reads the answer to its end. What comes over a socket has ended when the first of it came.
func (k *asking) ask(ctx context.Context, c *Cluster, n *Node) error {
	_, path, _ := strings.Cut(k.route, " ")
	if k.path != "" {
		path = k.path
	}
	switch {
	case k.live != "" || strings.HasSuffix(path, "/tail"):
		return k.socket(ctx, c, n, path)
	case strings.HasPrefix(k.route, "POST"):
		body, kind := k.body, "application/json"
		if body == "" {
			body, kind = k.q.Encode(), "application/x-www-form-urlencoded"
		}
		return c.askAndWait(ctx, http.MethodPost, n.URL()+path, kind, body)
	}
	return c.askAndWait(ctx, http.MethodGet, n.URL()+path+"?"+k.q.Encode(), "", "")
}

func (c *Cluster) askAndWait(ctx context.Context, method, address, kind, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %.300s", resp.Status, said)
}

func (k *asking) socket(ctx context.Context, c *Cluster, n *Node, path string) error {
	dialer := websocket.Dialer{NetDialTLSContext: func(_ context.Context, network, address string) (net.Conn, error) {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: c.TLS.RootCAs, MinVersion: tls.VersionTLS13}}).DialContext(ctx, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = conn.Close() }) // the library goes on to read when ctx ends
		}
		return conn, err
	}}
	if k.live != "" {
		dialer.Subprotocols = []string{ui.Subprotocol}
	}
	ws, resp, err := dialer.DialContext(ctx, "wss"+strings.TrimPrefix(n.URL(), "https")+path+"?"+k.q.Encode(), http.Header{"Authorization": {"Bearer " + c.Token}})
	if resp != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	defer ws.Close()
	if k.live == "" {
		return errors.New("the tail has begun")
	}
	query := "/" + worstExpression + "/"
	if err := ws.WriteJSON(map[string]any{"op": "sub", "id": "s", "kind": k.live, "params": map[string]any{"query": query, "backlog": 10}}); err != nil {
		return errors.Join(err, ctx.Err())
	}
	for {
		_, said, err := ws.ReadMessage()
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		if !bytes.Contains(said, []byte(`"op":"welcome"`)) && bytes.Contains(said, []byte(`"id":"s"`)) {
			return fmt.Errorf("the socket says %.300s", said)
		}
	}
}

// full takes all places of people and of exports, and with waiting those to wait in as well.
func full(t *testing.T, s *logstore.Store, waiting bool) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var leaves []func()
	done := make(chan struct{}, 1000)
	waiters := 0
	for lane, n := range map[logstore.Lane][2]int{logstore.LanePeople: {1, 64}, logstore.LaneExport: {3, 4}} {
		asker := func(i int) context.Context {
			return logstore.AskedBy(logstore.InLane(ctx, lane), logstore.Asker{Key: fmt.Sprint(i)})
		}
		for i := range n[0] {
			_, leave, err := s.Admit(asker(i), 1)
			must(t, err)
			leaves = append(leaves, leave)
		}
		if !waiting {
			continue
		}
		for i := range n[1] {
			waiters++
			go func() {
				_, leave, err := s.Admit(asker(1000+i), 1)
				if err == nil {
					leave()
				}
				done <- struct{}{}
			}()
		}
		Until(t, "the queue to be full", func() error {
			if l := s.QueryLoad(lane); l.Running != n[0] || l.Waiting != n[1] {
				return fmt.Errorf("%+v", l)
			}
			return nil
		})
	}
	return func() {
		cancel()
		for range waiters {
			<-done
		}
		for _, leave := range leaves {
			leave()
		}
	}
}

// filled are the values of parameters with which a route gets as far as the store.
func filled(r *api.Route) url.Values {
	q := url.Values{}
	for _, p := range r.Params {
		switch p.Name {
		case "query", "match[]":
			if strings.HasPrefix(r.Path, "/loki/") {
				q.Set(p.Name, `{file="x"}`)
			}
		case "field":
			q.Set(p.Name, "host")
		case "pos":
			q.Set(p.Name, "1.0")
		case "t":
			q.Set(p.Name, "now")
		case "select":
			q.Set(p.Name, `{file="x"}`)
		case "age":
			q.Set(p.Name, "1d")
		case "kind":
			if p.Required {
				q.Set(p.Name, "logs")
			}
		case "limit":
			q.Set(p.Name, "10")
		}
	}
	switch r.Path {
	case "/loki/api/v1/query":
		q.Set("query", `count_over_time({file="x"}[1m])`)
	case "/v1/logs/cat":
		q.Set("path", treeFile)
	case "/v1/logs/suggest":
		q.Set("query", "xx")
		q.Set("at", "2")
	}
	return q
}

// A client that goes away frees the place of its question, whatever it asked and wherever the lines are: while it waits for a place, and
// while it is at the first of lines that it would be at for minutes. Every route that asks the store is among them.
func TestClientsThatGoFreeTheirSearches(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 1, func(cfg *appliance.Config) {
		cfg.Limits.QueryTimeout = appliance.Duration(time.Hour)
		cfg.Limits.LogQueries = 1
	})
	n := c.Nodes[0]
	s := n.App.Logs()
	a := c.NewAgent(t, "worst")
	start := time.Now().Add(-10 * time.Minute)
	_, err := a.Send(n, a.Lines(time.Now().Add(-49*time.Hour).UnixNano(), "of the day before yesterday"))
	must(t, err)
	_, err = a.Send(n, a.Lines(start.UnixNano(), "one that a rule counts"))
	must(t, err)
	kinds := append(askings(start), asking{name: "series of an alert", route: "GET /v1/alert/{id}/series", path: "/v1/alert/" + firing(t, c) + "/series"})
	t.Run("every route that asks is listed", func(t *testing.T) { everyRouteIsListed(t, c, kinds) })

	leaves := func(k *asking, what string, begun, ended func() error) {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		answer := make(chan error, 1)
		go func() { answer <- k.ask(ctx, c, n) }()
		Until(t, what+" to begin", func() error {
			select {
			case err := <-answer:
				t.Fatalf("%s has ended: %v", what, err)
			default:
			}
			return begun()
		})
		leave()
		if err := <-answer; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
		Until(t, what+" to end", ended)
	}
	load := func(lane logstore.Lane, running, waiting int) func() error {
		return func() error {
			if l := s.QueryLoad(lane); l.Running != running || l.Waiting != waiting {
				return fmt.Errorf("%d searches run and %d wait, want %d and %d", l.Running, l.Waiting, running, waiting)
			}
			return nil
		}
	}
	places := map[logstore.Lane]int{logstore.LanePeople: 1, logstore.LaneExport: 3}
	end := full(t, s, false)
	for i := range kinds {
		if k := &kinds[i]; !k.brief {
			leaves(k, k.name+" that waits for a place", load(k.lane, places[k.lane], 1), load(k.lane, places[k.lane], 0))
		}
	}
	end()
	must(t, c.Call(http.MethodDelete, n, "/v1/rules/files/lines", nil, nil)) // it searches too
	for i := range 60 {
		_, err := a.Send(n, a.Lines(start.UnixNano()+int64(i)*1e6, worstLine))
		must(t, err)
	}
	for _, where := range []string{"as they came", "in blocks"} {
		for i := range kinds {
			if k := &kinds[i]; k.slow {
				leaves(k, k.name+" of lines "+where, load(k.lane, 1, 0), func() error { return errors.Join(load(k.lane, 0, 0)(), nobodySearches()) })
			}
		}
		must(t, s.Work(t.Context(), true))
	}
}

// firing has a rule count lines, and returns the id of its alert.
func firing(t *testing.T, c *Cluster) (id string) {
	t.Helper()
	must(t, c.put(c.Nodes[0], "/v1/rules/files/lines", map[string]string{
		"body": `logql: [{name: g, interval: 1s, rules: [{alert: A, expr: 'count_over_time({file="/var/log/test.log"}[1h]) > 0'}]}]`,
	}))
	Until(t, "the alert", func() error {
		var answer struct{ Alerts []struct{ ID string } }
		if err := c.Get(c.Nodes[0], "/v1/alerts?state=firing", &answer); err != nil {
			return err
		}
		if len(answer.Alerts) != 1 {
			return fmt.Errorf("%+v", answer)
		}
		id = answer.Alerts[0].ID
		return nil
	})
	return id
}

// nobodySearches fails while a goroutine is at lines.
func nobodySearches() error {
	stacks := make([]byte, 8<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if bytes.Contains(stack, []byte("logstore.(*scan)")) {
			return fmt.Errorf("a search goes on:\n%s", stack)
		}
	}
	return nil
}

// everyRouteIsListed asks all that can be asked while the store refuses: the routes of kinds are refused, and no others.
func everyRouteIsListed(t *testing.T, c *Cluster, kinds []asking) {
	n := c.Nodes[0]
	s := n.App.Logs()
	defer full(t, s, true)()
	refused := func() int64 {
		return s.QueryLoad(logstore.LanePeople).Refused + s.QueryLoad(logstore.LaneExport).Refused
	}
	listed := map[string]bool{}
	paths := map[string]string{}
	for i := range kinds {
		k := &kinds[i]
		before := refused()
		paths[k.route] = k.path
		if listed[k.route] = true; k.live != "" {
			continue // it is told within the socket, which goes on
		}
		if err := k.ask(t.Context(), c, n); refused() == before {
			t.Errorf("%s does not ask the store: %v", k.name, err)
		}
	}
	names := strings.NewReplacer("{name}", "host", "{id}", "x")
	asks := map[string]bool{}
	routes := api.Routes()
	for i := range routes {
		r := &routes[i]
		route := r.Method + " " + r.Path
		if r.Method != http.MethodGet || r.Status == http.StatusSwitchingProtocols {
			continue // changes go through the log
		}
		before := refused()
		ctx, cancel := context.WithTimeout(t.Context(), Patience)
		path := cmp.Or(paths[route], names.Replace(r.Path))
		err := c.askAndWait(ctx, r.Method, n.URL()+path+"?"+filled(r).Encode(), "", "")
		cancel()
		if refused() != before {
			asks[route] = true
			if !listed[route] {
				t.Errorf("%s asks the store and is no kind of question of this test: %v", route, err)
			}
		}
	}
	for _, route := range slices.Sorted(maps.Keys(listed)) {
		if strings.HasPrefix(route, "GET ") && !asks[route] && route != "GET /v1/live" && route != "GET /loki/api/v1/tail" {
			t.Errorf("%s: its parameters are not known here, so another route like it may be overlooked", route)
		}
	}
}
