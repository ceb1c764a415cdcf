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
	lines   []heldLine
	off     int // lines before it are forgotten; their room is reclaimed from time to time
	bytes   int
	first   uint64 // number of lines[off], counted from the feed's start
	head    Position
	readers map[*feedReader]struct{}
}

type heldLine struct {
	Line
	size int
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
	for _, e := range entries {
		f.entry(e)
	}
	f.trim()
}

// Installed says that the state up to the log index `through` came from another node as a whole: lines between are in
// the store and were not shown here. Readers are told that they missed some.
func (f *LineFeed) Installed(through uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.head = Position{Index: through, Ord: math.MaxUint32}
	for r := range f.readers {
		r.jumped = true
	}
}

func (f *LineFeed) entry(e wire.LogEntry) {
	ord := uint32(0)
	for _, accepted := range e.Batches {
		for si := range accepted.Batch.Streams {
			s := &accepted.Batch.Streams[si]
			labels := cloneLabels(s.Labels)
			for li := range s.Lines {
				l := &s.Lines[li]
				size := 160 + len(l.Text)
				for _, field := range l.Fields {
					size += 32 + len(field.Name) + len(field.Value)
				}
				f.lines = append(f.lines, heldLine{Line{
					Pos: Position{e.Index, ord}, Kind: s.Kind, Labels: labels,
					LogLine: wire.LogLine{T: l.T, Severity: l.Severity, Text: slices.Clone(l.Text), Fields: cloneLabels(l.Fields)},
				}, size})
				f.bytes += size
				ord++
			}
		}
	}
}

// trim forgets what every reader has, and the oldest lines beyond the bounds.
func (f *LineFeed) trim() {
	read := uint64(math.MaxUint64)
	for r := range f.readers {
		read = min(read, r.next)
	}
	for f.off < len(f.lines) && (f.first < read || f.bytes > feedBytes || len(f.lines)-f.off > feedLines) {
		f.bytes -= f.lines[f.off].size
		f.lines[f.off] = heldLine{}
		f.off++
		f.first++
	}
	if f.off > 1000 && f.off > len(f.lines)/2 {
		f.lines = append([]heldLine(nil), f.lines[f.off:]...)
		f.off = 0
	}
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
	feed   *LineFeed
	next   uint64
	jumped bool // lines that were never shown here came in between
}

// reader opens a reader and returns the position after which it reads.
func (f *LineFeed) reader() (*feedReader, Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &feedReader{feed: f, next: f.end()}
	f.readers[r] = struct{}{}
	return r, f.head
}

// end is the number of the line that comes next.
func (f *LineFeed) end() uint64 { return f.first + uint64(len(f.lines)-f.off) }

// read returns the lines since the last read, how many were lost before them (unknownCount when nobody knows), and
// the position up to which the reader then has everything.
func (r *feedReader) read() (lines []Line, lost int, head Position) {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.next < f.first {
		lost = int(f.first - r.next)
		r.next = f.first
	}
	if r.jumped {
		lost, r.jumped = unknownCount, false
	}
	held := f.lines[f.off+int(r.next-f.first):]
	lines = make([]Line, len(held))
	for i := range held {
		lines[i] = held[i].Line
	}
	r.next = f.end()
	f.trim()
	return lines, lost, f.head
}

// close ends the reader; the last one leaves the feed empty.
func (r *feedReader) close() {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, r)
	if len(f.readers) == 0 {
		f.first = f.end()
		f.lines, f.off, f.bytes = nil, 0, 0
	}
}
