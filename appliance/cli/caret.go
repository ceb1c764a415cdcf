package cli

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// placeColumns is how much of a query is shown on either side of a place in it, in columns of a terminal.
const placeColumns = 36

// caretAt returns the part of a query that an error is about with a caret below the place, in two lines, or nothing when err names none.
func caretAt(err error) string {
	e, ok := errors.AsType[*apiError](err)
	if !ok || e.Pos == nil || *e.Pos < 0 || *e.Pos > len(e.query) || !utf8.ValidString(e.query) {
		return ""
	}
	before, after := e.query[:*e.Pos], e.query[*e.Pos:]
	if !utf8.ValidString(before) { // in the middle of a character
		return ""
	}
	before = before[strings.LastIndexByte(before, '\n')+1:]
	after, _, _ = strings.Cut(after, "\n")
	head, col := []rune(before), 0
	i := len(head)
	for ; i > 0 && col < placeColumns; i-- {
		col += columns(head[i-1])
	}
	begin, shown := "", string(head[i:])
	if i > 0 {
		begin, col = "…", col+1
	}
	tail, end := 0, len(after)
	for j, r := range after {
		if tail += columns(r); tail > placeColumns {
			end = j
			break
		}
	}
	if shown += after[:end]; end < len(after) {
		shown += "…"
	}
	return "  " + begin + strings.Map(plain, shown) + "\n  " + strings.Repeat(" ", col) + "^\n"
}

// plain returns a character that takes the columns that are counted for it.
func plain(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// columns returns how many columns of a terminal a character takes (Unicode Standard Annex 11).
func columns(r rune) int {
	switch k := width.LookupRune(r).Kind(); {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case k == width.EastAsianWide || k == width.EastAsianFullwidth:
		return 2
	}
	return 1
}
