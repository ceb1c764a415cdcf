package block

import (
	"bytes"
	"unicode/utf8"

	"github.com/triward/triward/logstore/words"
)

// A pattern is what the lines that one statement writes look like. It is a function of the text of a line alone, so it is the same
// wherever the line is kept: the line is cut into a template as a block cuts it, every slot becomes <*>, and what differs from
// line to line beside the slots becomes part of them:
//
//   - slots between which nothing but up to three of : , . - / + _ stands, and those around the name of a month: addresses,
//     times, dates, versions, lists;
//   - the names of months and weekdays before a slot, AM and PM behind one, and a sign before one;
//   - of spaces beside a slot all but one, and those before the first slot of a line that begins with it.
//
// Line ends become ⏎, and what is no character, or none that can be seen, U+FFFD. A pattern is cut to MaxPattern bytes.

const (
	// MaxPattern bounds a pattern, in bytes.
	MaxPattern = 2 << 10
	// PatternSlot stands for what differs between the lines of a pattern.
	PatternSlot = "<*>"
	// PatternBreak stands for the ends of lines within a line.
	PatternBreak = "⏎"
	// PatternUnseen stands for bytes of a line that are no UTF-8, and for control characters.
	PatternUnseen = "�"
)

// AppendPattern appends the pattern of a line.
func AppendPattern(dst, text []byte) []byte {
	w := patternWriter{dst: dst, from: len(dst)}
	at := 0
	for s := (words.Scanner{Text: text}); !w.full() && s.Next(); {
		if variable(&s) {
			w.piece(text[at:s.Start], true)
			at = s.End
		}
	}
	if !w.full() {
		w.piece(text[at:], false)
	}
	return w.end()
}

// AppendPattern appends the pattern of the lines of the shape.
func (t *Shape) AppendPattern(dst []byte) []byte {
	w := patternWriter{dst: dst, from: len(dst)}
	for i := 0; i <= t.Slots() && !w.full(); i++ {
		w.piece(t.Piece(i), i < t.Slots())
	}
	return w.end()
}

// patternWriter takes the pieces of a template. It only ever appends, so that it may stop once it has enough.
type patternWriter struct {
	dst   []byte
	from  int
	slots int
}

func (w *patternWriter) full() bool { return len(w.dst)-w.from >= MaxPattern }

func (w *patternWriter) end() []byte {
	if n := w.from + MaxPattern; len(w.dst) > n {
		for !utf8.RuneStart(w.dst[n]) {
			n--
		}
		w.dst = w.dst[:n]
	}
	return w.dst
}

// piece takes the next piece, and the slot behind it.
func (w *patternWriter) piece(p []byte, slot bool) {
	before := w.slots > 0
	if slot {
		w.slots++
	}
	if before && slot && joins(p) {
		return
	}
	if before {
		p = pastHalf(p)
		p = oneSpace(p, false)
	}
	if slot {
		p = dropSign(dropDate(p), before)
		if p = oneSpace(p, true); !before && len(p) == 1 && p[0] == ' ' {
			p = nil
		}
	}
	w.text(p)
	if slot {
		w.dst = append(w.dst, PatternSlot...)
	}
}

// joins reports whether the slots on both sides of a piece are parts of one value.
func joins(p []byte) bool {
	if n := len(p); n == 5 && isMonth(p[1:4]) {
		p = []byte{p[0], p[4]}
		return bytes.IndexByte([]byte(" /-."), p[0]) >= 0 && bytes.IndexByte([]byte(" /-."), p[1]) >= 0
	} else if n > 3 {
		return false
	}
	for _, b := range p {
		switch b {
		case ':', ',', '.', '-', '/', '+', '_':
		default:
			return false
		}
	}
	return true
}

func isMonth(name []byte) bool {
	switch string(name) {
	case "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec":
		return true
	}
	return false
}

func isWeekday(name []byte) bool {
	switch string(name) {
	case "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun":
		return true
	}
	return false
}

// dropDate takes the names of months and weekdays off the end of a piece: "Fri Nov  ".
func dropDate(p []byte) []byte {
	for range 3 {
		t := bytes.TrimRight(p, " ,/-")
		n := len(t) - 3
		if gone := len(p) - len(t); gone < 1 || gone > 3 || n < 0 || !isMonth(t[n:]) && !isWeekday(t[n:]) || n > 0 && wordByte(t[n-1]) {
			return p
		}
		p = t[:n]
	}
	return p
}

// wordByte reports whether b may be of a word.
func wordByte(b byte) bool { return classOf[b] != 0 }

// dropSign takes a sign off the end of a piece, unless it stands behind a word.
func dropSign(p []byte, before bool) []byte {
	n := len(p) - 1
	if n < 0 || p[n] != '-' && p[n] != '+' || n == 0 && before || n > 0 && bytes.IndexByte([]byte(" \t=([{,:\"'"), p[n-1]) < 0 {
		return p
	}
	return p[:n]
}

// pastHalf takes AM or PM off the beginning of a piece behind a slot.
func pastHalf(p []byte) []byte {
	if len(p) >= 3 && p[0] == ' ' && (p[1] == 'A' || p[1] == 'P') && p[2] == 'M' && (len(p) == 3 || !wordByte(p[3])) {
		return p[3:]
	}
	return p
}

// oneSpace leaves one of the spaces that a piece ends or begins with.
func oneSpace(p []byte, end bool) []byte {
	for len(p) > 1 {
		if end && p[len(p)-1] == ' ' && p[len(p)-2] == ' ' {
			p = p[:len(p)-1]
		} else if !end && p[0] == ' ' && p[1] == ' ' {
			p = p[1:]
		} else {
			break
		}
	}
	return p
}

// text appends a piece in characters that can be seen.
func (w *patternWriter) text(p []byte) {
	for len(p) > 0 && !w.full() {
		n := 0
		for n < len(p) && (p[n] >= ' ' && p[n] < 0x7f || p[n] == '\t') {
			n++
		}
		if n > 0 {
			w.dst = append(w.dst, p[:min(n, w.from+MaxPattern-len(w.dst))]...)
			p = p[n:]
			continue
		}
		r, n := utf8.DecodeRune(p)
		switch {
		case r == '\n' || r == '\r':
			w.once(PatternBreak)
		case r == utf8.RuneError, r < ' ', r >= 0x7f && r < 0xa0:
			w.once(PatternUnseen)
		default:
			w.dst = append(w.dst, p[:n]...)
		}
		p = p[n:]
	}
}

// once appends a mark, unless it is there already.
func (w *patternWriter) once(mark string) {
	if !bytes.HasSuffix(w.dst[w.from:], []byte(mark)) {
		w.dst = append(w.dst, mark...)
	}
}
