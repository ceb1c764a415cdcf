package logstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// trimming is how far the removal of what cuts hide is. Only background work touches it, under the engine's maint.
type trimming struct {
	cuts    *cuts              // that were dealt with
	durable uint64             // when they were
	done    map[KindDay]uint64 // the cut of each day that was carried out; one whose day got a block since is not there
	loose   map[int64]bool     // days that blocks were removed from and whose tables were not written anew yet
	again   bool               // a day got a block
}

// noteBlock has the cuts of a day looked at again: a block may hold nothing but what they hide.
func (t *trimming) noteBlock(day int64) {
	for _, kind := range []wire.StreamKind{wire.StreamLog, wire.StreamEvent} {
		if _, ok := t.done[KindDay{kind, day}]; ok {
			delete(t.done, KindDay{kind, day})
			t.again = true
		}
	}
}

// dropCut removes from disk what cuts hide, some streams of one day at a time, as far as the state that knows of the cut is
// durable: else a node that loses its power would have lost lines that its state counts. A block that holds lines of
// later entries too stays as a whole until the next cut.
func (e *engine) dropCut() (again bool, err error) {
	t, c, durable := &e.trim, e.store.cuts.Load(), e.store.durable.Load()
	if t.cuts == c && t.durable == durable && !t.again {
		return false, nil
	}
	defer func() {
		if err != nil || !again {
			e.trims.Store(false)
		}
	}()
	low := e.store.floorsNow()
	for _, k := range slices.SortedFunc(maps.Keys(c.days), KindDay.compare) {
		day := c.days[k]
		if day.index > durable || t.done[k] == day.index || k.Day < Day(low.of(k.Kind)) {
			continue
		}
		e.trims.Store(true)
		some, err := e.trimDay(k, day)
		if err != nil {
			return false, fmt.Errorf("remove the %s that selectors cut: %w", k, err)
		}
		if some {
			return true, nil
		}
		t.done[k] = day.index
	}
	for d := range t.loose {
		delete(t.loose, d)
		if d >= Day(low.all()) {
			e.trims.Store(true)
			return true, e.tidy(d)
		}
	}
	maps.DeleteFunc(t.done, func(k KindDay, _ uint64) bool { return c.days[k] == nil })
	t.cuts, t.durable, t.again = c, durable, false
	return false, nil
}

// trimDay removes blocks of a day that hold nothing but what the cut hides, and streams of which nothing is left, many in
// one batch. It reports whether there were any.
func (e *engine) trimDay(k KindDay, cut *dayCut) (some bool, err error) {
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	gone := map[uint64]struct{}{}
	var bare []streamID // streams without a block
	err = e.rows(e.db, dayPrefix(prefixStream, k.Day), func(key, value []byte) error {
		id := streamID(key[5:21])
		var st stream
		if err := parseStream(&st, id, value); err != nil {
			_ = e.wrap(fmt.Sprintf("key %x", key), err) // the others go nevertheless
			return nil
		}
		if st.kind != k.Kind {
			return nil
		}
		through := cut.through(st.label)
		if through == 0 {
			return nil
		}
		if batch.Len() > dropAtOnce {
			return errStop
		}
		left, err := e.trimStream(batch, dayStream{k.Day, id}, through, gone)
		if err == nil && left == 0 {
			bare = append(bare, id)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	late, next, err := e.lateInInbox(k.Day, nil)
	if err != nil || len(gone) == 0 && (len(bare) == 0 || late) {
		return false, err
	}
	if err := e.room(e.ctx); err != nil { // not while Apply is held up
		return false, err
	}
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	if !late { // a stream that has lines in the inbox must stay known
		if late, _, err = e.lateInInbox(k.Day, next); err != nil {
			return false, err
		}
	}
	if late {
		bare = nil
	}
	for _, id := range bare {
		if err := batch.Delete(streamKey(k.Day, id), nil); err != nil {
			return false, err
		}
		delete(e.known, dayStream{k.Day, id})
	}
	if batch.Empty() {
		return false, nil
	}
	if err := e.commit(batch); err != nil {
		return false, e.wrap("streams", err)
	}
	e.ripe.lose(k.Day, gone)
	e.trim.loose[k.Day] = true
	return true, nil
}

// trimStream puts the removal of the blocks of a stream into the batch that hold lines of entries up to through only, and
// returns how many it has beside.
func (e *engine) trimStream(batch *pebble.Batch, k dayStream, through uint64, gone map[uint64]struct{}) (left int, err error) {
	err = e.rows(e.db, append(dayPrefix(prefixHeader, k.day), k.id[:]...), func(key, value []byte) error {
		_, _, id := parseHeaderKey(key)
		h, err := block.ParseHeader(value)
		if err != nil {
			_ = e.wrap(fmt.Sprintf("header %x", key), err)
		}
		if err != nil || h.MaxIndex > through {
			left++
			return nil
		}
		gone[id] = struct{}{}
		m := madeBlock{k: k, id: id}
		for _, key := range m.keys() {
			if err := batch.Delete(key, nil); err != nil {
				return err
			}
		}
		return nil
	})
	return left, err
}

// lateInInbox reports whether rows of the inbox from a key on (nil: all) may hold lines of a day, and where to go on.
func (e *engine) lateInInbox(day int64, from []byte) (late bool, next []byte, err error) {
	if from == nil {
		from = []byte{prefixInbox}
	}
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{prefixInbox + 1}})
	if err != nil {
		return false, nil, e.wrap("inbox", err)
	}
	next = from
	for ok := it.First(); ok && !late; ok = it.Next() {
		v, verr := it.ValueAndErr()
		var r inboxRow
		if verr == nil {
			r, verr = parseInboxRow(it.Key(), v)
		}
		if verr != nil {
			return false, nil, errors.Join(e.wrap("inbox", verr), it.Close())
		}
		late = Day(r.minT) <= day && day <= Day(r.maxT)
		next = append(slices.Clone(it.Key()), 0)
	}
	return late, next, e.wrap("inbox", errors.Join(it.Error(), it.Close()))
}

// lose forgets blocks of a day.
func (r *ripeness) lose(d int64, gone map[uint64]struct{}) {
	was := func(id uint64) bool { _, ok := gone[id]; return ok }
	for id, p := range r.small[d] {
		if !slices.ContainsFunc(p.blocks, func(b smallBlock) bool { return was(b.id) }) {
			continue
		}
		k := dayStream{d, id}
		_, _ = r.take(k)
		var left pile
		for _, b := range p.blocks {
			if !was(b.id) {
				left.add(b)
			}
		}
		if len(left.blocks) > 0 {
			r.put(k, left)
		}
	}
	ready := slices.DeleteFunc(slices.Clone(r.ready[d]), func(m madeBlock) bool { return was(m.id) })
	if r.ready[d] = ready; len(ready) == 0 {
		delete(r.ready, d)
	}
}

// Picked is what selectors pick of a kind and UTC day and is shown.
type Picked struct {
	Streams int
	Lines   int64
	Bytes   int64 // of lines and fields, not compressed, as far as they are in blocks
}

// Picked counts what selectors pick of a day, mostly by the headers of blocks. It fails when a part is damaged.
func (s *Store) Picked(ctx context.Context, k KindDay, selectors []*wire.Picker) (Picked, error) {
	c, done, err := s.query(ctx, &Request{Start: k.Day * DayNs, End: (k.Day + 1) * DayNs})
	if err != nil {
		return Picked{}, err
	}
	defer done()
	v := &pickSink{kind: k.Kind, selectors: selectors, streams: map[streamID]bool{}}
	c.sink = v
	if err := c.run(); err != nil {
		return Picked{}, err
	}
	if c.stats.Partial {
		return Picked{}, &DamageError{Dir: c.e.dir, Place: c.stats.Damaged[0], Err: errors.New("left out of a count")}
	}
	for _, some := range v.streams {
		if some {
			v.out.Streams++
		}
	}
	return v.out, nil
}

type pickSink struct {
	kind      wire.StreamKind
	selectors []*wire.Picker
	streams   map[streamID]bool // whether they are picked
	out       Picked
}

func (v *pickSink) wants(int64, int64, uint64, uint64) bool { return true }
func (v *pickSink) needs() (positions, fields, text bool)   { return false, false, false }

func (v *pickSink) picks(st *stream) bool {
	picked, known := v.streams[st.id]
	if !known {
		picked = st.kind == v.kind && slices.ContainsFunc(v.selectors, func(s *wire.Picker) bool { return s.Picks(st.label) })
		v.streams[st.id] = picked
	}
	return picked
}

func (v *pickSink) whole(st *stream, h *block.Header) bool {
	if v.picks(st) {
		v.out.Lines += int64(h.Lines)
		v.out.Bytes += int64(h.Bytes)
	}
	return true
}

func (v *pickSink) add(st *stream, _ *block.Line) bool {
	if v.picks(st) {
		v.out.Lines++
	}
	return true
}
