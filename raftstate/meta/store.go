package meta

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/boltcheck"
	"github.com/triward/triward/raftstate/command"
)

// Store is the deciding state of one node. See the package comment for who may call what.
type Store struct {
	log *slog.Logger

	// Locks are taken in this order: commitMu, kvMu, tabMu, dbMu.
	commitMu sync.Mutex   // Commit, CopyTo, Reload, Close
	kvMu     sync.RWMutex // layers' kv; held by Tx from its first change of a key until End
	tabMu    sync.RWMutex // layers' labels, agents, digests, applied, mark
	dbMu     sync.RWMutex // db; held for reading as long as a read transaction runs

	db   *bolt.DB
	path string
	// leaving is closed before db is: who reads it slowly lets go of it.
	leaving chan struct{}

	live   *layer
	frozen *layer // nil when everything frozen is in the file
	gen    uint64 // number of the layer `live`; objects of another number are copied before they change
	loads  uint64 // counts Open and Reload, to know a Frozen of another file
	sealed uint64 // generation of the last committed layer
	mark   Mark
	marked bool

	logTime   atomic.Int64
	format    atomic.Uint32
	floors    [len(command.Kinds) + 1]atomic.Int64
	series    atomic.Int64 // series in the dictionary
	nextID    uint64       // the id to allot next; apply goroutine only
	nextAgent uint32

	applied, appliedTerm uint64 // tabMu

	agents  map[string]*agent   // tabMu to change, and to read outside the apply goroutine
	names   []string            // agents by number, likewise
	digests map[dayKey]dayTotal // likewise

	// What follows belongs to the apply goroutine.
	recent      recentWindow
	dict        []*dictPage // by id >> pageBits
	times       []*timesPage
	index       map[uint64]uint64   // hash of labels to id
	collide     map[uint64][]uint64 // further ids of the same hash
	expiry      expiryHeap
	expirySwept int // length of expiry after it was swept last
	memos       []memo
	memoGen     uint64
	late        []int
	tx          Tx
}

var (
	bucketState  = []byte("state")  // single records: mark, state
	bucketKV     = []byte("kv")     // bucket NUL key
	bucketAgents = []byte("agents") // agent id
	bucketSeries = []byte("series") // series id, big endian: agent's number, labels
	bucketDict   = []byte("dict")   // page number: owners and hashes
	bucketTimes  = []byte("times")  // page number: timelines
	bucketDays   = []byte("days")   // kind, day: digest
	bucketRecent = []byte("recent") // page number: recent lines
	allBuckets   = [][]byte{
		bucketState, bucketKV, bucketAgents, bucketSeries, bucketDict, bucketTimes, bucketDays, bucketRecent,
	}

	keyMark  = []byte("mark")
	keyState = []byte("state")
)

// stateVersion is the version of everything in the file: the state record begins with it. That there is a bucket
// "state" with the record "state", that every record ends with its checksum, and that the version comes first in
// this one as a uvarint, stays so in all versions, so that a file of another one is told from a damaged one.
const stateVersion = 1

const fileGrowth = 1 << 20 // the file grows by so many bytes at once; images carry what is unused

// Open opens the store kept in the file path, made when it is absent. Errors about a file that is not what was
// written wrap ErrDamaged and name it, those about one of another version ErrVersion; the file is left as it is.
func Open(path string, log *slog.Logger) (*Store, error) {
	s := &Store{log: log}
	if _, err := os.Stat(path); os.IsNotExist(err) {
		if err := create(path); err != nil {
			return nil, err
		}
	}
	if err := s.open(path); err != nil {
		return nil, err
	}
	return s, nil
}

func options(readOnly bool) *bolt.Options {
	// The map is made large at once, so that a commit never waits for readers in order to grow it.
	return &bolt.Options{
		Timeout: time.Second, PageSize: boltcheck.PageSize, FreelistType: bolt.FreelistMapType,
		InitialMmapSize: 4 << 30, ReadOnly: readOnly,
	}
}

// create makes an empty file under another name and renames it, so that path is whole or absent.
func create(path string) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("create %s: %w", path, err)
	}
	db, err := bolt.Open(fresh, 0o600, options(false))
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range allBuckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		empty := &Store{nextID: 1}
		return putSealed(tx.Bucket(bucketState), keyState, empty.appendState(nil, 0, 0))
	})
	if e := db.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// open checks the file, opens it and loads the tables. The caller is alone with s or holds all locks.
func (s *Store) open(path string) (err error) {
	if err := Check(path); err != nil {
		return err
	}
	// Check read the whole file; should it shrink from now on, the fault is caught as well.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var db *bolt.DB
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("open state %s: %w: %v", path, ErrDamaged, r)
		}
		if err != nil && db != nil {
			_ = db.Close()
		}
	}()
	if db, err = bolt.Open(path, 0o600, options(false)); err != nil {
		return fmt.Errorf("open state %s: %w", path, err)
	}
	db.AllocSize = fileGrowth
	if err = s.load(db); err != nil {
		return fmt.Errorf("open state %s: %w", path, err)
	}
	s.db, s.path, s.leaving = db, path, make(chan struct{})
	s.loads++
	return nil
}

// Reload goes over to the file path, which must exist: all state is as there. On error the store is as before.
// No entry may be applied meanwhile; readers see the old state or the new one.
func (s *Store) Reload(path string) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	fresh := &Store{log: s.log}
	if err := fresh.open(path); err != nil {
		return err
	}
	s.kvMu.Lock()
	s.tabMu.Lock()
	s.dbMu.Lock()
	old := s.db
	if old != nil {
		close(s.leaving)
	}
	s.take(fresh)
	s.dbMu.Unlock()
	s.tabMu.Unlock()
	s.kvMu.Unlock()
	if old != nil {
		if err := old.Close(); err != nil {
			return fmt.Errorf("close the state before: %w", err)
		}
	}
	return nil
}

// take moves all that fresh holds into s.
func (s *Store) take(fresh *Store) {
	s.db, s.path, s.leaving = fresh.db, fresh.path, fresh.leaving
	s.live, s.frozen, s.gen, s.sealed = fresh.live, nil, fresh.gen, fresh.sealed
	s.loads++
	s.mark, s.marked = fresh.mark, fresh.marked
	s.logTime.Store(fresh.logTime.Load())
	s.format.Store(fresh.format.Load())
	for i := range s.floors {
		s.floors[i].Store(fresh.floors[i].Load())
	}
	s.series.Store(fresh.series.Load())
	s.nextID, s.nextAgent = fresh.nextID, fresh.nextAgent
	s.applied, s.appliedTerm = fresh.applied, fresh.appliedTerm
	s.agents, s.names, s.digests = fresh.agents, fresh.names, fresh.digests
	s.dict, s.times, s.index, s.collide = fresh.dict, fresh.times, fresh.index, fresh.collide
	s.recent = fresh.recent
	s.expiry, s.expirySwept, s.memoGen = fresh.expiry, 0, 0
}

// Close closes the file. What was not committed is lost, as it is meant to: the log brings it again.
func (s *Store) Close() error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	close(s.leaving)
	if err := db.Close(); err != nil {
		return fmt.Errorf("close state %s: %w", s.path, err)
	}
	return nil
}

// Path returns the file in use.
func (s *Store) Path() string {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	return s.path
}

// view runs fn in a read transaction of the file; on a closed store it does nothing.
func (s *Store) view(fn func(tx *bolt.Tx) error) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return bolt.ErrDatabaseNotOpen
	}
	return s.db.View(fn)
}

// Mark returns the mark of the last commit; false when there was none.
func (s *Store) Mark() (Mark, bool) {
	s.tabMu.RLock()
	defer s.tabMu.RUnlock()
	return s.mark, s.marked
}

// Applied returns index and term of the last entry published.
func (s *Store) Applied() (index, term uint64) {
	s.tabMu.RLock()
	defer s.tabMu.RUnlock()
	return s.applied, s.appliedTerm
}

// LogTime returns the log time in milliseconds since 1970; 0 before the first entry.
func (s *Store) LogTime() int64 { return s.logTime.Load() }

// Format returns the cluster's format; 0 before the first SetFormat.
func (s *Store) Format() uint32 { return s.format.Load() }

// Floor returns the retention floor of a kind in milliseconds since 1970: what is older must not be shown.
func (s *Store) Floor(k command.Kind) int64 {
	if !k.Valid() {
		return 0
	}
	return s.floors[k].Load()
}

// Digests returns the running digests in order of kind and day, and the index they stand for.
func (s *Store) Digests() (index uint64, sums []Digest) {
	s.tabMu.RLock()
	defer s.tabMu.RUnlock()
	d := Digests{total: s.digests}
	return s.applied, d.List()
}

// Publish makes index the last entry applied and adds the digests of what came since the publication before.
// Days that retention has dropped meanwhile are passed over, however entries are grouped.
func (s *Store) Publish(index, term uint64, adds []Digest) {
	s.tabMu.Lock()
	defer s.tabMu.Unlock()
	s.applied, s.appliedTerm = index, term
	for _, d := range adds {
		if (d.Day+1)*dayMs <= s.floors[d.Kind].Load() {
			continue
		}
		k := dayKey{d.Kind, d.Day}
		t := s.digests[k]
		s.digests[k] = dayTotal{t.count + d.Count, t.sum.Add(d.Sum)}
		s.live.days[k] = true
	}
}

// Tx is the state as one entry sees and changes it. It belongs to the apply goroutine.
type Tx struct {
	s       *Store
	index   uint64
	logTime int64
	changes *[]Change
	locked  bool
}

// Begin starts the entry index: log time moves on to stamp (never back) and keys whose time has come go.
// Changed keys are appended to changes. The Tx is valid until End, which must be called.
func (s *Store) Begin(index uint64, stamp int64, changes *[]Change) *Tx {
	now := max(s.logTime.Load(), stamp)
	s.logTime.Store(now)
	s.tx = Tx{s: s, index: index, logTime: now, changes: changes}
	s.tx.expire()
	return &s.tx
}

// End makes the entry's changes of keys visible to readers.
func (tx *Tx) End() {
	if tx.locked {
		tx.locked = false
		tx.s.kvMu.Unlock()
	}
}

// Index returns the index of the entry.
func (tx *Tx) Index() uint64 { return tx.index }

// LogTime returns the log time of the entry in milliseconds since 1970.
func (tx *Tx) LogTime() int64 { return tx.logTime }

// SetFormat sets the cluster's format.
func (tx *Tx) SetFormat(n uint32) { tx.s.format.Store(n) }

// RaiseFloor raises the retention floor of a kind and drops the digests of days before it. A lower floor than
// the present one changes nothing and is answered false.
func (tx *Tx) RaiseFloor(k command.Kind, floor int64) bool {
	s := tx.s
	if floor <= s.floors[k].Load() {
		return false
	}
	s.floors[k].Store(floor)
	s.tabMu.Lock()
	defer s.tabMu.Unlock()
	for key := range s.digests {
		if key.kind == k && (key.day+1)*dayMs <= floor {
			delete(s.digests, key)
			s.live.days[key] = true
		}
	}
	return true
}

// SubDigest takes items out of the digest of their kind and day. It is answered false, and nothing is changed, when the
// digest does not hold so many, or other ones. Only digests that were published count: the group before must be finished.
func (tx *Tx) SubDigest(d Digest) bool {
	s := tx.s
	k := dayKey{d.Kind, d.Day}
	s.tabMu.Lock()
	defer s.tabMu.Unlock()
	t := s.digests[k]
	left := dayTotal{t.count - d.Count, t.sum.Sub(d.Sum)}
	if d.Count > t.count || d.Count == 0 && d.Sum != (Sum{}) || left.count == 0 && left.sum != (Sum{}) {
		return false
	}
	if left.count == 0 {
		delete(s.digests, k)
	} else {
		s.digests[k] = left
	}
	s.live.days[k] = true
	return true
}

// DropDigests forgets the digests of a kind, of which nothing is held any more. No entry does that: it is for a state that
// a cluster is founded on.
func (tx *Tx) DropDigests(k command.Kind) {
	s := tx.s
	s.tabMu.Lock()
	defer s.tabMu.Unlock()
	for key := range s.digests {
		if key.kind == k {
			delete(s.digests, key)
			s.live.days[key] = true
		}
	}
}

// LogCuts returns what selectors have cut of the lines, in order of kind and day.
func (s *Store) LogCuts() (cuts []wire.LogCut, err error) {
	s.Scan(command.BucketSelectorCuts, "", func(key string, v Value) bool {
		var c wire.LogCut
		if c, err = command.LogCut(key, v.ModIndex, v.Data); err != nil {
			err = fmt.Errorf("state %s: %w", s.Path(), err)
			return false
		}
		cuts = append(cuts, c)
		return true
	})
	return cuts, err
}

// SeriesLabels returns the labels of a series of the dictionary.
func (s *Store) SeriesLabels(id uint64) (wire.Labels, bool) {
	se, ok := s.Series(id)
	return se.Labels, ok
}
