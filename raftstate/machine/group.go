package machine

import (
	"sync"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// Group is what consecutive entries bring to the stores. The zero value is empty and ready. Its memory is used
// again after Reset, so nothing in it may be kept beyond that.
type Group struct {
	Samples wire.Samples
	Logs    []wire.LogEntry
	Meta    []meta.Change // a key that changed twice is there twice
	// Verdicts are of the entries of which not all was applied as it stands; their bodies belong to whoever takes them.
	Verdicts []IndexedVerdict

	FirstIndex, LastIndex uint64
	LogTime               int64 // of the last entry, milliseconds since 1970

	term   uint64
	hashes []uint64 // of the labels of each sample

	mu     sync.Mutex
	shards int // of which parts are in sum
	sum    meta.Digests
}

// IndexedVerdict is the verdict on an entry in its binary form (command.Verdict).
type IndexedVerdict struct {
	Index uint64
	Body  []byte
}

// Reset empties the group and keeps its memory within bounds.
func (g *Group) Reset() {
	const maxKept = 1 << 20 // samples
	if cap(g.Samples.IDs) > maxKept {
		g.Samples, g.hashes = wire.Samples{}, nil
	}
	g.Samples.IDs, g.Samples.T, g.Samples.Values = g.Samples.IDs[:0], g.Samples.T[:0], g.Samples.Values[:0]
	g.hashes = g.hashes[:0]
	clear(g.Logs)
	clear(g.Meta)
	clear(g.Verdicts)
	g.Logs, g.Meta, g.Verdicts = g.Logs[:0], g.Meta[:0], g.Verdicts[:0]
	g.FirstIndex, g.LastIndex, g.LogTime, g.term = 0, 0, 0, 0
	g.shards, g.sum = 0, meta.Digests{}
}

func (g *Group) begin(index, term uint64, logTime int64) {
	if g.FirstIndex == 0 {
		g.FirstIndex = index
	}
	g.LastIndex, g.term, g.LogTime = index, term, logTime
}

// addLogs appends an accepted batch to the entry index.
func (g *Group) addLogs(index uint64, a wire.AcceptedLogs) {
	if n := len(g.Logs); n == 0 || g.Logs[n-1].Index != index {
		g.Logs = append(g.Logs, wire.LogEntry{Index: index})
	}
	last := &g.Logs[len(g.Logs)-1]
	last.Batches = append(last.Batches, a)
}

// HashShard computes part i of n of the group's digests. Parts may be computed at once and beside the stores;
// each of 0..n-1 must be computed exactly once before Finish, or none.
func (g *Group) HashShard(i, n int) {
	var d meta.Digests
	s := &g.Samples
	for j, to := i*len(s.IDs)/n, (i+1)*len(s.IDs)/n; j < to; j++ {
		d.Add(command.KindMetrics, s.T[j], meta.HashSample(g.hashes[j], s.T[j], s.Values[j]))
	}
	var buf []byte
	k := 0
	for e := range g.Logs {
		for b := range g.Logs[e].Batches {
			if k%n == i {
				buf = hashLines(&d, g.Logs[e].Batches[b].Batch, buf)
			}
			k++
		}
	}
	part := d.List()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shards++
	for _, p := range part {
		g.sum.AddDigest(p)
	}
}

func hashLines(d *meta.Digests, b *wire.LogBatch, buf []byte) []byte {
	for i := range b.Streams {
		st := &b.Streams[i]
		stream, kind := meta.HashStream(st.Kind, st.Labels), kindOf(st.Kind)
		for j := range st.Lines {
			var sum meta.Sum
			sum, buf = meta.HashLine(stream, &st.Lines[j], buf)
			d.Add(kind, floorMs(st.Lines[j].T), sum)
		}
	}
	return buf
}

func kindOf(k wire.StreamKind) command.Kind {
	if k == wire.StreamEvent {
		return command.KindEvents
	}
	return command.KindLogs
}

// floorMs turns nanoseconds into the millisecond they lie in.
func floorMs(ns int64) int64 {
	ms := ns / 1e6
	if ns%1e6 < 0 {
		ms--
	}
	return ms
}

func (g *Group) digests() []meta.Digest {
	if g.shards == 0 {
		g.HashShard(0, 1)
	}
	return g.sum.List()
}
