package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by every error about bytes that are not of this format.
var ErrMalformed = errors.New("malformed")

// Reader reads a body from front to back. The first error sticks, names what was read and at which offset, and
// every later read returns zero, so decoders check once per group of reads. It never allocates by a length
// that the remaining bytes cannot hold. It belongs to one goroutine; what it returns points into the body unless
// said otherwise.
type Reader struct {
	b         []byte
	off       int
	err       error
	malformed error
}

// NewReader reads b, which must not change meanwhile. Every error wraps malformed, the sentinel of the format read.
func NewReader(b []byte, malformed error) Reader { return Reader{b: b, malformed: malformed} }

// Fail makes the reader fail with what, unless it failed before.
func (r *Reader) Fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s at byte %d of %d", r.malformed, what, r.off, len(r.b))
	}
}

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Left is the number of bytes not read yet.
func (r *Reader) Left() int { return len(r.b) - r.off }

// Byte reads one byte.
func (r *Reader) Byte(what string) byte {
	if r.err != nil || r.Left() < 1 {
		r.Fail(what)
		return 0
	}
	v := r.b[r.off]
	r.off++
	return v
}

// Uvarint reads a number in the form of binary.AppendUvarint.
func (r *Reader) Uvarint(what string) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b[r.off:])
	if n <= 0 {
		r.Fail(what)
		return 0
	}
	r.off += n
	return v
}

// Varint reads a number in the form of binary.AppendVarint.
func (r *Reader) Varint(what string) int64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Varint(r.b[r.off:])
	if n <= 0 {
		r.Fail(what)
		return 0
	}
	r.off += n
	return v
}

// Uint64 reads eight bytes, the lowest first.
func (r *Reader) Uint64(what string) uint64 {
	b := r.Bytes(8, what)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// Number reads a Uvarint of at most limit.
func (r *Reader) Number(what string, limit uint64) uint64 {
	v := r.Uvarint(what)
	if v > limit {
		r.Fail(what + " out of bounds")
		return 0
	}
	return v
}

// Count reads how many things follow: at most limit, and no more than fit when each takes minSize bytes. With
// minSize 0 only limit counts.
func (r *Reader) Count(what string, limit, minSize int) int {
	v := r.Uvarint(what)
	if r.err != nil {
		return 0
	}
	if v > uint64(limit) || (minSize > 0 && v > uint64(r.Left()/minSize)) {
		r.Fail(what + " out of bounds")
		return 0
	}
	return int(v)
}

// Bytes reads n bytes.
func (r *Reader) Bytes(n int, what string) []byte {
	if r.err != nil || n < 0 || n > r.Left() {
		r.Fail(what)
		return nil
	}
	v := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return v
}

// Prefixed reads what AppendString wrote, of at most limit bytes.
func (r *Reader) Prefixed(limit int, what string) []byte {
	n := r.Count(what, limit, 1)
	return r.Bytes(n, what)
}

// Text is Prefixed as a string of its own.
func (r *Reader) Text(limit int, what string) string { return string(r.Prefixed(limit, what)) }

// End fails when bytes are left over after what, and returns the first error.
func (r *Reader) End(what string) error {
	if r.err == nil && r.Left() != 0 {
		r.Fail("bytes left over after " + what)
	}
	return r.err
}

// AppendString appends the length of s as a uvarint, then s.
func AppendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
