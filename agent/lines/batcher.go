package lines

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

// Bounds of a batch.
const (
	// batchRaw is how many bytes of lines a batch has that is written before its time. Larger ones compress better: lines of the bench of
	// logs take a tenth less than in batches of 64 KiB. Small ones are the rule, since most hosts have less in a second.
	batchRaw    = 256 << 10
	batchRawMax = 420 << 10 // a batch never grows beyond this
	batchAge    = time.Second
	noteAge     = 10 * time.Second // positions without lines may wait longer
	fullRetry   = 500 * time.Millisecond
	maxMarks    = 200       // positions that move with the lines of one batch
	sideChanges = 256 << 10 // positions without lines are written by themselves when there are more
)

// Position says where a source stands after a line. EncodePosition is called later, from another goroutine: the
// value must not change. A nil result forgets the source.
type Position interface {
	EncodePosition() []byte
}

// Mark names a source and its position.
type Mark struct {
	Key      string
	Position Position
}

// Spool is what a Batcher writes to.
type Spool interface {
	Append(lane wire.Lane, c spool.Content) error
	AppendState(lane wire.Lane, changes []spool.StateChange) error
}

// Batcher gathers lines of all sources. It is safe for concurrent use.
type Batcher struct {
	lane  wire.Lane
	spool Spool
	coder *wire.Coder
	log   *slog.Logger
	tell  func(kind, text string)
	own   wire.Labels

	sem     chan struct{} // held by whoever touches what follows; a channel, so that waiting for it can end
	streams map[string]int
	batch   wire.LogBatch
	arena   []byte
	raw     int
	lines   int
	marks   map[string]Position // of sources that have lines in the batch
	notes   map[string]Position // of others
	oldest  time.Time           // when the first line or mark came

	wake chan struct{}
	done chan struct{}
	stop context.CancelFunc

	Lines, Batches, Waits, Lost atomic.Uint64
}

// NewBatcher starts a Batcher that writes into the lane of sp. Close it. tell is called when lines had to be given
// up; it may be nil, and must not use the Batcher. own are labels for every stream, those that the gateway would set (agent and host):
// a node need not write a batch anew that has them.
func NewBatcher(lane wire.Lane, sp Spool, coder *wire.Coder, own wire.Labels, log *slog.Logger, tell func(kind, text string)) *Batcher {
	if tell == nil {
		tell = func(string, string) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &Batcher{
		lane: lane, spool: sp, coder: coder, own: own, log: log, tell: tell, streams: map[string]int{}, sem: make(chan struct{}, 1),
		marks: map[string]Position{}, notes: map[string]Position{}, wake: make(chan struct{}, 1),
		done: make(chan struct{}), stop: cancel,
	}
	go b.run(ctx)
	return b
}

// Add takes one line, copying its text; one that is longer than the wire allows is cut. mark is where the source
// stands behind the line. It waits while the spool is full, and returns an error when ctx ends or the spool cannot
// be used any more; the line is not taken then.
func (b *Batcher) Add(ctx context.Context, s *Stream, line wire.LogLine, mark Mark) error {
	line = bounded(line)
	size := sizeOf(&line)
	if err := b.acquire(ctx); err != nil {
		return err
	}
	defer b.release()
	if b.lines > 0 && !b.fits(s, size, mark.Key) {
		if err := b.flushLocked(ctx); err != nil {
			return err
		}
	}
	b.begin()
	i, known := b.streams[s.key]
	if !known {
		i = len(b.batch.Streams)
		b.streams[s.key] = i
		b.batch.Streams = append(b.batch.Streams, wire.LogStream{Kind: s.Kind, Labels: b.labels(s)})
		size += b.size(s)
	}
	from := len(b.arena)
	b.arena = append(b.arena, line.Text...)
	line.Text = b.arena[from:len(b.arena):len(b.arena)]
	b.batch.Streams[i].Lines = append(b.batch.Streams[i].Lines, line)
	b.lines++
	b.raw += size
	if mark.Key != "" {
		b.marks[mark.Key] = mark.Position
		delete(b.notes, mark.Key)
	}
	b.Lines.Add(1)
	if b.raw < batchRaw {
		return nil
	}
	// The line is taken, whatever comes of this flush: a later one writes it.
	if err := b.flushLocked(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// fits reports whether the batch may take a line of the stream that has size bytes and moves the position of key.
func (b *Batcher) fits(s *Stream, size int, key string) bool {
	if _, known := b.streams[s.key]; !known {
		if len(b.streams) >= wire.MaxStreams {
			return false
		}
		size += b.size(s)
	}
	if _, known := b.marks[key]; !known && len(b.marks) >= maxMarks {
		return false
	}
	return b.raw+size <= batchRawMax
}

// labels returns the labels of a stream and the batcher's own.
func (b *Batcher) labels(s *Stream) wire.Labels {
	ls := s.Labels
	for _, l := range b.own {
		ls = ls.With(l.Name, l.Value)
	}
	return ls
}

// size is what a stream takes in a batch besides its lines.
func (b *Batcher) size(s *Stream) int {
	n := len(s.key) + 16
	for _, l := range b.own {
		n += len(l.Name) + len(l.Value) + 6
	}
	return n
}

// acquire takes the semaphore; an ended ctx keeps it from waiting, not from taking a free one.
func (b *Batcher) acquire(ctx context.Context) error {
	select {
	case b.sem <- struct{}{}:
		return nil
	default:
	}
	select {
	case b.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("spool does not take lines: %w", ctx.Err())
	}
}

func (b *Batcher) release() { <-b.sem }

// Note takes over a position without a line (lines that were filtered out, a file that is gone). When ctx ends
// while the spool is full it is not taken.
func (b *Batcher) Note(ctx context.Context, mark Mark) {
	if b.acquire(ctx) != nil {
		return
	}
	defer b.release()
	b.begin()
	if _, moved := b.marks[mark.Key]; moved {
		b.marks[mark.Key] = mark.Position
		return
	}
	b.notes[mark.Key] = mark.Position
}

func (b *Batcher) empty() bool { return b.lines == 0 && len(b.marks) == 0 && len(b.notes) == 0 }

func (b *Batcher) begin() {
	if b.empty() {
		b.oldest = time.Now()
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}

// Hold keeps the batcher from taking and writing anything until release is called, and returns the positions that were
// gathered and not yet written, nil for sources to forget: with those of the spool they say where every source stands.
// It returns an error when ctx ends while the spool is full.
func (b *Batcher) Hold(ctx context.Context) (positions map[string][]byte, release func(), err error) {
	if err := b.acquire(ctx); err != nil {
		return nil, nil, err
	}
	positions = make(map[string][]byte, len(b.marks)+len(b.notes))
	for _, held := range []map[string]Position{b.marks, b.notes} {
		for key, p := range held {
			positions[key] = nil
			if p != nil {
				positions[key] = p.EncodePosition()
			}
		}
	}
	return positions, b.release, nil
}

// Flush writes what was gathered.
func (b *Batcher) Flush(ctx context.Context) error {
	if err := b.acquire(ctx); err != nil {
		return err
	}
	defer b.release()
	return b.flushLocked(ctx)
}

func (b *Batcher) run(ctx context.Context) {
	defer close(b.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		}
		for {
			wait, pending := b.due(ctx)
			if !pending {
				break
			}
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
			if wait > 0 {
				continue // look again: the batch may have been written and a younger one begun
			}
			if err := b.Flush(ctx); err != nil {
				if ctx.Err() == nil {
					b.log.Error("write lines into the spool", "err", err)
				}
				return
			}
		}
	}
}

// due tells how long the present batch may wait.
func (b *Batcher) due(ctx context.Context) (time.Duration, bool) {
	if b.acquire(ctx) != nil {
		return 0, false
	}
	defer b.release()
	if b.empty() {
		return 0, false
	}
	age := noteAge
	if b.lines > 0 {
		age = batchAge
	}
	// With marks alone look every second: lines may have come.
	return min(max(0, time.Until(b.oldest.Add(age))), batchAge), true
}

// flushLocked writes the batch with the positions that its lines moved in one record, and the other positions in the
// same record when they are few: they may be lost, those of lines may not.
func (b *Batcher) flushLocked(ctx context.Context) error {
	if b.lines > 0 {
		changes, size := encode(b.marks)
		notes, more := encode(b.notes)
		alone := size+more > sideChanges
		if !alone {
			changes = append(changes, notes...)
		}
		if err := b.write(ctx, &b.batch, b.lines, changes); err != nil {
			return err
		}
		if !alone {
			clear(b.notes)
		}
		b.forget()
	}
	if len(b.notes) == 0 {
		return nil
	}
	changes, _ := encode(b.notes)
	err := b.persist(ctx, func() error { return b.spool.AppendState(b.lane, changes) })
	if errors.Is(err, spool.ErrTooLarge) {
		b.log.Error("positions of sources are not kept: what they stand for is read again after a restart", "err", err)
		err = nil
	}
	if err == nil {
		clear(b.notes)
	}
	return err
}

// forget empties the batch and the positions that went with it.
func (b *Batcher) forget() {
	clear(b.streams)
	clear(b.marks)
	clear(b.batch.Streams)
	b.batch.Streams = b.batch.Streams[:0]
	b.lines, b.raw = 0, 0
	if cap(b.arena) > 2*batchRaw {
		b.arena = nil
	}
	b.arena = b.arena[:0]
}

func encode(positions map[string]Position) (changes []spool.StateChange, size int) {
	changes = make([]spool.StateChange, 0, len(positions))
	for k, p := range positions {
		c := spool.StateChange{Key: k}
		if p != nil {
			c.Value = p.EncodePosition()
		}
		size += len(c.Key) + len(c.Value)
		changes = append(changes, c)
	}
	return changes, size
}

// write appends a batch of n lines. One that the spool can never take is written in two halves, the positions with
// the second; a single line like that is given up, counted and told.
func (b *Batcher) write(ctx context.Context, batch *wire.LogBatch, n int, changes []spool.StateChange) error {
	raw := wire.AppendLogs(make([]byte, 0, b.raw+b.raw/8), batch)
	c := spool.Content{Hash: wire.HashContent(raw), RawLen: len(raw), Items: n, Changes: changes}
	c.Codec, c.Body = b.coder.CompressLogs(nil, raw)
	err := b.persist(ctx, func() error { return b.spool.Append(b.lane, c) })
	switch {
	case err == nil:
		b.Batches.Add(1)
		return nil
	case !errors.Is(err, spool.ErrTooLarge):
		return err
	case n > 1:
		first, second := halves(batch, n)
		if err := b.write(ctx, first, n/2, nil); err != nil {
			return err
		}
		return b.write(ctx, second, n-n/2, changes)
	}
	b.Lost.Add(uint64(n))
	b.log.Error("line is given up", "lane", b.lane.String(), "bytes", len(raw), "err", err)
	b.tell("lost", fmt.Sprintf("a line of %d bytes was given up: %v", len(raw), err))
	err = b.persist(ctx, func() error { return b.spool.AppendState(b.lane, changes) })
	if errors.Is(err, spool.ErrTooLarge) {
		return nil
	}
	return err
}

// halves cuts a batch of n lines behind the first n/2.
func halves(batch *wire.LogBatch, n int) (first, second *wire.LogBatch) {
	first, second = &wire.LogBatch{}, &wire.LogBatch{}
	left := n / 2
	for _, s := range batch.Streams {
		k := min(left, len(s.Lines))
		left -= k
		if k > 0 {
			first.Streams = append(first.Streams, wire.LogStream{Kind: s.Kind, Labels: s.Labels, Lines: s.Lines[:k]})
		}
		if k < len(s.Lines) {
			second.Streams = append(second.Streams, wire.LogStream{Kind: s.Kind, Labels: s.Labels, Lines: s.Lines[k:]})
		}
	}
	return first, second
}

// passes reports whether an error of the spool may be over by itself: a full lane, a disk that does not write now.
func passes(err error) bool {
	var path *fs.PathError
	var link *os.LinkError
	var call *os.SyscallError
	var errno syscall.Errno
	return errors.Is(err, spool.ErrFull) || errors.As(err, &path) || errors.As(err, &link) || errors.As(err, &call) ||
		errors.As(err, &errno)
}

// persist repeats fn, which writes to the spool, as long as its error may pass.
func (b *Batcher) persist(ctx context.Context, fn func() error) error {
	for told := false; ; {
		err := fn()
		if err == nil {
			return nil
		}
		if f, ok := b.spool.(interface{ Failed() error }); ok && f.Failed() != nil {
			return fmt.Errorf("spool cannot be used any more: %w", err)
		}
		if !passes(err) {
			return fmt.Errorf("spool refuses lines: %w", err)
		}
		if !told {
			told = true
			b.Waits.Add(1)
			if errors.Is(err, spool.ErrFull) {
				b.log.Warn("spool is full: reading of logs waits", "lane", b.lane.String())
			} else {
				b.log.Error("spool does not take lines: reading of logs waits", "lane", b.lane.String(), "err", err)
			}
		}
		t := time.NewTimer(fullRetry)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("spool does not take lines: %w", errors.Join(err, ctx.Err()))
		case <-t.C:
		}
	}
}

// Close writes what was gathered, waiting at most until ctx ends, and stops.
func (b *Batcher) Close(ctx context.Context) error {
	b.stop()
	<-b.done
	return b.Flush(ctx)
}
