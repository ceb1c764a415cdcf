// Package members reads the fields that the text of a line holds by itself: the members of a JSON object, or pairs of logfmt.
// What they are is decided on the text alone, so that every layout of lines answers alike.
//
// A text whose first character (behind white space) is { holds the members of the JSON object that it is as a whole, and
// none when it is not one. The members of objects within have names with a dot between: req.path. Strings, numbers, true and
// false are values, as they are written; null and arrays are not.
//
// Any other text holds its pairs name=value and name="value" (Pairs with Loose), wherever they stand. Their names begin with
// a letter, _ or @ and go on with letters, digits and _ . - @ /.
//
// The first MaxFields values of a text are looked at. Of those none is a field: that is empty or longer than MaxValue, whose
// name is empty, longer than MaxName or has control characters, that is no UTF-8, or that has a bad escape, or one for a
// character which nobody needs to escape (isPlain), so that the words of a field are in its text (Words). Of two with
// one name the first counts.
//
// The package may import agent/wire and logstore/words alone.
package members

import (
	"bytes"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/words"
)

// Bounds of fields.
const (
	MaxFields = 64   // values that are looked at
	MaxValue  = 1024 // bytes
	MaxName   = wire.MaxLabelName

	longestEscape = 6 // bytes, which stand for one at least
)

// Field is one that a text holds.
type Field struct{ Name, Value []byte }

// Reader reads the fields of texts. The zero Reader is ready. It is not safe for concurrent use.
type Reader struct {
	doc   Document
	buf   []byte // names that are joined, and what had escapes
	name  []byte // of the member at hand
	n     int    // values looked at
	all   []Field
	want  string // the only name looked for; "" for all
	found []byte // its value
}

// Name is a name that fields are looked for by.
type Name struct{ text, needle string }

// NewName makes a Name.
func NewName(name string) Name { return Name{name, needle(name)} }

// String returns the name.
func (n *Name) String() string { return n.text }

// Needle returns a piece of every text that has a field of the name, as long as can be; "" when there is none.
func (n *Name) Needle() string { return n.needle }

// All returns the fields of a text in its order. They are valid until the next call and as long as the text.
func (r *Reader) All(text []byte) []Field {
	r.read(text, "")
	return r.all
}

// Get returns the value of the field of the name, nil when the text does not have it. It is valid as All's are.
func (r *Reader) Get(text []byte, name *Name) []byte {
	s := stringOf(text)
	if name.text == "" || len(text) == 0 || name.needle != "" && !strings.Contains(s, name.needle) {
		return nil
	}
	r.read(text, name.text)
	return r.found
}

// stringOf returns a text as a string, which is only read while the text is there.
func stringOf(text []byte) string { return unsafe.String(unsafe.SliceData(text), len(text)) }

func (r *Reader) read(text []byte, want string) {
	r.buf, r.name, r.all, r.n, r.want, r.found = r.buf[:0], r.name[:0], r.all[:0], 0, want, nil
	s := strings.Trim(stringOf(text), " \t\n\r")
	switch {
	case s == "":
	case s[0] != '{':
		r.logfmt(s)
	case s[len(s)-1] == '}':
		r.doc = Document{S: s}
		if !r.object(0, true) || !r.doc.End() {
			r.all, r.found = r.all[:0], nil
		}
		r.doc = Document{}
	}
}

// object reads the members of the object at hand, whose own name is in r.name; good says that it is one for fields.
func (r *Reader) object(depth int, good bool) bool {
	if depth > MaxDepth {
		return r.doc.Fail("nested too deeply")
	}
	if !r.doc.Enter() {
		return false
	}
	prefix := len(r.name)
	for first := true; ; first = false {
		key, escaped, more, ok := r.doc.Member(first)
		if !ok || !more {
			return ok
		}
		r.name = r.name[:prefix]
		if prefix > 0 || depth > 0 {
			r.name = append(r.name, '.')
		}
		named := good
		switch {
		case len(key) > longestEscape*MaxName:
			named = false
		case escaped:
			var plain bool
			r.name, plain, ok = appendUnescaped(r.name, key)
			named = good && plain && ok
		default:
			r.name = append(r.name, key...)
		}
		if len(r.name) > MaxName {
			named, r.name = false, r.name[:MaxName]
		}
		if !r.value(depth, named) {
			return false
		}
	}
}

// value reads the value at hand.
func (r *Reader) value(depth int, named bool) bool {
	switch r.doc.Next() {
	case '{':
		return r.object(depth+1, named)
	case '[':
		return r.doc.Skip(depth + 1)
	case '"':
		v, escaped, ok := r.doc.Str()
		if ok {
			r.take(v, escaped, named)
		}
		return ok
	}
	v, ok := r.doc.Scalar()
	if ok && v != "null" {
		r.take(v, false, named)
	}
	return ok
}

// logfmt reads the pairs of a text.
func (r *Reader) logfmt(s string) {
	if r.want != "" && !hasKey(s, r.want) {
		return
	}
	for sc := (Pairs{S: s, Loose: true}); sc.Next(); {
		if sc.Bad != "" || !sc.Paired || !isName(sc.Key) {
			continue
		}
		if r.want == "" || r.want == sc.Key {
			r.name = append(r.name[:0], sc.Key...)
			r.take(sc.Value, sc.Escaped, len(sc.Key) <= MaxName)
		} else {
			r.n++
		}
		if r.n >= MaxFields || r.found != nil {
			return
		}
	}
}

// hasKey reports whether name= is in a text.
func hasKey(s, name string) bool {
	for {
		i := strings.Index(s, name)
		if i < 0 || i+len(name) >= len(s) {
			return false
		}
		if s = s[i+len(name):]; s[0] == '=' {
			return true
		}
	}
}

// isName reports whether a key names a field.
func isName(key string) bool {
	for i := range len(key) {
		switch c := key[i]; {
		case c|0x20 >= 'a' && c|0x20 <= 'z', c == '_', c == '@', c >= utf8.RuneSelf:
		case i > 0 && (c >= '0' && c <= '9' || c == '.' || c == '-' || c == '/'):
		default:
			return false
		}
	}
	return key != ""
}

// take takes the value of the member or pair called r.name, when it is a field.
func (r *Reader) take(v string, escaped, named bool) {
	r.n++
	switch {
	case !named, r.n > MaxFields, r.found != nil, r.want != "" && r.want != string(r.name):
		return
	case r.want == "" && (!goodName(r.name) || r.has(r.name)):
		return
	}
	value := unsafe.Slice(unsafe.StringData(v), len(v))
	if escaped {
		if len(v) > longestEscape*MaxValue {
			return
		}
		from := len(r.buf)
		out, plain, ok := appendUnescaped(r.buf, v)
		if r.buf = out; !plain || !ok {
			return
		}
		value = out[from:len(out):len(out)]
	}
	if len(value) == 0 || len(value) > MaxValue || !utf8.Valid(value) {
		return
	}
	if r.want != "" {
		if goodName(r.name) {
			r.found = value
		}
		return
	}
	from := len(r.buf)
	r.buf = append(r.buf, r.name...)
	r.all = append(r.all, Field{Name: r.buf[from:len(r.buf):len(r.buf)], Value: value})
}

func (r *Reader) has(name []byte) bool {
	for i := range r.all {
		if bytes.Equal(r.all[i].Name, name) {
			return true
		}
	}
	return false
}

func goodName(name []byte) bool {
	for _, c := range name {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return len(name) > 0 && utf8.Valid(name)
}

// isPlain reports whether c is a character that no writer of JSON escapes by its number: others are, such as < by Go and all
// that is not ASCII by Python.
func isPlain(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || strings.IndexByte(" -./:_@", c) >= 0
}

// Words returns words, folded, which are whole words of every text that has a field with the name s, or with a value that
// folds to what s does. with prefix s is only what the value begins with.
func Words(s string, prefix bool) (out []string) {
	eachWord(s, prefix, func(word string) { out = append(out, words.FoldString(word)) })
	return out
}

func needle(name string) (piece string) {
	eachWord(name, false, func(word string) {
		if len(word) > len(piece) {
			piece = word
		}
	})
	return piece
}

// eachWord calls fn for the ASCII words of s that stand in a text as they are: at the beginning, or behind a plain character.
func eachWord(s string, prefix bool, fn func(word string)) {
	for sc := (words.Scanner{Text: []byte(s)}); sc.Next(); {
		word := s[sc.Start:sc.End]
		if sc.Start > 0 && !isPlain(s[sc.Start-1]) || !words.ASCII(word) || prefix && sc.End == len(s) {
			continue
		}
		fn(word)
	}
}
