package machine_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/machine"
)

// TestDecodedBeforehandChangesNothing: whether a node has decoded a batch before, and whatever it has decoded under the same
// identity, Apply does the same.
func TestDecodedBeforehandChangesNothing(t *testing.T) {
	with, without := newRig(t, machine.DefaultLimits()), newRig(t, machine.DefaultLimits())
	known := wire.NewDecoded(1 << 20)
	with.m.TakeFrom(known)
	day := int64(86_400_000)
	logs := &wire.LogBatch{Streams: []wire.LogStream{
		{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "agent", Value: "a0"}, {Name: "host", Value: "h"}}, Lines: []wire.LogLine{
			{T: start * 1e6, Severity: wire.SeverityError, Text: []byte("now")},
			{T: (start + day) * 1e6, Fields: []wire.Label{{Name: "k", Value: "v"}}, Text: []byte("of the future")},
			{T: -1, Text: []byte("before all")},
		}},
		{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "unit", Value: "x"}}, Lines: []wire.LogLine{{T: (start - day) * 1e6}}},
	}}
	plain := &wire.LogBatch{Streams: logs.Streams[1:]}
	other := &wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "unit", Value: "y"}}, Lines: plain.Streams[0].Lines}}}
	for i, c := range []struct{ sent, kept *wire.LogBatch }{
		{plain, plain}, {logs, logs}, {plain, nil}, {plain, other}, {logs, plain},
	} {
		id := with.id(wire.LaneLogs)
		without.id(wire.LaneLogs)
		command := batch(with.coder, id, wire.AppendLogs(nil, c.sent))
		if c.kept != nil {
			raw := wire.AppendLogs(nil, c.kept)
			b := wire.Batch{Identity: id, RawLen: len(raw)}
			b.Codec, b.Body = with.coder.Compress(nil, raw)
			decoded, err := wire.DecodeLogs(raw)
			if err != nil {
				t.Fatal(err)
			}
			if !known.Keep(&b, decoded) {
				t.Fatalf("batch %d is not kept", i)
			}
			if got := known.Take(&b); got != decoded { // it is what the machine looks for
				t.Fatalf("batch %d cannot be taken", i)
			}
			known.Keep(&b, decoded)
		}
		a, b := with.apply(command), without.apply(command)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("batch %d: results %+v and %+v", i, a, b)
		}
		if !reflect.DeepEqual(with.group.Logs, without.group.Logs) || !reflect.DeepEqual(with.group.Verdicts, without.group.Verdicts) {
			t.Errorf("batch %d: stores are given %+v and %+v", i, with.group.Logs, without.group.Logs)
		}
		with.group.HashShard(0, 1)
		without.group.HashShard(0, 1)
	}
	_, a := with.s.Digests()
	if _, b := without.s.Digests(); len(a) == 0 || !reflect.DeepEqual(a, b) {
		t.Errorf("digests %v and %v", a, b)
	}
}

// TestLinesStayWhatTheyWere: stores may keep the batches that they are given, so the next group is not decoded into their memory.
func TestLinesStayWhatTheyWere(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	deliver := func(b byte) *wire.LogBatch {
		logs := &wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "unit", Value: "x"}}, Lines: []wire.LogLine{
			{T: start * 1e6, Text: bytes.Repeat([]byte{b}, 1000)},
		}}}}
		r.apply(batch(r.coder, r.id(wire.LaneLogs), wire.AppendLogs(nil, logs)))
		if len(r.group.Logs) != 1 {
			t.Fatalf("%d entries with lines", len(r.group.Logs))
		}
		return r.group.Logs[0].Batches[0].Batch
	}
	first := deliver('a')
	deliver('b')
	if text := first.Streams[0].Lines[0].Text; !bytes.Equal(text, bytes.Repeat([]byte{'a'}, 1000)) {
		t.Errorf("a line became %.20q", text)
	}
}
