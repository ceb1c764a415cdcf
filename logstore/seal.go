package logstore

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// Sealing takes a prefix of the inbox, sorts its lines by stream and day into blocks, and writes the blocks,
// the removal of that prefix and the marks in one Pebble batch: after a crash a line is in the inbox or in a
// block, never in both and never in none. Small blocks are merged later by the same means.
//
// A mark says "not in the word index". Its value: version byte (1), the stream (16 bytes), uvarint lines,
// uvarint bytes as block.Size counts, then the block's terms (block.Vocabulary.Terms) as a zstd frame, or nothing when they
// must be computed again. A block with too many words (block.Vocabulary.Wordy) keeps its mark, so that its filter answers for it; in the
// word index is a document without terms, from which is known later that it was looked at. Only blocks with a mark are merged, so a document never outlives its block except by
// retention.

const (
	smallLines  = 2048    // blocks below wait to be merged ...
	smallBytes  = 1 << 20 // ... unless they are this large
	mergeBlocks = 8       // as many small blocks of a stream and day, of about the same size, are merged,
	mergeLines  = 4096    // or all that have as many lines, or are twice as many blocks
)

// templateLines is how many lines a block has at least that is written in version 2. With fewer, templates and what they need
// beside them take more bytes than they save, and twice the processor time.
const templateLines = 128

// groupBytes is about what a block of one line takes in the batch: many streams with few lines each must not make
// it large.
const groupBytes = 512

// group are the lines of a stream and a day as they lie in their batches.
type group struct {
	parts []stretch
	lines int
}

// stretch are lines of one batch that follow each other; the first has the ordinal ord.
type stretch struct {
	lines []wire.LogLine
	index uint64
	ord   uint32
}

// appendTo appends the lines of the group.
func (g *group) appendTo(dst []block.Line) []block.Line {
	dst = slices.Grow(dst, g.lines)
	for i := range g.parts {
		p := &g.parts[i]
		for j := range p.lines {
			l := &p.lines[j]
			dst = append(dst, block.Line{T: l.T, Index: p.index, Ord: p.ord + uint32(j), Severity: l.Severity, Fields: l.Fields, Text: l.Text})
		}
	}
	return dst
}

// seal turns a prefix of the inbox into blocks and reports whether there was any.
func (e *engine) seal() (bool, error) {
	groups := map[dayStream]*group{}
	var bytes int64
	var last []byte
	var through rowKey
	low := e.store.floorsNow()
	if e.noteFloors(low) != nil { // whoever drops days says why
		low = e.lows
	}
	err := e.rows(e.db, []byte{prefixInbox}, func(key, value []byte) error {
		if bytes+int64(len(groups))*groupBytes >= e.store.opt.SealBytes {
			return errStop
		}
		if err := e.ctx.Err(); err != nil {
			return err
		}
		r, err := parseInboxRow(key, value)
		if err != nil {
			return err
		}
		b, err := e.lines(&r)
		if err != nil {
			return err
		}
		bytes += r.bytes
		last, through = append(last[:0], key...), rowKey{r.index, r.ord}
		sortIn(groups, b, r.index, r.ord, &low)
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("seal: %w", err)
	}
	if last == nil {
		e.inboxSince.Store(0)
		return false, nil
	}
	pass := e.begin(PassSeal)
	defer pass.failed()
	batch := e.db.NewBatch()
	defer func() { _ = batch.Close() }()
	w := blockWriter{e: e, batch: batch}
	var lines []block.Line
	for _, k := range sortedKeys(groups) {
		lines = groups[k].appendTo(lines[:0])
		delete(groups, k)
		if err := w.write(k, lines); err != nil {
			return false, fmt.Errorf("seal: %w", err)
		}
		clear(lines)
	}
	if err := batch.DeleteRange([]byte{prefixInbox}, append(last, 0), nil); err != nil {
		return false, fmt.Errorf("seal: %w", err)
	}
	if err := e.commit(batch); err != nil {
		return false, fmt.Errorf("seal: %w", e.wrap("blocks", err))
	}
	e.decoded.forget(through.upTo)
	pass.done()
	w.done()
	e.applyMu.Lock()
	if e.inboxBytes.Add(-bytes) <= 0 {
		e.inboxSince.Store(0)
	} else {
		e.inboxSince.Store(e.store.opt.Now().UnixNano())
	}
	e.applyMu.Unlock()
	return true, nil
}

// sortIn adds the lines of a batch to the groups of their streams and days.
func sortIn(groups map[dayStream]*group, b *wire.LogBatch, index uint64, ord uint32, low *floors) {
	for i := range b.Streams {
		st := &b.Streams[i]
		id := streamIDOf(st.Kind, st.Labels)
		floor := Day(low.of(st.Kind))
		var g *group
		have, from := dayStream{id: id}, 0
		for j := range st.Lines {
			d := Day(st.Lines[j].T)
			if g != nil && d == have.day {
				continue
			}
			g.add(st.Lines[from:j], index, ord+uint32(from))
			if g, from = nil, j; d < floor {
				continue
			}
			have.day = d
			if g = groups[have]; g == nil {
				g = &group{}
				groups[have] = g
			}
		}
		g.add(st.Lines[from:], index, ord+uint32(from))
		ord += uint32(len(st.Lines))
	}
}

// add adds lines; to no group it adds none.
func (g *group) add(lines []wire.LogLine, index uint64, ord uint32) {
	if g != nil && len(lines) > 0 {
		g.parts = append(g.parts, stretch{lines, index, ord})
		g.lines += len(lines)
	}
}

func sortedKeys(groups map[dayStream]*group) []dayStream {
	keys := make([]dayStream, 0, len(groups))
	for k := range groups {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b dayStream) int {
		if a.day != b.day {
			return int(a.day - b.day)
		}
		return slices.Compare(a.id[:], b.id[:])
	})
	return keys
}

// blockWriter puts blocks into a batch; done takes note of them once the batch is committed.
type blockWriter struct {
	e     *engine
	batch *pebble.Batch
	voc   block.Vocabulary
	made  []madeBlock
}

type madeBlock struct {
	k     dayStream
	id    uint64
	lines int
	bytes int // as block.Size counts
	// wordy says that its words are known to be too many for the word index.
	wordy bool
}

// write sorts lines and writes them as blocks.
func (w *blockWriter) write(k dayStream, lines []block.Line) error {
	if !slices.IsSortedFunc(lines, byTime) { // mostly they are
		slices.SortFunc(lines, byTime)
	}
	for len(lines) > 0 {
		parts := (len(lines) + block.MaxLines - 1) / block.MaxLines
		n, size := (len(lines)+parts-1)/parts, 0
		for i := range n {
			if size += block.Size(lines[i].Text, lines[i].Fields); size > block.MaxBytes && i > 0 {
				n = i
				break
			}
		}
		if err := w.one(k, lines[:n]); err != nil {
			return err
		}
		lines = lines[n:]
	}
	return nil
}

// byTime orders lines by time and position. No two lines have the same position.
func byTime(a, b block.Line) int {
	switch {
	case a.T != b.T:
		return cmp.Compare(a.T, b.T)
	case a.Index != b.Index:
		return cmp.Compare(a.Index, b.Index)
	}
	return cmp.Compare(a.Ord, b.Ord)
}

func (w *blockWriter) one(k dayStream, lines []block.Line) error {
	id := w.e.nextBlock.Add(1)
	w.voc.Reset()
	version := w.e.blockVersion()
	if len(lines) < w.e.store.opt.templateLines {
		version = block.Version1
	}
	out, err := w.e.store.codec.Encode(lines, version, &w.voc)
	if err != nil {
		return err
	}
	if out.Fallback != nil {
		w.e.store.fellBack(out.Fallback)
	}
	h := block.HeaderOf(lines)
	mark := appendMark(nil, k.id, h.Lines, h.Bytes)
	wordy := w.voc.Wordy(h.Lines)
	if !wordy {
		mark = w.e.store.codec.Compress(mark, w.voc.Terms())
	}
	for _, kv := range [...]struct{ key, value []byte }{
		{headerKey(k.day, k.id, id), h.Append(nil, w.e.blockVersion())},
		{blockKey(prefixColumns, k.day, id), out.Columns},
		{blockKey(prefixText, k.day, id), out.Text},
		{blockKey(prefixFilter, k.day, id), w.voc.Filter(w.e.blockVersion())},
		{blockKey(prefixMark, k.day, id), mark},
	} {
		if err := w.batch.Set(kv.key, kv.value, nil); err != nil {
			return err
		}
	}
	w.made = append(w.made, madeBlock{k, id, h.Lines, h.Bytes, wordy})
	return nil
}

// blockVersion is the newest version in which blocks and headers are written: one that every node of the cluster can read.
func (e *engine) blockVersion() int {
	if e.store.format.Load() >= 2 {
		return block.Version2
	}
	return block.Version1
}

// fellBack tells that a block was written in version 1 because version 2 would have changed its lines. Nothing is lost.
func (s *Store) fellBack(err error) {
	s.opt.Log.Error("a block did not come back as it was encoded and is kept in the older form; this is a fault of the program: "+
		"please report it", "err", err)
	if s.opt.OnFallback != nil {
		s.opt.OnFallback(err)
	}
}

func (w *blockWriter) done() {
	for _, m := range w.made {
		w.e.ripe.add(m)
		w.e.trim.noteBlock(m.k.day)
	}
}

func appendMark(dst []byte, id streamID, lines, bytes int) []byte {
	dst = append(append(dst, formatVersion), id[:]...)
	dst = binary.AppendUvarint(dst, uint64(lines))
	return binary.AppendUvarint(dst, uint64(bytes))
}

// parseMark returns what a mark says; terms is the frame.
func parseMark(key, v []byte) (m madeBlock, terms []byte, err error) {
	if err := whole(v, 19, "mark"); err != nil {
		return m, nil, err
	}
	bad := fmt.Errorf("%w: mark", block.ErrDamaged)
	if len(key) != 13 {
		return m, nil, bad
	}
	m.k, m.id = dayStream{dayOf(key), streamID(v[1:17])}, blockID(key)
	v = v[17:]
	lines, n := binary.Uvarint(v)
	if n <= 0 {
		return m, nil, bad
	}
	bytes, k := binary.Uvarint(v[n:])
	if k <= 0 {
		return m, nil, bad
	}
	m.lines, m.bytes = int(lines), int(bytes)
	return m, v[n+k:], nil
}

func (m *madeBlock) keys() [][]byte {
	d := m.k.day
	return [][]byte{
		headerKey(d, m.k.id, m.id), blockKey(prefixColumns, d, m.id), blockKey(prefixText, d, m.id),
		blockKey(prefixFilter, d, m.id), blockKey(prefixMark, d, m.id),
	}
}

// readBlock returns all lines of a block in memory of their own.
func (e *engine) readBlock(m madeBlock) ([]block.Line, error) {
	var cols block.Columns
	var text block.Text
	err := e.get(blockKey(prefixColumns, m.k.day, m.id), func(v []byte) error {
		return e.store.codec.DecodeColumns(&cols, v, m.lines, block.What{Positions: true, Fields: true})
	})
	if err != nil {
		return nil, err
	}
	err = e.get(blockKey(prefixText, m.k.day, m.id), func(v []byte) error {
		return e.store.codec.DecodeText(&text, v, m.lines)
	})
	if err != nil {
		return nil, err
	}
	lines := make([]block.Line, m.lines)
	for i := range lines {
		lines[i] = block.Line{T: cols.Times[i], Index: cols.Indexes[i], Ord: cols.Ords[i], Severity: wire.Severity(cols.Severities[i]), Text: text.At(i)}
		if cols.Fields != nil {
			lines[i].Fields = cols.Fields[i]
		}
	}
	return lines, nil
}

// get calls fn with the value of a key that must be there.
func (e *engine) get(key []byte, fn func(v []byte) error) error {
	v, closer, err := e.db.Get(key)
	if err != nil {
		return fmt.Errorf("key %x: %w", key, err)
	}
	err = fn(v)
	if cerr := closer.Close(); err == nil {
		err = cerr
	}
	return err
}
