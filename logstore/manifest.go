package logstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
)

// Pebble takes the first chunk of its manifest that is not whole for the end, as that of a log which was cut off by a
// power loss: with a flipped bit there it opens with keys missing. So the manifest is read here before, and what is not
// whole must be the end: no whole chunk may come behind it, and nothing that was durable at the last flush may lie in it.

// durableFile says how much of which manifest was written at the last flush:
//
//	{"file": name, "bytes": size, "crc32c": of name and size}
//
// It is written before the file systems are synced for a mark. One that is not whole says nothing.
const durableFile = "manifest.json"

type durable struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	CRC   uint32 `json:"crc32c"`
}

func (d *durable) sum() uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint64([]byte(d.File), uint64(d.Bytes)), castagnoli)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A manifest is made of blocks of 32 KiB, a block of chunks that fill it but for less than a head at its end. A chunk is
// checksum (4 bytes), length (2), type (1 to 4), all little endian, and content.
const (
	manifestBlock = 32 << 10
	chunkHead     = 7
)

// readManifest reads the manifest in use and returns its name and size, and errNotWritten, wrapped, when it is damaged.
func readManifest(files vfs.FS, dir string) (name string, size int64, err error) {
	marker, name, err := atomicfs.LocateMarker(files, dir, "manifest")
	if err != nil {
		return "", 0, fmt.Errorf("find manifest: %w", err)
	}
	if err := marker.Close(); err != nil {
		return "", 0, fmt.Errorf("find manifest: %w", err)
	}
	if name == "" {
		return "", 0, fs.ErrNotExist
	}
	d := readDurable(files, filepath.Dir(dir)) // before the manifest: it grows
	b, err := readAll(files, filepath.Join(dir, name))
	if err != nil {
		return name, 0, fmt.Errorf("read manifest: %w", err)
	}
	good := wholeChunks(b)
	switch {
	case d.File == name && int64(good) < d.Bytes:
		err = fmt.Errorf("%w: %s is whole up to byte %d, %d were durable", errNotWritten, name, good, d.Bytes)
	case good < len(b) && chunkBehind(b, good+1):
		err = fmt.Errorf("%w: %s is broken at byte %d, and goes on behind it", errNotWritten, name, good)
	}
	return name, int64(len(b)), err
}

// pebbleIsNewer reports whether the tables in dir are of a form that this program's Pebble does not know: its own error does
// not tell that from others.
func pebbleIsNewer(files vfs.FS, dir string) bool {
	marker, version, err := atomicfs.LocateMarker(files, dir, "format-version")
	if err != nil || marker.Close() != nil {
		return false
	}
	v, err := strconv.ParseUint(version, 10, 64)
	return err == nil && v > uint64(pebble.FormatNewest)
}

func readAll(files vfs.FS, path string) ([]byte, error) {
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	forget(f)
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}

// wholeChunks returns up to where all chunks are whole.
func wholeChunks(b []byte) int {
	at := 0
	for at < len(b) {
		if left := manifestBlock - at%manifestBlock; left < chunkHead {
			at += left
			continue
		}
		n := chunkAt(b, at)
		if n == 0 {
			return at
		}
		at += n
	}
	return len(b)
}

// chunkAt returns the size of the chunk at a place, 0 when there is no whole one.
func chunkAt(b []byte, at int) int {
	if at+chunkHead > len(b) {
		return 0
	}
	kind, size := b[at+6], int(binary.LittleEndian.Uint16(b[at+4:]))
	end := at + chunkHead + size
	if kind < 1 || kind > 4 || end > len(b) || end > (at/manifestBlock+1)*manifestBlock {
		return 0
	}
	sum := crc32.Checksum(b[at+6:end], castagnoli)
	if (sum>>15|sum<<17)+0xa282ead8 != binary.LittleEndian.Uint32(b[at:]) {
		return 0
	}
	return chunkHead + size
}

// chunkBehind reports whether there is a whole chunk at or behind a place.
func chunkBehind(b []byte, at int) bool {
	for ; at+chunkHead < len(b); at++ {
		if chunkAt(b, at) > 0 {
			return true
		}
	}
	return false
}

func readDurable(files vfs.FS, dir string) (d durable) {
	b, err := readAll(files, filepath.Join(dir, durableFile))
	if err != nil || json.Unmarshal(b, &d) != nil || d.CRC != d.sum() {
		return durable{}
	}
	return d
}

// noteDurable writes down how long the manifest is: Pebble syncs it after each change. The file itself is made durable by
// whoever flushes.
func (e *engine) noteDurable() error {
	e.notedMu.Lock()
	defer e.notedMu.Unlock()
	files, dir := e.store.opt.FS, filepath.Join(e.dir, "pebble")
	marker, name, err := atomicfs.LocateMarker(files, dir, "manifest")
	if err == nil {
		err = marker.Close()
	}
	if err != nil {
		return fmt.Errorf("find manifest: %w", err)
	}
	info, err := files.Stat(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Pebble has just gone on to another one, which is whole
	}
	if err != nil {
		return fmt.Errorf("find manifest: %w", err)
	}
	d := durable{File: name, Bytes: info.Size()}
	if d.CRC = d.sum(); d == e.noted {
		return nil
	}
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("note manifest: %w", err)
	}
	path := filepath.Join(e.dir, durableFile)
	f, err := files.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("note manifest: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = files.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("note manifest: %w", err)
	}
	e.noted = d
	return nil
}
