package logstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/triward/triward/logstore/block"
)

// WalkBytes is what a Walk takes of memory at most, for Store.Admit.
const WalkBytes = queryBytes

// Check reports what Walk would refuse, before anything is done.
func (r *Request) Check() error {
	if r.Limit < 0 {
		return fmt.Errorf("%w: limit %d is negative", ErrRequest, r.Limit)
	}
	if r.Cursor == "" {
		return nil
	}
	if r.Direction == AnyOrder {
		return fmt.Errorf("%w: there is no cursor without an order", ErrRequest)
	}
	_, err := parseCursor(r.Cursor)
	return err
}

// Walk calls fn for every line that matches, in the order that req asks for, and returns what that cost. A row is valid
// only during the call; its Labels may be kept. req.Limit 0 is no limit, and it may be greater than MaxRows; req.Cursor
// goes on behind a line (CursorOf), not in AnyOrder.
//
// Memory is bounded whatever the range holds: in the order of time lines are collected window by window, and a
// window ends where its bound in bytes is. Each has a snapshot of its own, which is freed before fn is called, so a slow fn
// keeps nothing on disk; a line that is accepted meanwhile is met if its place is still to come. In AnyOrder there is one
// snapshot and fn is called within the scan, which must not be made to wait.
//
// Walk ends with the error of fn as it is, or fails as Search does.
func (s *Store) Walk(ctx context.Context, req Request, fn func(*Row) error) (Stats, error) {
	if err := req.Check(); err != nil {
		return Stats{}, err
	}
	began := time.Now()
	ctx, leave, err := s.Admit(ctx, WalkBytes)
	if err != nil {
		return Stats{}, err
	}
	defer leave()
	if req.Direction == AnyOrder {
		return s.walkAny(ctx, req, fn)
	}
	w := &ordered{store: s, req: req, newest: req.Direction == NewestFirst, start: minTime, last: maxTime, left: req.Limit, fn: fn}
	if req.Cursor != "" {
		from, err := parseCursor(req.Cursor)
		if err != nil {
			return Stats{}, err
		}
		w.goBehind(from)
	}
	for more := true; more; {
		var err error
		if more, err = w.pass(ctx); err != nil {
			w.stats.Duration = time.Since(began)
			return w.stats, err
		}
	}
	w.stats.Duration = time.Since(began)
	return w.stats, nil
}

// CursorOf returns the cursor behind a row: a Request with it goes on with the next one, on any node.
func CursorOf(r *Row) string { return cursor(r.T, r.Position) }

// ordered is a walk in the order of time.
type ordered struct {
	store       *Store
	req         Request
	newest      bool
	start, last int64 // of the times that are left, both inclusive
	from        *Row  // only what comes behind it is left
	left        int   // rows wanted, 0 is no limit
	floors      *floors
	cuts        *cuts
	fn          func(*Row) error
	stats       Stats
}

// pass collects one window and hands it out. It reports whether there is more.
func (w *ordered) pass(ctx context.Context) (more bool, err error) {
	win := &window{newest: w.newest, from: w.from, limit: w.left, most: w.store.bounds.window}
	more, err = w.collect(ctx, win)
	if err != nil {
		return false, err
	}
	if w.left > 0 && len(win.rows) >= w.left {
		win.rows, more = win.rows[:w.left], false
	}
	for i := range win.rows {
		if err := w.fn(&win.rows[i]); err != nil {
			return false, err
		}
	}
	if w.left > 0 {
		w.left -= len(win.rows)
	}
	return more, nil
}

// collect fills the window, sorts it, and moves on to what is behind it.
func (w *ordered) collect(ctx context.Context, win *window) (more bool, err error) {
	c, done, err := w.store.query(ctx, &w.req)
	if err != nil {
		return false, err
	}
	defer done()
	c.newest, c.sink = w.newest, win
	c.start, c.last = max(c.start, w.start), min(c.last, w.last)
	w.expire(c)
	reached := false
	c.rest = func(d int64) bool {
		if time.Since(c.began) < w.store.bounds.pass || win.full(d) {
			return false
		}
		reached = true
		w.stopAt(d, win)
		return true
	}
	if err := c.run(); err != nil {
		return false, err
	}
	w.stats.add(&c.stats)
	win.sort()
	if !reached && win.cut {
		w.goBehind(&win.rows[len(win.rows)-1])
	}
	return reached || win.cut, nil
}

// goBehind leaves only what comes behind a line.
func (w *ordered) goBehind(r *Row) {
	w.from = &Row{T: r.T, Position: r.Position}
	if w.newest {
		w.last = min(w.last, r.T)
	} else {
		w.start = max(w.start, r.T)
	}
}

// stopAt leaves what lies behind a day to the next pass: only the inbox has been looked at there. All of the day is in
// the window.
func (w *ordered) stopAt(d int64, win *window) {
	if w.newest {
		w.last = d*DayNs - 1
	} else {
		w.start = (d + 1) * DayNs
	}
	win.rows = slices.DeleteFunc(win.rows, func(r Row) bool { return r.T >= w.start && r.T <= w.last })
	win.cut = false
}

// expire notes that retention took lines away that the walk had yet to come to.
func (w *ordered) expire(c *scan) {
	if w.floors == nil {
		w.floors, w.cuts = &c.floors, c.cuts
		return
	}
	for k, d := range c.cuts.days {
		w.stats.Expired = w.stats.Expired || d.index > w.cuts.index && k.Day >= Day(max(c.start, w.start)) && k.Day <= Day(min(c.last, w.last))
	}
	for k, f := range c.floors {
		w.stats.Expired = w.stats.Expired || f > max(w.start, w.req.Start, w.floors[k])
	}
}

// walkAny is Walk in AnyOrder.
func (s *Store) walkAny(ctx context.Context, req Request, fn func(*Row) error) (Stats, error) {
	c, done, err := s.query(ctx, &req)
	if err != nil {
		return Stats{}, err
	}
	defer done()
	var row Row
	n := 0
	v := &everything{fn: func(st *stream, l *block.Line) error {
		row = Row{T: l.T, Position: Position{l.Index, l.Ord}, Kind: st.kind, Severity: l.Severity, Labels: st.labels(), Fields: l.Fields, Text: l.Text}
		if err := fn(&row); err != nil {
			return err
		}
		if n++; n == req.Limit {
			return errStop
		}
		return nil
	}}
	c.sink = v
	if err := c.run(); err != nil {
		return c.stats, err
	}
	if v.err == errStop { //nolint:errorlint // ours, as it is
		return c.stats, nil
	}
	return c.stats, v.err
}

// window collects the lines that come first in an order, as many as its bounds allow.
type window struct {
	newest bool
	from   *Row // only what comes behind it
	limit  int  // rows wanted, 0 for as many as fit
	most   int  // bytes of rows that are held
	rows   []Row
	bytes  int
	chunk  []byte // that texts are put into
	cut    bool   // lines were left out: all that come behind the last of rows when they were sorted
	last   Row    // that one
}

func (v *window) before(t int64, p Position, r *Row) bool {
	h := top{newest: v.newest}
	return h.before(t, p, r)
}

func (v *window) wants(minT, maxT int64, _, _ uint64) bool {
	switch {
	case !v.cut:
		return true
	case v.newest:
		return maxT >= v.last.T
	}
	return minT <= v.last.T
}
func (v *window) whole(*stream, *block.Header) bool     { return false }
func (v *window) needs() (positions, fields, text bool) { return true, true, true }

func (v *window) add(st *stream, l *block.Line) bool {
	p := Position{l.Index, l.Ord}
	if v.from != nil && (p == v.from.Position || v.before(l.T, p, v.from)) {
		return true
	}
	if v.cut && !v.before(l.T, p, &v.last) {
		return l.T == v.last.T // parts are sorted by time
	}
	r := Row{T: l.T, Position: p, Kind: st.kind, Severity: l.Severity, Labels: st.labels(), Fields: cloneFields(l.Fields), Text: v.keep(l.Text)}
	v.rows = append(v.rows, r)
	v.bytes += rowBytes(&r)
	if v.bytes > 2*v.most || v.limit > 0 && len(v.rows) >= 2*v.limit+1024 {
		v.shrink()
	}
	return true
}

// keep returns a copy of a text.
func (v *window) keep(text []byte) []byte {
	if len(text) > cap(v.chunk)-len(v.chunk) {
		if len(text) > 64<<10 {
			return bytes.Clone(text)
		}
		v.chunk = make([]byte, 0, max(min(2*cap(v.chunk), 1<<20), len(text), 4<<10))
	}
	n := len(v.chunk)
	v.chunk = append(v.chunk, text...)
	return v.chunk[n:len(v.chunk):len(v.chunk)]
}

func (v *window) sort() {
	slices.SortFunc(v.rows, func(a, b Row) int {
		if v.before(a.T, a.Position, &b) {
			return -1
		}
		return 1
	})
}

// full reports whether nothing behind the day in the order of the window fits into it any more.
func (v *window) full(d int64) bool {
	if v.newest {
		return v.cut && Day(v.last.T) >= d
	}
	return v.cut && Day(v.last.T) <= d
}

// shrink leaves the rows that come first, within the limit and the bound in bytes; a single one is always left.
func (v *window) shrink() {
	v.sort()
	v.bytes = 0
	keep := 0
	for ; keep < len(v.rows) && (v.limit == 0 || keep < v.limit); keep++ {
		n := rowBytes(&v.rows[keep])
		if v.bytes+n > v.most && keep > 0 {
			break
		}
		v.bytes += n
	}
	if keep == len(v.rows) {
		return
	}
	clear(v.rows[keep:])
	v.rows, v.cut, v.chunk = v.rows[:keep], true, nil
	v.last = v.rows[keep-1]
	for i := range v.rows { // so that the texts of the others are freed
		v.rows[i].Text = v.keep(v.rows[i].Text)
	}
}
