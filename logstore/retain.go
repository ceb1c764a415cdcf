package logstore

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// dropDays removes one day that lies below the query floor as a whole.
func (e *engine) dropDays() (bool, error) {
	low := e.store.floorsNow()
	floor := Day(low.all())
	first := int64(0)
	found := false
	for _, p := range []byte{prefixHeader, prefixStream, prefixIndex} {
		days, err := e.days(e.db, p, false)
		if err != nil {
			return false, err
		}
		if len(days) > 0 && days[0] < floor && (!found || days[0] < first) {
			first, found = days[0], true
		}
	}
	if !found {
		return false, nil
	}
	if err := e.dropDay(first); err != nil {
		return false, fmt.Errorf("drop day %d: %w", first, err)
	}
	return true, nil
}

func (e *engine) dropDay(d int64) error {
	name, ok, err := e.indexName(e.db, d)
	if err != nil {
		return err
	}
	e.applyMu.Lock()
	for k := range e.known {
		if k.day == d {
			delete(e.known, k)
		}
	}
	e.applyMu.Unlock()
	// Excise works on tables only. Apply adds nothing to a day below the floor but dictionary rows, which are
	// dropped the next time.
	if err := e.db.Flush(); err != nil {
		return e.wrap("flush", err)
	}
	for _, p := range []byte{prefixHeader, prefixColumns, prefixText, prefixFilter, prefixMark, prefixStream, prefixIndex} {
		if err := e.db.Excise(e.ctx, pebble.KeyRange{Start: dayPrefix(p, d), End: dayPrefix(p, d+1)}); err != nil {
			return e.wrap("excise", err)
		}
	}
	delete(e.ripe.ready, d)
	for k := range e.ripe.small {
		if k.day == d {
			delete(e.ripe.small, k)
		}
	}
	if ok && e.index != nil {
		return e.index.Drop(d, name)
	}
	return nil
}

// dropKinds removes the streams of one kind from a day that is below the floor of that kind but not of the
// other. Their words stay in the day's index, where nobody meets them.
func (e *engine) dropKinds() (bool, error) {
	low := e.store.floorsNow()
	if low == e.swept {
		return false, nil
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
	e.swept = low
	return false, nil
}

// dropStreams removes all streams of a kind from a day in one batch and reports whether there were any.
func (e *engine) dropStreams(d int64, kind wire.StreamKind) (bool, error) {
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	gone := map[streamID]bool{}
	err := e.rows(e.db, dayPrefix(prefixStream, d), func(key, value []byte) error {
		id := streamID(key[5:21])
		st, err := e.streamAt(id, value)
		if err != nil {
			return fmt.Errorf("%w: %w", block.ErrDamaged, err)
		}
		if st.kind != kind {
			return nil
		}
		gone[id] = true
		return batch.Delete(key, nil)
	})
	if err != nil || len(gone) == 0 {
		return false, err
	}
	err = e.rows(e.db, dayPrefix(prefixHeader, d), func(key, _ []byte) error {
		_, sid, id := parseHeaderKey(key)
		if !gone[sid] {
			return nil
		}
		m := madeBlock{k: dayStream{d, sid}, id: id}
		for _, k := range m.keys() {
			if err := batch.Delete(k, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	for id := range gone {
		delete(e.known, dayStream{d, id})
		delete(e.ripe.small, dayStream{d, id})
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
