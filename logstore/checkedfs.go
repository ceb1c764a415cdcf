package logstore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// checkedFS compares large blocks of tables and blob files with their checksums before Pebble does: Pebble 2.1.7 looks for
// the bit that was flipped where one is wrong, with a checksum of the whole block for each bit of its first 40 KiB
// (internal/bitflip), which takes a core up to two minutes at each read of a block of 4 MiB.
type checkedFS struct{ vfs.FS }

// checkedFrom is the length of a read in bytes from which on it is checked: Pebble reads so much at once only as one block.
const checkedFrom = 64 << 10

// Open implements vfs.FS.
func (fs checkedFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name, opts...)
	if ext := filepath.Ext(name); err != nil || ext != ".sst" && ext != ".blob" {
		return f, err
	}
	return &checkedFile{f, name}, nil
}

type checkedFile struct {
	vfs.File
	name string
}

// ReadAt implements vfs.File. A block ends with a byte for its compression and the masked CRC32C of all before it (Pebble,
// sstable/block).
func (f *checkedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if err != nil || n < checkedFrom {
		return n, err
	}
	want := binary.LittleEndian.Uint32(p[n-4 : n])
	sum := crc32.Checksum(p[:n-4], castagnoli)
	if sum = (sum>>15 | sum<<17) + 0xa282ead8; sum != want {
		return n, fmt.Errorf("%w: block at %d of %s, %d bytes: crc32c is %08x, written is %08x", pebble.ErrCorruption, off, f.name, n-5, sum, want)
	}
	return n, nil
}
