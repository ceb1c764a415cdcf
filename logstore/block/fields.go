package block

import (
	"fmt"
	"math/bits"

	"github.com/triward/triward/agent/wire"
)

// Field are the values that the lines of a block have under one name. It is valid until its Columns are decoded into again.
type Field struct {
	Name string

	set    *fieldSet
	column int
	lines  int
	bitmap []byte   // of the lines that have it, nil for all
	rows   []uint16 // of each line, when there is a bitmap; made when it is first needed
	text   string   // all values, made when it is first needed
}

// fieldSet are the fields of a block by name.
type fieldSet struct {
	dir    []byte
	fields []Field
	cols   columnSet
	lens   []uint32
}

// open reads the names. lines is the number of lines of the block.
func (s *fieldSet) open(c *Codec, secs sections, lines int) (err error) {
	if s.dir, err = c.raw(s.dir, secs.get(secFieldNames)); err != nil {
		return fmt.Errorf("section %d: %w", secFieldNames, err)
	}
	bad := fmt.Errorf("%w: names of fields", ErrDamaged)
	r := reader{b: s.dir}
	s.fields, s.lens = s.fields[:0], s.lens[:0]
	total := 0
	for i := range int(r.uvarint(maxFieldNames)) {
		f := Field{Name: string(r.bytes(int(r.uvarint(MaxRaw)))), set: s, column: i, lines: lines}
		n := int(r.uvarint(uint64(lines)))
		if n < lines {
			f.bitmap = r.bytes((lines + 7) / 8)
			if r.bad || f.count() != n {
				return bad
			}
		}
		if total += n; r.bad || n == 0 || total > 2*wire.MaxFields*lines || i > 0 && s.fields[i-1].Name >= f.Name {
			return bad
		}
		s.fields, s.lens = append(s.fields, f), append(s.lens, uint32(n))
	}
	if !s.cols.open(c, secs, s.lens, &r) || len(r.b) != 0 {
		return bad
	}
	return nil
}

func (f *Field) count() (n int) {
	if f.bitmap == nil {
		return f.lines
	}
	for i, b := range f.bitmap {
		if last := f.lines - 8*i; last < 8 { // bits behind the last line say nothing
			b &= 1<<last - 1
		}
		n += bits.OnesCount8(b)
	}
	return n
}

// Has reports whether line i has the field.
func (f *Field) Has(i int) bool { return f.bitmap == nil || f.bitmap[i/8]&(1<<(i%8)) != 0 }

// Each calls fn for the lines that have the field, ascending, with the row of the value (Values).
func (f *Field) Each(fn func(line, row int)) {
	if f.bitmap == nil {
		for i := range f.lines {
			fn(i, i)
		}
		return
	}
	row := 0
	for i, b := range f.bitmap {
		for ; b != 0; b &= b - 1 {
			if line := 8*i + bits.TrailingZeros8(b); line < f.lines {
				fn(line, row)
				row++
			}
		}
	}
}

// Values returns the values; errors wrap ErrDamaged.
func (f *Field) Values() (*Values, error) { return f.set.cols.column(f.column) }

// row returns the row of a line that has the field.
func (f *Field) row(line int) int {
	if f.bitmap == nil {
		return line
	}
	if f.rows == nil {
		f.rows = make([]uint16, f.lines)
		f.Each(func(line, row int) { f.rows[line] = uint16(row) })
	}
	return int(f.rows[line])
}

// at returns the value of a line that has the field.
func (f *Field) at(line int) (string, error) {
	v, err := f.Values()
	if err != nil {
		return "", err
	}
	if f.text == "" {
		f.text = string(v.data)
	}
	from, to := v.place(v.Entry(f.row(line)))
	return f.text[from:to], nil
}

// ByName reports whether the fields are there by their names (Field) and not in Fields.
func (c *Columns) ByName() bool { return c.byName }

// Field returns the field of a name, nil when no line has it. It needs ByName.
func (c *Columns) Field(name string) *Field {
	for i := range c.fields.fields {
		if c.fields.fields[i].Name == name {
			return &c.fields.fields[i]
		}
	}
	return nil
}

// AppendFields appends the fields of line i. Errors wrap ErrDamaged.
func (c *Columns) AppendFields(dst []wire.Label, i int) ([]wire.Label, error) {
	if !c.byName {
		if c.Fields != nil {
			dst = append(dst, c.Fields[i]...)
		}
		return dst, nil
	}
	for k := range c.fields.fields {
		f := &c.fields.fields[k]
		if !f.Has(i) {
			continue
		}
		value, err := f.at(i)
		if err != nil {
			return dst, err
		}
		dst = append(dst, wire.Label{Name: f.Name, Value: value})
	}
	return dst, nil
}

// spread makes Fields of the fields by name.
func (c *Columns) spread() (err error) {
	total := 0
	for _, n := range c.fields.lens {
		total += int(n)
	}
	arena := make([]wire.Label, 0, total)
	c.Fields = make([][]wire.Label, c.N)
	for i := range c.Fields {
		from := len(arena)
		if arena, err = c.AppendFields(arena, i); err != nil {
			return err
		}
		if len(arena) > from {
			c.Fields[i] = arena[from:len(arena):len(arena)]
		}
	}
	c.byName = false
	return nil
}
