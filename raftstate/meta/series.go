package meta

import (
	"bytes"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/agent/wire"

	"github.com/zeebo/xxh3"
)

// Ids come in pages of 256. dictPage holds the owner (number of the agent, 0 none) and the hash of the labels
// of each id.
const (
	pageBits = 8
	pageSize = 1 << pageBits
	pageMask = pageSize - 1
)

type dictPage struct {
	gen   uint64
	live  int
	owner [pageSize]uint32
	hash  [pageSize]uint64
}

// Series returns an entry of the dictionary; false when the id was never given out or was collected.
func (s *Store) Series(id uint64) (Series, bool) {
	s.tabMu.RLock()
	rec, changed := s.changedSeries(id)
	s.tabMu.RUnlock()
	if !changed {
		rec = s.storedSeries(id)
	}
	if rec == nil {
		return Series{}, false
	}
	f := fields{b: rec}
	num := f.uvarint("agent's number")
	ls, _, err := wire.LabelsFromKey(f.b)
	if f.err != nil || err != nil {
		s.unreadable("read series", err)
		return Series{}, false
	}
	s.tabMu.RLock()
	defer s.tabMu.RUnlock()
	if num >= uint64(len(s.names)) {
		return Series{}, false // the store was reloaded in between
	}
	return Series{Agent: s.names[num], Labels: ls}, true
}

// SeriesCount returns the number of series in the dictionary.
func (s *Store) SeriesCount() int { return int(s.series.Load()) }

// changedSeries returns a record that is not in the file yet (nil for one removed). tabMu is held, or the
// caller is the apply goroutine.
func (s *Store) changedSeries(id uint64) (rec []byte, ok bool) {
	if rec, ok = s.live.labels[id]; ok {
		return rec, true
	}
	if s.frozen != nil {
		rec, ok = s.frozen.labels[id]
	}
	return rec, ok
}

func (s *Store) storedSeries(id uint64) []byte {
	var body []byte
	err := s.view(func(tx *bolt.Tx) error {
		key := idKey(id)
		rec := tx.Bucket(bucketSeries).Get(key)
		if rec == nil {
			return nil
		}
		b, err := unsealed(key, rec)
		body = bytes.Clone(b)
		return err
	})
	if err != nil {
		s.unreadable("read series", err)
		return nil
	}
	return body
}

// FindSeries returns the id and the agent of the label set whose AppendKey is key.
func (tx *Tx) FindSeries(key []byte) (id uint64, agent string, ok bool) {
	s := tx.s
	h := xxh3.Hash(key)
	id, ok = s.index[h]
	if !ok {
		return 0, "", false
	}
	if agent, ok = s.hasLabels(id, key); ok {
		return id, agent, true
	}
	for _, id = range s.collide[h] {
		if agent, ok = s.hasLabels(id, key); ok {
			return id, agent, true
		}
	}
	return 0, "", false
}

func (s *Store) hasLabels(id uint64, key []byte) (agent string, ok bool) {
	s.tabMu.RLock()
	rec, changed := s.changedSeries(id)
	s.tabMu.RUnlock()
	if !changed {
		rec = s.storedSeries(id)
	}
	num, n := binary.Uvarint(rec)
	if n <= 0 || !bytes.Equal(rec[n:], key) {
		return "", false
	}
	return s.names[num], true
}

// AgentSeries returns how many series the agent has.
func (tx *Tx) AgentSeries(name string) int {
	if a := tx.s.agents[name]; a != nil {
		return int(a.series)
	}
	return 0
}

// AllotSeries gives the agent ids for label sets, given by their AppendKey and not registered so far. The ids
// follow one another from the one returned.
func (tx *Tx) AllotSeries(name string, keys [][]byte) (first uint64) {
	s := tx.s
	first = s.nextID
	s.tabMu.Lock()
	defer s.tabMu.Unlock()
	a := tx.agent(name)
	born := emptyTimeline(tx.logTime)
	for i, key := range keys {
		id := first + uint64(i)
		rec := make([]byte, 0, binary.MaxVarintLen32+len(key))
		rec = append(binary.AppendUvarint(rec, uint64(a.num)), key...)
		s.live.labels[id] = rec
		h := xxh3.Hash(key)
		p := s.dictPage(id >> pageBits)
		p.owner[id&pageMask], p.hash[id&pageMask] = a.num, h
		p.live++
		s.timesPage(id >> pageBits).tl[id&pageMask] = born
		s.indexSeries(h, id)
	}
	a.series += uint32(len(keys))
	s.nextID += uint64(len(keys))
	s.series.Add(int64(len(keys)))
	return first
}

func (s *Store) indexSeries(h, id uint64) {
	if _, taken := s.index[h]; taken {
		s.collide[h] = append(s.collide[h], id)
		return
	}
	s.index[h] = id
}

// RemoveSeries takes a series out of the dictionary for good and reports whether it was there, was registered
// before `since` and holds no sample at or after it.
func (tx *Tx) RemoveSeries(id uint64, since int64) bool {
	s := tx.s
	pn, slot := id>>pageBits, id&pageMask
	if pn >= uint64(len(s.dict)) || s.dict[pn] == nil || s.dict[pn].owner[slot] == 0 {
		return false
	}
	if s.times[pn].tl[slot].last() >= since {
		return false
	}
	s.tabMu.Lock()
	defer s.tabMu.Unlock()
	p := s.dictPage(pn)
	a := tx.agent(s.names[p.owner[slot]])
	h := p.hash[slot]
	if more := s.collide[h]; len(more) == 0 {
		delete(s.index, h)
	} else {
		ids := slices.DeleteFunc(append([]uint64{s.index[h]}, more...), func(x uint64) bool { return x == id })
		s.index[h] = ids[0]
		s.collide[h] = ids[1:]
		if len(ids) == 1 {
			delete(s.collide, h)
		}
	}
	p.owner[slot], p.hash[slot] = 0, 0
	p.live--
	a.series--
	s.series.Add(-1)
	s.live.labels[id] = nil
	s.timesPage(pn).tl[slot] = nil
	if p.live == 0 && s.nextID>>pageBits > pn {
		s.dropPage(pn)
	}
	return true
}

// dropPage forgets a page whose ids were all given out and collected.
func (s *Store) dropPage(pn uint64) {
	s.dict[pn], s.live.dict[pn] = nil, nil
	s.times[pn], s.live.times[pn] = nil, nil
}

// dictPage returns a page for change, made when it is not there.
func (s *Store) dictPage(pn uint64) *dictPage {
	for uint64(len(s.dict)) <= pn {
		s.dict = append(s.dict, nil)
	}
	p := s.dict[pn]
	switch {
	case p == nil:
		p = &dictPage{}
	case p.gen == s.gen:
		return p
	default:
		fresh := *p
		p = &fresh
	}
	p.gen = s.gen
	s.dict[pn] = p
	s.live.dict[pn] = p
	return p
}

// append writes the page for the file: runs of owners, then the hashes of the ids that have one.
func (p *dictPage) append(dst []byte) []byte {
	for i := 0; i < pageSize; {
		j := i + 1
		for j < pageSize && p.owner[j] == p.owner[i] {
			j++
		}
		dst = binary.AppendUvarint(dst, uint64(p.owner[i]))
		dst = binary.AppendUvarint(dst, uint64(j-i))
		i = j
	}
	for i, h := range p.hash {
		if p.owner[i] != 0 {
			dst = binary.LittleEndian.AppendUint64(dst, h)
		}
	}
	return dst
}

func (f *fields) dictPage() (*dictPage, error) {
	p := &dictPage{}
	for i := 0; i < pageSize && f.err == nil; {
		owner, n := uint32(f.uvarint("owner")), f.uvarint("count of an owner's ids")
		if n == 0 || n > uint64(pageSize-i) {
			f.fail("count of an owner's ids")
			break
		}
		for ; n > 0; n-- {
			p.owner[i] = owner
			i++
		}
	}
	for i := range p.hash {
		if p.owner[i] != 0 && f.err == nil {
			p.hash[i] = f.uint64("hash of labels")
			p.live++
		}
	}
	return p, f.end("page of the dictionary")
}
