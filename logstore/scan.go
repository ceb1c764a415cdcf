package logstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

const (
	minTime = math.MinInt64
	maxTime = math.MaxInt64
)

// sink receives the matching lines of a scan. A line is offered exactly once.
type sink interface {
	// wants reports whether a line with a time in [minT, maxT] and a raft index in [minIndex, maxIndex] can matter.
	wants(minT, maxT int64, minIndex, maxIndex uint64) bool
	// whole offers all lines of a block at once, by its header; it reports whether it took them.
	whole(st *stream, h *block.Header) bool
	// add takes a line, whose text and fields are valid only during the call. It returns false when no later line
	// of the same part, in the order of the scan, can matter.
	add(st *stream, l *block.Line) bool
	// needs tells what of lines add looks at besides time and severity.
	needs() (positions, fields, text bool)
}

// templated is a sink that takes the lines of a block at once when the block keeps them by templates. It needs their text.
type templated interface {
	templates(texts *block.View, cols *block.Columns, in query.Bits) error
}

// narrowing is a sink to which, of the lines that are looked for by a need, fewer and fewer matter.
type narrowing interface {
	narrow(n query.Need) query.Need
}

// scan walks over all lines of one snapshot in [start, last] that match.
type scan struct {
	e      *engine
	snap   *pebble.Snapshot
	ctx    context.Context
	filter *query.Filter
	start  int64
	last   int64
	floors floors
	cuts   *cuts
	newest bool               // newest first, else oldest first
	only   *streamID          // only lines of this stream
	pick   func(*stream) bool // nil, or which streams are asked for
	sink   sink
	rest   func(d int64) bool // asked when a day is done: the scan ends there; nil for no
	stats  Stats

	ticket  *ticket   // nil for the store's own work
	hasTurn bool      // it is one of those who compute
	resumed time.Time // when it last had given way
	stop    func() bool

	*decoded

	reducer *query.Reducer
	filters fetcher                 // of prefixFilter
	columns fetcher                 // of prefixColumns
	texts   fetcher                 // of prefixText
	sought  map[string]block.Sought // words that filters are asked for
	needs   map[*query.Filter]*query.Need
	need    *query.Need // of needFor
	needFor *query.Filter

	lines query.Lines
	plans query.Plans
	late  map[dayStream]uint64 // see shows; nil until it is asked
	began time.Time

	member     *query.Filter // of texts that the sink looks at, when it looks only for a field in them
	templates  *block.View   // the texts of the block at hand, nil when c.text has them
	positioned bool          // its positions are decoded
	line       []byte        // of templates
	labels     []wire.Label
	offered    block.Line
}

// decoded is memory that a scan leaves to a later one: a question about one line of millions would else take more time to get and clear
// it than to look.
type decoded struct {
	cands    []candidate
	cols     block.Columns
	spans    block.Spans
	text     block.Text
	view     block.View
	byMinute block.Minutes
}

// maxLeft bounds the candidates that memory is left for.
const maxLeft = 4096

// leave has a scan that has ended leave its memory, until the collector needs it.
func (s *Store) leave(d *decoded) {
	clear(d.cands) // they hold streams and filters
	if cap(d.cands) > maxLeft {
		d.cands = nil
	}
	s.decoded.Put(d)
}

// scan opens a scan on the store as of now; done frees it. The caller's context bounds it together with the
// life of the directory.
func (s *Store) scan(ctx context.Context, f *query.Filter, start, end int64) (*scan, func(), error) {
	e, release, err := s.acquire()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.ctx, func() { cancel(ErrClosed) })
	if f == nil {
		f = query.All()
	}
	if end == 0 {
		end = maxTime
	} else {
		end--
	}
	f, from, to := f.Timed()
	start, end = max(start, from), min(end, to)
	low, cut := s.floorsNow(), s.cuts.Load() // before the snapshot: what is dropped meanwhile is below what is read later
	c := &scan{
		e: e, ctx: ctx, snap: e.db.NewSnapshot(), filter: f, start: max(start, low.all()), last: end, floors: low, cuts: cut,
		newest: true, reducer: f.Reducer(), began: time.Now(),
	}
	c.stop = c.breathe
	if c.decoded, _ = s.decoded.Get().(*decoded); c.decoded == nil {
		c.decoded = &decoded{}
	}
	return c, func() {
		for _, f := range []*fetcher{&c.filters, &c.columns, &c.texts} {
			f.close()
		}
		s.leave(c.decoded)
		c.decoded = nil
		_ = c.snap.Close() // a snapshot has nothing to fail with
		stop()
		cancel(nil)
		release()
	}, nil
}

// run offers every matching line to the sink.
func (c *scan) run() error {
	defer func() { c.stats.Duration = time.Since(c.began) }()
	if c.start > c.last || c.filter.IsNone() {
		return nil
	}
	c.shortDay()
	if err := c.spoiled("inbox", c.inbox()); err != nil {
		return err
	}
	days, err := c.days()
	if err != nil {
		return err
	}
	filterNeed := c.filter.Need()
	for _, d := range days {
		from, to := d*DayNs, d*DayNs+DayNs-1
		if d < 0 && from > 0 { // before the first representable midnight
			from = minTime
		}
		if to < from {
			to = maxTime
		}
		if from > c.last || to < c.start || !c.sink.wants(max(from, c.start), min(to, c.last), 0, math.MaxUint64) {
			continue
		}
		need := filterNeed
		if s, ok := c.sink.(narrowing); ok {
			need = s.narrow(need)
		}
		if err := c.spoiled(fmt.Sprintf("day %d", d), c.day(d, &need)); err != nil {
			return err
		}
		if c.rest != nil && c.rest(d) {
			return nil
		}
	}
	return nil
}

func (c *scan) err() error {
	if c.ctx.Err() != nil {
		return fmt.Errorf("log search: %w", context.Cause(c.ctx))
	}
	return nil
}

// spoiled notes a part that is damaged and left out; other errors it returns.
func (c *scan) spoiled(place string, err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, block.ErrDamaged) || errors.Is(err, wire.ErrMalformed) || pebble.IsCorruptionError(err) {
		var d *DamageError
		if !errors.As(err, &d) {
			_ = c.e.damaged(place, err) // the scan goes on without it
		}
		c.leaveOut(place)
		return nil
	}
	return err
}

func (c *scan) leaveOut(place string) { c.stats.leaveOut(place) }

// days lists the days that have blocks, in the order of the scan.
func (c *scan) days() ([]int64, error) { return c.e.days(c.snap, prefixHeader, c.newest) }

func (e *engine) days(r pebble.Reader, prefix byte, newest bool) (days []int64, err error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: []byte{prefix}, UpperBound: []byte{prefix + 1}})
	if err != nil {
		return nil, e.wrap("days", err)
	}
	for ok := it.First(); ok; {
		d := dayOf(it.Key())
		days = append(days, d)
		ok = it.SeekGE(dayPrefix(prefix, d+1))
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, e.wrap("days", err)
	}
	if newest {
		slices.Reverse(days)
	}
	return days, nil
}

// inbox scans the lines that are not in blocks yet.
func (c *scan) inbox() error {
	type part struct {
		minT, maxT int64
		key        []byte
	}
	var parts []part
	err := c.e.rows(c.snap, []byte{prefixInbox}, func(key, value []byte) error {
		r, err := parseInboxRow(key, value)
		if err != nil {
			return c.spoiled(fmt.Sprintf("key %x", key), err)
		}
		if r.minT <= c.last && r.maxT >= c.start {
			parts = append(parts, part{r.minT, r.maxT, slices.Clone(key)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(parts, func(a, b part) int {
		if c.newest {
			return cmp.Compare(b.maxT, a.maxT)
		}
		return cmp.Compare(a.minT, b.minT)
	})
	for _, p := range parts {
		index, _ := parseInboxKey(p.key)
		if !c.sink.wants(max(p.minT, c.start), min(p.maxT, c.last), index, index) {
			continue
		}
		if err := c.turn(); err != nil {
			return err
		}
		v, closer, err := c.snap.Get(p.key)
		if err == nil {
			err = errors.Join(c.inboxRow(p.key, v), closer.Close())
		}
		if err != nil {
			if err := c.spoiled(fmt.Sprintf("key %x", p.key), err); err != nil {
				return err
			}
		}
	}
	return c.err()
}

func (c *scan) inboxRow(key, v []byte) error {
	r, err := parseInboxRow(key, v)
	if err != nil {
		return err
	}
	b, err := c.e.lines(&r)
	if err != nil {
		return err
	}
	ord := r.ord
	for i := range b.Streams {
		st := &b.Streams[i]
		first := ord
		ord += uint32(len(st.Lines))
		if len(st.Lines) == 0 {
			continue
		}
		f := c.reducer.Stream(st.Kind, st.Labels.Get)
		if f.IsNone() {
			continue
		}
		id := streamIDOf(st.Kind, st.Labels)
		if c.only != nil && *c.only != id || c.pick != nil && !c.pick(&stream{id: id, kind: st.Kind, decoded: st.Labels}) {
			continue
		}
		c.inboxStream(st, id, f, r.index, first)
	}
	return nil
}

func (c *scan) inboxStream(ws *wire.LogStream, id streamID, f *query.Filter, index uint64, first uint32) {
	st := &stream{id: id, kind: ws.Kind, decoded: ws.Labels}
	order := make([]int, len(ws.Lines))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return ws.Lines[order[a]].T < ws.Lines[order[b]].T })
	if c.newest {
		slices.Reverse(order)
	}
	start, hide := c.from(st), hider{cuts: c.cuts, st: st}
	for n, i := range order {
		if n%16 == 15 && c.ctx.Err() != nil { // whoever called finds out why
			return
		}
		l := &ws.Lines[i]
		if l.T < start || l.T > c.last || hide.hides(l.T, index) {
			continue
		}
		c.stats.Lines++
		c.stats.Bytes += int64(len(l.Text))
		if !f.Match(&query.Line{T: l.T, Kind: ws.Kind, Severity: l.Severity, Labels: ws.Labels, Fields: l.Fields, Text: l.Text, Stop: c.stop}) {
			continue
		}
		if c.ctx.Err() != nil { // it may not match at all
			return
		}
		line := block.Line{T: l.T, Index: index, Ord: first + uint32(i), Severity: l.Severity, Fields: l.Fields, Text: l.Text}
		if !c.sink.add(st, &line) {
			return
		}
	}
}

// from returns the first time of the scan that lines of a stream may have.
func (c *scan) from(st *stream) int64 { return max(c.start, c.floors.of(st.kind)) }

// candidate is a block that may hold matching lines.
type candidate struct {
	id     uint64
	st     *stream
	filter *query.Filter
	head   block.Header
	asked  bool   // the word index has answered for it
	cut    uint64 // lines of entries up to here are hidden; 0: none is
}

// maxCandidates bounds the blocks of a day that a scan looks at in one go, and with them its memory. They are in the
// order of time only among themselves; no sink needs more, it only saves work.
const maxCandidates = 1 << 15

// day scans the blocks of one day.
func (c *scan) day(d int64, need *query.Need) (err error) {
	p := pruners{day: pruner{need: *need}}
	w, err := c.walk(d)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := w.close(); err == nil {
			err = cerr
		}
	}()
	for more := true; more; {
		if more, err = w.next(); err != nil {
			return err
		}
		if err := c.blocks(d, &p); err != nil {
			return err
		}
	}
	return nil
}

// blocks scans the candidates, which are of one day.
func (c *scan) blocks(d int64, p *pruners) (err error) {
	cands, err := c.prune(d, p, c.cands)
	if err != nil {
		return err
	}
	slices.SortFunc(cands, func(a, b candidate) int {
		if c.newest {
			return cmp.Compare(b.head.MaxT, a.head.MaxT)
		}
		return cmp.Compare(a.head.MinT, b.head.MinT)
	})
	for i := range cands {
		k := &cands[i]
		if !c.sink.wants(max(k.head.MinT, c.start), min(k.head.MaxT, c.last), k.head.MinIndex, k.head.MaxIndex) {
			c.stats.SkippedHeader++
			continue
		}
		if err := c.turn(); err != nil {
			return err
		}
		if err := c.block(d, k); err != nil {
			if err := c.spoiled(fmt.Sprintf("block %d/%016x", d, k.id), err); err != nil {
				return err
			}
		}
	}
	return nil
}

// offer hands the lines in the set, of a block with the header, to the sink, in the order of the scan. It stops at damage.
func (c *scan) offer(st *stream, h *block.Header, in query.Bits) (err error) {
	if v, ok := c.sink.(counter); ok {
		v.addAll(h, c.cols.Times, c.cols.Severities, in)
		return nil
	}
	positions, fields, text := c.sink.needs()
	if positions && !c.positioned {
		if err := c.e.store.codec.DecodePositions(&c.cols); err != nil {
			return err
		}
	}
	l := &c.offered
	give := func(i int) bool {
		*l = block.Line{T: c.cols.Times[i], Severity: wire.Severity(c.cols.Severities[i])}
		if positions {
			l.Index, l.Ord = c.cols.Indexes[i], c.cols.Ords[i]
		}
		switch {
		case fields && c.cols.ByName():
			c.labels, err = c.cols.AppendFields(c.labels[:0], i)
			l.Fields = c.labels
		case c.cols.Fields != nil:
			l.Fields = c.cols.Fields[i]
		}
		if err != nil {
			return false
		}
		switch {
		case text && c.templates != nil && c.member != nil && !c.plans.MayHold(c.member, c.templates, i):
		case text && c.templates != nil:
			c.line = c.templates.Append(c.line[:0], i)
			if err = c.templates.Err(); err != nil {
				return false
			}
			l.Text = c.line
		case text:
			l.Text = c.text.At(i)
		}
		return c.sink.add(st, l)
	}
	if !c.newest {
		for i := range c.cols.N {
			if in.Has(i) && !give(i) {
				break
			}
		}
		return err
	}
	for i := c.cols.N - 1; i >= 0; i-- {
		if in.Has(i) && !give(i) {
			break
		}
	}
	return err
}

// counter is a sink that takes many lines of a block at once, by their time and severity alone.
type counter interface {
	// timed reports whether it needs the times of single lines of a block.
	timed(h *block.Header) bool
	// addAll takes the lines in the set. There are no times when they are not needed.
	addAll(h *block.Header, times []int64, severities []byte, in query.Bits)
}

// hide takes the lines of entries up to cut out of the set.
func (c *scan) hide(in query.Bits, cut uint64) {
	for i, index := range c.cols.Indexes {
		if index <= cut {
			in[i/64] &^= 1 << (i % 64)
		}
	}
}

// inRange returns the lines of the decoded columns from start to last: all of them when no times were decoded.
func (c *scan) inRange(start, last int64) query.Bits {
	if len(c.cols.Times) == 0 {
		return query.Range(c.cols.N, 0, c.cols.N)
	}
	from := sort.Search(c.cols.N, func(i int) bool { return c.cols.Times[i] >= start })
	to := sort.Search(c.cols.N, func(i int) bool { return c.cols.Times[i] > last })
	return query.Range(c.cols.N, from, max(from, to))
}

// openTexts opens the texts of a block, of which o is the outline when it is known: c.templates, or c.text when that is nil. They are there until
// those of another block are opened. Without an error and open the day was dropped meanwhile.
func (c *scan) openTexts(d int64, k *candidate, o *block.Outline) (open bool, err error) {
	v, err := c.texts.get(c.snap, blockKey(prefixText, d, k.id))
	if err != nil {
		return false, c.missing(d, k.st.kind, err)
	}
	c.templates = nil
	ok, err := c.e.store.codec.ViewSeen(&c.view, v, k.head.Lines, o)
	if ok {
		c.templates = &c.view
	} else if err == nil {
		err = c.e.store.codec.DecodeText(&c.text, v, k.head.Lines)
		c.stats.Bytes += int64(len(c.text.Bytes))
	}
	return err == nil, err
}

// missing tells a block of a day that retention took away from a block that is lost.
func (c *scan) missing(d int64, kind wire.StreamKind, err error) error {
	if errors.Is(err, pebble.ErrNotFound) {
		if now := c.e.store.floorsNow(); d < Day(now.of(kind)) {
			return nil
		}
		return fmt.Errorf("%w: its row is missing", block.ErrDamaged)
	}
	return err
}

// marks returns the ids of the day's blocks that are not in its word index.
func (e *engine) marks(r pebble.Reader, d int64) (map[uint64]struct{}, error) {
	out := map[uint64]struct{}{}
	prefix := dayPrefix(prefixMark, d)
	err := e.rows(r, prefix, func(key, _ []byte) error {
		out[blockID(key)] = struct{}{}
		return nil
	})
	return out, err
}

func blockID(key []byte) uint64 {
	var id uint64
	for _, b := range bytes.TrimPrefix(key, key[:5]) {
		id = id<<8 | uint64(b)
	}
	return id
}
