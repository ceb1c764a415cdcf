package query

import (
	"bytes"

	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/words"
)

// A leaf about text is decided once for a template where it can be: on all lines of it or on none, or by the values of some slots.
// Only what is left is decided line by line, on the text put together again.

// verdict is what a template alone says of a leaf.
type verdict struct {
	how  how
	alts [][]cond    // of byValue: a line matches when all of any alternative hold
	form *memberForm // of byMember
}

type how uint8

const (
	noLine how = iota
	allLines
	byValue  // by the values of slots
	byText   // by the text of each line
	byMember // by the value of a field in the text, of which the place is known
)

// cond asks for a word of a phrase in a slot.
type cond struct{ slot, word int }

// Plans remembers verdicts, so that templates that many blocks have are looked at once a query. The zero Plans is ready. It is
// bounded, and not safe for concurrent use.
type Plans struct {
	leaves map[*Filter]*leafPlan
	roots  map[rootCase]*rootPlan
	words  int // of all leaves
	bytes  int

	sight     Sight
	units     []unit // of judgePhrase
	flat      Lines
	lowered   []byte // pieces of loweredOf
	loweredOf *block.Shape
}

type leafPlan struct {
	verdicts map[string]verdict
	machine  *machine
	base     int          // the number of its first word among those of all leaves
	literal  *literalTest // nil when there is no text that every match contains
}

// Bounds of Plans.
const (
	maxPlanBytes = 8 << 20
	maxPlanKey   = 4 << 10 // longer templates are looked at every time
)

func (p *Plans) leaf(f *Filter) *leafPlan {
	l, ok := p.leaves[f]
	if !ok {
		if p.leaves == nil {
			p.leaves = map[*Filter]*leafPlan{}
		}
		l = &leafPlan{verdicts: map[string]verdict{}, machine: f.machine(), literal: newLiteralTest(f.literal), base: p.words}
		p.words += f.length()
		p.leaves[f] = l
	}
	return l
}

// of returns the verdict of a template. Once stop has said to stop, no verdict means anything any more.
func (p *Plans) of(f *Filter, t *block.Shape, stop func() bool) verdict {
	l, key := p.leaf(f), t.Case()
	if v, ok := l.verdicts[string(key)]; ok {
		return v
	}
	v := p.judge(f, t, l.machine, anySlot, stop)
	if len(key) <= maxPlanKey {
		if p.take(len(key) + 128); v.form != nil {
			p.take(4 * len(key))
		}
		l.verdicts[string(key)] = v
	}
	return v
}

// judge looks at a template. slots are the words of the leaf that may be values of it.
func (p *Plans) judge(f *Filter, t *block.Shape, m *machine, slots uint64, stop func() bool) verdict {
	if t.Slots() == 0 { // it is the line
		if f.matchText(t.Piece(0), stop) {
			return verdict{how: allLines}
		}
		return verdict{}
	}
	switch f.op {
	case opPhrase, opWords:
		p.units = appendUnits(p.units[:0], t)
		return f.judgePhrase(t, p.units, slots)
	case opMember:
		return f.judgeMember(t)
	case opPattern:
		if f.isPatternOf(t) {
			return verdict{how: allLines}
		}
		return verdict{}
	}
	for i := range t.Slots() + 1 {
		if f.inPiece(t.Piece(i), m, stop) {
			return verdict{how: allLines}
		}
	}
	if m != nil && !m.possible(t) {
		return verdict{}
	}
	return verdict{how: byText}
}

// inPiece reports whether a piece makes every line match that it is in.
func (f *Filter) inPiece(piece []byte, m *machine, stop func() bool) bool {
	if f.op == opLiteral {
		return bytes.Contains(piece, []byte(f.literal))
	}
	return m != nil && m.free && f.matchText(piece, stop)
}

// unit is a word of a template or a slot.
type unit struct {
	word []byte
	slot int // -1 for a word
}

func appendUnits(out []unit, t *block.Shape) []unit {
	for i := range t.Slots() + 1 {
		piece := t.Piece(i)
		for s := (words.Scanner{Text: piece}); s.Next(); {
			out = append(out, unit{piece[s.Start:s.End], -1})
		}
		if i < t.Slots() {
			out = append(out, unit{slot: i})
		}
	}
	return out
}

// maxTried is how many words judgePhrase compares for each word of a template, on the average: where a long phrase begins again and
// again, lines are decided by their texts.
const maxTried = 64

// judgePhrase finds where in the template, whose units are us, the words of a phrase, or of a sequence of tests, may stand.
func (f *Filter) judgePhrase(t *block.Shape, us []unit, slots uint64) (v verdict) {
	left := maxTried * len(us)
	for from := range us {
		if from+f.length() > len(us) {
			break
		}
		var conds []cond
		fits := true
		for j := 0; fits && j < f.length(); j++ {
			if left--; left < 0 {
				return verdict{how: byText}
			}
			u := us[from+j]
			switch {
			case u.slot < 0:
				fits = f.wordIs(j, u.word)
			case slotted(slots, j) && f.mayBeValue(t, u.slot, j):
				conds = append(conds, cond{u.slot, j})
			default:
				fits = false
			}
		}
		if fits && len(conds) == 0 {
			return verdict{how: allLines}
		}
		if fits {
			v.how = byValue
			v.alts = append(v.alts, conds)
		}
	}
	return v
}

// selectView is selectText for the texts of a View.
func (f *Filter) selectView(b *Lines, in, out Bits) {
	v := b.View
	for i := range v.Templates() {
		if b.gone() {
			return
		}
		if b.undecided != nil && !b.undecided[i+1] {
			continue
		}
		t := v.Template(i)
		switch d := b.Plans.of(f, &t.Shape, b.Stop); d.how {
		case allLines:
			for _, line := range t.Lines() {
				if in.Has(int(line)) {
					out.set(int(line))
				}
			}
		case byValue:
			f.selectValues(b, i, d.alts, in, out)
		case byMember:
			f.selectMember(b, t, d.form, in, out)
		case byText:
			for _, line := range t.Lines() {
				if !in.Has(int(line)) {
					continue
				}
				if b.text = v.Append(b.text[:0], int(line)); v.Err() != nil || b.goneBefore(b.text) {
					return
				}
				if f.matchText(b.text, b.Stop) {
					out.set(int(line))
				}
			}
		}
	}
	if b.undecided == nil || b.undecided[0] {
		f.selectFlat(b, in, out)
	}
}

// selectValues decides the lines of a template of the View by the values of its slots.
func (f *Filter) selectValues(b *Lines, template int, alts [][]cond, in, out Bits) {
	t := b.View.Template(template)
	lines := t.Lines()
	for _, conds := range alts {
		conds, may := f.unknown(b, template, conds)
		if !may {
			continue
		}
		rows := b.rows[:0]
		for k, line := range lines {
			if in.Has(int(line)) && !out.Has(int(line)) {
				rows = append(rows, uint16(k))
			}
		}
		b.rows = rows
		for _, c := range conds {
			if len(rows) == 0 {
				break
			}
			if !f.mayFit(t, c) {
				rows = rows[:0]
				break
			}
			column := t.Column(c.slot)
			if column == nil {
				return
			}
			rows = f.keepRows(b, column, c.word, rows)
		}
		for _, k := range rows {
			out.set(int(lines[k]))
		}
	}
}

// mayFit reports whether the length of a word lets it be a value of a slot, whose column need not be read otherwise.
func (f *Filter) mayFit(t *block.Template, c cond) bool {
	w, prefix, exact := f.word(c.word)
	return !exact || !words.ASCII(w) || t.MayHaveLength(c.slot, len(w), prefix)
}

// unknown returns the conditions on a template of the View that its columns must be asked for. It reports false when no line can fulfil
// all of them.
func (f *Filter) unknown(b *Lines, template int, conds []cond) (left []cond, may bool) {
	o := b.Outline
	if o == nil || !o.Learned() {
		return conds, true
	}
	left = b.conds[:0]
	for _, c := range conds {
		if only := o.OnlyValue(template, c.slot); only != nil {
			if !f.wordIs(c.word, only) {
				return nil, false
			}
			continue
		}
		if head, prefix := f.head(c.word); head != "" && !o.MayBeValueOf(template, c.slot, head, prefix) {
			return nil, false
		}
		left = append(left, c)
	}
	b.conds = left
	return left, true
}

// keepRows keeps the rows whose value is a word of the phrase.
func (f *Filter) keepRows(b *Lines, column *block.Values, word int, rows []uint16) []uint16 {
	w, prefix, exact := f.word(word)
	if width, fixed := column.Width(); exact && fixed && (width < len(w) || width > len(w) && !prefix) && words.ASCII(w) {
		return rows[:0]
	}
	kept := rows[:0]
	if n := column.Entries(); n < column.Len() {
		b.entries = b.entries[:0]
		for e := range n {
			b.entries = append(b.entries, f.wordIs(word, column.Value(e)))
		}
		for _, k := range rows {
			if b.entries[column.Entry(int(k))] {
				kept = append(kept, k)
			}
		}
		return kept
	}
	for _, k := range rows {
		if f.wordIs(word, column.Value(int(k))) {
			kept = append(kept, k)
		}
	}
	return kept
}

// selectFlat decides the lines that have no template.
func (f *Filter) selectFlat(b *Lines, in, out Bits) {
	if !b.flatRead {
		b.flatRead = true
		rows, text := b.View.Flat()
		b.flatRows = rows
		if len(rows) > 0 {
			lowered := []byte(nil)
			if b.flat != nil {
				lowered = b.flat.lowered[:0]
			}
			b.flat = &Lines{N: len(rows), Text: text.Bytes, Ends: text.Ends, lowered: lowered}
		}
	}
	if len(b.flatRows) == 0 {
		return
	}
	sub, found := make(Bits, (len(b.flatRows)+63)/64), make(Bits, (len(b.flatRows)+63)/64)
	any := false
	for k, line := range b.flatRows {
		if in.Has(int(line)) {
			sub.set(k)
			any = true
		}
	}
	if !any {
		return
	}
	b.flat.Stop = b.Stop
	f.selectText(b.flat, sub, found)
	found.Each(func(k int) { out.set(int(b.flatRows[k])) })
}
