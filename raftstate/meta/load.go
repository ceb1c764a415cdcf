package meta

import (
	"container/heap"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/raftstate/command"
)

// load fills the tables from the file. The store is fresh.
func (s *Store) load(db *bolt.DB) error {
	s.live, s.frozen, s.gen, s.sealed = newLayer(), nil, 1, 0
	s.agents = make(map[string]*agent)
	s.digests = make(map[dayKey]dayTotal)
	s.index = make(map[uint64]uint64)
	s.collide = make(map[uint64][]uint64)
	return db.View(func(tx *bolt.Tx) error {
		if err := s.loadState(tx); err != nil {
			return fmt.Errorf("bucket %s: %w", bucketState, err)
		}
		for _, name := range allBuckets {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: it has no bucket %q", ErrDamaged, name)
			}
		}
		steps := []struct {
			bucket []byte
			read   func(key, value []byte) error
		}{
			{bucketKV, s.loadExpiry},
			{bucketAgents, s.loadAgent},
			{bucketDict, s.loadDictPage},
			{bucketTimes, s.loadTimesPage},
			{bucketDays, s.loadDay},
			{bucketRecent, s.loadRecentPage},
		}
		for _, step := range steps {
			err := tx.Bucket(step.bucket).ForEach(func(key, rec []byte) error {
				value, err := unsealed(key, rec)
				if err != nil {
					return err
				}
				return step.read(key, value)
			})
			if err != nil {
				return fmt.Errorf("bucket %s: %w", step.bucket, err)
			}
		}
		if err := s.recent.check(); err != nil {
			return err
		}
		return s.checkPages()
	})
}

// checkPages makes sure that every series of the dictionary has a timeline.
func (s *Store) checkPages() error {
	for pn, p := range s.dict {
		if p == nil {
			continue
		}
		if pn >= len(s.times) || s.times[pn] == nil {
			return fmt.Errorf("%w: page %d has no time stamps", ErrDamaged, pn)
		}
		for slot, owner := range p.owner {
			if owner != 0 && s.times[pn].tl[slot] == nil {
				return fmt.Errorf("%w: a series of page %d has no time stamps", ErrDamaged, pn)
			}
		}
	}
	return nil
}

// loadState reads the single records, the one with the version first.
func (s *Store) loadState(tx *bolt.Tx) error {
	b := tx.Bucket(bucketState)
	if b == nil {
		return fmt.Errorf("%w: it is missing", ErrDamaged)
	}
	value, err := unsealed(keyState, b.Get(keyState))
	if err != nil {
		return err
	}
	if err := s.readState(value); err != nil {
		return err
	}
	rec := b.Get(keyMark)
	if rec == nil {
		return nil
	}
	if value, err = unsealed(keyMark, rec); err != nil {
		return err
	}
	s.mark, err = readMark(value)
	s.marked = err == nil
	return err
}

func (s *Store) loadExpiry(key, value []byte) error {
	f := fields{b: value}
	f.uvarint("index")
	at := f.varint("expiry")
	if at == 0 || f.err != nil {
		return f.err
	}
	for i, c := range key {
		if c == 0 {
			heap.Push(&s.expiry, expiring{at, string(key[:i]), string(key[i+1:])})
			return nil
		}
	}
	return fmt.Errorf("%w: key %q names no bucket", ErrDamaged, key)
}

func (s *Store) loadAgent(key, value []byte) error {
	f := fields{b: value}
	a, err := f.agent(string(key))
	if err != nil {
		return err
	}
	if a.num == 0 || a.num > s.nextAgent {
		return fmt.Errorf("%w: agent %q has the number %d of %d", ErrDamaged, key, a.num, s.nextAgent)
	}
	if s.names == nil {
		s.names = make([]string, s.nextAgent+1)
	}
	s.agents[a.name] = a
	s.names[a.num] = a.name
	return nil
}

func pageNumber(key []byte, next uint64) (uint64, error) {
	if len(key) != 8 {
		return 0, fmt.Errorf("%w: page %x", ErrDamaged, key)
	}
	pn := binary.BigEndian.Uint64(key)
	if pn > next>>pageBits {
		return 0, fmt.Errorf("%w: page %d lies behind the last id", ErrDamaged, pn)
	}
	return pn, nil
}

func (s *Store) loadDictPage(key, value []byte) error {
	pn, err := pageNumber(key, s.nextID)
	if err != nil {
		return err
	}
	f := fields{b: value}
	p, err := f.dictPage()
	if err != nil {
		return err
	}
	for uint64(len(s.dict)) <= pn {
		s.dict = append(s.dict, nil)
	}
	s.dict[pn] = p
	s.series.Add(int64(p.live))
	for slot, owner := range p.owner {
		if owner == 0 {
			continue
		}
		if int(owner) >= len(s.names) {
			return fmt.Errorf("%w: a series of page %d has no agent", ErrDamaged, pn)
		}
		s.indexSeries(p.hash[slot], pn<<pageBits+uint64(slot))
	}
	return nil
}

func (s *Store) loadTimesPage(key, value []byte) error {
	pn, err := pageNumber(key, s.nextID)
	if err != nil {
		return err
	}
	f := fields{b: value}
	p, err := f.timesPage()
	if err != nil {
		return err
	}
	for uint64(len(s.times)) <= pn {
		s.times = append(s.times, nil)
	}
	s.times[pn] = p
	return nil
}

func (s *Store) loadDay(key, value []byte) error {
	if len(key) != 9 || !command.Kind(key[0]).Valid() {
		return fmt.Errorf("%w: digest %x", ErrDamaged, key)
	}
	k := dayKey{command.Kind(key[0]), int64(binary.BigEndian.Uint64(key[1:]) ^ 1<<63)}
	f := fields{b: value}
	s.digests[k] = dayTotal{f.uint64("count"), Sum{f.uint64("sum"), f.uint64("sum")}}
	return f.end("digest")
}
