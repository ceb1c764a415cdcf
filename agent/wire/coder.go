package wire

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Coder compresses and decompresses bodies. It is safe for concurrent use and holds no goroutine while idle.
type Coder struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCoder makes a Coder. Its memory is bounded by the number of processors.
func NewCoder() (*Coder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(MaxBatchRaw),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(4*MaxBatchRaw), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Coder{enc: enc, dec: dec}, nil
}

// Compress appends raw to dst, compressed when that makes it smaller, and says how.
func (c *Coder) Compress(dst, raw []byte) (Codec, []byte) {
	from := len(dst)
	dst = c.enc.EncodeAll(raw, dst)
	if len(dst)-from < len(raw) {
		return CodecZstd, dst
	}
	return CodecNone, append(dst[:from], raw...)
}

// Decompress appends the body of b, decompressed, to dst (shorter than 3*MaxBatchRaw). It never allocates more
// than 4*MaxBatchRaw and fails
// with ErrRawLength when the result is not b.RawLen long. With CodecNone it copies.
func (c *Coder) Decompress(dst []byte, b *Batch) ([]byte, error) {
	if b.RawLen < 0 || b.RawLen > MaxBatchRaw {
		return dst, fmt.Errorf("%w: %d bytes claimed, at most %d are allowed", ErrRawLength, b.RawLen, MaxBatchRaw)
	}
	from := len(dst)
	switch b.Codec {
	case CodecNone:
		dst = append(dst, b.Body...)
	case CodecZstd:
		if cap(dst)-from < b.RawLen {
			dst = append(make([]byte, 0, from+b.RawLen), dst...)
		}
		out, err := c.dec.DecodeAll(b.Body, dst)
		if err != nil {
			return dst[:from], fmt.Errorf("%w: body is no valid zstd: %w", ErrMalformed, err)
		}
		dst = out
	default:
		return dst, fmt.Errorf("%w: unknown codec %d", ErrMalformed, b.Codec)
	}
	if len(dst)-from != b.RawLen {
		return dst[:from], fmt.Errorf("%w: %d bytes, %d claimed", ErrRawLength, len(dst)-from, b.RawLen)
	}
	return dst, nil
}
