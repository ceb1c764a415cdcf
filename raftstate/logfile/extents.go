package logfile

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// How exactly the bytes and the age of index ranges are known.
const (
	extentBytes = 1 << 20
	extentAge   = time.Minute
)

// extent is a run of entries and its size.
type extent struct {
	first, last uint64
	bytes       int64
	since       time.Time // when the first of them was appended; zero when unknown
}

// extents knows how many bytes each range of the log takes, since all limits of raft count entries.
type extents struct {
	mu   sync.Mutex
	list []extent
}

func (x *extents) seed(e extent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.list = append(x.list, e)
}

func (x *extents) add(logs []*raft.Log) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range logs {
		size := int64(sealBytes + len(l.Data) + len(l.Extensions))
		n := len(x.list)
		if n == 0 || x.list[n-1].last+1 != l.Index || x.list[n-1].full(l) {
			x.list = append(x.list, extent{first: l.Index, last: l.Index, bytes: size, since: l.AppendedAt})
			continue
		}
		x.list[n-1].last = l.Index
		x.list[n-1].bytes += size
	}
}

// full reports whether l begins another extent.
func (e *extent) full(l *raft.Log) bool {
	old := !e.since.IsZero() && l.AppendedAt.Sub(e.since) >= extentAge
	return e.bytes >= extentBytes || old
}

// truncate removes lo..hi, a prefix or a suffix. A partly removed extent is charged in proportion.
func (x *extents) truncate(lo, hi uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	kept := x.list[:0]
	for _, e := range x.list {
		switch {
		case lo <= e.first && hi >= e.last:
			continue
		case hi < e.first || lo > e.last:
		case lo <= e.first:
			e.bytes = share(e, hi+1, e.last)
			e.first = hi + 1
		default:
			e.bytes = share(e, e.first, lo-1)
			e.last = lo - 1
		}
		kept = append(kept, e)
	}
	x.list = kept
}

func share(e extent, first, last uint64) int64 {
	return int64(float64(e.bytes) * float64(last-first+1) / float64(e.last-e.first+1))
}

func (x *extents) total() (sum int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.list {
		sum += e.bytes
	}
	return sum
}

// between returns what the entries lo..hi take; a part of an extent is charged in proportion.
func (x *extents) between(lo, hi uint64) (sum int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := len(x.list) - 1; i >= 0; i-- {
		e := x.list[i]
		if e.last < lo {
			break
		}
		if a, b := max(lo, e.first), min(hi, e.last); a <= b {
			sum += share(e, a, b)
		}
	}
	return sum
}

// newest returns how many of the newest entries take at most limit bytes and began no earlier than notBefore
// (zero: no such limit); at least those of the newest extent.
func (x *extents) newest(limit int64, notBefore time.Time) uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	var count uint64
	var sum int64
	for i := len(x.list) - 1; i >= 0; i-- {
		e := x.list[i]
		sum += e.bytes
		old := !notBefore.IsZero() && !e.since.IsZero() && e.since.Before(notBefore)
		if count > 0 && (sum > limit || old) {
			break
		}
		count += e.last - e.first + 1
	}
	return count
}
