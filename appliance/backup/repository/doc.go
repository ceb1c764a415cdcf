// Package repository keeps many backups of one cluster in one place so that what they have in common is stored once,
// and beside them the cluster's log, so that a restore can end at any entry.
//
// A repository is a folder, or a prefix of an S3 bucket, with objects that are written once and never changed:
//
//	repository.json     what it is of, and the secret below, encrypted to those who may read
//	pack-<sha256>       up to 32 MiB of pieces of files, named by what the object's bytes hash to
//	save-<index>-...    one backup: which files, made of which pieces; written last
//	log-<from>-<to>-... committed entries of the log
//	busy-..., drop-...  who is writing, and what is about to be removed
//
// It promises: a save that can be seen is complete; what one save needs is never removed while it is there, whoever
// writes, removes, stops or goes on late (see Sweep); objects of an encrypted repository tell whoever has no key nothing
// but sizes and times, since pieces are named by a keyed hash and packs by the hash of what age made of them; what Read
// returned without an error is, byte for byte, the image that was saved. Memory is bounded by the size of a pack and of
// a manifest.
//
// docs/formats.md has the bytes. The package must not import api, cli or raftstate (but its leaves meta and snapshot).
package repository

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Version of all objects of a repository.
const Version = 1

// Names of objects.
const (
	fileRepository = "repository.json"
	prefixPack     = "pack-"
	prefixSave     = "save-"
	prefixLog      = "log-"
	prefixBusy     = "busy-"
	prefixDrop     = "drop-"
	// FolderPrefix begins the names of the folders, or of the last part of the prefix in S3, that repositories have.
	FolderPrefix = "repo-"
)

// Errors of this package.
var (
	// ErrForeign says that a repository is another one than was expected.
	ErrForeign = errors.New("this is another repository")
	// ErrNotRepository says that there is no repository in a place.
	ErrNotRepository = errors.New("there is no repository of backups")
	// ErrVersion says that it is of a version that this program does not know.
	ErrVersion = errors.New("the repository is of another version")
	// ErrMissing says that something is gone that a backup needs.
	ErrMissing = errors.New("a part of the backup is missing")
	// ErrGap says that entries of the log are not in the archive.
	ErrGap = errors.New("entries of the log are not in the archive")
	// ErrHistory says that a repository holds entries of two clusters that go by the same name: one was set back, or is
	// a copy of the other.
	ErrHistory = errors.New("another history of the same cluster was archived here")
	// ErrNoSave says that no backup answers what was asked for.
	ErrNoSave = errors.New("there is no such backup in the repository")
	// ErrOvertaken says that a save took so long that others gave it up; what it had written does not count.
	ErrOvertaken = errors.New("the save was given up by others meanwhile")
)

// Save is a backup of a repository as its name tells of it.
type Save struct {
	Name    string
	Index   uint64
	LogTime int64 // milliseconds since 1970
	Size    int64 // of the manifest object alone, in bytes
}

// SaveName is the name of a backup. Names sort by index.
func SaveName(index uint64, logTime int64, run string) string {
	return fmt.Sprintf("%s%020d-%015d-%s", prefixSave, index, logTime, run)
}

// parseSave reads the name of a backup.
func parseSave(name string, size int64) (Save, bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 4 || parts[0]+"-" != prefixSave || len(parts[1]) != 20 || len(parts[2]) != 15 {
		return Save{}, false
	}
	index, err1 := strconv.ParseUint(parts[1], 10, 64)
	at, err2 := strconv.ParseInt(parts[2], 10, 64)
	return Save{Name: name, Index: index, LogTime: at, Size: size}, err1 == nil && err2 == nil && index > 0
}

// Segment is a piece of the archived log as its name tells of it.
type Segment struct {
	Name        string
	First, Last uint64
	Size        int64
}

func segmentName(first, last uint64, id string) string {
	return fmt.Sprintf("%s%020d-%020d-%s", prefixLog, first, last, id)
}

func parseSegment(name string, size int64) (Segment, bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 4 || parts[0]+"-" != prefixLog || len(parts[1]) != 20 || len(parts[2]) != 20 {
		return Segment{}, false
	}
	first, err1 := strconv.ParseUint(parts[1], 10, 64)
	last, err2 := strconv.ParseUint(parts[2], 10, 64)
	return Segment{Name: name, First: first, Last: last, Size: size}, err1 == nil && err2 == nil && first > 0 && first <= last
}
