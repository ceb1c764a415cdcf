package query

import (
	"strings"
	"unicode/utf8"

	"github.com/triward/triward/logstore/words"
)

// Bounds of a condition with stars: stars, and words in a row, which are compared one after the other wherever the first stands.
const (
	maxStars     = 16
	maxWildWords = 64
)

// stars checks how many stars a text has that stands at start.
func (p *parser) stars(text string, start int) error {
	if n := strings.Count(text, "*"); n > maxStars {
		return p.fail(start, "%d * in one condition, at most %d are allowed: use a /regular expression/", n, maxStars)
	}
	return nil
}

// wildcards reads a bare text with stars, which stands at start, as words in a row: a star goes on within one word, and
// alone between separators it takes any word.
func (p *parser) wildcards(text string, start int) (*Filter, error) {
	if err := p.stars(text, start); err != nil {
		return nil, err
	}
	w := wildWords{p: p, text: text, start: start}
	for at := 0; at < len(text); {
		next := strings.IndexByte(text[at:], '*')
		if next < 0 {
			next = len(text)
		} else {
			next += at
		}
		if err := w.plain(at, next); err != nil {
			return nil, err
		}
		if at = next; at < len(text) {
			w.star(at)
			at++
		}
	}
	if err := w.flush(len(text), false); err != nil {
		return nil, err
	}
	if n := len(w.tests); n > maxWildWords {
		return nil, p.fail(start, "%d words in a row with * among them, at most %d are allowed: put the words in quotes, or use a /regular expression/", n, maxWildWords)
	}
	for i := range w.tests {
		if w.tests[i].glob == nil || strings.Join(w.tests[i].glob.Pieces(), "") != "" {
			return sequence(w.tests), nil
		}
	}
	if strings.Trim(text, "*") == "" {
		return All(), nil
	}
	return nil, p.fail(start, "there is no letter or number beside *; put it in quotes to search for it")
}

// wildWords cuts a text with stars into tests of words.
type wildWords struct {
	p     *parser
	text  string
	start int // of text in the query

	tests   []wordTest
	pattern strings.Builder // the word so far, folded
	star1   int             // where its first star is; only when it has one
	starred bool
	cjk     bool // a CJK character stands right before the pattern
}

func (w *wildWords) star(at int) {
	if !w.starred {
		w.starred, w.star1 = true, at
	}
	w.pattern.WriteByte('*')
}

// plain takes text[from:to], in which there is no star.
func (w *wildWords) plain(from, to int) error {
	end := from
	for s := (words.Scanner{Text: []byte(w.text[from:to])}); s.Next(); {
		if from+s.Start > end {
			if err := w.flush(end, false); err != nil {
				return err
			}
			w.cjk = false
		}
		end = from + s.End
		word := words.FoldString(string(s.Text[s.Start:s.End]))
		if !s.CJK {
			w.pattern.WriteString(word)
			continue
		}
		if err := w.flush(from+s.Start, true); err != nil {
			return err
		}
		w.tests = append(w.tests, wordTest{word: word})
		w.cjk = true
	}
	if to > end {
		if err := w.flush(end, false); err != nil {
			return err
		}
		w.cjk = false
	}
	return nil
}

// flush ends the word so far, behind which a CJK character stands or not.
func (w *wildWords) flush(at int, before bool) error {
	pattern, starred, behind := w.pattern.String(), w.starred, w.cjk
	w.pattern.Reset()
	w.starred, w.cjk = false, false
	switch {
	case pattern == "":
	case !starred:
		w.tests = append(w.tests, wordTest{word: pattern})
	case strings.Trim(pattern, "*") != "" || !before && !behind:
		w.tests = append(w.tests, wordTest{glob: words.NewGlob(pattern)})
	case before && behind:
		r, _ := utf8.DecodeRuneInString(w.text[at:])
		return w.p.fail(w.start+w.star1, "* goes on within one word, and %c is a word by itself: use a regular expression such as /a.*b/", r)
	}
	return nil // a star before or behind a CJK character has nothing to go on with
}
