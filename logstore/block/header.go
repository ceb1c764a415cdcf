package block

import (
	"encoding/binary"
	"fmt"

	"github.com/triward/triward/agent/wire"
)

// Header tells what a block holds without reading it. Its bytes: version byte (1), flags byte (1 fields), uvarint
// lines, varint least time, uvarint span of times, uvarint least raft index, uvarint span of indexes, uvarint
// bytes as Size counts, then a uvarint count for each severity.
type Header struct {
	Lines              int
	MinT, MaxT         int64
	MinIndex, MaxIndex uint64
	Bytes              int // of all lines, as Size counts
	HasFields          bool
	Severities         [wire.SeverityCritical + 1]int
}

// HeaderOf describes lines, which are sorted by time and not empty.
func HeaderOf(lines []Line) Header {
	h := Header{Lines: len(lines), MinT: lines[0].T, MaxT: lines[len(lines)-1].T, MinIndex: lines[0].Index, MaxIndex: lines[0].Index}
	for i := range lines {
		l := &lines[i]
		h.MinIndex, h.MaxIndex = min(h.MinIndex, l.Index), max(h.MaxIndex, l.Index)
		h.Bytes += Size(l.Text, l.Fields)
		h.HasFields = h.HasFields || len(l.Fields) > 0
		h.Severities[l.Severity]++
	}
	return h
}

// Present returns the severities that occur, bit 1<<severity each.
func (h *Header) Present() (mask uint16) {
	for s, n := range h.Severities {
		if n > 0 {
			mask |= 1 << s
		}
	}
	return mask
}

// Append appends the header's bytes.
func (h *Header) Append(dst []byte) []byte {
	flags := byte(0)
	if h.HasFields {
		flags = 1
	}
	dst = append(dst, version, flags)
	dst = binary.AppendUvarint(dst, uint64(h.Lines))
	dst = binary.AppendVarint(dst, h.MinT)
	dst = binary.AppendUvarint(dst, uint64(h.MaxT-h.MinT))
	dst = binary.AppendUvarint(dst, h.MinIndex)
	dst = binary.AppendUvarint(dst, h.MaxIndex-h.MinIndex)
	dst = binary.AppendUvarint(dst, uint64(h.Bytes))
	for _, n := range h.Severities {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	return dst
}

// ParseHeader reads what Append wrote; errors wrap ErrDamaged.
func ParseHeader(b []byte) (Header, error) {
	r := reader{b: b}
	if v := r.byte(); v != version {
		return Header{}, fmt.Errorf("%w: header of version %d, this program knows %d", ErrDamaged, v, version)
	}
	const any64 = ^uint64(0)
	h := Header{HasFields: r.byte()&1 != 0}
	h.Lines = int(r.uvarint(1 << 20))
	h.MinT = r.varint()
	h.MaxT = h.MinT + int64(r.uvarint(any64))
	h.MinIndex = r.uvarint(any64)
	h.MaxIndex = h.MinIndex + r.uvarint(any64)
	h.Bytes = int(r.uvarint(1 << 40)) // nothing is made that large by it
	for i := range h.Severities {
		h.Severities[i] = int(r.uvarint(1 << 20))
	}
	if r.bad || len(r.b) != 0 {
		return Header{}, fmt.Errorf("%w: header of %d bytes", ErrDamaged, len(b))
	}
	return h, nil
}
