package logstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// dropDays removes the days that lie below the query floor as a whole. That a day cannot be dropped, damaged as it
// may be, does not keep the others; nor does a disk that takes nothing more, since it is this that frees it.
func (e *engine) dropDays() (bool, error) {
	low := e.store.floorsNow()
	due, err := e.daysBefore(Day(low.all()))
	if err != nil || len(due) == 0 {
		e.keepReserve()
		return false, err
	}
	e.applyMu.Lock()
	for k := range e.known {
		if slices.Contains(due, k.day) {
			delete(e.known, k)
		}
	}
	e.applyMu.Unlock()
	// Excise takes tables at once. Where it meets rows in memory it takes its place behind them and comes into effect
	// when they are flushed: nothing is left over, but nothing is freed until then either. Hence the flush; on a full
	// disk there is none, and what has long been in tables, which is nearly all, goes nevertheless. Apply adds nothing
	// to a day below the floor but dictionary rows, which are dropped the next time.
	ctx, cancel := context.WithTimeout(e.ctx, dropPatience)
	err = e.flushTables(ctx)
	cancel()
	full := noRoom(err) || e.freeBytes() < scarce
	if err != nil && !noRoom(err) {
		return false, fmt.Errorf("drop days: %w", err)
	}
	if full {
		e.tables.Lock() // whatever is freed now is needed to note what was dropped
		defer e.tables.Unlock()
		e.giveReserve()
	}
	var errs []error
	for _, d := range due {
		if err := e.dropDay(d, full, low); err != nil {
			errs = append(errs, fmt.Errorf("drop day %d: %w", d, err))
		}
	}
	return false, errors.Join(errs...)
}

// dropPatience bounds the flush before days are dropped.
const dropPatience = 30 * time.Second

// daysBefore lists the days before floor that anything is left of.
func (e *engine) daysBefore(floor int64) ([]int64, error) {
	var due []int64
	for _, p := range []byte{prefixHeader, prefixStream, prefixIndex} {
		days, err := e.days(e.db, p, false)
		if err != nil {
			return nil, err
		}
		for _, d := range days {
			if d < floor {
				due = append(due, d)
			}
		}
	}
	slices.Sort(due)
	return slices.Compact(due), nil
}

func (e *engine) dropDay(d int64, full bool, low floors) error {
	name, ok, err := e.indexName(e.db, d)
	if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, block.ErrNewer) { // an index whose name is lost goes at the next start
		return err
	}
	dropIndex := func() error {
		if ok && e.index != nil {
			return e.index.Drop(d, name)
		}
		return nil
	}
	if full { // the index goes without a note anywhere
		if err := dropIndex(); err != nil {
			return err
		}
		if free := e.freeBytes(); free < noteRoom {
			return fmt.Errorf("%d bytes are free, too few to note it: %w", free, syscall.ENOSPC)
		}
	}
	if err := e.noteFloors(low); err != nil {
		return err
	}
	for _, p := range []byte{prefixHeader, prefixColumns, prefixText, prefixFilter, prefixMark, prefixStream, prefixIndex} {
		if err := e.db.Excise(e.ctx, pebble.KeyRange{Start: dayPrefix(p, d), End: dayPrefix(p, d+1)}); err != nil {
			return e.wrap("excise", err)
		}
	}
	e.ripe.drop(d)
	return dropIndex()
}

// dropKinds removes the streams of one kind from a day that is below the floor of that kind but not of the
// other. Their words stay in the day's index, where nobody meets them.
func (e *engine) dropKinds() (bool, error) {
	low := e.store.floorsNow()
	if low == e.swept {
		return false, nil
	}
	if err := e.noteFloors(low); err != nil {
		return false, err
	}
	days, err := e.days(e.db, prefixStream, false)
	if err != nil {
		return false, err
	}
	for _, d := range days {
		for _, kind := range []wire.StreamKind{wire.StreamLog, wire.StreamEvent} {
			if d >= Day(low.of(kind)) {
				continue
			}
			if some, err := e.dropStreams(d, kind); err != nil {
				return false, fmt.Errorf("drop streams of day %d: %w", d, err)
			} else if some {
				return true, nil
			}
		}
	}
	for d := range e.sparse {
		delete(e.sparse, d)
		if d >= Day(low.all()) {
			return true, e.tidy(d)
		}
	}
	if due, err := e.daysBefore(Day(low.all())); err != nil || len(due) > 0 {
		return false, err // dropDays has said why they are there; they are looked for again
	}
	e.swept = low
	e.dropped.Store(&low)
	return false, nil
}

// tidyPatience bounds the compaction of a day that streams were removed from.
const tidyPatience = time.Minute

// tidy frees what the removed streams of a day took. Pebble alone would do so only when compactions happen to pass; as
// the blocks of a day are in tables of their own and nothing is written for what was removed, this costs next to
// nothing. The words of what is left are indexed again.
func (e *engine) tidy(d int64) error {
	name, ok, err := e.indexName(e.db, d)
	if err == nil && ok && e.index != nil {
		e.failMu.Lock()
		e.bad[d] = name // heal, the next step, drops it and marks what is left
		e.failMu.Unlock()
	}
	if e.freeBytes() < scarce {
		return nil // there is no room to write tables
	}
	ctx, cancel := context.WithTimeout(e.ctx, tidyPatience)
	defer cancel()
	for _, p := range []byte{prefixColumns, prefixText, prefixFilter, prefixHeader} {
		if err := e.db.Compact(ctx, dayPrefix(p, d), dayPrefix(p, d+1), false); err != nil {
			return fmt.Errorf("free the removed streams of day %d: %w", d, e.wrap("compact", err))
		}
	}
	return nil
}

// Pending reports whether there may be days or streams below the floors that were not removed yet.
func (s *Store) Pending() (bool, error) {
	e, release, err := s.acquire()
	if err != nil {
		return false, err
	}
	defer release()
	if e.trims.Load() {
		return true, nil
	}
	done, low := e.dropped.Load(), s.floorsNow()
	for i := range low {
		if low[i] != minTime && (done == nil || Day(low[i]) > Day(done[i])) {
			return true, nil
		}
	}
	return false, nil
}

// Passing is what files take, in bytes, that the store does not use any more: they go when the last reader lets go of
// them.
func (s *Store) Passing() int64 {
	e, release, err := s.acquire()
	if err != nil {
		return 0
	}
	defer release()
	// Pebble does not tell of blob files that only readers keep, and BlobFiles.Local counts from the start only.
	fs, dir := e.store.opt.FS, filepath.Join(e.dir, "pebble")
	names, err := fs.List(dir)
	if err != nil {
		return 0
	}
	var all int64
	for _, name := range names {
		if ext := filepath.Ext(name); ext != ".sst" && ext != ".blob" {
			continue
		}
		if info, err := fs.Stat(filepath.Join(dir, name)); err == nil {
			all += info.Size()
		}
	}
	m := e.db.Metrics()
	return max(0, all-int64(m.Table.Local.LiveSize+m.BlobFiles.LiveSize))
}

// dropAtOnce bounds in bytes what one batch of dropStreams grows to before its last stream.
const dropAtOnce = 4 << 20

// dropStreams removes streams of a kind from a day, many in one batch, and reports whether there were any.
func (e *engine) dropStreams(d int64, kind wire.StreamKind) (bool, error) {
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	gone := map[streamID]bool{}
	err := e.rows(e.db, dayPrefix(prefixStream, d), func(key, value []byte) error {
		id := streamID(key[5:21])
		var st stream
		if err := parseStream(&st, id, value); err != nil {
			_ = e.wrap(fmt.Sprintf("key %x", key), err) // the others go nevertheless
			return nil
		}
		if st.kind != kind {
			return nil
		}
		if batch.Len() > dropAtOnce {
			return errStop
		}
		gone[id] = true
		if err := batch.Delete(key, nil); err != nil {
			return err
		}
		return e.rows(e.db, append(dayPrefix(prefixHeader, d), id[:]...), func(key, _ []byte) error {
			_, _, one := parseHeaderKey(key)
			m := madeBlock{k: dayStream{d, id}, id: one}
			for _, k := range m.keys() {
				if err := batch.Delete(k, nil); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil || len(gone) == 0 {
		return false, err
	}
	if err := e.room(e.ctx); err != nil { // not while Apply is held up
		return false, err
	}
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	e.sparse[d] = true
	for id := range gone {
		delete(e.known, dayStream{d, id})
		_, _ = e.ripe.take(dayStream{d, id})
	}
	ready := e.ripe.ready[d][:0:0]
	for _, m := range e.ripe.ready[d] {
		if !gone[m.k.id] {
			ready = append(ready, m)
		}
	}
	if e.ripe.ready[d] = ready; len(ready) == 0 {
		delete(e.ripe.ready, d)
	}
	return true, e.wrap("streams", e.commit(batch))
}
