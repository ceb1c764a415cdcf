// Package container is the outer form of a backup: a header that anybody can read, frames that carry the content,
// encrypted or not, and an end that says how much there was.
//
// It promises that a stream which a Reader has read to io.EOF is, byte for byte, what a Writer wrote and closed: a
// stream that was cut, altered, reordered or prolonged ends in an error that is ErrDamaged, also for somebody who
// cannot decrypt what it carries. It holds one frame in memory. It knows nothing of what the content is and imports
// nothing of Triward.
//
// Version 1, numbers little endian:
//
//	magic "TRIWARDB", version uint16, length uint32 of the header, the header as JSON, CRC32C of all before
//	frames: kind byte 'D', length uint32, payload, CRC32C over (number of the frame uint64, kind, length, payload)
//	end: a frame of kind 'E', whose payload is JSON: frames and bytes of 'D', SHA-256 of the stream before it
//
// The checks are against accidents. Whoever can write the file can write another one that passes them; only
// encryption to a key of one's own tells that apart, since the content names the header's SHA-256.
package container

import (
	"errors"
	"hash/crc32"
)

// Version is the version that Writers write, and the only one that Readers accept.
const Version = 1

const (
	magic       = "TRIWARDB"
	prefixSize  = len(magic) + 2 + 4
	maxHeader   = 64 << 10
	frameHead   = 1 + 4
	crcSize     = 4
	kindData    = 'D'
	kindEnd     = 'E'
	frameSize   = 256 << 10 // of the frames that a Writer makes
	maxFrame    = 1 << 20   // that a Reader takes
	maxEnd      = 4 << 10
	sha256Bytes = 32
)

// Errors of this package.
var (
	// ErrNotBackup says that the stream does not begin like a backup.
	ErrNotBackup = errors.New("this is no backup of Triward")
	// ErrVersion says that the backup is of a version that this program does not read.
	ErrVersion = errors.New("the backup is of another version")
	// ErrDamaged says that the stream is not what was written.
	ErrDamaged = errors.New("the backup is damaged")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is what everybody can know of a backup. Times are milliseconds since 1970.
type Header struct {
	Cluster    string `json:"cluster"` // id
	Node       string `json:"node"`    // that made it
	Index      uint64 `json:"index"`   // the state is as of this entry of the log
	Term       uint64 `json:"term"`
	LogTime    int64  `json:"log_time"`
	Format     uint32 `json:"format"`     // of the cluster's state
	Created    int64  `json:"created"`    // by the node's clock
	Program    string `json:"program"`    // version of Triward
	Digest     string `json:"digest"`     // of samples, lines and events, as `triward cluster status` shows it
	Encryption string `json:"encryption"` // "age", or "" for none
	Content    string `json:"content"`    // ContentV1
	Keys       string `json:"keys"`       // where the cluster's private keys are: "", KeysInside or KeysSealed
	ImageBytes int64  `json:"image_bytes"`
	First      uint64 `json:"first,omitempty"` // of ContentLogV1: its first entry; Index is the last
	// Damaged: the node knew that its state was not whole; the manifest says what was wrong.
	Damaged bool `json:"damaged,omitempty"`
}

// Values of Header.
const (
	EncryptionAge = "age"
	// KeysInside: an encrypted content has them as it has everything else. KeysSealed: a content that is not encrypted
	// has them encrypted to the cluster's recovery key.
	KeysInside = "inside"
	KeysSealed = "sealed"
	// ContentV1 is zstd of a tar: files below keys/ or keys.age, image.tar, manifest.json.
	ContentV1 = "tar+zstd/1"
	// ContentSaveV1 is a save of a repository, ContentLogV1 a segment of the log that is archived in one: package
	// repository says what they hold.
	ContentSaveV1 = "repository-save/1"
	ContentLogV1  = "repository-log/1"
)

type end struct {
	Frames uint64 `json:"frames"`
	Bytes  uint64 `json:"bytes"`
	SHA256 string `json:"sha256"`
}
