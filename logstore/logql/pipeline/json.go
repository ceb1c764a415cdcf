package pipeline

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/triward/triward/logstore/logql/syntax"
)

const maxJSONDepth = 64

// document walks over a JSON text. It is strict about the form, except that strings may hold any characters.
type document struct {
	s  string
	i  int
	at string // what was wrong
}

func (d *document) fail(what string) bool {
	if d.at == "" {
		d.at = fmt.Sprintf("%s at byte %d", what, d.i)
	}
	return false
}

func (d *document) space() {
	for d.i < len(d.s) {
		switch d.s[d.i] {
		case ' ', '\t', '\n', '\r':
			d.i++
		default:
			return
		}
	}
}

func (d *document) next() byte {
	if d.i < len(d.s) {
		return d.s[d.i]
	}
	return 0
}

// end reports whether nothing but space is left.
func (d *document) end() bool {
	d.space()
	return d.i == len(d.s) || d.fail("something behind the value")
}

// str reads a string and returns what is between its quotes.
func (d *document) str() (raw string, escaped, ok bool) {
	if d.next() != '"' {
		return "", false, d.fail("a string is expected")
	}
	start := d.i + 1
	for i := start; i < len(d.s); i++ {
		switch d.s[i] {
		case '"':
			d.i = i + 1
			return d.s[start:i], escaped, true
		case '\\':
			escaped = true
			i++
		}
	}
	return "", false, d.fail("a string that does not end")
}

// text reads a string and resolves its escapes.
func (d *document) text() (string, bool) {
	raw, escaped, ok := d.str()
	if !ok || !escaped {
		return raw, ok
	}
	s, ok := unescape(raw)
	return s, ok || d.fail("a bad escape")
}

// unescape resolves the escapes of JSON.
func unescape(raw string) (string, bool) {
	var b strings.Builder
	b.Grow(len(raw))
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' {
			n := strings.IndexByte(raw[i:], '\\')
			if n < 0 {
				n = len(raw) - i
			}
			b.WriteString(raw[i : i+n])
			i += n
			continue
		}
		if i+1 >= len(raw) {
			return "", false
		}
		i += 2
		switch raw[i-1] {
		case '"', '\\', '/', '\'':
			b.WriteByte(raw[i-1])
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'r':
			b.WriteByte('\r')
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'u':
			r, ok := hex4(raw[i:])
			if !ok {
				return "", false
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
			b.WriteRune(r)
		default:
			return "", false
		}
	}
	return b.String(), true
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

// scalar reads a number, true, false or null and returns it as written.
func (d *document) scalar() (string, bool) {
	start := d.i
	for d.i < len(d.s) && strings.IndexByte("+-.0123456789eEtrufalsn", d.s[d.i]) >= 0 {
		d.i++
	}
	s := d.s[start:d.i]
	if s == "true" || s == "false" || s == "null" || isNumber(s) {
		return s, true
	}
	d.i = start
	return "", d.fail("a value is expected")
}

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

// members calls fn at the value of each member of the object that begins here; fn reads it.
func (d *document) members(fn func(key string) bool) bool {
	if d.next() != '{' {
		return d.fail("an object is expected")
	}
	d.i++
	for d.space(); d.next() != '}'; {
		key, ok := d.text()
		if !ok {
			return false
		}
		if d.space(); d.next() != ':' {
			return d.fail("a colon is expected")
		}
		d.i++
		d.space()
		if !fn(key) {
			return false
		}
		if d.space(); d.next() == ',' {
			d.i++
			if d.space(); d.next() == '}' {
				return d.fail("a member is expected")
			}
			continue
		}
		if d.next() != '}' {
			return d.fail("a comma or } is expected")
		}
	}
	d.i++
	return true
}

// elements calls fn at each element of the array that begins here.
func (d *document) elements(fn func(n int) bool) bool {
	d.i++
	for n := 0; ; n++ {
		if d.space(); d.next() == ']' && n == 0 {
			break
		}
		if !fn(n) {
			return false
		}
		if d.space(); d.next() == ',' {
			d.i++
			continue
		}
		if d.next() != ']' {
			return d.fail("a comma or ] is expected")
		}
		break
	}
	d.i++
	return true
}

// skip passes over a value, checking its form.
func (d *document) skip(depth int) bool {
	if depth > maxJSONDepth {
		return d.fail("nested too deeply")
	}
	switch d.next() {
	case '{':
		return d.members(func(string) bool { return d.skip(depth + 1) })
	case '[':
		return d.elements(func(int) bool { return d.skip(depth + 1) })
	case '"':
		_, _, ok := d.str()
		return ok
	}
	_, ok := d.scalar()
	return ok
}

// json makes labels of the members of an object; those of objects within have the names joined with _.
type json struct {
	fields []syntax.Extract
	paths  [][]syntax.PathStep
	doc    document
	p      *Pipeline
	name   []byte
	keys   names
	saved  []label
}

func newJSON(s *syntax.JSON) (stage, error) {
	j := &json{fields: s.Fields}
	for _, f := range s.Fields {
		path, err := syntax.ParsePath(f.Path)
		if err != nil {
			return nil, err
		}
		j.paths = append(j.paths, path)
	}
	return j, nil
}

func (j *json) run(p *Pipeline) bool {
	j.p, j.doc = p, document{s: p.str()}
	if len(j.paths) > 0 {
		j.byPath()
		return true
	}
	j.saved = append(j.saved[:0], p.labels.list...)
	j.doc.space()
	j.name = j.name[:0]
	if !j.object(0) || !j.doc.end() {
		p.labels.list = append(p.labels.list[:0], j.saved...) // all or nothing
		p.labels.fail(errJSON, j.doc.at)
	}
	return true
}

// object takes the members of the object at hand, whose own name is in j.name.
func (j *json) object(depth int) bool {
	if depth > maxJSONDepth {
		return j.doc.fail("nested too deeply")
	}
	prefix := len(j.name)
	return j.doc.members(func(key string) bool {
		j.name = j.name[:prefix]
		if prefix > 0 {
			j.name = append(j.name, '_')
		}
		j.name = append(j.name, key...)
		if len(j.name) > 1024 {
			return j.doc.skip(depth + 1)
		}
		switch j.doc.next() {
		case '{':
			return j.object(depth + 1)
		case '[':
			return j.doc.skip(depth + 1) // arrays make no labels
		case '"':
			v, ok := j.doc.text()
			if ok {
				j.put(v)
			}
			return ok
		}
		v, ok := j.doc.scalar()
		if ok && v != "null" {
			j.put(v)
		}
		return ok
	})
}

func (j *json) put(v string) {
	name, ok := j.keys.clean[string(j.name)] // no memory for names seen before
	if !ok {
		name = j.keys.sanitized(string(j.name))
	}
	j.p.extract(name, v, false)
}

// byPath takes the values at paths; objects and arrays as they are written.
func (j *json) byPath() {
	j.doc.space()
	start := j.doc.i
	if j.doc.next() != '{' && j.doc.next() != '[' {
		j.doc.fail("an object is expected")
	}
	if j.doc.at != "" || !j.doc.skip(0) || !j.doc.end() {
		j.p.labels.fail(errJSON, j.doc.at)
		return
	}
	for i, path := range j.paths {
		j.doc.i = start
		if j.seek(path) {
			if v, ok := j.value(); ok {
				j.p.extract(j.fields[i].Label, v, false)
			}
		}
	}
}

// value returns the value at hand: a string without quotes, others as they are written, null as nothing.
func (j *json) value() (string, bool) {
	if j.doc.next() == '"' {
		return j.doc.text()
	}
	from := j.doc.i
	ok := j.doc.skip(0)
	v := j.doc.s[from:j.doc.i]
	return v, ok && v != "null"
}

// seek goes to the value at the path and reports whether there is one.
func (j *json) seek(path []syntax.PathStep) bool {
	d := &j.doc
	for _, step := range path {
		at := -1
		switch c := d.next(); {
		case c == '{' && !step.Array:
			d.members(func(key string) bool {
				if key == step.Name {
					at = d.i
					return false
				}
				return d.skip(0)
			})
		case c == '[' && step.Array:
			d.elements(func(n int) bool {
				if n == step.Index {
					d.space()
					at = d.i
					return false
				}
				d.space()
				return d.skip(0)
			})
		}
		if at < 0 {
			return false
		}
		d.i = at
	}
	return true
}

// unpack makes labels of an object's strings; _entry becomes the line.
type unpack struct {
	doc   document
	saved []label
}

func (u *unpack) run(p *Pipeline) bool {
	u.doc = document{s: p.str()}
	d, entry, packed := &u.doc, "", false
	u.saved = append(u.saved[:0], p.labels.list...)
	d.space()
	ok := d.members(func(key string) bool {
		if d.next() != '"' {
			return d.skip(1)
		}
		v, ok := d.text()
		switch {
		case !ok:
		case key == "_entry":
			entry, packed = v, true
		default:
			p.extract(p.names.sanitized(key), v, false)
		}
		return ok
	}) && d.end()
	if !ok {
		p.labels.list = append(p.labels.list[:0], u.saved...)
		p.labels.fail(errJSON, d.at)
		return true
	}
	if packed {
		p.setLine(entry)
	}
	return true
}
