package logfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// reach remembers in a small file how far the log reached. raft-wal takes whatever it cannot read at the end of
// its newest segment for a torn write and cuts it off, so a flipped bit there would silently take back entries
// that this node has acknowledged. The file is written after each append and not synced: what it says was
// durable before, so it may lag behind the log after a loss of power but is never ahead of it.
type reach struct{ f *os.File }

// The file holds the version of this form (1 byte), the crc32c of version and index (4 bytes, little endian) and the
// index (8 bytes, likewise). That version and checksum stand first stays so in all versions.
const (
	reachFile    = "REACH"
	reachVersion = 1
	reachHead    = 1 + 4
	reachBytes   = reachHead + 8
)

func reachSum(version byte, index []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte{version}, castagnoli), castagnoli, index)
}

// openReach returns what the file says. With any it is returned opened, beside ErrCorrupt, when it cannot be read.
func openReach(dir string, any bool) (*reach, uint64, error) {
	f, err := os.OpenFile(filepath.Join(dir, reachFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open reach of log: %w", err)
	}
	b := make([]byte, 64)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, errors.Join(fmt.Errorf("read reach of log: %w", err), f.Close())
	}
	index, err := readReach(b[:n])
	if any && errors.Is(err, ErrCorrupt) {
		return &reach{f}, 0, err
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("%s in %s: %w", reachFile, dir, err), f.Close())
	}
	return &reach{f}, index, nil
}

// readReach returns 0 for a file that was only just made.
func readReach(b []byte) (uint64, error) {
	switch {
	case len(b) == 0:
		return 0, nil
	case len(b) < reachHead || binary.LittleEndian.Uint32(b[1:]) != reachSum(b[0], b[reachHead:]):
		return 0, ErrCorrupt
	case b[0] != reachVersion:
		return 0, fmt.Errorf("%w: it is of version %d, this program knows %d", ErrVersion, b[0], reachVersion)
	case len(b) != reachBytes:
		return 0, ErrCorrupt
	}
	return binary.LittleEndian.Uint64(b[reachHead:]), nil
}

func appendReach(index uint64) []byte {
	at := binary.LittleEndian.AppendUint64(nil, index)
	b := append(make([]byte, 0, reachBytes), reachVersion)
	return append(binary.LittleEndian.AppendUint32(b, reachSum(reachVersion, at)), at...)
}

// set notes that the log reaches index. Before it is made shorter, sync must be true.
func (r *reach) set(index uint64, sync bool) error {
	_, err := r.f.WriteAt(appendReach(index), 0)
	if err == nil && sync {
		err = r.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("note reach of log: %w", err)
	}
	return nil
}

func (r *reach) close() error { return r.f.Close() }
