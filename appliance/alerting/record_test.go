package alerting

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"
)

const recordRules = `
groups:
  - name: g
    interval: 10s
    limit: 3
    rules:
      - {record: "room:temperature:max", expr: temperature, labels: {floor: "2", sensor: ""}}
      - {record: twice, expr: twins}
      - {record: node_load1, expr: load}
      - {alert: Hot, expr: "room:temperature:max > 30"}
`

// at returns what was stored of a name: value by label and time as they are printed.
func (w *fakeWorld) at(name string) map[string]float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]float64)
	for key, v := range w.stored {
		if strings.Contains(key, "__name__:"+name) {
			out[key] = v
		}
	}
	return out
}

func (c *fakeCluster) errorOf(rule string) string {
	for _, f := range c.nodes[0].service.Files() {
		for _, r := range f.Rules {
			if r.Name == rule {
				return r.Error
			}
		}
	}
	return "no such rule"
}

// The values of recording rules are for multiples of the interval whoever leads, so that those of two leaders are the
// same samples.
func TestRecordingRulesOverManyLeaders(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.step()
	c.put("own", recordRules)
	one := Sample{Labels: map[string]string{"room": "a", "sensor": "s1"}, V: 20}
	c.world.set("temperature", one)
	for i := range 12 {
		c.run(7 * time.Second)
		c.kill(i % 3)
		c.elect((i + 1) % 3)
		c.run(2 * time.Second)
		c.restart(i % 3)
	}
	got := c.world.at("room:temperature:max")
	if len(got) < 10 || len(got) > 12 {
		t.Errorf("%d samples in 108 s: %v", len(got), got)
	}
	for key, v := range got {
		if v != 20 || !strings.HasPrefix(key, "map[__name__:room:temperature:max floor:2 room:a] ") || !strings.HasSuffix(key, "0000") {
			t.Errorf("%s = %v", key, v)
		}
	}
	if c.world.repeats == 0 {
		t.Error("no new leader evaluated a time again: the test shows nothing")
	}
}

func TestRecordingRulesThatFail(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	c.put("own", recordRules)
	room := func(name string) Sample { return Sample{Labels: map[string]string{"room": name}, V: 1} }
	c.world.set("twins", Sample{Labels: map[string]string{"__name__": "x"}}, Sample{Labels: map[string]string{"__name__": "y"}})
	c.world.set("load", Sample{Labels: map[string]string{"agent": "a1"}})
	c.world.set("temperature", room("a"), room("b"))
	c.run(12 * time.Second)
	for rule, want := range map[string]string{"twice": "same labels twice", "node_load1": "name with a colon", "room:temperature:max": ""} {
		if got := c.errorOf(rule); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", rule, got, want)
		}
	}
	c.world.set("temperature", room("a"))
	c.run(10 * time.Second)
	ends := 0
	for key, v := range c.world.at("room:temperature:max") {
		if math.Float64bits(v) == value.StaleNaN {
			ends++
			if !strings.Contains(key, "room:b") {
				t.Errorf("%s ended", key)
			}
		}
	}
	if ends != 1 {
		t.Errorf("%d series ended", ends)
	}
	c.world.set("temperature", room("a"), room("b"), room("c"), room("d"))
	c.run(10 * time.Second)
	if got := c.errorOf("room:temperature:max"); !strings.Contains(got, "limit is 3") {
		t.Errorf("limit: %q", got)
	}
	c.world.set("temperature", room("a"))
	c.world.mu.Lock()
	c.world.refuse = errors.New("1 of 1 samples were refused: too many series")
	c.world.mu.Unlock()
	c.run(10 * time.Second)
	if got := c.errorOf("room:temperature:max"); !strings.Contains(got, "too many series") {
		t.Errorf("refused: %q", got)
	}
	c.world.mu.Lock()
	c.world.refuse = nil
	c.world.mu.Unlock()
	c.run(10 * time.Second)
	if got := c.errorOf("room:temperature:max"); got != "" {
		t.Errorf("well again: %q", got)
	}
}

// A leader that was deposed and does not know it stores nothing.
func TestDeposedLeaderRecordsNothing(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.step()
	c.put("own", recordRules)
	c.world.set("temperature", Sample{Labels: map[string]string{"room": "a"}, V: 20})
	c.run(12 * time.Second)
	old := c.nodes[0].leader
	before := fmt.Sprint(c.world.at("room"))
	c.elect(1)
	c.meta.advance(20 * time.Second)
	_ = old.step(t.Context()) // it starts the evaluation, whose values are held back
	old.work.Wait()
	if after := fmt.Sprint(c.world.at("room")); after != before {
		t.Errorf("it stored %s after %s", after, before)
	}
}
