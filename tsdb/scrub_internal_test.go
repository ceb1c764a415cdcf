package tsdb

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunks"
)

// Every flipped bit of a closed file of chunks of the head is found, and in the newest one all but those of its last chunk.
func TestChunksOfTheHeadAreChecked(t *testing.T) {
	b := binary.BigEndian.AppendUint32(nil, chunks.MagicHeadChunks)
	b = append(b, 1, 0, 0, 0)
	last := 0
	for i := range uint64(6) {
		last = len(b)
		c := binary.BigEndian.AppendUint64(nil, i+1)
		c = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(c, 1000*i), 1000*i+900)
		c = binary.AppendUvarint(append(c, 1), 30+i)
		c = append(c, bytes.Repeat([]byte{byte(i) + 3}, int(30+i))...)
		b = append(b, binary.BigEndian.AppendUint32(c, crc32.Checksum(c, castagnoli))...)
	}
	end := len(b)
	b = append(b, make([]byte, 4096)...)
	path := filepath.Join(t.TempDir(), "000001")
	look := func(newest bool) error {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return checkHeadChunks(path, newest, func(int) error { return nil })
	}
	for _, newest := range []bool{false, true} {
		if err := look(newest); err != nil {
			t.Fatalf("a whole file (newest %t): %v", newest, err)
		}
	}
	for at := 8; at < end; at++ {
		b[at] ^= 1 << (at % 8)
		if look(false) == nil {
			t.Errorf("a flipped bit at %d of a closed file was not found", at)
		}
		if found := look(true) != nil; found != (at < last) {
			t.Errorf("a flipped bit at %d of the newest file: found %t, the last chunk begins at %d", at, found, last)
		}
		b[at] ^= 1 << (at % 8)
	}
}

// A file that has just been cut holds only zeros until its header is written: that is no damage of the newest one, unless
// chunks stand behind it.
func TestFileWithoutHeaderYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "000002")
	c := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 1), 1000), 1900)
	c = append(binary.AppendUvarint(append(c, 1), 30), bytes.Repeat([]byte{3}, 30)...)
	c = binary.BigEndian.AppendUint32(c, crc32.Checksum(c, castagnoli))
	zeros := make([]byte, chunks.HeadChunkFilePreallocationSize)
	for name, k := range map[string]struct {
		b      []byte
		newest bool
		whole  bool
	}{
		"made":                   {nil, true, true},
		"extended":               {zeros, true, true},
		"not the newest":         {zeros, false, false},
		"lost its header":        {append(append(make([]byte, chunks.HeadChunkFileHeaderSize), c...), zeros...), true, false},
		"begins with other data": {append([]byte("something"), zeros...), true, false},
	} {
		if err := os.WriteFile(path, k.b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkHeadChunks(path, k.newest, func(int) error { return nil }); (err == nil) != k.whole {
			t.Errorf("%s: %v", name, err)
		}
	}
}
