package block

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/triward/triward/agent/wire"
)

// Header tells what a block holds without reading it. Its bytes: version byte, flags byte (1 fields, 2 their names are
// listed), uvarint lines, varint least time, uvarint span of times, uvarint least raft index, uvarint span of indexes, uvarint
// bytes as Size counts, then a uvarint count for each severity. Version 2 may end with the names of fields: uvarint count, then
// uvarint length and bytes of each, in ascending order. Flag 2 is unknown to version 1.
type Header struct {
	Lines              int
	MinT, MaxT         int64
	MinIndex, MaxIndex uint64
	Bytes              int // of all lines, as Size counts
	HasFields          bool
	Severities         [wire.SeverityCritical + 1]int

	names string // of fields, each followed by a zero byte; "" when they are not known
}

// Bounds of the names of fields that a header lists: headers are read for every query.
const (
	maxHeaderNames     = 32
	maxHeaderNameBytes = 512
)

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
	if h.HasFields {
		h.names = namesOf(lines)
	}
	return h
}

// namesOf returns Header.names of lines.
func namesOf(lines []Line) string {
	var names []string
	bytes := 0
	for i := range lines {
		for _, f := range lines[i].Fields {
			at, ok := slices.BinarySearch(names, f.Name)
			if ok {
				continue
			}
			if bytes += len(f.Name) + 1; bytes > maxHeaderNameBytes || len(names) == maxHeaderNames || strings.IndexByte(f.Name, 0) >= 0 {
				return ""
			}
			names = slices.Insert(names, at, f.Name)
		}
	}
	return strings.Join(names, "\x00") + "\x00"
}

// FieldNames returns the names of the fields of the block, each followed by a zero byte; "" when they are not known or there are
// none (HasFields).
func (h *Header) FieldNames() string { return h.names }

// MayHaveField reports whether a line of the block may have a field of the name.
func (h *Header) MayHaveField(name string) bool {
	if !h.HasFields || h.names == "" {
		return h.HasFields
	}
	for rest := h.names; rest != ""; {
		var one string
		if one, rest, _ = strings.Cut(rest, "\x00"); one == name {
			return true
		}
	}
	return false
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

// Append appends the header's bytes in a version.
func (h *Header) Append(dst []byte, version int) []byte {
	flags := byte(0)
	if h.HasFields {
		flags = 1
	}
	listed := version >= Version2 && h.names != ""
	if listed {
		flags |= 2
	}
	dst = append(dst, byte(version), flags)
	dst = binary.AppendUvarint(dst, uint64(h.Lines))
	dst = binary.AppendVarint(dst, h.MinT)
	dst = binary.AppendUvarint(dst, uint64(h.MaxT-h.MinT))
	dst = binary.AppendUvarint(dst, h.MinIndex)
	dst = binary.AppendUvarint(dst, h.MaxIndex-h.MinIndex)
	dst = binary.AppendUvarint(dst, uint64(h.Bytes))
	for _, n := range h.Severities {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	if listed {
		dst = binary.AppendUvarint(dst, uint64(strings.Count(h.names, "\x00")))
		for name := range strings.SplitSeq(strings.TrimSuffix(h.names, "\x00"), "\x00") {
			dst = appendString(dst, name)
		}
	}
	return dst
}

// ParseHeader reads what Append wrote; errors wrap ErrDamaged, or ErrNewer.
func ParseHeader(b []byte) (Header, error) {
	r := reader{b: b}
	version := r.byte()
	if version == 0 {
		return Header{}, fmt.Errorf("%w: header of version 0", ErrDamaged)
	}
	if version > Version2 {
		return Header{}, fmt.Errorf("%w: header of version %d, this program knows up to %d", ErrNewer, version, Version2)
	}
	const any64 = ^uint64(0)
	flags := r.byte()
	h := Header{HasFields: flags&1 != 0}
	h.Lines = int(r.uvarint(1 << 20))
	h.MinT = r.varint()
	h.MaxT = h.MinT + int64(r.uvarint(any64))
	h.MinIndex = r.uvarint(any64)
	h.MaxIndex = h.MinIndex + r.uvarint(any64)
	h.Bytes = int(r.uvarint(1 << 40)) // nothing is made that large by it
	for i := range h.Severities {
		h.Severities[i] = int(r.uvarint(1 << 20))
	}
	if version >= Version2 && flags&2 != 0 {
		var names []byte
		for range r.uvarint(maxHeaderNames) {
			names = append(append(names, r.bytes(int(r.uvarint(maxHeaderNameBytes)))...), 0)
		}
		h.names = string(names)
	}
	if r.bad || len(r.b) != 0 {
		return Header{}, fmt.Errorf("%w: header of %d bytes", ErrDamaged, len(b))
	}
	return h, nil
}
