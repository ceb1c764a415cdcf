package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"golang.org/x/sync/semaphore"
)

// pauses is the capacity of the semaphore that tells background work from Pause: a pause takes one unit,
// compaction takes all of them.
const pauses = 1 << 20

// generation is one opened directory. It lives from open until its readers are gone after it was replaced.
type generation struct {
	dir  string
	log  *slog.Logger
	opts *Options
	db   *promtsdb.DB
	reg  *tracker
	refs refCache

	// ctx ends when readers have to give the generation up.
	ctx    context.Context
	cancel context.CancelFunc
	// compactCtx ends running compactions.
	compactCtx    context.Context
	cancelCompact context.CancelFunc

	work    *semaphore.Weighted
	paused  atomic.Int64
	floor   *atomic.Int64 // of the Store: milliseconds, nothing before it is shown
	broken  atomic.Pointer[error]
	lostWBL float64 // count of failed writes of late samples at open

	manifestMu sync.Mutex
	manifest   manifest
	fresh      map[ulid.ULID]map[string]string // sums of blocks that are not in the manifest yet
	unproven   map[ulid.ULID]map[string]string // sums of files as Scrub read them, for Adopt

	damageMu sync.Mutex
	damage   map[string]*DamageError // by place

	flushMu sync.Mutex
	flushed position

	mu      sync.Mutex
	readers int
	retired bool
	idle    chan struct{} // closed when retired and without readers
}

func openGeneration(dir string, opts *Options, floor *atomic.Int64) (*generation, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open metrics store %s: %w", dir, err)
	}
	c := &checker{dir: dir, log: opts.Logger}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("open metrics store %s: %w", dir, err)
	}
	g := &generation{
		dir: dir, log: opts.Logger, opts: opts, reg: newTracker(opts.Registerer),
		work: semaphore.NewWeighted(pauses), floor: floor, idle: make(chan struct{}), manifest: c.manifest,
		fresh: make(map[ulid.ULID]map[string]string), unproven: make(map[ulid.ULID]map[string]string),
		damage: make(map[string]*DamageError),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.compactCtx, g.cancelCompact = context.WithCancel(context.Background())
	if err := g.openLibrary(); err != nil {
		g.cancel()
		g.cancelCompact()
		g.reg.suspend()
		return nil, fmt.Errorf("open metrics store %s: %w", dir, err)
	}
	g.flushed = c.pos
	g.flushed.Clean, g.flushed.Boot, g.flushed.Derived = false, bootID(), nil
	if err := errors.Join(g.dropSnapshots(), g.noteBlocks(), writePosition(dir, g.flushed, true)); err != nil {
		return nil, errors.Join(fmt.Errorf("open metrics store %s: %w", dir, err), g.close(false))
	}
	return g, nil
}

func (g *generation) openLibrary() error {
	lo := g.opts.library()
	lo.BlocksToDelete = g.blocksToDelete
	lo.NewCompactorFunc = g.newCompactor
	db, err := promtsdb.Open(g.dir, g.log, g.reg, lo, nil)
	if err != nil {
		if isCorruption(err) {
			return damaged(g.dir, err)
		}
		return err
	}
	db.DisableCompactions()
	g.db = db
	if n := g.reg.count(walCorruptions); n > 0 {
		return errors.Join(damaged(filepath.Join(g.dir, walDir), errors.New("the log did not replay to its end")), db.Close())
	}
	g.lostWBL = g.reg.count(lateWriteFailed)
	return nil
}

// newCompactor gives the library's compactor a context that ends when the generation closes.
func (g *generation) newCompactor(_ context.Context, r prometheus.Registerer, l *slog.Logger, _ []int64,
	pool chunkenc.Pool, lo *promtsdb.Options,
) (promtsdb.Compactor, error) {
	c, err := promtsdb.NewLeveledCompactorWithOptions(g.compactCtx, r, l, blockRanges(g.opts), pool, promtsdb.LeveledCompactorOptions{
		MaxBlockChunkSegmentSize:    lo.MaxBlockChunkSegmentSize,
		EnableOverlappingCompaction: true,
		BlockExcludeFilter:          g.keepFromMerging,
	})
	if err != nil {
		return nil, err
	}
	return &summingCompactor{Compactor: c, g: g}, nil
}

// keepFromMerging keeps blocks out of merging for now. The library asks for one after the other from the oldest made
// to the newest and stops at the first that is kept out.
func (g *generation) keepFromMerging(meta *promtsdb.BlockMeta) bool {
	// Late samples that are younger than the newest block of in-order ones must stay apart: a merged block counts
	// as in order, and when it opens the store the library takes the end of the newest such block for the place
	// from which the log is needed. In-order samples that are only in the log would be left out.
	if meta.Compaction.FromOutOfOrder() && meta.MaxTime > g.inOrderEnd() {
		return true
	}
	free, err := freeBytes(g.dir)
	if err != nil {
		return true
	}
	return free < 4*g.opts.ReserveBytes+3*dirBytes(filepath.Join(g.dir, meta.ULID.String()))
}

// inOrderEnd returns the end of the newest block with in-order samples.
func (g *generation) inOrderEnd() int64 {
	end := int64(math.MinInt64)
	for _, b := range g.db.Blocks() {
		if m := b.Meta(); !m.Compaction.FromOutOfOrder() {
			end = max(end, m.MaxTime)
		}
	}
	return end
}

// blocksToDelete is asked by the library with the blocks it has: those below the floor go, unless files must stand
// still.
func (g *generation) blocksToDelete(blocks []*promtsdb.Block) map[ulid.ULID]struct{} {
	if g.paused.Load() > 0 {
		return nil
	}
	floor, gone := g.floor.Load(), make(map[ulid.ULID]struct{})
	for _, b := range blocks {
		if m := b.Meta(); m.Compaction.Deletable || m.MaxTime <= floor {
			gone[m.ULID] = struct{}{}
		}
	}
	if len(gone) > 0 {
		if err := g.noteFloor(floor); err != nil {
			g.log.Error("blocks below the retention floor stay for now", "error", err)
			return nil
		}
	}
	return gone
}

// dropSnapshots removes the image of the head that the last Close left: it has been read, and the logs hold all.
func (g *generation) dropSnapshots() error {
	if err := promtsdb.DeleteChunkSnapshots(g.dir, math.MaxInt, math.MaxInt); err != nil {
		return fmt.Errorf("remove head snapshot: %w", err)
	}
	return nil
}

// acquire counts a reader in; false when the generation is going away.
func (g *generation) acquire() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.retired {
		return false
	}
	g.readers++
	return true
}

func (g *generation) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readers--
	if g.retired && g.readers == 0 {
		close(g.idle)
	}
}

// retire waits for the readers, ends them after patience, and closes the library's store.
func (g *generation) retire(patience time.Duration) error {
	g.mu.Lock()
	if g.retired {
		g.mu.Unlock()
		return nil
	}
	g.retired = true
	if g.readers == 0 {
		close(g.idle)
	}
	g.mu.Unlock()
	g.cancelCompact()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-g.idle:
	case <-timer.C:
		g.cancel()
		// A reader that is inside the library's memory maps must leave before they go.
		<-g.idle
	}
	return g.close(g.broken.Load() == nil)
}

// close closes the library's store; clean says that what is in it is all in its files then.
func (g *generation) close(clean bool) error {
	g.cancel()
	g.cancelCompact()
	// Background takes no context: compaction ends soon after cancelCompact, pauses when their holders resume.
	if err := g.work.Acquire(context.Background(), pauses); err != nil {
		return fmt.Errorf("close metrics store %s: %w", g.dir, err)
	}
	defer g.work.Release(pauses)
	err := g.closeLibrary()
	g.reg.suspend()
	if err != nil {
		return fmt.Errorf("close metrics store %s: %w", g.dir, err)
	}
	if !clean {
		return nil
	}
	pos, err := g.ends()
	if err != nil {
		return fmt.Errorf("close metrics store %s: %w", g.dir, err)
	}
	if pos.Derived, err = headChunks(g.dir); err != nil {
		return fmt.Errorf("close metrics store %s: %w", g.dir, err)
	}
	pos.Clean = true
	return writePosition(g.dir, pos, true)
}

// closeLibrary closes the library's store, which panics when the disk is too full for the chunks that it maps then.
func (g *generation) closeLibrary() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the library gave up: %v", r)
		}
	}()
	return g.db.Close()
}

// ends returns where both logs end. No sample may be being applied.
func (g *generation) ends() (pos position, err error) {
	pos.Boot = bootID()
	if pos.WAL, err = endOfLog(filepath.Join(g.dir, walDir)); err != nil {
		return pos, err
	}
	pos.WBL, err = endOfLog(filepath.Join(g.dir, wblDir))
	return pos, err
}

// flush makes the logs durable up to pos and remembers that.
func (g *generation) flush(pos position) error {
	g.flushMu.Lock()
	defer g.flushMu.Unlock()
	if err := syncLog(filepath.Join(g.dir, walDir), g.flushed.WAL, pos.WAL); err != nil {
		return err
	}
	if err := syncLog(filepath.Join(g.dir, wblDir), g.flushed.WBL, pos.WBL); err != nil {
		return err
	}
	if err := writePosition(g.dir, pos, true); err != nil {
		return err
	}
	g.flushed = pos
	return nil
}

// fail marks the generation broken and returns the error to hand up. It does not match the cause: a full disk is no
// reason to try again here, since what was applied is in doubt.
func (g *generation) fail(cause error) error {
	err := fmt.Errorf("%w in %s: %s", ErrBroken, g.dir, cause.Error())
	g.broken.CompareAndSwap(nil, &err)
	return err
}

func (g *generation) usable() error {
	if err := g.broken.Load(); err != nil {
		return *err
	}
	return nil
}
