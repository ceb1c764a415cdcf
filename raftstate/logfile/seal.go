package logfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// raft-wal checks nothing when it reads, and a record form of our own is out of reach (it names its own in every
// segment), so the checksum travels in the extensions of the stored entry: the version of this form (1 byte), crc32c
// of index, term, type, time, content, version and the entry's own extensions (4 bytes, little endian), then these.
//
// That the version stands first, the checksum behind it, and of what it is, stays so in all versions, so that an
// entry of another one is told from a damaged one.

const (
	sealVersion = 1
	sealHead    = 1 + 4
	// sealBytes is what a stored entry takes besides its content, version and checksum included.
	sealBytes = sealHead + 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errChecksum = errors.New("checksum does not match")

// checksum is of everything that raft reads back.
func checksum(l *raft.Log, version byte, extensions []byte) uint32 {
	var h [30]byte
	binary.LittleEndian.PutUint64(h[0:], l.Index)
	binary.LittleEndian.PutUint64(h[8:], l.Term)
	h[16] = byte(l.Type)
	if !l.AppendedAt.IsZero() {
		binary.LittleEndian.PutUint64(h[17:], uint64(l.AppendedAt.UnixNano()))
	}
	binary.LittleEndian.PutUint32(h[25:], uint32(len(l.Data)))
	h[29] = version
	sum := crc32.Update(0, castagnoli, h[:])
	sum = crc32.Update(sum, castagnoli, l.Data)
	return crc32.Update(sum, castagnoli, extensions)
}

// seal returns the entry as it is stored. It shares the data of l.
func seal(l *raft.Log) *raft.Log {
	s := *l
	s.Extensions = append(make([]byte, 0, sealHead+len(l.Extensions)), sealVersion)
	s.Extensions = binary.LittleEndian.AppendUint32(s.Extensions, checksum(l, sealVersion, l.Extensions))
	s.Extensions = append(s.Extensions, l.Extensions...)
	return &s
}

// unseal checks a stored entry and makes it the one that was given.
func unseal(l *raft.Log) error {
	if len(l.Extensions) < sealHead {
		return errChecksum
	}
	version, rest := l.Extensions[0], l.Extensions[sealHead:]
	if binary.LittleEndian.Uint32(l.Extensions[1:]) != checksum(l, version, rest) {
		return errChecksum
	}
	if version != sealVersion {
		return fmt.Errorf("%w: it is of version %d, this program knows %d", ErrVersion, version, sealVersion)
	}
	if l.Extensions = rest; len(rest) == 0 {
		l.Extensions = nil
	}
	return nil
}
