package logstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// What retention cuts goes from the disk soon after the cut was applied. The state that knows of the cut is durable with the
// next mark only: after a power loss it counts days that the store has not any more, until the log has brought the cut again.
// To wait for the mark would be no help, since on a full disk there is none before something was removed. So the floors are
// written down, durably, before anything below them goes, and count from the start on.

// floorsFile holds the floors below which lines may have been removed, in nanoseconds since 1970:
//
//	{"version": 1, "logs": floor, "events": floor, "crc32c": of both}
const floorsFile = "floors.json"

type notedFloors struct {
	Version int    `json:"version"`
	Logs    int64  `json:"logs"`
	Events  int64  `json:"events"`
	CRC     uint32 `json:"crc32c"`
}

func (n *notedFloors) sum() uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(n.Logs)), uint64(n.Events)), castagnoli)
}

func noFloors() (f floors) {
	for i := range f {
		f[i] = minTime
	}
	return f
}

// readFloors returns what noteFloors wrote. Without a file, or with a damaged one, that is nothing: then days that were
// removed a moment before a power loss are taken for damaged, and the node for one that must mend itself.
func (e *engine) readFloors() (floors, error) {
	path := filepath.Join(e.dir, floorsFile)
	low := noFloors()
	b, err := readAll(e.store.opt.FS, path)
	if errors.Is(err, fs.ErrNotExist) {
		return low, nil
	}
	if err != nil {
		return low, fmt.Errorf("read the floors of retention: %w", err)
	}
	var n notedFloors
	switch err := json.Unmarshal(b, &n); {
	case err == nil && n.Version > 1:
		return low, e.wrap(floorsFile, fmt.Errorf("%w: floors of version %d, this program knows 1", block.ErrNewer, n.Version))
	case err != nil || n.CRC != n.sum():
		e.store.opt.Log.Warn("log store: the floors of retention that were written down cannot be read", "file", path, "err", err)
		return low, nil
	}
	low[wire.StreamLog], low[wire.StreamEvent] = n.Logs, n.Events
	return low, nil
}

// noteFloors makes it durable that lines below the floors may be gone. It must return before they go. Only background work
// calls it.
func (e *engine) noteFloors(low floors) error {
	if low == e.lows {
		return nil
	}
	n := notedFloors{Version: 1, Logs: low.of(wire.StreamLog), Events: low.of(wire.StreamEvent)}
	n.CRC = n.sum()
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("note the floors of retention: %w", err)
	}
	if err := e.writeDurably(floorsFile, b); err != nil {
		return fmt.Errorf("note the floors of retention: %w", err)
	}
	e.lows = low
	return nil
}

// writeDurably replaces a small file of the store's directory.
func (e *engine) writeDurably(name string, b []byte) error {
	files, path := e.store.opt.FS, filepath.Join(e.dir, name)
	f, err := files.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := files.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := files.OpenDir(e.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
