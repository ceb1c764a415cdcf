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

// Writer writes a container. What is written to it is the content.
type Writer struct {
	w         io.Writer
	sum       hash.Hash // of everything before the end
	headerSum [sha256Bytes]byte
	buf       []byte // frameHead, content, room for the CRC
	frames    uint64
	bytes     uint64
	written   int64
	err       error
	closed    bool
}

// NewWriter writes the header to w.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	if len(body) > maxHeader {
		return nil, fmt.Errorf("header has %d bytes, at most %d are possible", len(body), maxHeader)
	}
	b := append([]byte(nil), magic...)
	b = binary.LittleEndian.AppendUint16(b, Version)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	c := &Writer{w: w, sum: sha256.New(), headerSum: sha256.Sum256(b), buf: make([]byte, frameHead, frameHead+frameSize+crcSize)}
	c.send(b)
	return c, c.err
}

// HeaderSum is the SHA-256 of the header as it was written, for the content to name.
func (c *Writer) HeaderSum() string { return hex.EncodeToString(c.headerSum[:]) }

// Written is how many bytes went out.
func (c *Writer) Written() int64 { return c.written }

func (c *Writer) send(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.written += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		c.err = fmt.Errorf("write backup: %w", err)
		return
	}
	c.sum.Write(b)
}

// Write adds content.
func (c *Writer) Write(p []byte) (int, error) {
	if c.closed {
		return 0, errors.New("write backup: it is closed")
	}
	n := 0
	for len(p) > 0 && c.err == nil {
		k := min(len(p), frameHead+frameSize-len(c.buf))
		c.buf = append(c.buf, p[:k]...)
		p, n = p[k:], n+k
		if len(c.buf) == frameHead+frameSize {
			c.frame(kindData)
		}
	}
	return n, c.err
}

// frame sends what is in the buffer.
func (c *Writer) frame(kind byte) {
	payload := len(c.buf) - frameHead
	c.buf[0] = kind
	binary.LittleEndian.PutUint32(c.buf[1:], uint32(payload))
	b := binary.LittleEndian.AppendUint32(c.buf, frameCRC(c.frames, c.buf))
	c.send(b)
	c.buf = c.buf[:frameHead]
	if kind == kindData {
		c.frames++
		c.bytes += uint64(payload)
	}
}

// frameCRC is the checksum of a frame: its number is part of it, so that frames cannot change places.
func frameCRC(number uint64, frame []byte) uint32 {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], number)
	return crc32.Update(crc32.Checksum(n[:], castagnoli), castagnoli, frame)
}

// Close writes what is left and the end. Without it the stream is no backup. It does not close the writer below.
func (c *Writer) Close() error {
	if c.closed || c.err != nil {
		c.closed = true
		return c.err
	}
	if len(c.buf) > frameHead {
		c.frame(kindData)
	}
	c.closed = true
	body, err := json.Marshal(end{Frames: c.frames, Bytes: c.bytes, SHA256: hex.EncodeToString(c.sum.Sum(nil))})
	if err != nil {
		return fmt.Errorf("encode end of backup: %w", err)
	}
	c.buf = append(c.buf, body...)
	c.frame(kindEnd)
	return c.err
}
