package block

import (
	"bytes"
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
	leads  atomic.Pointer[[]byte]
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
	if l := o.leads.Load(); l != nil {
		n += 32 + cap(*l)
	}
	return n
}

// maxLeads bounds what is kept of the leads of a block, in bytes.
const maxLeads = 1 << 10

// Learned reports whether Learn has been called.
func (o *Outline) Learned() bool { return o.leads.Load() != nil }

// Learn has the outline remember which words with letters are values of slots, for MayBeValue. It reads the columns that have such
// values from the View of the block. It is for whoever keeps the outline: Size grows. It reports false when the block is damaged (Err).
func (o *Outline) Learn(v *View) bool {
	leads, seen := []byte{'\n'}, map[string]struct{}{}
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
			for e := range column.Entries() {
				lead := leadOf(column.Value(e))
				if _, known := seen[string(lead)]; known || sixteen(lead) {
					continue
				}
				if len(leads)+len(lead) >= maxLeads {
					o.leads.Store(new([]byte))
					return true
				}
				seen[string(lead)] = struct{}{}
				leads = append(append(leads, lead...), '\n')
			}
		}
	}
	leads = bytes.Clone(leads)
	o.leads.Store(&leads)
	return v.err == nil
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
	leads := o.leads.Load()
	if leads == nil || len(*leads) == 0 {
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
	return bytes.Contains(*leads, lead)
}
