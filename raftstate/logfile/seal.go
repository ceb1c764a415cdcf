package logfile

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// raft-wal checks nothing when it reads, and a record form of our own is out of reach (it names its own in every
// segment), so the checksum travels in the extensions of the stored entry: crc32c of index, term, type, time and
// content (4 bytes, little endian), then the entry's own extensions.

// sealBytes is what a stored entry takes besides its content, its checksum included.
const sealBytes = 4 + 32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errChecksum = errors.New("checksum does not match")

// checksum is of everything that raft reads back.
func checksum(l *raft.Log, extensions []byte) uint32 {
	var h [29]byte
	binary.LittleEndian.PutUint64(h[0:], l.Index)
	binary.LittleEndian.PutUint64(h[8:], l.Term)
	h[16] = byte(l.Type)
	if !l.AppendedAt.IsZero() {
		binary.LittleEndian.PutUint64(h[17:], uint64(l.AppendedAt.UnixNano()))
	}
	binary.LittleEndian.PutUint32(h[25:], uint32(len(l.Data)))
	sum := crc32.Update(0, castagnoli, h[:])
	sum = crc32.Update(sum, castagnoli, l.Data)
	return crc32.Update(sum, castagnoli, extensions)
}

// seal returns the entry as it is stored. It shares the data of l.
func seal(l *raft.Log) *raft.Log {
	s := *l
	s.Extensions = make([]byte, 4, 4+len(l.Extensions))
	binary.LittleEndian.PutUint32(s.Extensions, checksum(l, l.Extensions))
	s.Extensions = append(s.Extensions, l.Extensions...)
	return &s
}

// unseal checks a stored entry and makes it the one that was given.
func unseal(l *raft.Log) error {
	if len(l.Extensions) < 4 {
		return errChecksum
	}
	rest := l.Extensions[4:]
	if binary.LittleEndian.Uint32(l.Extensions) != checksum(l, rest) {
		return errChecksum
	}
	if l.Extensions = rest; len(rest) == 0 {
		l.Extensions = nil
	}
	return nil
}
