package tsdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/encoding"
)

// Readers of a block check the sums of the series, postings and chunks that they read. By the symbols and by the table that says where
// postings are they go without that, so a flipped bit there gives other labels, or hides series, and nobody notices. So
// these two are compared with their checksums before each query, and before what was merged from blocks takes their place.

// answerable returns the damage because of which nobody may be answered over [mint, maxt].
func (g *generation) answerable(mint, maxt int64) error {
	if err := g.hidden(mint, maxt); err != nil {
		return err
	}
	return g.sound(mint, maxt)
}

// sound returns the damage of the first block in [mint, maxt] whose index readers would go by without noticing.
func (g *generation) sound(mint, maxt int64) error {
	for _, b := range g.db.Blocks() {
		m := b.Meta()
		if m.MinTime > maxt || m.MaxTime <= mint {
			continue
		}
		if err := g.soundBlock(b); err != nil {
			return err
		}
	}
	return nil
}

// soundBlock returns the damage because of which readers of the block would go wrong without noticing.
func (g *generation) soundBlock(b *promtsdb.Block) error {
	path := filepath.Join(b.Dir(), "index")
	err := soundIndex(path)
	switch {
	case err == nil, gone(err): // merged, or below the floor
		return nil
	case !tellsOfDamage(err):
		return fmt.Errorf("check %s: %w", path, err)
	}
	m := b.Meta()
	d := &DamageError{File: path, Err: err, From: m.MinTime, To: m.MaxTime, Hides: true}
	g.damaged(d)
	return d
}

// indexTOC is the end of an index: where symbols, series, label indices, their table, postings and their table begin, 8 bytes each,
// and a checksum, big endian.
const indexTOC = 6*8 + crc32.Size

// soundIndex compares symbols and table of postings of an index with their checksums.
func soundIndex(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < indexTOC {
		return encoding.ErrInvalidSize
	}
	var toc [indexTOC]byte
	if _, err := f.ReadAt(toc[:], st.Size()-indexTOC); err != nil {
		return err
	}
	if crc32.Checksum(toc[:6*8], castagnoli) != binary.BigEndian.Uint32(toc[6*8:]) {
		return encoding.ErrInvalidChecksum
	}
	for _, entry := range [...]int{0, 5} {
		if at := binary.BigEndian.Uint64(toc[entry*8:]); at != 0 {
			if err := soundSection(f, at, st.Size()); err != nil {
				return err
			}
		}
	}
	return nil
}

// soundSection checks a section of an index: its length (4 bytes), content and checksum.
func soundSection(f *os.File, at uint64, size int64) error {
	var n [4]byte
	if at > uint64(size) || int64(at)+8 > size {
		return encoding.ErrInvalidSize
	}
	if _, err := f.ReadAt(n[:], int64(at)); err != nil {
		return err
	}
	from, length := int64(at)+4, int64(binary.BigEndian.Uint32(n[:]))
	if from+length+crc32.Size > size {
		return encoding.ErrInvalidSize
	}
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(f, from, length)); err != nil {
		return err
	}
	if _, err := f.ReadAt(n[:], from+length); err != nil {
		return err
	}
	if sum.Sum32() != binary.BigEndian.Uint32(n[:]) {
		return encoding.ErrInvalidChecksum
	}
	return nil
}
