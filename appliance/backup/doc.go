// Package backup makes and reads backups of a cluster: the image of a node cut at one index of the log, a manifest
// that says what it holds, and, when the backup is encrypted, the cluster's private keys.
//
// It promises: memory is bounded whatever the size; private keys leave only encrypted; what Read returned without an
// error is complete, unaltered as far as the manifest and (encrypted) its key can tell, and every file in it has the
// digest that the manifest names. The form around the content is package container's.
//
// The state comes in through State and goes out through the function given to Read: the package does not know how a
// node is made of it. It must not import api, cli or raftstate (but its leaves meta, machine and snapshot).
package backup

import (
	"context"
	"errors"
	"io"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// State is a state at one index, ready to be streamed.
type State interface {
	// Size is the exact length in bytes of what WriteTo writes.
	Size() int64
	WriteTo(ctx context.Context, w io.Writer) error
}

// Errors of this package.
var (
	// ErrKey says that an encrypted backup was to be read with a key that does not fit, or with none.
	ErrKey = errors.New("the backup is encrypted and the key given does not open it")
	// ErrContent says that the content is not what the manifest says, although the container around it is whole.
	ErrContent = errors.New("the content of the backup is not what its manifest says")
	// ErrNewer says that the backup holds a state that this program is too old for.
	ErrNewer = errors.New("the backup was made by a newer version")
)

// Names within the content.
const (
	keysFolder   = "keys/"
	sealedKeys   = "keys.age" // a JSON list of KeyFile, encrypted by age
	imageName    = "image.tar"
	manifestName = "manifest.json"
)

const (
	maxKeyFile  = 64 << 10
	maxKeyFiles = 64
	maxManifest = 512 << 20
)

// Manifest says what a backup holds. It is the last part of the content. Times are milliseconds since 1970.
type Manifest struct {
	Version int    `json:"version"`
	Header  string `json:"header_sha256"` // of the container's header, which is thereby part of what is encrypted
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	Index   uint64 `json:"index"`
	Term    uint64 `json:"term"`
	LogTime int64  `json:"log_time"`
	Format  uint32 `json:"format"`
	Created int64  `json:"created"`
	Program string `json:"program"`

	Digest  string        `json:"digest"`  // folded from Digests, as `triward cluster status` shows it
	Digests []Digest      `json:"digests"` // of samples, lines and events by day
	Floors  []Floor       `json:"floors"`  // of retention
	State   StateManifest `json:"state"`
	Files   []File        `json:"files"` // of the image
	Image   File          `json:"image"`
	Keys    []string      `json:"keys"` // names of the key files in the backup, sealed or not
	// Damage is what the node knew to be wrong with its state when an operator had it saved nevertheless.
	Damage []string `json:"damage,omitempty"`
}

// Digest is the running digest of a kind and day.
type Digest struct {
	Kind  string `json:"kind"`
	Day   int64  `json:"day"` // days since 1970, UTC
	Count uint64 `json:"count"`
	Sum   string `json:"sum"`
}

// Floor is the retention floor of a kind: what is older is in no answer.
type Floor struct {
	Kind string `json:"kind"`
	Time int64  `json:"time"`
}

// StateManifest says what the deciding state holds: users, agents, rules, alerts, audit records and all else that is
// neither a sample nor a line.
type StateManifest struct {
	SHA256 string         `json:"sha256"` // over every record, equal on all nodes at one index
	Agents int            `json:"agents"`
	Series int            `json:"series"`
	Keys   map[string]int `json:"keys"` // by bucket
}

// File is a file and its SHA-256 in hexadecimal.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// KeyFile is a private key, or what belongs to one, as it lies in a node's TLS directory.
type KeyFile struct {
	Name string `json:"name"`
	Body []byte `json:"body"`
}

// About is what Write is told of the state.
type About struct {
	Cluster, Node, Program string
	Created                int64 // milliseconds since 1970
	State                  meta.Summary
	Damage                 []string // known of the state
}

// Manifest is the manifest of a backup of that, without its files.
func (a *About) Manifest() Manifest {
	s := &a.State
	m := Manifest{
		Version: 1, Cluster: a.Cluster, Node: a.Node, Index: s.Mark.Index, Term: s.Mark.Term, LogTime: s.LogTime,
		Format: s.Format, Created: a.Created, Program: a.Program, Digest: meta.FoldDigests(s.Digests),
		Digests: []Digest{}, Floors: []Floor{}, Files: []File{}, Keys: []string{}, Damage: a.Damage,
		State: StateManifest{SHA256: s.Sum, Agents: s.Agents, Series: s.Series, Keys: s.Keys},
	}
	for _, d := range s.Digests {
		m.Digests = append(m.Digests, Digest{d.Kind.String(), d.Day, d.Count, d.Sum.String()})
	}
	for _, k := range command.Kinds {
		m.Floors = append(m.Floors, Floor{k.String(), s.Floors[k]})
	}
	return m
}

// Count returns how many items of a kind the backup holds.
func (m *Manifest) Count(kind string) uint64 {
	var n uint64
	for _, d := range m.Digests {
		if d.Kind == kind {
			n += d.Count
		}
	}
	return n
}

// MatchesState says whether a state file holds what the manifest says.
func (m *Manifest) MatchesState(s *meta.Summary) bool {
	return m.Index == s.Mark.Index && m.Term == s.Mark.Term && m.State.SHA256 == s.Sum && m.Digest == meta.FoldDigests(s.Digests)
}
