package logstore

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// walker goes through the streams of a day and the headers of their blocks side by side, as both are sorted by stream,
// and finds the candidates. So a scan holds neither all streams nor all blocks of a day.
type walker struct {
	c       *scan
	d       int64
	streams *pebble.Iterator
	headers *pebble.Iterator
	begun   bool
	there   bool          // headers stands on a row
	jumped  bool          // the rows of headers that come before the stream at hand are of streams that were passed over
	st      stream        // the stream at hand, pointing into the iterator
	kept    *stream       // a copy of it, once it has a candidate
	filter  *query.Filter // reduced to it; nil when none is at hand
	cut     uint64        // its lines of entries up to here are hidden
}

// walk begins before the first stream of the day, or before the only one that is asked for.
func (c *scan) walk(d int64) (*walker, error) {
	w := &walker{c: c, d: d, jumped: true}
	prefix := dayPrefix(prefixStream, d)
	if c.only != nil {
		prefix = streamKey(d, *c.only)
	}
	var err error
	if w.streams, err = c.snap.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)}); err != nil {
		return nil, c.e.wrap("streams", err)
	}
	prefix = dayPrefix(prefixHeader, d)
	if w.headers, err = c.snap.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)}); err != nil {
		return nil, errors.Join(c.e.wrap("headers", err), w.streams.Close())
	}
	w.there = w.headers.First()
	return w, nil
}

func (w *walker) close() error {
	return errors.Join(w.c.e.wrap("streams", w.streams.Close()), w.c.e.wrap("headers", w.headers.Close()))
}

// next puts the next candidates into the scan, at most maxCandidates, and reports whether there may be more.
func (w *walker) next() (more bool, err error) {
	c := w.c
	clear(c.cands)
	c.cands = c.cands[:0]
	for n := 1; len(c.cands) < maxCandidates; n++ {
		if n%1024 == 0 {
			if err := c.err(); err != nil {
				return false, err
			}
		}
		if !w.there {
			return false, c.e.wrap("headers", w.headers.Error())
		}
		if w.filter == nil {
			if more, err = w.stream(); err != nil || !more {
				return false, err
			}
			continue
		}
		_, sid, id := parseHeaderKey(w.headers.Key())
		if sid != w.st.id {
			w.filter = nil
			continue
		}
		v, err := w.headers.ValueAndErr()
		if err == nil {
			err = w.header(id, v)
		}
		if err != nil {
			return false, c.e.wrap("headers", err)
		}
		w.there = w.headers.Next()
	}
	return true, nil
}

// stream takes the next stream, if the filter does not rule it out, and goes to the headers of its blocks.
func (w *walker) stream() (more bool, err error) {
	c := w.c
	if !w.begun {
		w.begun = true
		w.streams.First()
	} else {
		w.streams.Next()
	}
	if !w.streams.Valid() {
		return false, c.e.wrap("streams", w.streams.Error())
	}
	key := w.streams.Key()
	v, err := w.streams.ValueAndErr()
	if err != nil {
		return false, c.e.wrap("streams", err)
	}
	w.kept = nil
	if err := parseStream(&w.st, streamID(key[5:]), v); err != nil {
		w.jumped = true
		return true, c.spoiled(fmt.Sprintf("key %x", key), err)
	}
	f := c.reducer.Stream(w.st.kind, w.st.label)
	if f.IsNone() || c.pick != nil && !c.pick(&w.st) {
		w.jumped = true
		return true, nil
	}
	w.filter, w.cut = f, c.cuts.hidden(w.d, &w.st)
	prefix := append(dayPrefix(prefixHeader, w.d), w.st.id[:]...)
	if bytes.Compare(w.headers.Key(), prefix) < 0 {
		if !w.jumped {
			err = c.spoiled(fmt.Sprintf("header %x", w.headers.Key()), c.missing(w.d, w.st.kind, pebble.ErrNotFound))
		}
		w.there = w.headers.SeekGE(prefix)
	}
	w.jumped = false
	return true, err
}

// header makes a candidate of a block of the stream at hand, unless its header rules it out, or what is remembered of its filter.
func (w *walker) header(id uint64, v []byte) error {
	c, st := w.c, &w.st
	h, err := block.ParseHeader(v)
	if err != nil {
		return c.spoiled(fmt.Sprintf("header %x", w.headers.Key()), err)
	}
	cut := w.cut
	switch {
	case h.MaxIndex <= cut:
		return nil
	case h.MinIndex > cut:
		cut = 0
	}
	c.stats.Considered++
	if h.MinT > c.last || h.MaxT < c.from(st) || !c.sink.wants(max(h.MinT, c.start), min(h.MaxT, c.last), h.MinIndex, h.MaxIndex) {
		c.stats.SkippedHeader++
		return nil
	}
	f := c.reducer.Block(w.filter, &h)
	if f.IsNone() {
		c.stats.SkippedHeader++
		return nil
	}
	if may, _ := c.mayHoldSeen(id, c.needOf(f)); !may {
		c.stats.SkippedFilter++
		return nil
	}
	if w.kept == nil {
		w.kept = st.keep()
	}
	c.cands = append(c.cands, candidate{id: id, st: w.kept, filter: f, head: h, cut: cut})
	return nil
}
