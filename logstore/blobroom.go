package logstore

import (
	"fmt"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// blobRoomFS keeps room on the disk for the last bytes of a blob file before it takes any others: Pebble 2.1.7 ends the process when
// they cannot be written (sstable/blob.FileWriter.Close gives up a file that its Finish has let go of already), which they are when the
// file is finished, from a buffer. So a disk that fills up is noticed at bytes whose failure Pebble knows how to take.
type blobRoomFS struct{ vfs.FS }

const (
	blobBuffer = 4 << 10        // what Pebble holds back until the file is finished, at most
	blobTail   = 2 * blobBuffer // a buffer that is full, and may be the last, and what may come behind it
)

// Create implements vfs.FS.
func (fs blobRoomFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	if err != nil || filepath.Ext(name) != ".blob" {
		return f, err
	}
	b := &blobFile{File: f}
	if err := b.keep(blobTail); err != nil {
		_, _ = f.Close(), fs.Remove(name) // nobody knows of it
		return nil, fmt.Errorf("keep room for %s: %w", name, err)
	}
	return b, nil
}

// blobFile is written from its beginning to its end by one goroutine.
type blobFile struct {
	vfs.File
	written, kept int64 // bytes; what is kept counts from the beginning of the file
	short         bool  // the room kept has been used for a whole buffer
}

// Write implements vfs.File. Where there is no room it takes nothing, except bytes that may be the last ones.
func (f *blobFile) Write(p []byte) (int, error) {
	if end := f.written + int64(len(p)); end+blobTail > f.kept {
		if err := f.keep(end + blobTail); err != nil {
			last := len(p) < blobBuffer || len(p) == blobBuffer && !f.short
			if f.short = true; !last || end > f.kept {
				return 0, err
			}
		}
	}
	n, err := f.File.Write(p)
	f.written += int64(n)
	return n, err
}

// keep keeps room up to a place. It fails when there is none; a file system that keeps no room is none that fails here.
func (f *blobFile) keep(end int64) error {
	err := f.Preallocate(f.kept, end-f.kept)
	if noRoom(err) {
		return err
	}
	f.kept = end
	return nil
}
