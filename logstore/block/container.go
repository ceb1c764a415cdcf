package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// Versions of a block. Version 1 is read for ever. Version 2 keeps lines by templates and fields by name, and may be
// written only when every node of the cluster can read it.
const (
	Version1 = 1
	Version2 = 2
)

// ErrNewer is wrapped by errors about whole bytes of a version that this program does not know. They are not damaged.
var ErrNewer = errors.New("block of a newer version")

const (
	maxSections   = 8192
	minCompressed = 11      // bytes: what is shorter never gets shorter as a frame
	optional      = 1 << 16 // readers pass over sections from this id on that they do not know
)

// section is a piece of a container before it is written.
type section struct {
	id  uint32
	raw []byte
}

// stored is a section of a container that was read.
type stored struct {
	id     uint32
	codec  byte
	rawLen int
	crc    uint32 // of b, in version 2
	summed bool   // crc must be compared before b is used
	b      []byte
}

// sections are those of one container, by ascending id.
type sections []stored

// get returns a section, an empty one when there is none.
func (s sections) get(id uint32) stored {
	v, _ := s.find(id)
	return v
}

func (s sections) find(id uint32) (stored, bool) {
	i, ok := slices.BinarySearchFunc(s, id, func(e stored, id uint32) int { return int(e.id) - int(id) })
	if !ok {
		return stored{}, false
	}
	return s[i], true
}

// pack writes a container of sections, whose ids ascend.
func (c *Codec) pack(version byte, secs []section) ([]byte, error) {
	raw := 0
	for _, s := range secs {
		raw += len(s.raw)
	}
	if raw > MaxRaw/2 {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, raw, MaxRaw/2)
	}
	if len(secs) > maxSections {
		return nil, fmt.Errorf("%w: %d sections, at most %d are allowed", ErrTooLarge, len(secs), maxSections)
	}
	stored := make([]stored, len(secs))
	total := 0
	frames := c.frames.Get().(*[]byte)
	defer c.frames.Put(frames)
	all := (*frames)[:0]
	for i, s := range secs {
		e := &stored[i]
		e.codec, e.b, e.rawLen, e.id = 0, s.raw, len(s.raw), s.id
		if len(s.raw) >= minCompressed {
			from := len(all)
			all = c.enc.EncodeAll(s.raw, all)
			if frame := all[from:len(all):len(all)]; len(frame) < len(s.raw) {
				e.codec, e.b = 1, frame
			} else {
				all = all[:from]
			}
		}
		total += len(e.b)
	}
	if *frames = all; cap(all) > maxKept {
		*frames = nil
	}
	if version == Version1 {
		return c.packV1(stored, total), nil
	}
	dir := binary.AppendUvarint(make([]byte, 0, 16+16*len(secs)), uint64(len(secs)))
	for i := range stored {
		e := &stored[i]
		dir = append(binary.AppendUvarint(dir, uint64(e.id)), e.codec)
		dir = binary.AppendUvarint(dir, uint64(e.rawLen))
		dir = binary.AppendUvarint(dir, uint64(len(e.b)))
		dir = binary.LittleEndian.AppendUint32(dir, crc32.Checksum(e.b, c.crc))
	}
	dst := append(make([]byte, 0, len(dir)+total+9), version)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(dir)))
	dst = c.seal(append(dst, dir...))
	for i := range stored {
		dst = append(dst, stored[i].b...)
	}
	return dst, nil
}

func (c *Codec) packV1(secs []stored, total int) []byte {
	dst := append(make([]byte, 0, total+16+16*len(secs)), Version1)
	dst = binary.AppendUvarint(dst, uint64(len(secs)))
	for i := range secs {
		dst = append(dst, byte(secs[i].id), secs[i].codec)
		dst = binary.AppendUvarint(dst, uint64(secs[i].rawLen))
		dst = binary.AppendUvarint(dst, uint64(len(secs[i].b)))
	}
	for i := range secs {
		dst = append(dst, secs[i].b...)
	}
	return c.seal(dst)
}

// seal appends the checksum of b.
func (c *Codec) seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, c.crc))
}

func (c *Codec) summed(b []byte, sum []byte) bool {
	return crc32.Checksum(b, c.crc) == binary.LittleEndian.Uint32(sum)
}

// unpack checks the container b as far as its directory goes and returns its version and its sections, in the memory of
// dst. The sections keep b.
func (c *Codec) unpack(dst sections, b []byte) (version byte, secs sections, err error) {
	if len(b) < 6 {
		return 0, nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	if b[0] == Version1 {
		secs, err = c.unpackV1(dst[:0], b)
		return Version1, secs, err
	}
	n := int(binary.LittleEndian.Uint32(b[1:]))
	if n > len(b)-9 || !c.summed(b[:5+n], b[5+n:]) {
		return 0, nil, fmt.Errorf("%w: checksum of the directory of %d bytes is wrong", ErrDamaged, len(b))
	}
	if b[0] != Version2 {
		return 0, nil, fmt.Errorf("%w: version %d, this program knows up to %d", ErrNewer, b[0], Version2)
	}
	secs, err = unpackV2(dst[:0], b[5:5+n], b[9+n:])
	return Version2, secs, err
}

func (c *Codec) unpackV1(secs sections, b []byte) (sections, error) {
	if !c.summed(b[:len(b)-4], b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: checksum of %d bytes is wrong", ErrDamaged, len(b))
	}
	r := reader{b: b[1 : len(b)-4]}
	lens := [64]int{}
	n := int(r.uvarint(uint64(len(lens))))
	for i := range n {
		e := stored{id: uint32(r.byte()), codec: r.byte()}
		e.rawLen = int(r.uvarint(MaxRaw))
		lens[i] = int(r.uvarint(MaxRaw))
		secs = append(secs, e)
	}
	for i := range secs {
		secs[i].b = r.bytes(lens[i])
		if id := secs[i].id; id < 64 && !knownV1(id) {
			return nil, fmt.Errorf("%w: unknown section %d", ErrDamaged, id)
		}
		if i > 0 && secs[i].id <= secs[i-1].id {
			r.bad = true
		}
	}
	if r.bad {
		return nil, fmt.Errorf("%w: directory of sections", ErrDamaged)
	}
	return secs, nil
}

func unpackV2(secs sections, dir, b []byte) (sections, error) {
	r, rest := reader{b: dir}, reader{b: b}
	n, total := r.uvarint(maxSections), 0
	for range n {
		e := stored{id: uint32(r.uvarint(1<<31 - 1)), codec: r.byte(), summed: true}
		e.rawLen = int(r.uvarint(MaxRaw))
		size := int(r.uvarint(MaxRaw))
		if sum := r.bytes(4); sum != nil {
			e.crc = binary.LittleEndian.Uint32(sum)
		}
		e.b = rest.bytes(size)
		if total += e.rawLen; total > MaxRaw || len(secs) > 0 && e.id <= secs[len(secs)-1].id || r.bad || rest.bad {
			return nil, fmt.Errorf("%w: directory of sections", ErrDamaged)
		}
		if e.id < optional && !knownV2(e.id) {
			return nil, fmt.Errorf("%w: unknown section %d", ErrDamaged, e.id)
		}
		secs = append(secs, e)
	}
	if r.bad || len(r.b) != 0 || len(rest.b) != 0 {
		return nil, fmt.Errorf("%w: directory of sections", ErrDamaged)
	}
	return secs, nil
}

func knownV1(id uint32) bool {
	return id >= secTimes && id <= secFields || id == secLengths || id == secText
}

func knownV2(id uint32) bool {
	return knownV1(id) || id == secFieldNames || id == secTemplates || id == secTemplateIDs || id >= secColumns && id < secColumns+maxSections
}

// raw appends nothing: it returns the content of a section in the memory of dst.
func (c *Codec) raw(dst []byte, s stored) ([]byte, error) {
	dst = dst[:0]
	if s.summed && crc32.Checksum(s.b, c.crc) != s.crc {
		return dst, fmt.Errorf("%w: checksum of section %d of %d bytes is wrong", ErrDamaged, s.id, len(s.b))
	}
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
