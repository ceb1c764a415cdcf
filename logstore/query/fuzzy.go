package query

import (
	"strings"
	"unicode"

	"github.com/triward/triward/logstore/words"
)

// Near matches lines that hold a word at most edits (1 to words.MaxEdits) away from word, see words.Near. It is nil when
// there are no such words.
func Near(word string, edits int) *Filter {
	folded := words.FoldString(word)
	n := words.NewNear(folded, edits)
	if n == nil {
		return nil
	}
	return sequence([]wordTest{{near: n, text: folded}})
}

// fuzzy reads text, which stands at start, as word~, word~1 or word~2; ok is false when it is none of them.
func (p *parser) fuzzy(text string, start int) (f *Filter, ok bool, err error) {
	at := strings.LastIndexByte(text, '~')
	if at <= 0 || strings.Trim(text[at+1:], "0123456789") != "" {
		return nil, false, nil
	}
	word := text[:at]
	ws := words.Split(word)
	switch {
	case len(ws) == 0:
		return nil, false, nil // "=~": punctuation is sought as it is
	case len(ws) > 1 || words.IsCJKWord(ws[0]):
		return nil, false, p.fail(start+at, "~ stands behind one word of letters and numbers; put all in quotes to search for it as it is")
	case ws[0] != words.FoldString(word):
		return nil, false, p.fail(start+at, "~ stands directly behind a word; put all in quotes to search for it as it is")
	}
	letters := 0
	for _, r := range ws[0] {
		if !unicode.IsNumber(r) {
			letters++
		}
	}
	edits := 0
	switch n := text[at+1:]; n {
	case "1", "2":
		edits = int(n[0] - '0')
	case "":
		if edits = 1; letters > 5 {
			edits = 2
		}
	default:
		return nil, false, p.fail(start+at+1, "~ allows 1 or 2 edits; put all in quotes to search for it as it is")
	}
	if letters < edits+2 {
		return nil, false, p.fail(start, "with %d of its %d letters free this could be nearly any word: ~%d needs %d letters, and numbers are never guessed",
			edits, letters, edits, edits+2)
	}
	if f = Near(ws[0], edits); f == nil {
		return nil, false, p.fail(start, "this word is too long for ~: write its beginning and *")
	}
	return f, true, nil
}
