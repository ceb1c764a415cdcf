package query

import (
	"bytes"
	"unicode/utf8"

	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/words"
)

// Outlook is what can be said of many lines without looking at any of them.
type Outlook uint8

// Outlooks. They are ordered: that of an And is the least of its parts, that of an Or the greatest.
const (
	unknown Outlook = iota
	Never           // none of them matches
	Perhaps
	Always // all of them match
)

// Sight is what a filter makes of an outline. It is valid until the next Look.
type Sight struct {
	// Open tells which lines must be decided one by one, Sure of which all match: of those without a template at [0], of template k
	// at [k+1].
	Open, Sure       []bool
	AnyOpen, AnySure bool
	// Flat has the lines without a template that match, by their place among those, when that is known and there are any. They are neither
	// Open nor Sure then.
	Flat Bits
}

// Any reports whether some line may match.
func (s *Sight) Any() bool { return s.AnyOpen || s.AnySure || s.Flat != nil }

// rootPlan remembers the outlooks of a filter on shapes by their numbers. Shapes of one block were numbered one after the other, so
// numbers are kept in pages.
type rootPlan struct {
	pages map[uint64]*outlookPage
	at    uint64
	page  *outlookPage // numbered at
}

const pageShapes = 256

type outlookPage [pageShapes]Outlook

// anySlot says that every word may be a value.
const anySlot = ^uint64(0)

// rootCase is a filter and which of the words of its leaves may be values of slots: bit leafPlan.base+j for word j of a leaf.
type rootCase struct {
	filter *Filter
	slots  uint64
}

// slots returns rootCase.slots for an outline.
func (p *Plans) slots(f *Filter, o *block.Outline) uint64 {
	if !o.Learned() {
		return anySlot
	}
	slots := anySlot
	f.eachLeaf(func(leaf *Filter) {
		if leaf.op != opPhrase && leaf.op != opWords {
			return
		}
		base := p.leaf(leaf).base
		for j := range leaf.length() {
			if head, prefix := leaf.head(j); base+j < 64 && head != "" && !o.MayBeValue(head, prefix) {
				slots &^= 1 << (base + j)
			}
		}
	})
	return slots
}

// head returns what all words that fit as word j are or, with prefix, begin with; "" when nothing is known.
func (f *Filter) head(j int) (head string, prefix bool) {
	word, prefix, exact := f.word(j)
	switch {
	case exact:
		return word, prefix
	case f.tests[j].glob != nil:
		return f.tests[j].glob.Head(), true
	}
	return f.tests[j].near.Prefix(), true
}

// Look tells what the filter, which must have been reduced to the block, says of the lines of an outline. stop is asked now
// and then while shapes are looked at that no block before had; true has Look give up and return nil.
func (p *Plans) Look(f *Filter, o *block.Outline, stop func() bool) *Sight {
	n, s := len(o.Shapes)+1, &p.sight
	if cap(s.Open) < n {
		s.Open, s.Sure = make([]bool, 2*n), make([]bool, 2*n)
	}
	s.Open, s.Sure, s.AnyOpen, s.AnySure, s.Flat = s.Open[:n], s.Sure[:n], false, false, nil
	slots := p.slots(f, o)
	r := p.root(rootCase{f, slots})
	fresh := 0
	for i, shape := range o.Shapes {
		at := r.place(p, shape.Number())
		if *at == unknown {
			if fresh++; fresh%16 == 0 && stop != nil && stop() {
				return nil
			}
			*at = f.outlook(func(leaf *Filter) Outlook { return p.outlook(leaf, shape, slots, stop) })
		}
		s.note(i+1, *at)
	}
	if fresh > 0 && stop != nil && stop() { // what was found while it stopped means nothing
		return nil
	}
	s.note(0, Never)
	switch {
	case o.FlatLines == 0:
	case o.Flat == nil:
		s.note(0, Perhaps)
	default:
		s.note(0, p.flatOutlook(f, o))
	}
	return s
}

func (s *Sight) note(k int, is Outlook) {
	s.Open[k], s.Sure[k] = is == Perhaps, is == Always
	s.AnyOpen = s.AnyOpen || is == Perhaps
	s.AnySure = s.AnySure || is == Always
}

func (p *Plans) root(k rootCase) *rootPlan {
	r, ok := p.roots[k]
	if !ok {
		if p.roots == nil {
			p.roots = map[rootCase]*rootPlan{}
		}
		p.take(256)
		r = &rootPlan{pages: map[uint64]*outlookPage{}}
		p.roots[k] = r
	}
	return r
}

// place returns where the outlook on a shape is remembered.
func (r *rootPlan) place(p *Plans, number uint64) *Outlook {
	if at := number / pageShapes; r.page == nil || r.at != at {
		page := r.pages[at]
		if page == nil {
			p.take(pageShapes + 64)
			page = new(outlookPage)
			r.pages[at] = page
		}
		r.at, r.page = at, page
	}
	return &r.page[number%pageShapes]
}

// take counts bytes that are to be remembered, and forgets everything when they are too many.
func (p *Plans) take(n int) {
	if p.bytes += n; p.bytes <= maxPlanBytes {
		return
	}
	for _, l := range p.leaves {
		clear(l.verdicts)
	}
	clear(p.roots) // whoever is at one of them goes on with it
	p.bytes = n
}

// outlook puts together what leaf says of the leaves about text.
func (f *Filter) outlook(leaf func(*Filter) Outlook) Outlook {
	return f.weigh(func(l *Filter) Outlook {
		switch l.op {
		case opPhrase, opLiteral, opRegex, opWords, opMember:
			return leaf(l)
		}
		return Perhaps
	})
}

// AsksNumbers reports whether a structured field is compared with a number.
func (f *Filter) AsksNumbers() bool {
	return f.any(func(f *Filter) bool { return f.op == opField && f.cmp >= Less })
}

// MayBeWithin reports whether a line may match of a block whose fields have the spans. The filter must have been reduced to the block.
func (f *Filter) MayBeWithin(s *block.Spans) bool {
	return Never != f.weigh(func(l *Filter) Outlook {
		if l.op != opField || l.cmp < Less || l.text != nil {
			return Perhaps
		}
		span, known := s.Of(l.field)
		if !known {
			return Perhaps
		}
		is := false
		switch l.cmp {
		case Less:
			is = span.Least < l.num
		case LessOrEqual:
			is = span.Least <= l.num
		case Greater:
			is = span.Most > l.num
		case GreaterOrEqual:
			is = span.Most >= l.num
		}
		if is {
			return Perhaps
		}
		return Never
	})
}

// weigh puts together what leaf says of all leaves.
func (f *Filter) weigh(leaf func(*Filter) Outlook) (is Outlook) {
	switch f.op {
	case opAll:
		return Always
	case opNone:
		return Never
	case opAnd:
		is = Always
		for _, k := range f.kids {
			if is = min(is, k.weigh(leaf)); is == Never {
				break
			}
		}
		return is
	case opOr:
		is = Never
		for _, k := range f.kids {
			if is = max(is, k.weigh(leaf)); is == Always {
				break
			}
		}
		return is
	case opNot:
		return Never + Always - f.kids[0].weigh(leaf)
	}
	return leaf(f)
}

// outlook of a leaf on a shape.
func (p *Plans) outlook(f *Filter, s *block.Shape, slots uint64, stop func() bool) Outlook {
	l := p.leaf(f)
	if slots = ^(^slots >> l.base); l.base >= 64 {
		slots = anySlot
	}
	if p.loweredOf != s {
		p.lowered, p.loweredOf = words.AppendLowerASCII(p.lowered[:0], s.Pieces()), s
	}
	if !f.mayMatch(l, s, p.lowered, slots) {
		return Never
	}
	var v verdict
	if slots == anySlot {
		v = p.of(f, s, stop) // which is asked again when lines of the shape are looked at
	} else {
		v = p.judge(f, s, l.machine, slots, stop)
	}
	switch v.how {
	case noLine:
		return Never
	case allLines:
		return Always
	}
	return Perhaps
}

// mayMatch is a quick look at whether a line of a shape may match a leaf. lowered are the shape's pieces with lower ASCII letters, slots
// the words of the leaf that may be values.
func (f *Filter) mayMatch(l *leafPlan, s *block.Shape, lowered []byte, slots uint64) bool {
	switch f.op {
	case opPhrase:
		for j, w := range f.words[:min(len(f.words), maxNeeds)] {
			if words.Caseless(w) && !bytes.Contains(lowered, []byte(w)) && !(slotted(slots, j) && s.MayHaveValue(w, f.prefix && j == len(f.words)-1)) {
				return false
			}
		}
	case opWords:
		for j := range f.tests {
			if piece := f.testPiece(j); piece != "" && !bytes.Contains(lowered, []byte(piece)) && !(slotted(slots, j) && f.mayBeAnyValue(s, j)) {
				return false
			}
		}
	case opLiteral, opRegex:
		return l.literal == nil || l.literal.possible(s)
	}
	return true
}

// slotted reports whether word j of a leaf may be a value.
func slotted(slots uint64, j int) bool { return j >= 64 || slots&(1<<j) != 0 }

// testPiece returns a text that every word contains that passes a test, when its ASCII letters are lowered, or "".
func (f *Filter) testPiece(j int) (piece string) {
	take := func(s string) {
		if len(s) > len(piece) && words.Caseless(s) && utf8.ValidString(s) {
			piece = s
		}
	}
	if take(f.tests[j].word); f.tests[j].glob != nil {
		for _, p := range f.tests[j].glob.Pieces() {
			take(p)
		}
	}
	return piece
}

func (f *Filter) mayBeAnyValue(s *block.Shape, j int) bool {
	for i := range s.Slots() {
		if f.mayBeValue(s, i, j) {
			return true
		}
	}
	return false
}

// flatOutlook decides the lines without a template, unless that takes long; those that match are in the Sight then.
func (p *Plans) flatOutlook(f *Filter, o *block.Outline) Outlook {
	if f.any(func(f *Filter) bool { return f.op == opRegex }) { // it may take long for each of them
		return f.outlook(func(leaf *Filter) Outlook {
			if leaf.literal != "" && !bytes.Contains(o.Flat.Bytes, []byte(leaf.literal)) {
				return Never
			}
			return Perhaps
		})
	}
	b := &p.flat
	b.Reset()
	b.N, b.Text, b.Ends = o.FlatLines, o.Flat.Bytes, o.Flat.Ends
	all := Range(b.N, 0, b.N)
	if f.TextAlone() {
		if found := f.Select(b, all); !found.IsEmpty() {
			p.sight.Flat = found
		}
		return Never
	}
	return f.outlook(func(leaf *Filter) Outlook {
		switch leaf.Select(b, all).Count() {
		case 0:
			return Never
		case b.N:
			return Always
		}
		return Perhaps
	})
}

// literalTest finds out whether a line of a shape may contain a text. Bit i of a state says that the text up to its byte i may end where
// the test is.
type literalTest struct {
	last  uint64      // the bit of the last byte
	bytes [256]uint64 // where each byte is in the text
	class [8]uint64   // where bytes of each of block.Classes are
}

// newLiteralTest tests the first 64 bytes of a text. It is nil for none.
func newLiteralTest(text string) *literalTest {
	if text == "" {
		return nil
	}
	text = text[:min(len(text), 64)]
	t := &literalTest{last: 1 << (len(text) - 1)}
	for i := range len(text) {
		t.bytes[text[i]] |= 1 << i
		for k := range t.class {
			if block.ClassOf(text[i])&(1<<k) != 0 {
				t.class[k] |= 1 << i
			}
		}
	}
	return t
}

func (t *literalTest) possible(s *block.Shape) bool {
	state := uint64(0)
	for i := range s.Slots() + 1 {
		for _, b := range s.Piece(i) {
			if state = (state<<1 | 1) & t.bytes[b]; state&t.last != 0 {
				return true
			}
		}
		if i == s.Slots() {
			return false
		}
		passes := uint64(0)
		for k := range t.class {
			if s.Classes(i)&(1<<k) != 0 {
				passes |= t.class[k]
			}
		}
		value := (state<<1 | 1) & passes
		for grown := value; ; value = grown { // one byte of the value after the other
			if grown |= (value<<1 | 1) & passes; grown == value {
				break
			}
		}
		if state = value; state&t.last != 0 {
			return true
		}
	}
	return false
}
