package logfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// reach remembers in a small file how far the log reached. raft-wal takes whatever it cannot read at the end of
// its newest segment for a torn write and cuts it off, so a flipped bit there would silently take back entries
// that this node has acknowledged. The file is written after each append and not synced: what it says was
// durable before, so it may lag behind the log after a loss of power but is never ahead of it.
type reach struct{ f *os.File }

const (
	reachFile  = "REACH"
	reachBytes = 12 // index (8) and its crc32c (4), little endian
)

func openReach(dir string) (*reach, uint64, error) {
	f, err := os.OpenFile(filepath.Join(dir, reachFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open reach of log: %w", err)
	}
	var b [reachBytes]byte
	n, err := f.ReadAt(b[:], 0)
	if n < reachBytes {
		if n == 0 {
			return &reach{f}, 0, nil
		}
		return nil, 0, errors.Join(fmt.Errorf("read reach of log: %w", err), f.Close())
	}
	if crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return nil, 0, errors.Join(fmt.Errorf("%s in %s: %w", reachFile, dir, ErrCorrupt), f.Close())
	}
	return &reach{f}, binary.LittleEndian.Uint64(b[:]), nil
}

// set notes that the log reaches index. Before it is made shorter, sync must be true.
func (r *reach) set(index uint64, sync bool) error {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, reachBytes), index)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	_, err := r.f.WriteAt(b, 0)
	if err == nil && sync {
		err = r.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("note reach of log: %w", err)
	}
	return nil
}

func (r *reach) close() error { return r.f.Close() }
