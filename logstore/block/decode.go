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

	secs   sections
	buf    []byte
	byName bool
	fields fieldSet
}

// Text is the decoded text of a block: text i ends at Ends[i].
type Text struct {
	Bytes []byte
	Ends  []uint32

	secs sections
	buf  []byte
	view *View // of version 2
}

// What says which columns are wanted besides times and severities. ByName leaves fields that are kept by name undecoded
// (Columns.ByName): they are read when they are asked for, and the bytes of the block must not change until then. NoTimes leaves
// the times out, which are more bytes than all severities: Columns.Times is empty then.
type What struct{ Positions, Fields, ByName, NoTimes bool }

// DecodeColumns reads a container of columns into out. The lines are count many.
func (c *Codec) DecodeColumns(out *Columns, b []byte, count int, what What) error {
	if count < 0 || count > 1<<20 {
		return fmt.Errorf("%w: %d lines", ErrDamaged, count)
	}
	version, secs, err := c.unpack(out.secs, b)
	if err != nil {
		return err
	}
	if version >= Version2 && count > MaxLines {
		return fmt.Errorf("%w: %d lines", ErrDamaged, count)
	}
	out.secs = secs
	out.N = count
	out.Fields, out.byName = nil, false
	load := func(id uint32) (reader, error) {
		if out.buf, err = c.raw(out.buf, secs.get(id)); err != nil {
			return reader{}, fmt.Errorf("section %d: %w", id, err)
		}
		return reader{b: out.buf}, nil
	}
	var r reader
	bad := false
	if out.Times = out.Times[:0]; !what.NoTimes {
		if r, err = load(secTimes); err != nil {
			return err
		}
		out.Times = grow(out.Times, count)
		bad = !readTimes(&r, out.Times, version)
	}
	if out.Severities, err = c.raw(out.Severities, secs.get(secSeverities)); err != nil {
		return fmt.Errorf("section %d: %w", secSeverities, err)
	}
	bad = bad || len(out.Severities) != count
	most := byte(0)
	for _, s := range out.Severities {
		most = max(most, s)
	}
	bad = bad || most > byte(wire.SeverityCritical)
	if what.Positions {
		if err := c.DecodePositions(out); err != nil {
			return err
		}
	}
	if _, there := secs.find(secFields); what.Fields && there {
		r, err := load(secFields)
		if err != nil {
			return err
		}
		bad = !out.fieldRows(&r) || bad
	}
	if _, there := secs.find(secFieldNames); what.Fields && there {
		if err := out.fields.open(c, secs, count); err != nil {
			return err
		}
		if out.byName = true; !what.ByName {
			if s, there := secs.find(secFieldSpans); there { // for whoever looks for damage
				if out.buf, err = c.raw(out.buf, s); err != nil {
					return fmt.Errorf("section %d: %w", secFieldSpans, err)
				}
			}
			if err := out.spread(); err != nil {
				return err
			}
		}
	}
	if bad {
		return fmt.Errorf("%w: a column is not %d lines long", ErrDamaged, count)
	}
	return nil
}

// readTimes reads all times and reports whether there was nothing else.
func readTimes(r *reader, times []int64, version byte) bool {
	if version == Version1 {
		varints(r, times)
	} else if unit := r.uvarint(1e9); len(times) > 0 {
		times[0] = r.varint()
		r.uvarints(times[1:], times[0], unit)
	}
	return !r.bad && len(r.b) == 0
}

// DecodePositions reads the positions that DecodeColumns left out, whose bytes must not have changed.
func (c *Codec) DecodePositions(out *Columns) (err error) {
	if out.buf, err = c.raw(out.buf, out.secs.get(secIndexes)); err != nil {
		return fmt.Errorf("section %d: %w", secIndexes, err)
	}
	r := reader{b: out.buf}
	out.Indexes = grow(out.Indexes, out.N)
	varints(&r, out.Indexes)
	bad := r.bad || len(r.b) != 0
	if out.buf, err = c.raw(out.buf, out.secs.get(secOrdinals)); err != nil {
		return fmt.Errorf("section %d: %w", secOrdinals, err)
	}
	r = reader{b: out.buf}
	out.Ords = grow(out.Ords, out.N)
	varints(&r, out.Ords)
	if bad || r.bad || len(r.b) != 0 {
		return fmt.Errorf("%w: positions are not of %d lines", ErrDamaged, out.N)
	}
	return nil
}

// fieldRows reads the fields line by line; the strings are copies of their own, made in one piece.
func (c *Columns) fieldRows(r *reader) bool {
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
	if len(b) > 0 && b[0] != Version1 {
		if out.view == nil {
			out.view = &View{}
		}
		if _, err := c.View(out.view, b, count); err != nil {
			return err
		}
		return out.view.decode(out)
	}
	_, secs, err := c.unpack(out.secs, b)
	if err != nil {
		return err
	}
	out.secs = secs
	return c.readTexts(out, secs, count)
}

// readTexts reads texts that are one behind the other.
func (c *Codec) readTexts(out *Text, secs sections, count int) (err error) {
	if out.Bytes, err = c.raw(out.Bytes, secs.get(secText)); err != nil {
		return fmt.Errorf("section %d: %w", secText, err)
	}
	if out.buf, err = c.raw(out.buf, secs.get(secLengths)); err != nil {
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
