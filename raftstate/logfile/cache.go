package logfile

import (
	"sync"

	"github.com/hashicorp/raft"
)

// entryOverhead is what an entry costs in memory besides its data.
const entryOverhead = 160

// cache holds the newest entries of the log, contiguous, bounded by bytes.
type cache struct {
	mu    sync.Mutex
	limit int64
	bytes int64
	first uint64     // index of logs[0]; meaningless when logs is empty
	logs  []raft.Log // the data is shared with readers, who never change it
}

func cost(l *raft.Log) int64 {
	return int64(len(l.Data)) + int64(len(l.Extensions)) + entryOverhead
}

func (c *cache) get(index uint64, out *raft.Log) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.logs) == 0 || index < c.first || index >= c.first+uint64(len(c.logs)) {
		return false
	}
	*out = c.logs[index-c.first]
	return true
}

// add appends entries that the log holds durably.
func (c *cache) add(logs []*raft.Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range logs {
		if n := uint64(len(c.logs)); n > 0 && l.Index != c.first+n {
			c.clearLocked()
		}
		if len(c.logs) == 0 {
			c.first = l.Index
		}
		c.logs = append(c.logs, *l)
		c.bytes += cost(l)
	}
	drop := 0
	for drop < len(c.logs) && c.bytes > c.limit {
		c.bytes -= cost(&c.logs[drop])
		c.logs[drop] = raft.Log{}
		drop++
	}
	c.logs = c.logs[drop:]
	c.first += uint64(drop)
}

// truncate forgets the entries min..max, a prefix or a suffix of what is held.
func (c *cache) truncate(lo, hi uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.logs) == 0 {
		return
	}
	last := c.first + uint64(len(c.logs)) - 1
	switch {
	case hi < c.first || lo > last:
	case lo <= c.first && hi >= last:
		c.clearLocked()
	case lo <= c.first:
		for c.first <= hi {
			c.bytes -= cost(&c.logs[0])
			c.logs[0] = raft.Log{}
			c.logs = c.logs[1:]
			c.first++
		}
	default:
		keep := lo - c.first
		for i := keep; i < uint64(len(c.logs)); i++ {
			c.bytes -= cost(&c.logs[i])
			c.logs[i] = raft.Log{}
		}
		c.logs = c.logs[:keep]
	}
}

func (c *cache) clearLocked() {
	clear(c.logs)
	c.logs, c.bytes, c.first = nil, 0, 0
}

func (c *cache) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}
