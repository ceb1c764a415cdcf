package logstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// What carries lines out of a store, day by day and stream by stream, and into another one that keeps their positions.

// DayStreams calls fn for every stream that has lines on a UTC day (since 1970), with about how many bytes its lines in
// blocks have; what waits in the inbox is not counted. The labels stay valid. It fails when the dictionary or a header of the
// day is damaged: a list that lacks a stream would be taken for all. It is not admitted by itself (Admit): the archive reads at a pace
// of its own.
func (s *Store) DayStreams(ctx context.Context, day int64, fn func(kind wire.StreamKind, labels wire.Labels, bytes int64) error) error {
	c, done, err := s.part(ctx, nil, minTime, 0)
	if err != nil {
		return err
	}
	defer done()
	bytes := map[streamID]int64{}
	err = c.e.rows(c.snap, dayPrefix(prefixHeader, day), func(key, value []byte) error {
		h, err := block.ParseHeader(value)
		if err != nil {
			return c.e.damaged(fmt.Sprintf("header %x", key), err)
		}
		_, id, _ := parseHeaderKey(key)
		bytes[id] += int64(h.Bytes)
		return c.turn()
	})
	if err != nil {
		return err
	}
	return c.e.rows(c.snap, dayPrefix(prefixStream, day), func(key, value []byte) error {
		var st stream
		id := streamID(key[5:21])
		if err := parseStream(&st, id, value); err != nil {
			return c.e.damaged(fmt.Sprintf("key %x", key), err)
		}
		if err := c.turn(); err != nil {
			return err
		}
		if cut := c.cuts.hidden(day, &st); cut > 0 {
			if some, err := c.shows(day, &st, cut); err != nil || !some {
				return err
			}
		}
		return fn(st.kind, slices.Clone(st.labels()), bytes[id])
	})
}

// Span bounds what EachOf reads: From <= T < To in nanoseconds, and Above < Position.Index <= Through.
type Span struct {
	From, To       int64
	Above, Through uint64
}

// EachOf calls fn for every line within the span of the streams that pick chooses, in no particular order but each once. The
// row is valid only during the call, but its labels stay, and are the same slice for lines of one stream that follow each
// other. It fails when a part of the span is damaged, whatever stream that is of. pick is asked very often and must be cheap. Like
// DayStreams it is not admitted by itself.
func (s *Store) EachOf(ctx context.Context, span Span, pick func(kind wire.StreamKind, label func(name string) string) bool, fn func(*Row) error) error {
	if span.From >= span.To || span.Above >= span.Through {
		return nil
	}
	c, done, err := s.part(ctx, nil, span.From, span.To)
	if err != nil {
		return err
	}
	defer done()
	c.pick = func(st *stream) bool { return pick(st.kind, st.label) }
	v := &spanned{span: span}
	v.fn = func(st *stream, l *block.Line) error {
		v.row = Row{T: l.T, Position: Position{l.Index, l.Ord}, Kind: st.kind, Severity: l.Severity, Labels: st.labels(), Fields: l.Fields, Text: l.Text}
		return fn(&v.row)
	}
	c.sink = v
	if err := c.run(); err != nil {
		return err
	}
	if v.err != nil {
		return v.err
	}
	if c.stats.Partial {
		return &DamageError{Dir: c.e.dir, Place: c.stats.Damaged[0], Err: errors.New("left out of a full read")}
	}
	return nil
}

// spanned passes on the lines of entries within a span.
type spanned struct {
	everything
	span Span
	row  Row
}

func (v *spanned) wants(_, _ int64, minIndex, maxIndex uint64) bool {
	return v.err == nil && maxIndex > v.span.Above && minIndex <= v.span.Through
}

func (v *spanned) add(st *stream, l *block.Line) bool {
	if l.Index <= v.span.Above || l.Index > v.span.Through {
		return true
	}
	return v.everything.add(st, l)
}

// loadAtOnce bounds the lines of one row that Load writes, in bytes as block.Size counts.
const loadAtOnce = wire.MaxBatchRaw / 2

// Load puts lines into a store that no log feeds, at the positions that they carry; their order does not matter, and it is
// changed. Two lines of one position must not be given, in one call or in several: the later would take the place of the
// earlier. What it wrote is durable after Flush and a syncfs of the directory. Options.Manual stores are worked by Work.
func (s *Store) Load(rows []Row) error {
	e, release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	slices.SortFunc(rows, func(a, b Row) int { return a.Position.Compare(b.Position) })
	if err := e.loadRows(rows); err != nil {
		return fmt.Errorf("load %d lines: %w", len(rows), err)
	}
	s.tails.wake()
	return nil
}

func (e *engine) loadRows(rows []Row) error {
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	var bytes int64
	var fresh []dayStream
	through := e.applied.Load()
	for len(rows) > 0 {
		n := run(rows)
		b, err := batchOf(rows[:n])
		if err != nil {
			return err
		}
		entry := wire.LogEntry{Index: rows[0].Index, Batches: []wire.AcceptedLogs{{Batch: b}}}
		size, err := e.applyEntry(batch, &entry, rows[0].Ord, &fresh, nil)
		if err != nil {
			return err
		}
		bytes += size
		through = max(through, rows[0].Index)
		rows = rows[n:]
	}
	if err := batch.Set(keyApplied, appendApplied(nil, through), nil); err != nil {
		return err
	}
	if err := e.commit(batch); err != nil {
		for _, k := range fresh {
			delete(e.known, k)
		}
		return e.wrap("inbox", err)
	}
	e.applied.Store(through)
	if bytes > 0 {
		e.inboxSince.CompareAndSwap(0, e.store.opt.Now().UnixNano())
		if e.inboxBytes.Add(bytes) >= e.store.opt.SealBytes {
			e.poke()
		}
	}
	return nil
}

// run is how many of the rows, which are sorted by position, follow each other in one entry without a gap and fit into one
// row of the inbox.
func run(rows []Row) int {
	bytes, streams, fields := 0, 1, 0
	for i := range rows {
		bytes += block.Size(rows[i].Text, rows[i].Fields)
		fields += len(rows[i].Fields)
		if i == 0 {
			continue
		}
		if !sameStream(&rows[i-1], &rows[i]) {
			streams++
		}
		if rows[i].Index != rows[0].Index || rows[i].Ord != rows[i-1].Ord+1 || bytes > loadAtOnce || i == wire.MaxBatchLines ||
			streams > wire.MaxStreams || fields > wire.MaxBatchFields {
			return i
		}
	}
	return len(rows)
}

func sameStream(a, b *Row) bool { return a.Kind == b.Kind && slices.Equal(a.Labels, b.Labels) }

// batchOf is the rows as a batch, checked like one that comes from an agent: whoever reads it again must be able to.
func batchOf(rows []Row) (*wire.LogBatch, error) {
	b := &wire.LogBatch{}
	for i := range rows {
		r := &rows[i]
		if err := loadable(r); err != nil {
			return nil, fmt.Errorf("line %s: %w", r.Position, err)
		}
		if i == 0 || !sameStream(&rows[i-1], r) {
			b.Streams = append(b.Streams, wire.LogStream{Kind: r.Kind, Labels: r.Labels})
		}
		st := &b.Streams[len(b.Streams)-1]
		st.Lines = append(st.Lines, wire.LogLine{T: r.T, Severity: r.Severity, Text: r.Text, Fields: r.Fields})
	}
	return b, nil
}

// ErrUnloadable is wrapped by errors about lines that no store can hold.
var ErrUnloadable = errors.New("no such line can be stored")

func loadable(r *Row) error {
	if r.Kind != wire.StreamLog && r.Kind != wire.StreamEvent || r.Severity > wire.SeverityCritical {
		return fmt.Errorf("%w: kind %d, severity %d", ErrUnloadable, r.Kind, r.Severity)
	}
	if err := wire.CheckStreamLabels(r.Labels); err != nil {
		return fmt.Errorf("%w: %w", ErrUnloadable, err)
	}
	if len(r.Text) > wire.MaxLine || len(r.Fields) > wire.MaxFields {
		return fmt.Errorf("%w: %d bytes, %d fields", ErrUnloadable, len(r.Text), len(r.Fields))
	}
	for i := range r.Fields {
		if len(r.Fields[i].Name) > wire.MaxLabelName || len(r.Fields[i].Value) > wire.MaxLine {
			return fmt.Errorf("%w: field %.40q is too long", ErrUnloadable, r.Fields[i].Name)
		}
	}
	return nil
}
