package wire

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

// ContentType is the media type of a request body that AppendRequest makes.
const ContentType = "application/x-triward-batches"

// Request body of POST /v1/agent/batches:
//
//	magic "TWB1", epoch (16 bytes), uvarint n, each batch:
//	  lane byte, uvarint sequence, 8 bytes hash (little endian), codec byte, uvarint length decompressed,
//	  uvarint length, body
const requestMagic = "TWB1"

// HashContent is the hash that goes into an Identity.
func HashContent(content []byte) uint64 { return xxh3.Hash(content) }

// ParseEpoch reads the 32 hexadecimal digits of an epoch.
func ParseEpoch(s string) (Epoch, error) {
	var e Epoch
	if len(s) != 2*len(e) {
		return e, fmt.Errorf("epoch %.40q: want 32 hexadecimal digits", s)
	}
	if _, err := hex.Decode(e[:], []byte(s)); err != nil {
		return e, fmt.Errorf("epoch %q: %w", s, err)
	}
	return e, nil
}

// AppendRequest appends the request body that carries batches, which must be of the same epoch.
func AppendRequest(dst []byte, epoch Epoch, batches []Batch) []byte {
	dst = append(dst, requestMagic...)
	dst = append(dst, epoch[:]...)
	dst = binary.AppendUvarint(dst, uint64(len(batches)))
	for i := range batches {
		b := &batches[i]
		dst = append(dst, byte(b.Lane))
		dst = binary.AppendUvarint(dst, b.Seq)
		dst = binary.LittleEndian.AppendUint64(dst, b.Hash)
		dst = append(dst, byte(b.Codec))
		dst = binary.AppendUvarint(dst, uint64(b.RawLen))
		dst = AppendString(dst, b.Body)
	}
	return dst
}

// ReadRequest reads a request body of the given agent. Bodies point into body. Errors wrap ErrMalformed.
func ReadRequest(agent string, body []byte) (Epoch, []Batch, error) {
	c := NewReader(body, ErrMalformed)
	var epoch Epoch
	if m := c.Bytes(len(requestMagic), "magic"); c.err == nil && string(m) != requestMagic {
		return epoch, nil, fmt.Errorf("%w: the body does not begin with %q", ErrMalformed, requestMagic)
	}
	copy(epoch[:], c.Bytes(len(epoch), "epoch"))
	n := c.Count("count of batches", MaxBatchesPerCall, 13)
	if c.err == nil && n == 0 {
		c.Fail("no batch")
	}
	if c.err != nil {
		return epoch, nil, c.err
	}
	batches := make([]Batch, n)
	for i := range batches {
		b := &batches[i]
		b.Agent, b.Epoch = agent, epoch
		b.Lane = Lane(c.Byte("lane"))
		b.Seq = c.Uvarint("sequence")
		b.Hash = c.Uint64("hash")
		b.Codec = Codec(c.Byte("codec"))
		b.RawLen = c.Count("length decompressed", MaxBatchRaw, 0)
		b.Body = c.Prefixed(MaxBatchRaw, "body")
		switch {
		case c.err != nil:
		case !b.Lane.Valid():
			c.Fail("unknown lane")
		case b.Seq == 0:
			c.Fail("sequence 0: sequences begin with 1")
		case b.Codec > CodecZstd:
			c.Fail("unknown codec")
		}
		if c.err != nil {
			return epoch, nil, fmt.Errorf("batch %d: %w", i, c.err)
		}
	}
	if err := c.End("the last batch"); err != nil {
		return epoch, nil, err
	}
	return epoch, batches, nil
}

// ErrRawLength says that a body is not as long as its batch claims, or longer than any batch may be.
var ErrRawLength = errors.New("length of the body decompressed differs from what the batch claims")
