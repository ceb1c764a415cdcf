package raftstate

import (
	"testing"
	"time"
)

// A process that was stopped for longer than a disk may hang has seen nothing of its disk.
func TestStandingStillIsNoHungDisk(t *testing.T) {
	const every, limit = 2 * time.Second, 20 * time.Second
	now := time.Unix(1_700_000_000, 0)
	w := watchdog{limit: limit, every: every, looked: now}
	began := now
	now = now.Add(every)
	if d := w.hangs(now, now.Sub(began)); d != 0 {
		t.Errorf("hangs for %v after one look", d)
	}
	now = now.Add(30 * time.Second) // stopped
	if d := w.hangs(now, now.Sub(began)); d != 0 {
		t.Errorf("hangs for %v on waking", d)
	}
	woke := now
	for now.Sub(woke) <= limit {
		if d := w.hangs(now, now.Sub(began)); d != 0 {
			t.Errorf("hangs for %v, awake for %v", d, now.Sub(woke))
		}
		now = now.Add(every)
	}
	if w.hangs(now, now.Sub(began)) == 0 {
		t.Error("a disk that hangs for 20 s while the process looks is not found")
	}
}
