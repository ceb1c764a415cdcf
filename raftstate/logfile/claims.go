package logfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Doubt says what is not known of the end of a log that was opened Short.
type Doubt uint8

// Kinds of doubt, more and more.
const (
	DoubtNone  Doubt = iota
	DoubtReach       // where the log had ended cannot be read; nothing else says that entries are gone
	DoubtLost        // entries at the end, which were durable once, are gone
)

// Doubt returns what is not known of the end of the log, as it was opened.
func (s *Store) Doubt() Doubt { return s.doubt }

// Reached returns the last entry that the log had when it was closed, as far as that is known; 0 when it is not.
func (s *Store) Reached() uint64 { return s.least }

// Claim is what the log says of one of its entries, which may be damaged.
type Claim struct {
	Index uint64
	Whole *raft.Log // the entry; nil when it is damaged
	torn  *raft.Log // it, as it is stored
}

// errNoClaim says that nothing can be told from a damaged entry.
var errNoClaim = errors.New("what is left of a damaged entry does not tell which one it was")

// Claims reads the entries lo..hi, damaged ones among them, of at most limit bytes.
func (s *Store) Claims(lo, hi uint64, limit int64) (out []Claim, err error) {
	for i := lo; i <= hi; i++ {
		l := new(raft.Log)
		c := Claim{Index: i}
		if err := s.readChecked(i, l); err == nil {
			c.Whole = l
		} else if c.torn, err = s.torn(i); err != nil {
			return nil, err
		} else {
			l = c.torn
		}
		if limit -= int64(sealBytes + len(l.Data)); limit < 0 {
			return nil, fmt.Errorf("entries %d to %d in %s are too many to be kept in memory", lo, hi, s.dir)
		}
		out = append(out, c)
	}
	return out, nil
}

// torn reads an entry without a look at its checksum.
func (s *Store) torn(index uint64) (l *raft.Log, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("entry %d in %s: %w: %v", index, s.dir, errNoClaim, r)
		}
	}()
	l = new(raft.Log)
	if err := s.wal.GetLog(index, l); err != nil {
		return nil, fmt.Errorf("entry %d in %s: %w: %w", index, s.dir, errNoClaim, err)
	}
	if len(l.Extensions) < sealHead || l.Extensions[0] != sealVersion {
		return nil, fmt.Errorf("entry %d in %s: %w", index, s.dir, errNoClaim)
	}
	return l, nil
}

// Is reports whether l, of another node's log, is the entry that was stored: when damage spared the checksum that was made
// of it, l has the same; when it hit the checksum, all the rest is the same.
func (c *Claim) Is(l *raft.Log) bool {
	if l.Index != c.Index {
		return false
	}
	if c.Whole != nil {
		return checksum(l, sealVersion, l.Extensions) == checksum(c.Whole, sealVersion, c.Whole.Extensions)
	}
	t, sum := c.torn, checksum(l, sealVersion, l.Extensions)
	if binary.LittleEndian.Uint32(t.Extensions[1:]) == sum {
		return true
	}
	return t.Index == l.Index && t.Term == l.Term && t.Type == l.Type && t.AppendedAt.Equal(l.AppendedAt) &&
		bytes.Equal(t.Data, l.Data) && bytes.Equal(t.Extensions[sealHead:], l.Extensions)
}
