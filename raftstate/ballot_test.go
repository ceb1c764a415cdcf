package raftstate

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestEmptiedNodeDoesNotVote: n1 and n3 hold entries that n2 does not, n3 is emptied, n1 dies. What n2 and n3 could
// agree on then would lack what was acknowledged.
func TestEmptiedNodeDoesNotVote(t *testing.T) {
	for name, caughtUp := range map[string]bool{"empty": false, "on its way": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCluster(t, 3, nil)
				w := newWriter(t, c.leader(), "agent-1")
				c.settle()
				c.lead("n1")
				c.kill("n2")
				for range 10 {
					w.write(c.nodes["n1"])
				}
				c.kill("n3")
				c.wipe("n3")
				c.addrs = nil // as after a join: it founds no cluster
				if caughtUp {
					// It receives the log, all of it even, but cannot know that it is all.
					c.loop.Cut("n1", "n3", true)
					c.start("n3")
					c.wait("the log to come", func() bool { return c.nodes["n3"].AppliedIndex() >= c.nodes["n1"].AppliedIndex() })
					c.kill("n3")
				}
				c.kill("n1")
				c.start("n3")
				c.start("n2")
				term := c.nodes["n2"].Status().Term
				time.Sleep(time.Minute)
				for _, id := range []string{"n2", "n3"} {
					st := c.nodes[id].Status()
					if st.Role == "leader" || st.Leader != "" || st.Term > term+1 || st.Barred != (id == "n3") {
						t.Errorf("%+v", st)
					}
				}
				c.loop.Cut("n1", "n3", false)
				c.start("n1")
				c.leader()
				c.wait("the emptied node to catch up", func() bool { return !c.nodes["n3"].Status().Barred })
				c.settle()
				for _, id := range c.ids {
					w.check(c.nodes[id])
				}
				c.kill("n3") // it may vote over restarts from now on
				c.start("n3")
				c.kill(c.leader().id)
				w.write(c.leader())
			})
		})
	}
}
