package block

import (
	"bytes"
	"fmt"

	"github.com/zeebo/xxh3"
)

// View is the text of a block of version 2, decoded as far as it is asked for. The zero View is ready for Codec.View, and for
// another block again; it keeps the bytes of the block. It is not safe for concurrent use.
//
// What turns out to be damaged late makes Err fail, and everything that the View said about lines void.
type View struct {
	codec     *Codec
	secs      sections
	n         int
	textBytes int
	dict      []byte
	templates []Template
	ids, high []byte   // the bytes of the templates' numbers; high is nil when they are small
	rows      []uint16 // lines by template
	rank      []uint16 // of a line among those of its template, or among the flat ones
	flatRows  []uint16
	flat      Text
	flatRead  bool
	cols      columnSet
	colRows   []uint32
	size      int
	err       error
}

// Template is what lines have in common: pieces of text, with a slot between each two. A slot is a whole word (package words)
// of the line that is not a CJK character; no other word reaches into or over it.
type Template struct {
	view    *View
	key     []byte
	classes []byte // of slots; they follow the key
	pieces  []byte
	ends    []uint32 // of pieces
	rows    []uint16
	column  int       // of the first slot
	values  []*Values // of all slots, when a line was put together
}

// Lines returns the lines that have the template, ascending: row k of its columns is of line Lines()[k].
func (t *Template) Lines() []uint16 { return t.rows }

// Slots returns how many slots there are.
func (t *Template) Slots() int { return len(t.ends) - 1 }

// Piece returns the text before slot i, or behind the last one for i = Slots().
func (t *Template) Piece(i int) []byte { return valueAt(t.pieces, t.ends, i) }

// Key returns bytes that only templates with the same pieces share. It is valid as long as the template.
func (t *Template) Key() []byte { return t.key }

// Case returns bytes that only templates with the same pieces and Classes share, valid as long as the template.
func (t *Template) Case() []byte { return t.key[:len(t.key)+len(t.classes)] }

// Classes returns what characters the values of slot i have.
func (t *Template) Classes(i int) Classes { return Classes(t.classes[i]) }

// Hash returns the name of the template over all blocks and nodes.
func (t *Template) Hash() uint64 { return xxh3.Hash(t.key) }

// AppendText appends the template's text with slot in place of the slots.
func (t *Template) AppendText(dst []byte, slot string) []byte {
	dst = append(dst, t.Piece(0)...)
	for i := range t.Slots() {
		dst = append(append(dst, slot...), t.Piece(i+1)...)
	}
	return dst
}

// Column returns the values of slot i, none when they are damaged (View.Err).
func (t *Template) Column(i int) *Values {
	v, err := t.view.cols.column(t.column + i)
	if err != nil {
		t.view.fail(err)
		return nil
	}
	return v
}

// View opens the text of a block of version 2. ok is false for one of version 1, which DecodeText reads.
func (c *Codec) View(out *View, b []byte, count int) (ok bool, err error) {
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
	out.codec, out.secs, out.n, out.flatRead, out.size = c, secs, count, false, 0
	if out.dict, err = out.section(out.dict, secTemplates); err != nil {
		return false, err
	}
	if out.ids, err = out.section(out.ids, secTemplateIDs); err != nil {
		return false, err
	}
	if !out.readTemplates() || !out.assign() {
		return false, fmt.Errorf("%w: templates of %d lines", ErrDamaged, count)
	}
	return true, nil
}

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
	v.flatRows = v.flatRows[:0]
	return v.cols.open(v.codec, v.secs, v.colRows, &r) && len(r.b) == 0
}

// assign gives each line to its template.
func (v *View) assign() bool {
	high := []byte(nil)
	if len(v.templates) > 255 {
		if len(v.ids) != 2*v.n {
			return false
		}
		v.ids, high = v.ids[:v.n], v.ids[v.n:]
	} else if len(v.ids) != v.n {
		return false
	}
	v.high = high
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
func (v *View) Templates() int { return len(v.templates) }

// TemplateOf returns the template of line i, nil when it has none, as Template does.
func (v *View) TemplateOf(i int) *Template {
	if id := v.id(i); id > 0 {
		return &v.templates[id-1]
	}
	return nil
}

// Template returns a template, valid until v is opened on another block.
func (v *View) Template(i int) *Template { return &v.templates[i] }

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
	if v.err != nil {
		return nil, &v.flat
	}
	return v.flatRows, &v.flat
}

func (v *View) readFlat() error {
	v.size += v.secs.get(secText).rawLen + v.secs.get(secLengths).rawLen
	return v.codec.readTexts(&v.flat, v.secs, len(v.flatRows))
}

// Append appends the text of line i; what is damaged is left out (Err).
func (v *View) Append(dst []byte, i int) []byte {
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
	total := 0
	if len(v.flatRows) > 0 {
		total = len(flat.Bytes)
	}
	for i := range v.templates {
		t := &v.templates[i]
		total += len(t.rows) * len(t.pieces)
		for s := range t.Slots() {
			if c := t.Column(s); c != nil {
				total += c.size
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
	for k, i := range v.flatRows {
		if !bytes.Equal(v.flat.At(k), lines[i].Text) {
			return int(i)
		}
	}
	for i := range v.templates {
		t := &v.templates[i]
		_ = t.loadValues()
		for k, i := range t.rows {
			if !t.is(k, lines[i].Text) {
				return int(i)
			}
		}
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
