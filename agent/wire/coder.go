package wire

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Coder compresses and decompresses bodies. It is safe for concurrent use and holds no goroutine while idle.
type Coder struct {
	enc    *zstd.Encoder
	dec    *zstd.Decoder
	blocks blockWriters
}

func encoderOptions() []zstd.EOption {
	return []zstd.EOption{
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(MaxBatchRaw), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), // so that every frame says its length
	}
}

// NewCoder makes a Coder. Its memory is bounded by the number of processors.
func NewCoder() (*Coder, error) {
	enc, err := zstd.NewWriter(nil, encoderOptions()...)
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(4*MaxBatchRaw), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Coder{enc: enc, dec: dec, blocks: newBlockWriters()}, nil
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
// than 4*MaxBatchRaw and fails with ErrRawLength when the result is not b.RawLen long. With CodecNone it copies.
// A compressed body is exactly one zstd frame that says its length and uses no dictionary: what Apply accepts must
// not hang on how a release of the library reads anything odder.
func (c *Coder) Decompress(dst []byte, b *Batch) ([]byte, error) {
	if b.RawLen < 0 || b.RawLen > MaxBatchRaw {
		return dst, fmt.Errorf("%w: %d bytes claimed, at most %d are allowed", ErrRawLength, b.RawLen, MaxBatchRaw)
	}
	from := len(dst)
	switch b.Codec {
	case CodecNone:
		dst = append(dst, b.Body...)
	case CodecZstd:
		if err := checkFrame(b.Body, b.RawLen); err != nil {
			return dst, err
		}
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

// checkFrame makes sure that body is one zstd frame (RFC 8878, 3.1.1) of content length rawLen and nothing else.
func checkFrame(body []byte, rawLen int) error {
	var h zstd.Header
	if err := h.Decode(body); err != nil {
		return fmt.Errorf("%w: body is no valid zstd: %w", ErrMalformed, err)
	}
	switch {
	case h.Skippable:
		return fmt.Errorf("%w: body is a skippable zstd frame", ErrMalformed)
	case h.DictionaryID != 0:
		return fmt.Errorf("%w: body needs the zstd dictionary %d", ErrMalformed, h.DictionaryID)
	case !h.HasFCS:
		return fmt.Errorf("%w: zstd frame does not say its content size", ErrMalformed)
	case h.FrameContentSize != uint64(rawLen):
		return fmt.Errorf("%w: zstd frame of %d bytes, %d claimed", ErrRawLength, h.FrameContentSize, rawLen)
	}
	const (
		blockHeader = 3
		blockRLE    = 1
		checksum    = 4
	)
	at := h.HeaderSize
	for last := false; !last; {
		if at+blockHeader > len(body) {
			return fmt.Errorf("%w: zstd frame is cut", ErrMalformed)
		}
		head := int(body[at]) | int(body[at+1])<<8 | int(body[at+2])<<16
		last = head&1 != 0
		size := head >> 3
		if head>>1&3 == blockRLE {
			size = 1
		}
		at += blockHeader + size
	}
	if h.HasCheckSum {
		at += checksum
	}
	if at != len(body) {
		return fmt.Errorf("%w: zstd frame ends at byte %d of %d", ErrMalformed, at, len(body))
	}
	return nil
}
