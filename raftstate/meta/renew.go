package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"

	bolt "go.etcd.io/bbolt"
)

// SkippedIDs is how many series ids Renew leaves out. It is more than a cluster gives out between a backup and its
// loss.
const SkippedIDs = 1 << 24

// Renew changes a state file that nobody uses, so that a cluster can be founded anew on it: change edits the
// metadata as an entry at the mark's index would, and the mark becomes what renew makes of it (its index and term
// stay). Ids of series are left out, so that an id which the lost cluster gave out after the backup means nothing
// here rather than another series.
func Renew(path string, change func(tx *Tx) error, renew func(m *Mark)) error {
	s, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if err := s.renew(change, renew); err != nil {
		_ = s.Close()
		return fmt.Errorf("renew state %s: %w", path, err)
	}
	return s.Close()
}

func (s *Store) renew(change func(tx *Tx) error, renew func(m *Mark)) error {
	mark, ok := s.Mark()
	if !ok {
		return fmt.Errorf("%w: it has no mark", ErrDamaged)
	}
	var changes []Change
	tx := s.Begin(mark.Index, 0, &changes)
	err := change(tx)
	tx.End()
	if err != nil {
		return err
	}
	s.nextID += SkippedIDs
	renew(&mark)
	return s.Freeze(mark.Index, mark.Term).Commit(mark)
}

// EachSeries calls fn with the id of each series of the dictionary, those in the file in ascending order, until fn
// returns false. Series that come or go meanwhile may be passed over.
func (s *Store) EachSeries(fn func(id uint64, se Series) bool) {
	s.tabMu.RLock()
	var fresh []uint64
	for _, l := range []*layer{s.frozen, s.live} {
		if l == nil {
			continue
		}
		for id, rec := range l.labels {
			if rec != nil {
				fresh = append(fresh, id)
			}
		}
	}
	s.tabMu.RUnlock()
	seen := make(map[uint64]bool, len(fresh))
	emit := func(id uint64) bool {
		se, ok := s.Series(id)
		return !ok || fn(id, se)
	}
	for _, id := range fresh {
		if seen[id] {
			continue
		}
		seen[id] = true
		if !emit(id) {
			return
		}
	}
	var last []byte
	for {
		ids := s.storedIDs(last)
		for _, id := range ids {
			if !seen[id] && !emit(id) {
				return
			}
		}
		if len(ids) < scanChunk {
			return
		}
		last = idKey(ids[len(ids)-1])
	}
}

// storedIDs returns the next ids of the file behind last (nil: from the first), at most scanChunk.
func (s *Store) storedIDs(last []byte) (ids []uint64) {
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketSeries).Cursor()
		k, _ := c.Seek(last)
		if last != nil && bytes.Equal(k, last) {
			k, _ = c.Next()
		}
		for ; k != nil && len(ids) < scanChunk; k, _ = c.Next() {
			if len(k) != 8 {
				return fmt.Errorf("%w: series %x", ErrDamaged, k)
			}
			ids = append(ids, binary.BigEndian.Uint64(k))
		}
		return nil
	})
	if err != nil {
		s.unreadable("list series", err)
	}
	return ids
}
