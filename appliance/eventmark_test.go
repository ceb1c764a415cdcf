package appliance

import (
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate"
)

func TestEventMark(t *testing.T) {
	entry := func(index uint64, kinds ...wire.StreamKind) wire.LogEntry {
		b := &wire.LogBatch{}
		for _, k := range kinds {
			b.Streams = append(b.Streams, wire.LogStream{Kind: k})
		}
		return wire.LogEntry{Index: index, Batches: []wire.AcceptedLogs{{Batch: &wire.LogBatch{}}, {Batch: b}}}
	}
	var m eventMark
	want := func(through, last uint64) {
		t.Helper()
		if m.through.Load() != through || m.last.Load() != last {
			t.Errorf("through %d, last %d; want %d, %d", m.through.Load(), m.last.Load(), through, last)
		}
	}
	m.observe(&raftstate.Applied{Index: 9, Logs: []wire.LogEntry{entry(8, wire.StreamLog), entry(9, wire.StreamLog)}})
	want(9, 0)
	m.begin(7) // what was there before may hold events
	want(9, 7)
	m.observe(&raftstate.Applied{Index: 14, Logs: []wire.LogEntry{entry(11, wire.StreamLog, wire.StreamEvent), entry(13, wire.StreamLog)}})
	want(14, 11)
	m.installed(20)
	want(20, 20)
	m.observe(&raftstate.Applied{Index: 21})
	want(21, 20)
}
