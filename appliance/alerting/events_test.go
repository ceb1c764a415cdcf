package alerting

import (
	"fmt"
	"testing"
	"time"
)

// However many events one entry brings, each raises its alert.
func TestEveryEventOfAnEntryIsLookedAt(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.world.events = []Line{{Index: 10, Text: "oom long ago", Labels: map[string]string{"host": "web1"}}}
	c.step()
	c.put("own", `
triward:
  - name: g
    rules:
      - {alert: Oom, event: {query: oom, by: host, hold: 10m}}
`)
	c.run(2 * time.Second)
	c.world.mu.Lock()
	const n = 3*eventsAtOnce + 1
	for i := range n {
		c.world.events = append(c.world.events, Line{Index: 11, Text: "oom", Labels: map[string]string{"host": fmt.Sprint("h", i)}})
	}
	c.world.events = append(c.world.events, Line{Index: 12, Text: "oom", Labels: map[string]string{"host": "last"}})
	c.world.mu.Unlock()
	c.run(5 * time.Second)
	if got := c.nodes[0].service.Alerts(AlertFilter{}).Counts["firing"]; got != n+1 {
		t.Errorf("%d alerts fire, want %d", got, n+1)
	}
}
