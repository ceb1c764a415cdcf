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
package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
	"github.com/triward/triward/agent/wire"
)

const version = 1

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
	secTimes      = 1
	secSeverities = 2
	secIndexes    = 3
	secOrdinals   = 4
	secFields     = 5
	secLengths    = 16
	secText       = 17
)

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
}

// NewCodec makes a Codec whose memory is bounded by the number of processors.
func NewCodec() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxRaw), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Codec{enc: enc, dec: dec, crc: crc32.MakeTable(crc32.Castagnoli)}, nil
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

type section struct {
	id  byte
	raw []byte
}

func (c *Codec) pack(secs []section) ([]byte, error) {
	raw := 0
	for _, s := range secs {
		raw += len(s.raw)
	}
	if raw > MaxRaw/2 {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, raw, MaxRaw/2)
	}
	dst := []byte{version}
	dst = binary.AppendUvarint(dst, uint64(len(secs)))
	stored := make([][]byte, len(secs))
	for i, s := range secs {
		codec := byte(1)
		if stored[i] = c.enc.EncodeAll(s.raw, nil); len(stored[i]) >= len(s.raw) {
			codec, stored[i] = 0, s.raw
		}
		dst = append(dst, s.id, codec)
		dst = binary.AppendUvarint(dst, uint64(len(s.raw)))
		dst = binary.AppendUvarint(dst, uint64(len(stored[i])))
	}
	for _, s := range stored {
		dst = append(dst, s...)
	}
	return c.seal(dst), nil
}

// seal appends the checksum of b.
func (c *Codec) seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, c.crc))
}

// unpack checks the container b and returns the stored sections by id.
func (c *Codec) unpack(b []byte) (map[byte]stored, error) {
	if len(b) < 6 || crc32.Checksum(b[:len(b)-4], c.crc) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: checksum of %d bytes is wrong", ErrDamaged, len(b))
	}
	b = b[:len(b)-4]
	if b[0] != version {
		return nil, fmt.Errorf("%w: version %d, this program knows %d", ErrDamaged, b[0], version)
	}
	r := reader{b: b[1:]}
	n := r.uvarint(64)
	secs := make(map[byte]stored, n)
	type entry struct {
		id byte
		s  stored
		n  uint64
	}
	dir := make([]entry, 0, n)
	for range n {
		e := entry{id: r.byte(), s: stored{codec: r.byte()}}
		e.s.rawLen = int(r.uvarint(MaxRaw))
		e.n = r.uvarint(MaxRaw)
		dir = append(dir, e)
	}
	for _, e := range dir {
		e.s.b = r.bytes(int(e.n))
		secs[e.id] = e.s
		if e.id < 64 && e.id != secTimes && e.id != secSeverities && e.id != secIndexes && e.id != secOrdinals &&
			e.id != secFields && e.id != secLengths && e.id != secText {
			return nil, fmt.Errorf("%w: unknown section %d", ErrDamaged, e.id)
		}
	}
	if r.bad {
		return nil, fmt.Errorf("%w: directory of sections", ErrDamaged)
	}
	return secs, nil
}

type stored struct {
	codec  byte
	rawLen int
	b      []byte
}

func (c *Codec) raw(dst []byte, s stored) ([]byte, error) {
	switch s.codec {
	case 0:
		dst = append(dst, s.b...)
	case 1:
		if cap(dst) < s.rawLen {
			dst = make([]byte, 0, s.rawLen)
		}
		out, err := c.dec.DecodeAll(s.b, dst)
		if err != nil {
			return dst, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		dst = out
	default:
		return dst, fmt.Errorf("%w: unknown codec %d of a section", ErrDamaged, s.codec)
	}
	if len(dst) != s.rawLen {
		return dst, fmt.Errorf("%w: section of %d bytes, %d written", ErrDamaged, len(dst), s.rawLen)
	}
	return dst, nil
}

// Encode writes the columns and the text of lines, which the caller has sorted by time and position. It never
// writes what the decoders would refuse: then it fails with ErrTooLarge.
func (c *Codec) Encode(lines []Line) (columns, text []byte, err error) {
	n := len(lines)
	times := make([]byte, 0, 4*n)
	sev := make([]byte, n)
	indexes, ords := make([]byte, 0, n), make([]byte, 0, n)
	lengths := make([]byte, 0, 2*n)
	var fields []byte
	size, anyFields := 0, false
	var t int64
	var index uint64
	var ord uint32
	for i := range lines {
		l := &lines[i]
		times = binary.AppendVarint(times, l.T-t)
		indexes = binary.AppendVarint(indexes, int64(l.Index-index))
		ords = binary.AppendVarint(ords, int64(l.Ord)-int64(ord))
		t, index, ord = l.T, l.Index, l.Ord
		sev[i] = byte(l.Severity)
		lengths = binary.AppendUvarint(lengths, uint64(len(l.Text)))
		size += len(l.Text)
		anyFields = anyFields || len(l.Fields) > 0
	}
	secs := []section{{secTimes, times}, {secSeverities, sev}, {secIndexes, indexes}, {secOrdinals, ords}}
	if anyFields {
		for i := range lines {
			fields = binary.AppendUvarint(fields, uint64(len(lines[i].Fields)))
			for _, f := range lines[i].Fields {
				fields = appendString(fields, f.Name)
				fields = appendString(fields, f.Value)
			}
		}
		secs = append(secs, section{secFields, fields})
	}
	texts := make([]byte, 0, size)
	for i := range lines {
		texts = append(texts, lines[i].Text...)
	}
	if columns, err = c.pack(secs); err != nil {
		return nil, nil, err
	}
	text, err = c.pack([]section{{secLengths, lengths}, {secText, texts}})
	return columns, text, err
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

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}
