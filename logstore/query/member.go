package query

import (
	"bytes"
	"sync"
	"unsafe"

	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/members"
)

// withMember makes a condition on a field one on what texts hold, too, where there is no other field of its name.
func withMember(f *Filter) *Filter {
	m := *f
	m.op, m.name = opMember, members.NewName(f.field)
	m.need = m.memberNeed()
	f.text = &m
	return f
}

// member is the condition on a field for lines that have neither a label nor a structured field of the name.
func (f *Filter) member() *Filter {
	if f.text == nil {
		return None()
	}
	return f.text
}

// Member returns a filter of the lines whose text holds a field of the name.
func Member(name string) *Filter { return Field(name, Exists, "").text }

// memberNeed is Need of opMember: words of the name, and of the value.
func (f *Filter) memberNeed() Need {
	all := members.Words(f.field, false)
	switch f.cmp {
	case Equal, HasPrefix:
		all = append(all, members.Words(f.value, f.cmp == HasPrefix)...)
	}
	n := Need{Op: NeedAll}
	for _, w := range all {
		n.word(w)
	}
	return n.simple()
}

var readers = sync.Pool{New: func() any { return new(members.Reader) }}

// matchMember decides a text by the field that it holds.
func (f *Filter) matchMember(text []byte, stop func() bool) bool {
	if n := f.name.Needle(); n != "" && !bytes.Contains(text, []byte(n)) {
		return false
	}
	r := readers.Get().(*members.Reader)
	v := r.Get(text, &f.name)
	is := len(v) > 0 && f.compare(unsafe.String(unsafe.SliceData(v), len(v)), stop) // only read
	readers.Put(r)
	return is
}

// judgeMember finds where the texts of a template have the field.
func (f *Filter) judgeMember(t *block.Shape) verdict {
	if !mayHold(t, f.name.Needle()) {
		return verdict{}
	}
	var text []byte
	var slots []int // where they are, each as a digit
	for i := range t.Slots() + 1 {
		piece := t.Piece(i)
		text = append(text, piece...)
		if i < t.Slots() {
			slots = append(slots, len(text))
			text = append(text, '0')
		}
	}
	form, sure := members.Locate(string(text), &f.name)
	switch {
	case !sure:
		return verdict{how: byText}
	case !form.Found:
		return verdict{}
	}
	m := &memberForm{value: partsOf(text, slots, form.Value)}
	for _, s := range form.Scalars {
		if p := partsOf(text, slots, s); len(p) > 1 || p[0].slot >= 0 {
			m.scalars = append(m.scalars, p)
		}
	}
	return verdict{how: byMember, form: m}
}

// memberForm is how the texts of a template are made where they have a field.
type memberForm struct {
	value   []part
	scalars [][]part // that must be such, or the text is no JSON
}

// part is a piece of text, or a slot.
type part struct {
	text []byte
	slot int // -1 for text
}

// partsOf takes a span of a template's text apart.
func partsOf(text []byte, slots []int, s members.Span) (out []part) {
	at := s.From
	for i, p := range slots {
		if p < s.From || p >= s.To {
			continue
		}
		if p > at {
			out = append(out, part{text[at:p], -1})
		}
		out = append(out, part{nil, i})
		at = p + 1
	}
	if at < s.To {
		out = append(out, part{text[at:s.To], -1})
	}
	return out
}

// selectMember decides the lines of a template by the value of a field.
func (f *Filter) selectMember(b *Lines, t *block.Template, m *memberForm, in, out Bits) {
	lines := t.Lines()
	rows := b.rows[:0]
	for k, line := range lines {
		if in.Has(int(line)) {
			rows = append(rows, uint16(k))
		}
	}
	rows = f.keepMembers(b, t, m.value, rows, func(v []byte) bool {
		return len(v) <= members.MaxValue && f.compare(unsafe.String(unsafe.SliceData(v), len(v)), b.Stop) // only read
	})
	for _, scalar := range m.scalars {
		if len(rows) == 0 {
			break
		}
		rows = f.keepMembers(b, t, scalar, rows, func(v []byte) bool {
			return members.IsScalar(unsafe.String(unsafe.SliceData(v), len(v))) // only read
		})
	}
	for _, k := range rows {
		out.set(int(lines[k]))
	}
	b.rows = rows[:0]
}

// keepMembers keeps the rows for which is holds of what parts make. It keeps none at damage (View.Err).
func (f *Filter) keepMembers(b *Lines, t *block.Template, parts []part, rows []uint16, is func(v []byte) bool) []uint16 {
	columns := make([]*block.Values, len(parts))
	for i, p := range parts {
		if p.slot < 0 {
			continue
		}
		if columns[i] = t.Column(p.slot); columns[i] == nil {
			return rows[:0]
		}
	}
	if len(parts) == 1 && columns[0] == nil {
		if len(rows) == 0 || is(parts[0].text) {
			return rows
		}
		return rows[:0]
	}
	kept := rows[:0]
	if len(parts) == 1 {
		if c := columns[0]; c.Entries() < c.Len() {
			b.entries = b.entries[:0]
			for e := range c.Entries() {
				if b.gone() {
					return kept
				}
				b.entries = append(b.entries, is(c.Value(e)))
			}
			for _, k := range rows {
				if b.entries[c.Entry(int(k))] {
					kept = append(kept, k)
				}
			}
			return kept
		}
	}
	for _, k := range rows {
		if b.gone() {
			return kept
		}
		b.text = b.text[:0]
		for i, p := range parts {
			if columns[i] == nil {
				b.text = append(b.text, p.text...)
			} else {
				b.text = append(b.text, columns[i].Value(columns[i].Entry(int(k)))...)
			}
		}
		if is(b.text) {
			kept = append(kept, k)
		}
	}
	return kept
}

// mayHold reports whether texts of the template may hold a field of a name with the needle.
func mayHold(t *block.Shape, needle string) bool {
	last := t.Slots()
	if first := bytes.TrimLeft(t.Piece(0), " \t\n\r"); len(first) > 0 && first[0] == '{' {
		end := bytes.TrimRight(t.Piece(last), " \t\n\r")
		return len(end) > 0 && end[len(end)-1] == '}' && inPieces(t, needle)
	}
	return inPieces(t, "=") && inPieces(t, needle)
}

// inPieces reports whether a piece of a text, which is a whole word or none, may be in texts of the template.
func inPieces(t *block.Shape, piece string) bool {
	if members.Variable(piece) {
		return true // it may be in a slot
	}
	for i := range t.Slots() + 1 {
		if bytes.Contains(t.Piece(i), []byte(piece)) {
			return true
		}
	}
	return false
}

// MayHold reports whether the text of line i may hold the field that f, made by Member, asks for: where it says no, the text
// need not be put together.
func (p *Plans) MayHold(f *Filter, v *block.View, i int) bool {
	t := v.TemplateOf(i)
	return t == nil || p.of(f, &t.Shape, nil).how != noLine
}
