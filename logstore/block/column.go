package block

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"
)

// A column holds the values of one slot of a template, or of one field, line by line. Its bytes: kind byte, then
//
//	0 constant   uvarint length, bytes: all values are the same
//	1 dictionary uvarint n (at most 255), n times uvarint length and bytes, then a byte for each value
//	2 fixed      uvarint length, then all values: all have this length
//	3 any        a uvarint length for each value, then all values
//	4 counting   uvarint digits (at most 18), then for each value, a decimal number of so many digits, the varint
//	             difference from the one before (the first: from 0)
//
// Columns that follow each other are put into one section until it has groupBytes.
const (
	columnConstant = iota
	columnDictionary
	columnFixed
	columnAny
	columnCounting
)

const (
	groupBytes    = 16 << 10
	idWidth       = 16      // so long are ids at least: columns of them are looked at for an id, and for nothing else,
	idBytes       = 1 << 10 // and are in sections of their own when they have as many bytes
	maxDictionary = 255
	maxDigits     = 18
)

// columnWriter collects columns into sections.
type columnWriter struct {
	groups []section // of the memory of all
	counts []int     // columns of each group
	all    []byte
	from   int // of all, where the current group begins
	n      int // columns in it

	table  [1024]uint8 // of dictionary, entry + 1
	first  []int       // the row where each entry comes first
	keys   [maxDictionary]uint64
	ids    []byte
	deltas []byte
}

// put adds a column of values: value k ends at ends[k] of data. It returns the rows that hold every distinct value, nil
// when that may be all of them; they are valid until the next call.
func (w *columnWriter) put(data []byte, ends []uint32) (distinct []int) {
	w.n++
	begin, alone := len(w.all), false
	switch width, same := shape(data, ends); {
	case same:
		w.all = appendBytes(append(w.all, columnConstant), data[:ends[0]])
		distinct = append(w.first[:0], 0)
		w.first = distinct
	case w.dictionary(data, ends):
		w.all = binary.AppendUvarint(append(w.all, columnDictionary), uint64(len(w.first)))
		for _, k := range w.first {
			w.all = appendBytes(w.all, valueAt(data, ends, k))
		}
		w.all = append(w.all, w.ids...)
		distinct = w.first
	case width >= 0 && w.counting(data, width):
		w.all = binary.AppendUvarint(append(w.all, columnCounting), uint64(width))
		w.all = append(w.all, w.deltas...)
	case width >= 0:
		w.all = binary.AppendUvarint(append(w.all, columnFixed), uint64(width))
		w.all = append(w.all, data...)
		alone = width >= idWidth && len(data) >= idBytes
	default:
		w.all = append(w.all, columnAny)
		at := uint32(0)
		for _, end := range ends {
			w.all = binary.AppendUvarint(w.all, uint64(end-at))
			at = end
		}
		w.all = append(w.all, data...)
	}
	if w.n > 1 && (alone || len(w.all)-begin >= groupBytes/2) { // whoever asks for those before need not decompress it
		w.flushBefore(begin)
	}
	if alone || len(w.all)-w.from >= groupBytes {
		w.flush()
	}
	return distinct
}

func (w *columnWriter) flush() {
	if w.n > 0 {
		w.group(len(w.all), w.n)
	}
}

// flushBefore ends the group before the last column, which begins at `begin` of all.
func (w *columnWriter) flushBefore(begin int) { w.group(begin, w.n-1) }

func (w *columnWriter) group(end, columns int) {
	w.groups = append(w.groups, section{secColumns + uint32(len(w.groups)), w.all[w.from:end:end]})
	w.counts = append(w.counts, columns)
	w.from, w.n = end, w.n-columns
}

func (w *columnWriter) reset() {
	w.groups, w.counts, w.all, w.from, w.n = w.groups[:0], w.counts[:0], w.all[:0], 0, 0
}

// appendCounts appends how many groups there are and how many columns each has.
func (w *columnWriter) appendCounts(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(w.counts)))
	for _, n := range w.counts {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	return dst
}

func valueAt(data []byte, ends []uint32, k int) []byte {
	if k == 0 {
		return data[:ends[0]]
	}
	return data[ends[k-1]:ends[k]]
}

// shape returns the length of all values, -1 when they differ in it, and whether they are the same.
func shape(data []byte, ends []uint32) (width int, same bool) {
	width, same = int(ends[0]), true
	at := ends[0]
	for k := 1; k < len(ends); k++ {
		if int(ends[k]-at) != width {
			return -1, false
		}
		same = same && bytes.Equal(data[at:ends[k]], data[:width])
		at = ends[k]
	}
	return width, same
}

// dictionary fills first and ids when there are few distinct values.
func (w *columnWriter) dictionary(data []byte, ends []uint32) bool {
	w.first, w.ids = w.first[:0], w.ids[:0]
	clear(w.table[:])
	at := uint32(0)
	for k, end := range ends {
		key := keyOf(data, at, end)
		i := key * 0x9e3779b97f4a7c15 >> 54 // of the table
		for {
			e := int(w.table[i]) - 1
			if e < 0 {
				if len(w.first) >= maxDictionary || len(w.first) > 16+k/4 {
					return false
				}
				w.keys[len(w.first)] = key
				w.first = append(w.first, k)
				w.table[i] = uint8(len(w.first))
				w.ids = append(w.ids, byte(len(w.first)-1))
				break
			}
			if w.keys[e] == key && bytes.Equal(valueAt(data, ends, w.first[e]), data[at:end]) {
				w.ids = append(w.ids, byte(e))
				break
			}
			i = (i + 1) % uint64(len(w.table))
		}
		at = end
	}
	return true
}

// keyOf returns a hash of data[at:end].
func keyOf(data []byte, at, end uint32) (key uint64) {
	n := end - at
	switch {
	case n > 8:
		return xxh3.Hash(data[at:end])
	case int(at)+8 <= len(data):
		return binary.LittleEndian.Uint64(data[at:]) << (64 - 8*n) // of no byte it is 0
	}
	for _, b := range data[at:end] {
		key = key>>8 | uint64(b)<<56
	}
	return key
}

// counting fills deltas when the values are decimal numbers of so many digits that hardly change from one to the next.
func (w *columnWriter) counting(data []byte, width int) bool {
	if width < 3 || width > maxDigits {
		return false
	}
	w.deltas = w.deltas[:0]
	bound := len(data)/3 + width
	before := int64(0)
	for at := 0; at < len(data); at += width {
		n := int64(0)
		for _, d := range data[at : at+width] {
			if d < '0' || d > '9' {
				return false
			}
			n = 10*n + int64(d-'0')
		}
		if w.deltas = binary.AppendVarint(w.deltas, n-before); len(w.deltas) > at/3+64 || len(w.deltas) > bound {
			return false
		}
		before = n
	}
	return true
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// Values is a decoded column. It is valid until its View or Columns are opened on another block.
type Values struct {
	raw     []byte // what it was read from, until it is parsed
	rows    int
	entries int      // distinct values rows refer to; as many as rows when every row has its own
	ids     []byte   // of a dictionary: the entry of each row
	width   int      // of all entries, when ends is nil
	ends    []uint32 // of entries
	data    []byte
	size    int // bytes of all values
}

// Len returns the number of rows.
func (v *Values) Len() int { return v.rows }

// Entries returns the number of values that rows refer to (Entry): fewer than rows when values repeat.
func (v *Values) Entries() int { return v.entries }

// Entry returns the number of the value of row k.
func (v *Values) Entry(k int) int {
	switch {
	case v.ids != nil:
		return int(v.ids[k])
	case v.entries == v.rows:
		return k
	}
	return 0
}

// Value returns the value numbered e.
func (v *Values) Value(e int) []byte {
	from, to := v.place(e)
	return v.data[from:to:to]
}

// place returns where in data the value numbered e is.
func (v *Values) place(e int) (from, to int) {
	switch {
	case v.ends == nil:
		return e * v.width, (e + 1) * v.width
	case e == 0:
		return 0, int(v.ends[0])
	}
	return int(v.ends[e-1]), int(v.ends[e])
}

// At returns the value of row k.
func (v *Values) At(k int) []byte { return v.Value(v.Entry(k)) }

// Width returns the length of all values, or false when they differ in it.
func (v *Values) Width() (int, bool) { return v.width, v.ends == nil }

// columnSet reads the columns of a container, each group when it is first needed, and each column of it when that is.
type columnSet struct {
	codec  *Codec
	secs   sections
	vals   []Values
	rows   []uint32 // of each column
	group  []uint16 // of each column
	first  []int    // column of each group
	loaded []bool   // groups
	bufs   [][]byte // groups
	ends   []uint32 // arena of Values.ends
	bytes  []byte   // arena of Values.data
	size   int      // bytes decompressed
}

// open takes note of columns with the given rows. r stands at the counts of groups.
func (s *columnSet) open(c *Codec, secs sections, rows []uint32, r *reader) bool {
	s.codec, s.secs, s.rows = c, secs, rows
	s.vals = grow(s.vals, len(rows))
	s.group = grow(s.group, len(rows))
	s.first, s.loaded = s.first[:0], s.loaded[:0]
	s.ends, s.bytes, s.size = s.ends[:0], s.bytes[:0], 0
	at := 0
	for g := range int(r.uvarint(maxSections)) {
		n := int(r.uvarint(uint64(len(rows) - at)))
		s.first, s.loaded = append(s.first, at), append(s.loaded, false)
		for range n {
			s.group[at] = uint16(g)
			at++
		}
	}
	for len(s.bufs) < len(s.first) {
		s.bufs = append(s.bufs, nil)
	}
	return !r.bad && at == len(rows)
}

// column returns a column.
func (s *columnSet) column(i int) (*Values, error) {
	if g := int(s.group[i]); !s.loaded[g] {
		if err := s.load(g); err != nil {
			return nil, err
		}
	}
	v := &s.vals[i]
	if v.raw != nil {
		r := reader{b: v.raw}
		if s.parse(v, int(s.rows[i]), &r); r.bad || len(r.b) != 0 {
			v.raw = r.b[:0:0] // it stays damaged
			return nil, fmt.Errorf("%w: column of %d rows", ErrDamaged, s.rows[i])
		}
	}
	return v, nil
}

// passColumn moves behind a column, of which it looks only at how long it is.
func passColumn(r *reader, rows int) {
	switch kind := r.byte(); kind {
	case columnConstant:
		r.bytes(int(r.uvarint(MaxRaw)))
	case columnDictionary:
		for range r.uvarint(maxDictionary) {
			r.bytes(int(r.uvarint(MaxRaw)))
		}
		r.bytes(rows)
	case columnFixed:
		r.bytes(int(r.uvarint(MaxRaw)) * rows) // rows is small: no overflow
	case columnAny:
		size := 0
		for range rows {
			size += int(r.uvarint(MaxRaw))
		}
		r.bytes(size)
	case columnCounting:
		r.uvarint(maxDigits)
		for range rows {
			r.varint()
		}
	default:
		r.bad = true
	}
}

func (s *columnSet) load(g int) (err error) {
	sec := s.secs.get(secColumns + uint32(g))
	if s.bufs[g], err = s.codec.raw(s.bufs[g], sec); err != nil {
		return err
	}
	s.size += sec.rawLen
	r := reader{b: s.bufs[g]}
	end := len(s.rows)
	if g+1 < len(s.first) {
		end = s.first[g+1]
	}
	for i := s.first[g]; i < end && !r.bad; i++ {
		all := r.b
		passColumn(&r, int(s.rows[i]))
		s.vals[i] = Values{raw: all[:len(all)-len(r.b)]}
	}
	if r.bad || len(r.b) != 0 {
		return fmt.Errorf("%w: columns of group %d", ErrDamaged, g)
	}
	s.loaded[g] = true
	return nil
}

// parse reads one column; r is bad afterwards when it is none.
func (s *columnSet) parse(v *Values, rows int, r *reader) {
	*v = Values{rows: rows, entries: rows}
	switch kind := r.byte(); kind {
	case columnConstant:
		v.entries = 1
		v.width = int(r.uvarint(MaxRaw))
		v.data = r.bytes(v.width)
		v.size = rows * v.width
	case columnDictionary:
		s.parseDictionary(v, r)
	case columnFixed:
		v.width = int(r.uvarint(MaxRaw))
		v.size = rows * v.width // rows is small: no overflow
		v.data = r.bytes(v.size)
	case columnAny:
		from := len(s.ends)
		for range rows {
			v.size += int(r.uvarint(MaxRaw))
			s.ends = append(s.ends, uint32(min(v.size, MaxRaw)))
		}
		v.ends = s.ends[from:len(s.ends):len(s.ends)]
		v.data = r.bytes(v.size)
	case columnCounting:
		v.width = int(r.uvarint(maxDigits))
		v.size = rows * v.width
		from, n := len(s.bytes), int64(0)
		for range rows {
			n += r.varint()
			if s.bytes = appendDigits(s.bytes, n, v.width); r.bad || n < 0 {
				r.bad = true
				return
			}
		}
		v.data = s.bytes[from:len(s.bytes):len(s.bytes)]
	default:
		r.bad = true
	}
}

func (s *columnSet) parseDictionary(v *Values, r *reader) {
	v.entries = int(r.uvarint(maxDictionary))
	from := len(s.ends)
	at := len(s.bytes)
	for range v.entries {
		s.bytes = append(s.bytes, r.bytes(int(r.uvarint(MaxRaw)))...)
		s.ends = append(s.ends, uint32(len(s.bytes)-at))
	}
	v.data = s.bytes[at:len(s.bytes):len(s.bytes)]
	v.ends = s.ends[from:len(s.ends):len(s.ends)]
	if v.ids = r.bytes(v.rows); r.bad {
		return
	}
	var n [256]int // rows of each entry
	for _, id := range v.ids {
		n[id]++
	}
	for id, rows := range n {
		switch {
		case rows == 0:
		case id >= v.entries:
			r.bad = true
		default:
			v.size += rows * len(v.Value(id))
		}
	}
}

func appendDigits(dst []byte, n int64, width int) []byte {
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; n > 0 && width > 0; i, width = i-1, width-1 {
		dst[i] = '0' + byte(n%10)
		n /= 10
	}
	return dst
}
