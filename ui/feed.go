package ui

import (
	"math"
	"slices"
	"sync"

	"github.com/triward/triward/agent/wire"
)

// Bounds of what a LineFeed holds for tails that are behind.
const (
	feedBytes = 16 << 20
	feedLines = 100_000
)

// LineFeed carries new lines from Apply to the live tails. While no tail is open it copies nothing. Observe is called
// from the apply goroutine and never waits for a reader: a reader that falls behind the bound is told how many lines
// it missed.
type LineFeed struct {
	mu      sync.Mutex
	lines   []Line
	sizes   []int
	bytes   int
	first   uint64 // number of lines[0], counted from the feed's start
	head    Position
	readers map[*feedReader]struct{}
}

// NewLineFeed returns a feed that has seen nothing.
func NewLineFeed() *LineFeed { return &LineFeed{readers: make(map[*feedReader]struct{})} }

// Observe takes the lines that a group of entries up to the log index `through` brought. It copies what it keeps.
func (f *LineFeed) Observe(through uint64, entries []wire.LogEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.head = Position{Index: through, Ord: math.MaxUint32}
	if len(f.readers) == 0 {
		return
	}
	grew := false
	for _, e := range entries {
		grew = f.entry(e) || grew
	}
	if !grew {
		return
	}
	f.trim()
	for r := range f.readers {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

func (f *LineFeed) entry(e wire.LogEntry) bool {
	grew := false
	ord := uint32(0)
	for _, accepted := range e.Batches {
		for si := range accepted.Batch.Streams {
			s := &accepted.Batch.Streams[si]
			labels := cloneLabels(s.Labels)
			for li := range s.Lines {
				l := &s.Lines[li]
				f.lines = append(f.lines, Line{Pos: Position{e.Index, ord}, Kind: s.Kind, Labels: labels,
					LogLine: wire.LogLine{T: l.T, Severity: l.Severity, Text: slices.Clone(l.Text), Fields: cloneLabels(l.Fields)}})
				size := 160 + len(l.Text)
				for _, field := range l.Fields {
					size += 32 + len(field.Name) + len(field.Value)
				}
				f.sizes = append(f.sizes, size)
				f.bytes += size
				ord++
				grew = true
			}
		}
	}
	return grew
}

// trim forgets the oldest lines beyond the bounds.
func (f *LineFeed) trim() {
	n := 0
	for n < len(f.lines) && (f.bytes > feedBytes || len(f.lines)-n > feedLines) {
		f.bytes -= f.sizes[n]
		n++
	}
	f.drop(n)
}

func (f *LineFeed) drop(n int) {
	f.lines = slices.Delete(f.lines, 0, n)
	f.sizes = slices.Delete(f.sizes, 0, n)
	f.first += uint64(n)
}

func cloneLabels(ls wire.Labels) wire.Labels {
	if len(ls) == 0 {
		return nil
	}
	out := make(wire.Labels, len(ls))
	for i, l := range ls {
		out[i] = wire.Label{Name: string([]byte(l.Name)), Value: string([]byte(l.Value))}
	}
	return out
}

// feedReader reads the feed from the moment it was made.
type feedReader struct {
	feed *LineFeed
	wake chan struct{}
	next uint64
}

// reader opens a reader and returns the position after which it reads.
func (f *LineFeed) reader() (*feedReader, Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &feedReader{feed: f, wake: make(chan struct{}, 1), next: f.first + uint64(len(f.lines))}
	f.readers[r] = struct{}{}
	return r, f.head
}

// read returns the lines since the last read, how many were lost before them, and the position up to which the
// reader then has everything.
func (r *feedReader) read() (lines []Line, lost int, head Position) {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.next < f.first {
		lost = int(f.first - r.next)
		r.next = f.first
	}
	lines = slices.Clone(f.lines[r.next-f.first:])
	r.next = f.first + uint64(len(f.lines))
	return lines, lost, f.head
}

// close ends the reader; the last one leaves the feed empty.
func (r *feedReader) close() {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, r)
	if len(f.readers) == 0 {
		f.first += uint64(len(f.lines))
		f.lines, f.sizes, f.bytes = nil, nil, 0
	}
}
