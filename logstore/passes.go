package logstore

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
)

// Pass is a kind of background work.
type Pass uint8

// The kinds of background work that change where lines are.
const (
	PassSeal  Pass = iota // lines of the inbox become blocks
	PassMerge             // small blocks become one
	PassIndex             // blocks enter the word index
	passKinds
)

func (p Pass) String() string { return [passKinds]string{"seal", "merge", "index"}[p] }

// PassCount counts passes of one kind since the store was made. One that is under way is begun and neither finished nor
// failed.
type PassCount struct {
	Pass                    Pass
	Begun, Finished, Failed uint64
}

// passCounter is a PassCount that is counted.
type passCounter struct{ begun, finished, failed atomic.Uint64 }

// Passes returns how often each kind of background work was begun and how it ended.
func (s *Store) Passes() []PassCount {
	out := make([]PassCount, passKinds)
	for p := range passKinds {
		c := &s.passes[p]
		n := PassCount{Pass: p, Finished: c.finished.Load(), Failed: c.failed.Load()}
		n.Begun = max(c.begun.Load(), n.Finished+n.Failed) // read last: what ends meanwhile has begun
		out[p] = n
	}
	return out
}

// pass is one that is under way.
type pass struct {
	e     *engine
	kind  Pass
	ended bool
}

// begin counts a pass. Its owner calls done once what it did is committed, and failed, which does nothing then, in any case.
func (e *engine) begin(p Pass) *pass {
	e.store.passes[p].begun.Add(1)
	e.store.opt.Log.Debug("log store: pass begins", "pass", p.String())
	return &pass{e: e, kind: p}
}

func (p *pass) done() {
	p.ended = true
	p.e.store.passes[p.kind].finished.Add(1)
	p.e.store.opt.Log.Debug("log store: pass is done", "pass", p.kind.String())
}

func (p *pass) failed() {
	if p.ended {
		return
	}
	p.ended = true
	p.e.store.passes[p.kind].failed.Add(1)
	p.e.store.opt.Log.Debug("log store: pass has failed", "pass", p.kind.String())
}

// Waiting is what background work has not done yet.
type Waiting struct {
	InboxBytes int64 // of lines that wait to be sealed, as block.Size counts
	// Unindexed are blocks that wait for the word index, and Piles the streams of a day with small blocks that wait for
	// others to be merged with; both as of the last step of background work.
	Unindexed, Piles int64
	Rebuilds         int64 // days whose word index is not there or not trusted, so that it is to be made again
}

// Waiting returns what background work has not done yet; nothing while no directory is open.
func (s *Store) Waiting() Waiting {
	e, release, err := s.acquire()
	if err != nil {
		return Waiting{}
	}
	defer release()
	e.failMu.Lock()
	defer e.failMu.Unlock()
	return Waiting{InboxBytes: e.inboxBytes.Load(), Unindexed: e.unindexed.Load(), Piles: e.piles.Load(), Rebuilds: int64(len(e.bad))}
}

// noteWaiting takes note of what waits. It is for whoever does background work.
func (e *engine) noteWaiting() {
	var ready int64
	for _, blocks := range e.ripe.ready {
		ready += int64(len(blocks))
	}
	e.unindexed.Store(ready)
	e.piles.Store(int64(e.ripe.piles))
}

// Part is a part of the store's directory and the bytes that it takes on disk.
type Part struct {
	Name  string
	Bytes int64
}

// parts are the parts of Pebble, by the first byte of their keys.
var parts = [...]struct {
	name   string
	prefix byte
	shared bool // its keys share tables with others
}{
	{"columns", prefixColumns, false},
	{"text", prefixText, false},
	{"filter", prefixFilter, false},
	{"inbox", prefixInbox, true},
	{"headers", prefixHeader, true},
	{"streams", prefixStream, true},
	{"marks", prefixMark, true},
}

// Parts returns how much of the disk each part of the store takes: what lines are before they are sealed (inbox), the
// parts of blocks (columns, text, filter, headers), streams, marks, the word index (index), and what belongs to none, such as
// files that wait to be deleted (rest). What is in memory only is in no part. The sum is what DiskBytes returns; parts that
// share tables are estimates.
func (s *Store) Parts() ([]Part, error) {
	e, release, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	rest := int64(e.db.Metrics().DiskSpaceUsage())
	out := make([]Part, len(parts), len(parts)+2)
	var shared int64
	for i, p := range parts {
		n, err := e.db.EstimateDiskUsage([]byte{p.prefix}, after([]byte{p.prefix}))
		if err != nil {
			return nil, fmt.Errorf("bytes of %s: %w", p.name, e.wrap("pebble", err))
		}
		out[i] = Part{p.name, int64(n)}
		if p.shared {
			shared += int64(n)
		} else {
			out[i].Bytes = min(out[i].Bytes, rest)
			rest -= out[i].Bytes
		}
	}
	if shared > rest { // blocks that hold keys of several parts are counted for each of them
		for i, p := range parts {
			if p.shared {
				out[i].Bytes = int64(float64(out[i].Bytes) * float64(rest) / float64(shared))
			}
		}
		shared = rest
	}
	index, err := e.indexBytes()
	if err != nil {
		return nil, err
	}
	return append(out, Part{"index", index}, Part{"rest", rest - shared}), nil
}

// indexBytes is the size of the files of the word index.
func (e *engine) indexBytes() (n int64, err error) {
	err = filepath.WalkDir(filepath.Join(e.dir, "index"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, ierr := d.Info(); ierr == nil {
				n += info.Size()
			}
		}
		return nil // files come and go beside us
	})
	return n, err
}
