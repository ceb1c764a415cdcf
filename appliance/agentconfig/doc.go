// Package agentconfig keeps the configuration of agents by group: every change is a version with author, time and note,
// and the newest versions of each group are kept. It owns the buckets `agentconfigs` and `agentconfighistory` of the
// metadata.
//
// A text is checked by the agents' own checker (agent/config) before it is proposed, changed only by who read the version
// that it replaces, and written together with its audit record. It works over any metadata and must not import raftstate,
// the stores, ui or api.
package agentconfig

import (
	"errors"
	"regexp"
)

// Buckets of the metadata that this package owns: the newest version of each group under its name, and all kept versions
// under NAME/VERSION with 20 digits.
const (
	Bucket        = "agentconfigs"
	BucketHistory = "agentconfighistory"
)

// DefaultGroup is the group of agents that have none, and its configuration that of groups that have none.
const DefaultGroup = "default"

// Bounds.
const (
	MaxGroups  = 200 // with a configuration of their own
	MaxHistory = 30  // versions of a group, with the newest
	MaxNote    = 500 // bytes
)

// Errors of this package.
var (
	// ErrNotFound says that there is no such group or version.
	ErrNotFound = errors.New("not found")
	// ErrInvalid says that an argument breaks a rule; the text names it.
	ErrInvalid = errors.New("invalid")
	// ErrConflict says that the configuration is not the one any more that was read.
	ErrConflict = errors.New("it was changed by somebody else")
	// ErrLimit says that a bound is reached.
	ErrLimit = errors.New("limit reached")
)

var groupName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// GroupOf is the name of an agent's group as its record has it: "" is the default group.
func GroupOf(recorded string) string {
	if recorded == "" {
		return DefaultGroup
	}
	return recorded
}

// Version is a version of a group's configuration.
type Version struct {
	Group   string `json:"group"`
	Version uint64 `json:"version"` // 1 is the first; 0: there is none
	Hash    string `json:"hash"`
	Body    string `json:"body,omitempty"` // YAML
	Author  string `json:"author"`
	At      int64  `json:"at"` // log time, milliseconds since 1970
	Note    string `json:"note,omitempty"`
	// From is the version whose text was taken again, 0 for a new one.
	From uint64 `json:"from,omitempty"`
}

// By is who changes something.
type By struct{ Actor, Address string }
