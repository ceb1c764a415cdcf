package tail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/zeebo/xxh3"

	"github.com/triward/triward/agent/wire"
)

// fingerprintLen is how much of the beginning of a file is part of its identity.
const fingerprintLen = 1024

// statePrefix begins the keys of files in the spool's state.
const statePrefix = "file/"

// fingerprint is the hash of the first N bytes of a file. N grows with the file up to fingerprintLen.
type fingerprint struct {
	N   int
	Sum uint64
}

// printOf takes the fingerprint of the first n bytes; shorter files give a shorter one.
func printOf(f io.ReaderAt, n int) (fingerprint, error) {
	var buf [fingerprintLen]byte
	k, err := f.ReadAt(buf[:min(n, fingerprintLen)], 0)
	if err != nil && err != io.EOF {
		return fingerprint{}, fmt.Errorf("read beginning: %w", err)
	}
	return fingerprint{N: k, Sum: xxh3.Hash(buf[:k])}, nil
}

// matches reports whether f begins as the fingerprint says.
func (p fingerprint) matches(f io.ReaderAt) bool {
	q, err := printOf(f, p.N)
	return err == nil && q == p
}

// begins reports whether head, the beginning of a file, is that of the fingerprint.
func (p fingerprint) begins(head []byte) bool {
	return p.N > 0 && p.N <= len(head) && xxh3.Hash(head[:p.N]) == p.Sum
}

// identity is what does not change with each line. It is replaced, never written into.
type identity struct {
	Path    string // any bytes: file systems know no character sets
	Stream  string // the path that the label shows: the one the lines were written under
	Key     fileKey
	Print   fingerprint
	Rotated bool  // no longer at its path
	Done    bool  // rotated and read to its end
	Seen    int64 // unix seconds of the last change
}

// position is a place in a file: the byte behind the last line taken. Skip says that it lies inside a line that
// was cut for its length.
type position struct {
	*identity
	Off  int64
	Skip bool
}

// A position in the spool, version 1 (testdata holds golden bytes):
//
//	version byte (1), flags byte (1 rotated, 2 done, 4 skip), uvarint device, uvarint inode,
//	uvarint length of the fingerprint, 8 bytes fingerprint (little endian), varint seen, uvarint offset,
//	path, stream (empty when it is the path), each with its length before it
const positionVersion = 1

const (
	flagRotated = 1 << iota
	flagDone
	flagSkip
)

// EncodePosition implements lines.Position.
func (p position) EncodePosition() []byte {
	var flags byte
	if p.Rotated {
		flags |= flagRotated
	}
	if p.Done {
		flags |= flagDone
	}
	if p.Skip {
		flags |= flagSkip
	}
	b := make([]byte, 0, 48+len(p.Path))
	b = append(b, positionVersion, flags)
	b = binary.AppendUvarint(b, p.Key.Dev)
	b = binary.AppendUvarint(b, p.Key.Ino)
	b = binary.AppendUvarint(b, uint64(p.Print.N))
	b = binary.LittleEndian.AppendUint64(b, p.Print.Sum)
	b = binary.AppendVarint(b, p.Seen)
	b = binary.AppendUvarint(b, uint64(p.Off))
	b = wire.AppendString(b, p.Path)
	if p.Stream == p.Path {
		return append(b, 0)
	}
	return wire.AppendString(b, p.Stream)
}

var errPosition = errors.New("position of a file cannot be read")

// maxPath is longer than the path of any file.
const maxPath = 32 << 10

func decodePosition(b []byte) (position, error) {
	p := position{identity: &identity{}}
	r := wire.NewReader(b, errPosition)
	if v := r.Byte("version"); r.Err() == nil && v != positionVersion {
		return p, fmt.Errorf("%w: it has version %d, this program knows %d", errPosition, v, positionVersion)
	}
	flags := r.Byte("flags")
	p.Rotated, p.Done, p.Skip = flags&flagRotated != 0, flags&flagDone != 0, flags&flagSkip != 0
	p.Key.Dev, p.Key.Ino = r.Uvarint("device"), r.Uvarint("inode")
	p.Print.N = int(r.Number("length of the fingerprint", fingerprintLen))
	p.Print.Sum = r.Uint64("fingerprint")
	p.Seen = r.Varint("time")
	p.Off = int64(r.Number("offset", math.MaxInt64))
	p.Path = r.Text(maxPath, "path")
	if p.Stream = r.Text(maxPath, "stream"); p.Stream == "" {
		p.Stream = p.Path
	}
	return p, r.End("the stream")
}

// sameFile reports whether fi can be the file of p; the fingerprint decides where the system has no numbers.
func (p *identity) sameFile(fi os.FileInfo) bool {
	return p.Key == keyOf(fi)
}
