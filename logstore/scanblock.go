package logstore

import (
	"errors"

	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// block scans one block.
func (c *scan) block(d int64, k *candidate) (err error) {
	h := &k.head
	start, last := c.from(k.st), c.last
	if err := c.tellTexts(d, k); err != nil {
		return err
	}
	if k.filter.IsAll() && h.MinT >= start && h.MaxT <= last && k.cut == 0 {
		counted := c.sink.whole(k.st, h)
		if v, ok := c.sink.(minuted); ok && !counted && v.byMinutes() {
			if counted, err = c.minutes(d, k, v); err != nil {
				return err
			}
		}
		if counted {
			c.stats.Lines += int64(h.Lines)
			c.stats.Counted++
			return nil
		}
	}
	c.templates, c.positioned = nil, false
	texts, columns := blockTexts{c: c, d: d, k: k}, blockColumns{c: c, d: d, k: k}
	defer texts.close()
	if k.filter, err = c.stored(d, k); err != nil {
		return err
	}
	if c.countNumbers(k, start, last) {
		return nil
	}
	if may, err := c.within(k.filter, &columns); err != nil || !may {
		return unlessDropped(err)
	}
	sight, may, err := c.look(&texts)
	if err != nil || !may {
		return unlessDropped(err)
	}
	f := k.filter
	c.stats.Blocks++
	if v, ok := c.sink.(limiter); ok {
		from, to := v.limits()
		start, last = max(start, from), min(last, to)
	}
	// What the text alone decides for all lines needs no column when no line is left.
	var in query.Bits
	alone := sight != nil && f.TextAlone() && h.MinT >= start && h.MaxT <= last && k.cut == 0
	if alone {
		if in, err = c.decide(&texts, sight, query.Range(h.Lines, 0, h.Lines)); err != nil || in.IsEmpty() {
			return err
		}
	}
	positions, fields, text := c.sink.needs()
	whole := h.MinT >= start && h.MaxT <= last
	what := block.What{Positions: k.cut > 0, Fields: fields || f.NeedsFields(), ByName: true, NoTimes: !c.timed(k, start, last)}
	if err := columns.decode(what); err != nil {
		return unlessDropped(err)
	}
	if err := c.keepNumbers(k); err != nil {
		return err
	}
	if !alone {
		c.positioned = k.cut > 0
		if in = query.Range(h.Lines, 0, h.Lines); !whole {
			in = c.inRange(start, last)
		}
		if k.cut > 0 {
			c.hide(in, k.cut)
		}
		if in, err = c.decide(&texts, sight, in); err != nil || in.IsEmpty() {
			return err
		}
	}
	if text && !texts.there {
		if err := texts.open(); err != nil {
			return unlessDropped(err)
		}
	}
	if s, ok := c.sink.(templated); ok && c.templates != nil {
		if positions && !c.positioned {
			if err := c.e.store.codec.DecodePositions(&c.cols); err != nil {
				return err
			}
		}
		return s.templates(c.templates, &c.cols, in)
	}
	return c.offer(k.st, h, in)
}

// minuted is a sink that takes all lines of a block by how many are in each minute, when it says so.
type minuted interface {
	byMinutes() bool
	addMinutes(m *block.Minutes)
}

// minutes gives the minutes of a block to the sink. It reports false when the block does not have them, or is dropped.
func (c *scan) minutes(d int64, k *candidate, to minuted) (ok bool, err error) {
	v, err := c.columns.get(c.snap, blockKey(prefixColumns, d, k.id))
	if err != nil {
		return false, c.missing(d, k.st.kind, err)
	}
	if ok, err = c.e.store.codec.DecodeMinutes(&c.byMinute, v, &k.head); err != nil || !ok {
		return false, err
	}
	to.addMinutes(&c.byMinute)
	return true, nil
}

// countNumbers counts the lines of a block that match by what is remembered of a field's numbers, and reports whether it could.
func (c *scan) countNumbers(k *candidate, start, last int64) bool {
	v, counts := c.sink.(counter)
	field, ok := k.filter.OfNumbers()
	if !counts || !ok || k.cut > 0 {
		return false
	}
	n := c.e.outlines.Numbers(k.id, field)
	timed := c.timed(k, start, last)
	if n == nil || timed && len(n.Times) < len(n.Values) {
		return false
	}
	in := make(query.Bits, (len(n.Values)+63)/64)
	for i, value := range n.Values {
		if k.filter.MatchesNumber(value) && (!timed || start <= n.Times[i] && n.Times[i] <= last) {
			in[i/64] |= 1 << (i % 64)
		}
	}
	times := n.Times
	if !timed {
		times = nil
	}
	v.addAll(&k.head, times, n.Severities, in)
	c.stats.Lines += int64(k.head.Lines)
	c.stats.Counted++
	return true
}

// keepNumbers has the numbers remembered by which the lines of a block were decided, when it is not the first time.
func (c *scan) keepNumbers(k *candidate) error {
	if _, counts := c.sink.(counter); !counts {
		return nil
	}
	field, ok := k.filter.OfNumbers()
	if !ok || !c.e.outlines.AskNumbers(k.id, field) {
		return nil
	}
	n, err := c.cols.Numbers(field)
	if err == nil {
		c.e.outlines.PutNumbers(k.id, field, n)
	}
	return err
}

// timed reports whether the times of single lines of a block matter to what is found from start to last.
func (c *scan) timed(k *candidate, start, last int64) bool {
	v, ok := c.sink.(counter)
	return !ok || k.head.MinT < start || k.head.MaxT > last || k.filter.NeedsTimes() || v.timed(&k.head)
}

// stored returns the filter of a block without its conditions on fields in texts when no text of the block holds the words for them.
func (c *scan) stored(d int64, k *candidate) (*query.Filter, error) {
	if !k.head.HasFields {
		return k.filter, nil
	}
	var failed error
	f := c.reducer.Stored(k.filter, func(need *query.Need) bool {
		may, err := c.mayHold(d, k.id, need)
		failed = errors.Join(failed, err)
		return may
	})
	return f, failed
}

// within reports whether a block may match by the spans of the numbers in its fields.
func (c *scan) within(f *query.Filter, columns *blockColumns) (bool, error) {
	if !f.AsksNumbers() {
		return true, nil
	}
	if err := columns.open(); err != nil {
		return false, err
	}
	if err := c.e.store.codec.Spans(&c.spans, columns.b); err != nil {
		return false, err
	}
	if !f.MayBeWithin(&c.spans) {
		c.stats.SkippedFilter++
		return false, nil
	}
	return true, nil
}

// look finds out whether a block may match without its columns, and opens its texts when the filter asks for them. The sight is what the
// filter makes of what the block's lines have in common; nil when that is not known.
func (c *scan) look(texts *blockTexts) (sight *query.Sight, may bool, err error) {
	k, f := texts.k, texts.k.filter
	need := c.needOf(f)
	known := need.Op == query.NeedAnything || k.asked && settled(need)
	if !known {
		if may, known = c.mayHoldSeen(k.id, need); !may {
			c.stats.SkippedFilter++
			return nil, false, nil
		}
	}
	asked := f.NeedsText()
	if asked {
		if texts.outline = c.e.outlines.Get(k.id); texts.outline != nil {
			if sight = c.plans.Look(f, texts.outline, c.stop); sight == nil {
				return nil, false, c.err()
			}
			if !sight.Any() {
				c.stats.SkippedTemplates++
				return nil, false, nil
			}
		}
	}
	if !known {
		if may, err = c.mayHold(texts.d, k.id, need); err != nil {
			return nil, false, err
		}
		if !may {
			c.stats.SkippedFilter++
			return nil, false, nil
		}
	}
	if !asked {
		return nil, true, nil
	}
	if err := texts.open(); err != nil {
		return nil, false, err
	}
	outline := texts.outline
	if c.templates == nil || outline != nil && (!sight.AnyOpen || outline.Learned() || !f.AsksWords()) {
		return sight, true, nil
	}
	if outline == nil {
		outline = c.e.outlines.Put(k.id, c.templates)
	} else if !c.e.outlines.Learn(k.id, outline, c.templates) { // at its second time: most are asked for once or often
		outline = nil
	}
	if outline == nil {
		return nil, false, c.templates.Err()
	}
	if sight = c.plans.Look(f, outline, c.stop); sight == nil {
		return nil, false, c.err()
	}
	if !sight.Any() {
		c.stats.SkippedTemplates++
		return nil, false, nil
	}
	return sight, true, nil
}

// maxNeeds bounds the needs that a scan remembers.
const maxNeeds = 1024

// needOf returns the need of a filter: many blocks have the same one.
func (c *scan) needOf(f *query.Filter) *query.Need {
	if c.needFor == f {
		return c.need
	}
	need, ok := c.needs[f]
	if !ok {
		n := f.Need()
		need = &n
		if c.needs == nil {
			c.needs = map[*query.Filter]*query.Need{}
		}
		if len(c.needs) < maxNeeds {
			c.needs[f] = need
		}
	}
	c.need, c.needFor = need, f
	return need
}

// limiter is a sink that now wants only lines of some times, both included, whatever part they are in.
type limiter interface{ limits() (from, to int64) }

// decide returns which lines of the set match.
func (c *scan) decide(texts *blockTexts, sight *query.Sight, in query.Bits) (query.Bits, error) {
	c.stats.Lines += int64(in.Count())
	f := texts.k.filter
	if f.IsAll() {
		return in, nil
	}
	b := &c.lines
	b.Reset()
	b.N, b.Stop = texts.k.head.Lines, c.stop
	b.Times, b.Severities, b.Fields = c.cols.Times, c.cols.Severities, c.cols.Fields
	if c.cols.ByName() {
		b.Columns = &c.cols
	}
	if !texts.there {
		b.Open = texts.open
	} else {
		texts.give()
	}
	if sight == nil {
		in = f.Select(b, in)
	} else {
		in = f.SelectSeen(b, in, sight)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	if err := b.Err(); err != nil {
		return nil, unlessDropped(err)
	}
	return in, nil
}

// blockTexts opens the texts of a block when they are needed.
type blockTexts struct {
	c     *scan
	d     int64
	k     *candidate
	there bool // they are open

	outline *block.Outline // nil when it is not remembered
}

var errDropped = errors.New("retention took the day away")

// open gives the texts to c.lines. It fails with errDropped when the day was dropped meanwhile.
func (t *blockTexts) open() (err error) {
	if t.there, err = t.c.openTexts(t.d, t.k, t.outline); err == nil && !t.there {
		return errDropped
	}
	t.give()
	return err
}

func (t *blockTexts) give() {
	l := &t.c.lines
	l.Text, l.Ends, l.View, l.Plans = t.c.text.Bytes, t.c.text.Ends, t.c.templates, &t.c.plans
	l.Outline = t.outline
}

func unlessDropped(err error) error {
	if errors.Is(err, errDropped) {
		return nil
	}
	return err
}

// close counts what was read of the texts.
func (t *blockTexts) close() {
	if t.there && t.c.templates != nil {
		t.c.stats.Bytes += int64(t.c.view.Decompressed())
	}
}

// blockColumns opens the columns of a block when they are needed.
type blockColumns struct {
	c     *scan
	d     int64
	k     *candidate
	b     []byte
	there bool // they are open
}

// open reads the container. It fails with errDropped when the day was dropped meanwhile.
func (o *blockColumns) open() (err error) {
	if o.there {
		return nil
	}
	if o.b, err = o.c.columns.get(o.c.snap, blockKey(prefixColumns, o.d, o.k.id)); err != nil {
		if err = o.c.missing(o.d, o.k.st.kind, err); err == nil {
			err = errDropped
		}
		return err
	}
	o.there = true
	return nil
}

// decode decodes the columns into those of the scan.
func (o *blockColumns) decode(what block.What) error {
	if err := o.open(); err != nil {
		return err
	}
	return o.c.e.store.codec.DecodeColumns(&o.c.cols, o.b, o.k.head.Lines, what)
}
