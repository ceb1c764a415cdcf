// Package verdicts keeps, beside the log of a node, what became of its entries as they were applied: the duplicates,
// gaps and refused items that stand in the log and are not data. Whoever reads the log as a queue is shown by it what
// the stores hold. Almost every entry is applied as it stands and has no record.
//
// The record of an entry is a function of the log alone and is made again whenever the entry is. So nothing is written
// while entries are applied: Commit makes durable, at each mark, what was noted since the one before, before the mark
// is. The file is no part of state, images and backups. A file that is damaged, gone or was not kept up is set aside, and
// the verdicts on entries from before are then not known here; a peer may know them.
//
// The package imports raftstate/boltcheck and nothing else of Triward.
package verdicts

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/raftstate/boltcheck"
)

var (
	bucketVerdicts = []byte("verdicts") // index, big endian: checksum (4 bytes), body
	bucketRange    = []byte("range")    // keyRange: checksum, first, through, each 8 bytes
	keyRange       = []byte("known")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is about content, as opposed to a file that cannot be read.
var errDamaged = errors.New("record is damaged")

// Store is the verdicts of one node. Its methods may be called from any goroutine.
type Store struct {
	path string
	log  *slog.Logger

	dbMu sync.RWMutex // held for reading while db is used, for writing while it is another one
	db   *bolt.DB
	// spoilt is why the file that was there is set aside; nil when it is not.
	spoilt error

	commitMu sync.Mutex

	mu       sync.Mutex
	first    uint64            // verdicts on entries from here on are known
	pending  map[uint64][]byte // noted, not in the file yet
	flushing map[uint64][]byte // on the way into the file
}

// Open opens the file path, which is made when it is absent, for a node whose state is as of the entry mark: all behind
// it will be noted anew. The error is one of the system; a file that cannot be used is set aside.
func Open(path string, mark uint64, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of verdicts: %w", err)
	}
	s := &Store{path: path, log: log, pending: make(map[uint64][]byte)}
	first, through, err := s.open(mark)
	if errors.Is(err, boltcheck.ErrDamaged) || errors.Is(err, errDamaged) {
		log.Warn("the file of verdicts is damaged and set aside: consumers are served old entries by other nodes", "file", path, "err", err)
		if err := os.Rename(path, path+".damaged"); err != nil {
			return nil, fmt.Errorf("set verdicts aside: %w", err)
		}
		s.spoilt = err
		first, through, err = s.open(mark)
	}
	if err != nil {
		return nil, err
	}
	if s.first = first; first == 0 || through < mark {
		// Entries up to the mark were applied while nobody noted.
		s.first = mark + 1
	}
	return s, nil
}

// SetAside says why Open has set the file aside that was there, nil when it has not.
func (s *Store) SetAside() error { return s.spoilt }

func (s *Store) open(mark uint64) (first, through uint64, err error) {
	if _, err := os.Stat(s.path); err == nil {
		err := boltcheck.Check(s.path, func(_ string, key, value []byte) error {
			_, err := unsealed(key, value)
			return err
		})
		if err != nil {
			return 0, 0, err
		}
	}
	err = guarded(func() error {
		db, err := bolt.Open(s.path, 0o600, &bolt.Options{Timeout: time.Second, PageSize: boltcheck.PageSize, FreelistType: bolt.FreelistMapType})
		if err != nil {
			return fmt.Errorf("open verdicts %s: %w", s.path, err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			held, err := tx.CreateBucketIfNotExists(bucketVerdicts)
			if err != nil {
				return err
			}
			// Those behind the mark are noted anew; what stands there may be of entries that were lost since.
			c := held.Cursor()
			for k, _ := c.Seek(indexKey(mark + 1)); k != nil; k, _ = c.Seek(indexKey(mark + 1)) {
				if err := c.Delete(); err != nil {
					return err
				}
			}
			b, err := tx.CreateBucketIfNotExists(bucketRange)
			if err != nil {
				return err
			}
			rec := b.Get(keyRange)
			if rec == nil {
				return nil
			}
			body, err := unsealed(keyRange, rec)
			if err != nil || len(body) != 16 {
				return fmt.Errorf("range: %w", errDamaged)
			}
			first, through = binary.BigEndian.Uint64(body), min(mark, binary.BigEndian.Uint64(body[8:]))
			return putRange(b, first, through)
		})
		if err != nil {
			return errors.Join(fmt.Errorf("open verdicts %s: %w", s.path, err), db.Close())
		}
		s.db = db
		return nil
	})
	return first, through, err
}

// guarded makes an error of the panics by which bbolt tells of pages that are not what they were, or cannot be read.
func guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return do()
}

func sum(key, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
}

func sealed(key, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, sum(key, body)), body...)
}

func unsealed(key, rec []byte) ([]byte, error) {
	if len(rec) < 4 || binary.BigEndian.Uint32(rec) != sum(key, rec[4:]) {
		return nil, errDamaged
	}
	return rec[4:], nil
}

func putRange(b *bolt.Bucket, first, through uint64) error {
	known := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, first), through)
	return b.Put(keyRange, sealed(keyRange, known))
}

func indexKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// Note keeps the verdict on an entry. The body belongs to the store from then on.
func (s *Store) Note(index uint64, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[index] = body
}

// Jump says that the state is that of the entry index now without the entries before having been applied here.
func (s *Store) Jump(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first = max(s.first, index+1)
	clear(s.pending)
}

// Knows reports whether the verdict on an entry that was applied is known: then one without a record was applied as it
// stands.
func (s *Store) Knows(index uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return index >= s.first
}

// Get returns the verdict on an entry, nil when there is none. known is false when it cannot be told.
func (s *Store) Get(index uint64) (body []byte, known bool) {
	s.dbMu.RLock() // before it is asked what is known: another file knows less
	defer s.dbMu.RUnlock()
	s.mu.Lock()
	known = index >= s.first
	body, noted := s.pending[index]
	if !noted {
		body, noted = s.flushing[index]
	}
	s.mu.Unlock()
	if !known || noted {
		return body, known
	}
	err := guarded(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			key := indexKey(index)
			rec := tx.Bucket(bucketVerdicts).Get(key)
			if rec == nil {
				return nil
			}
			held, err := unsealed(key, rec)
			body = append([]byte(nil), held...)
			return err
		})
	})
	if err != nil {
		s.log.Warn("a verdict cannot be read: consumers are served the entry by another node", "index", index, "err", err)
		return nil, false
	}
	return body, true
}

// maxForgotten bounds what one Commit deletes; the next deletes more.
const maxForgotten = 100_000

// Commit makes durable what was noted on entries up to through, and perhaps later ones, and forgets what is before
// oldest, which the log does not hold any more. On error all of it is noted still. A file that is damaged is set aside, and the
// verdicts on entries up to through are not known here any more: it is no part of the state, and no reason to stop.
func (s *Store) Commit(through, oldest uint64) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.mu.Lock()
	s.flushing, s.pending = s.pending, make(map[uint64][]byte)
	first, batch := s.first, s.flushing
	s.mu.Unlock()
	err := s.write(first, through, oldest, batch)
	if errors.Is(err, errDamaged) {
		err = s.anew(through, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushing = nil
	if err == nil && s.first <= first {
		return nil
	}
	for index, body := range batch {
		if _, newer := s.pending[index]; !newer && index >= s.first {
			s.pending[index] = body
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("write verdicts %s: %w", s.path, err)
}

// anew sets the file aside while it is in use, and begins another one for the entries behind the mark through.
func (s *Store) anew(through uint64, damage error) error {
	s.log.Error("the file of verdicts is damaged and set aside: consumers are served old entries by other nodes", "file", s.path, "err", damage)
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	if err := os.Rename(s.path, s.path+".damaged"); err != nil {
		return fmt.Errorf("set verdicts aside: %w", err)
	}
	// The old one is not closed: bbolt may hold its locks since it panicked.
	if _, _, err := s.open(through); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first = max(s.first, through+1)
	return nil
}

func (s *Store) write(first, through, oldest uint64, batch map[uint64][]byte) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	return guarded(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketVerdicts)
			for index, body := range batch {
				key := indexKey(index)
				if err := b.Put(key, sealed(key, body)); err != nil {
					return err
				}
			}
			c := b.Cursor()
			n := 0
			for k, _ := c.First(); k != nil && binary.BigEndian.Uint64(k) < max(oldest, first) && n < maxForgotten; k, _ = c.First() {
				if err := c.Delete(); err != nil {
					return err
				}
				n++
			}
			return putRange(tx.Bucket(bucketRange), first, through)
		})
	})
}

// Close closes the file. What was not committed is noted again when the entries are applied again.
func (s *Store) Close() error {
	if s == nil || s.db == nil {
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close verdicts %s: %w", s.path, err)
	}
	return nil
}
