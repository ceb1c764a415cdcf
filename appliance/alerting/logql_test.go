package alerting

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const logqlRules = `
logql:
  - name: lines
    interval: 10s
    query_offset: 5s
    rules:
      - alert: Many
        expr: count({app="a"}) > 3
        for: 30s
        labels: {severity: warning}
        annotations: {summary: "{{ $labels.host }}: {{ $value }}"}
      - {alert: Silent, expr: "absent({app=\"a\"})"}
      - {record: "host:lines:rate", expr: "rate({app=\"a\"})"}
`

func (w *fakeWorld) inLogQL(expr string, samples ...Sample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logql[expr] = samples
}

func (w *fakeWorld) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

func (c *fakeCluster) alert(name string) *AlertView {
	list := c.nodes[0].service.Alerts(AlertFilter{})
	for i := range list.Alerts {
		if list.Alerts[i].Name == name {
			return &list.Alerts[i]
		}
	}
	return nil
}

// What is counted of lines fires after its time, whoever leads meanwhile; an answer that is not whole ends nothing and is
// told; when the lines are gone it ends, once.
func TestRuleInLogQL(t *testing.T) {
	const expr = `count({app="a"}) > 3`
	c := newFakeCluster(t, 3)
	c.step()
	c.route(testRoutes)
	c.put("own", logqlRules)
	c.world.inLogQL(expr, Sample{Labels: map[string]string{"host": "h1"}, V: 5})
	c.run(12 * time.Second)
	if a := c.alert("Many"); a == nil || a.State != "pending" {
		t.Fatalf("%+v", a)
	}
	c.kill(0)
	c.elect(1)
	c.run(12 * time.Second)
	c.restart(0)
	if a := c.alert("Many"); a == nil || a.State != "pending" {
		t.Fatalf("after a change of the leader: %+v", a)
	}
	c.run(20 * time.Second)
	a := c.alert("Many")
	if a == nil || a.State != "firing" || a.Annotations["summary"] != "h1: 5" || a.Kind != "logql" || a.LogQuery != `{app="a"} | host="h1"` {
		t.Fatalf("%+v", a)
	}
	if s, err := c.nodes[0].service.Series(t.Context(), a.ID, c.meta.now-60_000, c.meta.now); err != nil || s.Query != "side" || s.Values[0] == nil || *s.Values[0] != 7 {
		t.Errorf("%+v %v", s, err)
	}
	if at := c.world.asked[expr]; at%1000 != 0 || c.meta.now-at < 5000 {
		t.Errorf("asked for %d, %d ms ago: the offset is 5 s", at, c.meta.now-at)
	}

	c.world.inLogQL(expr)
	c.world.fail(errors.New("parts of the lines are damaged on this node"))
	c.run(40 * time.Second)
	if a := c.alert("Many"); a == nil || a.State != "firing" {
		t.Errorf("what could not be read ended it: %+v", a)
	}
	if got := c.errorOf("Many"); !strings.Contains(got, "damaged") {
		t.Errorf("health: %q", got)
	}
	c.world.fail(nil)
	c.run(40 * time.Second)
	if a := c.alert("Many"); a != nil {
		t.Errorf("it goes on: %+v", a)
	}
	if got := c.errorOf("Many"); got != "" {
		t.Errorf("health: %q", got)
	}
	var fired, ended int
	for _, d := range c.messages() {
		if d.has("Many", true) {
			fired++
		}
		if d.has("Many", false) {
			ended++
		}
	}
	if fired != 1 || ended != 1 {
		t.Errorf("%d messages of its beginning, %d of its end", fired, ended)
	}
}

// After the whole cluster was down what is missing may be on its way: that lines are absent is not believed at once.
func TestRuleInLogQLAfterAnOutage(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	c.put("own", logqlRules)
	c.run(5 * time.Minute)
	c.kill(0)
	c.meta.advance(10 * time.Minute)
	c.restart(0)
	c.world.inLogQL(`absent({app="a"})`, Sample{Labels: map[string]string{}, V: 1})
	c.run(100 * time.Second)
	if a := c.alert("Silent"); a != nil {
		t.Errorf("%+v", a)
	}
	c.run(60 * time.Second)
	if a := c.alert("Silent"); a == nil || a.State != "firing" {
		t.Errorf("%+v", a)
	}
}

func TestRecordingRuleInLogQL(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	c.put("own", logqlRules)
	c.world.inLogQL(`rate({app="a"})`, Sample{Labels: map[string]string{"host": "h1"}, V: 2})
	c.run(25 * time.Second)
	got := c.world.at("host:lines:rate")
	if len(got) < 2 {
		t.Fatalf("%v", got)
	}
	for key, v := range got {
		if v != 2 || !strings.HasPrefix(key, "map[__name__:host:lines:rate host:h1] ") || !strings.HasSuffix(key, "5000") {
			t.Errorf("%s = %v", key, v)
		}
	}
}

// As long as nodes that cannot read such a file may lead, none is taken, and the shipped one waits.
func TestNoRulesInLogQLForOlderNodes(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.old = true
	c.run(3 * time.Second)
	body := logqlRules
	put := func() error {
		_, _, err := c.nodes[0].service.PutFile(t.Context(), "own", FileChange{Body: &body}, By{Actor: "ada"})
		return err
	}
	if err := put(); !errors.Is(err, ErrOldNodes) {
		t.Errorf("%v", err)
	}
	if _, err := c.nodes[0].service.File("logs"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the shipped file: %v", err)
	}
	if _, err := c.nodes[0].service.File("hosts"); err != nil {
		t.Error(err)
	}
	c.old = false
	c.run(3 * time.Second)
	if f, err := c.nodes[0].service.File("logs"); err != nil || f.Origin != OriginShipped {
		t.Errorf("the shipped file when all nodes can read it: %+v %v", f, err)
	}
	if err := put(); err != nil {
		t.Error(err)
	}
}
