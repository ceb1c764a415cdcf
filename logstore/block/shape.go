package block

import (
	"bytes"
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/triward/triward/logstore/words"
	"github.com/zeebo/xxh3"
)

// Shape is what lines have in common: pieces of text, with a slot between each two. A slot is a whole word (package words)
// of the line that is not a CJK character; no other word reaches into or over it.
type Shape struct {
	key     []byte
	classes []byte // of slots; they follow the key
	pieces  []byte
	ends    []uint32 // of pieces

	// Of a Clone:
	number uint64
	has    Classes // of all slots, letters in both cases
	equals bool    // a slot follows a '='
}

// Clone returns a copy of the shape that shares no memory with its View, with a number by which whoever makes the copies knows it; 0 is
// none.
func (s *Shape) Clone(number uint64) *Shape {
	all, n := bytes.Clone(s.Case()), len(s.key)
	out := &Shape{key: all[:n], classes: all[n:], pieces: all[n-len(s.pieces) : n : n], ends: slices.Clone(s.ends), number: number}
	for i, c := range out.classes {
		out.has |= bothCases(Classes(c))
		out.equals = out.equals || bytes.HasSuffix(out.Piece(i), []byte{'='})
	}
	return out
}

// Number returns what Clone was given.
func (s *Shape) Number() uint64 { return s.number }

// Size returns about how many bytes a Clone takes.
func (s *Shape) Size() int { return 128 + len(s.key) + len(s.classes) + 4*len(s.ends) }

// Slots returns how many slots there are.
func (s *Shape) Slots() int { return len(s.ends) - 1 }

// Piece returns the text before slot i, or behind the last one for i = Slots().
func (s *Shape) Piece(i int) []byte { return valueAt(s.pieces, s.ends, i) }

// Pieces returns all pieces, one behind the other.
func (s *Shape) Pieces() []byte { return s.pieces }

// Key returns bytes that only shapes with the same pieces share. It is valid as long as the shape.
func (s *Shape) Key() []byte { return s.key }

// Case returns bytes that only shapes with the same pieces and Classes share, valid as long as the shape.
func (s *Shape) Case() []byte { return s.key[:len(s.key)+len(s.classes)] }

// Classes returns what characters the values of slot i have.
func (s *Shape) Classes(i int) Classes { return Classes(s.classes[i]) }

// Hash returns the name of the shape over all blocks and nodes.
func (s *Shape) Hash() uint64 { return xxh3.Hash(s.key) }

// AppendText appends the shape's text with slot in place of the slots.
func (s *Shape) AppendText(dst []byte, slot string) []byte {
	dst = append(dst, s.Piece(0)...)
	for i := range s.Slots() {
		dst = append(append(dst, slot...), s.Piece(i+1)...)
	}
	return dst
}

// MayBeValue reports whether a value of slot i may fold to a word, or begin so with prefix.
func (s *Shape) MayBeValue(i int, folded string, prefix bool) bool {
	odd, ok := within(folded, bothCases(s.Classes(i)))
	if !ok {
		return false
	}
	piece := s.Piece(i)
	return prefix || odd || len(piece) > 0 && piece[len(piece)-1] == '='
}

// MayHaveValue reports whether MayBeValue may hold for any slot.
func (s *Shape) MayHaveValue(folded string, prefix bool) bool {
	if s.number != 0 {
		if odd, ok := within(folded, s.has); !ok || !prefix && !odd && !s.equals {
			return false
		}
	}
	for i := range s.Slots() {
		if s.MayBeValue(i, folded, prefix) {
			return true
		}
	}
	return false
}

// bothCases adds lower case to the classes of letters that are there in any case: folded words are compared with them.
func bothCases(has Classes) Classes {
	if has&(LowerHex|UpperHex) != 0 {
		has |= LowerHex
	}
	if has&(Lower|Upper) != 0 {
		has |= Lower
	}
	return has
}

// within reports whether a folded word has only characters of the classes; odd tells that it is one that becomes a slot wherever
// it stands: it has a digit or only hexadecimal letters.
func within(folded string, has Classes) (odd, ok bool) {
	hex := true
	for k := range len(folded) {
		c := classOf[folded[k]]
		if c&has == 0 {
			return false, false
		}
		hex = hex && c == LowerHex
	}
	return hex || words.Lead(folded) < len(folded), true
}

// Outline is what a block says of its lines by itself: what shapes they have, and the lines that have none.
type Outline struct {
	Shapes []*Shape // of its templates, in their order: Clones
	known  atomic.Pointer[learned]
	// FlatLines are lines without a template, Flat their texts in order. It is nil when they are too long to be kept.
	FlatLines int
	Flat      *Text
}

// maxFlatKept bounds Outline.Flat.
const maxFlatKept = 64 << 10

// Outline makes the outline of the block; keep returns a Clone of a shape, which may be one made before. It is nil when
// something is damaged (Err).
func (v *View) Outline(keep func(*Shape) *Shape) *Outline {
	o := &Outline{Shapes: make([]*Shape, len(v.templates)), FlatLines: v.flatLines}
	for i := range v.templates {
		o.Shapes[i] = keep(&v.templates[i].Shape)
	}
	if v.flatLines == 0 || v.secs.get(secText).rawLen > maxFlatKept {
		return o
	}
	_, text := v.Flat()
	if v.err != nil {
		return nil
	}
	o.Flat = &Text{Bytes: bytes.Clone(text.Bytes), Ends: slices.Clone(text.Ends)}
	return o
}

// Size returns about how many bytes the outline takes, its shapes not counted.
func (o *Outline) Size() int {
	n := 128 + 8*len(o.Shapes)
	if o.Flat != nil {
		n += 128 + cap(o.Flat.Bytes) + 4*cap(o.Flat.Ends)
	}
	if l := o.known.Load(); l != nil {
		n += 96 + cap(l.leads) + 12*cap(l.slots) + cap(l.values)
	}
	return n
}

// Bounds of what is learned of a block: bytes of leads, slots that are known by themselves, and bytes of their values.
const (
	maxLeads       = 1 << 10
	maxKnownSlots  = 512
	maxKnownValues = 2 << 10
)

// learned is what is known of the values with letters.
type learned struct {
	leads  []byte      // of all slots, each between two line ends; empty when they are too many
	slots  []knownSlot // by template and slot
	values []byte      // of knownSlot
}

// knownSlot is a slot that has values with letters: leads is the set of their leads (leadBit), in which there may seem to be others;
// those of sixteen are not in it. When all lines have the same value it is learned.values[from:to], else from is to.
type knownSlot struct {
	template, slot uint16
	leads          uint32
	from, to       uint16
}

// leadBit returns the bit of a lead in a knownSlot.
func leadBit(lead []byte) uint32 { return 1 << (xxh3.Hash(lead) % 32) }

// Learned reports whether Learn has been called.
func (o *Outline) Learned() bool { return o.known.Load() != nil }

// Learn has the outline remember which words with letters are values of slots, for MayBeValue, MayBeValueOf and OnlyValue. It reads the
// columns that have such values from the View of the block. It is for whoever keeps the outline: Size grows. It reports false when the
// block is damaged (Err).
func (o *Outline) Learn(v *View) bool {
	l := &learned{leads: []byte{'\n'}}
	seen := map[string]struct{}{}
	for i := range v.Templates() {
		t := v.Template(i)
		for slot := range t.Slots() {
			if t.Classes(slot)&(Lower|Upper|Wide) == 0 {
				continue
			}
			column := t.Column(slot)
			if column == nil {
				return false
			}
			known := knownSlot{template: uint16(i), slot: uint16(slot)}
			for e := 0; e < column.Entries() && (known.leads != ^uint32(0) || len(l.leads) > 0); e++ {
				if lead := leadOf(column.Value(e)); !sixteen(lead) {
					known.leads |= leadBit(lead)
					l.take(lead, seen)
				}
			}
			if len(l.slots) == maxKnownSlots {
				continue
			}
			if value := column.Value(0); column.Entries() == 1 && len(l.values)+len(value) <= maxKnownValues {
				known.from = uint16(len(l.values))
				l.values = append(l.values, value...)
				known.to = uint16(len(l.values))
			}
			l.slots = append(l.slots, known)
		}
	}
	l.leads, l.slots, l.values = bytes.Clone(l.leads), slices.Clone(l.slots), bytes.Clone(l.values)
	o.known.Store(l)
	return v.err == nil
}

// take adds a lead of any slot that was not seen before, unless there are too many.
func (l *learned) take(lead []byte, seen map[string]struct{}) {
	if _, is := seen[string(lead)]; is || len(l.leads) == 0 {
		return
	}
	if len(l.leads)+len(lead) >= maxLeads {
		l.leads = nil
		return
	}
	seen[string(lead)] = struct{}{}
	l.leads = append(append(l.leads, lead...), '\n')
}

// slot returns what is known of a slot, nil when nothing is.
func (o *Outline) slot(template, slot int) (l *learned, known *knownSlot) {
	if l = o.known.Load(); l == nil {
		return nil, nil
	}
	at, ok := slices.BinarySearchFunc(l.slots, template<<16|slot, func(s knownSlot, at int) int {
		return cmp.Compare(int(s.template)<<16|int(s.slot), at)
	})
	if !ok {
		return nil, nil
	}
	return l, &l.slots[at]
}

// leadOf returns the folded letters before the first digit of a word.
func leadOf(word []byte) []byte {
	folded := words.AppendFold(make([]byte, 0, 48), word)
	return folded[:words.Lead(string(folded))]
}

// sixteen reports whether a lead has only hexadecimal letters, or none: there are too many of those to be remembered.
func sixteen(lead []byte) bool {
	for _, b := range lead {
		if classOf[b] != LowerHex {
			return false
		}
	}
	return true
}

// MayBeValue reports whether a value of any slot may fold to a word, or begin so with prefix.
func (o *Outline) MayBeValue(folded string, prefix bool) bool {
	l := o.known.Load()
	if l == nil || len(l.leads) == 0 {
		return true
	}
	n := words.Lead(folded)
	lead := make([]byte, 1, 64)
	lead[0] = '\n'
	if lead = append(lead, folded[:n]...); sixteen(lead[1:]) {
		return true
	}
	if !prefix || n < len(folded) {
		lead = append(lead, '\n')
	}
	return bytes.Contains(l.leads, lead)
}

// MayBeValueOf is MayBeValue for the slot of one template.
func (o *Outline) MayBeValueOf(template, slot int, folded string, prefix bool) bool {
	_, known := o.slot(template, slot)
	n := words.Lead(folded)
	lead := []byte(folded[:n])
	return known == nil || prefix && n == len(folded) || sixteen(lead) || known.leads&leadBit(lead) != 0
}

// OnlyValue returns the value that a slot of a template has in all lines; nil when they differ or it is not known. Nobody may change it.
func (o *Outline) OnlyValue(template, slot int) []byte {
	l, known := o.slot(template, slot)
	if known == nil || known.from == known.to {
		return nil
	}
	return l.values[known.from:known.to]
}
