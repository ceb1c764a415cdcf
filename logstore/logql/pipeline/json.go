package pipeline

import (
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/members"
)

// json makes labels of the members of an object; those of objects within have the names joined with _.
type json struct {
	fields []syntax.Extract
	paths  [][]syntax.PathStep
	doc    members.Document
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
	j.p, j.doc = p, members.Document{S: p.str()}
	if len(j.paths) > 0 {
		j.byPath()
		return true
	}
	j.saved = append(j.saved[:0], p.labels.list...)
	j.doc.Space()
	j.name = j.name[:0]
	if !j.object(0) || !j.doc.End() {
		p.labels.list = append(p.labels.list[:0], j.saved...) // all or nothing
		p.labels.fail(errJSON, j.doc.Bad())
	}
	return true
}

// object takes the members of the object at hand, whose own name is in j.name.
func (j *json) object(depth int) bool {
	if depth > members.MaxDepth {
		return j.doc.Fail("nested too deeply")
	}
	prefix := len(j.name)
	return j.doc.Members(func(key string) bool {
		j.name = j.name[:prefix]
		if prefix > 0 {
			j.name = append(j.name, '_')
		}
		j.name = append(j.name, key...)
		if len(j.name) > 1024 {
			return j.doc.Skip(depth + 1)
		}
		switch j.doc.Next() {
		case '{':
			return j.object(depth + 1)
		case '[':
			return j.doc.Skip(depth + 1) // arrays make no labels
		case '"':
			v, ok := j.doc.Text()
			if ok {
				j.put(v)
			}
			return ok
		}
		v, ok := j.doc.Scalar()
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
	j.doc.Space()
	start := j.doc.I
	if j.doc.Next() != '{' && j.doc.Next() != '[' {
		j.doc.Fail("an object is expected")
	}
	if j.doc.Bad() != "" || !j.doc.Skip(0) || !j.doc.End() {
		j.p.labels.fail(errJSON, j.doc.Bad())
		return
	}
	for i, path := range j.paths {
		j.doc.I = start
		if j.seek(path) {
			if v, ok := j.value(); ok {
				j.p.extract(j.fields[i].Label, v, false)
			}
		}
	}
}

// value returns the value at hand: a string without quotes, others as they are written, null as nothing.
func (j *json) value() (string, bool) {
	if j.doc.Next() == '"' {
		return j.doc.Text()
	}
	from := j.doc.I
	ok := j.doc.Skip(0)
	v := j.doc.S[from:j.doc.I]
	return v, ok && v != "null"
}

// seek goes to the value at the path and reports whether there is one.
func (j *json) seek(path []syntax.PathStep) bool {
	d := &j.doc
	for _, step := range path {
		at := -1
		switch c := d.Next(); {
		case c == '{' && !step.Array:
			d.Members(func(key string) bool {
				if key == step.Name {
					at = d.I
					return false
				}
				return d.Skip(0)
			})
		case c == '[' && step.Array:
			d.Elements(func(n int) bool {
				if n == step.Index {
					d.Space()
					at = d.I
					return false
				}
				d.Space()
				return d.Skip(0)
			})
		}
		if at < 0 {
			return false
		}
		d.I = at
	}
	return true
}

// unpack makes labels of an object's strings; _entry becomes the line.
type unpack struct {
	doc   members.Document
	saved []label
}

func (u *unpack) run(p *Pipeline) bool {
	u.doc = members.Document{S: p.str()}
	d, entry, packed := &u.doc, "", false
	u.saved = append(u.saved[:0], p.labels.list...)
	d.Space()
	ok := d.Members(func(key string) bool {
		if d.Next() != '"' {
			return d.Skip(1)
		}
		v, ok := d.Text()
		switch {
		case !ok:
		case key == "_entry":
			entry, packed = v, true
		default:
			p.extract(p.names.sanitized(key), v, false)
		}
		return ok
	}) && d.End()
	if !ok {
		p.labels.list = append(p.labels.list[:0], u.saved...)
		p.labels.fail(errJSON, d.Bad())
		return true
	}
	if packed {
		p.setLine(entry)
	}
	return true
}
