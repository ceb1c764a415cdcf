// Package command is the vocabulary of the replicated log: the envelope of an entry, the commands in it and the
// results of applying them, each with its binary form.
//
// Numbers of types, statuses and kinds are never used again for something else. A command carries a version of
// its body; decoders accept only versions they know. testdata holds golden bytes of every form; they change
// only before docs/formats.md declares format 1. Decoders never allocate by a length that the bytes at hand
// cannot hold, and what they return points into the bytes they were given unless said otherwise.
//
// The package knows nothing of state, Raft or time. It imports agent/wire and nothing else of Triward.
package command

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/triward/triward/agent/wire"
)

// Type is the number of a command. Bit 15 marks one that a node which does not know it may pass over.
type Type uint16

// Ignorable is the bit of Type that lets an older node pass over a command it does not know.
const Ignorable Type = 1 << 15

// Types of commands.
const (
	TypeSetFormat      Type = 1
	TypeTick           Type = 2
	TypeBatch          Type = 3
	TypeOpenEpoch      Type = 4
	TypeRegisterSeries Type = 5
	TypeCollectSeries  Type = 6
	TypeHeartbeats     Type = 7
	TypeMetaTxn        Type = 8
	TypeRetentionCut   Type = 9
	TypeDeliver        Type = 10
	TypeForgetAgent    Type = 11
	TypeSelectorCut    Type = 12
)

// String returns the name of the type as shown to operators.
func (t Type) String() string {
	switch t &^ Ignorable {
	case TypeSetFormat:
		return "set_format"
	case TypeTick:
		return "tick"
	case TypeBatch:
		return "batch"
	case TypeOpenEpoch:
		return "open_epoch"
	case TypeRegisterSeries:
		return "register_series"
	case TypeCollectSeries:
		return "collect_series"
	case TypeHeartbeats:
		return "heartbeats"
	case TypeMetaTxn:
		return "meta_txn"
	case TypeRetentionCut:
		return "retention_cut"
	case TypeDeliver:
		return "deliver"
	case TypeForgetAgent:
		return "forget_agent"
	case TypeSelectorCut:
		return "selector_cut"
	}
	return fmt.Sprintf("type %d", uint16(t))
}

// MayIgnore reports whether a node that does not know the command may pass over it.
func (t Type) MayIgnore() bool { return t&Ignorable != 0 }

// Since returns the format of the cluster's state from which on a command that this build knows may be proposed: programs
// that know no greater one than the format before stop at it.
func Since(t Type, _ uint8) uint32 {
	if t&^Ignorable == TypeSelectorCut {
		return 2
	}
	return 1
}

// Known reports whether this program can apply commands of the type and version.
func Known(t Type, version uint8) bool {
	t &^= Ignorable
	return t >= TypeSetFormat && t <= TypeSelectorCut && version == bodyVersion
}

// Limits of an entry, in bytes unless said otherwise.
const (
	MaxEntry    = 1 << 20 // an entry with its envelope; nodes propose no longer ones
	MaxEntryRaw = 4 << 20 // bodies of an entry decompressed: what is decoded of them lies in memory at once
	MaxCommands = 4096    // commands in one entry
	// Overhead is the most that the envelope adds to an entry, PerCommand the most it adds for each command.
	Overhead   = 1 + 8 + binary.MaxVarintLen32
	PerCommand = 3 + 1 + binary.MaxVarintLen32
)

// ErrMalformed is wrapped by every error about bytes that are not of this format.
var ErrMalformed = errors.New("malformed")

// ErrEnvelope says that an entry has an envelope of a version that this program does not know: the node must
// stop rather than guess.
var ErrEnvelope = errors.New("unknown version of the entry's envelope")

// Command is one command as it stands in the log. Body belongs to whoever made it.
type Command struct {
	Type    Type
	Version uint8
	Body    []byte
}

// Size is the number of bytes that the command takes in an entry, never underestimated.
func (c *Command) Size() int { return PerCommand + len(c.Body) }

const (
	envelopeVersion = 1
	bodyVersion     = 1
)

// Entry is one entry of the log: commands applied in order at one log time.
type Entry struct {
	Stamp    int64 // leader's clock, milliseconds since 1970
	Commands []Command
}

// Append appends the binary form of the entry to dst:
//
//	envelope version byte (1), stamp int64 little endian, uvarint n, each command:
//	  uvarint type, version byte, uvarint length, body
func (e *Entry) Append(dst []byte) []byte {
	dst = append(dst, envelopeVersion)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Stamp))
	dst = binary.AppendUvarint(dst, uint64(len(e.Commands)))
	for i := range e.Commands {
		c := &e.Commands[i]
		dst = binary.AppendUvarint(dst, uint64(c.Type))
		dst = append(dst, c.Version)
		dst = binary.AppendUvarint(dst, uint64(len(c.Body)))
		dst = append(dst, c.Body...)
	}
	return dst
}

// Decode reads an entry. The bodies point into b. Errors wrap ErrMalformed or ErrEnvelope.
func Decode(b []byte) (Entry, error) {
	var e Entry
	if len(b) > 0 && b[0] != envelopeVersion {
		return e, fmt.Errorf("%w: %d, this program knows %d", ErrEnvelope, b[0], envelopeVersion)
	}
	c := wire.NewReader(b, ErrMalformed)
	c.Byte("envelope version")
	e.Stamp = int64(c.Uint64("stamp"))
	n := c.Count("count of commands", MaxCommands, 3)
	if c.Err() != nil {
		return e, c.Err()
	}
	e.Commands = make([]Command, n)
	for i := range e.Commands {
		cmd := &e.Commands[i]
		t := c.Uvarint("type")
		if t > 1<<16-1 {
			c.Fail("type out of bounds")
		}
		cmd.Type = Type(t)
		cmd.Version = c.Byte("version")
		cmd.Body = c.Prefixed(MaxEntry, "body")
		if c.Err() != nil {
			return Entry{}, fmt.Errorf("command %d: %w", i, c.Err())
		}
	}
	if err := c.End("the last command"); err != nil {
		return Entry{}, err
	}
	return e, nil
}
