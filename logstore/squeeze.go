package logstore

import (
	"context"
	"fmt"
	"time"
)

// The inbox, headers, streams and marks share tables, and most of what is written there is removed soon: rows of the inbox when they are
// sealed, marks when their block is indexed. Pebble keeps what was removed until a compaction happens to pass, which is for as long as
// nothing more comes: that was a tenth of a store at rest. What is left is little, so a compaction of it costs next to nothing.

const (
	squeezeWithin   = int64(5 * time.Minute) // after rows were removed: by then that is on disk
	squeezePatience = time.Minute
)

// squeezing is what the last squeeze left. Only background work touches it.
type squeezing struct {
	until int64 // by Options.Now: rows were removed of late
	bytes int64 // that the rows took on disk then
}

// squeeze frees what the removed rows take on disk, while little waits for background work, once it is more than what is left.
func (e *engine) squeeze() (bool, error) {
	opt := &e.store.opt
	if opt.Now().UnixNano() > e.squeezed.until || len(e.ripe.ready) > 0 || e.inboxBytes.Load() > opt.SealBytes/8 {
		return false, nil
	}
	from, to := []byte{prefixHeader}, []byte{prefixStream + 1}
	n, err := e.db.EstimateDiskUsage(from, to)
	if err != nil {
		return false, fmt.Errorf("squeeze: %w", e.wrap("pebble", err))
	}
	if int64(n) < 2*e.squeezed.bytes+e.store.bounds.squeeze || e.freeBytes() < scarce {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(e.ctx, squeezePatience)
	defer cancel()
	if err := e.db.Compact(ctx, from, to, false); err != nil {
		return false, fmt.Errorf("squeeze: %w", e.wrap("compact", err))
	}
	if n, err = e.db.EstimateDiskUsage(from, to); err != nil {
		return false, fmt.Errorf("squeeze: %w", e.wrap("pebble", err))
	}
	e.squeezed.bytes = int64(n)
	return false, nil
}
