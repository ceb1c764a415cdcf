package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// An inbox row is one accepted batch as it came. Its key holds the raft index and the ordinal of the first
// line; its value: version byte (1), codec byte (wire.Codec), uvarint lines, varint least time, uvarint span of
// times, uvarint bytes of the lines as block.Size counts, then the body.
type inboxRow struct {
	index      uint64
	ord        uint32
	codec      wire.Codec
	lines      int
	minT, maxT int64
	bytes      int64
	body       []byte // compressed
}

func (r *inboxRow) append(dst []byte) []byte {
	dst = append(dst, formatVersion, byte(r.codec))
	dst = binary.AppendUvarint(dst, uint64(r.lines))
	dst = binary.AppendVarint(dst, r.minT)
	dst = binary.AppendUvarint(dst, uint64(r.maxT-r.minT))
	dst = binary.AppendUvarint(dst, uint64(r.bytes))
	return append(dst, r.body...)
}

// parseInboxRow reads the head of a row; the body points into v.
func parseInboxRow(key, v []byte) (r inboxRow, err error) {
	if err := whole(v, 2, "inbox row"); err != nil {
		return r, err
	}
	if len(key) != 13 {
		return r, fmt.Errorf("%w: key of an inbox row", block.ErrDamaged)
	}
	r.index, r.ord = parseInboxKey(key)
	r.codec = wire.Codec(v[1])
	v = v[2:]
	bad := false
	next := func() uint64 {
		u, n := binary.Uvarint(v)
		if n <= 0 {
			bad = true
			return 0
		}
		v = v[n:]
		return u
	}
	r.lines = int(next())
	if t, n := binary.Varint(v); n > 0 {
		r.minT, v = t, v[n:]
	} else {
		bad = true
	}
	r.maxT = r.minT + int64(next())
	r.bytes = int64(next())
	if bad {
		return r, fmt.Errorf("%w: head of an inbox row", block.ErrDamaged)
	}
	r.body = v
	return r, nil
}

// lines returns the lines of a row of the inbox. Nobody may change them; they do not point into the row.
func (e *engine) lines(r *inboxRow) (*wire.LogBatch, error) {
	if b := e.decoded.get(rowKey{r.index, r.ord}); b != nil {
		return b, nil
	}
	return r.decode(e.store.codec)
}

// decode returns the lines of the row. The batch points into fresh memory, not into the row.
func (r *inboxRow) decode(c *block.Codec) (*wire.LogBatch, error) {
	var raw []byte
	switch r.codec {
	case wire.CodecNone:
		raw = append(raw, r.body...)
	case wire.CodecZstd:
		var err error
		if raw, err = c.Decompress(nil, r.body); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: unknown codec %d", block.ErrDamaged, r.codec)
	}
	b, err := wire.DecodeLogs(raw)
	if err != nil {
		return nil, err
	}
	n := 0
	for i := range b.Streams {
		n += len(b.Streams[i].Lines)
	}
	if n != r.lines {
		return nil, fmt.Errorf("%w: inbox row of %d lines holds %d", block.ErrDamaged, r.lines, n)
	}
	return b, nil
}

// ApplyLogs stores the entries, given in ascending order of Index, in one atomic write together with `through`.
// Entries at or below Applied are passed over. It may keep the batches of entries, which nobody may change any more, but not
// their bodies. What it wrote is durable after Flush and a syncfs of the directory.
func (s *Store) ApplyLogs(through uint64, entries []wire.LogEntry) error {
	e, release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	e.pushBack()
	if err := e.apply(through, entries); err != nil {
		return fmt.Errorf("apply logs through %d: %w", through, err)
	}
	s.tails.wake()
	return nil
}

// Bounds of the inbox, which a node fills faster than it seals when many send and many search.
const (
	inboxSeals    = 4 // times what is sealed at once: from there on Apply is held up
	inboxLeast    = 64 << 20
	inboxPatience = time.Second // for the entries of one call, at twice the bound; a full disk seals nothing
)

// inboxBound is how many bytes of lines the inbox has before Apply is held up.
func (e *engine) inboxBound() int64 { return max(inboxSeals*e.store.opt.SealBytes, inboxLeast) }

// pushBack holds Apply up while sealing is behind, the longer the more it is, so that senders wait or spool and no more comes than is
// sealed: what lies in the inbox is decompressed as a whole by each search.
func (e *engine) pushBack() {
	bound := e.inboxBound()
	over := e.inboxBytes.Load() - bound
	if over <= 0 || e.store.opt.Manual {
		return
	}
	timer := time.NewTimer(time.Duration(float64(inboxPatience) * min(1, float64(over)/float64(bound))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.ctx.Done():
	}
}

func (e *engine) apply(through uint64, entries []wire.LogEntry) error {
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	now := &applying{began: time.Now(), done: make(chan struct{})}
	e.applying.Store(now)
	defer func() {
		e.applying.Store(nil)
		close(now.done)
	}()
	applied := e.applied.Load()
	if through <= applied {
		return nil
	}
	defer func() {
		if e.applied.Load() == applied { // it was not stored
			e.decoded.forget(func(k rowKey) bool { return k.index > applied })
		}
	}()
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	var bytes int64
	var fresh []dayStream
	for i := range entries {
		if entries[i].Index <= applied {
			continue
		}
		n, err := e.applyEntry(batch, &entries[i], 0, &fresh, e.decoded)
		if err != nil {
			return err
		}
		bytes += n
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

// applyEntry adds the rows of one entry to the batch, whose first line has the ordinal ord, and the streams that are new on
// their day. Their lines are kept in known, unless it is nil: before they can be read, so that whoever seals them forgets them.
func (e *engine) applyEntry(batch *pebble.Batch, entry *wire.LogEntry, ord uint32, fresh *[]dayStream, known *decodedRows) (bytes int64, err error) {
	for i := range entry.Batches {
		a := &entry.Batches[i]
		row := inboxRow{index: entry.Index, ord: ord, codec: a.Codec, body: a.Body}
		for j := range a.Batch.Streams {
			st := &a.Batch.Streams[j]
			if len(st.Lines) == 0 {
				continue
			}
			minT, maxT := st.Lines[0].T, st.Lines[0].T
			for k := range st.Lines {
				l := &st.Lines[k]
				minT, maxT = min(minT, l.T), max(maxT, l.T)
				row.bytes += int64(block.Size(l.Text, l.Fields))
			}
			if row.lines == 0 {
				row.minT, row.maxT = minT, maxT
			}
			row.minT, row.maxT = min(row.minT, minT), max(row.maxT, maxT)
			row.lines += len(st.Lines)
			if err := e.meet(batch, st, minT, maxT, fresh); err != nil {
				return 0, err
			}
		}
		if row.lines == 0 {
			continue
		}
		if len(row.body) == 0 { // the state machine changed the batch and left the body to us
			row.codec, row.body = wire.CodecZstd, e.store.codec.Compress(nil, wire.AppendLogs(nil, a.Batch))
		}
		if err := batch.Set(inboxKey(entry.Index, ord), row.append(nil), nil); err != nil {
			return 0, err
		}
		if known != nil {
			known.keep(rowKey{entry.Index, ord}, a.Batch, row.bytes)
		}
		ord += uint32(row.lines)
		bytes += row.bytes
	}
	return bytes, nil
}

// meet writes the dictionary rows of a stream for the days its lines are of.
func (e *engine) meet(batch *pebble.Batch, st *wire.LogStream, minT, maxT int64, fresh *[]dayStream) error {
	id := streamIDOf(st.Kind, st.Labels)
	add := func(day int64) error {
		k := dayStream{day, id}
		if _, ok := e.known[k]; ok {
			return nil
		}
		if len(e.known) >= maxKnown {
			clear(e.known)
		}
		e.known[k] = struct{}{}
		*fresh = append(*fresh, k)
		return batch.Set(streamKey(day, id), appendStream(nil, st.Kind, st.Labels), nil)
	}
	if Day(minT) == Day(maxT) {
		return add(Day(minT))
	}
	for i := range st.Lines {
		if err := add(Day(st.Lines[i].T)); err != nil {
			return err
		}
	}
	return nil
}

// loadInbox counts what waits in the inbox.
func (e *engine) loadInbox() error {
	var bytes int64
	err := e.rows(e.db, []byte{prefixInbox}, func(key, value []byte) error {
		r, err := parseInboxRow(key, value)
		bytes += r.bytes
		return err
	})
	if err != nil {
		return err
	}
	if e.inboxBytes.Store(bytes); bytes > 0 {
		e.inboxSince.Store(e.store.opt.Now().UnixNano())
	}
	return nil
}

var errStop = errors.New("stop")

// rows calls fn for every row with the prefix in the order of keys, until it returns an error; errStop ends it
// without one. Key and value are valid only during the call.
func (e *engine) rows(r pebble.Reader, prefix []byte, fn func(key, value []byte) error) (err error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return e.wrap(fmt.Sprintf("keys %q", prefix), err)
	}
	defer func() {
		if cerr := it.Close(); cerr != nil && err == nil {
			err = e.wrap(fmt.Sprintf("keys %q", prefix), cerr)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		v, verr := it.ValueAndErr()
		if verr == nil {
			verr = fn(it.Key(), v)
		}
		if errors.Is(verr, errStop) {
			return nil
		}
		if verr != nil {
			return e.wrap(fmt.Sprintf("key %q", it.Key()), verr)
		}
	}
	return e.wrap(fmt.Sprintf("keys %q", prefix), it.Error())
}
