package logstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// smallDisk is a file system whose tables and blob files take so many more bytes.
type smallDisk struct {
	vfs.FS
	left *atomic.Int64
}

func (fs smallDisk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	if ext := filepath.Ext(name); err != nil || ext != ".sst" && ext != ".blob" {
		return f, err
	}
	return &smallFile{File: f, left: fs.left}, nil
}

type smallFile struct {
	vfs.File
	left         *atomic.Int64
	written, has int64
}

func (f *smallFile) Preallocate(offset, length int64) error { return f.take(offset + length) }

func (f *smallFile) Write(p []byte) (int, error) {
	if err := f.take(f.written + int64(len(p))); err != nil {
		return 0, err
	}
	n, err := f.File.Write(p)
	f.written += int64(n)
	return n, err
}

func (f *smallFile) take(end int64) error {
	more := max(0, end-f.has)
	if f.left.Add(-more) < 0 {
		f.left.Add(more)
		return syscall.ENOSPC
	}
	f.has += more
	return nil
}

// Wherever the disk ends in the files of a flush, the store goes on once there is room.
func TestDiskEndsAtAnyByteOfAFlush(t *testing.T) {
	const most = 1 << 40
	for _, lines := range []int{1, rounds(12, 4)} {
		flush := func(room int64) (left int64) {
			disk := new(atomic.Int64)
			disk.Store(most)
			s := testStore(t, t.TempDir(), Options{FS: smallDisk{vfs.NewMem(), disk}})
			m := newModel(31)
			m.apply(t, s, lines)
			disk.Store(room)
			err := soon(t, fmt.Sprintf("flush with %d bytes of room", room), func() error { return s.Flush(t.Context()) })
			if err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("flush with %d bytes of room: %v", room, err)
			}
			left = disk.Load()
			disk.Store(most)
			flushed(t, s)
			m.check(t, s, 1, minTime)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return left
		}
		used := most - flush(most)
		for k := range int64(rounds(6, 2)) {
			flush(used * k / 6)
			flush(used - 1500*(k+1)) // what is written last comes from a buffer
		}
	}
}
