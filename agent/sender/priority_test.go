package sender

import (
	"fmt"
	"testing"

	"github.com/triward/triward/agent/gatewaytest"
	"github.com/triward/triward/agent/wire"
)

// An event overtakes the logs that wait since before it, and comes once.
func TestEventsGoFirst(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.addLines(3000)
		r.append(wire.LaneEvents, wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{
			Kind: wire.StreamEvent, Labels: wire.Labels{{Name: "source", Value: "agent"}},
			Lines: []wire.LogLine{{T: 1, Text: []byte("it happened")}},
		}}}))
		if order := fmt.Sprint(New(Config{Nodes: []string{"https://a"}, Spool: r.sp, Coder: r.coder}).order()[0]); order != "events" {
			t.Errorf("the lane %s is asked first", order)
		}
		r.run()
		r.delivered()
		r.exact()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			at := -1
			for i, l := range c.Lines {
				if l.Text == "it happened" {
					if at >= 0 {
						t.Error("the event came twice")
					}
					at = i
				}
			}
			if at < 0 || at > wire.MaxBatchesPerCall {
				t.Errorf("the event is line %d that arrived", at)
			}
		})
	})
}
