package logfile

import (
	"errors"
	"io/fs"
	"sync/atomic"
	"syscall"
	"testing"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// badDisk cannot read segments from an offset on once it is told so.
type badDisk struct {
	types.VFS
	from atomic.Int64
}

type badFile struct {
	types.ReadableFile
	d *badDisk
}

type badWriter struct {
	types.WritableFile
	d *badDisk
}

func (d *badDisk) bad(off int64) error {
	if from := d.from.Load(); from > 0 && off >= from {
		return &fs.PathError{Op: "read", Path: "segment", Err: syscall.EIO}
	}
	return nil
}

func (d *badDisk) OpenReader(dir, name string) (types.ReadableFile, error) {
	f, err := d.VFS.OpenReader(dir, name)
	return badFile{f, d}, err
}

func (d *badDisk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := d.VFS.Create(dir, name, size)
	return badWriter{f, d}, err
}

func (f badFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.d.bad(off); err != nil {
		return 0, err
	}
	return f.ReadableFile.ReadAt(b, off)
}

func (f badWriter) ReadAt(b []byte, off int64) (int, error) {
	if err := f.d.bad(off); err != nil {
		return 0, err
	}
	return f.WritableFile.ReadAt(b, off)
}

// An entry in a sector that the disk cannot read is a damaged one, which is named; other failures are not damage.
func TestUnreadableEntryIsNamed(t *testing.T) {
	disk := &badDisk{VFS: walfs.New()}
	s := open(t, t.TempDir(), Options{SegmentBytes: 1 << 20, CacheBytes: 1, Files: disk})
	store(t, s, 1, 40, 900)
	pace := func(int) error { return nil }
	if err := s.Scrub(t.Context(), 1, pace); err != nil {
		t.Fatal(err)
	}
	disk.from.Store(20_000)
	err := s.Scrub(t.Context(), 1, pace)
	if index, ok := DamagedIndex(err); !ok || index < 10 || index > 30 || !errors.Is(err, syscall.EIO) {
		t.Errorf("%v, entry %d", err, index)
	}
}
