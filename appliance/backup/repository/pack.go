package repository

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
)

const (
	packMagic = "TRIWARDP"
	packNonce = 16 // random bytes: no two packs have the same name
	packHead  = len(packMagic) + 2 + packNonce
	packSize  = 32 << 20 // of pieces as they are stored, after which a pack is closed
	maxPack   = packSize + 4<<20
	// Pieces of files. Blocks, tables and closed logs never change, so that their pieces only matter for reading; the
	// metadata file changes page by page all over.
	pieceSize     = 1 << 20
	pieceSizeMeta = 16 << 10
	maxPiece      = pieceSize
	windowSize    = 4 << 20 // read at once
	openPacks     = 8       // whose windows are kept
)

// piece is a part of a file as a pack holds it.
type piece struct {
	ID  []byte `json:"id"`
	Off int64  `json:"off"` // in the content of the pack
	Len int64  `json:"len"` // there, compressed
	Raw int64  `json:"raw"` // length of what it is a part of a file
}

// packEntry is a pack and those of its pieces that a save is made of.
type packEntry struct {
	Name   string  `json:"name"`
	Size   int64   `json:"size"` // of the content: of all pieces that are in it
	Pieces []piece `json:"pieces"`
}

// packer makes packs of pieces.
type packer struct {
	r       *Repository
	ctx     context.Context
	to      []age.Recipient
	z       *zstd.Encoder
	content []byte
	entry   packEntry
	stored  int64 // bytes that went into the place
	done    func(packEntry)
}

func (r *Repository) newPacker(ctx context.Context, to []age.Recipient, done func(packEntry)) (*packer, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return &packer{r: r, ctx: ctx, to: to, z: z, done: done}, nil
}

// add puts a piece into the pack at hand.
func (p *packer) add(id [sha256.Size]byte, raw []byte) error {
	at := len(p.content)
	p.content = p.z.EncodeAll(raw, p.content)
	p.entry.Pieces = append(p.entry.Pieces, piece{ID: id[:], Off: int64(at), Len: int64(len(p.content) - at), Raw: int64(len(raw))})
	if len(p.content) >= packSize {
		return p.flush()
	}
	return nil
}

// flush stores the pack at hand.
func (p *packer) flush() error {
	if len(p.entry.Pieces) == 0 {
		return nil
	}
	var b bytes.Buffer
	b.Grow(len(p.content) + len(p.content)>>10 + 4<<10)
	b.WriteString(packMagic)
	b.Write(binary.LittleEndian.AppendUint16(nil, Version))
	var nonce [packNonce]byte
	_, _ = rand.Read(nonce[:]) // never fails
	b.Write(nonce[:])
	if len(p.to) == 0 {
		b.Write(p.content)
	} else {
		w, err := age.Encrypt(&b, p.to...)
		if err == nil {
			_, err = w.Write(p.content)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
	}
	sum := sha256.Sum256(b.Bytes())
	p.entry.Name, p.entry.Size = prefixPack+hex.EncodeToString(sum[:]), int64(len(p.content))
	if err := putBytes(p.ctx, p.r.store, p.entry.Name, b.Bytes()); err != nil {
		return fmt.Errorf("store pieces: %w", err)
	}
	p.stored += int64(b.Len())
	p.done(p.entry)
	p.entry, p.content = packEntry{}, p.content[:0]
	return nil
}

func isPack(name string) bool {
	sum, ok := strings.CutPrefix(name, prefixPack)
	return ok && len(sum) == 2*sha256.Size
}

// packReader reads pieces. It keeps the windows of the packs used last.
type packReader struct {
	r     *Repository
	ctx   context.Context
	z     *zstd.Decoder
	packs []*openPack // used last: first
	buf   []byte
	raw   []byte
}

type openPack struct {
	name    string
	content io.ReaderAt
	size    int64
}

func (r *Repository) newPackReader(ctx context.Context) (*packReader, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxPiece))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return &packReader{r: r, ctx: ctx, z: z}, nil
}

func (p *packReader) close() { p.z.Close() }

// window reads an object through a buffer of windowSize.
type window struct {
	store Store
	ctx   context.Context
	name  string
	size  int64
	at    int64
	buf   []byte
}

// ReadAt implements io.ReaderAt.
func (w *window) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		at := off + int64(n)
		if at >= w.size {
			return n, io.EOF
		}
		if at < w.at || at >= w.at+int64(len(w.buf)) {
			if err := w.fill(at); err != nil {
				return n, err
			}
		}
		n += copy(b[n:], w.buf[at-w.at:])
	}
	return n, nil
}

func (w *window) fill(at int64) error {
	size := min(windowSize, w.size-at)
	in, err := w.store.OpenRange(w.ctx, w.name, at, size)
	if err != nil {
		return err
	}
	if int64(cap(w.buf)) < size {
		w.buf = make([]byte, size)
	}
	w.buf, w.at = w.buf[:size], at
	_, err = io.ReadFull(in, w.buf)
	if err = errors.Join(err, in.Close()); err != nil {
		w.buf = w.buf[:0]
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %s is cut off", backup.ErrContent, w.name)
		}
		return fmt.Errorf("read %s from %s: %w", w.name, w.store, err)
	}
	return nil
}

func (p *packReader) open(name string) (*openPack, error) {
	for i, o := range p.packs {
		if o.name == name {
			copy(p.packs[1:i+1], p.packs[:i])
			p.packs[0] = o
			return o, nil
		}
	}
	in, size, err := p.r.store.Open(p.ctx, name)
	if errors.Is(err, target.ErrAbsent) {
		return nil, fmt.Errorf("%w: %s in %s", ErrMissing, name, p.r.store)
	}
	if err == nil {
		err = in.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("read pieces: %w", err)
	}
	w := &window{store: p.r.store, ctx: p.ctx, name: name, size: size}
	head := make([]byte, packHead)
	if _, err := w.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", backup.ErrContent, name, err)
	}
	if string(head[:len(packMagic)]) != packMagic {
		return nil, fmt.Errorf("%w: %s does not begin like a pack", backup.ErrContent, name)
	}
	if v := binary.LittleEndian.Uint16(head[len(packMagic):]); v != Version {
		return nil, fmt.Errorf("%w: %s is of version %d", ErrVersion, name, v)
	}
	o := &openPack{name: name, content: io.NewSectionReader(w, int64(packHead), size-int64(packHead)), size: size - int64(packHead)}
	if p.r.Encrypted() {
		if len(p.r.identities) == 0 {
			return nil, fmt.Errorf("%w: none was given", backup.ErrKey)
		}
		if o.content, o.size, err = age.DecryptReaderAt(o.content, o.size, p.r.identities...); err != nil {
			return nil, fmt.Errorf("%s: %w", name, whyClosed(err))
		}
	}
	if len(p.packs) < openPacks {
		p.packs = append(p.packs, nil)
	}
	copy(p.packs[1:], p.packs)
	p.packs[0] = o
	return o, nil
}

// read returns what a piece holds, checked. It is valid until the next call.
func (p *packReader) read(pack string, at *piece) ([]byte, error) {
	o, err := p.open(pack)
	if err != nil {
		return nil, err
	}
	if at.Off < 0 || at.Len <= 0 || at.Len > maxPiece+64<<10 || at.Off > o.size-at.Len || at.Raw < 0 || at.Raw > maxPiece {
		return nil, fmt.Errorf("%w: a piece of %s lies outside of it", backup.ErrContent, pack)
	}
	if int64(cap(p.buf)) < at.Len {
		p.buf = make([]byte, at.Len)
	}
	p.buf = p.buf[:at.Len]
	if _, err := o.content.ReadAt(p.buf, at.Off); err != nil && !errors.Is(err, io.EOF) {
		if errors.Is(err, target.ErrAbsent) {
			return nil, fmt.Errorf("%w: %s in %s", ErrMissing, pack, p.r.store)
		}
		return nil, fmt.Errorf("%w: %s: %w", backup.ErrContent, pack, err)
	}
	if p.raw, err = p.z.DecodeAll(p.buf, p.raw[:0]); err != nil || int64(len(p.raw)) != at.Raw {
		return nil, fmt.Errorf("%w: a piece of %s does not decompress to what it was", backup.ErrContent, pack)
	}
	if id := p.r.pieceID(p.raw); !bytes.Equal(id[:], at.ID) {
		return nil, fmt.Errorf("%w: a piece of %s is not what was stored", backup.ErrContent, pack)
	}
	return p.raw, nil
}

// checkPack reads a pack to its end and holds it against its name, which needs no key.
func (r *Repository) checkPack(ctx context.Context, name string) (int64, error) {
	in, _, err := r.store.Open(ctx, name)
	if errors.Is(err, target.ErrAbsent) {
		return 0, fmt.Errorf("%w: %s in %s", ErrMissing, name, r.store)
	}
	if err != nil {
		return 0, err
	}
	h := sha256.New()
	n, err := io.Copy(h, in)
	if err = errors.Join(err, in.Close()); err != nil {
		return n, fmt.Errorf("read %s from %s: %w", name, r.store, err)
	}
	if prefixPack+hex.EncodeToString(h.Sum(nil)) != name {
		return n, fmt.Errorf("%w: %s is not what was stored", container.ErrDamaged, name)
	}
	return n, nil
}
