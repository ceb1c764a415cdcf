// Package logfile is the durable log of one node: hashicorp/raft-wal with a checksum in every entry that is
// checked on every read, a cache of the newest entries bounded in bytes, and the sizes of index ranges, which
// raft itself does not know.
//
// It promises: what StoreLogs returned nil for is on stable storage; a read returns exactly what was stored or
// an error that is ErrCorrupt; DeleteRange does not take away entries that an install still needs (Hold). A
// failed write or fsync must be treated as fatal by the caller (DESIGN, RELIABILITY); only ErrFull is not.
// The package must not import anything of Triward except raftstate/boltcheck.
package logfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	bolterr "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Errors of the log. They are wrapped with the index and the directory.
var (
	// ErrCorrupt says that an entry of the log is not what was stored.
	ErrCorrupt = errors.New("log entry is damaged")
	// ErrVersion says that an entry is whole but of a version that this program does not know.
	ErrVersion = errors.New("log entry is of an unknown version")
	// ErrFull says that an append was refused, before anything was written, because the file system has less
	// than half of the reserve left. Appending works again once there is room.
	ErrFull = errors.New("file system of the log is full")
)

// Options of a store; zero values take the defaults named.
type Options struct {
	SegmentBytes int          // size of a segment file; 64 MiB
	CacheBytes   int64        // newest entries kept in memory; 64 MiB
	HoldBytes    int64        // a log larger than this is truncated in spite of Hold; 8 GiB
	Logger       hclog.Logger // of raft-wal; discarded when nil

	// ReserveBytes of the file system are not for data, half of them not for anything (see Room); 192 MiB, so that
	// each half is more than the segment that raft-wal allots at once. Negative: no check.
	ReserveBytes int64
	// Short opens a log also when it ends before where it had reached, or when it is not known where that was. Whoever
	// does so has lost what was acknowledged.
	Short bool
	// Look opens a log Short and leaves its files as they are; nothing may be written to it.
	Look bool
	// FreeBytes says how much the file system of a directory has left; by default it is asked.
	FreeBytes func(dir string) (int64, error)
	// Files is the file system of the segments, which lie in the log's directory; that of the machine.
	Files types.VFS
}

// Room says what there is room for on the file system of the log.
type Room uint8

// Kinds of room, less and less.
const (
	RoomAmple   Room = iota
	RoomTight        // for a segment more: the log should let go of what it need not keep
	RoomControl      // for entries that free room or keep the cluster going, not for data
	RoomNone         // for nothing: appends are refused
)

// Store implements raft.LogStore, raft.MonotonicLogStore and raft.StableStore. Reads may run beside one another
// and beside one writer.
type Store struct {
	dir     string
	opt     Options
	wal     *wal.WAL
	reach   *reach
	doubt   Doubt
	least   uint64 // the entry that it had reached, as far as that is known
	cache   cache
	extents extents
	base    atomic.Pointer[base]

	write  chan struct{} // held by who writes or deletes entries
	mu     sync.Mutex
	holds  int
	closed bool
	writes writes
}

var (
	_ raft.LogStore          = (*Store)(nil)
	_ raft.MonotonicLogStore = (*Store)(nil)
	_ raft.StableStore       = (*Store)(nil)
)

// Open opens the log kept in dir, which is made when absent. It reads the newest segment (at most
// SegmentBytes) to learn the sizes of its entries.
func Open(dir string, o Options) (*Store, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64 << 20
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 192 << 20
	}
	if o.FreeBytes == nil {
		o.FreeBytes = freeBytes
	}
	if o.HoldBytes == 0 {
		o.HoldBytes = 8 << 30
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Files == nil {
		o.Files = walfs.New()
	}
	o.Short = o.Short || o.Look
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	reach, least, err := openReach(dir, o.Short)
	doubt := DoubtNone
	if o.Short && errors.Is(err, ErrCorrupt) {
		doubt, err = DoubtReach, nil
	}
	if err != nil {
		return nil, err
	}
	w, err := openWAL(dir, o, least)
	if err != nil {
		return nil, errors.Join(corrupt(fmt.Errorf("open log in %s: %w", dir, err)), reach.close())
	}
	s := &Store{dir: dir, opt: o, wal: w, reach: reach, doubt: doubt, least: least, write: make(chan struct{}, 1)}
	s.cache.limit = o.CacheBytes
	_, last, err := s.bounds()
	if err == nil && last < least && o.Short {
		s.doubt = DoubtLost
	} else if err == nil && last < least {
		err = fmt.Errorf("log in %s ends at entry %d, it had reached %d: %w", dir, last, least, ErrCorrupt)
	}
	if err == nil {
		err = s.measure()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openWAL opens raft-wal, whose reading of damaged files may panic.
func openWAL(dir string, o Options, least uint64) (w *wal.WAL, err error) {
	m := &metaDB{}
	m.loaded = func(s types.PersistentState) (types.PersistentState, error) {
		return putTailInOrder(dir, o, least, m, s)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errChecksum, r)
		}
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	return wal.Open(dir, wal.WithSegmentSize(o.SegmentBytes), wal.WithLogger(o.Logger), wal.WithMetaStore(m),
		wal.WithSegmentFiler(segment.NewFiler(dir, o.Files)))
}

// measure seeds the extents: sealed segments by the size of their file, the newest by its entries.
func (s *Store) measure() error {
	first, last, err := s.bounds()
	if err != nil || last == 0 {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*.wal"))
	if err != nil {
		return fmt.Errorf("list segments of %s: %w", s.dir, err)
	}
	type segment struct {
		base uint64
		size int64
	}
	var segments []segment
	for _, name := range files {
		var base, id uint64
		if _, err := fmt.Sscanf(strings.TrimSuffix(filepath.Base(name), ".wal"), "%020d-%016x", &base, &id); err != nil {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("size of segment: %w", err)
		}
		segments = append(segments, segment{base, info.Size()})
	}
	sort.Slice(segments, func(i, j int) bool { return segments[i].base < segments[j].base })
	next := first
	for i := 0; i+1 < len(segments); i++ {
		end := segments[i+1].base - 1
		if end < next || end > last {
			continue
		}
		e := extent{first: max(first, segments[i].base), last: end, bytes: segments[i].size}
		var l raft.Log
		if s.read(e.first, &l) == nil { // damage is found and named by Verify or the reader
			e.since = l.AppendedAt
		}
		s.extents.seed(e)
		next = end + 1
	}
	for ; next <= last; next++ {
		l := new(raft.Log)
		if err := s.read(next, l); err != nil {
			s.extents.seed(extent{first: next, last: last})
			return nil
		}
		s.extents.add([]*raft.Log{l})
	}
	return nil
}

func (s *Store) bounds() (first, last uint64, err error) {
	if first, err = s.wal.FirstIndex(); err == nil {
		last, err = s.wal.LastIndex()
	}
	if err != nil {
		return 0, 0, fmt.Errorf("bounds of log in %s: %w", s.dir, err)
	}
	return first, last, nil
}

// Dir returns the directory of the log.
func (s *Store) Dir() string { return s.dir }

// IsMonotonic implements raft.MonotonicLogStore: there are no gaps.
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore; 0 for an empty log.
func (s *Store) FirstIndex() (uint64, error) { return s.wal.FirstIndex() }

// LastIndex implements raft.LogStore; 0 for an empty log.
func (s *Store) LastIndex() (uint64, error) { return s.wal.LastIndex() }

// GetLog implements raft.LogStore. The error is raft.ErrLogNotFound outside of the log and ErrCorrupt, wrapped,
// when the entry is not what was stored, ErrVersion when another version of the program stored it. The data is shared and must not be changed.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
	if s.cache.get(index, l) {
		return nil
	}
	// raft-wal still reads entries that were removed from the front of its newest segment.
	if first, err := s.wal.FirstIndex(); err == nil && index < first {
		return s.notFound(index, l)
	}
	return s.readChecked(index, l)
}

func (s *Store) readChecked(index uint64, l *raft.Log) error {
	err := s.read(index, l)
	switch {
	case err == nil && l.Index != index:
		return at(index, fmt.Errorf("entry %d in %s carries index %d: %w", index, s.dir, l.Index, ErrCorrupt))
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrLogNotFound):
		first, last, boundsErr := s.bounds()
		if boundsErr == nil && last > 0 && index >= first && index <= last {
			return at(index, fmt.Errorf("entry %d in %s is missing: %w", index, s.dir, ErrCorrupt))
		}
		return s.notFound(index, l)
	}
	return at(index, corrupt(fmt.Errorf("read entry %d in %s: %w", index, s.dir, err)))
}

// entryError names the entry that could not be read.
type entryError struct {
	index uint64
	err   error
}

func at(index uint64, err error) error { return &entryError{index, err} }

// Error implements error.
func (e *entryError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *entryError) Unwrap() error { return e.err }

// DamagedIndex returns which entry an error of GetLog or Verify that is ErrCorrupt speaks of.
func DamagedIndex(err error) (uint64, bool) {
	var e *entryError
	if !errors.Is(err, ErrCorrupt) || !errors.As(err, &e) {
		return 0, false
	}
	return e.index, true
}

// SetReach notes, durably, that the log reaches as far as it does, after it was opened Short.
func (s *Store) SetReach() error {
	_, last, err := s.bounds()
	if err != nil {
		return err
	}
	return s.reach.set(last, true)
}

// read reads an entry from the files. Damage may make raft-wal's decoder panic.
func (s *Store) read(index uint64, l *raft.Log) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errChecksum, r)
		}
	}()
	if err := s.wal.GetLog(index, l); err != nil {
		return err
	}
	return unseal(l)
}

// corrupt marks errors that speak of damaged content rather than of a file or a version that cannot be read.
func corrupt(err error) error {
	var errno syscall.Errno
	if errors.Is(err, wal.ErrClosed) || errors.Is(err, ErrVersion) || errors.Is(err, bolterr.ErrTimeout) || errors.As(err, &errno) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore: nil means that all of logs are on stable storage. The data of the entries
// must not be changed afterwards. Errors other than ErrFull are final: the node must stop.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	if err := s.CheckRoom(); err != nil {
		return err
	}
	defer s.writes.begin()() // also what stands in line behind one that hangs
	defer s.lockWrite()()
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		sealed[i] = seal(l)
	}
	if err := s.wal.StoreLogs(sealed); err != nil {
		return fmt.Errorf("append to log in %s: %w", s.dir, err)
	}
	s.extents.add(logs)
	s.cache.add(logs)
	return s.reach.set(logs[len(logs)-1].Index, false)
}

// lockWrite keeps other writers out until the function it returns is called.
func (s *Store) lockWrite() func() {
	s.write <- struct{}{}
	return func() { <-s.write }
}

// Room returns what there is room for. With RoomControl and RoomNone the error, which is ErrFull unless the file
// system did not answer, says why.
func (s *Store) Room() (Room, error) {
	if s.opt.ReserveBytes < 0 {
		return RoomAmple, nil
	}
	free, err := s.opt.FreeBytes(s.dir)
	if err != nil {
		return RoomNone, err
	}
	room := RoomNone
	switch reserve := s.opt.ReserveBytes; {
	case free >= reserve+int64(s.opt.SegmentBytes):
		return RoomAmple, nil
	case free >= reserve:
		return RoomTight, nil
	case free >= reserve/2:
		room = RoomControl
	}
	return room, fmt.Errorf("%s has %d MiB left, %d MiB are kept in reserve: %w", s.dir, free>>20, s.opt.ReserveBytes>>20, ErrFull)
}

// CheckRoom returns ErrFull, wrapped, when an append would be refused now.
func (s *Store) CheckRoom() error {
	if room, err := s.Room(); room == RoomNone {
		return err
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// DeleteRange implements raft.LogStore for a prefix or a suffix of the log. While a Hold is out, removing a
// prefix does nothing (the next compaction removes more), unless the log exceeds HoldBytes.
func (s *Store) DeleteRange(lo, hi uint64) error {
	defer s.lockWrite()()
	first, last, err := s.bounds()
	if err != nil {
		return err
	}
	if last == 0 || hi < first || lo > last {
		return nil
	}
	if lo <= first && hi < last && s.held() {
		return nil
	}
	if lo <= first && hi >= last {
		if hi = s.beyondBase(first, last); hi < first {
			return nil
		}
	}
	if hi >= last {
		left := lo - 1
		if lo <= first {
			left = 0
		}
		if err := s.reach.set(left, true); err != nil {
			return err
		}
	}
	s.cache.truncate(lo, hi)
	if err := s.wal.DeleteRange(lo, hi); err != nil {
		return fmt.Errorf("delete entries %d to %d of log in %s: %w", lo, hi, s.dir, err)
	}
	s.extents.truncate(lo, hi)
	return nil
}

// base is the last entry of an image that the state was taken from.
type base struct {
	index, term uint64
	installed   atomic.Bool // raft is about to clear the log
}

// Follow tells the log that the state is that of the entry index from now on, of an image (installed) or of the mark
// that this node starts from. It returns false when the log cannot go on from there: it holds later entries behind
// another entry. Raft clears the log after an install and, being told that it is monotonic, still takes the last entry
// it had for its last (hashicorp/raft 1.7.3, installSnapshot): it would refuse all that follows and be sent the same
// image again, until a new one is cut. So the clearing that follows leaves what goes on from the image, and GetLog
// knows the entry before it, of which raft compares the term.
func (s *Store) Follow(index, term uint64, installed bool) (bool, error) {
	b := &base{index: index, term: term}
	b.installed.Store(installed)
	s.base.Store(b)
	first, last, err := s.bounds()
	if err != nil || last <= index {
		return err == nil, err
	}
	return s.goesOn(b, first), nil
}

// goesOn reports whether the log, which ends behind b, continues it.
func (s *Store) goesOn(b *base, first uint64) bool {
	if first > b.index {
		return first == b.index+1
	}
	var l raft.Log
	return s.GetLog(b.index, &l) == nil && l.Term == b.term
}

// beyondBase returns up to where clearing the log may go.
func (s *Store) beyondBase(first, last uint64) uint64 {
	b := s.base.Load()
	if b == nil || !b.installed.Swap(false) || last <= b.index || !s.goesOn(b, first) {
		return last
	}
	return b.index
}

// notFound answers for an entry that the log does not hold: of the one that comes before it the term is known.
func (s *Store) notFound(index uint64, l *raft.Log) error {
	b := s.base.Load()
	if b == nil || index != b.index || index < 2 { // raft reads entry 1 without asking for the one before it
		return raft.ErrLogNotFound
	}
	*l = raft.Log{Index: b.index, Term: b.term, Type: raft.LogNoop}
	return nil
}

// Clear removes every entry.
func (s *Store) Clear() error {
	first, last, err := s.bounds()
	if err != nil || last == 0 {
		return err
	}
	return s.DeleteRange(first, last)
}

func (s *Store) held() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holds > 0 && s.extents.total() <= s.opt.HoldBytes
}

// Hold keeps the oldest entries until release is called, which is idempotent.
func (s *Store) Hold() (release func()) {
	s.mu.Lock()
	s.holds++
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.holds--
		s.mu.Unlock()
	})
}

// Bytes returns the size of the entries held (of sealed segments from before the last start: of their files).
func (s *Store) Bytes() int64 { return s.extents.total() }

// Between returns about how many bytes the entries lo..hi take, as far as they are held.
func (s *Store) Between(lo, hi uint64) int64 { return s.extents.between(lo, hi) }

// CachedBytes returns what the cache holds in memory.
func (s *Store) CachedBytes() int64 { return s.cache.size() }

// Segments returns the number of segment files.
func (s *Store) Segments() int {
	files, err := filepath.Glob(filepath.Join(s.dir, "*.wal"))
	if err != nil {
		return 0
	}
	return len(files)
}

// Newest returns how many of the newest entries take at most limit bytes and were appended no earlier than
// notBefore (zero: any time). The granularity is 4 MiB, for entries from before the last start a segment.
func (s *Store) Newest(limit int64, notBefore time.Time) uint64 {
	return s.extents.newest(limit, notBefore)
}

// Verify reads every entry from index on and returns the first error, ErrCorrupt wrapped when it is damage.
func (s *Store) Verify(ctx context.Context, from uint64) error {
	first, last, err := s.bounds()
	if err != nil || last == 0 {
		return err
	}
	var l raft.Log
	for i := max(first, from); i <= last; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.GetLog(i, &l); err != nil {
			return err
		}
	}
	return nil
}

// Set implements raft.StableStore, durably.
func (s *Store) Set(key, val []byte) error {
	defer s.writes.begin()()
	if err := s.wal.Set(key, val); err != nil {
		return fmt.Errorf("store %s in %s: %w", key, s.dir, err)
	}
	return nil
}

// Get implements raft.StableStore; an absent key is an empty value. Damage is ErrCorrupt, wrapped, as with GetLog.
func (s *Store) Get(key []byte) ([]byte, error) {
	v, err := s.wal.Get(key)
	if err != nil {
		return nil, corrupt(fmt.Errorf("read %s in %s: %w", key, s.dir, err))
	}
	return v, nil
}

// SetUint64 implements raft.StableStore, durably.
func (s *Store) SetUint64(key []byte, val uint64) error {
	defer s.writes.begin()()
	if err := s.wal.SetUint64(key, val); err != nil {
		return fmt.Errorf("store %s in %s: %w", key, s.dir, err)
	}
	return nil
}

// GetUint64 implements raft.StableStore; an absent key is 0. Damage is ErrCorrupt, wrapped, as with GetLog.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	v, err := s.wal.GetUint64(key)
	if err != nil {
		return 0, corrupt(fmt.Errorf("read %s in %s: %w", key, s.dir, err))
	}
	return v, nil
}

// Close closes the log. Everything stored is durable already.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := errors.Join(s.wal.Close(), s.reach.close()); err != nil {
		return fmt.Errorf("close log in %s: %w", s.dir, err)
	}
	return nil
}
