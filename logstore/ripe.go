package logstore

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/logstore/block"
)

// ripeness knows the blocks with a mark: which are small and wait to be merged, and which wait for the word index. Only
// background work touches it, under the engine's maint. It holds small blocks of maxPiles streams; those of others are
// looked for in the headers, by sweep, when their day is over or there are many.
type ripeness struct {
	small    map[int64]map[streamID]pile // by day
	piles    int                         // in small
	due      []dayStream                 // piles that were found to be due
	ready    map[int64][]madeBlock       // by day
	missed   map[int64]int               // small blocks of a day that are in no pile
	sweep    sweep
	maxPiles int
	noIndex  bool
}

// maxPiles is about 25 MB, and twice that at most.
const maxPiles = 1 << 17

// pile are the small blocks of one stream and day, those of fewer lines first.
type pile struct {
	blocks []smallBlock
	lines  int32
}

type smallBlock struct {
	id    uint64
	bytes uint32 // less than smallBytes
	lines uint16 // less than smallLines
}

func (b smallBlock) of(k dayStream) madeBlock {
	return madeBlock{k: k, id: b.id, lines: int(b.lines), bytes: int(b.bytes)}
}

func newRipeness(noIndex bool) ripeness {
	return ripeness{
		small: map[int64]map[streamID]pile{}, ready: map[int64][]madeBlock{}, missed: map[int64]int{},
		maxPiles: maxPiles, noIndex: noIndex,
	}
}

func isSmall(lines, bytes int) bool { return lines < smallLines && bytes < smallBytes }

// due returns how many blocks, the smallest, should be merged now; 0 is none. A day is over when nothing much is expected for it any
// more. Blocks are merged with others of about their size: were the smallest merged with what was merged before, each line of a
// stream that gets few would be written again and again.
func (p *pile) due(over bool) int {
	all := len(p.blocks)
	if p.lines >= mergeLines || all >= 2*mergeBlocks || over && all > 1 {
		return all
	}
	for i := 0; i < all; {
		n := i
		for n < all && p.blocks[n].tier() == p.blocks[i].tier() {
			n++
		}
		if n-i >= mergeBlocks {
			return n
		}
		i = n
	}
	return 0
}

// tier is the order of magnitude of a block's lines, to the base of mergeBlocks.
func (b smallBlock) tier() int { return bits.Len16(b.lines) / 3 }

func (p *pile) add(b smallBlock) {
	at, _ := slices.BinarySearchFunc(p.blocks, b.lines, func(have smallBlock, lines uint16) int { return int(have.lines) - int(lines) })
	p.blocks = slices.Insert(p.blocks, at, b)
	p.lines += int32(b.lines)
}

// add takes note of a block that has a mark.
func (r *ripeness) add(m madeBlock) {
	if !isSmall(m.lines, m.bytes) {
		r.index(m)
		return
	}
	p, ok := r.small[m.k.day][m.k.id]
	if !ok && r.piles >= r.maxPiles {
		r.missed[m.k.day]++
		return
	}
	p.add(smallBlock{id: m.id, bytes: uint32(m.bytes), lines: uint16(m.lines)})
	r.put(m.k, p)
}

// index has a block wait for the word index.
func (r *ripeness) index(m madeBlock) {
	if !r.noIndex {
		r.ready[m.k.day] = append(r.ready[m.k.day], m)
	}
}

// put makes p the pile of a stream.
func (r *ripeness) put(k dayStream, p pile) {
	piles := r.small[k.day]
	if piles == nil {
		piles = map[streamID]pile{}
		r.small[k.day] = piles
	}
	if _, ok := piles[k.id]; !ok {
		r.piles++
	}
	piles[k.id] = p
	if p.due(false) > 0 {
		r.due = append(r.due, k)
	}
}

// take removes the pile of a stream.
func (r *ripeness) take(k dayStream) (p pile, ok bool) {
	piles := r.small[k.day]
	if p, ok = piles[k.id]; ok {
		r.piles--
		if delete(piles, k.id); len(piles) == 0 {
			delete(r.small, k.day)
		}
	}
	return p, ok
}

// drop forgets a day.
func (r *ripeness) drop(d int64) {
	r.piles -= len(r.small[d])
	delete(r.small, d)
	delete(r.ready, d)
	delete(r.missed, d)
	if r.sweep.day == d {
		r.sweep = sweep{}
	}
}

// merge merges one pile of small blocks and reports whether there may be more that are due.
func (e *engine) merge() (bool, error) {
	r := &e.ripe
	for len(r.due) > 0 {
		k := r.due[len(r.due)-1]
		r.due = r.due[:len(r.due)-1]
		if p := r.small[k.day][k.id]; p.due(false) > 0 { // not merged meanwhile
			_, _ = r.take(k)
			return true, e.mergePile(k, p, p.due(false))
		}
	}
	r.due = nil
	over := Day(e.store.opt.Now().UnixNano() - int64(3600e9))
	for d, piles := range r.small {
		if d >= over {
			continue
		}
		for id := range piles {
			k := dayStream{d, id}
			p, _ := r.take(k)
			if n := p.due(true); n > 0 {
				return true, e.mergePile(k, p, n)
			}
			for _, b := range p.blocks { // one, which will not grow
				r.index(b.of(k))
			}
		}
	}
	return e.sweepOn(over)
}

// sweep goes through the headers of a day and finds the small blocks that are in no pile.
type sweep struct {
	day  int64
	next []byte // the header to go on with; nil when there is no sweep under way
}

// sweepStreams bounds how many streams one step of a sweep looks at.
const sweepStreams = 4096

// sweepOn does a step of a sweep, if one is due. It ends with the first pile that it merges.
func (e *engine) sweepOn(over int64) (again bool, err error) {
	r := &e.ripe
	if r.sweep.next == nil {
		for d, n := range r.missed {
			if d < over || n >= r.maxPiles {
				// Its piles are made again, together with what they lack.
				r.piles -= len(r.small[d])
				delete(r.small, d)
				delete(r.missed, d)
				r.sweep = sweep{day: d, next: dayPrefix(prefixHeader, d)}
				break
			}
		}
		if r.sweep.next == nil {
			return false, nil
		}
	}
	d := r.sweep.day
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: r.sweep.next, UpperBound: dayPrefix(prefixHeader, d+1)})
	if err != nil {
		return false, e.wrap("headers", err)
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = e.wrap("headers", cerr)
		}
	}()
	it.First()
	for range sweepStreams {
		if !it.Valid() {
			if err := it.Error(); err != nil {
				return false, e.wrap("headers", err)
			}
			r.sweep = sweep{}
			return true, nil // the next day, if any
		}
		k, p, err := e.nextPile(it)
		if err != nil {
			return false, fmt.Errorf("sweep day %d: %w", d, err)
		}
		_, _ = r.take(k) // p has its blocks
		switch {
		case p.due(d < over) > 0:
			return true, e.mergePile(k, p, p.due(d < over))
		case d < over:
			for _, b := range p.blocks {
				r.index(b.of(k))
			}
		case len(p.blocks) == 0:
		case r.piles < r.maxPiles:
			r.put(k, p)
		case r.missed[d] == 0:
			r.missed[d] = 1 // for when the day is over
		}
	}
	return true, nil
}

// nextPile returns the small blocks with a mark of the stream at which the iterator stands, and moves behind it.
func (e *engine) nextPile(it *pebble.Iterator) (k dayStream, p pile, err error) {
	s := &e.ripe.sweep
	_, sid, _ := parseHeaderKey(it.Key())
	k = dayStream{s.day, sid}
	for ok := true; ok; ok = it.Next() {
		_, now, id := parseHeaderKey(it.Key())
		if now != sid {
			break
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return k, p, e.wrap("headers", err)
		}
		h, err := block.ParseHeader(v)
		if err != nil {
			_ = e.damaged(fmt.Sprintf("header %x", it.Key()), err) // the others are merged without it
			continue
		}
		if !isSmall(h.Lines, h.Bytes) {
			continue
		}
		err = e.get(blockKey(prefixMark, s.day, id), func([]byte) error { return nil })
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return k, p, e.wrap("mark", err)
		}
		p.add(smallBlock{id: id, bytes: uint32(h.Bytes), lines: uint16(h.Lines)})
	}
	if err := it.Error(); err != nil {
		return k, p, e.wrap("headers", err)
	}
	s.next = after(headerKey(s.day, sid, 0)[:21])
	return k, p, nil
}

// mergePile merges the first count blocks of a pile that was taken, as far as they fit into one block, and puts the others back.
func (e *engine) mergePile(k dayStream, p pile, count int) error {
	pass := e.begin(PassMerge)
	defer pass.failed()
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	var lines []block.Line
	n, bytes := 0, 0
	for _, b := range p.blocks[:count] {
		if n > 0 && (len(lines)+int(b.lines) > block.MaxLines || bytes+int(b.bytes) > block.MaxBytes) {
			break
		}
		m := b.of(k)
		got, err := e.readBlock(m)
		if err != nil {
			e.keepOthers(k, p, n)
			return fmt.Errorf("merge: %w", e.wrap(fmt.Sprintf("block %d/%016x", k.day, m.id), err))
		}
		lines = append(lines, got...)
		bytes += m.bytes
		n++
		for _, key := range m.keys() {
			if err := batch.Delete(key, nil); err != nil {
				return fmt.Errorf("merge: %w", err)
			}
		}
	}
	w := blockWriter{e: e, batch: batch}
	err := w.write(k, lines)
	if err == nil {
		err = e.commit(batch)
	}
	if err != nil {
		e.ripe.put(k, p)
		return fmt.Errorf("merge: %w", e.wrap("blocks", err))
	}
	pass.done()
	for _, b := range p.blocks[n:] {
		e.ripe.add(b.of(k))
	}
	w.done()
	return nil
}

// keepOthers puts back the blocks of a pile except the damaged one, which keeps its mark and is left alone.
func (e *engine) keepOthers(k dayStream, p pile, damaged int) {
	for i, b := range p.blocks {
		if i != damaged {
			e.ripe.add(b.of(k))
		}
	}
}
