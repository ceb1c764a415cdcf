package lines

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

// Bounds of a batch.
const (
	batchRaw    = 64 << 10  // a batch is written when it holds so much
	batchRawMax = 420 << 10 // and never grows beyond this
	batchAge    = time.Second
	noteAge     = 10 * time.Second // positions without lines may wait longer
	fullRetry   = 500 * time.Millisecond
)

// Stream is the identity of the lines of one source.
type Stream struct {
	Kind   wire.StreamKind
	Labels wire.Labels
	key    string
}

// NewStream makes a stream; labels must pass wire.CheckStreamLabels.
func NewStream(kind wire.StreamKind, labels wire.Labels) *Stream {
	return &Stream{Kind: kind, Labels: labels, key: string(labels.AppendKey([]byte{byte(kind)}))}
}

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

	sem     chan struct{} // held by whoever touches what follows; a channel, so that waiting for it can end
	streams map[string]int
	batch   wire.LogBatch
	arena   []byte
	raw     int
	lines   int
	marks   map[string]Position
	oldest  time.Time // when the first line or mark came

	wake chan struct{}
	done chan struct{}
	stop context.CancelFunc

	Lines, Batches, Waits atomic.Uint64
}

// NewBatcher starts a Batcher that writes into the lane of sp. Close it.
func NewBatcher(lane wire.Lane, sp Spool, coder *wire.Coder, log *slog.Logger) *Batcher {
	ctx, cancel := context.WithCancel(context.Background())
	b := &Batcher{
		lane: lane, spool: sp, coder: coder, log: log, streams: map[string]int{}, sem: make(chan struct{}, 1),
		marks: map[string]Position{}, wake: make(chan struct{}, 1), done: make(chan struct{}), stop: cancel,
	}
	go b.run(ctx)
	return b
}

// Add takes one line, copying its text. mark is where the source stands behind the line. It waits while the spool
// is full, and returns an error when ctx ends or the spool cannot be used any more; the line is not taken then.
func (b *Batcher) Add(ctx context.Context, s *Stream, line wire.LogLine, mark Mark) error {
	size := len(line.Text) + 16
	for _, f := range line.Fields {
		size += len(f.Name) + len(f.Value) + 4
	}
	if err := b.acquire(ctx); err != nil {
		return err
	}
	defer b.release()
	_, known := b.streams[s.key]
	if b.lines > 0 && (b.raw+size > batchRawMax || !known && len(b.streams) >= wire.MaxStreams) {
		if err := b.flushLocked(ctx); err != nil {
			return err
		}
	}
	b.begin()
	i, known := b.streams[s.key]
	if !known {
		i = len(b.batch.Streams)
		b.streams[s.key] = i
		b.batch.Streams = append(b.batch.Streams, wire.LogStream{Kind: s.Kind, Labels: s.Labels})
		size += len(s.key)
	}
	from := len(b.arena)
	b.arena = append(b.arena, line.Text...)
	line.Text = b.arena[from:len(b.arena):len(b.arena)]
	b.batch.Streams[i].Lines = append(b.batch.Streams[i].Lines, line)
	b.lines++
	b.raw += size
	if mark.Key != "" {
		b.marks[mark.Key] = mark.Position
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
	b.marks[mark.Key] = mark.Position
}

func (b *Batcher) begin() {
	if b.lines == 0 && len(b.marks) == 0 {
		b.oldest = time.Now()
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
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
	if b.lines == 0 && len(b.marks) == 0 {
		return 0, false
	}
	age := noteAge
	if b.lines > 0 {
		age = batchAge
	}
	// With marks alone look every second: lines may have come.
	return min(max(0, time.Until(b.oldest.Add(age))), batchAge), true
}

func (b *Batcher) flushLocked(ctx context.Context) error {
	if b.lines == 0 && len(b.marks) == 0 {
		return nil
	}
	changes := make([]spool.StateChange, 0, len(b.marks))
	for k, p := range b.marks {
		c := spool.StateChange{Key: k}
		if p != nil {
			c.Value = p.EncodePosition()
		}
		changes = append(changes, c)
	}
	if err := b.write(ctx, changes); err != nil {
		return err
	}
	clear(b.streams)
	clear(b.marks)
	clear(b.batch.Streams)
	b.batch.Streams = b.batch.Streams[:0]
	b.lines, b.raw = 0, 0
	if cap(b.arena) > 2*batchRaw {
		b.arena = nil
	}
	b.arena = b.arena[:0]
	return nil
}

func (b *Batcher) write(ctx context.Context, changes []spool.StateChange) error {
	var c spool.Content
	if b.lines > 0 {
		raw := wire.AppendLogs(make([]byte, 0, b.raw+b.raw/8), &b.batch)
		c = spool.Content{Hash: wire.HashContent(raw), RawLen: len(raw), Items: b.lines, Changes: changes}
		c.Codec, c.Body = b.coder.Compress(nil, raw)
	}
	for told := false; ; {
		var err error
		if b.lines > 0 {
			err = b.spool.Append(b.lane, c)
		} else {
			err = b.spool.AppendState(b.lane, changes)
		}
		if err == nil {
			if b.lines > 0 {
				b.Batches.Add(1)
			}
			return nil
		}
		if f, ok := b.spool.(interface{ Failed() error }); ok && f.Failed() != nil {
			return fmt.Errorf("spool cannot be used any more: %w", err)
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
