package appliance

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/appliance/retention"
)

// Senders wait as long as room is being made, and are told that a disk is full when no cut helps, or when none has freed
// anything for a while.
func TestRoomIsBeingMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m makingRoom
		free, makes, looks := int64(100<<20), true, 0
		ask := func(what string, want bool) {
			t.Helper()
			if got := m.ask(func() (bool, int64) { looks++; return makes, free }); got != want {
				t.Errorf("%s: %v", what, got)
			}
		}
		for range 100 {
			ask("a cut is under way", true)
		}
		if looks != 1 {
			t.Errorf("the disk was looked at %d times at once", looks)
		}
		makes = false
		time.Sleep(time.Second)
		ask("no cut helps", false)
		makes = true
		for range 10 { // each cut frees something, which is filled again
			for range 5 {
				time.Sleep(10 * time.Second)
				ask("a cut after the other", true)
			}
			free += roomGain
			time.Sleep(time.Second)
			ask("a cut freed something", true)
			free -= roomGain
		}
		for range 10 {
			time.Sleep(9 * time.Second)
			m.ask(func() (bool, int64) { return makes, free })
		}
		ask("nothing was freed for a minute", false)
		free += roomGain
		time.Sleep(time.Second)
		ask("something was freed after all", true)

		states := map[string]retention.State{"n1": retention.StateCutting, "n2": retention.StateStuck}
		m.note("n1", []retention.Report{{Node: "n1"}, {Node: "n2"}}, states)
		time.Sleep(time.Second)
		ask("no cut helps another node", false)
		time.Sleep(time.Hour)
		m.note("n2", []retention.Report{{Node: "n1"}, {Node: "n2"}}, states)
		ask("full again, long after", true)
	})
}
