package query

import (
	"bytes"
	"unicode/utf8"

	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/words"
)

// wordTest decides one word of a text: exactly one of its fields is set.
type wordTest struct {
	word string      // folded
	glob *words.Glob // of one word; a lone star takes any word
	near *words.Near
	text string // of near: the folded word
}

func (t *wordTest) is(word []byte) bool {
	switch {
	case t.glob != nil:
		return t.glob.Has(word)
	case t.near != nil:
		return t.near.Has(word)
	}
	return words.Same(word, t.word, false)
}

// sequence matches lines that hold words for all tests, one after the other.
func sequence(tests []wordTest) *Filter { return &Filter{op: opWords, tests: tests} }

// stepsAtOnce is how many words of a text are held against tests between two questions whether to go on: a text that repeats what the
// sequence begins with takes as many steps as both have words, multiplied.
const stepsAtOnce = 1 << 14

func (f *Filter) matchWords(text []byte, stop func() bool) bool {
	steps := 0
	for s := (words.Scanner{Text: text}); s.Next(); {
		t, i := s, 0
		for f.tests[i].is(t.Text[t.Start:t.End]) {
			if i++; i == len(f.tests) {
				return true
			}
			if !t.Next() {
				return false
			}
		}
		if steps += i; steps > stepsAtOnce && stop != nil {
			if steps = 0; stop() {
				return false
			}
		}
	}
	return false
}

// selectNear is selectText for one near word that begins with an ASCII character: it looks only at words which begin with that.
// It reports whether it did.
func (f *Filter) selectNear(b *Lines, in, out Bits) bool {
	near := f.tests[0].near
	if len(f.tests) > 1 || near == nil || f.tests[0].text[0] >= utf8.RuneSelf || in.Count()*8 < b.N {
		return false
	}
	text, first := b.lower(), f.tests[0].text[0]
	for at, line := 0, 0; ; {
		k := bytes.IndexByte(text[at:], first)
		if k < 0 {
			return true
		}
		for at += k; int(b.Ends[line]) <= at; {
			line++
		}
		end := int(b.Ends[line])
		start := end - len(b.Line(line))
		switch {
		case !in.Has(line):
			at = end
		case !words.Bounded(text[start:end], at-start, at-start+1, true): // inside of a word
			at++
		default:
			s := words.Scanner{Text: text[at:end]}
			s.Next()
			if near.Has(s.Text[:s.End]) {
				out.set(line)
				at = end
			} else {
				at += s.End
			}
		}
	}
}

// wordsPiece returns the longest text that every match of the sequence contains when its ASCII letters are lowered, or "".
func (f *Filter) wordsPiece() (piece string) {
	take := func(s string) {
		if len(s) > len(piece) && words.Caseless(s) && utf8.ValidString(s) {
			piece = s
		}
	}
	for i := range f.tests {
		if take(f.tests[i].word); f.tests[i].glob != nil {
			for _, p := range f.tests[i].glob.Pieces() {
				take(p)
			}
		}
	}
	return piece
}

// wordsNeed is the need of a sequence.
func (f *Filter) wordsNeed() Need {
	n := Need{Op: NeedAll}
	for i := range f.tests {
		t := &f.tests[i]
		switch {
		case t.near != nil:
			n.Kids = append(n.Kids, Need{Op: NeedNear, Text: t.text, Near: t.near})
		case t.glob == nil:
			n.Kids = append(n.Kids, Need{Op: NeedWord, Text: t.word})
			if i > 0 && words.IsCJKWord(f.tests[i-1].word) && words.IsCJKWord(t.word) {
				n.Kids = append(n.Kids, Need{Op: NeedWord, Text: f.tests[i-1].word + t.word})
			}
		case t.glob.Head() != "":
			n.Kids = append(n.Kids, Need{Op: NeedPrefix, Text: t.glob.Head()})
		}
	}
	return n.simple()
}

// length returns how many words in a row a phrase or a sequence asks for.
func (f *Filter) length() int {
	if f.op == opWords {
		return len(f.tests)
	}
	return len(f.words)
}

// word returns word j of a phrase or a sequence, and whether that or, with prefix, what begins so is all that fits.
func (f *Filter) word(j int) (word string, prefix, exact bool) {
	if f.op == opWords {
		t := &f.tests[j]
		return t.word, false, t.glob == nil && t.near == nil
	}
	return f.words[j], f.prefix && j == len(f.words)-1, true
}

// wordIs reports whether a word fits as word j.
func (f *Filter) wordIs(j int, word []byte) bool {
	if f.op == opWords {
		return f.tests[j].is(word)
	}
	return words.Same(word, f.words[j], f.prefix && j == len(f.words)-1)
}

// mayBeValue reports whether a value of a slot may fit as word j.
func (f *Filter) mayBeValue(t *block.Shape, slot, j int) bool {
	word, prefix, exact := f.word(j)
	switch {
	case exact:
		return t.MayBeValue(slot, word, prefix)
	case f.tests[j].glob != nil && f.tests[j].glob.Head() != "":
		return t.MayBeValue(slot, f.tests[j].glob.Head(), true)
	}
	return true
}
