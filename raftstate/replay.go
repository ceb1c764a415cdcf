package raftstate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// Rework opens the state of an image that was unpacked, before Found, lets do change it and makes the outcome durable.
// newSinks makes the stores, which are not open yet and know series by the state; they are closed when Rework returns.
func (r *Restored) Rework(ctx context.Context, newSinks func(state *meta.Store) (Sinks, error), log *slog.Logger, do func(*Rework) error) (err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	state, err := meta.Open(r.layout.MetaFile(r.generation), log)
	if err != nil {
		return fmt.Errorf("open metadata: %w", err)
	}
	defer func() {
		if err = errors.Join(err, state.Close()); err != nil {
			return
		}
		r.About, err = meta.Summarize(r.layout.MetaFile(r.generation))
	}()
	sinks, err := newSinks(state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSinks(sinks)) }() // before the state, which they ask
	coder, err := wire.NewCoder()
	if err != nil {
		return err
	}
	closing := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(closing) })()
	w := &Rework{r: r, ctx: ctx, fsm: &fsm{
		store: state, machine: machine.New(state, coder, machine.DefaultLimits()), sinks: sinks, log: log,
		fatal: func(error) {}, closing: closing, mu: newGate(),
	}}
	w.fsm.adopt(&r.About.Mark)
	if err := w.open(); err != nil {
		return err
	}
	if err := do(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return w.commit()
}

// Rework is a state that is being changed before a cluster begins with it.
type Rework struct {
	r   *Restored
	ctx context.Context
	fsm *fsm

	batch  []*raft.Log
	size   int
	behind int // bytes applied since the last commit
}

func (w *Rework) open() error {
	if err := w.fsm.tellStores(true); err != nil {
		return err
	}
	if err := w.fsm.sinks.Metrics.Open(w.r.MetricsDir()); err != nil {
		return fmt.Errorf("open store of metrics: %w", err)
	}
	if err := w.fsm.sinks.Logs.Open(w.r.LogsDir()); err != nil {
		return fmt.Errorf("open store of logs: %w", err)
	}
	at := w.fsm.applied.Load()
	if w.r.emptyLogs { // it holds all there is of the log up to here
		return wrap("begin store of logs", w.fsm.sinks.Logs.ApplyLogs(at, nil))
	}
	if held := w.fsm.sinks.Logs.Applied(); held < at {
		return fmt.Errorf("store of logs holds the log up to entry %d, the watermark says %d: %w", held, at, snapshot.ErrImage)
	}
	return nil
}

// Applied is the last entry that the state holds; those given to Apply and not taken up yet count.
func (w *Rework) Applied() uint64 {
	if n := len(w.batch); n > 0 {
		return w.batch[n-1].Index
	}
	return w.fsm.applied.Load()
}

// LogTime is that of the state, in milliseconds since 1970.
func (w *Rework) LogTime() int64 { return w.fsm.store.LogTime() }

// How many entries are applied at once, as raft hands them over on a node.
const (
	reworkEntries = 256
	reworkBytes   = 4 << 20
	reworkCommit  = 256 << 20 // after which what was applied goes to disk, so that memory is bounded
)

// Apply gives the state the next entry of the log, as every node of the cluster applied it. What is given may be taken
// up later; Flush and the end of Rework do that. The data must not be changed afterwards.
func (w *Rework) Apply(e ArchivedEntry) error {
	if e.Index != w.Applied()+1 {
		return fmt.Errorf("replay the log: entry %d follows %d", e.Index, w.Applied())
	}
	w.batch = append(w.batch, &raft.Log{Index: e.Index, Term: e.Term, Type: raft.LogType(e.Type), Data: e.Data})
	if w.size += len(e.Data); len(w.batch) < reworkEntries && w.size < reworkBytes {
		return nil
	}
	return w.Flush()
}

// Flush applies what was given to Apply.
func (w *Rework) Flush() error {
	if len(w.batch) == 0 {
		return nil
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	responses := make([]any, len(w.batch))
	w.fsm.mu.Lock()
	err := w.fsm.applyLocked(w.batch, responses)
	w.fsm.mu.Unlock()
	w.behind += w.size
	first, last := w.batch[0].Index, w.batch[len(w.batch)-1].Index
	w.batch, w.size = w.batch[:0], 0
	if err != nil {
		return fmt.Errorf("replay the log, entries %d to %d: %w", first, last, err)
	}
	if w.behind > reworkCommit {
		return w.commit()
	}
	return nil
}

// Edit changes the metadata as an entry at the index of the state would.
func (w *Rework) Edit(change func(tx *meta.Tx) error) error {
	if err := w.Flush(); err != nil {
		return err
	}
	var changes []meta.Change
	tx := w.fsm.store.Begin(w.fsm.applied.Load(), 0, &changes)
	err := change(tx)
	tx.End()
	return errors.Join(err, w.fsm.tellStores(true))
}

// commit makes everything durable, the mark last.
func (w *Rework) commit() error {
	f := w.fsm
	index := f.applied.Load()
	w.behind = 0
	frozen := f.store.Freeze(index, f.term)
	err := inParallel([]func() error{
		func() error { return wrap("flush store of metrics", f.sinks.Metrics.Flush(w.ctx)) },
		func() error { return wrap("flush store of logs", f.sinks.Logs.Flush(w.ctx)) },
	}, true)
	if err == nil {
		err = w.r.layout.Sync(w.r.generation)
	}
	if err != nil {
		return err
	}
	return wrap("commit the watermark", frozen.Commit(meta.Mark{
		Index: index, Term: f.term, Configuration: raft.EncodeConfiguration(f.config), ConfigurationIndex: f.configIndex,
		Generation: w.r.generation,
	}))
}

// Empty puts an empty store in the place of one that was unpacked: snapshot.KindMetrics or KindLogs. It is called before
// Rework.
func (r *Restored) Empty(kind string) error {
	if kind != snapshot.KindMetrics && kind != snapshot.KindLogs {
		return fmt.Errorf("there is no store %q", kind)
	}
	r.emptyLogs = r.emptyLogs || kind == snapshot.KindLogs
	return r.layout.EmptyStore(kind, r.generation)
}

// Digest folds the running digests of the state, as `triward cluster status` shows them.
func (r *Restored) Digest() string { return meta.FoldDigests(r.About.Digests) }
