package tsdb

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// BlockInfo is a block as retention sees it: a block is deleted when all of it lies below the floor.
type BlockInfo struct {
	MinTime, MaxTime int64 // milliseconds since 1970; MaxTime is the first beyond it
	Bytes            int64
}

// Blocks lists the blocks of the store. What is not in one, the newest hours and late samples not merged yet, is in
// logs that retention does not shorten.
func (s *Store) Blocks() ([]BlockInfo, error) {
	g, err := s.hold()
	if err != nil {
		return nil, fmt.Errorf("list blocks of the metrics store: %w", err)
	}
	defer g.release()
	blocks := g.db.Blocks()
	out := make([]BlockInfo, len(blocks))
	for i, b := range blocks {
		m := b.Meta()
		out[i] = BlockInfo{m.MinTime, m.MaxTime, b.Size()}
	}
	return out, nil
}

// Passing is what files take, in bytes, that are no block of the store: blocks that are deleted, which a reader may hold
// up, and those that are being made, mostly in place of others.
func (s *Store) Passing() (n int64) {
	g, err := s.hold()
	if err != nil {
		return 0
	}
	defer g.release()
	listed := make(map[string]bool)
	for _, b := range g.db.Blocks() {
		listed[b.Meta().ULID.String()] = true
	}
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return 0
	}
	for _, e := range entries { // ID, ID.tmp-for-deletion, ID.tmp-for-creation
		id, _, _ := strings.Cut(e.Name(), ".")
		if _, err := ulid.ParseStrict(id); err == nil && e.IsDir() && (id != e.Name() || !listed[id]) {
			n += int64(dirBytes(filepath.Join(g.dir, e.Name())))
		}
	}
	return n
}

// reloadEvery is how often the library deletes blocks below the floor.
const reloadEvery = 15 * time.Second

// blockRanges are the spans that blocks are merged to: of four and of twelve of the smallest. With blocks of two hours
// the greatest are days in UTC, so that retention, which cuts between days, frees each day by itself.
func blockRanges(o *Options) []int64 {
	smallest := o.BlockDuration.Milliseconds()
	ranges := []int64{smallest}
	for _, n := range []int64{4, 12} {
		if n*smallest <= o.MaxBlockDuration.Milliseconds() {
			ranges = append(ranges, n*smallest)
		}
	}
	return ranges
}
