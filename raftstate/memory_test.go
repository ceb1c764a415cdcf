package raftstate

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

// dense is a batch of lines that is a few hundred bytes in the log and close to wire.MaxBatchRaw decompressed.
func dense(t *testing.T, c *wire.Coder, agent string, epoch wire.Epoch, seq uint64) command.Command {
	t.Helper()
	var lines []wire.LogLine
	for range 8 {
		lines = append(lines, wire.LogLine{T: time.Now().UnixNano(), Text: bytes.Repeat([]byte{'x'}, 60<<10)})
	}
	raw := wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{
		Kind: wire.StreamLog, Labels: wire.Labels{{Name: "agent", Value: agent}}, Lines: lines,
	}}})
	codec, body := c.Compress(nil, raw)
	return command.NewBatch(wire.Batch{
		Identity: wire.Identity{Agent: agent, Epoch: epoch, Lane: wire.LaneLogs, Seq: seq, Hash: wire.HashContent(raw)},
		Codec:    codec, RawLen: len(raw), Body: body,
	}, 0)
}

func newCoder(t *testing.T) *wire.Coder {
	t.Helper()
	c, err := wire.NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDenseBatchesSpreadOverEntries proposes what is a few KiB in the log and many MiB in memory.
func TestDenseBatchesSpreadOverEntries(t *testing.T) {
	const batches, agents = 20, 3
	coder := newCoder(t)
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		writers := []*writer{newWriter(t, c.leader(), "agent-1"), newWriter(t, c.leader(), "agent-2"), newWriter(t, c.leader(), "agent-3")}
		var wg sync.WaitGroup
		for i, w := range writers {
			at := c.leader()
			if i == 0 {
				at = c.follower()
			}
			var cmds []command.Command
			for seq := range uint64(batches) {
				cmd := dense(t, coder, w.name, w.epoch, seq+1)
				if i == 1 { // as of a sender without sequences
					b, err := command.DecodeBatch(cmd)
					if err != nil {
						t.Fatal(err)
					}
					cmd = command.NewDeliver(command.Deliver{Source: w.name, Lane: b.Lane, Codec: b.Codec, RawLen: b.RawLen, Body: b.Body})
				}
				cmds = append(cmds, cmd)
			}
			wg.Go(func() {
				index, results, err := at.Propose(t.Context(), cmds...)
				if err != nil || len(results) != batches {
					t.Errorf("%d results, %v", len(results), err)
					return
				}
				last := uint64(0)
				for k, r := range results {
					if r.Status != command.StatusOK || r.Accepted != 8 || r.Index < last {
						t.Errorf("batch %d: %+v after entry %d", k, r, last)
					}
					last = r.Index
				}
				if last != index {
					t.Errorf("index is %d, the last batch is in entry %d", index, last)
				}
			})
		}
		wg.Wait()
		n := c.leader()
		found := 0
		for next := uint64(1); next <= n.AppliedIndex(); {
			entries, after, err := n.Entries(next, 100, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if raw := rawBytes(e.Commands); raw > command.MaxEntryRaw {
					t.Errorf("entry %d has %d commands of %d bytes decompressed", e.Index, len(e.Commands), raw)
				} else if raw > 0 {
					found++
				}
			}
			next = after
		}
		if found < agents*3 {
			t.Errorf("the batches came in %d entries", found)
		}
		if used := n.budget.used.Load(); used != 0 {
			t.Errorf("%d bytes were not given back", used)
		}
		c.settle()
	})
}

// TestGroupIsFedInPieces applies at once what raft hands over at once.
func TestGroupIsFedInPieces(t *testing.T) {
	coder := newCoder(t)
	store, err := meta.Open(filepath.Join(t.TempDir(), metaName), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	logs, seen := &fakeLogs{}, &recorder{}
	if err := logs.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	f := &fsm{
		store: store, machine: machine.New(store, coder, machine.DefaultLimits()), log: slog.New(slog.DiscardHandler), mu: newGate(),
		fatal: func(err error) { t.Error(err) }, sinks: Sinks{Metrics: &fakeMetrics{}, Logs: logs, Observers: []Observer{seen}},
	}
	epoch := wire.Epoch{1}
	entry := func(index uint64, cmds ...command.Command) *raft.Log {
		e := command.Entry{Stamp: time.Now().UnixMilli(), Commands: cmds}
		return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: e.Append(nil)}
	}
	f.Apply(entry(1, command.NewOpenEpoch("agent-1", epoch)))
	group := []*raft.Log{{Index: 2, Term: 1, Type: raft.LogNoop}}
	seq := uint64(0)
	for i := range uint64(8) {
		var cmds []command.Command
		for range 6 {
			seq++
			cmds = append(cmds, dense(t, coder, "agent-1", epoch, seq))
		}
		group = append(group, entry(3+i, cmds...))
	}
	for i, r := range f.ApplyBatch(group)[1:] {
		o, ok := r.(outcome)
		if !ok || o.index != uint64(3+i) || len(o.results) != 6 || o.results[5].Status != command.StatusOK {
			t.Errorf("entry %d: %+v", 3+i, r)
		}
	}
	if logs.largest > maxGroupRaw {
		t.Errorf("%d MiB were in memory at once, %d MiB are allowed", logs.largest>>20, maxGroupRaw>>20)
	}
	if lines := len(logs.snapshot().Lines); lines != 8*int(seq) || f.applied.Load() != 10 || seen.outOfOrder() {
		t.Errorf("%d lines, applied %d, out of order %v", lines, f.applied.Load(), seen.outOfOrder())
	}
}
