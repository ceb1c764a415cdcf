package raftstate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/verdicts"
)

// fsm applies the log: first everything is decided in order, then the stores take what was accepted in parallel,
// then observers and proposers are told.
type fsm struct {
	store    *meta.Store
	machine  *machine.Machine
	verdicts *verdicts.Store
	sinks    Sinks
	log      *slog.Logger
	fatal    func(error)
	closing  <-chan struct{}
	restore  func(io.Reader) error // swaps in a staged generation
	// recorded takes what was held at the entry of a Marker; nil: nobody asks.
	recorded func(*recording)

	applied atomic.Uint64 // the last entry that state and stores hold
	failed  atomic.Bool   // nothing is applied any more
	held    atomic.Pointer[heldUp]
	waiters waiters

	// mu is held while entries are applied, while an image is cut and while a state is swapped.
	mu          gate
	term        uint64 // of the entry applied
	config      raft.Configuration
	configIndex uint64
	freezes     uint64 // counts freezes and swaps: a mark is only good as long as its freeze is the last
	quiet       bool   // entries are applied again of which everybody was told
	group       machine.Group
	shards      []wire.Samples
	floors      [len(command.Kinds) + 1]int64 // that the stores were told of
	format      uint32                        // the same
}

// gate is a lock that serves in turn and may be waited for no longer than a context lives.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) Lock() { g <- struct{}{} }

func (g gate) Unlock() { <-g }

func (g gate) LockContext(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heldUp says since when and why Apply waits for room on a disk.
type heldUp struct {
	since time.Time
	err   error
}

// outcome is what applying an entry gives to its proposer.
type outcome struct {
	index, term uint64
	results     []command.Result
}

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. A response is an outcome or an error.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	responses := make([]any, len(logs))
	if err := f.applyLocked(logs, responses); err != nil {
		if !errors.Is(err, ErrStopped) {
			f.fatal(err)
		}
		f.failed.Store(true)
		for i := range responses {
			responses[i] = err
		}
	}
	return responses
}

// maxGroupRaw bounds what the batches of a group have decompressed. Raft hands over several entries at once, and what
// is decoded of them stays in memory until the stores have taken it. An entry that holds more is a group by itself.
const maxGroupRaw = command.MaxEntryRaw

func (f *fsm) applyLocked(logs []*raft.Log, responses []any) error {
	if f.failed.Load() {
		return ErrStopped
	}
	f.group.Reset()
	commands, raw := 0, 0 // of the group
	for i, l := range logs {
		switch l.Type {
		case raft.LogConfiguration:
			f.config, f.configIndex = raft.DecodeConfiguration(l.Data), l.Index
		case raft.LogCommand:
			entry, err := command.Decode(l.Data)
			if err != nil {
				return unusable(l, err)
			}
			size := rawBytes(entry.Commands)
			if raw > 0 && raw+size > maxGroupRaw || commands > 0 && machine.EndsGroup(entry) {
				if err := f.finish(logs[i-1], commands); err != nil {
					return err
				}
				f.group.Reset()
				commands, raw = 0, 0
			}
			changed := len(f.group.Meta)
			results, err := f.machine.Apply(l.Index, l.Term, entry, &f.group)
			if err != nil {
				return unusable(l, err)
			}
			responses[i] = outcome{index: l.Index, term: l.Term, results: results}
			commands++
			raw += size
			if !f.quiet && asksToRecord(f.group.Meta[changed:]) {
				if err := f.finish(l, commands); err != nil {
					return err
				}
				f.record()
				f.group.Reset()
				commands, raw = 0, 0
			}
		}
	}
	return f.finish(logs[len(logs)-1], commands)
}

// finish ends the group, of which last is the last entry: the stores take it, then observers and waiters are told.
func (f *fsm) finish(last *raft.Log, commands int) error {
	g := &f.group
	if err := f.feed(last.Index); err != nil {
		return err
	}
	if f.verdicts != nil { // nobody reads a state that is being restored as a queue
		for i := range g.Verdicts { // before the entries count as applied: who reads them as a queue asks for these
			f.verdicts.Note(g.Verdicts[i].Index, g.Verdicts[i].Body)
		}
	}
	if commands > 0 {
		f.machine.Finish(g)
		if err := f.tellStores(slices.ContainsFunc(g.Meta, isSelectorCut)); err != nil {
			return err
		}
	}
	f.term = last.Term
	f.applied.Store(last.Index)
	if f.quiet {
		return nil
	}
	if commands > 0 {
		f.observe(&Applied{Index: last.Index, LogTime: g.LogTime, Samples: &g.Samples, Logs: g.Logs, Meta: g.Meta})
	}
	f.waiters.wake(last.Index)
	return nil
}

func isSelectorCut(c meta.Change) bool { return c.Bucket == command.BucketSelectorCuts }

// tellStores makes the retention cuts and the format of the state count in the stores; cuts says that what selectors have cut
// may have changed.
func (f *fsm) tellStores(cuts bool) error {
	if cuts {
		list, err := f.store.LogCuts()
		if err != nil {
			return damaged("state", err)
		}
		f.sinks.Logs.SetCuts(list)
	}
	if format := f.store.Format(); format != f.format {
		f.format = format
		f.sinks.Logs.SetFormat(format)
	}
	for _, kind := range command.Kinds {
		floor := f.store.Floor(kind)
		if floor == f.floors[kind] {
			continue
		}
		f.floors[kind] = floor
		switch kind { // a floor is in milliseconds, lines are in nanoseconds
		case command.KindMetrics:
			f.sinks.Metrics.SetFloor(floor)
		case command.KindLogs:
			f.sinks.Logs.SetKindFloor(wire.StreamLog, floor*1e6)
		case command.KindEvents:
			f.sinks.Logs.SetKindFloor(wire.StreamEvent, floor*1e6)
		}
	}
	return nil
}

// unusable is the error of an entry that this program cannot apply.
func unusable(l *raft.Log, err error) error {
	part := fmt.Sprintf("log entry %d", l.Index)
	if errors.Is(err, command.ErrMalformed) {
		return damaged(part, err)
	}
	return otherVersion(part, err)
}

// parallelFrom is how many samples make it worth to share them out over the cores.
const parallelFrom = 1024

// feed runs phase 2: metric shards, log lines and digests in parallel, joined before it returns.
func (f *fsm) feed(through uint64) error {
	g := &f.group
	n := 1
	if len(g.Samples.IDs) >= parallelFrom || len(g.Logs) > 0 {
		n = max(1, runtime.GOMAXPROCS(0))
	}
	tasks := make([]func() error, 0, 2*n+1)
	tasks = append(tasks, func() error {
		return f.write("logs", func() error { return f.sinks.Logs.ApplyLogs(through, g.Logs) })
	})
	for _, s := range f.split(n) {
		if len(s.IDs) > 0 {
			tasks = append(tasks, func() error {
				return f.write("metrics", func() error { return f.sinks.Metrics.ApplySamples(&s) })
			})
		}
	}
	for i := range n {
		tasks = append(tasks, func() error { g.HashShard(i, n); return nil })
	}
	return inParallel(tasks, n > 1)
}

func inParallel(tasks []func() error, parallel bool) error {
	errs := make([]error, len(tasks))
	if !parallel {
		for i, t := range tasks {
			errs[i] = t()
		}
		return errors.Join(errs...)
	}
	var wg sync.WaitGroup
	for i, t := range tasks[1:] {
		wg.Go(func() { errs[i+1] = t() })
	}
	errs[0] = tasks[0]()
	wg.Wait()
	return errors.Join(errs...)
}

// split shares the samples of the group out over n shards by series.
func (f *fsm) split(n int) []wire.Samples {
	all := &f.group.Samples
	if n == 1 || len(all.IDs) < parallelFrom {
		return []wire.Samples{*all}
	}
	for len(f.shards) < n {
		f.shards = append(f.shards, wire.Samples{})
	}
	for i := range f.shards {
		s := &f.shards[i]
		s.IDs, s.T, s.Values = s.IDs[:0], s.T[:0], s.Values[:0]
	}
	for i, id := range all.IDs {
		s := &f.shards[id%uint64(n)]
		s.IDs, s.T, s.Values = append(s.IDs, id), append(s.T, all.T[i]), append(s.Values, all.Values[i])
	}
	return f.shards[:n]
}

// write gives something to a store and waits for as long as its disk is full. Any other failure is fatal.
func (f *fsm) write(part string, do func() error) error {
	const first, most = 50 * time.Millisecond, 2 * time.Second
	waited := false
	for wait := first; ; wait = min(2*wait, most) {
		err := do()
		if err == nil {
			if waited && f.held.Swap(nil) != nil { // a store that still waits says so again
				f.log.Info("apply goes on", "store", part)
			}
			return nil
		}
		if !diskFull(err) {
			return brokenDisk("store of "+part, err)
		}
		if f.held.CompareAndSwap(nil, &heldUp{since: time.Now(), err: fmt.Errorf("store of %s: %w", part, err)}) {
			f.log.Error("apply is held up until the disk has room", "store", part, "err", err)
		}
		waited = true
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-f.closing:
			timer.Stop()
			return fmt.Errorf("store of %s has no room: %w", part, ErrStopped)
		}
	}
}

func (f *fsm) observe(a *Applied) {
	for _, o := range f.sinks.Observers {
		o.Observe(a)
	}
}

// Snapshot implements raft.FSM: it freezes the deciding state, in the goroutine of Apply.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed.Load() {
		return nil, ErrStopped
	}
	f.freezes++
	return &freeze{frozen: f.store.Freeze(f.applied.Load(), f.term), number: f.freezes}, nil
}

// Restore implements raft.FSM: it swaps in the generation that an install has staged.
func (f *fsm) Restore(r io.ReadCloser) error {
	if err := f.restore(r); err != nil {
		return errors.Join(err, r.Close())
	}
	return r.Close()
}

// freeze is a frozen overlay on its way to a mark.
type freeze struct {
	frozen *meta.Frozen
	number uint64
}

// Persist implements raft.FSMSnapshot.
func (z *freeze) Persist(sink raft.SnapshotSink) error {
	s, ok := sink.(*markSink)
	if !ok {
		return fmt.Errorf("mark into foreign sink %T", sink)
	}
	return s.mark(z)
}

// Release implements raft.FSMSnapshot. A frozen overlay that was not committed becomes part of the next one.
func (z *freeze) Release() {}

// waiters are those who wait for an index to be applied and told of. What is applied counts a moment before observers are
// told: who waits for it reads views that observers keep, and must not find them behind.
type waiters struct {
	told atomic.Uint64 // the last entry of which observers know, too

	mu   sync.Mutex
	list map[chan struct{}]uint64
}

// wake says that the entry told is applied and observers know of it.
func (w *waiters) wake(told uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told.Store(told)
	for ch, index := range w.list {
		if index <= told {
			close(ch)
			delete(w.list, ch)
		}
	}
}

// back says that the state is that of the entry index, which may be before the last one that was told of.
func (w *waiters) back(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told.Store(min(w.told.Load(), index))
}

// wait returns once wake was told of the entry index.
func (w *waiters) wait(ctx context.Context, index uint64, closing <-chan struct{}) error {
	if w.told.Load() >= index {
		return nil
	}
	ch := make(chan struct{})
	w.mu.Lock()
	if w.told.Load() >= index { // it came between the look and the lock
		w.mu.Unlock()
		return nil
	}
	if w.list == nil {
		w.list = make(map[chan struct{}]uint64)
	}
	w.list[ch] = index
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.list, ch)
		w.mu.Unlock()
	}()
	select {
	case <-ch:
		return nil
	case <-closing:
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("entry %d is not applied here yet (%d is): %w", index, w.told.Load(), ctx.Err())
	}
}
