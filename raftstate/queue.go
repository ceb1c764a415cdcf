package raftstate

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/command"
)

// ErrGone says that entries of the log were asked for that this node no longer holds.
var ErrGone = errors.New("entries of the log are gone here")

// QueueEntry is one entry of the log as the durable queue that it is.
type QueueEntry struct {
	Index      uint64
	Term       uint64
	Bytes      int
	AppendedAt time.Time // by the clock of the leader
	Stamp      int64     // milliseconds since 1970, by the leader's clock; 0 for entries of raft's own
	Commands   []command.Command
}

// maxQueueEntries bounds what one call of Entries returns.
const maxQueueEntries = 1000

// Entries reads committed entries of the log from index from on: at most limit of them (up to 1000) and about
// maxBytes, but at least one. next is where to read on; it is from when there is nothing yet. ErrGone when from
// lies before the log; next is then its first entry. What is returned is shared and must not be changed.
func (n *Node) Entries(from uint64, limit int, maxBytes int64) (entries []QueueEntry, next uint64, err error) {
	first, err := n.logBegins()
	if err != nil {
		return nil, from, err
	}
	if from < first {
		return nil, first, fmt.Errorf("entry %d is gone, the log begins at %d: %w", from, first, ErrGone)
	}
	commit := n.raft.Load().CommitIndex()
	next = from
	limit = min(limit, maxQueueEntries)
	for size := int64(0); next <= commit && len(entries) < limit && (size == 0 || size < maxBytes); next++ {
		var l raft.Log
		if err := n.store.GetLog(next, &l); err != nil {
			if errors.Is(err, raft.ErrLogNotFound) { // it was compacted meanwhile
				err = ErrGone
			}
			return entries, next, fmt.Errorf("read entry %d: %w", next, err)
		}
		e := QueueEntry{Index: l.Index, Term: l.Term, Bytes: len(l.Data), AppendedAt: l.AppendedAt}
		if l.Type == raft.LogCommand {
			entry, err := command.Decode(l.Data)
			if err != nil {
				return entries, next, fmt.Errorf("read entry %d: %w", next, err)
			}
			e.Stamp, e.Commands = entry.Stamp, entry.Commands
		}
		entries = append(entries, e)
		size += int64(e.Bytes)
	}
	return entries, next, nil
}

// AppliedIndex returns the last entry that this node's state and stores hold.
func (n *Node) AppliedIndex() uint64 { return n.fsm.applied.Load() }
