package block

import (
	"bytes"
	"errors"
	"fmt"
)

// View is the text of a block of version 2, decoded as far as it is asked for. The zero View is ready for Codec.View, and for
// another block again; it keeps the bytes of the block. It is not safe for concurrent use.
//
// What turns out to be damaged late makes Err fail, and everything that the View said about lines void.
type View struct {
	codec      *Codec
	secs       sections
	n          int
	textBytes  int
	dict       []byte
	templates  []Template
	ids, high  []byte   // the bytes of the templates' numbers; high is nil when they are small
	dictRead   bool     // dict and templates are those of the block
	kinds      int      // of templates
	idsRead    bool     // ids and high are those of the block
	flatPlaced bool     // flatRows are
	placed     bool     // rows, rank and flatRows are
	flatLines  int      // lines without a template
	rows       []uint16 // lines by template
	rank       []uint16 // of a line among those of its template, or among the flat ones
	flatRows   []uint16
	flat       Text
	flatRead   bool
	cols       columnSet
	colRows    []uint32
	lengths    []byte // of values of columns, two bytes for each; none when they are not known
	lensRead   bool   // lengths are those of the block
	size       int
	err        error
}

// Template is a Shape and the lines that have it.
type Template struct {
	Shape
	view   *View
	rows   []uint16
	column int       // of the first slot
	values []*Values // of all slots, when a line was put together
}

// Lines returns the lines that have the template, ascending: row k of its columns is of line Lines()[k]. There are none when it is
// damaged which they are (View.Err).
func (t *Template) Lines() []uint16 {
	if !t.view.place() {
		return nil
	}
	return t.rows
}

// Count returns how many lines have the template.
func (t *Template) Count() int { return cap(t.rows) }

// Column returns the values of slot i, none when they are damaged (View.Err).
func (t *Template) Column(i int) *Values {
	v, err := t.view.cols.column(t.column + i)
	if err != nil {
		t.view.fail(err)
		return nil
	}
	return v
}

// MayHaveLength reports whether a value of slot i may be n bytes long, or at least so long with more. It says yes of blocks that do not
// tell, and of damaged ones (View.Err).
func (t *Template) MayHaveLength(i, n int, more bool) bool {
	v := t.view
	v.readLengths()
	if len(v.lengths) == 0 {
		return true
	}
	least, most := int(v.lengths[2*(t.column+i)]), int(v.lengths[2*(t.column+i)+1])
	return (n <= most || most == longValue) && (more || n >= least)
}

// readLengths reads the lengths of values, once. It may be called for what has templates.
func (v *View) readLengths() {
	if v.lensRead {
		return
	}
	v.lensRead = true
	if _, there := v.secs.find(secSlotLengths); !there {
		return
	}
	var err error
	if v.lengths, err = v.section(v.lengths, secSlotLengths); err != nil || len(v.lengths) != 2*len(v.colRows) {
		v.fail(errors.Join(v.badTemplates(), err))
		v.lengths = v.lengths[:0]
	}
}

// View opens the text of a block of version 2. ok is false for one of version 1, which DecodeText reads.
func (c *Codec) View(out *View, b []byte, count int) (ok bool, err error) {
	return c.view(out, b, count, nil)
}

// ViewSeen is View for a block whose outline is known: its templates are read when they are asked for.
func (c *Codec) ViewSeen(out *View, b []byte, count int, o *Outline) (ok bool, err error) {
	return c.view(out, b, count, o)
}

func (c *Codec) view(out *View, b []byte, count int, o *Outline) (ok bool, err error) {
	out.err = nil
	if len(b) > 0 && b[0] == Version1 {
		return false, nil
	}
	version, secs, err := c.unpack(out.secs, b)
	if err != nil || version != Version2 {
		return false, err
	}
	if count < 0 || count > MaxLines {
		return false, fmt.Errorf("%w: %d lines", ErrDamaged, count)
	}
	out.codec, out.secs, out.n, out.size = c, secs, count, 0
	out.lengths, out.lensRead = out.lengths[:0], false
	out.dictRead, out.idsRead, out.placed, out.flatPlaced, out.flatRead = false, false, false, false, false
	if o != nil {
		out.kinds, out.flatLines, out.cols.size = len(o.Shapes), o.FlatLines, 0
		return true, nil
	}
	if !out.readDict() {
		return false, out.err
	}
	return true, nil
}

// readDict reads the templates, once.
func (v *View) readDict() bool {
	if v.dictRead || v.err != nil {
		return v.err == nil
	}
	v.dictRead = true
	var err error
	if v.dict, err = v.section(v.dict, secTemplates); err != nil {
		v.fail(err)
		return false
	}
	if !v.readTemplates() {
		v.fail(v.badTemplates())
	}
	return v.err == nil
}

func (v *View) badTemplates() error { return fmt.Errorf("%w: templates of %d lines", ErrDamaged, v.n) }

func (v *View) section(dst []byte, id uint32) ([]byte, error) {
	s := v.secs.get(id)
	dst, err := v.codec.raw(dst, s)
	if err != nil {
		return dst, fmt.Errorf("section %d: %w", id, err)
	}
	v.size += s.rawLen
	return dst, nil
}

func (v *View) fail(err error) {
	if v.err == nil {
		v.err = err
	}
}

// readTemplates reads the dictionary.
func (v *View) readTemplates() bool {
	r := reader{b: v.dict}
	v.textBytes = int(r.uvarint(MaxRaw))
	n := int(r.uvarint(maxTemplates))
	for cap(v.templates) < n {
		v.templates = append(v.templates[:cap(v.templates)], Template{})
	}
	v.templates = v.templates[:n]
	v.colRows = v.colRows[:0]
	v.rows = grow(v.rows, v.n)
	at, left := 0, v.n
	for i := range v.templates {
		t := &v.templates[i]
		t.view, t.column, t.ends, t.values = v, len(v.colRows), t.ends[:0], t.values[:0]
		rows := int(r.uvarint(uint64(left)))
		left -= rows
		key := r.b
		slots := int(r.uvarint(maxSlots))
		end := uint64(0)
		for range slots + 1 {
			end += r.uvarint(MaxRaw)
			t.ends = append(t.ends, uint32(min(end, MaxRaw)))
		}
		t.pieces = r.bytes(int(end))
		for range slots {
			v.colRows = append(v.colRows, uint32(rows))
		}
		key = key[:len(key)-len(r.b)]
		t.classes = r.bytes(slots)
		if r.bad || rows == 0 || len(v.colRows) > maxColumns {
			return false
		}
		t.key = key
		t.rows = v.rows[at : at : at+rows]
		at += rows
	}
	v.flatLines, v.kinds = left, n
	return v.cols.open(v.codec, v.secs, v.colRows, &r) && len(r.b) == 0
}

// readIDs reads which template each line has, once.
func (v *View) readIDs() bool {
	if v.idsRead || v.err != nil {
		return v.err == nil
	}
	v.idsRead = true
	var err error
	if v.ids, err = v.section(v.ids, secTemplateIDs); err != nil {
		v.fail(err)
		return false
	}
	want := v.n
	if v.kinds > 255 {
		want = 2 * v.n
	}
	if len(v.ids) != want {
		v.fail(v.badTemplates())
		return false
	}
	v.ids, v.high = v.ids[:v.n], nil
	if want > v.n {
		v.high = v.ids[v.n:want]
	}
	return true
}

// place gives each line to its template, once.
func (v *View) place() bool {
	if v.placed || !v.readDict() || !v.readIDs() {
		return v.err == nil
	}
	v.placed = true
	if !v.assign() {
		v.fail(v.badTemplates())
	}
	return v.err == nil
}

// Pick puts lines into the set, bit i%64 of word i/64 for line i: those of template k when take[k+1] is true, those without a template
// when take[0] is.
func (v *View) Pick(take []bool, set []uint64) {
	if !v.readIDs() {
		return
	}
	if v.high != nil {
		for i := range v.n {
			if id := v.id(i); id >= len(take) {
				v.fail(v.badTemplates())
				return
			} else if take[id] {
				set[i/64] |= 1 << (i % 64)
			}
		}
		return
	}
	var table [256]uint64
	for id := range table {
		switch {
		case id >= len(take):
			table[id] = 1 << 32
		case take[id]:
			table[id] = 1
		}
	}
	bad := uint64(0)
	for w := range set {
		var bits uint64
		for k, id := range v.ids[64*w : min(64*w+64, v.n)] {
			is := table[id]
			bad |= is
			bits |= is & 1 << k
		}
		set[w] |= bits
	}
	if bad>>32 != 0 {
		v.fail(v.badTemplates())
	}
}

func (v *View) assign() bool {
	v.flatRows = v.flatRows[:0]
	v.rank = grow(v.rank, v.n)
	for i := range v.n {
		id := v.id(i)
		if id == 0 {
			v.rank[i] = uint16(len(v.flatRows))
			v.flatRows = append(v.flatRows, uint16(i))
			continue
		}
		if id > len(v.templates) {
			return false
		}
		t := &v.templates[id-1]
		if len(t.rows) == cap(t.rows) {
			return false
		}
		v.rank[i] = uint16(len(t.rows))
		t.rows = append(t.rows, uint16(i))
	}
	for i := range v.templates {
		if t := &v.templates[i]; len(t.rows) != cap(t.rows) {
			return false
		}
	}
	return true
}

// id returns the template of line i, from 1; 0 when it is flat.
func (v *View) id(i int) int {
	if v.high == nil {
		return int(v.ids[i])
	}
	return int(v.ids[i]) | int(v.high[i])<<8
}

// Len returns the number of lines.
func (v *View) Len() int { return v.n }

// Templates returns how many templates there are.
func (v *View) Templates() int { return v.kinds }

// TemplateOf returns the template of line i, valid as Template's; nil when it has none, or it is damaged which (View.Err).
func (v *View) TemplateOf(i int) *Template {
	if !v.place() {
		return nil
	}
	if id := v.id(i); id > 0 {
		return &v.templates[id-1]
	}
	return nil
}

// Template returns a template, valid until v is opened on another block.
func (v *View) Template(i int) *Template {
	if !v.readDict() || i >= len(v.templates) {
		return v.noTemplate()
	}
	return &v.templates[i]
}

// noTemplate stands for one that is damaged.
func (v *View) noTemplate() *Template {
	v.fail(v.badTemplates())
	return &Template{Shape: Shape{ends: []uint32{0}}, view: v}
}

// Decompressed returns the bytes that were decompressed until now.
func (v *View) Decompressed() int { return v.size + v.cols.size }

// Err returns what was found to be damaged since v was opened; it wraps ErrDamaged.
func (v *View) Err() error { return v.err }

// Flat returns the lines that have no template, ascending, and their texts: text k is of line rows[k].
func (v *View) Flat() (rows []uint16, text *Text) {
	if !v.flatRead {
		v.flatRead = true
		if err := v.readFlat(); err != nil {
			v.fail(err)
		}
	}
	return v.FlatLines(), &v.flat
}

// FlatLines returns the lines that have no template, ascending; none when something is damaged.
func (v *View) FlatLines() []uint16 {
	if !v.placed && !v.flatPlaced && v.readIDs() {
		v.flatPlaced = true
		v.flatRows = v.flatRows[:0]
		for i := range v.n {
			if v.id(i) == 0 {
				v.flatRows = append(v.flatRows, uint16(i))
			}
		}
		if len(v.flatRows) != v.flatLines {
			v.fail(v.badTemplates())
		}
	}
	if v.err != nil {
		return nil
	}
	return v.flatRows
}

func (v *View) readFlat() error {
	v.size += v.secs.get(secText).rawLen + v.secs.get(secLengths).rawLen
	return v.codec.readTexts(&v.flat, v.secs, v.flatLines)
}

// Append appends the text of line i; what is damaged is left out (Err).
func (v *View) Append(dst []byte, i int) []byte {
	if !v.place() {
		return dst
	}
	id, k := v.id(i), int(v.rank[i])
	if id == 0 {
		if rows, text := v.Flat(); k < len(rows) {
			dst = append(dst, text.At(k)...)
		}
		return dst
	}
	t := &v.templates[id-1]
	if len(t.values) != t.Slots() && !t.loadValues() {
		return dst
	}
	at := t.ends[0]
	dst = append(dst, t.pieces[:at]...)
	for s, c := range t.values {
		from, to := c.place(c.Entry(k))
		dst = append(dst, c.data[from:to]...)
		dst = append(dst, t.pieces[at:t.ends[s+1]]...)
		at = t.ends[s+1]
	}
	return dst
}

// loadValues reads the columns of all slots and reports whether they are whole.
func (t *Template) loadValues() bool {
	t.values = t.values[:0]
	for s := range t.Slots() {
		c := t.Column(s)
		if c == nil {
			t.values = t.values[:0]
			return false
		}
		t.values = append(t.values, c)
	}
	return true
}

// loadAll decodes everything and checks that the texts together are as long as is written: before, nothing may be made of
// them that a few bytes could make very long.
func (v *View) loadAll() error {
	_, flat := v.Flat()
	v.readLengths()
	total := 0
	if v.flatLines > 0 {
		total = len(flat.Bytes)
	}
	for i := range v.templates {
		t := &v.templates[i]
		total += t.Count() * len(t.pieces)
		for s := range t.Slots() {
			if c := t.Column(s); c != nil {
				total += c.size
				v.checkLengths(t.column+s, c)
			}
		}
	}
	if v.err != nil {
		return v.err
	}
	if total != v.textBytes {
		return fmt.Errorf("%w: texts of %d bytes, %d are written", ErrDamaged, total, v.textBytes)
	}
	return nil
}

// checkLengths compares the values of a column with the lengths that are written of it.
func (v *View) checkLengths(column int, c *Values) {
	if len(v.lengths) == 0 {
		return
	}
	least, most := longValue, 0
	for e := range c.entries {
		from, to := c.place(e)
		least, most = min(least, to-from), min(max(most, to-from), longValue)
	}
	if want := v.lengths[2*column:]; int(want[0]) != least || int(want[1]) != most {
		v.fail(fmt.Errorf("%w: lengths of the values of column %d", ErrDamaged, column))
	}
}

// decode writes all texts to out.
func (v *View) decode(out *Text) error {
	if err := v.loadAll(); err != nil {
		return err
	}
	if cap(out.Bytes) < v.textBytes {
		out.Bytes = make([]byte, 0, v.textBytes)
	}
	out.Bytes, out.Ends = out.Bytes[:0], grow(out.Ends, v.n)
	for i := range v.n {
		out.Bytes = v.Append(out.Bytes, i)
		out.Ends[i] = uint32(len(out.Bytes))
	}
	return v.err
}

// differs returns a line whose text is not that of lines, -1 when all are the same. Everything is loaded. It costs less than to put the
// texts together.
func (v *View) differs(lines []Line) int {
	if !v.place() {
		return 0
	}
	compared := len(v.flatRows)
	for k, i := range v.flatRows {
		if !bytes.Equal(v.flat.At(k), lines[i].Text) {
			return int(i)
		}
	}
	for i := range v.templates {
		t := &v.templates[i]
		_ = t.loadValues()
		compared += len(t.rows)
		for k, i := range t.rows {
			if !t.is(k, lines[i].Text) {
				return int(i)
			}
		}
	}
	if compared != len(lines) || v.err != nil { // some were not looked at
		return 0
	}
	return -1
}

// is reports whether row k has a text. The values are loaded. It shares nothing with what cuts lines.
func (t *Template) is(k int, text []byte) bool {
	at := uint32(0)
	for s, c := range t.values {
		n := int(t.ends[s] - at)
		if len(text) < n || string(text[:n]) != string(t.pieces[at:t.ends[s]]) {
			return false
		}
		text, at = text[n:], t.ends[s]
		from, to := c.place(c.Entry(k))
		n = to - from
		if len(text) < n || string(text[:n]) != string(c.data[from:to]) {
			return false
		}
		text = text[n:]
	}
	return len(t.values) == t.Slots() && string(text) == string(t.pieces[at:])
}
