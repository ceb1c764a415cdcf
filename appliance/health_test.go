package appliance

import (
	"testing"
	"time"
)

// A node that had nothing to make durable for long is well when entries come, and ill when they stay unmarked.
func TestMarksAreLateSinceThereIsSomethingToMark(t *testing.T) {
	var c marksCheck
	at := time.Now()
	for _, s := range []struct {
		after         time.Duration
		mark, applied uint64
		want          time.Duration
	}{
		{0, 100, 100, 0},
		{time.Hour, 100, 100, 0},
		{time.Hour, 100, 101, 0}, // the last mark is two hours old
		{time.Minute, 100, 150, time.Minute},
		{5 * time.Minute, 100, 200, 6 * time.Minute},
		{time.Second, 200, 210, 0},
	} {
		at = at.Add(s.after)
		if got := c.late(s.mark, s.applied, at); got != s.want {
			t.Errorf("mark %d of %d: late by %s, want %s", s.mark, s.applied, got, s.want)
		}
	}
}
