package logstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// pressure knows how Pebble's flushes fare and keeps writers within the memory of its memtables. Pebble would do the
// latter itself, but whoever it makes wait holds its commit lock: while a full disk takes no flush, nothing could be
// excised and no flush be given up, so the disk would stay full. Therefore Pebble's own limits are out of reach, and
// these are kept outside of it.
type pressure struct {
	written atomic.Int64 // bytes of all batches committed
	begun   atomic.Int64 // written when the flush under way began
	flushed atomic.Int64 // of written, what left memory, give or take the memtable that was being filled
	l0      atomic.Int64 // sublevels of level 0 a moment ago

	mu      sync.Mutex
	ended   error           // what the last flush ended with; Pebble tells of it once more when it is a failure
	failure error           // of the last flush, nil when it succeeded
	pending <-chan struct{} // closed once all is flushed that the last flush was asked for
	changed chan struct{}   // closed and renewed whenever a flush ends
}

const (
	outOfReach   = 1000 // memtables, and sublevels of level 0
	maxMemTables = 4
	maxL0        = 20
	l0Patience   = time.Second // a write waits no longer for compactions, which may be unable to do anything
)

// listen takes note of what Pebble tells of its flushes. It tells with locks held.
func (p *pressure) listen(l *pebble.EventListener) {
	l.FlushBegin = func(pebble.FlushInfo) { p.begun.Store(p.written.Load()) }
	l.FlushEnd = func(i pebble.FlushInfo) {
		// A flush that leaves nothing is told of as an error.
		if i.Err == nil || i.Err.Error() == "pebble: empty table" {
			p.flushed.Store(p.begun.Load())
			p.note(nil)
			return
		}
		p.mu.Lock()
		p.ended = i.Err
		p.mu.Unlock()
	}
}

// own reports whether a background error is that of the last flush, and then takes note of it.
func (p *pressure) own(err error) bool {
	p.mu.Lock()
	own := p.ended != nil && errors.Is(err, p.ended)
	p.ended = nil
	p.mu.Unlock()
	if own {
		p.note(err)
	}
	return own
}

func (p *pressure) note(failure error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = failure
	if p.changed != nil {
		close(p.changed)
	}
	p.changed = make(chan struct{})
}

// state returns how the last flush failed, and what is closed when that may have changed.
func (p *pressure) state() (failure error, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.failure, p.changed
}

// room waits until the memtables have room. While they cannot be flushed it fails at once, with the reason.
func (e *engine) room(ctx context.Context) error {
	p := &e.pressure
	for {
		failure, changed := p.state()
		if p.written.Load()-p.flushed.Load() < maxMemTables*e.store.opt.MemTableBytes {
			break
		}
		if failure != nil {
			return e.wrap("flush", failure)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("log store %s: wait for room in memory: %w", e.dir, ctx.Err())
		}
	}
	if p.l0.Load() < maxL0 {
		return nil
	}
	timer := time.NewTimer(l0Patience)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// commit writes a batch once there is room for it.
func (e *engine) commit(batch *pebble.Batch) error {
	if err := e.room(e.ctx); err != nil {
		return err
	}
	return e.pressure.counted(int64(batch.Len()), func() error { return batch.Commit(pebble.NoSync) })
}

// counted counts n bytes and writes them, in this order: a flush that takes them may begin before the write returns, and
// bytes that it took without their being counted would be waited for by writers when no other flush is due.
func (p *pressure) counted(n int64, write func() error) error {
	p.written.Add(n)
	err := write()
	if err != nil {
		p.written.Add(-n)
	}
	return err
}

// flush hands all that was applied before to the file system.
func (e *engine) flush(ctx context.Context) error {
	if err := e.flushTables(ctx); err != nil {
		return err
	}
	if err := e.noteDurable(); err != nil {
		return err
	}
	if e.index == nil {
		return nil
	}
	return e.index.Sync()
}

// flushTables makes tables of all that was committed before. It fails when a flush of Pebble fails, which Pebble
// tries again by itself; what fails beside it, such as a compaction, is no failure of it.
func (e *engine) flushTables(ctx context.Context) error {
	p := &e.pressure
	p.mu.Lock()
	pending := p.pending
	if p.failure == nil {
		pending = nil
	}
	p.mu.Unlock()
	// Every call makes a memtable, so while flushes fail no more of them are asked for.
	if err := e.await(ctx, pending); err != nil {
		return err
	}
	done, err := e.db.AsyncFlush()
	if err != nil {
		return e.wrap("flush", err)
	}
	p.mu.Lock()
	p.pending = done
	p.mu.Unlock()
	return e.await(ctx, done)
}

// await waits until done is closed or a flush fails.
func (e *engine) await(ctx context.Context, done <-chan struct{}) error {
	for done != nil {
		_, changed := e.pressure.state()
		select {
		case <-done:
			return nil
		default:
		}
		select {
		case <-done:
			return nil
		case <-changed:
			if failure, _ := e.pressure.state(); failure != nil {
				return fmt.Errorf("flush: %w", e.wrap("flush", failure))
			}
		case <-ctx.Done():
			return fmt.Errorf("flush log store %s: %w", e.dir, ctx.Err())
		}
	}
	return nil
}
