package logstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// Bounds of an answer.
const (
	MaxRows      = 5000
	maxRowsBytes = 32 << 20 // of text and fields; a page that would be larger ends earlier
)

// Position is the place of a line in the Raft log: unique and the same on every node.
type Position struct {
	Index uint64
	Ord   uint32
}

// Compare orders positions as the log does.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Index, q.Index); c != 0 {
		return c
	}
	return cmp.Compare(p.Ord, q.Ord)
}

// String returns "<index>.<ordinal>".
func (p Position) String() string {
	return strconv.FormatUint(p.Index, 10) + "." + strconv.FormatUint(uint64(p.Ord), 10)
}

// ParsePosition is the inverse of String.
func ParsePosition(s string) (Position, error) {
	a, b, ok := strings.Cut(s, ".")
	index, err := strconv.ParseUint(a, 10, 64)
	ord, oerr := strconv.ParseUint(b, 10, 32)
	if !ok || err != nil || oerr != nil {
		return Position{}, fmt.Errorf("position %.40q: <raft index>.<ordinal> is expected", s)
	}
	return Position{index, uint32(ord)}, nil
}

// Row is a line in an answer. It shares no memory with the store.
type Row struct {
	T int64 // nanoseconds since 1970
	Position
	Kind     wire.StreamKind
	Severity wire.Severity
	Labels   wire.Labels
	Fields   []wire.Label
	Text     []byte
}

// Direction is the order of an answer.
type Direction uint8

// Directions. Lines of one time follow their positions.
const (
	NewestFirst Direction = iota
	OldestFirst
	AnyOrder // of Walk alone: whatever costs least
)

// Request asks for lines.
type Request struct {
	Filter     *query.Filter // nil for all
	Start, End int64         // nanoseconds, Start <= T < End; End 0 is no end
	Limit      int           // rows of a page, 1 to MaxRows; 0 is 200
	Cursor     string        // Answer.Next of the page before, which may come from another node
	Direction  Direction
}

// Answer is a page.
type Answer struct {
	Rows  []Row
	Next  string // Cursor of the next page, "" when this is the last
	Stats Stats
}

// ErrRequest is wrapped by errors about what was asked.
var ErrRequest = errors.New("bad log request")

// Search returns a page of the lines that match, the same on every node that holds the same lines. It is exact:
// what a look at every line would find. Stats.Partial says that damaged parts were left out. It fails with
// ErrRequest, the context's error, ErrClosed or ErrDamaged.
func (s *Store) Search(ctx context.Context, req Request) (*Answer, error) {
	limit, err := pageLimit(req.Limit)
	if err != nil {
		return nil, err
	}
	c, done, err := s.query(ctx, &req)
	if err != nil {
		return nil, err
	}
	defer done()
	c.newest = req.Direction == NewestFirst
	t := &top{limit: limit + 1, newest: c.newest}
	if req.Cursor != "" {
		if t.from, err = parseCursor(req.Cursor); err != nil {
			return nil, err
		}
		if c.newest {
			c.last = min(c.last, t.from.T)
		} else {
			c.start = max(c.start, t.from.T)
		}
	}
	c.sink = t
	if err := c.run(); err != nil {
		return nil, err
	}
	a := &Answer{Rows: t.sorted(), Stats: c.stats}
	if len(a.Rows) > limit || t.cut {
		a.Rows = a.Rows[:min(limit, len(a.Rows))]
		last := a.Rows[len(a.Rows)-1]
		a.Next = cursor(last.T, last.Position)
	}
	return a, nil
}

func pageLimit(limit int) (int, error) {
	if limit < 0 || limit > MaxRows {
		return 0, fmt.Errorf("%w: limit %d, 1 to %d are allowed", ErrRequest, limit, MaxRows)
	}
	if limit == 0 {
		return 200, nil
	}
	return limit, nil
}

func cursor(t int64, p Position) string { return strconv.FormatInt(t, 10) + "." + p.String() }

func parseCursor(s string) (*Row, error) {
	a, b, _ := strings.Cut(s, ".")
	t, err := strconv.ParseInt(a, 10, 64)
	p, perr := ParsePosition(b)
	if err != nil || perr != nil {
		return nil, fmt.Errorf("%w: cursor %.60q is none of ours: use the `next` of an answer as it is", ErrRequest, s)
	}
	return &Row{T: t, Position: p}, nil
}

// top keeps the first `limit` rows in the order of the answer: a heap with the last of them at its root.
type top struct {
	limit  int
	newest bool
	byPos  bool // order by position alone, ascending
	from   *Row // only what comes behind it
	rows   []Row
	bytes  int
	cut    bool // the bound in bytes made the page end earlier
}

// before reports whether a line at (t, p) comes before r.
func (h *top) before(t int64, p Position, r *Row) bool {
	if h.byPos {
		return p.Compare(r.Position) < 0
	}
	c := cmp.Compare(t, r.T)
	if c == 0 {
		c = p.Compare(r.Position)
	}
	return c != 0 && (c > 0) == h.newest
}

func (h *top) less(i, j int) bool { return h.before(h.rows[j].T, h.rows[j].Position, &h.rows[i]) }

func (h *top) wants(minT, maxT int64, minIndex, maxIndex uint64) bool {
	if h.byPos && h.from != nil && maxIndex < h.from.Index {
		return false
	}
	if len(h.rows) < h.limit {
		return true
	}
	switch {
	case h.byPos:
		return minIndex <= h.rows[0].Index
	case h.newest:
		return maxT >= h.rows[0].T
	}
	return minT <= h.rows[0].T
}

// limits implements limiter: what comes behind a full page is not looked at.
func (h *top) limits() (from, to int64) {
	switch {
	case h.byPos || len(h.rows) < h.limit:
		return minTime, maxTime
	case h.newest:
		return h.rows[0].T, maxTime
	}
	return minTime, h.rows[0].T
}

func (h *top) whole(*stream, *block.Header) bool { return false }

func (h *top) needs() (positions, fields, text bool) { return true, true, true }

func (h *top) add(st *stream, l *block.Line) bool {
	p := Position{l.Index, l.Ord}
	if h.from != nil && !h.behind(l.T, p) {
		return true
	}
	if len(h.rows) >= h.limit && !h.before(l.T, p, &h.rows[0]) {
		return h.byPos // parts are not sorted by position
	}
	r := Row{T: l.T, Position: p, Kind: st.kind, Severity: l.Severity, Labels: st.labels(), Fields: cloneFields(l.Fields), Text: bytes.Clone(l.Text)}
	if len(h.rows) >= h.limit {
		h.pop()
	}
	h.push(r)
	for h.bytes > maxRowsBytes && len(h.rows) > 1 {
		h.pop()
		h.limit, h.cut = len(h.rows), true
	}
	return true
}

func (h *top) behind(t int64, p Position) bool {
	if h.byPos {
		return p.Compare(h.from.Position) > 0
	}
	return p != h.from.Position && !h.before(t, p, h.from)
}

func rowBytes(r *Row) int {
	n := len(r.Text) + 128
	for i := range r.Fields {
		n += len(r.Fields[i].Name) + len(r.Fields[i].Value) + 32
	}
	return n
}

func (h *top) push(r Row) {
	h.bytes += rowBytes(&r)
	h.rows = append(h.rows, r)
	for i := len(h.rows) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			return
		}
		h.rows[i], h.rows[up] = h.rows[up], h.rows[i]
		i = up
	}
}

func (h *top) pop() {
	h.bytes -= rowBytes(&h.rows[0])
	n := len(h.rows) - 1
	h.rows[0] = h.rows[n]
	h.rows[n] = Row{}
	h.rows = h.rows[:n]
	for i := 0; ; {
		k := 2*i + 1
		if k+1 < n && h.less(k+1, k) {
			k++
		}
		if k >= n || !h.less(k, i) {
			return
		}
		h.rows[i], h.rows[k] = h.rows[k], h.rows[i]
		i = k
	}
}

func (h *top) sorted() []Row {
	slices.SortFunc(h.rows, func(a, b Row) int {
		if h.before(a.T, a.Position, &b) {
			return -1
		}
		return 1
	})
	return h.rows
}

func cloneFields(fs []wire.Label) []wire.Label {
	if len(fs) == 0 {
		return nil
	}
	return wire.Labels(fs).Clone()
}

// Tail is what ReadAfter found.
type Tail struct {
	Rows  []Row // in the order of the log
	More  bool  // there is more behind the last row
	Stats Stats
}

// ReadAfter returns up to limit matching lines that came into the log behind pos, in the order of the log: how
// a live tail goes on where it stopped, on any node. since bounds the search to lines with T >= since.
func (s *Store) ReadAfter(ctx context.Context, pos Position, f *query.Filter, since int64, limit int) (*Tail, error) {
	limit, err := pageLimit(limit)
	if err != nil {
		return nil, err
	}
	c, done, err := s.query(ctx, &Request{Filter: f, Start: since})
	if err != nil {
		return nil, err
	}
	defer done()
	t := &top{limit: limit + 1, byPos: true, from: &Row{Position: pos}}
	c.sink = t
	if err := c.run(); err != nil {
		return nil, err
	}
	out := &Tail{Rows: t.sorted(), More: t.cut || len(t.rows) > limit, Stats: c.stats}
	out.Rows = out.Rows[:min(limit, len(out.Rows))]
	return out, nil
}

// Around is a line with its neighbours in the same stream, oldest first.
type Around struct {
	Rows  []Row
	At    int // which of Rows is the line asked for
	Stats Stats
}

// ErrNoLine says that there is no line at a position and time.
var ErrNoLine = errors.New("there is no such log line")

// Context returns the line at pos and time t with up to `before` lines before and `after` lines behind it in
// its stream.
func (s *Store) Context(ctx context.Context, pos Position, t int64, before, after int) (*Around, error) {
	if before < 0 || after < 0 || before > MaxRows/2 || after > MaxRows/2 {
		return nil, fmt.Errorf("%w: before and after are 0 to %d", ErrRequest, MaxRows/2)
	}
	c, done, err := s.query(ctx, &Request{Start: t})
	if err != nil {
		return nil, err
	}
	defer done()
	one := &finder{pos: pos}
	began, start := c.began, c.floors.all()
	c.last, c.sink = t, one
	if err := c.run(); err != nil {
		return nil, err
	}
	if one.row == nil && c.stats.Partial {
		return nil, &DamageError{Dir: c.e.dir, Place: c.stats.Damaged[0], Err: fmt.Errorf("the line at position %s may be in it", pos)}
	}
	if one.row == nil {
		return nil, fmt.Errorf("%w: position %s", ErrNoLine, pos)
	}
	side := func(newest bool, start, last int64, n int) ([]Row, error) {
		if n == 0 {
			return nil, nil
		}
		h := &top{limit: n, newest: newest, from: one.row}
		c.newest, c.start, c.last, c.only, c.sink = newest, start, last, &one.id, h
		err := c.run()
		return h.sorted(), err
	}
	older, err := side(true, start, t, before)
	if err != nil {
		return nil, err
	}
	newer, err := side(false, t, maxTime, after)
	if err != nil {
		return nil, err
	}
	slices.Reverse(older)
	a := &Around{At: len(older), Rows: append(append(older, *one.row), newer...), Stats: c.stats}
	a.Stats.Duration = time.Since(began)
	return a, nil
}

// finder looks for one line.
type finder struct {
	pos Position
	row *Row
	id  streamID
}

func (f *finder) wants(_, _ int64, minIndex, maxIndex uint64) bool {
	return f.row == nil && minIndex <= f.pos.Index && f.pos.Index <= maxIndex
}
func (f *finder) whole(*stream, *block.Header) bool     { return false }
func (f *finder) needs() (positions, fields, text bool) { return true, true, true }
func (f *finder) add(st *stream, l *block.Line) bool {
	if f.pos == (Position{l.Index, l.Ord}) {
		f.id = st.id
		f.row = &Row{
			T: l.T, Position: f.pos, Kind: st.kind, Severity: l.Severity, Labels: st.labels(),
			Fields: cloneFields(l.Fields), Text: bytes.Clone(l.Text),
		}
		return false
	}
	return true
}

// everything is a sink that passes each line on.
type everything struct {
	fn  func(st *stream, l *block.Line) error
	err error
}

func (v *everything) wants(int64, int64, uint64, uint64) bool { return v.err == nil }
func (v *everything) whole(*stream, *block.Header) bool       { return false }
func (v *everything) needs() (positions, fields, text bool)   { return true, true, true }
func (v *everything) add(st *stream, l *block.Line) bool {
	v.err = v.fn(st, l)
	return v.err == nil
}

// Each calls fn for every line with from <= T < to (to 0: no end), in no particular order but each once. The
// row is valid only during the call. It fails when a part is damaged: a digest of what is left would be wrong.
func (s *Store) Each(ctx context.Context, from, to int64, fn func(*Row) error) error {
	c, done, err := s.scan(ctx, nil, from, to)
	if err != nil {
		return err
	}
	defer done()
	var row Row
	v := &everything{fn: func(st *stream, l *block.Line) error {
		row = Row{T: l.T, Position: Position{l.Index, l.Ord}, Kind: st.kind, Severity: l.Severity, Labels: st.labels(), Fields: l.Fields, Text: l.Text}
		return fn(&row)
	}}
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
