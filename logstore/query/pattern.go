package query

import (
	"slices"
	"strings"

	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/words"
)

// patternField is the name by which a query asks for the lines of a pattern.
const patternField = "@pattern"

// maxPatternNeed bounds the words of a pattern that are looked up.
const maxPatternNeed = 12

// Pattern matches the lines whose pattern (block.AppendPattern) is exactly this text.
func Pattern(text string) *Filter {
	f := &Filter{op: opPattern, value: text}
	pieces := patternPieces(text)
	for i, piece := range pieces {
		ws := words.Split(piece)
		if i == len(pieces)-1 && len(text) > block.MaxPattern-4 && len(ws) > 0 { // it may have been cut within the last word
			ws = ws[:len(ws)-1]
		}
		f.words = append(f.words, ws...)
		if piece = strings.TrimSpace(piece); len(piece) > len(f.literal) {
			f.literal = piece
		}
	}
	slices.SortFunc(f.words, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	f.words = slices.Compact(f.words)
	f.words = f.words[:min(len(f.words), maxPatternNeed)]
	return f
}

// patternPieces returns what every line of a pattern holds as it is.
func patternPieces(text string) []string {
	if len(text) > block.MaxPattern-4 { // it may have been cut within a mark
		text = strings.TrimRight(text, "<*")
	}
	marks := strings.NewReplacer(block.PatternSlot, "\x00", block.PatternBreak, "\x00", block.PatternUnseen, "\x00")
	return strings.Split(marks.Replace(text), "\x00")
}

// PatternQuery returns the condition of the search box that finds the lines of a pattern.
func PatternQuery(text string) string {
	return patternField + `:"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// maxPatternParts bounds the slots in a filter of LogQL.
const maxPatternParts = 100

// PatternLogQL returns a filter of LogQL (|>) which all lines of a pattern pass, and sometimes others; "" when there is nothing in
// the pattern to filter by.
func PatternLogQL(text string) string {
	slots := PatternSlots(text)
	if strings.ReplaceAll(slots, logqlSlot, "") == "" {
		return ""
	}
	return "|> " + quoteLogQL(slots)
}

const logqlSlot = "<_>"

// PatternSlots returns a pattern as LogQL writes patterns.
func PatternSlots(text string) string {
	out, slots := "", 0
	add := func() {
		if !strings.HasSuffix(out, logqlSlot) {
			out += logqlSlot
			slots++
		}
	}
	for i, whole := range patternPieces(text) {
		if i > 0 {
			add()
		}
		for k, piece := range strings.FieldsFunc("\x00"+whole+"\x00", func(r rune) bool { return r == '<' || r == '>' }) { // <x> would be a name
			if k > 0 {
				add()
			}
			if slots == maxPatternParts {
				return out
			}
			out += strings.Trim(piece, "\x00")
		}
	}
	if len(text) > block.MaxPattern-4 {
		add()
	}
	return out
}

// quoteLogQL writes a text in back quotes where it can.
func quoteLogQL(text string) string {
	if !strings.ContainsAny(text, "`") {
		return "`" + text + "`"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// patternNeed is the need of a Pattern.
func (f *Filter) patternNeed() Need {
	n := Need{Op: NeedAll}
	for _, w := range f.words {
		n.Kids = append(n.Kids, Need{Op: NeedWord, Text: w})
	}
	return n.simple()
}

// isPattern reports whether the text of a line is of the pattern.
func (f *Filter) isPattern(text []byte) bool {
	var buf [512]byte
	return string(block.AppendPattern(buf[:0], text)) == f.value
}

// isPatternOf reports whether the lines of a template are of the pattern.
func (f *Filter) isPatternOf(t *block.Shape) bool {
	var buf [512]byte
	return string(t.AppendPattern(buf[:0])) == f.value
}
