package raftstate

import (
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose disk hangs is silent, heartbeats and pipelines alike, and goes on when the disk answers.
func TestHungLeaderIsSilent(t *testing.T) {
	_, inner := raft.NewInmemTransport("a")
	_, peer := raft.NewInmemTransport("b")
	inner.Connect("b", peer)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case rpc := <-peer.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
			case <-done:
				return
			}
		}
	}()
	var hung atomic.Bool
	q := &quietTransport{Transport: inner, hangs: hung.Load, confirms: &confirmations{}}
	send := func() error {
		return q.AppendEntries("b", "b", &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{})
	}
	pipe, err := q.AppendEntriesPipeline("b", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	for _, hangs := range []bool{false, true, false} {
		hung.Store(hangs)
		_, viaPipe := pipe.AppendEntries(&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{})
		fresh, viaFresh := q.AppendEntriesPipeline("b", "b")
		if fresh != nil {
			_ = fresh.Close()
		}
		for name, err := range map[string]error{"heartbeat": send(), "pipeline": viaPipe, "new pipeline": viaFresh} {
			if hangs != errors.Is(err, errHangs) || !hangs && err != nil {
				t.Errorf("the disk hangs: %v, %s: %v", hangs, name, err)
			}
		}
	}
}

// After a failed sync raft stores neither term nor vote: that would be another sync of the same files.
func TestNothingIsSyncedAfterAFailure(t *testing.T) {
	c := newTestCluster(t, 1, nil)
	n := c.nodes["n1"]
	c.leader()
	g := &guard{Store: n.store, n: n.Node}
	n.Node.fatal(brokenDisk("log", errors.New("fsync failed")))
	tried := make(chan error, 1)
	go func() {
		defer close(tried) // the goroutine of raft is stopped for good, with Close
		tried <- g.SetUint64([]byte("test"), 7)
	}()
	select {
	case err := <-tried:
		t.Errorf("a store after a failure returned %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if v, err := n.store.GetUint64([]byte("test")); err != nil || v != 0 {
		t.Errorf("%d was stored after a failure: %v", v, err)
	}
}

// answerless is a future of a raft that stopped for good.
type answerless chan struct{}

func (a answerless) Error() error { <-a; return nil }

// A node that is being closed does not wait for the last mark of a raft that stops meanwhile, as after a failed disk
// (guard.halt): it would wait for ever, as raft waits for the closing.
func TestCloseDoesNotWaitForARaftThatStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		never := make(answerless)
		done := make(chan error, 1)
		go func() { done <- n.unlessBroken(never) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		n.Node.fatal(brokenDisk("log", errors.New("fsync failed")))
		synctest.Wait()
		select {
		case err := <-done:
			if !errors.Is(err, ErrStopped) {
				t.Error(err)
			}
		default:
			t.Error("it waits")
		}
		close(never)
	})
}

// Raft answers no question that it has not taken when it stops: a leader that stops meanwhile does not wait for an answer to what
// it is asked to hand over, and leaves nobody behind who does.
func TestHandOverDoesNotOutliveARaftThatStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		first := c.leader()
		n := c.nodes["n1"]
		if n == first {
			n = c.nodes["n2"]
		}
		stopped := make(chan struct{})
		r := n.raft.Load()
		r.RegisterObserver(raft.NewObserver(nil, false, func(o *raft.Observation) bool {
			if l, ok := o.Data.(raft.LeaderObservation); ok && l.LeaderID == raft.ServerID(n.cfg.NodeID) {
				close(stopped)
				runtime.Goexit() // raft's main loop, which just began to lead
			}
			return false
		}))
		if err := first.transfer(n.cfg.NodeID); err != nil {
			t.Fatal(err)
		}
		<-stopped
		done := make(chan error, 1)
		go func() { done <- n.handOver(r, nil) }()
		synctest.Wait()
		n.Node.fatal(brokenDisk("log", errors.New("fsync failed")))
		if err := <-done; !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
	})
}
