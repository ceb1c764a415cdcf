package words

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a Near.
const (
	MaxEdits = 2
	maxNear  = 64 // characters of the word
)

// Near is the set of the words that at most a few edits make into one word. An edit puts in, takes out or changes a
// letter, or swaps two letters that stand together; no letter is part of two. Words of the set begin with the same character as that word and have
// the same numbers in the same order: numbers are never guessed. A Near is immutable and safe for concurrent use.
type Near struct {
	runes []rune
	edits int
	lead  int // characters before the first number
}

// NewNear returns the words at most edits away from a folded word. It is nil when the word is no word or is too long, when
// it has fewer than edits+2 letters, so that nothing of it would be sure, or when edits is not 1 to MaxEdits.
func NewNear(folded string, edits int) *Near {
	n := &Near{runes: []rune(folded), edits: edits}
	n.lead = len(n.runes)
	letters := 0
	for i, r := range n.runes {
		if unicode.IsNumber(r) {
			n.lead = min(n.lead, i)
		} else {
			letters++
		}
	}
	s := Scanner{Text: []byte(folded)}
	if !s.Next() || s.CJK || s.End-s.Start != len(folded) || len(n.runes) > maxNear || edits < 1 || edits > MaxEdits || letters < edits+2 {
		return nil
	}
	return n
}

// Prefix returns what the index terms of all words of the set begin with; it is empty when the word begins with a number,
// and then its words may have no terms.
func (n *Near) Prefix() string {
	if n.lead == 0 {
		return ""
	}
	return string(n.runes[:1])
}

// Has reports whether a word, folded or not, is in the set.
func (n *Near) Has(word []byte) bool {
	if len(word) < len(n.runes)-n.edits || len(word) > (len(n.runes)+n.edits)*utf8.UTFMax ||
		word[0] < utf8.RuneSelf && rune(lower[word[0]]) != n.runes[0] {
		return false
	}
	return n.has(word)
}

func (n *Near) has(word []byte) bool {
	var runes [maxNear + MaxEdits]rune
	k := 0
	for i := 0; i < len(word); k++ {
		r, size := rune(word[i]), 1
		if r < utf8.RuneSelf {
			r = rune(lower[r])
		} else {
			r, size = utf8.DecodeRune(word[i:])
			r = Fold(r)
		}
		if k == 0 && r != n.runes[0] || k >= len(n.runes)+n.edits {
			return false
		}
		runes[k] = r
		i += size
	}
	return near(runes[:k], n.runes, n.edits, false)
}

// MayTerm reports whether a word of the set may have the index term (Term), which is not empty.
func (n *Near) MayTerm(term string) bool {
	if len(term) > (maxNear+MaxEdits)*utf8.UTFMax {
		return false
	}
	runes := make([]rune, 0, maxNear+MaxEdits)
	for _, r := range term {
		if runes = append(runes, r); len(runes) > n.lead+n.edits {
			return false
		}
	}
	// No edit crosses a number, so the letters before the first ones are near each other too. A term that was cut at MaxTerm
	// bytes is near a beginning of them.
	return len(runes) > 0 && runes[0] == n.runes[0] && near(runes, n.runes[:n.lead], n.edits, len(term) > MaxTerm-utf8.UTFMax)
}

// near reports whether at most `edits` edits make a into b, or with cut into a beginning of b.
func near(a, b []rune, edits int, cut bool) bool {
	if len(a) > len(b)+edits || !cut && len(a) < len(b)-edits {
		return false
	}
	far := int8(edits + 1)
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	var rows [3][maxNear + 1]int8 // of i-2, i-1 and i characters of a
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j, r := range b {
		if last[j+1] = far; !unicode.IsNumber(r) {
			last[j+1] = min(last[j]+1, far)
		}
	}
	for i := 1; i <= len(a); i++ {
		x := a[i-1]
		fixed, best := unicode.IsNumber(x), far
		for j := range len(b) + 1 {
			d := far
			if j > 0 && x == b[j-1] {
				d = last[j-1]
			}
			if !fixed {
				d = min(d, last[j]+1)
			}
			if j > 0 && !unicode.IsNumber(b[j-1]) {
				d = min(d, row[j-1]+1)
				if !fixed {
					d = min(d, last[j-1]+1)
					if i > 1 && j > 1 && x == b[j-2] && a[i-2] == b[j-1] {
						d = min(d, before[j-2]+1)
					}
				}
			}
			row[j] = min(d, far)
			best = min(best, row[j])
		}
		if best == far {
			return false
		}
		before, last, row = last, row, before
	}
	if !cut {
		return last[len(b)] <= int8(edits)
	}
	for j := range len(b) + 1 {
		if last[j] <= int8(edits) {
			return true
		}
	}
	return false
}

// Glob is a pattern of one folded word or value: the pieces between its stars, each of which stands for any characters.
// A Glob is immutable and safe for concurrent use.
type Glob struct{ parts []string }

// NewGlob returns the pattern in which * stands for any characters, also none.
func NewGlob(folded string) *Glob { return &Glob{strings.Split(folded, "*")} }

// Head returns what all that matches begins with.
func (g *Glob) Head() string { return g.parts[0] }

// Pieces returns the texts that all that matches contains; they may be empty.
func (g *Glob) Pieces() []string { return g.parts }

// Has reports whether a word or value, folded or not, matches.
func (g *Glob) Has(word []byte) bool {
	head, last := g.parts[0], len(g.parts)-1
	if head != "" && (len(word) == 0 || head[0] < utf8.RuneSelf && lower[word[0]] != head[0]) {
		return false
	}
	var buf [128]byte
	rest, ok := bytes.CutPrefix(AppendFold(buf[:0], word), []byte(head))
	if !ok || last == 0 {
		return ok && len(rest) == 0
	}
	for _, part := range g.parts[1:last] {
		at := bytes.Index(rest, []byte(part))
		if at < 0 {
			return false
		}
		rest = rest[at+len(part):]
	}
	return bytes.HasSuffix(rest, []byte(g.parts[last]))
}
