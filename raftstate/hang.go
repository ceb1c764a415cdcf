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
	watch := hangWatch{every: every}
	for {
		select {
		case <-n.closing:
			return
		case <-ticker.C:
			if d := watch.tick(time.Now(), n.store.Writing()); d > n.cfg.HungDisk {
				n.fatal(brokenDisk("log", fmt.Errorf("a write has been hanging for %s", d.Round(time.Second))))
				return
			}
		}
	}
}

// hangWatch tells a disk that hangs from a process that was stopped (SIGSTOP, a frozen machine) while it wrote: it has
// itself not been looking for as long.
type hangWatch struct {
	every       time.Duration // between ticks
	last, awake time.Time     // of the tick before; since when ticks came in time
}

// tick returns for how long a write that began `writing` ago has been seen to hang.
func (w *hangWatch) tick(now time.Time, writing time.Duration) time.Duration {
	if w.last.IsZero() || now.Sub(w.last) > 3*w.every {
		w.awake = now
	}
	w.last = now
	return min(writing, now.Sub(w.awake))
}
