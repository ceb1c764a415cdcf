package logstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/index"
	"github.com/triward/triward/logstore/sieve"
)

// engine is the store of one directory: <dir>/pebble and <dir>/index.
type engine struct {
	store    *Store
	dir      string
	db       *pebble.DB
	index    *index.Days  // nil without a word index
	outlines *sieve.Cache // of blocks that queries looked at
	gate     gate
	maint    chan struct{} // held by whoever does background work, and by Pause
	wake     chan struct{}

	ctx    context.Context // ends when readers must go
	cancel context.CancelFunc
	work   sync.WaitGroup

	applied          atomic.Uint64
	inboxBytes       atomic.Int64 // of its lines
	inboxSince       atomic.Int64 // unix nanoseconds of the first row since the inbox was empty, 0 when it is
	nextBlock        atomic.Uint64
	unindexed, piles atomic.Int64 // as Waiting tells of them

	applyMu  sync.Mutex
	applying atomic.Pointer[applying] // nil while nothing is being stored
	known    map[dayStream]struct{}   // stream keys that are written
	decoded  *decodedRows

	ripe     ripeness
	squeezed squeezing
	swept    floors                 // that dropKinds has dealt with
	dropped  atomic.Pointer[floors] // the same, for Pending
	lows     floors                 // below which lines may be gone, as noteFloors wrote down; of background work
	sparse   map[int64]bool         // days that streams were removed from, of background work
	trim     trimming
	trims    atomic.Bool // what cuts hide is being removed

	pressure pressure
	tables   sync.Mutex // held while no table may be made
	reserved bool       // the file of keepReserve is there; of background work

	notedMu sync.Mutex
	noted   durable // that noteDurable wrote last

	failing atomic.Bool // background work failed and nobody has paused for it yet
	failMu  sync.Mutex
	damage  map[string]bool      // places reported
	short   map[KindDay]bool     // days that Verify found to differ
	bad     map[int64]index.Name // indexes that must be made again
}

type dayStream struct {
	day int64
	id  streamID
}

const (
	maxKnown     = 1 << 18
	failurePause = time.Second
	cutPatience  = 30 * time.Second // Apply stands still while a copy is cut
)

func openEngine(s *Store, dir string) (*engine, error) {
	fs := s.opt.FS
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	e := &engine{
		store: s, dir: dir, maint: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		outlines: sieve.New(int(s.opt.OutlineBytes)), known: map[dayStream]struct{}{}, decoded: newDecodedRows(s.bounds.decoded), ripe: newRipeness(s.opt.NoIndex), damage: map[string]bool{}, short: map[KindDay]bool{},
		bad: map[int64]index.Name{}, sparse: map[int64]bool{}, trim: trimming{done: map[KindDay]uint64{}, loose: map[int64]bool{}},
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	// Ids of blocks are never used twice, also not after a crash has taken back the last ones.
	e.nextBlock.Store(rand.Uint64())
	cache := pebble.NewCache(s.opt.CacheBytes)
	defer cache.Unref()
	if _, _, err := readManifest(fs, filepath.Join(dir, "pebble")); errors.Is(err, errNotWritten) {
		e.cancel()
		return nil, &DamageError{Dir: dir, Place: "pebble", Err: err}
	}
	db, err := pebble.Open(filepath.Join(dir, "pebble"), e.pebbleOptions(cache))
	if err != nil {
		e.cancel()
		if pebbleIsNewer(fs, filepath.Join(dir, "pebble")) {
			return nil, &VersionError{Dir: dir, Place: "pebble", Err: err}
		}
		return nil, e.wrap("pebble", err)
	}
	e.db = db
	if err := e.load(); err != nil {
		e.cancel()
		return nil, errors.Join(err, db.Close())
	}
	if e.lows, err = e.readFloors(); err != nil {
		e.cancel()
		return nil, errors.Join(err, db.Close())
	}
	for kind, ns := range e.lows {
		s.raise(wire.StreamKind(kind), ns)
	}
	e.keepReserve()
	if !s.opt.Manual {
		e.work.Go(e.run)
	}
	return e, nil
}

func (e *engine) pebbleOptions(cache *pebble.Cache) *pebble.Options {
	o := &pebble.Options{
		FS:                          e.store.opt.FS,
		Cache:                       cache,
		DisableWAL:                  true, // the Raft log is the log
		MemTableSize:                uint64(e.store.opt.MemTableBytes),
		MemTableStopWritesThreshold: outOfReach, // see pressure
		L0StopWritesThreshold:       outOfReach,
		MaxOpenFiles:                512,
		FormatMajorVersion:          pebble.FormatValueSeparation,
		L0CompactionThreshold:       4,
		Logger:                      quietLogger{e.store.opt.Log, e.dir},
		EventListener: &pebble.EventListener{
			BackgroundError: e.background,
			TableCreated:    func(pebble.TableCreateInfo) { e.beforeTable() },
			DataCorruption:  func(i pebble.DataCorruptionInfo) { _ = e.damaged(i.Path, i.Details) },
		},
	}
	e.pressure.listen(o.EventListener)
	o.Experimental.SpanPolicyFunc = splitTables
	o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		depth := 10
		if e.trims.Load() { // compactions write large values anew: else what was removed would stay until a fifth of all is garbage
			depth = 0
		}
		return pebble.ValueSeparationPolicy{
			Enabled: true, MinimumSize: 4 << 10, MaxBlobReferenceDepth: depth,
			RewriteMinimumAge: 5 * time.Minute, TargetGarbageRatio: 0.2,
		}
	}
	return o
}

// splitTables has Pebble end a table where the large values of a day begin and end. So a day is in tables and blob
// files of its own; what shared them with other days would stay on disk when the day is dropped, until compactions find
// it worth their while.
func splitTables(start []byte) (p pebble.SpanPolicy, end []byte, err error) {
	for _, large := range []byte{prefixColumns, prefixFilter, prefixText} {
		switch {
		case len(start) == 0 || start[0] < large:
			return p, []byte{large}, nil
		case start[0] == large && len(start) >= 5:
			return p, dayPrefix(large, dayOf(start)+1), nil
		case start[0] == large:
			return p, []byte{large + 1}, nil
		}
	}
	return p, nil, nil
}

// load reads what the engine keeps in memory and checks the indexes' names.
func (e *engine) load() error {
	v, closer, err := e.db.Get(keyApplied)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return e.wrap("key aT", err)
	default:
		applied, err := parseApplied(v)
		if err = errors.Join(err, closer.Close()); err != nil {
			return e.wrap("key aT", err)
		}
		e.applied.Store(applied)
	}
	if err := e.loadInbox(); err != nil {
		return err
	}
	if !e.store.opt.NoIndex {
		if e.index, err = index.Open(filepath.Join(e.dir, "index"), e.store.opt.OpenIndexes, e.unmarked, e.store.opt.Log); err != nil {
			return err
		}
	}
	return e.loadMarks()
}

// close waits for the readers, at most for grace before their contexts end, then for the background work.
func (e *engine) close(grace time.Duration, flush bool) error {
	drained := e.gate.drained()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
	e.cancel()
	<-drained
	e.work.Wait()
	var errs []error
	if e.index != nil {
		errs = append(errs, e.index.Close())
	}
	if flush {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		errs = append(errs, e.flush(ctx))
		cancel()
	}
	return errors.Join(append(errs, e.db.Close())...)
}

func (e *engine) cut(dst string) error {
	if places := e.places(); len(places) > 0 { // whoever installs the copy would have it too
		return fmt.Errorf("cut log store: %w", &DamageError{
			Dir: e.dir, Place: places[0], Err: fmt.Errorf("%d places are, so no copy is made for others", len(places)),
		})
	}
	fs := e.store.opt.FS
	if _, err := fs.Stat(dst); err == nil {
		return fmt.Errorf("cut log store: %s is there already", dst)
	}
	if err := fs.MkdirAll(dst, 0o750); err != nil {
		return fmt.Errorf("cut log store: %w", err)
	}
	// Pebble's checkpoint holds no memtables while its log is off.
	ctx, cancel := context.WithTimeout(e.ctx, cutPatience)
	defer cancel()
	if err := e.flushTables(ctx); err != nil {
		return fmt.Errorf("cut log store: %w", err)
	}
	if err := e.db.Checkpoint(filepath.Join(dst, "pebble")); err != nil {
		return fmt.Errorf("cut log store into %s: %w", dst, e.wrap("checkpoint", err))
	}
	return nil
}

// background takes errors of flushes and compactions, which Pebble tries again by itself.
func (e *engine) background(err error) {
	if errors.Is(err, pebble.ErrCancelledCompaction) {
		return
	}
	flush := e.pressure.own(err)
	e.store.opt.Log.Error("log store: background work of Pebble failed", "dir", e.dir, "flush", flush, "err", err)
	e.failing.Store(true)
	if pebble.IsCorruptionError(err) {
		_ = e.damaged("pebble", err)
	}
}

// beforeTable holds up the next try of background work that failed, because Pebble tries again at once and without
// end while a disk is full. Pebble holds no lock while it makes a table, unlike when it tells of errors.
func (e *engine) beforeTable() {
	if e.failing.Swap(false) {
		timer := time.NewTimer(failurePause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-e.ctx.Done():
		}
	}
	e.tables.Lock()
	defer e.tables.Unlock()
}

// wrap makes a DamageError of errors that tell of damage.
func (e *engine) wrap(place string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, block.ErrNewer) {
		if _, is := errors.AsType[*VersionError](err); is {
			return err
		}
		return &VersionError{Dir: e.dir, Place: place, Err: err}
	}
	if pebble.IsCorruptionError(err) || errors.Is(err, block.ErrDamaged) || errors.Is(err, wire.ErrMalformed) {
		return e.damaged(place, err)
	}
	return fmt.Errorf("log store %s: %s: %w", e.dir, place, err)
}

const maxDamage = 1000

// damaged reports damage at a place, once.
func (e *engine) damaged(place string, err error) error {
	d := &DamageError{Dir: e.dir, Place: place, Err: err}
	e.noteDamage(d)
	return d
}

func (e *engine) noteDamage(d *DamageError) {
	e.failMu.Lock()
	first := !e.damage[d.Place] && len(e.damage) < maxDamage
	if first {
		e.damage[d.Place] = true
	}
	e.failMu.Unlock()
	if first {
		e.store.opt.Log.Error("log store is damaged", "dir", e.dir, "place", d.Place, "err", d.Err)
		if e.store.opt.OnDamage != nil {
			e.store.opt.OnDamage(d)
		}
	}
}

// places lists what is known to be damaged.
func (e *engine) places() []string {
	e.failMu.Lock()
	defer e.failMu.Unlock()
	return slices.Sorted(maps.Keys(e.damage))
}

// poke wakes the background work.
func (e *engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// DiskBytes returns the bytes on disk of the store, its index included.
func (s *Store) DiskBytes() (int64, error) {
	e, release, err := s.acquire()
	if err != nil {
		return 0, err
	}
	defer release()
	n, err := e.indexBytes()
	return int64(e.db.Metrics().DiskSpaceUsage()) + n, err
}
