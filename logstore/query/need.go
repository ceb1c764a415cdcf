package query

import (
	"slices"
	"unicode/utf8"

	"github.com/triward/triward/logstore/words"
)

// NeedOp is the operator of a Need.
type NeedOp uint8

// Operators of a Need.
const (
	NeedAnything NeedOp = iota
	NeedAll             // all of Kids
	NeedAny             // any of Kids
	NeedWord            // the word Text (or two CJK characters that follow each other)
	NeedPrefix          // a word that begins with Text
	NeedNear            // a word of Near, which are those near the word Text
)

// Need is a condition on the set of words of many lines that holds whenever one of the lines can match.
type Need struct {
	Op   NeedOp
	Kids []Need
	Text string // folded
	Near *words.Near
}

// Need returns what the words of a block must fulfil so that a line in it can match.
func (f *Filter) Need() Need {
	switch f.op {
	case opAnd:
		n := Need{Op: NeedAll}
		for _, k := range f.kids {
			if kn := k.Need(); kn.Op != NeedAnything {
				n.Kids = append(n.Kids, kn)
			}
		}
		return n.simple()
	case opOr:
		n := Need{Op: NeedAny}
		for _, k := range f.kids {
			kn := k.Need()
			if kn.Op == NeedAnything {
				return kn
			}
			n.Kids = append(n.Kids, kn)
		}
		return n
	case opPhrase:
		return phraseNeed(f.words, f.prefix)
	case opWords:
		return f.wordsNeed()
	case opMember:
		return f.need
	case opPattern:
		return f.patternNeed()
	case opLiteral, opRegex:
		return phraseNeed(inner(f.literal), false)
	}
	return Need{}
}

func (n Need) simple() Need {
	switch len(n.Kids) {
	case 0:
		return Need{}
	case 1:
		return n.Kids[0]
	}
	return n
}

// maxNeeds bounds the words of one condition that a block is asked for: each is looked up in the index of every day.
const maxNeeds = 64

func phraseNeed(ws []string, prefix bool) Need {
	n := Need{Op: NeedAll}
	for i, w := range ws {
		if prefix && i == len(ws)-1 {
			n.Kids = append(n.Kids, Need{Op: NeedPrefix, Text: w})
			break
		}
		n.word(w)
		if i > 0 && words.IsCJKWord(ws[i-1]) && words.IsCJKWord(w) {
			n.word(ws[i-1] + w)
		}
	}
	return n.simple()
}

// word adds a word, unless it is there or there are many already.
func (n *Need) word(w string) {
	if len(n.Kids) < maxNeeds && !slices.ContainsFunc(n.Kids, func(k Need) bool { return k.Text == w && k.Op == NeedWord }) {
		n.Kids = append(n.Kids, Need{Op: NeedWord, Text: w})
	}
}

// inner returns the words of a piece of text that are whole words wherever the piece occurs. A piece may begin or end within
// a character: what those bytes are is known only where it occurs, and it may be a letter.
func inner(piece string) []string {
	var out []string
	start, end := 0, len(piece)
	for start < end && !utf8.RuneStart(piece[start]) {
		start++
	}
	for n := 1; n < utf8.UTFMax && n <= len(piece); n++ {
		if last := piece[len(piece)-n:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRuneInString(last) {
				end -= n
			}
			break
		}
	}
	for s := (words.Scanner{Text: []byte(piece)}); s.Next(); {
		if s.CJK || (s.Start > start && s.End < end) {
			out = append(out, string(words.AppendFold(nil, s.Text[s.Start:s.End])))
		}
	}
	return out
}

// May evaluates the need against a block: has must not answer no for a word that the block holds. Prefixes and
// words that are near another are taken as present.
func (n *Need) May(has func(word string) bool) bool {
	switch n.Op {
	case NeedWord:
		return has(n.Text)
	case NeedAll:
		for i := range n.Kids {
			if !n.Kids[i].May(has) {
				return false
			}
		}
	case NeedAny:
		for i := range n.Kids {
			if n.Kids[i].May(has) {
				return true
			}
		}
		return false
	}
	return true
}
