package alerting

import (
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/alerting/rules"
)

const rulesOfBefore = `
groups:
  - name: metrics
    interval: 5s
    rules: [{alert: Down, expr: up == 0}]
logql:
  - name: lines
    interval: 5s
    rules:
      - {alert: Many, expr: 'count({app="old"}) > 3'}
      - {alert: Few, expr: 'count({app="new"}) < 3'}
      - {record: "host:lines:rate", expr: 'rate({app="old"})'}
triward:
  - name: own
    interval: 5s
    rules:
      - {alert: Logged, logs: {query: old words, window: 1m, above: 1}}
      - {alert: Told, event: {query: old}}
      - {alert: Counted, logs: {query: new words, window: 1m, above: 1}}
`

// A version that does not take the queries of some stored rules says so of them, also on a node that does not lead, keeps their
// alerts, and goes on with all the others of the file. Nobody can store such a query anew.
func TestStoredRulesThatAreNotTakenAnyMore(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.step()
	c.route(testRoutes)
	c.put("own", rulesOfBefore)
	host := map[string]string{"host": "h1"}
	c.world.inLogQL(`count({app="old"}) > 3`, Sample{Labels: host, V: 5})
	c.run(12 * time.Second)
	if a := c.alert("Many"); a == nil || a.State != "firing" {
		t.Fatalf("%+v", a)
	}
	c.world.takeNoMore("old")
	old := []string{"Many", "host:lines:rate", "Logged", "Told"}
	errorOf := func(node int, rule string) string {
		for _, f := range c.nodes[node].service.Files() {
			for _, r := range f.Rules {
				if f.Error != "" {
					t.Errorf("the whole file: %s", f.Error)
				}
				if r.Name == rule {
					return r.Error
				}
			}
		}
		return "no such rule"
	}
	c.kill(2)
	c.restart(2)
	for _, rule := range old {
		if got := errorOf(2, rule); !strings.Contains(got, "does not take") || !strings.Contains(got, "too large") {
			t.Errorf("%s on the first node that was upgraded: %q", rule, got)
		}
	}
	c.kill(0)
	c.restart(0)
	c.elect(2)
	c.world.inLogQL(`count({app="old"}) > 3`)
	c.world.inLogQL(`count({app="new"}) < 3`, Sample{Labels: host, V: 1})
	c.world.set("up == 0", Sample{Labels: host})
	c.world.mu.Lock()
	c.world.counts["new words"] = []Count{{Lines: 5}}
	c.world.counts["old words"] = []Count{{Lines: 5}}
	c.world.events = append(c.world.events, Line{Index: 50, T: c.meta.now, Text: "old"})
	c.world.mu.Unlock()
	c.run(3 * time.Minute)
	for name, want := range map[string]bool{"Down": true, "Many": true, "Few": true, "Counted": true, "Logged": false, "Told": false} {
		if a := c.alert(name); (a != nil && a.State == "firing") != want {
			t.Errorf("%s: %+v", name, a)
		}
	}
	for _, rule := range old {
		if got := errorOf(0, rule); !strings.Contains(got, "too large") {
			t.Errorf("%s: %q", rule, got)
		}
	}
	body := rulesOfBefore
	_, _, err := c.nodes[0].service.PutFile(t.Context(), "own", FileChange{Body: &body}, By{Actor: "ada"})
	if bad, ok := err.(*rules.Error); !ok || len(bad.Problems) != len(old) { //nolint:errorlint // it is returned as it is
		t.Errorf("stored anew: %v", err)
	}
	c.world.takeNoMore("")
	for i := range c.nodes {
		c.kill(i)
		c.restart(i)
	}
	c.elect(1)
	c.run(10 * time.Minute)
	if a := c.alert("Many"); a != nil {
		t.Errorf("its query is taken again, and it goes on: %+v", a)
	}
	for _, rule := range old {
		if got := errorOf(0, rule); got != "" {
			t.Errorf("%s is taken again: %q", rule, got)
		}
	}
}

// takeNoMore has queries that hold the text taken no more.
func (w *fakeWorld) takeNoMore(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = text
}
