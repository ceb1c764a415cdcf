package raftstate

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
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

// lateAnswers keeps what peers have answered to this node until it is let go, as the sockets of a stopped process do.
type lateAnswers struct {
	raft.Transport
	mu   sync.Mutex
	held int
	hold chan struct{} // nil: answers come at once
}

func (l *lateAnswers) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	err := l.Transport.AppendEntries(id, target, args, resp)
	if hold != nil && err == nil {
		l.mu.Lock()
		l.held++
		l.mu.Unlock()
		<-hold
	}
	return err
}

func (l *lateAnswers) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return l.Transport.(raft.WithPreVote).RequestPreVote(id, target, args, resp)
}

func (l *lateAnswers) keep(hold chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold, l.held = hold, 0
}

func (l *lateAnswers) kept() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// A leader that was stopped finds answers from before in its sockets when it wakes: they must not confirm that it leads.
func TestOldAnswersConfirmNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := map[string]*lateAnswers{}
		c := newTestCluster(t, 3, func(cfg *Config) {
			l := &lateAnswers{Transport: cfg.Transport.Raft}
			late[cfg.NodeID], cfg.Transport.Raft = l, l
		})
		old := c.leader()
		w := newWriter(t, old, "agent-1")
		w.write(old)
		c.settle()
		hold := make(chan struct{})
		late[old.id].keep(hold)
		c.wait("answers on the way", func() bool { return late[old.id].kept() == 2 })
		c.isolate(old.id, true) // nothing sent from here on arrives
		var next, third *testNode
		for _, id := range c.ids {
			if n := c.nodes[id]; n != old && next == nil {
				next = n
			} else if n != old {
				third = n
			}
		}
		header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(third.id), Addr: []byte(third.id)}
		if err := third.trans.TimeoutNow(raft.ServerID(next.id), raft.ServerAddress(next.id), &raft.TimeoutNowRequest{RPCHeader: header}, new(raft.TimeoutNowResponse)); err != nil {
			t.Fatal(err)
		}
		c.wait("the other leader", func() bool { return next.raft.Load().State() == raft.Leader })
		w.write(next)
		acknowledged := next.Status().AppliedIndex
		if _, self := old.Leader(); !self {
			t.Fatal("the old leader gave up before it was asked")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		time.AfterFunc(time.Millisecond, func() { close(hold) })
		if index, err := old.ReadIndex(ctx); err == nil && index < acknowledged {
			t.Errorf("the old leader says that entry %d covers what was acknowledged, but that is entry %d", index, acknowledged)
		}
		late[old.id].keep(nil)
		c.isolate(old.id, false)
		c.settle()
	})
}

// Who waits for an entry reads views that observers keep: they must know of it.
func TestWaitAppliedWaitsForObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		w.write(c.leader())
		c.settle()
		f := c.follower()
		hold := make(chan struct{})
		f.seen.holdUp(hold)
		before := f.AppliedIndex()
		w.write(c.leader())
		c.wait("the follower to apply", func() bool { return f.AppliedIndex() > before })
		done := make(chan error, 1)
		index := f.AppliedIndex()
		go func() { done <- f.WaitApplied(t.Context(), index) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("the wait ended (%v) before observers knew of the entry", err)
			done <- err
		default:
		}
		f.seen.holdUp(nil)
		close(hold)
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.settle()
	})
}

// Answers come over several connections to the same peer, so an older one may be read last: it takes nothing back.
func TestAnOlderAnswerTakesNoConfirmationBack(t *testing.T) {
	c := &confirmations{}
	voters := []raft.ServerID{"n1", "n2", "n3"}
	entries, heartbeat := c.send(), c.send()
	c.answered("n2", 4, heartbeat)
	for term, sent := range map[uint64]uint64{4: entries, 3: heartbeat + 1} {
		c.answered("n2", term, sent)
		if ok, _ := c.since(voters, "n1", 4, entries); !ok {
			t.Errorf("the answer to request %d in term %d took back what n2 has confirmed", sent, term)
		}
	}
}
