package block

import (
	"fmt"

	"github.com/triward/triward/agent/wire"
)

// Columns are the decoded columns of a block. Decoding into one again reuses its memory.
type Columns struct {
	N          int
	Times      []int64
	Severities []byte
	Indexes    []uint64
	Ords       []uint32
	Fields     [][]wire.Label // nil unless asked for and there are any

	buf, strs []byte
}

// Text is the decoded text of a block: text i ends at Ends[i].
type Text struct {
	Bytes []byte
	Ends  []uint32

	buf []byte
}

// What says which columns are wanted besides times and severities.
type What struct{ Positions, Fields bool }

// DecodeColumns reads a container of columns into out. The lines are count many.
func (c *Codec) DecodeColumns(out *Columns, b []byte, count int, what What) error {
	if count < 0 || count > 1<<20 {
		return fmt.Errorf("%w: %d lines", ErrDamaged, count)
	}
	secs, err := c.unpack(b)
	if err != nil {
		return err
	}
	out.N = count
	out.Fields = nil
	load := func(id byte) (reader, error) {
		if out.buf, err = c.raw(out.buf[:0], secs[id]); err != nil {
			return reader{}, fmt.Errorf("section %d: %w", id, err)
		}
		return reader{b: out.buf}, nil
	}
	r, err := load(secTimes)
	if err != nil {
		return err
	}
	out.Times = grow(out.Times, count)
	var t int64
	for i := range out.Times {
		t += r.varint()
		out.Times[i] = t
	}
	bad := r.bad || len(r.b) != 0
	if out.Severities, err = c.raw(out.Severities[:0], secs[secSeverities]); err != nil {
		return fmt.Errorf("section %d: %w", secSeverities, err)
	}
	bad = bad || len(out.Severities) != count
	for _, s := range out.Severities {
		bad = bad || s > byte(wire.SeverityCritical)
	}
	if what.Positions {
		if r, err = load(secIndexes); err != nil {
			return err
		}
		out.Indexes = grow(out.Indexes, count)
		var index uint64
		for i := range out.Indexes {
			index += uint64(r.varint())
			out.Indexes[i] = index
		}
		bad = bad || r.bad || len(r.b) != 0
		if r, err = load(secOrdinals); err != nil {
			return err
		}
		out.Ords = grow(out.Ords, count)
		var ord int64
		for i := range out.Ords {
			ord += r.varint()
			out.Ords[i] = uint32(ord)
		}
		bad = bad || r.bad || len(r.b) != 0
	}
	if _, there := secs[secFields]; what.Fields && there {
		if r, err = load(secFields); err != nil {
			return err
		}
		bad = !out.fields(&r) || bad
	}
	if bad {
		return fmt.Errorf("%w: a column is not %d lines long", ErrDamaged, count)
	}
	return nil
}

// fields reads the fields; the strings are copies of their own, made in one piece.
func (c *Columns) fields(r *reader) bool {
	all := string(r.b)
	take := func() string {
		n := int(r.uvarint(MaxRaw))
		at := len(all) - len(r.b)
		if r.bytes(n); r.bad {
			return ""
		}
		return all[at : at+n]
	}
	c.Fields = make([][]wire.Label, c.N)
	for i := range c.Fields {
		n := int(r.uvarint(2 * wire.MaxFields))
		if n == 0 {
			continue
		}
		ls := make([]wire.Label, n)
		for j := range ls {
			ls[j].Name = take()
			ls[j].Value = take()
		}
		c.Fields[i] = ls
	}
	return !r.bad && len(r.b) == 0
}

// DecodeText reads a container of text into out.
func (c *Codec) DecodeText(out *Text, b []byte, count int) error {
	if count < 0 || count > 1<<20 {
		return fmt.Errorf("%w: %d lines", ErrDamaged, count)
	}
	secs, err := c.unpack(b)
	if err != nil {
		return err
	}
	if out.Bytes, err = c.raw(out.Bytes[:0], secs[secText]); err != nil {
		return fmt.Errorf("section %d: %w", secText, err)
	}
	if out.buf, err = c.raw(out.buf[:0], secs[secLengths]); err != nil {
		return fmt.Errorf("section %d: %w", secLengths, err)
	}
	r := reader{b: out.buf}
	out.Ends = grow(out.Ends, count)
	end := uint64(0)
	for i := range out.Ends {
		end += r.uvarint(MaxRaw)
		if end > uint64(len(out.Bytes)) {
			return fmt.Errorf("%w: lengths of texts", ErrDamaged)
		}
		out.Ends[i] = uint32(end)
	}
	if r.bad || len(r.b) != 0 || end != uint64(len(out.Bytes)) {
		return fmt.Errorf("%w: lengths of texts", ErrDamaged)
	}
	return nil
}

// At returns text i.
func (t *Text) At(i int) []byte {
	if i == 0 {
		return t.Bytes[:t.Ends[0]]
	}
	return t.Bytes[t.Ends[i-1]:t.Ends[i]]
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
