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
		n.Kids = append(n.Kids, Need{Op: NeedWord, Text: w})
	}
	return n.simple()
}

var readers = sync.Pool{New: func() any { return new(members.Reader) }}

// matchMember decides a text by the field that it holds.
func (f *Filter) matchMember(text []byte) bool {
	if n := f.name.Needle(); n != "" && !bytes.Contains(text, []byte(n)) {
		return false
	}
	r := readers.Get().(*members.Reader)
	v := r.Get(text, &f.name)
	is := len(v) > 0 && f.compare(unsafe.String(unsafe.SliceData(v), len(v))) // only read
	readers.Put(r)
	return is
}

// judgeMember tells from a template that no text of it holds the field, where that is sure.
func (f *Filter) judgeMember(t *block.Template) verdict {
	if mayHold(t, f.name.Needle()) {
		return verdict{how: byText}
	}
	return verdict{}
}

// mayHold reports whether texts of the template may hold a field of a name with the needle. A slot is letters and digits, of
// which there is at least one digit.
func mayHold(t *block.Template, needle string) bool {
	last := t.Slots()
	if first := bytes.TrimLeft(t.Piece(0), " \t\n\r"); len(first) > 0 && first[0] == '{' {
		end := bytes.TrimRight(t.Piece(last), " \t\n\r")
		return len(end) > 0 && end[len(end)-1] == '}' && inPieces(t, needle)
	}
	return inPieces(t, "=") && inPieces(t, needle)
}

// inPieces reports whether a piece of a text, which is a whole word or none, may be in texts of the template.
func inPieces(t *block.Template, piece string) bool {
	if bytes.ContainsAny([]byte(piece), "0123456789") {
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
	return t == nil || p.of(f, t).how != noLine
}
