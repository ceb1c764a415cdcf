package systemtest

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// hungGoal is how long writes stand still at most when the leader's disk hangs: half the limit, at which it no longer leads,
// and an election.
const hungGoal = 8 * time.Second

// hungDisk is for how long a write to the log may hang before the node ends (raftstate.Config.HungDisk).
const hungDisk = 10 * time.Second

// gaveUpLimit is more than that by what looking at it costs on a busy machine.
const gaveUpLimit = hungDisk * 3 / 2

// hungRows are disks that hang, fail or are slow.
func hungRows() []faultRow {
	return []faultRow{
		{
			name: "disk-frozen-leader", fault: "the disk of the leader hangs (fsfreeze) until the node has given up", needs: []need{needLoop}, weight: 55 * time.Second, goal: hungGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.frozen(ctx, true) },
		},
		{
			name: "disk-frozen-follower", fault: "the disk of a follower hangs (fsfreeze) until the node has given up", needs: []need{needLoop}, weight: 55 * time.Second, goal: hungGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.frozen(ctx, false) },
		},
		{
			name: "disk-stutters", fault: "the disk of the leader hangs for less than the limit, over and over", needs: []need{needLoop}, weight: 60 * time.Second,
			run: func(ctx context.Context, tr *trial) error { return tr.stutters(ctx) },
		},
		{
			name: "disk-slow-leader", fault: "the disk of the leader takes 2 MB and 60 writes a second", needs: []need{needThrottle}, weight: 35 * time.Second,
			run: func(ctx context.Context, tr *trial) error { return tr.slowDisk(ctx, true) },
		},
		{
			name: "disk-slow-follower", fault: "the disk of a follower takes 2 MB and 60 writes a second", needs: []need{needThrottle}, weight: 35 * time.Second,
			run: func(ctx context.Context, tr *trial) error { return tr.slowDisk(ctx, false) },
		},
		{
			name: "disk-eio-leader", fault: "every fsync of the leader fails with EIO", needs: []need{needLoop, needStrace}, weight: 25 * time.Second, short: true, goal: leaderGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.failingDisk(ctx, true) },
		},
		{
			name: "disk-eio-follower", fault: "every fsync of a follower fails with EIO", needs: []need{needLoop, needStrace}, weight: 25 * time.Second,
			run: func(ctx context.Context, tr *trial) error { return tr.failingDisk(ctx, false) },
		},
	}
}

// victim is the leader, or a follower by the trial's choice.
func (tr *trial) victim(ctx context.Context, leader bool) (*devNode, error) {
	if leader {
		return tr.c.leader(ctx)
	}
	return tr.follower(ctx)
}

// gone returns when the process of a node has ended by itself, or can do nothing more: with a hung disk under it, the
// kernel keeps it as long as the disk hangs.
func (tr *trial) gone(ctx context.Context, n *devNode, limit time.Duration) error {
	err := until(ctx, limit, func(context.Context) error {
		if tr.c.ended(n) || exiting(n.PID) {
			return nil
		}
		return fmt.Errorf("%s still runs", n.ID)
	})
	if err != nil { // its log says what it was at
		_ = syscall.Kill(n.PID, syscall.SIGQUIT)
		_ = pause(ctx, time.Second)
	}
	return err
}

// reap waits for a process that ended, or ends, and forgets it.
func (tr *trial) reap(n *devNode) (code int) {
	cmd := tr.c.again[n.ID]
	if cmd == nil {
		return -1
	}
	end := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer end.Stop()
	_ = cmd.Wait()
	delete(tr.c.again, n.ID)
	return cmd.ProcessState.ExitCode()
}

// back starts a node again and waits until it has caught up.
func (tr *trial) back(ctx context.Context, n *devNode) error {
	if err := tr.c.restart(n); err != nil {
		return err
	}
	if err := tr.allReady(ctx); err != nil {
		return tr.whyNot(err)
	}
	return tr.progress(ctx, 5)
}

// frozen hangs the disk under a node: it must end within its limit, the others go on, and it comes back.
func (tr *trial) frozen(ctx context.Context, leader bool) error {
	disks, err := tr.foundOnDisks(ctx, plan{})
	if err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	for range 2 {
		n, err := tr.victim(ctx, leader)
		if err != nil {
			return err
		}
		if err := tr.freezeUntilGone(ctx, n, disks[tr.index(n)]); err != nil {
			return err
		}
		if code := tr.reap(n); code != 1 {
			return fmt.Errorf("%s ended with code %d, want 1 (storage)", n.ID, code)
		}
		if err := tr.back(ctx, n); err != nil {
			return err
		}
		if err := tr.compareNow(ctx); err != nil {
			return err
		}
	}
	return tr.compare(ctx)
}

func (tr *trial) freezeUntilGone(ctx context.Context, n *devNode, d *loopDisk) error {
	tr.traffic.still.take()
	thaw, err := d.freeze(90 * time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = thaw() }()
	tr.faulted(1)
	began := time.Now()
	if err := tr.gone(ctx, n, 60*time.Second); err != nil {
		return fmt.Errorf("its disk hangs: %w", err)
	}
	ended := time.Since(began)
	if err := tr.progress(ctx, 5); err != nil {
		return fmt.Errorf("the disk of %s hangs: %w", n.ID, err)
	}
	gap := tr.traffic.still.take() // a sender that waits for this node is patient for 5 s
	tr.recovered(gap)
	if ended > gaveUpLimit {
		return fmt.Errorf("%s gave up %v after its disk hung, its limit is %v", n.ID, ended, hungDisk)
	}
	tr.note("%s gave up after %v with its disk hung, writes stood still for %v", n.ID, ended.Round(100*time.Millisecond), gap.Round(100*time.Millisecond))
	return thaw()
}

// stutters hangs the leader's disk for less than its limit: nothing may be lost, and no node may end.
func (tr *trial) stutters(ctx context.Context) error {
	disks, err := tr.foundOnDisks(ctx, plan{})
	if err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	for range 5 {
		n, err := tr.c.leader(ctx)
		if err != nil {
			return err
		}
		takeLongest(tr.traffic.senders)
		thaw, err := disks[tr.index(n)].freeze(30 * time.Second)
		if err != nil {
			return err
		}
		tr.faulted(1)
		err = pause(ctx, time.Duration(200+tr.rng.IntN(4000))*time.Millisecond)
		if err = errors.Join(err, thaw()); err != nil {
			return err
		}
		tr.mended()
		if err := tr.progress(ctx, 5); err != nil {
			return err
		}
		tr.recovered(takeLongest(tr.traffic.senders))
		if tr.c.ended(n) {
			return fmt.Errorf("%s ended although its disk hung for less than %v", n.ID, hungDisk)
		}
	}
	return tr.compare(ctx)
}

// slowDisk bounds what a node may write: whatever the cluster acknowledges then is kept.
func (tr *trial) slowDisk(ctx context.Context, leader bool) error {
	disks, err := tr.foundOnDisks(ctx, plan{})
	if err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	n, err := tr.victim(ctx, leader)
	if err != nil {
		return err
	}
	th, err := newThrottle(disks[tr.index(n)], n.ID)
	if err != nil {
		return err
	}
	tr.atEnd(func() { _ = th.close() })
	if err := th.add(n.PID); err != nil {
		return err
	}
	rate := func() (float64, error) {
		before, began := tr.acks(), time.Now()
		err := pause(ctx, 10*time.Second)
		return float64(tr.acks()-before) / time.Since(began).Seconds(), err
	}
	fast, err := rate()
	if err != nil {
		return err
	}
	if err := th.slow(2<<20, 60); err != nil {
		return err
	}
	tr.faulted(1)
	slow, err := rate()
	if err != nil {
		return err
	}
	if err := tr.progress(ctx, 1); err != nil {
		return fmt.Errorf("with a slow disk: %w", err)
	}
	if tr.c.ended(n) {
		return fmt.Errorf("%s ended because its disk was slow", n.ID)
	}
	tr.note("%.0f batches a second, %.0f with the slow disk of %s; longest gap %v", fast, slow, n.ID, takeLongest(tr.traffic.senders).Round(10*time.Millisecond))
	if err := th.slow(0, 0); err != nil {
		return err
	}
	tr.mended()
	if err := tr.progress(ctx, 5); err != nil {
		return err
	}
	return tr.compare(ctx)
}

// failingDisk makes every fsync fail: the node must end at once, without another try, and come back.
func (tr *trial) failingDisk(ctx context.Context, leader bool) error {
	disks, err := tr.foundOnDisks(ctx, plan{})
	if err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	for range 3 {
		n, err := tr.victim(ctx, leader)
		if err != nil {
			return err
		}
		takeLongest(tr.traffic.senders)
		if err := tr.failSyncsOf(ctx, n); err != nil {
			return err
		}
		if err := tr.progress(ctx, 5); err != nil {
			return fmt.Errorf("without %s, whose disk fails: %w", n.ID, err)
		}
		tr.recovered(takeLongest(tr.traffic.senders))
		// What an fsync had promised to write is gone: the disk keeps only what was synced before.
		d := disks[tr.index(n)]
		if err := errors.Join(d.losePower(), d.restorePower(ctx, false)); err != nil {
			return err
		}
		if err := tr.back(ctx, n); err != nil {
			return err
		}
		if err := tr.compareNow(ctx); err != nil {
			return err
		}
	}
	return tr.compare(ctx)
}

// retryLimit is how many syncs may fail: those under way on other threads when the first one did, and no second try.
const retryLimit = 4

// endsAtOnce is how long after its first failed sync a node may be there: it ends within milliseconds, under strace and on a
// machine that others use.
const endsAtOnce = 3 * time.Second

func (tr *trial) failSyncsOf(ctx context.Context, n *devNode) error {
	st, err := failSyncs(ctx, n.PID, 1+tr.rng.IntN(3), tr.dir)
	if err != nil {
		return err
	}
	defer func() { _ = st.close() }()
	tr.faulted(1)
	if err := tr.gone(ctx, n, 60*time.Second); err != nil {
		return fmt.Errorf("every fsync fails: %w", err)
	}
	_ = st.close()
	if code := tr.reap(n); code != 1 {
		return fmt.Errorf("%s ended with code %d, want 1 (storage)", n.ID, code)
	}
	list, ended, err := st.syncsSeen()
	if err != nil {
		return err
	}
	var failed []tracedSync
	tried := make(map[string]int)
	for _, s := range list {
		if s.failed {
			failed = append(failed, s)
			if s.file != "" {
				tried[s.file]++
			}
		}
	}
	if len(failed) == 0 {
		return fmt.Errorf("%s ended before any fsync failed", n.ID)
	}
	for file, times := range tried {
		if times > 1 {
			return fmt.Errorf("%s tried %s again after it had failed, %d times in all", n.ID, file, times)
		}
	}
	if len(failed) > retryLimit {
		return fmt.Errorf("%s went on: %d syncs failed before it ended: %+v", n.ID, len(failed), failed)
	}
	took := ended - failed[0].at
	if ended > 0 && took > endsAtOnce {
		return fmt.Errorf("%s ended %v after its first failed fsync", n.ID, took)
	}
	tr.note("%s ended %v after its first failed fsync, %d failed", n.ID, took.Round(time.Millisecond), len(failed))
	return nil
}

// exiting reports whether a process is on its way out: it was told to end, and a thread of it hangs in the kernel.
func exiting(pid int) bool {
	threads, err := threadsOf(pid)
	if err != nil {
		return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH)
	}
	running := 0
	for _, state := range threads {
		if state != 'D' && state != 'Z' && state != 'X' {
			running++
		}
	}
	return running == 0
}
