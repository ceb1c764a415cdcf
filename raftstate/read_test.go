package raftstate

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"github.com/triward/triward/raftstate/command"
)

// stuckFiles is a file system whose syncs wait while it is stuck.
type stuckFiles struct {
	*walfs.FS
	stuck chan chan struct{} // holds what syncs wait for; nil: nothing
}

func (f stuckFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	w, err := f.FS.Create(dir, name, size)
	return stuckFile{w, f}, err
}

type stuckFile struct {
	types.WritableFile
	fs stuckFiles
}

func (f stuckFile) Sync() error {
	wait := <-f.fs.stuck
	f.fs.stuck <- wait
	if wait != nil {
		<-wait
	}
	return f.WritableFile.Sync()
}

// A read gives up in time although the leader's disk hangs, and with it raft.
func TestReadsDoNotHangWithTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := stuckFiles{walfs.New(), make(chan chan struct{}, 1)}
		files.stuck <- nil
		c := newTestCluster(t, 1, func(cfg *Config) { cfg.LogFiles = files })
		n := c.leader()
		if _, err := n.ReadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		wait := make(chan struct{})
		<-files.stuck
		files.stuck <- wait
		go func() { _, _, _ = n.Propose(context.Background(), command.NewTick("x")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := n.ReadIndex(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read index: %v", err)
		}
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("it took %s", d)
		}
		<-files.stuck
		files.stuck <- nil
		close(wait)
		if _, err := n.ReadIndex(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What a follower has applied and shown is not taken back by a leader that could not apply it yet, for want of room.
func TestReadIndexCoversWhatOthersShowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, func(cfg *Config) { cfg.TickInterval = time.Minute }) // no leader yields meanwhile
		leader, f := c.leader(), c.follower()
		w := newWriter(t, leader, "agent-1")
		c.settle()
		leader.logs.failWith(syscall.ENOSPC)
		var wg sync.WaitGroup
		wg.Go(func() { w.write(leader) })
		before := leader.Status().AppliedIndex
		c.wait("the follower to apply", func() bool { return f.Status().AppliedIndex > before })
		shown := f.Status().AppliedIndex
		if _, self := leader.Leader(); !self || leader.Status().AppliedIndex >= shown {
			t.Fatalf("the leader has applied %d, the follower %d", leader.Status().AppliedIndex, shown)
		}
		if index, err := leader.ReadIndex(t.Context()); err != nil || index < shown {
			t.Errorf("read index %d (%v), a follower has shown entry %d", index, err, shown)
		}
		leader.logs.failWith(nil)
		wg.Wait()
		if err := leader.Barrier(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A process that was stopped while it wrote does not take the time for a disk that hangs.
func TestStoppedProcessIsNoHungDisk(t *testing.T) {
	w := hangWatch{every: time.Second}
	now := time.Unix(1000, 0)
	began := now
	tick := func(after time.Duration) time.Duration {
		now = now.Add(after)
		return w.tick(now, now.Sub(began))
	}
	tick(time.Second)
	if d := tick(time.Second); d > time.Second {
		t.Errorf("before: %s", d)
	}
	if d := tick(time.Minute); d != 0 { // stopped
		t.Errorf("on waking: %s", d)
	}
	var d time.Duration
	for range 11 {
		d = tick(time.Second)
	}
	if d != 11*time.Second { // and yet the write does not end
		t.Errorf("it hangs: %s", d)
	}
	began = now
	if d := tick(2 * time.Second); d != 2*time.Second {
		t.Errorf("another write: %s", d)
	}
}
