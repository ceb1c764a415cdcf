package members

import (
	"strings"
	"unicode/utf8"

	"github.com/triward/triward/logstore/words"
)

// Span is a piece of a text.
type Span struct{ From, To int }

// Form is where a text has a field, so far as that is the same for all texts of its form: those in which other words stand in
// the places of some of its words. Such words hold a digit, or follow a =, or are two
// and more of the letters a to f.
type Form struct {
	Value   Span
	Found   bool
	Scalars []Span // in JSON: when one is no scalar any more, there are no fields
}

// Locate finds the form of a text for a name. It reports whether there is one that holds for all texts of the form: names
// with a word that others may stand for have none, nor have values with escapes, nor two of one name. In text there is the
// digit 0 in place of the words that change.
func Locate(text string, name *Name) (Form, bool) {
	if Variable(name.text) {
		return Form{}, false
	}
	if len(name.text) > MaxName || !goodName([]byte(name.text)) {
		return Form{}, true
	}
	s := strings.Trim(text, " \t\n\r")
	if s == "" {
		return Form{}, true
	}
	l := locator{want: name.text, start: strings.IndexByte(text, s[0]), sure: true}
	switch {
	case s[0] != '{':
		l.pairs(s)
	case s[len(s)-1] == '}':
		l.doc.S = s
		l.sure = l.object(0, true) && l.doc.End() && l.sure
	}
	return l.form, l.sure
}

type locator struct {
	form  Form
	sure  bool
	want  string
	start int
	n     int
	doc   Document
	name  []byte
}

func (l *locator) value(at Span, escaped, named bool, v string) {
	l.n++
	if !named || l.n > MaxFields || l.want != string(l.name) || v == "" {
		return
	}
	if l.form.Found || escaped || !utf8.ValidString(v) {
		l.sure = false
	}
	l.form.Value, l.form.Found = at, true
}

func (l *locator) span(from, length int) Span { return Span{l.start + from, l.start + from + length} }

// object is Reader.object.
func (l *locator) object(depth int, named bool) bool {
	if depth > MaxDepth || !l.doc.Enter() {
		return false
	}
	prefix := len(l.name)
	for first := true; ; first = false {
		key, escaped, more, ok := l.doc.Member(first)
		if !ok || !more {
			return ok
		}
		if escaped || len(key) > MaxName {
			return false
		}
		l.name = l.name[:prefix]
		if prefix > 0 || depth > 0 {
			l.name = append(l.name, '.')
		}
		l.name = append(l.name, key...)
		named := named && len(l.name) <= MaxName
		switch l.doc.Next() {
		case '{':
			ok = l.object(depth+1, named)
		case '[':
			ok = l.array(depth + 1)
		case '"':
			var v string
			if v, escaped, ok = l.doc.Str(); ok {
				l.value(l.span(l.doc.from, len(v)), escaped, named, v)
			}
		default:
			var v string
			if v, ok = l.scalar(); ok && v != "null" {
				l.value(l.span(l.doc.from, len(v)), false, named, v)
			}
		}
		if !ok {
			return false
		}
	}
}

func (l *locator) scalar() (string, bool) {
	v, ok := l.doc.Scalar()
	if ok {
		l.form.Scalars = append(l.form.Scalars, l.span(l.doc.from, len(v)))
	}
	return v, ok
}

// array passes over an array of strings and scalars; of others the form is not found.
func (l *locator) array(depth int) bool {
	if depth > MaxDepth {
		return false
	}
	return l.doc.Elements(func(int) bool {
		if depth == MaxDepth { // an element would be too deep
			return false
		}
		l.doc.Space()
		switch l.doc.Next() {
		case '"':
			_, _, ok := l.doc.Str()
			return ok
		case '{', '[':
			return false
		}
		_, ok := l.scalar()
		return ok
	})
}

// pairs is Reader.logfmt.
func (l *locator) pairs(s string) {
	for sc := (Pairs{S: s, Loose: true}); sc.Next(); {
		if sc.Bad != "" || !sc.Paired {
			continue
		}
		if l.n == MaxFields { // whether a key with other letters names a field is not known
			l.sure = false
			return
		}
		l.name = append(l.name[:0], sc.Key...)
		l.value(l.span(sc.from, len(sc.Value)), sc.Escaped, isName(sc.Key), sc.Value)
	}
}

// Variable reports whether one of the words of s is such that others may stand in its place (Form).
func Variable(s string) bool {
	for sc := (words.Scanner{Text: []byte(s)}); sc.Next(); {
		word := s[sc.Start:sc.End]
		if sc.Lead < sc.End || sc.Start > 0 && s[sc.Start-1] == '=' || strings.Trim(word, "abcdefABCDEF") == "" {
			return true
		}
	}
	return false
}

// IsScalar reports whether JSON has the text as a number, true, false or null.
func IsScalar(s string) bool { return s == "true" || s == "false" || s == "null" || isNumber(s) }
