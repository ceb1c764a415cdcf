package container

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// Reader reads a container. Read returns the content; io.EOF means that all of it was there and whole.
type Reader struct {
	Header Header

	r         io.Reader
	sum       hash.Hash
	headerSum [sha256Bytes]byte
	buf       []byte // the frame at hand
	rest      []byte // of its payload
	frames    uint64
	bytes     uint64
	read      int64
	err       error
}

// NewReader reads and checks the header.
func NewReader(r io.Reader) (*Reader, error) {
	c := &Reader{r: r, sum: sha256.New()}
	head := make([]byte, prefixSize, prefixSize+maxHeader/16)
	if n, err := io.ReadFull(r, head); err != nil {
		if !cutOff(err) {
			return nil, fmt.Errorf("read backup: %w", err)
		}
		if n < len(magic) || string(head[:len(magic)]) != magic {
			return nil, ErrNotBackup
		}
		return nil, damaged("it ends within the header")
	}
	if string(head[:len(magic)]) != magic {
		return nil, ErrNotBackup
	}
	if v := binary.LittleEndian.Uint16(head[len(magic):]); v != Version {
		return nil, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, v, Version)
	}
	size := binary.LittleEndian.Uint32(head[len(magic)+2:])
	if size > maxHeader {
		return nil, damaged("its header claims %d bytes", size)
	}
	b := append(head, make([]byte, int(size)+crcSize)...)
	if _, err := io.ReadFull(r, b[prefixSize:]); err != nil {
		if !cutOff(err) {
			return nil, fmt.Errorf("read backup: %w", err)
		}
		return nil, damaged("it ends within the header")
	}
	body, crc := b[:len(b)-crcSize], binary.LittleEndian.Uint32(b[len(b)-crcSize:])
	if crc32.Checksum(body, castagnoli) != crc {
		return nil, damaged("the checksum of its header does not match")
	}
	if err := json.Unmarshal(body[prefixSize:], &c.Header); err != nil {
		return nil, damaged("its header: %v", err)
	}
	c.headerSum = sha256.Sum256(b)
	c.sum.Write(b)
	c.read = int64(len(b))
	return c, nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

func cutOff(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// HeaderSum is the SHA-256 of the header as it was read.
func (c *Reader) HeaderSum() string { return hex.EncodeToString(c.headerSum[:]) }

// Consumed is how many bytes were read so far.
func (c *Reader) Consumed() int64 { return c.read }

// Err returns what ended the stream: nil while it goes on and after a whole one.
func (c *Reader) Err() error {
	if errors.Is(c.err, io.EOF) {
		return nil
	}
	return c.err
}

// Read implements io.Reader. An error but io.EOF says that what was read so far must not be used.
func (c *Reader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.err == nil {
			c.err = c.next()
		}
		if c.err != nil {
			return 0, c.err
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// next reads a frame; io.EOF after the end.
func (c *Reader) next() error {
	var head [frameHead]byte
	if err := c.fill(head[:]); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint32(head[1:])
	most := uint32(maxFrame)
	switch head[0] {
	case kindData:
	case kindEnd:
		most = maxEnd
	default:
		return damaged("frame %d is of the unknown kind %d", c.frames, head[0])
	}
	if size == 0 || size > most {
		return damaged("frame %d claims %d bytes", c.frames, size)
	}
	need := frameHead + int(size) + crcSize
	if cap(c.buf) < need {
		c.buf = make([]byte, need)
	}
	b := c.buf[:need]
	copy(b, head[:])
	if err := c.fill(b[frameHead:]); err != nil {
		return err
	}
	frame := b[:need-crcSize]
	if binary.LittleEndian.Uint32(b[need-crcSize:]) != frameCRC(c.frames, frame) {
		return damaged("the checksum of frame %d, %d bytes into it, does not match", c.frames, c.read-int64(need))
	}
	if head[0] == kindEnd {
		return c.finish(frame[frameHead:])
	}
	c.sum.Write(b)
	c.frames++
	c.bytes += uint64(size)
	c.rest = frame[frameHead:]
	return nil
}

func (c *Reader) fill(b []byte) error {
	n, err := io.ReadFull(c.r, b)
	c.read += int64(n)
	if err == nil {
		return nil
	}
	if cutOff(err) {
		return damaged("it is cut off after %d bytes", c.read)
	}
	return fmt.Errorf("read backup: %w", err)
}

// finish holds the end against what was read.
func (c *Reader) finish(body []byte) error {
	var e end
	if err := json.Unmarshal(body, &e); err != nil {
		return damaged("its end: %v", err)
	}
	if e.Frames != c.frames || e.Bytes != c.bytes || e.SHA256 != hex.EncodeToString(c.sum.Sum(nil)) {
		return damaged("it is not what its end says: %d frames of %d bytes", e.Frames, e.Bytes)
	}
	var more [1]byte
	switch n, err := io.ReadFull(c.r, more[:]); {
	case n > 0:
		return damaged("there is something after its end")
	case !cutOff(err):
		return fmt.Errorf("read backup: %w", err)
	}
	return io.EOF
}
