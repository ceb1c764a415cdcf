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

// smallDisk is a file system whose files take so many more bytes. Room that was kept for a file is the file's.
type smallDisk struct {
	vfs.FS
	of   func(name string) bool // the files whose bytes are counted
	room func(bytes int64) bool // takes bytes of what is left, unless that is less; asked for none it says whether anything may be made
}

func (fs smallDisk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if !fs.of(name) {
		return fs.FS.Create(name, category)
	}
	if !fs.room(0) {
		return nil, syscall.ENOSPC
	}
	f, err := fs.FS.Create(name, category)
	if err != nil {
		return f, err
	}
	return &smallFile{File: f, room: fs.room}, nil
}

type smallFile struct {
	vfs.File
	room         func(bytes int64) bool
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
	if end <= f.has {
		return nil
	}
	if !f.room(end - f.has) {
		return syscall.ENOSPC
	}
	f.has = end
	return nil
}

// Wherever the disk ends in the files of a flush, the store goes on once there is room.
func TestDiskEndsAtAnyByteOfAFlush(t *testing.T) {
	const most = 1 << 40
	tables := func(name string) bool { ext := filepath.Ext(name); return ext == ".sst" || ext == ".blob" }
	for _, lines := range []int{1, rounds(12, 4)} {
		flush := func(room int64) (left int64) {
			disk := new(atomic.Int64)
			disk.Store(most)
			take := func(bytes int64) bool {
				if disk.Add(-bytes) < 0 {
					disk.Add(bytes)
					return false
				}
				return true
			}
			s := testStore(t, t.TempDir(), Options{FS: smallDisk{vfs.NewMem(), tables, take}})
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
