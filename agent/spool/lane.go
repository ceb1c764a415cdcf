package spool

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/triward/triward/agent/wire"
)

// ErrFull says that the lane holds as many bytes as it may: the producer must wait.
var ErrFull = errors.New("spool is full")

// protectedBatches is how many unacknowledged batches of a lane may have been sent without an answer. They are
// never given up for space.
const protectedBatches = wire.MaxBatchesPerCall

// entry is where a batch of a segment lies.
type entry struct {
	off   uint32
	items uint32
}

// segment is one file of a lane: a head with all state, then batches of consecutive ordinals and changes of state.
type segment struct {
	path    string
	first   uint64
	entries []entry
	head    int64 // bytes of the head
	size    int64
}

// full reports whether a new segment is due: this one has as much behind its head as it should have, and no less
// than its head, so that heads never make up most of what is written.
func (g *segment) full(bytes int64) bool { return g.size-g.head >= max(bytes, g.head) }

func (g *segment) last() uint64 { return g.first + uint64(len(g.entries)) - 1 } // first-1 when empty

// span is a range of ordinals, both ends included.
type span struct{ From, To uint64 }

// lane is the log of one lane. Ordinals count its batches over all epochs, from 1; the sequence of a batch is
// its ordinal minus the base of the epoch.
type lane struct {
	id           wire.Lane
	dir          string
	limit        int64
	segmentBytes int64
	mayDrop      bool

	mu       sync.Mutex
	segments []*segment // the last one is being written; empty until the first append
	f        *os.File   // of the last segment
	reading  *os.File   // cached, of readingOf
	readOf   *segment
	state    map[string][]byte
	bytes    int64
	base     uint64
	acked    uint64 // ordinal
	next     uint64 // ordinal
	atOpen   uint64 // next as it was when the spool was opened
	drops    []span
	buf      []byte
	failed   error
}

func openLane(dir string, id wire.Lane, base, acked uint64, drops []span, limit int64) (*lane, error) {
	l := &lane{
		id: id, dir: filepath.Join(dir, id.String()), base: base, acked: max(acked, base), drops: drops,
		limit: limit, segmentBytes: min(4<<20, max(32<<10, limit/8)), state: map[string][]byte{},
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of lane: %w", err)
	}
	names, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, unreadable("list lane", err)
	}
	for _, n := range names {
		path := filepath.Join(l.dir, n.Name())
		if !strings.HasSuffix(n.Name(), ".seg") {
			if err := os.Remove(path); err != nil { // a segment whose creation was cut short
				return nil, fmt.Errorf("remove leftover: %w", err)
			}
			continue
		}
		l.segments = append(l.segments, &segment{path: path})
	}
	slices.SortFunc(l.segments, func(a, b *segment) int { return strings.Compare(a.path, b.path) })
	for i, g := range l.segments {
		if err := l.load(g, i == len(l.segments)-1); err != nil {
			return nil, err
		}
		l.bytes += g.size
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	if n := len(l.segments); n > 0 {
		f, err := os.OpenFile(l.segments[n-1].path, os.O_RDWR, 0)
		if err != nil {
			return nil, unreadable("open segment", err)
		}
		l.f = f
	}
	l.atOpen = l.next
	return l, nil
}

// load reads a whole segment, checks it and takes over its state. The end of the last one may be torn.
func (l *lane) load(g *segment, last bool) error {
	b, err := os.ReadFile(g.path)
	if err != nil {
		return unreadable("read segment", err)
	}
	off, err := l.loadHead(g, b)
	if err != nil {
		return err
	}
	g.head = int64(off)
	for off < len(b) {
		p, n, err := nextRecord(b[off:])
		if err != nil {
			if !last || holdsRecord(b[off:]) {
				return fmt.Errorf("%w: %s at byte %d", ErrDamaged, g.path, off)
			}
			if err := truncate(g.path, int64(off)); err != nil {
				return fmt.Errorf("cut torn end of segment: %w", err)
			}
			break
		}
		if err := l.loadRecord(g, p, off); err != nil {
			return err
		}
		off += n
	}
	g.size = int64(off)
	return nil
}

// loadHead takes over the first ordinal and the state that the segment begins with; size is what the head takes.
func (l *lane) loadHead(g *segment, b []byte) (size int, err error) {
	p, size, err := nextRecord(b)
	if err != nil {
		return 0, fmt.Errorf("%w: %s has no beginning", ErrDamaged, g.path)
	}
	first, more, changes, err := parseCheckpoint(p)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", g.path, err)
	}
	g.first = first
	l.state = map[string][]byte{}
	l.applyChanges(changes)
	for ; more > 0; more-- {
		p, n, err := nextRecord(b[size:])
		if err != nil {
			return 0, fmt.Errorf("%w: %s lacks %d records of its head at byte %d", ErrDamaged, g.path, more, size)
		}
		if changes, err = parseState(p); err != nil {
			return 0, fmt.Errorf("%s: %w", g.path, err)
		}
		l.applyChanges(changes)
		size += n
	}
	return size, nil
}

func (l *lane) loadRecord(g *segment, p []byte, off int) error {
	if len(p) > 0 && p[0] == typeState {
		changes, err := parseState(p)
		if err != nil {
			return fmt.Errorf("%s: %w", g.path, err)
		}
		l.applyChanges(changes)
		return nil
	}
	rec, err := parseBatch(p)
	if err != nil {
		return fmt.Errorf("%s: %w", g.path, err)
	}
	if want := g.first + uint64(len(g.entries)); rec.ord != want {
		return fmt.Errorf("%w: %s holds batch %d where %d belongs", ErrDamaged, g.path, rec.ord, want)
	}
	g.entries = append(g.entries, entry{uint32(off), uint32(rec.items)})
	l.applyChanges(rec.changes)
	return nil
}

// unreadable is the error for something of the spool that cannot be read. A disk that does not give it back is damage
// like any other; a file that is gone or not ours, and a machine short of something, are not.
func unreadable(doing string, err error) error {
	for _, other := range []error{
		os.ErrNotExist, os.ErrPermission, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN,
	} {
		if errors.Is(err, other) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return fmt.Errorf("%w: %s: %w", ErrDamaged, doing, err)
}

func truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

// check holds the chain of segments against acknowledgements and given-up ranges.
func (l *lane) check() error {
	if len(l.segments) == 0 {
		l.next = l.acked + 1
		if l.acked > l.base {
			return fmt.Errorf("%w: lane %s has acknowledged batches but no file", ErrDamaged, l.id)
		}
		return nil
	}
	if first := l.segments[0].first; !l.droppedAll(l.acked+1, first-1) {
		l.acked = first - 1 // the acknowledgement was not durable yet, the removal was
	}
	for i, g := range l.segments[1:] {
		before := l.segments[i].last()
		if g.first <= before || !l.droppedAll(before+1, g.first-1) {
			return fmt.Errorf("%w: lane %s misses batches %d to %d", ErrDamaged, l.id, before+1, g.first-1)
		}
	}
	l.next = l.segments[len(l.segments)-1].last() + 1
	if l.acked >= l.next {
		return fmt.Errorf("%w: lane %s ends at batch %d, but %d was acknowledged", ErrDamaged, l.id, l.next-1, l.acked)
	}
	return nil
}

func (l *lane) dropped(ord uint64) bool {
	for _, d := range l.drops {
		if d.From <= ord && ord <= d.To {
			return true
		}
	}
	return false
}

// droppedAll reports whether every ordinal from..to was given up (true when there is none).
func (l *lane) droppedAll(from, to uint64) bool {
	for from <= to {
		i := slices.IndexFunc(l.drops, func(d span) bool { return d.From <= from && from <= d.To })
		if i < 0 {
			return false
		}
		from = l.drops[i].To + 1
	}
	return true
}

func (l *lane) applyChanges(changes []StateChange) {
	for _, c := range changes {
		if c.Value == nil {
			delete(l.state, c.Key)
		} else {
			l.state[c.Key] = c.Value
		}
	}
}

// used is what counts against the limit: not the head of the newest segment, whose size is that of the sources'
// positions. It must be there, and no acknowledgement would ever make room for it.
func (l *lane) used() int64 {
	if n := len(l.segments); n > 0 {
		return l.bytes - l.segments[n-1].head
	}
	return 0
}

// spent reports whether all is acknowledged and the newest segment holds more than its head, so that a new one takes
// less.
func (l *lane) spent() bool {
	n := len(l.segments)
	return n > 0 && l.segments[n-1].size > l.segments[n-1].head && l.acked+1 == l.next
}

// roll begins a new segment with a head of all state. A segment without batches is replaced.
func (l *lane) roll() error {
	name := filepath.Join(l.dir, fmt.Sprintf("%016x.seg", l.next))
	l.buf = appendHead(l.buf[:0], l.next, l.state)
	tmp := name + ".tmp"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make segment: %w", err)
	}
	_, err = f.Write(l.buf)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err == nil {
		err = syncDir(l.dir)
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return fmt.Errorf("make segment %s: %w", name, err)
	}
	if l.f != nil {
		l.f.Close()
	}
	if n := len(l.segments); n > 0 && l.segments[n-1].path == name {
		l.bytes -= l.segments[n-1].size
		l.forgetReading(l.segments[n-1])
		l.segments = l.segments[:n-1]
	}
	l.f = f
	g := &segment{path: name, first: l.next, head: int64(len(l.buf)), size: int64(len(l.buf))}
	l.segments = append(l.segments, g)
	l.bytes += g.size
	l.trim()
	return nil
}

// write appends one record durably. When it returns an error nothing was appended.
func (l *lane) write(payload []byte) (off int64, err error) {
	if l.failed != nil {
		return 0, l.failed
	}
	if len(payload) > maxPayload {
		return 0, fmt.Errorf("%w: record of %d bytes, at most %d are allowed", ErrTooLarge, len(payload), maxPayload)
	}
	if n := len(l.segments); n == 0 || l.segments[n-1].full(l.segmentBytes) {
		if err := l.roll(); err != nil {
			return 0, err
		}
	}
	g := l.segments[len(l.segments)-1]
	l.buf = appendRecord(l.buf[:0], payload)
	if _, err := l.f.WriteAt(l.buf, g.size); err != nil {
		if terr := l.f.Truncate(g.size); terr != nil {
			l.failed = fmt.Errorf("cut segment back after a failed write: %w", terr)
		}
		return 0, fmt.Errorf("write segment %s: %w", g.path, err)
	}
	if err := l.f.Sync(); err != nil {
		// What a failed fsync left on disk is unknown, and a second one may lie: this lane is over.
		l.failed = fmt.Errorf("sync segment %s: %w", g.path, err)
		return 0, l.failed
	}
	off = g.size
	g.size += int64(len(l.buf))
	l.bytes += int64(len(l.buf))
	if cap(l.buf) > 1<<20 {
		l.buf = nil
	}
	return off, nil
}

// trim removes segments that are acknowledged as a whole. The last one stays: it carries the state.
func (l *lane) trim() {
	for len(l.segments) > 1 && l.segments[0].last() <= l.acked {
		if err := l.remove(0); err != nil {
			return // tried again with the next acknowledgement
		}
	}
}

func (l *lane) remove(i int) error {
	g := l.segments[i]
	l.forgetReading(g)
	if err := os.Remove(g.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove segment: %w", err)
	}
	l.bytes -= g.size
	l.segments = slices.Delete(l.segments, i, i+1)
	return nil
}

func (l *lane) forgetReading(g *segment) {
	if l.readOf == g && l.reading != nil {
		l.reading.Close()
		l.reading, l.readOf = nil, nil
	}
}

// droppable finds the oldest segment that may be given up: none of its batches may have been sent.
func (l *lane) droppable() int {
	for i, g := range l.segments[:max(0, len(l.segments)-1)] {
		if g.first > l.acked+protectedBatches && len(g.entries) > 0 {
			return i
		}
	}
	return -1
}

// payload reads the record of a batch.
func (l *lane) payload(ord uint64) (batchRecord, error) {
	i, _ := slices.BinarySearchFunc(l.segments, ord, func(g *segment, o uint64) int {
		if g.last() < o {
			return -1
		}
		return 1
	})
	if i >= len(l.segments) || ord < l.segments[i].first {
		return batchRecord{}, fmt.Errorf("%w: lane %s has no batch %d", ErrDamaged, l.id, ord)
	}
	g := l.segments[i]
	if l.readOf != g {
		f, err := os.Open(g.path)
		if err != nil {
			return batchRecord{}, unreadable("open segment", err)
		}
		if l.reading != nil {
			l.reading.Close()
		}
		l.reading, l.readOf = f, g
	}
	k := int(ord - g.first)
	from, to := int64(g.entries[k].off), g.size
	if k+1 < len(g.entries) {
		to = int64(g.entries[k+1].off)
	}
	b := make([]byte, to-from)
	if _, err := l.reading.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return batchRecord{}, unreadable("read segment", err)
	}
	p, _, err := nextRecord(b)
	if err != nil {
		return batchRecord{}, fmt.Errorf("%w: %s at byte %d", ErrDamaged, g.path, from)
	}
	rec, err := parseBatch(p)
	if err != nil {
		return rec, err
	}
	if rec.ord != ord {
		return rec, fmt.Errorf("%w: %s holds batch %d where %d belongs", ErrDamaged, g.path, rec.ord, ord)
	}
	return rec, nil
}

func (l *lane) stateCopy() map[string][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.state)
}

func (l *lane) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	if l.f != nil {
		errs = append(errs, l.f.Close())
		l.f = nil
	}
	if l.reading != nil {
		errs = append(errs, l.reading.Close())
		l.reading, l.readOf = nil, nil
	}
	l.failed = errors.Join(l.failed, errClosed)
	return errors.Join(errs...)
}

var errClosed = errors.New("spool is closed")
