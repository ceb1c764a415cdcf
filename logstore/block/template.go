package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/triward/triward/agent/wire"
)

// encoder is the memory of one Encode.
type encoder struct {
	cut   cutter
	cols  columnWriter
	rows  [][]int32 // lines of each template
	slots []values  // of one template
	data  []byte
	ends  []uint32

	check        View
	checkCols    Columns
	checkMinutes Minutes
	labels       []wire.Label
}

// maxKept bounds the memory that an encoder keeps for the next block.
const maxKept = 4 << 20

func (c *Codec) encoder() *encoder {
	if e, ok := c.encoders.Get().(*encoder); ok {
		return e
	}
	return &encoder{}
}

func (c *Codec) release(e *encoder) {
	kept := cap(e.data)
	for i := range e.slots {
		kept += cap(e.slots[i].data)
	}
	if cap(e.cut.spans) < maxKept/8 && kept < maxKept && cap(e.cols.all) < maxKept && e.check.Decompressed() < 2*maxKept {
		c.encoders.Put(e)
	}
}

// text writes the container of text of version 2 and gives the words of the lines to voc, when there is one.
func (e *encoder) text(c *Codec, lines []Line, size int, voc *Vocabulary) ([]byte, error) {
	k := &e.cut
	kept := k.cut(lines)
	for len(e.rows) < kept {
		e.rows = append(e.rows, nil)
	}
	for t := range kept {
		e.rows[t] = e.rows[t][:0]
	}
	ids := make([]byte, len(lines), 2*len(lines)) // low bytes, then high ones when they are needed
	var lengths, flat []byte
	for i := range lines {
		id := k.idOf(i)
		ids[i] = byte(id)
		if id > 0 {
			e.rows[id-1] = append(e.rows[id-1], int32(i))
			continue
		}
		lengths = binary.AppendUvarint(lengths, uint64(len(lines[i].Text)))
		flat = append(flat, lines[i].Text...)
		if voc != nil {
			voc.Add(lines[i].Text)
		}
	}
	if kept > 255 {
		for i := range lines {
			ids = append(ids, byte(k.idOf(i)>>8))
		}
	}
	dict := binary.AppendUvarint(nil, uint64(size))
	dict = binary.AppendUvarint(dict, uint64(kept))
	e.cols.reset()
	var classes, slotLengths []byte
	for t := range kept {
		rows := e.rows[t]
		exemplar := int(rows[0])
		text, slots := lines[exemplar].Text, int(k.first[exemplar+1]-k.first[exemplar])
		dict = binary.AppendUvarint(dict, uint64(len(rows)))
		dict = binary.AppendUvarint(dict, uint64(slots))
		k.pieces(text, exemplar, func(p []byte) { dict = binary.AppendUvarint(dict, uint64(len(p))) })
		k.pieces(text, exemplar, func(p []byte) {
			dict = append(dict, p...)
			if voc != nil {
				voc.Add(p)
			}
		})
		classes = classes[:0]
		e.gather(lines, rows, slots)
		for s := range slots {
			classes = append(classes, byte(e.column(&e.slots[s], voc)))
			slotLengths = lengthsOf(slotLengths, e.slots[s].ends)
		}
		dict = append(dict, classes...)
	}
	e.cols.flush()
	dict = e.cols.appendCounts(dict)
	secs := make([]section, 0, 4+len(e.cols.groups))
	if len(lengths) > 0 {
		secs = append(secs, section{secLengths, lengths}, section{secText, flat})
	}
	secs = append(secs, section{secTemplates, dict}, section{secTemplateIDs, ids})
	secs = append(secs, e.cols.groups...)
	if len(slotLengths) > 0 {
		secs = append(secs, section{secSlotLengths, slotLengths})
	}
	return c.pack(Version2, secs)
}

// values are those of a column: value k ends at ends[k] of data.
type values struct {
	data []byte
	ends []uint32
}

func (v *values) add(text []byte, s span) {
	const most = 16 // bytes that are copied faster at once
	n := len(v.data)
	if s.end-s.start <= most && int(s.start)+most <= len(text) && n+most <= cap(v.data) {
		*(*[most]byte)(v.data[n : n+most]) = *(*[most]byte)(text[s.start:])
		v.data = v.data[:n+int(s.end-s.start)]
	} else {
		v.data = append(v.data, text[s.start:s.end]...)
	}
	v.ends = append(v.ends, uint32(len(v.data)))
}

// gather puts the values of the lines of a template into slots.
func (e *encoder) gather(lines []Line, rows []int32, slots int) {
	for len(e.slots) < slots {
		e.slots = append(e.slots, values{})
	}
	for s := range slots {
		e.slots[s].data, e.slots[s].ends = e.slots[s].data[:0], e.slots[s].ends[:0]
	}
	into := e.slots[:slots]
	for _, i := range rows {
		text, spans := lines[i].Text, e.cut.spans[e.cut.first[i]:]
		for s := range into {
			into[s].add(text, spans[s])
		}
	}
}

// column writes the values of a slot and returns what characters they have.
func (e *encoder) column(v *values, voc *Vocabulary) Classes {
	distinct := e.cols.put(v.data, v.ends)
	if distinct == nil {
		at := uint32(0)
		for _, end := range v.ends {
			if voc != nil {
				voc.addWord(v.data[at:end])
			}
			at = end
		}
		return classesOf(v.data)
	}
	classes := Classes(0)
	for _, k := range distinct {
		word := valueAt(v.data, v.ends, k)
		if classes |= classesOf(word); voc != nil {
			voc.addWord(word)
		}
	}
	return classes
}

// fieldColumns writes the fields by name. ok is false when the fields of a line are not sorted by name, each once, or when
// there are very many names; such fields are written line by line.
func (e *encoder) fieldColumns(lines []Line) (secs []section, ok bool) {
	byName := map[string][]int32{}
	for i := range lines {
		for j, f := range lines[i].Fields {
			if j > 0 && lines[i].Fields[j-1].Name >= f.Name {
				return nil, false
			}
			byName[f.Name] = append(byName[f.Name], int32(i))
		}
		if len(byName) > maxFieldNames {
			return nil, false
		}
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	dir := binary.AppendUvarint(nil, uint64(len(names)))
	e.cols.reset()
	bitmap := make([]byte, (len(lines)+7)/8)
	var spans []byte
	listed := 0
	for _, name := range names {
		rows := byName[name]
		dir = appendString(dir, name)
		dir = binary.AppendUvarint(dir, uint64(len(rows)))
		if len(rows) < len(lines) {
			clear(bitmap)
			for _, i := range rows {
				bitmap[i/8] |= 1 << (i % 8)
			}
			dir = append(dir, bitmap...)
		}
		e.data, e.ends = e.data[:0], e.ends[:0]
		for _, i := range rows {
			e.data = append(e.data, wire.Labels(lines[i].Fields).Get(name)...)
			e.ends = append(e.ends, uint32(len(e.data)))
		}
		if span, known := spanOf(e.data, e.ends, e.cols.put(e.data, e.ends)); known && listed < maxSpans {
			spans = appendSpan(spans, name, span)
			listed++
		}
	}
	e.cols.flush()
	dir = e.cols.appendCounts(dir)
	secs = append([]section{{secFieldNames, dir}}, e.cols.groups...)
	return append(secs, section{secFieldSpans, append(binary.AppendUvarint(nil, uint64(listed)), spans...)}), true
}

var errDifferent = errors.New("what was encoded decodes to something else")

// verify decodes a block and compares it with the lines it was made of.
func (e *encoder) verify(c *Codec, lines []Line, columns, text []byte) error {
	cols := &e.checkCols
	if err := c.DecodeColumns(cols, columns, len(lines), What{Positions: true, Fields: true, ByName: true}); err != nil {
		return fmt.Errorf("columns: %w", err)
	}
	for i := range lines {
		l := &lines[i]
		if cols.Times[i] != l.T || cols.Indexes[i] != l.Index || cols.Ords[i] != l.Ord || cols.Severities[i] != byte(l.Severity) {
			return fmt.Errorf("%w: columns of line %d", errDifferent, i)
		}
		var err error
		if e.labels, err = cols.AppendFields(e.labels[:0], i); err != nil {
			return fmt.Errorf("fields: %w", err)
		}
		if !slices.Equal(e.labels, l.Fields) {
			return fmt.Errorf("%w: fields of line %d", errDifferent, i)
		}
	}
	clear(e.labels[:cap(e.labels)])
	if err := e.verifyMinutes(c, lines, columns); err != nil {
		return fmt.Errorf("minutes: %w", err)
	}
	ok, err := c.View(&e.check, text, len(lines))
	if err == nil && ok {
		err = e.check.loadAll()
	}
	if err != nil {
		return fmt.Errorf("text: %w", err)
	}
	if !ok {
		return fmt.Errorf("%w: version of the text", errDifferent)
	}
	if i := e.check.differs(lines); i >= 0 {
		return fmt.Errorf("%w: text of line %d", errDifferent, i)
	}
	return nil
}
