package tail

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/xxh3"
)

// fingerprintLen is how much of the beginning of a file is part of its identity.
const fingerprintLen = 1024

// statePrefix begins the keys of files in the spool's state.
const statePrefix = "file/"

// fingerprint is the hash of the first N bytes of a file. N grows with the file up to fingerprintLen.
type fingerprint struct {
	N   int    `json:"n"`
	Sum uint64 `json:"sum"`
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

// identity is what does not change with each line. It is replaced, never written into.
type identity struct {
	Path    string      `json:"path"`
	Stream  string      `json:"stream"` // the path in the label: the one the lines were written under
	Key     fileKey     `json:"key"`
	Print   fingerprint `json:"print"`
	Rotated bool        `json:"rotated,omitempty"` // no longer at its path
	Done    bool        `json:"done,omitempty"`    // rotated and read to its end
	Seen    int64       `json:"seen"`              // unix seconds of the last change
}

// position is a place in a file: the byte behind the last line taken. Skip says that it lies inside a line that
// was cut for its length.
type position struct {
	*identity
	Off  int64 `json:"off"`
	Skip bool  `json:"skip,omitempty"`
}

// EncodePosition implements lines.Position.
func (p position) EncodePosition() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("tail: position cannot be encoded: %v", err)) // plain numbers and strings
	}
	return b
}

func decodePosition(b []byte) (position, error) {
	p := position{identity: &identity{}}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("position of a file: %w", err)
	}
	return p, nil
}

// sameFile reports whether fi can be the file of p; the fingerprint decides where the system has no numbers.
func (p *identity) sameFile(fi os.FileInfo) bool {
	return p.Key == keyOf(fi)
}
