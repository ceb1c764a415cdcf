// Package query holds the filter tree under every log query language, the parser of the search box, and the
// matcher that decides a line. It owns no data: log stores hand it lines or the columns of a block.
//
// What a filter means is defined on one line alone (Match); Select is the same for many lines at once, Reducer
// and Need only let a store pass over lines that cannot match. The package may import agent/wire and
// logstore/words, logstore/members and logstore/block, and must not import the store.
package query

import (
	"regexp"
	"strings"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/members"
	"github.com/triward/triward/logstore/regex"
	"github.com/triward/triward/logstore/words"
)

type op uint8

const (
	opAll op = iota
	opNone
	opAnd
	opOr
	opNot
	opPhrase
	opLiteral
	opRegex
	opSeverity
	opKind
	opField
	opMember // what opField is for a field that the text holds by itself
	opLabel  // a label of the stream, by a Matcher
	opValue  // a label or field, by a Matcher
	opWords
	opTime
	opPattern // value is the pattern, literal what its lines hold, words some of theirs
)

// Compare says how the value of a field is compared.
type Compare uint8

// Ways to compare a field. Equal and HasPrefix disregard case; the numeric ones hold only for values that are
// decimal numbers.
const (
	Equal Compare = iota
	HasPrefix
	Matches // regular expression
	Exists
	Like // pattern with stars; case does not count
	Less
	LessOrEqual
	Greater
	GreaterOrEqual
)

// Filter is a node of the tree. Filters are immutable once made and safe for concurrent use.
type Filter struct {
	op      op
	kids    []*Filter
	words   []string       // of a phrase, folded
	back    []int          // of a phrase, see backOf
	prefix  bool           // the last word of the phrase may be the beginning of one
	literal string         // of opLiteral; for a regular expression a piece that every match contains, or ""
	re      *regexp.Regexp // of opRegex
	slow    *regex.Regexp  // as re, also of a field
	mask    uint16         // severities that match; for opKind the kind
	field   string
	cmp     Compare
	value   string // folded
	num     float64
	matcher *Matcher
	tests   []wordTest   // of opWords
	glob    *words.Glob  // of a field
	text    *Filter      // of opField: the same for what texts hold, nil for nothing
	name    members.Name // of opMember
	need    Need         // of opMember
	from    int64        // of opTime, ns
	to      int64        // of opTime, ns, included
}

// Line is what a filter decides on.
type Line struct {
	T        int64 // ns since 1970
	Kind     wire.StreamKind
	Severity wire.Severity
	Labels   wire.Labels
	Fields   []wire.Label
	Text     []byte
	// Stop is asked now and then while something that takes long is at a long text; once it returns true what Match says means nothing.
	// nil goes on to the end.
	Stop func() bool
}

// All matches every line.
func All() *Filter { return &Filter{op: opAll} }

// None matches no line.
func None() *Filter { return &Filter{op: opNone} }

// And matches what all of kids match.
func And(kids ...*Filter) *Filter {
	out := make([]*Filter, 0, len(kids))
	for _, k := range kids {
		switch k.op {
		case opNone:
			return k
		case opAll:
		case opAnd:
			out = append(out, k.kids...)
		default:
			out = append(out, k)
		}
	}
	switch len(out) {
	case 0:
		return All()
	case 1:
		return out[0]
	}
	return &Filter{op: opAnd, kids: out}
}

// Or matches what any of kids matches.
func Or(kids ...*Filter) *Filter {
	out := make([]*Filter, 0, len(kids))
	for _, k := range kids {
		switch k.op {
		case opAll:
			return k
		case opNone:
		case opOr:
			out = append(out, k.kids...)
		default:
			out = append(out, k)
		}
	}
	switch len(out) {
	case 0:
		return None()
	case 1:
		return out[0]
	}
	return &Filter{op: opOr, kids: out}
}

// Not matches what kid does not match.
func Not(kid *Filter) *Filter {
	switch kid.op {
	case opAll:
		return None()
	case opNone:
		return All()
	case opNot:
		return kid.kids[0]
	}
	return &Filter{op: opNot, kids: []*Filter{kid}}
}

// Phrase matches lines that hold the words of text one after the other, whatever separates them; with prefix
// the last may be the beginning of a longer word. Text without any word matches as a literal.
func Phrase(text string, prefix bool) *Filter {
	ws := words.Split(text)
	if len(ws) == 0 {
		return Literal(text)
	}
	return &Filter{op: opPhrase, words: ws, back: backOf(ws), prefix: prefix}
}

// Literal matches lines whose text contains exactly these bytes.
func Literal(text string) *Filter {
	if text == "" {
		return All()
	}
	return &Filter{op: opLiteral, literal: text}
}

// Regex matches lines whose text re matches somewhere.
func Regex(re *regexp.Regexp) *Filter {
	return &Filter{op: opRegex, re: re, slow: regex.New(re), literal: required(re.String())}
}

// SeverityIn matches lines whose severity is one of those whose bit 1<<severity is set in mask.
func SeverityIn(mask uint16) *Filter { return &Filter{op: opSeverity, mask: mask} }

// KindIs matches the lines of streams of the kind.
func KindIs(k wire.StreamKind) *Filter { return &Filter{op: opKind, mask: uint16(k)} }

// Field compares the value called name: that of the stream's label when there is one, otherwise that of the
// line's structured field, otherwise that of the field which the text holds by itself (package members). Without any it
// does not match.
func Field(name string, cmp Compare, value string) *Filter {
	return withMember(StoredField(name, cmp, value))
}

// StoredField is Field without what texts hold.
func StoredField(name string, cmp Compare, value string) *Filter {
	return &Filter{op: opField, field: name, cmp: cmp, value: words.FoldString(value)}
}

// FieldNumber compares the value called name with a number.
func FieldNumber(name string, cmp Compare, num float64) *Filter {
	return withMember(&Filter{op: opField, field: name, cmp: cmp, num: num})
}

// FieldRegex matches when re matches the value called name somewhere.
func FieldRegex(name string, re *regexp.Regexp) *Filter {
	return withMember(&Filter{op: opField, field: name, cmp: Matches, slow: regex.New(re)})
}

// FieldLike matches when the value called name matches a pattern, in which * stands for any characters.
func FieldLike(name, pattern string) *Filter {
	return withMember(&Filter{op: opField, field: name, cmp: Like, glob: words.NewGlob(words.FoldString(pattern))})
}

// IsAll reports whether the filter matches everything whatever the line.
func (f *Filter) IsAll() bool { return f.op == opAll }

// IsNone reports whether the filter can match nothing.
func (f *Filter) IsNone() bool { return f.op == opNone }

// NeedsText reports whether the text of lines must be looked at.
func (f *Filter) NeedsText() bool {
	return f.any(func(f *Filter) bool { return f.ofText() })
}

// ofText reports whether the text of a line alone decides the leaf.
func (f *Filter) ofText() bool {
	switch f.op {
	case opPhrase, opLiteral, opRegex, opWords, opMember, opPattern:
		return true
	}
	return false
}

// MayNeedText reports whether the text of lines may have to be looked at, which have not the fields asked for.
func (f *Filter) MayNeedText() bool {
	return f.any(func(f *Filter) bool { return f.text != nil || f.ofText() })
}

// NeedsFields reports whether the structured fields of lines must be looked at.
func (f *Filter) NeedsFields() bool {
	return f.any(func(f *Filter) bool { return f.op == opField || f.op == opValue })
}

// NeedsTimes reports whether the times of lines must be looked at.
func (f *Filter) NeedsTimes() bool { return f.any(func(f *Filter) bool { return f.op == opTime }) }

// TextAlone reports whether nothing of a line but its text is looked at.
func (f *Filter) TextAlone() bool {
	return !f.any(func(f *Filter) bool {
		o := f.op
		return o == opTime || o == opSeverity || o == opKind || o == opField || o == opLabel || o == opValue
	})
}

// AsksWords reports whether a word of the text is asked for, so that it helps to know which are values of slots (block.Outline.Learn).
func (f *Filter) AsksWords() bool {
	return f.any(func(f *Filter) bool { return f.op == opPhrase || f.op == opWords })
}

func (f *Filter) any(is func(*Filter) bool) bool {
	if is(f) {
		return true
	}
	for _, k := range f.kids {
		if k.any(is) {
			return true
		}
	}
	return false
}

// rewrite returns the filter with leaves replaced by what leaf returns for them.
func (f *Filter) rewrite(leaf func(*Filter) *Filter) *Filter {
	switch f.op {
	case opAnd, opOr:
		kids := make([]*Filter, len(f.kids))
		for i, k := range f.kids {
			kids[i] = k.rewrite(leaf)
		}
		if f.op == opAnd {
			return And(kids...)
		}
		return Or(kids...)
	case opNot:
		return Not(f.kids[0].rewrite(leaf))
	}
	return leaf(f)
}

// reduceBlock is Reducer.Block.
func (f *Filter) reduceBlock(h *block.Header) *Filter {
	present := h.Present()
	return f.rewrite(func(l *Filter) *Filter {
		switch {
		case l.op == opSeverity && l.mask&present == 0:
			return None()
		case l.op == opField && !h.MayHaveField(l.field):
			return l.member()
		case l.op == opValue && !h.MayHaveField(l.field):
			return constant(l.matcher.Matches(""))
		case l.op == opSeverity && present&^l.mask == 0:
			return All()
		}
		return l
	})
}

func constant(yes bool) *Filter {
	if yes {
		return All()
	}
	return None()
}

// severities lists the names of a severity in queries.
func severities(name string) (wire.Severity, bool) {
	switch strings.ToLower(name) {
	case "unknown", "none":
		return wire.SeverityUnknown, true
	case "debug", "trace":
		return wire.SeverityDebug, true
	case "info", "informational":
		return wire.SeverityInfo, true
	case "notice":
		return wire.SeverityNotice, true
	case "warning", "warn":
		return wire.SeverityWarning, true
	case "error", "err":
		return wire.SeverityError, true
	case "critical", "crit", "fatal", "alert", "emergency", "emerg", "panic":
		return wire.SeverityCritical, true
	}
	return 0, false
}
