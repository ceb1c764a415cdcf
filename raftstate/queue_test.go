package raftstate

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// all reads the queue of a node from an entry on.
func (n *testNode) all(t *testing.T, from uint64, read func(from uint64) ([]QueueEntry, uint64, error)) (entries []QueueEntry) {
	t.Helper()
	for {
		page, next, err := read(from)
		if err != nil {
			t.Fatalf("read of node %s from %d: %v", n.id, from, err)
		}
		if len(page) == 0 {
			return entries
		}
		entries = append(entries, page...)
		from = next
	}
}

// again sends the newest batch of lines once more, as a sender does that has lost the answer.
func (w *writer) again(n *testNode) {
	w.t.Helper()
	w.seq[wire.LaneLogs]--
	body := wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "agent", Value: w.name}}}}})
	c := w.batch(wire.LaneLogs, body)
	b, err := command.DecodeBatch(c)
	if err != nil {
		w.t.Fatal(err)
	}
	b.Seq-- // one before the newest: its content is not compared any more
	res := w.must(n, command.NewBatch(b.Batch, 0))
	w.seq[wire.LaneLogs]++
	if len(res) != 1 || res[0].Status != command.StatusDuplicate {
		w.t.Errorf("a batch that came again: %+v", res)
	}
}

func TestOldEntriesAreReadFromPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, func(cfg *Config) {
			if smallQueue(cfg); cfg.NodeID == "n2" {
				cfg.QueueBytes = 1 << 30
			}
		})
		w := newWriter(t, c.leader(), "agent-1")
		w.text = strings.Repeat("x", 20_000)
		if c.leader().id != "n1" {
			if err := c.leader().TransferLeadership(t.Context(), "n1"); err != nil {
				t.Fatal(err)
			}
			c.wait("n1 leads", func() bool { return c.nodes["n1"].Status().Role == "leader" })
		}
		away := c.nodes["n3"]
		c.kill("n3")
		c.wipe("n3")
		for i := range 250 {
			w.write(c.leader())
			if i%20 == 10 {
				w.again(c.leader())
			}
		}
		c.wait("a short log", func() bool { w.write(c.leader()); return c.leader().Status().FirstIndex > 100 })
		c.addrs = nil
		c.start("n3")
		c.wait("the install", func() bool { return away.seen.installs() > 0 })
		for range 5 {
			w.write(c.leader())
		}
		c.settle()
		first := away.Status().FirstIndex
		if first < 100 {
			t.Fatalf("node n3 has the log from %d on", first)
		}
		read := func(n *testNode) []QueueEntry {
			return n.all(t, 1, func(from uint64) ([]QueueEntry, uint64, error) { return n.ReadQueue(t.Context(), from, 7, 1<<20) })
		}
		own := c.nodes["n2"].all(t, 1, func(from uint64) ([]QueueEntry, uint64, error) { return c.nodes["n2"].Entries(from, 1000, 1<<20) })
		for _, id := range []string{"n1", "n3"} {
			got := read(c.nodes[id])
			duplicates := 0
			for i := range min(len(got), len(own)) {
				got[i].AppendedAt, own[i].AppendedAt = time.Time{}, time.Time{}
				if !reflect.DeepEqual(got[i], own[i]) {
					t.Fatalf("node %s: entry %d is %+v, of n2 %+v", id, i+1, got[i], own[i])
				}
				if v := got[i].Verdict; v != nil && slices.ContainsFunc(v.Commands, func(c command.CommandVerdict) bool { return c.Status == command.StatusDuplicate }) {
					duplicates++
				}
				if !got[i].Judged {
					t.Fatalf("node %s: nothing is known of entry %d", id, i+1)
				}
			}
			if len(got) < int(first) || duplicates < 10 {
				t.Errorf("node %s: %d entries, %d duplicates among them", id, len(got), duplicates)
			}
		}
		// An archive reads the same, bytes and all, wherever it is written.
		var raw []ArchivedEntry
		for from := uint64(1); from <= uint64(len(own)); {
			page, begins, _, err := away.CommittedLog(t.Context(), from, 100_000)
			if err != nil || len(page) == 0 || begins != first {
				t.Fatalf("for the archive from %d: %d entries, begins at %d, %v", from, len(page), begins, err)
			}
			raw = append(raw, page...)
			from = page[len(page)-1].Index + 1
		}
		for i, e := range own {
			if raw[i].Index != e.Index || raw[i].Term != e.Term || raw[i].Stamp != e.Stamp || len(raw[i].Data) != e.Bytes {
				t.Fatalf("for the archive entry %d is %d of term %d with %d bytes", e.Index, raw[i].Index, raw[i].Term, len(raw[i].Data))
			}
		}
		stamp := own[50].Stamp
		for i := 51; stamp == 0; i++ {
			stamp = own[i].Stamp
		}
		wantAt := own[slices.IndexFunc(own, func(e QueueEntry) bool { return e.Stamp >= stamp })].Index
		if at, err := away.EntryAt(t.Context(), stamp); err != nil || at != wantAt {
			t.Errorf("the entry at %d is %d, want %d: %v", stamp, at, wantAt, err)
		}
		if at, err := away.EntryAt(t.Context(), stamp+1e9); err != nil || at != away.AppliedIndex()+1 {
			t.Errorf("the entry of the future is %d: %v", at, err)
		}
		// The one that has them is still applying its log, as behind its start: it may hold them in a moment.
		var gone *GoneError
		behind := c.nodes["n2"]
		applied := behind.fsm.applied.Swap(3)
		_, _, err := away.ReadQueue(t.Context(), 5, 10, 1<<20)
		behind.fsm.applied.Store(applied)
		if !errors.As(err, &gone) || !slices.Equal(gone.Silent, []string{"n2"}) {
			t.Fatalf("a member that has not applied the entry: %#v", err)
		}
		// The one that has them is gone: what is missing is named, and who might have it.
		c.kill("n2")
		if page, begins, _, err := away.CommittedLog(t.Context(), 5, 1<<20); err != nil || len(page) > 0 || begins != first {
			t.Errorf("for the archive: %d entries, begins at %d, %v", len(page), begins, err)
		}
		_, next, err := away.ReadQueue(t.Context(), 5, 10, 1<<20)
		if !errors.As(err, &gone) || !errors.Is(err, ErrGone) || next != gone.First || gone.From != 5 || !slices.Equal(gone.Silent, []string{"n2"}) {
			t.Fatalf("next %d, %#v", next, err)
		}
		if want := min(first, c.nodes["n1"].Status().FirstIndex); gone.First != want {
			t.Errorf("the log begins at %d, want %d", gone.First, want)
		}
	})
}

func TestVerdictsSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, func(cfg *Config) { cfg.MarkInterval = time.Second })
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		for range 5 {
			w.write(n)
		}
		w.again(n)
		read := func() []QueueEntry {
			n := c.leader()
			return n.all(t, 1, func(from uint64) ([]QueueEntry, uint64, error) { return n.ReadQueue(t.Context(), from, 1000, 1<<20) })
		}
		before := read()
		judged := func(es []QueueEntry) (known, exceptions int) {
			for i := range es {
				if es[i].Judged {
					known++
				}
				if es[i].Verdict != nil {
					exceptions++
				}
			}
			return known, exceptions
		}
		if known, exceptions := judged(before); known != len(before) || exceptions != 1 {
			t.Fatalf("%d of %d entries are judged, %d with exceptions", known, len(before), exceptions)
		}
		index := n.AppliedIndex()
		c.wait("a mark", func() bool { return n.Status().MarkIndex >= index })
		c.kill(n.id)
		c.start(n.id)
		after := read()
		if known, exceptions := judged(after[:len(before)]); known != len(before) || exceptions != 1 {
			t.Errorf("after a restart %d of %d entries are judged, %d with exceptions", known, len(before), exceptions)
		}
		// A file that is damaged is set aside; what is applied from then on is known again.
		index = c.leader().AppliedIndex()
		c.wait("a mark", func() bool { return c.leader().Status().MarkIndex >= index })
		c.kill(n.id)
		path := filepath.Join(n.dir, queueDir, verdictsName)
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(body); i += 64 {
			body[i] ^= 1
		}
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		c.start(n.id)
		w.write(c.leader())
		w.again(c.leader())
		after = read()
		known, exceptions := judged(after[:len(before)])
		if known != 0 || exceptions != 0 {
			t.Errorf("with a damaged file %d of %d entries are judged, %d with exceptions", known, len(before), exceptions)
		}
		if _, exceptions := judged(after); exceptions != 1 {
			t.Errorf("%d exceptions, want that of the newest duplicate", exceptions)
		}
	})
}
