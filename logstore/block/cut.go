package block

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/triward/triward/logstore/words"
	"github.com/zeebo/xxh3"
)

// A line is cut into a template and the values of its slots. A slot is a whole word, not a CJK character, that holds a digit,
// or follows a '=' at once, or is made of two and more of the letters a to f alone; all else is the template. So the words of a line
// are those of the pieces of its template and the values, in their order: no word reaches over the edge of a slot.

// Bounds of templates: what is beyond is kept flat, line by line.
const (
	maxTemplates     = 512
	maxSlots         = 128  // of a line
	maxColumns       = 8000 // of a block; less than maxSections
	minTemplateLines = 3
	hopeless         = 1024 // so many lines with hardly a template in common are not followed by others
)

type span struct{ start, end uint32 }

// cutter cuts the lines of a block.
type cutter struct {
	spans  []span   // of all lines
	first  []uint32 // the first span of each line, and one more
	of     []int32  // candidate of each line, -1 when it stays flat
	cands  []cand
	byHash map[uint64]int32
	paths  paths
}

// cand is a template that may be kept.
type cand struct {
	line  int // the first that has it
	slots int
	lines int
	id    int // among those kept, from 1; 0 when it is not
}

func (k *cutter) reset() {
	k.spans, k.first, k.of, k.cands = k.spans[:0], k.first[:0], k.of[:0], k.cands[:0]
	if k.byHash == nil {
		k.byHash = map[uint64]int32{}
	}
	clear(k.byHash)
	k.paths.reset()
}

// variable reports whether the current word is a slot.
func variable(s *words.Scanner) bool {
	switch {
	case s.CJK:
		return false
	case s.Lead < s.End, s.Start > 0 && s.Text[s.Start-1] == '=':
		return true
	}
	return s.ASCII && hexLetters(s.Text[s.Start:s.End])
}

// hexLetters reports whether a word that is ASCII letters only is two and more of a to f.
func hexLetters(word []byte) bool {
	for _, b := range word {
		if b|0x20 > 'f' {
			return false
		}
	}
	return len(word) >= 2
}

// Classes are the kinds of characters that the values of a slot have, any of them.
type Classes uint8

// Kinds of characters of a word.
const (
	Digit    Classes = 1 << iota // 0 to 9
	LowerHex                     // a to f
	UpperHex                     // A to F
	Lower                        // g to z
	Upper                        // G to Z
	Wide                         // not ASCII
)

var classOf = func() (c [256]Classes) {
	for i := range c {
		switch b := byte(i); {
		case b >= utf8.RuneSelf:
			c[i] = Wide
		case '0' <= b && b <= '9':
			c[i] = Digit
		case 'a' <= b && b <= 'f':
			c[i] = LowerHex
		case 'A' <= b && b <= 'F':
			c[i] = UpperHex
		case 'a' <= b && b <= 'z':
			c[i] = Lower
		case 'A' <= b && b <= 'Z':
			c[i] = Upper
		}
	}
	return c
}()

// ClassOf returns the class of a byte, 0 when it is none of a word.
func ClassOf(b byte) Classes { return classOf[b] }

func classesOf(values []byte) (c Classes) {
	for _, b := range values {
		c |= classOf[b]
	}
	return c
}

// cut cuts all lines and chooses the templates that are kept.
func (k *cutter) cut(lines []Line) (kept int) {
	k.reset()
	for i := range lines {
		k.first = append(k.first, uint32(len(k.spans)))
		if i >= hopeless && len(k.cands) > i/8*7 {
			k.of = append(k.of, -1) // nearly every line has a template of its own
			continue
		}
		k.of = append(k.of, k.line(lines, i))
	}
	k.first = append(k.first, uint32(len(k.spans)))
	return k.choose(len(lines))
}

// line cuts one line and returns its candidate.
func (k *cutter) line(lines []Line, i int) int32 {
	text, from := lines[i].Text, len(k.spans)
	if c := k.walk(text); c >= 0 {
		k.cands[c].lines++
		return c
	}
	k.spans = k.spans[:from]
	at, hash := 0, uint64(0)
	for s := (words.Scanner{Text: text}); s.Next(); {
		if !variable(&s) {
			continue
		}
		if len(k.spans)-from == maxSlots {
			k.spans = k.spans[:from]
			return -1
		}
		hash = xxh3.HashSeed(text[at:s.Start], hash)
		k.spans = append(k.spans, span{uint32(s.Start), uint32(s.End)})
		at = s.End
	}
	hash = xxh3.HashSeed(text[at:], hash)
	c, ok := k.byHash[hash]
	if !ok {
		c = int32(len(k.cands))
		k.byHash[hash] = c
		k.cands = append(k.cands, cand{line: i, slots: len(k.spans) - from, lines: 1})
		return c
	}
	if !k.same(lines, i, int(c)) {
		k.spans = k.spans[:from]
		return -1 // two templates with one hash
	}
	if k.cands[c].lines++; k.cands[c].lines == 2 { // there may be more
		k.addPath(text, k.spans[from:], c)
	}
	return c
}

// same reports whether line i, the last that was cut, has the template of a candidate.
func (k *cutter) same(lines []Line, i, c int) bool {
	other := k.cands[c].line
	mine, his := k.spans[k.first[i]:], k.spans[k.first[other]:k.first[other+1]]
	if len(mine) != len(his) {
		return false
	}
	a, b := uint32(0), uint32(0)
	for j := range mine {
		if !bytes.Equal(lines[i].Text[a:mine[j].start], lines[other].Text[b:his[j].start]) {
			return false
		}
		a, b = mine[j].end, his[j].end
	}
	return bytes.Equal(lines[i].Text[a:], lines[other].Text[b:])
}

// choose keeps the candidates that many lines have; ids go by their first lines.
func (k *cutter) choose(n int) (kept int) {
	order := make([]int, 0, len(k.cands))
	for c := range k.cands {
		if k.cands[c].lines >= minTemplateLines {
			order = append(order, c)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return k.cands[b].lines - k.cands[a].lines })
	order = order[:min(len(order), maxTemplates, max(n/8, 4))]
	columns := 0
	for _, c := range order {
		if columns += k.cands[c].slots; columns > maxColumns {
			break
		}
		k.cands[c].id = 1
	}
	for c := range k.cands {
		if k.cands[c].id > 0 {
			kept++
			k.cands[c].id = kept
		}
	}
	return kept
}

// idOf returns the template of a line, from 1; 0 when it is flat.
func (k *cutter) idOf(i int) int {
	if c := k.of[i]; c >= 0 {
		return k.cands[c].id
	}
	return 0
}

// pieces calls fn for the pieces of the template of line i, one more than it has slots.
func (k *cutter) pieces(text []byte, i int, fn func(piece []byte)) {
	at := uint32(0)
	for _, s := range k.spans[k.first[i]:k.first[i+1]] {
		fn(text[at:s.start])
		at = s.end
	}
	fn(text[at:])
}
