package logstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/index"
)

// run does the background work until the engine ends.
func (e *engine) run() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var rest <-chan time.Time // after a failure
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-rest:
			rest = nil
		case <-tick.C:
		case <-e.wake:
		}
		if rest != nil {
			continue
		}
		if err := e.pass(e.ctx, false); err != nil && e.ctx.Err() == nil {
			e.store.opt.Log.Error("log store: background work", "dir", e.dir, "err", err)
			rest = time.After(10 * time.Second)
		}
	}
}

// Work does all background work that is due at once, and seals the inbox whatever its size when force is set.
// It is for Options.Manual, tests and tools.
func (s *Store) Work(ctx context.Context, force bool) error {
	e, release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	return e.pass(ctx, force)
}

// pass takes the steps in turn; Pause can come in between any two. A step that fails does not keep the others
// from being tried.
func (e *engine) pass(ctx context.Context, force bool) error {
	e.pressure.l0.Store(int64(e.db.Metrics().Levels[0].Sublevels))
	var errs []error
	for _, step := range []func() (again bool, err error){
		e.dropDays, e.dropKinds, e.dropCut, e.heal, // what frees the disk comes first
		func() (bool, error) {
			if !force && !e.sealDue() {
				return false, nil
			}
			return e.seal()
		},
		e.merge, e.indexBatch, e.squeeze,
	} {
		for again := true; again; {
			select {
			case e.maint <- struct{}{}:
			case <-ctx.Done():
				return errors.Join(append(errs, ctx.Err())...)
			}
			var err error
			again, err = step()
			if again { // it removed rows
				e.squeezed.until = e.store.opt.Now().UnixNano() + squeezeWithin
			}
			e.noteWaiting()
			<-e.maint
			if err != nil {
				errs = append(errs, err)
				break
			}
		}
	}
	return errors.Join(errs...)
}

func (e *engine) sealDue() bool {
	if e.inboxBytes.Load() >= e.store.opt.SealBytes {
		return true
	}
	since := e.inboxSince.Load()
	return since != 0 && e.store.opt.Now().UnixNano()-since >= int64(e.store.opt.SealAge)
}

// loadMarks finds what waits to be merged and indexed, and the indexes that are gone.
func (e *engine) loadMarks() error {
	err := e.rows(e.db, []byte{prefixMark}, func(key, value []byte) error {
		m, _, err := parseMark(key, value)
		if err != nil {
			return err
		}
		e.ripe.add(m)
		return nil
	})
	if err != nil || e.index == nil {
		return err
	}
	names := map[int64]index.Name{}
	err = e.rows(e.db, []byte{prefixIndex}, func(key, value []byte) error {
		name, err := parseIndexName(value)
		if err != nil {
			return err
		}
		d := dayOf(key)
		if names[d] = name; !e.index.Has(d, name) {
			e.distrust(d, name, errors.New("it is not there"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return e.index.Sweep(func(d int64, name index.Name) bool { return names[d] == name })
}

// distrust has the index of a day made again.
func (e *engine) distrust(d int64, name index.Name, why error) {
	e.failMu.Lock()
	_, known := e.bad[d]
	if !known {
		e.bad[d] = name
	}
	e.failMu.Unlock()
	if !known {
		e.store.opt.Log.Warn("word index is built again", "dir", e.dir, "day", d, "why", why)
		if e.store.opt.OnIndex != nil && errors.Is(why, index.ErrUnusable) {
			e.store.opt.OnIndex(d, why)
		}
		e.poke()
	}
}

// distrusted reports whether the day's index waits to be made again.
func (e *engine) distrusted(d int64) bool {
	e.failMu.Lock()
	defer e.failMu.Unlock()
	_, bad := e.bad[d]
	return bad
}

// heal marks all blocks of one day whose index is not trusted, and drops the index.
func (e *engine) heal() (bool, error) {
	e.failMu.Lock()
	days := slices.Sorted(maps.Keys(e.bad))
	var name index.Name
	if len(days) > 0 {
		name = e.bad[days[0]]
	}
	e.failMu.Unlock()
	if len(days) == 0 || e.index == nil {
		return false, nil
	}
	d := days[0]
	low := e.store.floorsNow()
	if now, ok, err := e.indexName(e.db, d); err != nil {
		return false, err
	} else if ok && now == name && d >= Day(low.all()) { // a day that is dropped needs none
		if err := e.remark(d); err != nil {
			return false, fmt.Errorf("mark day %d again: %w", d, err)
		}
	}
	if err := e.index.Drop(d, name); err != nil {
		return false, err
	}
	e.failMu.Lock()
	delete(e.bad, d)
	e.failMu.Unlock()
	if e.store.opt.OnIndex != nil {
		e.store.opt.OnIndex(d, nil)
	}
	return len(days) > 1, nil
}

// remark gives every block of the day its mark back and forgets the index, in one batch.
func (e *engine) remark(d int64) error {
	marked, err := e.marks(e.db, d)
	if err != nil {
		return err
	}
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	var made []madeBlock
	err = e.rows(e.db, dayPrefix(prefixHeader, d), func(key, value []byte) error {
		_, sid, id := parseHeaderKey(key)
		if _, ok := marked[id]; ok {
			return nil
		}
		h, err := block.ParseHeader(value)
		if err != nil {
			return err
		}
		made = append(made, madeBlock{k: dayStream{d, sid}, id: id, lines: h.Lines, bytes: h.Bytes})
		return batch.Set(blockKey(prefixMark, d, id), appendMark(nil, sid, h.Lines, h.Bytes), nil)
	})
	if err != nil {
		return err
	}
	if err := batch.Delete(dayPrefix(prefixIndex, d), nil); err != nil {
		return err
	}
	if err := e.commit(batch); err != nil {
		return e.wrap("marks", err)
	}
	for _, m := range made {
		e.ripe.add(m)
	}
	return nil
}

// docsAtOnce bounds one batch of the word index.
const docsAtOnce = 64

// indexBatch gives some blocks of one day to the word index and then takes their marks away, except from those with too many words. The
// documents are durable before the marks go; a crash in between only has them written twice.
func (e *engine) indexBatch() (bool, error) {
	if e.index == nil || len(e.ripe.ready) == 0 {
		return false, nil
	}
	d := slices.Max(slices.Collect(maps.Keys(e.ripe.ready)))
	blocks := e.ripe.ready[d]
	n := min(docsAtOnce, len(blocks))
	pass := e.begin(PassIndex)
	defer pass.failed()
	take := func() {
		if e.ripe.ready[d] = blocks[n:]; len(blocks) == n {
			delete(e.ripe.ready, d)
		}
	}
	name, there, err := e.indexName(e.db, d)
	if err != nil {
		return false, fmt.Errorf("index: %w", err)
	}
	docs, unmark := make([]index.Doc, 0, n), make([]uint64, 0, n)
	for i, m := range blocks[:n] {
		terms, wordy, err := e.terms(m, name, there)
		if errors.Is(err, errNoMark) || errors.Is(err, errLookedAt) { // it was merged meanwhile, or keeps its mark
			continue
		}
		if err != nil { // it keeps its mark, and is scanned or found damaged by whoever asks
			n = i + 1
			take()
			e.ripe.ready[d] = append(e.ripe.ready[d], blocks[:i]...)
			return false, fmt.Errorf("index: %w", e.wrap(fmt.Sprintf("block %d/%016x", d, m.id), err))
		}
		if docs = append(docs, index.Doc{ID: m.id, Terms: terms}); !wordy {
			unmark = append(unmark, m.id)
		}
	}
	if !there {
		if name, err = e.index.Create(d); err != nil {
			return false, fmt.Errorf("index: %w", err)
		}
	}
	if err := e.index.Add(d, name, docs); err != nil {
		if errors.Is(err, index.ErrUnusable) {
			e.distrust(d, name, err)
		}
		return false, fmt.Errorf("index: %w", err)
	}
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	err = batch.Set(dayPrefix(prefixIndex, d), appendIndexName(nil, name), nil)
	for _, id := range unmark {
		err = errors.Join(err, batch.Delete(blockKey(prefixMark, d, id), nil))
	}
	if err == nil {
		err = e.commit(batch)
	}
	if err != nil {
		return false, fmt.Errorf("index: %w", e.wrap("marks", err))
	}
	pass.done()
	take()
	return true, nil
}

var (
	errNoMark   = errors.New("block has no mark")
	errLookedAt = errors.New("block was found to have too many words before")
)

// terms returns the terms of a block, from its mark or from its text, none when they are too many. The index of its day has the name when it
// is there.
func (e *engine) terms(m madeBlock, name index.Name, there bool) (out []byte, wordy bool, err error) {
	err = e.get(blockKey(prefixMark, m.k.day, m.id), func(v []byte) error {
		_, frame, err := parseMark(blockKey(prefixMark, m.k.day, m.id), v)
		if err == nil && len(frame) > 0 {
			out, err = e.store.codec.Decompress([]byte{}, frame)
		}
		return err
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, errNoMark
	}
	if err != nil || out != nil || m.wordy {
		return out, m.wordy, err
	}
	if there {
		if has, err := e.index.Holds(m.k.day, name, m.id); err != nil || has {
			return nil, false, errors.Join(err, errLookedAt) // an index that cannot be read is found so by Add
		}
	}
	lines, err := e.readBlock(m)
	if err != nil {
		return nil, false, err
	}
	var voc block.Vocabulary
	for i := range lines {
		voc.Add(lines[i].Text)
	}
	if voc.Wordy(len(lines)) {
		return nil, true, nil
	}
	return voc.Terms(), false, nil
}
