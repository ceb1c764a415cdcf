package raftstate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/meta"
)

// All nodes record at exactly the entry of the marker, whatever comes before and behind it, and record the same.
func TestNodesRecordAtOneEntry(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	n := c.leader()
	w := newWriter(t, n, "a1")
	var load sync.WaitGroup
	load.Go(func() {
		for range 120 {
			w.write(n)
		}
	})
	other := newWriter(t, n, "a2")
	for i := range 5 {
		name := fmt.Sprint("record", i)
		op, err := NewMarker(Marker{Name: name, Keys: []string{"meta/" + BucketIntegrity}})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			other.write(n)
		}
		results := other.must(n, command.NewMetaTxn(command.Txn{Ops: []command.Op{op}}))
		var want Record
		for k, id := range c.ids {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			got, err := c.nodes[id].Recorded(ctx, name)
			cancel()
			if errors.Is(err, ErrSuperseded) { // a mark came between: whoever compares asks again
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.State.Mark.Index != results[0].Index || got.State.Sum == "" || len(got.Tables) == 0 || len(got.Keys["meta/"+BucketIntegrity]) != 1 {
				t.Fatalf("%s: %+v, the marker is entry %d", id, got, results[0].Index)
			}
			if !reflect.DeepEqual(got.Digests, got.State.Digests) {
				t.Errorf("%s: digests %v, those of the state %v", id, got.Digests, got.State.Digests)
			}
			got.State.Mark = meta.Mark{}
			if k == 0 {
				want = got
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%s recorded %+v, %s %+v", id, got, c.ids[0], want)
			}
		}
	}
	load.Wait()
	c.settle()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := n.Recorded(ctx, "never"); !errors.Is(err, ErrNoRecord) {
		t.Errorf("a record that nobody asked for: %v", err)
	}
	if _, err := n.Recorded(ctx, "record0"); !errors.Is(err, ErrNoRecord) { // five were made, four are kept
		t.Errorf("the oldest record: %v", err)
	}
}

// A record is forgotten when whoever compares has had the time to ask for it.
func TestRecordsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		w := newWriter(t, n, "a1")
		op, err := NewMarker(Marker{Name: "one"})
		if err != nil {
			t.Fatal(err)
		}
		w.must(n, command.NewMetaTxn(command.Txn{Ops: []command.Op{op}}))
		time.Sleep(recordFor / 2)
		if _, err := n.Recorded(t.Context(), "one"); err != nil {
			t.Error(err)
		}
		time.Sleep(recordFor)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Recorded(ctx, "one"); !errors.Is(err, ErrNoRecord) {
			t.Errorf("a record of a while ago: %v", err)
		}
	})
}

// What a scrub reads of log and state is whole while entries are written, and named when a bit flips.
func TestScrubOfLogAndState(t *testing.T) {
	// No mark but the one that is made below: an entry behind a mark is dropped when it is damaged, and is no error.
	c := newTestCluster(t, 1, func(cfg *Config) { cfg.MarkInterval = time.Hour })
	n := c.leader()
	w := newWriter(t, n, "a1")
	w.text = "a line to be damaged"
	w.write(n) // the one below may not come to it before the search is over
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	wrote := make(chan struct{})
	load.Go(func() {
		for ctx.Err() == nil {
			w.write(n)
			select {
			case wrote <- struct{}{}:
			default:
			}
		}
	})
	read := 0
	pace := func(b int) error { read += b; return nil }
	for range 10 {
		<-wrote // reading is faster than writing where the machine is busy
		if err := n.ScrubLog(t.Context(), 0, pace); err != nil {
			t.Fatal(err)
		}
		if _, err := n.ScrubState(pace); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	load.Wait()
	if read == 0 {
		t.Error("nothing was read")
	}
	if !flip(t, n.dir, w.text) {
		t.Fatal("the line is not in the log")
	}
	if err := n.ScrubLog(t.Context(), 0, pace); !errors.Is(err, logfile.ErrCorrupt) {
		t.Errorf("a damaged entry: %v", err)
	}
	if err := n.raft.Load().Snapshot().Error(); err != nil { // a mark, so that there is something in the file
		t.Fatal(err)
	}
	path := n.state.Path()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := 2 * 4096; at < len(b) && found == 0; at += 512 { // some lie in pages that are not in use
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if _, err := n.ScrubState(pace); errors.Is(err, meta.ErrDamaged) {
			found++
		} else if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("no flipped bit of the metadata was found")
	}
}
