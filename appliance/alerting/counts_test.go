package alerting

import (
	"fmt"
	"testing"
	"time"
)

// Every burst of lines is seen, however short the window beside the interval, and however late within reason the lines
// come: an agent sends its lines in batches, and a change of the leader holds them up.
func TestNoBurstOfLinesIsMissed(t *testing.T) {
	for _, by := range []string{"", ", by: host"} {
		for _, window := range []time.Duration{time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 2 * time.Minute} {
			for _, late := range []time.Duration{0, 4 * time.Second, 20 * time.Second} {
				for _, phase := range []int{0, 3, 7, 11, 14} {
					t.Run(fmt.Sprintf("window %s late %s phase %d%s", window, late, phase, by), func(t *testing.T) {
						missedBurst(t, by, window, late, time.Duration(phase)*time.Second)
					})
				}
			}
		}
	}
}

func missedBurst(t *testing.T, by string, window, late, phase time.Duration) {
	c := newFakeCluster(t, 1)
	c.world.lines["boom"], c.world.lines["few"] = []fakeLine{}, []fakeLine{}
	c.step()
	c.put("own", fmt.Sprintf(`
triward:
  - name: g
    rules:
      - {alert: Boom, logs: {query: boom, window: %[1]s, above: 2%[2]s}}
      - {alert: Few, logs: {query: few, window: %[1]s, above: 2%[2]s}}
`, window, by))
	c.run(time.Minute + phase)
	now := c.meta.now
	c.world.mu.Lock()
	for i := range int64(3) {
		seen := now + late.Milliseconds()
		c.world.lines["boom"] = append(c.world.lines["boom"], fakeLine{now + i, seen, "web1"})
		// As many, but never more than two in one window, and of each other host only one.
		at := now + i*window.Milliseconds()*3/4
		c.world.lines["few"] = append(c.world.lines["few"], fakeLine{at, at + late.Milliseconds(), "web1"})
		if by != "" {
			c.world.lines["few"] = append(c.world.lines["few"], fakeLine{now, seen, fmt.Sprint("db", i)})
		}
	}
	c.world.mu.Unlock()
	c.run(window + 2*time.Minute)
	fired := map[string]int{}
	for _, h := range c.nodes[0].service.History(HistoryFilter{Limit: 100}).Records {
		fired[h.Labels["alertname"]+" "+string(h.What)]++
	}
	if fired["Boom fired"] != 1 || fired["Boom resolved"] != 1 || fired["Few fired"] != 0 {
		t.Errorf("%v", fired)
	}
}
