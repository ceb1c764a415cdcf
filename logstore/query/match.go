package query

import (
	"bytes"
	"math/bits"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/words"
)

// Match decides one line.
func (f *Filter) Match(l *Line) bool {
	switch f.op {
	case opAll:
		return true
	case opAnd:
		for _, k := range f.kids {
			if l.gone() || !k.Match(l) {
				return false
			}
		}
		return true
	case opOr:
		for _, k := range f.kids {
			if l.gone() || k.Match(l) {
				return true
			}
		}
		return false
	case opNot:
		return !f.kids[0].Match(l)
	case opPhrase, opLiteral, opRegex, opWords, opMember, opPattern:
		return f.matchText(l.Text, l.Stop)
	case opTime:
		return f.from <= l.T && l.T <= f.to
	case opSeverity:
		return f.mask&(1<<l.Severity) != 0
	case opKind:
		return f.mask == uint16(l.Kind)
	case opField:
		v := l.Labels.Get(f.field)
		if v == "" {
			v = wire.Labels(l.Fields).Get(f.field)
		}
		if v == "" && f.text != nil {
			return f.text.matchMember(l.Text, l.Stop)
		}
		return v != "" && f.compare(v, l.Stop)
	case opLabel:
		return f.matcher.matches(l.Labels.Get(f.field), l.Stop)
	case opValue:
		v := l.Labels.Get(f.field)
		if v == "" {
			v = wire.Labels(l.Fields).Get(f.field)
		}
		return f.matcher.matches(v, l.Stop)
	}
	return false
}

// gone reports whether nobody waits for what is said of a long line: of thousands of conditions each may take its time.
func (l *Line) gone() bool { return len(l.Text) > longText && l.Stop != nil && l.Stop() }

const longText = 4 << 10

func (f *Filter) matchText(text []byte, stop func() bool) bool {
	switch f.op {
	case opPhrase:
		return f.matchPhrase(text)
	case opLiteral:
		return bytes.Contains(text, []byte(f.literal))
	case opWords:
		return f.matchWords(text, stop)
	case opMember:
		return f.matchMember(text, stop)
	}
	if f.literal != "" && !bytes.Contains(text, []byte(f.literal)) {
		return false
	}
	if f.op == opPattern {
		return f.isPattern(text)
	}
	return f.slow.Match(text, stop)
}

func (f *Filter) matchPhrase(text []byte) bool {
	is, _ := f.findPhrase(text)
	return is
}

// findPhrase goes over the words of a text once, however often the phrase begins in it. tried is how often a word was compared.
func (f *Filter) findPhrase(text []byte) (is bool, tried int) {
	last := len(f.words) - 1
	n := 0 // words of the phrase with which those before end
	for s := (words.Scanner{Text: text}); s.Next(); {
		word := text[s.Start:s.End]
		for n >= 0 {
			if tried++; words.Same(word, f.words[n], f.prefix && n == last) {
				break
			}
			n = f.back[n]
		}
		if n++; n > last {
			return true, tried
		}
	}
	return false, tried
}

// backOf tells for each word of a phrase with how many words of its beginning those before it end, not all of them: where to go on when the
// word is not the next one (Knuth, Morris and Pratt). -1 is behind it.
func backOf(ws []string) []int {
	back := make([]int, len(ws))
	k := -1
	for i := range ws {
		back[i] = k
		for k >= 0 && ws[k] != ws[i] {
			k = back[k]
		}
		k++
	}
	return back
}

// compare decides a value. stop is asked now and then while an expression is at a long one, see Line.Stop.
func (f *Filter) compare(v string, stop func() bool) bool {
	switch f.cmp {
	case Equal:
		return words.Same([]byte(v), f.value, false)
	case HasPrefix:
		return words.Same([]byte(v), f.value, true)
	case Matches:
		return f.slow.MatchString(v, stop)
	case Exists:
		return true
	case Like:
		return f.glob.Has([]byte(v))
	}
	n, ok := block.Number(v)
	return ok && f.compareNumber(n)
}

func (f *Filter) compareNumber(n float64) bool {
	switch f.cmp {
	case Less:
		return n < f.num
	case LessOrEqual:
		return n <= f.num
	case Greater:
		return n > f.num
	}
	return n >= f.num
}

// Lines are the columns of many lines of one stream, as a block holds them. Text and Fields are asked for only
// when the filter needs them.
type Lines struct {
	N          int
	Times      []int64
	Severities []byte
	Text       []byte   // all texts, one behind the other
	Ends       []uint32 // where each text ends
	Fields     [][]wire.Label
	Columns    *block.Columns // has the fields by name in place of Fields when it is not nil
	// Stop is asked now and then while lines are decided one by one; true has Select give up, and what it returns then means
	// nothing. It may take its time. nil goes on.
	Stop func() bool
	// Open gives the texts when they are not there yet, at most once after Reset. It is called when the filter needs them
	// after all (Filter.MayNeedText). nil when they are there.
	Open func() error

	// View has the texts in place of Text and Ends when it is not nil; Plans goes with it. Outline is of the same block, nil when it
	// is not known.
	View      *block.View
	Outline   *block.Outline
	Plans     *Plans
	undecided []bool // which of View's lines are in question (Sight.Open); nil for all

	lowered  []byte
	text     []byte   // of one line of View
	rows     []uint16 // of one template
	conds    []cond   // of one template
	entries  []bool   // of one column
	flat     *Lines   // lines of View without a template, when there are any
	flatRows []uint16
	flatRead bool
	looked   int // lines since Stop was asked
	err      error
}

// Err returns what was found to be damaged since Reset: what was selected is void then.
func (b *Lines) Err() error {
	if b.err == nil && b.View != nil {
		return b.View.Err()
	}
	return b.err
}

// Line returns the text of line i.
func (b *Lines) Line(i int) []byte {
	if i == 0 {
		return b.Text[:b.Ends[0]]
	}
	return b.Text[b.Ends[i-1]:b.Ends[i]]
}

// Reset makes b ready for other columns, keeping its memory.
func (b *Lines) Reset() {
	*b = Lines{lowered: b.lowered[:0], Fields: b.Fields[:0], Ends: b.Ends[:0], text: b.text, rows: b.rows, conds: b.conds, entries: b.entries, flat: b.flat}
}

// gone reports whether Select is to give up.
func (b *Lines) gone() bool { return b.goneBefore(nil) }

// goneBefore is gone before a text is decided, of which each 4 KiB count as much as a line.
func (b *Lines) goneBefore(text []byte) bool {
	if b.looked += 1 + len(text)>>12; b.Stop == nil || b.looked < askAfter {
		return false
	}
	if b.Stop() { // it is asked again at once
		return true
	}
	b.looked = 0
	return false
}

// askAfter is how many lines are decided between two questions whether to go on.
const askAfter = 16

func (b *Lines) lower() []byte {
	if len(b.lowered) != len(b.Text) {
		b.lowered = words.AppendLowerASCII(b.lowered[:0], b.Text)
	}
	return b.lowered
}

// Bits is a set of lines: bit i%64 of word i/64 for line i.
type Bits []uint64

// Range returns the set of the lines from <= i < to of n.
func Range(n, from, to int) Bits {
	b := make(Bits, (n+63)/64)
	for i := from; i < to; {
		if i%64 == 0 && to-i >= 64 {
			b[i/64] = ^uint64(0)
			i += 64
			continue
		}
		b.set(i)
		i++
	}
	return b
}

func (b Bits) set(i int) { b[i/64] |= 1 << (i % 64) }

func (b Bits) clear(i int) { b[i/64] &^= 1 << (i % 64) }

// Has reports whether line i is in the set.
func (b Bits) Has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// Count returns the number of lines in the set.
func (b Bits) Count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// IsEmpty reports whether no line is in the set.
func (b Bits) IsEmpty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// Each calls fn for the lines in ascending order.
func (b Bits) Each(fn func(i int)) {
	for k, w := range b {
		for ; w != 0; w &= w - 1 {
			fn(k*64 + bits.TrailingZeros64(w))
		}
	}
}

// Select returns which of the lines in `in` match. The filter must have been reduced to the stream (Reducer).
func (f *Filter) Select(b *Lines, in Bits) Bits {
	switch f.op {
	case opAll:
		return in
	case opAnd:
		for _, k := range f.kids {
			if in = k.Select(b, in); in.Count() == 0 {
				break
			}
		}
		return in
	case opOr:
		out, rest := make(Bits, len(in)), append(Bits(nil), in...)
		for _, k := range f.kids {
			for i, w := range k.Select(b, rest) {
				out[i] |= w
				rest[i] &^= w
			}
		}
		return out
	case opNot:
		out := append(Bits(nil), in...)
		for i, w := range f.kids[0].Select(b, in) {
			out[i] &^= w
		}
		return out
	}
	out := make(Bits, len(in))
	switch f.op {
	case opPhrase, opLiteral, opRegex, opWords, opMember, opPattern:
		f.selectByText(b, in, out)
	case opTime:
		in.Each(func(i int) {
			if f.from <= b.Times[i] && b.Times[i] <= f.to {
				out.set(i)
			}
		})
	case opSeverity:
		in.Each(func(i int) {
			if f.mask&(1<<b.Severities[i]) != 0 {
				out.set(i)
			}
		})
	case opValue:
		f.selectField(b, in, out, func(v string) bool { return f.matcher.matches(v, b.Stop) })
	case opField:
		lacking := f.selectField(b, in, out, func(v string) bool { return v != "" && f.compare(v, b.Stop) })
		if f.text != nil && lacking.Count() > 0 {
			f.text.selectByText(b, lacking, out)
		}
	}
	return out
}

// SelectSeen is Select for the lines of a View of whose outline the filter made s.
func (f *Filter) SelectSeen(b *Lines, in Bits, s *Sight) Bits {
	out := make(Bits, len(in))
	if s.AnySure {
		b.View.Pick(s.Sure, out)
		for i, w := range in {
			out[i] &= w
		}
	}
	if s.Flat != nil {
		for k, line := range b.View.FlatLines() {
			if s.Flat.Has(k) && in.Has(int(line)) {
				out.set(int(line))
			}
		}
	}
	if !s.AnyOpen {
		return out
	}
	rest := make(Bits, len(in))
	b.View.Pick(s.Open, rest)
	for i, w := range in {
		rest[i] &= w
	}
	b.undecided = s.Open
	for i, w := range f.Select(b, rest) {
		out[i] |= w
	}
	return out
}

// selectByText decides lines by their texts, and sets those in out that match.
func (f *Filter) selectByText(b *Lines, in, out Bits) {
	if open := b.Open; open != nil {
		b.Open = nil
		if b.err = open(); b.err != nil {
			return
		}
	}
	if b.View != nil {
		f.selectView(b, in, out)
	} else {
		f.selectText(b, in, out)
	}
}

// selectField decides lines by their structured fields: is tells of a value, "" for none. It returns those without a value.
func (f *Filter) selectField(b *Lines, in, out Bits, is func(v string) bool) (lacking Bits) {
	lacking = append(Bits(nil), in...)
	none := is("")
	if b.Columns == nil {
		in.Each(func(i int) {
			v := ""
			if len(b.Fields) != 0 {
				v = wire.Labels(b.Fields[i]).Get(f.field)
			}
			if v == "" && none || v != "" && is(v) {
				out.set(i)
			}
			if v != "" {
				lacking.clear(i)
			}
		})
		return lacking
	}
	if none { // and those that do not have it
		copy(out, in)
	}
	field := b.Columns.Field(f.field)
	if field == nil {
		return lacking
	}
	values, err := field.Values()
	if err != nil {
		b.err = err
		return nil
	}
	b.entries = b.entries[:0]
	for e := range values.Entries() {
		v := values.Value(e)
		if b.goneBefore(v) {
			return nil
		}
		b.entries = append(b.entries, is(unsafe.String(unsafe.SliceData(v), len(v)))) // only read
	}
	field.Each(func(line, row int) {
		if !in.Has(line) {
			return
		}
		e := values.Entry(row)
		if b.entries[e] {
			out.set(line)
		} else {
			out.clear(line)
		}
		if len(values.Value(e)) > 0 {
			lacking.clear(line)
		}
	})
	return lacking
}

// selectText looks for a piece that every match contains through all texts at once, and decides only the lines
// that hold it. When few lines are left it goes line by line.
func (f *Filter) selectText(b *Lines, in, out Bits) {
	piece, which := f.literal, -1
	switch f.op {
	case opMember:
		piece = f.name.Needle()
	case opPhrase:
		piece, which = f.piece()
	case opWords:
		if f.selectNear(b, in, out) {
			return
		}
		piece = f.wordsPiece()
	}
	if piece == "" || in.Count()*8 < b.N {
		in.Each(func(i int) {
			if text := b.Line(i); !b.goneBefore(text) && f.matchText(text, b.Stop) {
				out.set(i)
			}
		})
		return
	}
	text := b.Text
	if f.op == opPhrase || f.op == opWords {
		text = b.lower()
	}
	at, line, needle := 0, 0, []byte(piece)
	for {
		k := bytes.Index(text[at:], needle)
		if k < 0 {
			return
		}
		for at += k; int(b.Ends[line]) <= at; {
			line++
		}
		start, end := int(b.Ends[line])-len(b.Line(line)), int(b.Ends[line])
		switch {
		case !in.Has(line):
			at = end
		case which >= 0 && (at+len(piece) > end || !f.hit(text[start:end], at-start, which)):
			at++
		case b.goneBefore(text[start:end]):
			return
		default:
			if len(f.words) == 1 && which == 0 || f.matchText(b.Line(line), b.Stop) {
				out.set(line)
			}
			at = end
		}
	}
}

// piece returns the longest word of the phrase, and its place when it is ASCII so that a hit can be judged where
// it is; "" when the word cannot be sought in lowered text.
func (f *Filter) piece() (piece string, which int) {
	for i, w := range f.words {
		if len(w) > len(piece) {
			piece, which = w, i
		}
	}
	if !words.Caseless(piece) {
		return "", -1
	}
	if strings.IndexFunc(piece, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0 {
		return piece, -1
	}
	return piece, which
}

// hit reports whether the word of the phrase numbered which stands at a place of a line.
func (f *Filter) hit(line []byte, at, which int) bool {
	return words.Bounded(line, at, at+len(f.words[which]), f.prefix && which == len(f.words)-1)
}

// required returns the longest string that every match of the expression contains, or "".
func required(expr string) string {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return ""
	}
	s := literalOf(re.Simplify(), 0)
	for _, r := range s {
		if r == utf8.RuneError {
			return ""
		}
	}
	return s
}

func literalOf(re *syntax.Regexp, depth int) string {
	if depth > 32 {
		return ""
	}
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return string(re.Rune)
		}
	case syntax.OpCapture, syntax.OpPlus:
		return literalOf(re.Sub[0], depth+1)
	case syntax.OpConcat:
		best := ""
		for _, sub := range re.Sub {
			if s := literalOf(sub, depth+1); len(s) > len(best) {
				best = s
			}
		}
		return best
	}
	return ""
}
