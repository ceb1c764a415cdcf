// Package meta keeps the deciding state of the cluster on one node: metadata by bucket and key, what was
// received of each agent, the dictionary of series, which time stamps each series holds, the newest lines of senders
// that repeat themselves, log time, retention floors and running digests.
//
// State lives in memory over a bbolt file (DESIGN D1). Entries change memory only. At a mark, Freeze sets the
// changes since the last mark aside (quick, in the apply goroutine) and Commit writes them with the mark in one
// fsynced transaction beside further entries; that transaction is the watermark. Reads of metadata and series
// look into the live changes, the frozen ones and the file, in this order.
//
// Goroutines: one, the apply goroutine, calls Begin, methods of Tx, Publish and Freeze. Commit and CopyTo run on
// any other one, one at a time. All other methods may be called from anywhere at any time. Reload and Close
// want the apply goroutine to stand still.
//
// Everything that reads or writes state is a function of the entries alone: no clock, no random number, no
// order of a map. The package must not import Raft or any store.
package meta

import (
	"errors"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// ErrDamaged is wrapped, together with the name of the file, when the file is not what was written.
var ErrDamaged = errors.New("file is damaged")

// ErrVersion is wrapped, together with the name of the file, when the file is whole but of a version that this
// program does not know. Nothing of it was read or changed.
var ErrVersion = errors.New("file is of an unknown version")

// ErrSuperseded is returned by Commit when a later one has been committed or the store was reloaded.
var ErrSuperseded = errors.New("frozen state is superseded")

// LateWindow is how far behind log time a sample may be, in milliseconds.
const LateWindow = 7 * 24 * 3600 * 1000

// Change names a key of the metadata that changed.
type Change struct{ Bucket, Key string }

// Value is the value of a key. Data must not be modified.
type Value struct {
	Data     []byte
	ModIndex uint64 // index of the entry that changed the key last
	Expires  int64  // log time in milliseconds since 1970 at which the key goes; 0 never
}

// Mark says up to where the file holds the effects of the log, and the cluster's configuration then.
type Mark struct {
	Index, Term        uint64
	Configuration      []byte
	ConfigurationIndex uint64
	Generation         string
}

// EpochState says what the cluster knows of an epoch of an agent.
type EpochState uint8

// States of an epoch.
const (
	EpochNew    EpochState = 0
	EpochOpen   EpochState = 1
	EpochClosed EpochState = 2
)

// String returns the name used in the agents' protocol.
func (e EpochState) String() string {
	switch e {
	case EpochOpen:
		return "open"
	case EpochClosed:
		return "closed"
	}
	return "new"
}

// AgentState is what the cluster received of an agent.
type AgentState struct {
	Agent  string
	Open   bool // an epoch is open
	Epoch  wire.Epoch
	Last   map[wire.Lane]uint64 // last sequence applied of each lane of the open epoch; 0 none
	Closed int                  // epochs closed so far
	Series int                  // series registered
	Clones uint64               // batches refused because their number had come with other content
}

// Series is an entry of the dictionary.
type Series struct {
	Agent  string
	Labels wire.Labels
}

// Digest is the running digest of one kind and one UTC day: the sum over all accepted items of a hash of each.
type Digest struct {
	Kind  command.Kind
	Day   int64 // days since 1970
	Count uint64
	Sum   Sum
}
