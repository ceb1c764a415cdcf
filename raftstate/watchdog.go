package raftstate

import (
	"fmt"
	"time"
)

// watchDisk ends the node when a write to the log hangs: with its lease the leader would otherwise stay.
func (n *Node) watchDisk() {
	every := max(n.cfg.HungDisk/10, time.Millisecond)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	dog := watchdog{limit: n.cfg.HungDisk, every: every, looked: time.Now()}
	for {
		select {
		case <-n.closing:
			return
		case <-ticker.C:
			if d := dog.hangs(time.Now(), n.store.Writing()); d > 0 {
				n.fatal(brokenDisk("log", fmt.Errorf("a write has been hanging for %s", d.Round(time.Second))))
				return
			}
		}
	}
}

// watchdog tells a disk that hangs from a process that stood still itself, because it was stopped or had no processor: the
// clock goes on then, and so would the time of the write that was under way.
type watchdog struct {
	limit, every  time.Duration
	looked, awake time.Time
}

// hangs returns for how long a write has been hanging while the process was there to see it, once that is too long, else 0.
func (w *watchdog) hangs(now time.Time, writing time.Duration) time.Duration {
	if now.Sub(w.looked) > 3*w.every {
		w.awake = now
	}
	w.looked = now
	if d := min(writing, now.Sub(w.awake)); d > w.limit {
		return d
	}
	return 0
}
