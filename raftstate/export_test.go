package raftstate

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
)

// TestDamageIsNotExported: what a node knows to be damaged, or to lack, becomes no backup unless that is asked for.
func TestDamageIsNotExported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mendingCluster(t, 1, nil)
		n := c.leader()
		newWriter(t, n, "agent-1").write(n)
		known := &fakeRepairs{}
		n.Node.cfg.Repairs = known
		export := func(name string, want string, bad bool) {
			t.Helper()
			e, err := n.Export()
			var d *DamagedError
			switch {
			case err == nil:
				if err := e.Close(); err != nil {
					t.Error(err)
				}
				if bad {
					t.Errorf("%s: exported", name)
				}
			case !bad || !errors.As(err, &d) || !strings.Contains(err.Error(), want):
				t.Errorf("%s: %v", name, err)
			}
			e, err = n.ExportDamaged()
			if err != nil || (len(e.Damage) > 0) != bad || bad && !strings.Contains(e.Damage[0], want) {
				t.Fatalf("%s, all that is left: %+v, %v", name, e, err)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		}
		export("whole", "", false)
		known.Found(Damage{Part: PartIndex, Place: "a word index", Err: "checksum"})
		known.Found(Damage{Part: PartLog, Place: "segment 7", Err: "checksum"})
		export("what no image holds", "", false)
		known.Found(Damage{Part: PartMetrics, Place: "block 01J", Err: "checksum"})
		export("a block", "block 01J", true)
		known.Done(Repaired{Parts: []string{PartMetrics}})
		export("mended", "", false)
		n.probation.Store(true)
		export("on probation", "has not caught up", true)
	})
}
