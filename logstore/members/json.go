package members

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth bounds how deep the values of a document may be nested.
const MaxDepth = 64

// Document walks over a JSON text. It is strict about the form, except that strings may hold any characters.
type Document struct {
	S string
	I int // where it stands

	from  int    // where the last string (behind its quote) or scalar begins
	bad   string // what was wrong first
	badAt int
}

// Fail notes what is wrong here when nothing was before, and returns false.
func (d *Document) Fail(what string) bool {
	if d.bad == "" {
		d.bad, d.badAt = what, d.I
	}
	return false
}

// Bad returns what was wrong first, and where; "" when nothing was.
func (d *Document) Bad() string {
	if d.bad == "" {
		return ""
	}
	return fmt.Sprintf("%s at byte %d", d.bad, d.badAt)
}

// Space goes to what is behind white space.
func (d *Document) Space() {
	for d.I < len(d.S) {
		switch d.S[d.I] {
		case ' ', '\t', '\n', '\r':
			d.I++
		default:
			return
		}
	}
}

// Next returns the byte at which the document stands, 0 at its end.
func (d *Document) Next() byte {
	if d.I < len(d.S) {
		return d.S[d.I]
	}
	return 0
}

// End reports whether nothing but space is left.
func (d *Document) End() bool {
	d.Space()
	return d.I == len(d.S) || d.Fail("something behind the value")
}

// Str reads a string and returns what is between its quotes.
func (d *Document) Str() (raw string, escaped, ok bool) {
	if d.Next() != '"' {
		return "", false, d.Fail("a string is expected")
	}
	start := d.I + 1
	d.from = start
	for i := start; i < len(d.S); i++ {
		switch d.S[i] {
		case '"':
			d.I = i + 1
			return d.S[start:i], escaped, true
		case '\\':
			escaped = true
			i++
		}
	}
	return "", false, d.Fail("a string that does not end")
}

// Text reads a string and resolves its escapes.
func (d *Document) Text() (string, bool) {
	raw, escaped, ok := d.Str()
	if !ok || !escaped {
		return raw, ok
	}
	s, ok := unescape(raw)
	return s, ok || d.Fail("a bad escape")
}

// unescape resolves the escapes of JSON.
func unescape(raw string) (string, bool) {
	b, _, ok := appendUnescaped(make([]byte, 0, len(raw)), raw)
	return string(b), ok
}

// appendUnescaped appends raw with the escapes of JSON resolved. plain is false when one of them stands for a character
// that nobody needs to escape (isPlain).
func appendUnescaped(dst []byte, raw string) (out []byte, plain, ok bool) {
	plain = true
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			n := strings.IndexByte(raw[i:], '\\')
			if n < 0 {
				n = len(raw) - i
			}
			dst = append(dst, raw[i:i+n]...)
			i += n
			continue
		}
		if i+1 >= len(raw) {
			return dst, plain, false
		}
		i += 2
		switch c := raw[i-1]; c {
		case '"', '\\', '/', '\'':
			dst = append(dst, c)
		case 'n':
			dst = append(dst, '\n')
		case 't':
			dst = append(dst, '\t')
		case 'r':
			dst = append(dst, '\r')
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'u':
			r, ok := hex4(raw[i:])
			if !ok {
				return dst, plain, false
			}
			i += 4
			if utf16.IsSurrogate(r) {
				low, ok := rune(0), false
				if strings.HasPrefix(raw[i:], `\u`) {
					low, ok = hex4(raw[i+2:])
				}
				if r = utf16.DecodeRune(r, low); ok && r != utf8.RuneError {
					i += 6
				}
			}
			plain = plain && (r >= utf8.RuneSelf || !isPlain(byte(r)))
			dst = utf8.AppendRune(dst, r)
		default:
			return dst, plain, false
		}
	}
	return dst, plain, true
}

func hex4(s string) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for i := range 4 {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// Scalar reads a number, true, false or null and returns it as written.
func (d *Document) Scalar() (string, bool) {
	start := d.I
	d.from = start
	for d.I < len(d.S) && ofScalar[d.S[d.I]] {
		d.I++
	}
	s := d.S[start:d.I]
	if IsScalar(s) {
		return s, true
	}
	d.I = start
	return "", d.Fail("a value is expected")
}

// ofScalar are the bytes of numbers, true, false and null.
var ofScalar = func() (of [256]bool) {
	for _, c := range []byte("+-.0123456789eEtrufalsn") {
		of[c] = true
	}
	return of
}()

func isNumber(s string) bool {
	i := 0
	digits := func() bool {
		n := i
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return i > n
	}
	if i < len(s) && s[i] == '-' {
		i++
	}
	zero := i < len(s) && s[i] == '0'
	n := i
	if !digits() || zero && i > n+1 {
		return false
	}
	if i < len(s) && s[i] == '.' {
		if i++; !digits() {
			return false
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(s)
}

// Enter goes into the object that begins here. What follows is read by Member.
func (d *Document) Enter() bool {
	if d.Next() != '{' {
		return d.Fail("an object is expected")
	}
	d.I++
	return true
}

// Member goes to the value of the next member, the first one or that behind the value which was read, and returns what is
// between the quotes of its name. more is false behind the last one.
func (d *Document) Member(first bool) (raw string, escaped, more, ok bool) {
	d.Space()
	switch c := d.Next(); {
	case first:
	case c == ',':
		d.I++
		if d.Space(); d.Next() == '}' {
			return "", false, false, d.Fail("a member is expected")
		}
	case c != '}':
		return "", false, false, d.Fail("a comma or } is expected")
	}
	if d.Next() == '}' {
		d.I++
		return "", false, false, true
	}
	if raw, escaped, ok = d.Str(); !ok {
		return "", false, false, false
	}
	if d.Space(); d.Next() != ':' {
		return "", false, false, d.Fail("a colon is expected")
	}
	d.I++
	d.Space()
	return raw, escaped, true, true
}

// Members calls fn at the value of each member of the object that begins here; fn reads it.
func (d *Document) Members(fn func(key string) bool) bool {
	if !d.Enter() {
		return false
	}
	for first := true; ; first = false {
		key, escaped, more, ok := d.Member(first)
		if !ok || !more {
			return ok
		}
		if escaped {
			if key, ok = unescape(key); !ok {
				return d.Fail("a bad escape")
			}
		}
		if !fn(key) {
			return false
		}
	}
}

// Elements calls fn at each element of the array that begins here.
func (d *Document) Elements(fn func(n int) bool) bool {
	d.I++
	for n := 0; ; n++ {
		if d.Space(); d.Next() == ']' && n == 0 {
			break
		}
		if !fn(n) {
			return false
		}
		if d.Space(); d.Next() == ',' {
			d.I++
			continue
		}
		if d.Next() != ']' {
			return d.Fail("a comma or ] is expected")
		}
		break
	}
	d.I++
	return true
}

// Skip passes over a value, checking its form.
func (d *Document) Skip(depth int) bool {
	if depth > MaxDepth {
		return d.Fail("nested too deeply")
	}
	switch d.Next() {
	case '{':
		return d.Members(func(string) bool { return d.Skip(depth + 1) })
	case '[':
		return d.Elements(func(int) bool { return d.Skip(depth + 1) })
	case '"':
		_, _, ok := d.Str()
		return ok
	}
	_, ok := d.Scalar()
	return ok
}
