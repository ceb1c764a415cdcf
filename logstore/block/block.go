// Package block holds the columnar form of some thousand lines of one stream and one UTC day, with the filter
// over its words. It knows nothing of where blocks are kept.
//
// A block is a container of columns (times, severities, positions, fields), a container of text, a filter and
// a header. A container is
//
//	version byte (1)
//	uvarint n sections, each: id byte, codec byte (0 as is, 1 zstd), uvarint raw length, uvarint stored length
//	the sections' bytes, each its own zstd frame
//	CRC32C (little endian) of all before
//
// Sections: 1 times (varint deltas, ns), 2 severities (bytes), 3 raft indexes (varint deltas), 4 ordinals
// (varint deltas), 5 fields (per line uvarint count, then name and value with uvarint lengths; left out when no
// line has any), 16 lengths of texts (uvarint), 17 the texts. Readers refuse ids below 64 that they do not
// know. Decoders never allocate more than MaxRaw for a section and return ErrDamaged for bytes that are no
// block; Encode refuses to write what is half as large.
//
// # Version 2
//
// It keeps the text of lines by templates (template.go, cut.go) and fields by name, so that a query decompresses only what it looks
// at. Each section has a checksum of its own:
//
//	version byte (2)
//	uint32 (little endian) length of the directory
//	the directory: uvarint n sections by ascending id, each: uvarint id, codec byte, uvarint raw length, uvarint
//	stored length, CRC32C (little endian) of the stored bytes
//	CRC32C (little endian) of all before
//	the sections' bytes
//
// Later versions begin in the same way, so that a whole one is told from damage (ErrNewer). All sections of a container together have
// at most MaxRaw. Readers refuse ids below 65536 that they do not know.
//
// Section 1 is uvarint unit (1e9, 1e6, 1e3 or 1 ns), varint first time, then uvarint differences in units. Sections 2 to 5
// are as before; 5 is there only for lines whose fields are not sorted by name. Otherwise 6 has the fields: uvarint n names,
// each with uvarint length, bytes, uvarint number of lines that have it and, when not all have, a bitmap of (lines+7)/8
// bytes, ascending; then the groups of their columns.
//
// Section 65536 of the columns has how many lines are in each minute of UTC, from that of the least time to that of the greatest: a
// uvarint for each minute, for one severity that occurs after the other. Header and section tell the same totals. It is left out for
// lines of one minute or from before 1970, and where it would take more than a byte for four lines; blocks that were written before
// there was such a section do not have it.
//
// Section 18 is the dictionary: uvarint bytes of all texts, uvarint n templates, each: uvarint lines, uvarint slots, slots+1 times
// the uvarint length of a piece, the pieces, a byte of Classes for each slot; then the groups of the columns, one for each slot of each
// template. 19 is a byte for each line, the number of its template from 1, 0 for a line that is kept flat; with more than 255
// templates the high bytes follow. 16 and 17 are the flat lines only. Groups are uvarint n, then how many columns each has (uvarint);
// group g is section 1024+g, its columns (column.go) one behind the other. Sections from 65536 on (span.go) only save work.
package block

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/triward/triward/agent/wire"
)

// Bounds of a block.
const (
	MaxLines = 8192
	MaxBytes = 4 << 20  // as Size counts, unless a single line is larger
	MaxRaw   = 64 << 20 // of one container, decompressed
)

// What a line and a field count beside their bytes: about what they take in memory.
const (
	lineOverhead  = 64
	fieldOverhead = 32
)

// Size is what a line counts wherever lines are bounded in bytes.
func Size(text []byte, fields []wire.Label) int {
	n := len(text) + lineOverhead
	for i := range fields {
		n += len(fields[i].Name) + len(fields[i].Value) + fieldOverhead
	}
	return n
}

// ErrDamaged is wrapped by errors about bytes that are not a block of this format.
var ErrDamaged = errors.New("damaged block")

// ErrTooLarge is returned by Encode for lines that are too many or too long for one block.
var ErrTooLarge = errors.New("lines do not fit into one block")

const (
	secTimes       = 1
	secSeverities  = 2
	secIndexes     = 3
	secOrdinals    = 4
	secFields      = 5
	secFieldNames  = 6
	secLengths     = 16
	secText        = 17
	secTemplates   = 18
	secTemplateIDs = 19
	secColumns     = 1024 // and as many behind as there are groups
	secMinutes     = optional
)

// maxFieldNames bounds the names of fields in one block that are kept as columns.
const maxFieldNames = 1024

// Line is one line. Text and Fields are not copied by Encode.
type Line struct {
	T        int64 // nanoseconds since 1970
	Index    uint64
	Ord      uint32
	Severity wire.Severity
	Fields   []wire.Label
	Text     []byte
}

// Codec compresses and decompresses. It is safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
	crc *crc32.Table

	encoders sync.Pool // of *encoder
	frames   sync.Pool // of *[]byte
}

// NewCodec makes a Codec whose memory is bounded by the number of processors.
func NewCodec() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true), zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxRaw), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Codec{
		enc: enc, dec: dec, crc: crc32.MakeTable(crc32.Castagnoli), frames: sync.Pool{New: func() any { return new([]byte) }},
	}, nil
}

// Close frees the decoder and encoder.
func (c *Codec) Close() {
	c.dec.Close()
	_ = c.enc.Close() // nothing is buffered: only EncodeAll is used
}

// Compress appends raw as one zstd frame.
func (c *Codec) Compress(dst, raw []byte) []byte { return c.enc.EncodeAll(raw, dst) }

// Decompress appends the content of a frame to dst; it fails with ErrDamaged when it is none or longer than
// MaxRaw.
func (c *Codec) Decompress(dst, frame []byte) ([]byte, error) {
	out, err := c.dec.DecodeAll(frame, dst)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return out, nil
}

// Encoded is a block. Version is 1 although version 2 was asked for when that would not have come back as it was; Fallback
// says why then. It is a fault of this program.
type Encoded struct {
	Columns, Text []byte
	Version       int
	Fallback      error
}

// Encode writes the columns and the text of lines, which the caller has sorted by time and position. It never
// writes what the decoders would refuse: then it fails with ErrTooLarge. A block of version 2 is decoded and compared with the
// lines before it is returned. voc, when it is not nil, is given all words of the lines, as by Vocabulary.Add for each.
func (c *Codec) Encode(lines []Line, version int, voc *Vocabulary) (Encoded, error) {
	size := 0
	for i := range lines {
		size += len(lines[i].Text)
	}
	if size > MaxRaw/2 {
		return Encoded{}, fmt.Errorf("%w: %d bytes of text, at most %d are allowed", ErrTooLarge, size, MaxRaw/2)
	}
	if version == Version2 && len(lines) > 0 && len(lines) <= MaxLines {
		out, err := c.encodeV2(lines, size, voc)
		if err == nil || errors.Is(err, ErrTooLarge) {
			return out, err
		}
		if voc != nil {
			voc.Reset()
		}
		out, verr := c.encodeV1(lines, size, voc)
		out.Fallback = err
		return out, verr
	}
	return c.encodeV1(lines, size, voc)
}

func (c *Codec) encodeV2(lines []Line, size int, voc *Vocabulary) (Encoded, error) {
	e := c.encoder()
	defer c.release(e)
	text, err := e.text(c, lines, size, voc)
	if err != nil {
		return Encoded{}, err
	}
	secs := basicColumns(lines, appendTimes(make([]byte, 0, 5*len(lines)), lines))
	if anyFields(lines) {
		fields, ok := e.fieldColumns(lines)
		if !ok {
			fields = []section{{secFields, fieldRows(lines)}}
		}
		secs = append(secs, fields...)
	}
	if minutes := minutesOf(lines); minutes != nil {
		secs = append(secs, section{secMinutes, minutes})
	}
	slices.SortFunc(secs, func(a, b section) int { return cmp.Compare(a.id, b.id) })
	columns, err := c.pack(Version2, secs)
	if err != nil {
		return Encoded{}, err
	}
	if err := e.verify(c, lines, columns, text); err != nil {
		return Encoded{}, fmt.Errorf("verify a block of %d lines: %w", len(lines), err)
	}
	return Encoded{Columns: columns, Text: text, Version: Version2}, nil
}

func (c *Codec) encodeV1(lines []Line, size int, voc *Vocabulary) (Encoded, error) {
	lengths, texts := make([]byte, 0, 2*len(lines)), make([]byte, 0, size)
	for i := range lines {
		lengths = binary.AppendUvarint(lengths, uint64(len(lines[i].Text)))
		texts = append(texts, lines[i].Text...)
		if voc != nil {
			voc.Add(lines[i].Text)
		}
	}
	times, t := make([]byte, 0, 5*len(lines)), int64(0)
	for i := range lines {
		times = binary.AppendVarint(times, lines[i].T-t)
		t = lines[i].T
	}
	secs := basicColumns(lines, times)
	if anyFields(lines) {
		secs = append(secs, section{secFields, fieldRows(lines)})
	}
	columns, err := c.pack(Version1, secs)
	if err != nil {
		return Encoded{}, err
	}
	text, err := c.pack(Version1, []section{{secLengths, lengths}, {secText, texts}})
	return Encoded{Columns: columns, Text: text, Version: Version1}, err
}

// basicColumns are the columns that every line has.
func basicColumns(lines []Line, times []byte) []section {
	n := len(lines)
	sev := make([]byte, n)
	indexes, ords := make([]byte, 0, n), make([]byte, 0, n)
	var index uint64
	var ord uint32
	for i := range lines {
		l := &lines[i]
		indexes = binary.AppendVarint(indexes, int64(l.Index-index))
		ords = binary.AppendVarint(ords, int64(l.Ord)-int64(ord))
		index, ord = l.Index, l.Ord
		sev[i] = byte(l.Severity)
	}
	return []section{{secTimes, times}, {secSeverities, sev}, {secIndexes, indexes}, {secOrdinals, ords}}
}

// appendTimes appends the times as version 2 has them: uvarint unit, varint first time, then uvarint differences in units.
func appendTimes(dst []byte, lines []Line) []byte {
	unit := uint64(1e9)
	for i := 1; i < len(lines); i++ {
		for d := uint64(lines[i].T - lines[i-1].T); d%unit != 0; {
			unit /= 1e3
		}
	}
	dst = binary.AppendUvarint(dst, unit)
	dst = binary.AppendVarint(dst, lines[0].T)
	for i := 1; i < len(lines); i++ {
		dst = binary.AppendUvarint(dst, uint64(lines[i].T-lines[i-1].T)/unit)
	}
	return dst
}

func anyFields(lines []Line) bool {
	for i := range lines {
		if len(lines[i].Fields) > 0 {
			return true
		}
	}
	return false
}

func fieldRows(lines []Line) (fields []byte) {
	for i := range lines {
		fields = binary.AppendUvarint(fields, uint64(len(lines[i].Fields)))
		for _, f := range lines[i].Fields {
			fields = appendString(fields, f.Name)
			fields = appendString(fields, f.Value)
		}
	}
	return fields
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// reader walks over bytes; after the first fault bad is set and all further reads give zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint(limit uint64) uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 && uint64(r.b[0]) <= limit { // the common case
		v := r.b[0]
		r.b = r.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// uvarints reads one number for each of out, multiplied by unit and added to the one before, from first on.
func (r *reader) uvarints(out []int64, first int64, unit uint64) {
	b, v := r.b, uint64(first)
	for i := range out {
		d, n := nextUvarint(b)
		if n <= 0 {
			r.bad = true
			return
		}
		v += d * unit
		out[i] = int64(v)
		b = b[n:]
	}
	r.b = b
}

// varints reads the differences to the one before of all of out.
func varints[T int64 | uint64 | uint32](r *reader, out []T) {
	b, v := r.b, int64(0)
	for i := range out {
		u, n := nextUvarint(b)
		if n <= 0 {
			r.bad = true
			return
		}
		v += int64(u>>1) ^ -int64(u&1)
		out[i] = T(v)
		b = b[n:]
	}
	r.b = b
}

// nextUvarint is binary.Uvarint, faster.
func nextUvarint(b []byte) (uint64, int) {
	if len(b) >= 8 {
		w := binary.LittleEndian.Uint64(b)
		if w&0x80 == 0 {
			return w & 0x7f, 1
		}
		if n := bits.TrailingZeros64(^w&0x8080808080808080)/8 + 1; n <= 5 {
			w &= 1<<(8*n) - 1
			return w&0x7f | w>>1&(0x7f<<7) | w>>2&(0x7f<<14) | w>>3&(0x7f<<21) | w>>4&(0x7f<<28), n
		}
	}
	return binary.Uvarint(b)
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}
