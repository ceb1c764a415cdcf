package command

import (
	"encoding/binary"
	"fmt"
)

// reader reads a body from front to back. The first error sticks, names what was read and at which offset, and
// every later read returns zero, so decoders check once per group of reads.
type reader struct {
	b   []byte
	off int
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s at byte %d of %d", ErrMalformed, what, r.off, len(r.b))
	}
}

func (r *reader) left() int { return len(r.b) - r.off }

func (r *reader) byte(what string) byte {
	if r.err != nil || r.left() < 1 {
		r.fail(what)
		return 0
	}
	v := r.b[r.off]
	r.off++
	return v
}

func (r *reader) uvarint(what string) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b[r.off:])
	if n <= 0 {
		r.fail(what)
		return 0
	}
	r.off += n
	return v
}

func (r *reader) varint(what string) int64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Varint(r.b[r.off:])
	if n <= 0 {
		r.fail(what)
		return 0
	}
	r.off += n
	return v
}

// number reads a number of at most limit.
func (r *reader) number(what string, limit uint64) uint64 {
	v := r.uvarint(what)
	if v > limit {
		r.fail(what + " out of bounds")
		return 0
	}
	return v
}

// count reads how many things follow: at most limit, and no more than fit when each takes minSize bytes.
func (r *reader) count(what string, limit, minSize int) int {
	v := r.uvarint(what)
	if r.err != nil {
		return 0
	}
	if v > uint64(limit) || v > uint64(r.left()/minSize) {
		r.fail(what + " out of bounds")
		return 0
	}
	return int(v)
}

func (r *reader) bytes(n int, what string) []byte {
	if r.err != nil || n < 0 || n > r.left() {
		r.fail(what)
		return nil
	}
	v := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return v
}

func (r *reader) prefixed(limit int, what string) []byte {
	n := r.count(what, limit, 1)
	return r.bytes(n, what)
}

func (r *reader) string(limit int, what string) string { return string(r.prefixed(limit, what)) }

func (r *reader) uint64(what string) uint64 {
	b := r.bytes(8, what)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// end fails when bytes are left over.
func (r *reader) end(what string) error {
	if r.err == nil && r.left() != 0 {
		r.fail("bytes left over after " + what)
	}
	return r.err
}

func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
