package logstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// Options say how a Store works. The zero value of a field takes its default.
type Options struct {
	Log *slog.Logger
	// CacheBytes bounds the cache of Pebble (64 MiB). MemTableBytes is the size of one of at most four memtables
	// (16 MiB).
	CacheBytes, MemTableBytes int64
	// OutlineBytes bounds what is remembered of blocks so that queries need not read them (32 MiB); less than 0 is nothing.
	OutlineBytes int64
	// SealBytes of lines in the inbox, as block.Size counts, are sealed at once (64 MiB), or what there is after
	// SealAge (60 s).
	SealBytes int64
	SealAge   time.Duration
	// OpenIndexes bounds the word indexes held open (8), each a day.
	OpenIndexes int
	// Queries that people ask may run at once (4) and take this many bytes of memory together (256 MiB); QueriesWaiting (64)
	// wait, the others are refused.
	Queries, QueriesWaiting int
	QueryBytes              int64
	// NoIndex leaves the word index out; searches are the same, only slower.
	NoIndex bool
	// OnDamage is told, at most once for each place, of damage found by a reader or by background work. It must
	// not block.
	OnDamage func(*DamageError)
	// OnIndex is told that the word index of a day (since 1970) was not what it should be, and with nil once it was dropped and
	// its blocks are scanned until they are indexed again. It must not block.
	OnIndex func(day int64, why error)
	// OnFallback is told of every block that was written in version 1 although the cluster's format allows more, because encoding
	// it in version 2 did not keep its lines: a fault of the program by which nothing is lost. It must not block.
	OnFallback func(err error)
	// FS is the file system of Pebble (the real one); the word index always lives on the real one.
	FS vfs.FS
	// Now is the clock of background work (time.Now). No answer depends on it.
	Now func() time.Time
	// Manual leaves background work to Store.Work.
	Manual bool

	templateLines int // blocks of fewer lines are of version 1
}

func (o *Options) defaults() {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.CacheBytes, 64<<20)
	def(&o.MemTableBytes, 16<<20)
	def(&o.OutlineBytes, 32<<20)
	def(&o.SealBytes, 64<<20)
	def(&o.QueryBytes, 256<<20)
	if o.Queries == 0 {
		o.Queries = 4
	}
	if o.QueriesWaiting == 0 {
		o.QueriesWaiting = 64
	}
	if o.SealAge == 0 {
		o.SealAge = time.Minute
	}
	if o.templateLines == 0 {
		o.templateLines = templateLines
	}
	if o.OpenIndexes == 0 {
		o.OpenIndexes = 8
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	o.FS = checkedFS{blobRoomFS{o.FS}}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// ErrClosed says that no directory is open.
var ErrClosed = errors.New("log store is closed")

// ErrDamaged is wrapped by every DamageError.
var ErrDamaged = errors.New("log store is damaged")

// DamageError names what is damaged. What holds the place is never served; the store must be installed again
// from a peer.
type DamageError struct {
	Dir   string
	Place string // a file or a key
	Err   error
	// From and To bound the times of the lines that it is about, in milliseconds since 1970, To exclusive; both 0 when
	// unknown.
	From, To int64
	// Index says that it is only a word index, which is made again from the blocks.
	Index bool
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("log store %s: %s is damaged: %v", e.Dir, e.Place, e.Err)
}

// DamagedPlace is for those who know the error by this only: where the damage is, and the times that it is about in
// milliseconds, both inclusive; 0 when unknown.
func (e *DamageError) DamagedPlace() (place string, from, to int64) {
	if e.To > 0 {
		to = e.To - 1
	}
	return e.Place, e.From, to
}

// Unwrap makes errors.Is find ErrDamaged and the cause.
func (e *DamageError) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// VersionError names what is whole but of a version that this program does not know. It is no damage.
type VersionError struct {
	Dir   string
	Place string // a file or a key
	Err   error
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("log store %s: %s was written by a newer version: %v", e.Dir, e.Place, e.Err)
}

// OtherVersion tells the error from damage, for those who know it by this only.
func (e *VersionError) OtherVersion() {}

// Unwrap returns the cause.
func (e *VersionError) Unwrap() error { return e.Err }

// Store is the log store of one node: a LogSink of raftstate and the source of all log queries. All methods are
// safe for concurrent use; ApplyLogs, Open, Cut and Close are called by one goroutine at a time.
type Store struct {
	opt    Options
	codec  *block.Codec
	floors [kinds]atomic.Int64 // query floors by stream kind, nanoseconds
	format atomic.Uint32       // of the cluster's state
	passes [passKinds]passCounter
	cuts   atomic.Pointer[cuts]
	// durable is the entry up to which the state is: newer cuts hide lines and remove none.
	durable atomic.Uint64

	mu     sync.Mutex // guards engine
	engine *engine
	retire sync.WaitGroup // engines being closed
	closed bool

	tails  feed
	bounds bounds

	queries *queryGate
	decoded sync.Pool // of *decoded

	suggesting chan struct{} // holds one for each Suggest under way
}

// bounds of what is held in memory, and of what queries hold.
type bounds struct {
	decoded int64         // bytes of lines of the inbox that are held decoded, as block.Size counts
	window  int           // bytes of lines that a walk in the order of time collects before it hands them out; up to twice that
	values  int           // bytes of the distinct values that are counted at once
	squeeze int64         // bytes on disk that are worth a compaction (squeeze)
	pass    time.Duration // after that a walk gives its snapshot up at the end of a day
}

var defaultBounds = bounds{window: 16 << 20, values: 16 << 20, squeeze: 1 << 20, pass: 5 * time.Second}

// New makes a Store without a directory; Open gives it one.
func New(opt Options) (*Store, error) {
	opt.defaults()
	codec, err := block.NewCodec()
	if err != nil {
		return nil, fmt.Errorf("make log store: %w", err)
	}
	s := &Store{
		opt: opt, codec: codec, bounds: defaultBounds, queries: newQueryGate(&opt),
		suggesting: make(chan struct{}, suggestAtOnce),
	}
	s.bounds.decoded = opt.SealBytes
	for i := range s.floors {
		s.floors[i].Store(minTime)
	}
	s.cuts.Store(&cuts{})
	return s, nil
}

// Open opens the store kept in dir, made when absent, in place of the one that is open now. New readers get the
// new one; the old one is closed once its readers are gone, or cancelled 5 s later.
func (s *Store) Open(dir string) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	same := s.engine != nil && s.engine.dir == dir
	s.mu.Unlock()
	if same {
		return fmt.Errorf("open log store %s: it is open already", dir)
	}
	e, err := openEngine(s, dir)
	if err != nil {
		return fmt.Errorf("open log store %s: %w", dir, err)
	}
	s.mu.Lock()
	old := s.engine
	s.engine = e
	s.mu.Unlock()
	if old != nil {
		s.retire.Go(func() {
			if err := old.close(5*time.Second, false); err != nil {
				s.opt.Log.Warn("closing the replaced log store", "dir", old.dir, "err", err)
			}
		})
	}
	return nil
}

// acquire returns the open engine, kept open until release is called.
func (s *Store) acquire() (e *engine, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine == nil {
		return nil, nil, ErrClosed
	}
	return s.engine, s.engine.gate.enter(), nil
}

// Applied returns the greatest index that ApplyLogs stored, 0 when none or closed.
func (s *Store) Applied() uint64 {
	e, release, err := s.acquire()
	if err != nil {
		return 0
	}
	defer release()
	return e.applied.Load()
}

// Flush hands all that was applied before the call to the file system, so that a syncfs makes it durable. It
// fails when the disk is full (errors.Is syscall.ENOSPC) or ctx ends; what was applied stays in memory then.
func (s *Store) Flush(ctx context.Context) error {
	e, release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	return e.flush(ctx)
}

// Pause stops sealing, merging, indexing and dropping, and returns when they stand still. Resume is idempotent.
func (s *Store) Pause(ctx context.Context) (resume func(), err error) {
	e, release, err := s.acquire()
	if err != nil {
		return nil, err
	}
	select {
	case e.maint <- struct{}{}:
	case <-ctx.Done():
		release()
		return nil, fmt.Errorf("pause log store: %w", ctx.Err())
	}
	return sync.OnceFunc(func() {
		<-e.maint
		release()
	}), nil
}

// Cut makes in dst, absent before, a copy of the store as of now from hard links. The word index is left out:
// the copy's owner builds it again from the blocks. It fails with ErrDamaged when the store is known to be damaged:
// a peer is to install from a node that is whole.
func (s *Store) Cut(dst string) error {
	e, release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	return e.cut(dst)
}

// Close closes the store after flushing it and waits for all its goroutines. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	old := s.engine
	s.engine = nil
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	s.tails.close()
	var err error
	if old != nil {
		if err = old.close(5*time.Second, true); err != nil {
			err = fmt.Errorf("close log store %s: %w", old.dir, err)
		}
	}
	s.retire.Wait()
	if first {
		s.codec.Close()
	}
	return err
}

// SetFormat tells of the format of the cluster's state, by which blocks and filters are written from now on. What was written
// before stays readable, and becomes of the newer form when it is merged.
func (s *Store) SetFormat(format uint32) { s.format.Store(format) }

// SetFloor raises the query floor of logs and events at once: lines before it (nanoseconds) are in no answer any
// more. Whole days below it are dropped behind.
func (s *Store) SetFloor(ns int64) {
	s.SetKindFloor(wire.StreamLog, ns)
	s.SetKindFloor(wire.StreamEvent, ns)
}

// SetKindFloor does the same for the streams of one kind, whose retention is cut apart from the other's.
func (s *Store) SetKindFloor(kind wire.StreamKind, ns int64) {
	s.raise(kind, ns)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine != nil {
		s.engine.poke()
	}
}

func (s *Store) raise(kind wire.StreamKind, ns int64) {
	f := &s.floors[kind%kinds]
	for old := f.Load(); ns > old && !f.CompareAndSwap(old, ns); old = f.Load() {
	}
}

// kinds bounds the numbers of stream kinds.
const kinds = 3

// floors are the query floors by stream kind at one moment.
type floors [kinds]int64

func (s *Store) floorsNow() (f floors) {
	for i := range f {
		f[i] = s.floors[i].Load()
	}
	return f
}

func (f *floors) of(kind wire.StreamKind) int64 { return f[kind%kinds] }

// all returns the floor below which nothing is left.
func (f *floors) all() int64 { return min(f[wire.StreamLog], f[wire.StreamEvent]) }

// gate counts users of something that will be closed.
type gate struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // made by drained, closed at n == 0
}

func (g *gate) enter() (leave func()) {
	g.mu.Lock()
	g.n++
	g.mu.Unlock()
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.n--; g.n == 0 && g.idle != nil {
			close(g.idle)
			g.idle = nil
		}
	})
}

// drained returns a channel that is closed when there are no users; nobody may enter any more.
func (g *gate) drained() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	done := make(chan struct{})
	if g.n == 0 {
		close(done)
	} else {
		g.idle = done
	}
	return done
}
