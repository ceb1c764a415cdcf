package testcluster

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
)

// notified is a webhook that remembers what it was told.
type notified struct {
	mu   sync.Mutex
	keys map[string]int
	told []string // alertname/status, one for each message and alert
}

func (n *notified) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var body struct {
		Alerts []struct {
			Status string            `json:"status"`
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		return // held back by the sender
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	key := r.Header.Get("X-Triward-Dedup-Key")
	if n.keys[key]++; n.keys[key] > 1 {
		return
	}
	for _, a := range body.Alerts {
		n.told = append(n.told, a.Labels["alertname"]+"/"+a.Status)
	}
}

func (n *notified) count(what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := 0
	for _, t := range n.told {
		if t == what {
			c++
		}
	}
	return c
}

func (n *notified) all() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprint(n.told, n.keys)
}

const clusterRules = `
groups:
  - name: metrics
    interval: 1s
    rules:
      - {alert: Hot, expr: temperature > 30, for: 5s, labels: {severity: critical}, annotations: {summary: "{{ $labels.host }} has {{ $value }}"}}
triward:
  - name: lines
    interval: 1s
    rules:
      - {alert: Pattern, logs: {query: "flux capacitor", window: 10s, by: host, above: 1}}
      - {alert: Oom, event: {query: "killed", by: host, hold: 30s}, annotations: {summary: "{{ $labels.event }}"}}
`

// A metric, a pattern in lines and an event each lead to one message and one on recovery, while the leader changes in
// the middle of its duration and of the messages; every node shows the same.
func TestAlertsOverThreeNodes(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	sink := &notified{keys: make(map[string]int)}
	srv := httptest.NewServer(sink)
	defer srv.Close()
	must(t, c.put(c.Nodes[1], "/v1/rules/files/own", map[string]string{"body": clusterRules}))
	must(t, c.put(c.Nodes[2], "/v1/routes", map[string]string{"body": `
route: {receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 2s}
receivers: [{name: hook, webhook_configs: [{url: "` + srv.URL + `"}]}]
`}))
	a := c.NewAgent(t, "web1", map[string]string{"__name__": "temperature"})
	follower := func() *Node {
		l := c.Leader(t)
		for _, n := range c.Nodes {
			if n != l && n.App != nil {
				return n
			}
		}
		return nil
	}
	measure := func(v float64) {
		b := a.Metrics(wire.Scrape{T: time.Now().UnixMilli(), IDs: a.Series, Values: []float64{v}})
		Until(t, "a sample is taken", func() error { _, err := a.Send(follower(), b); return err })
	}
	state := func(n *Node, name string) string {
		var answer struct {
			Alerts []struct{ Name, State, ID string } `json:"alerts"`
		}
		if err := c.Get(n, "/v1/alerts?state=pending,firing,acknowledged,resolved&consistency=linearizable", &answer); err != nil {
			return err.Error()
		}
		for _, x := range answer.Alerts {
			if x.Name == name {
				return x.State
			}
		}
		return "inactive"
	}
	becomes := func(name, want string, again func()) {
		t.Helper()
		Until(t, name+" is "+want, func() error {
			if again != nil {
				again()
			}
			if got := state(follower(), name); got != want {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
	hot := func() { measure(35) }
	becomes("Hot", "pending", hot)
	old := c.Leader(t)
	old.Stop(t)
	becomes("Hot", "firing", hot)
	old.Start(t)
	old.WaitReady(t)

	now := time.Now().UnixNano()
	lines := a.Lines(now, "flux capacitor 1", "flux capacitor 2", "nothing")
	event := wire.LogStream{Kind: wire.StreamEvent, Labels: wire.Labels{{Name: "source", Value: "test"}}, Lines: []wire.LogLine{
		{T: now, Severity: wire.SeverityError, Text: []byte("java was killed")},
	}}
	events := a.batch(wire.LaneEvents, wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{event}}))
	Until(t, "lines are taken", func() error { _, err := a.Send(follower(), lines, events); return err })
	becomes("Pattern", "firing", hot)
	becomes("Oom", "firing", hot)
	old = c.Leader(t)
	old.Stop(t)
	becomes("Pattern", "resolved", hot)
	becomes("Hot", "resolved", func() { measure(20) })
	old.Start(t)
	old.WaitReady(t)
	becomes("Oom", "resolved", nil)
	wanted := []string{"Hot/firing", "Hot/resolved", "Pattern/firing", "Pattern/resolved", "Oom/firing", "Oom/resolved"}
	Until(t, "all is told", func() error {
		for _, w := range wanted {
			if n := sink.count(w); n != 1 {
				return fmt.Errorf("%s was told %d times: %s", w, n, sink.all())
			}
		}
		return nil
	})
	for _, n := range c.Nodes {
		var rules struct {
			Data struct {
				Groups []struct {
					Name, File string
					Rules      []struct{ Name, State, Health string }
				}
			}
		}
		must(t, c.Get(n, "/api/v1/rules?type=alert&consistency=linearizable&rule_name[]=Hot", &rules))
		if g := rules.Data.Groups; len(g) != 1 || g[0].File != "own" || g[0].Rules[0].Health != "ok" || g[0].Rules[0].State != "inactive" {
			t.Errorf("%s: %+v", n.Config.NodeID, g)
		}
	}
	for key, n := range sink.keys {
		if n > 1 {
			t.Errorf("message %s came %d times though every leader ended in good order", key, n)
		}
	}
	c.WaitEqual(t)
}

func (c *Cluster) put(n *Node, path string, body any) error {
	return c.send(http.MethodPut, n.URL()+path, body, nil, nil)
}

// A receiver may not lead back into the cluster, and one with a secret is refused as long as there is no way to seal it.
func TestReceiversThatAreRefused(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	n := c.Nodes[0]
	routes := func(receiver string) map[string]string {
		return map[string]string{"body": "route: {receiver: r}\nreceivers: [{name: r, " + receiver + "}]\n"}
	}
	must(t, c.put(n, "/v1/routes", routes(`webhook_configs: [{url: "https://`+n.Config.Listen.Peer.Address+`/"}, {url: "`+n.URL()+`/v1/login"}]`)))
	var answer struct {
		Results []struct {
			OK    bool   `json:"ok"`
			Error string `json:"error"`
		} `json:"results"`
	}
	must(t, c.Post(n, "/v1/receivers/test", map[string]string{"receiver": "r"}, &answer))
	for _, r := range answer.Results {
		if r.OK || !strings.Contains(r.Error, "a port of this cluster") {
			t.Errorf("%+v", r)
		}
	}
}
