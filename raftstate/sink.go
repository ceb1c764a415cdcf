package raftstate

import (
	"context"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/meta"
)

// Sink is a store that Apply feeds. The node opens, feeds, marks, images and swaps it; readers use the store's
// own query methods at any time, also while the node swaps its directory (they see the old or the new one and
// never a closed one).
type Sink interface {
	// Open opens the store kept in dir (made when absent). When a store is open already it is replaced: new
	// readers get the new one, the old is closed once its readers are gone or 5 s have passed, their contexts
	// being cancelled then. An error with the method OtherVersion() says that what dir holds is whole but not
	// known to this program.
	Open(dir string) error
	// Flush hands all that was applied before the call to the file system, so that a syncfs of the
	// directory makes it durable. It runs beside Apply, never in its goroutine.
	Flush(ctx context.Context) error
	// Pause stops background work that rewrites files (compaction, sealing, merging) and returns once it
	// stands still. It may take long, so it is called before Apply is held up. Resume is idempotent.
	Pause(ctx context.Context) (resume func(), err error)
	// Cut makes in dst (absent before) a complete copy of the store as of this moment, from hard links and
	// short copies, that Open accepts. Called paused and with Apply held up: it must be quick.
	Cut(dst string) error
	Close() error
}

// MetricSink stores accepted samples. Nothing of a sample is decided here (DESIGN D2).
type MetricSink interface {
	Sink
	// ApplySamples stores the samples before it returns (durable only after Flush and a syncfs). Samples that
	// the store has already are passed over. The columns belong to the caller. Several calls may run at once
	// with disjoint series. An error that is ENOSPC says that nothing was stored, and the call is repeated until
	// there is room; any other stops the node, and its next start applies all since the mark again.
	ApplySamples(s *wire.Samples) error
	// SetFloor hides all samples before ms, in milliseconds since 1970, from readers at once and for good. It may be
	// called at any time, also before Open.
	SetFloor(ms int64)
}

// LogSink stores accepted lines and events.
type LogSink interface {
	Sink
	// ApplyLogs stores the entries, given in ascending order of Index, in one atomic write together with
	// `through`, the index of the last entry of the log that this call stands for. Entries at or below Applied
	// are passed over. Errors are as those of ApplySamples.
	ApplyLogs(through uint64, entries []wire.LogEntry) error
	// Applied returns the greatest `through` that the store holds. A store behind the mark after a restart is
	// damaged.
	Applied() uint64
	// SetFormat tells of the format of the cluster's state, before the store is opened and whenever it was raised. Forms on disk
	// that programs of an older format cannot read are written only then: until then such a program may take the store over.
	SetFormat(format uint32)
	// SetCuts replaces what is known of the lines that retention has removed by their stream: no
	// reader sees them any more when it returns. It is told before Open what the state says, and may be called at any time.
	SetCuts(cuts []wire.LogCut)
	// Durable says that the state is durable up to the entry index. What cuts of entries up to there hide may be removed from
	// disk: a state that does not know of the cut will not come back.
	Durable(index uint64)
	// SetKindFloor is SetFloor for the streams of one kind, in nanoseconds since 1970.
	SetKindFloor(kind wire.StreamKind, ns int64)
}

// Applied is what one group of entries brought, as observers see it. Everything in it belongs to the state
// machine and is valid only during the call.
type Applied struct {
	Index   uint64 // the last entry of the group
	LogTime int64  // milliseconds since 1970
	Samples *wire.Samples
	Logs    []wire.LogEntry
	Meta    []MetaChange
	// Installed says that the whole state was replaced by the image of another node: anything may have changed
	// and nothing but Index and LogTime is given.
	Installed bool
	// Repaired says, with Installed, that this was for a repair: the node is where it was.
	Repaired bool
}

// MetaChange names a key of the metadata that changed.
type MetaChange = meta.Change

// Observer is told of each group of entries after the stores hold it, in the order of the log, from the apply
// goroutine: it must copy what it keeps and never block.
type Observer interface{ Observe(a *Applied) }

// Sinks are what Apply feeds. The node owns the stores: it opens and closes them.
type Sinks struct {
	Metrics   MetricSink
	Logs      LogSink
	Observers []Observer
}
