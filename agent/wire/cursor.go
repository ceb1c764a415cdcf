package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by every error about bytes that are not of this format.
var ErrMalformed = errors.New("malformed")

// cursor reads a body from front to back. The first error sticks, names what was read and at which offset, and
// every later read returns zero, so decoders check once per group of reads. It never allocates by a length
// that the remaining bytes cannot hold.
type cursor struct {
	b   []byte
	off int
	err error
}

func (c *cursor) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s at byte %d of %d", ErrMalformed, what, c.off, len(c.b))
	}
}

func (c *cursor) left() int { return len(c.b) - c.off }

func (c *cursor) byte(what string) byte {
	if c.err != nil || c.left() < 1 {
		c.fail(what)
		return 0
	}
	v := c.b[c.off]
	c.off++
	return v
}

func (c *cursor) uvarint(what string) uint64 {
	if c.err != nil {
		return 0
	}
	v, n := binary.Uvarint(c.b[c.off:])
	if n <= 0 {
		c.fail(what)
		return 0
	}
	c.off += n
	return v
}

func (c *cursor) varint(what string) int64 {
	if c.err != nil {
		return 0
	}
	v, n := binary.Varint(c.b[c.off:])
	if n <= 0 {
		c.fail(what)
		return 0
	}
	c.off += n
	return v
}

// count reads how many things follow: at most limit, and no more than fit when each takes minSize bytes.
func (c *cursor) count(what string, limit, minSize int) int {
	v := c.uvarint(what)
	if c.err != nil {
		return 0
	}
	if v > uint64(limit) || (minSize > 0 && v > uint64(c.left()/minSize)) {
		c.fail(what + " out of bounds")
		return 0
	}
	return int(v)
}

func (c *cursor) bytes(n int, what string) []byte {
	if c.err != nil || n < 0 || n > c.left() {
		c.fail(what)
		return nil
	}
	v := c.b[c.off : c.off+n : c.off+n]
	c.off += n
	return v
}

func (c *cursor) prefixed(limit int, what string) []byte {
	n := c.count(what, limit, 1)
	return c.bytes(n, what)
}

func (c *cursor) uint64(what string) uint64 {
	b := c.bytes(8, what)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// end fails when bytes are left over.
func (c *cursor) end(what string) error {
	if c.err == nil && c.left() != 0 {
		c.fail("bytes left over after " + what)
	}
	return c.err
}

func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
