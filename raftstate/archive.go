package raftstate

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/command"
)

// ArchivedEntry is a committed entry of the log as it stands in it.
type ArchivedEntry struct {
	Index, Term uint64
	Type        uint8  // raft.LogType
	Stamp       int64  // log time in milliseconds since 1970; 0 for entries of raft's own
	Data        []byte // shared: it must not be changed
}

// CommittedLog reads committed entries from the index from on, for an archive: at most about maxBytes, but at least one
// when there is one and maxBytes is positive. first is where the log begins on this node and committed its last committed
// entry; from below first gives none.
func (n *Node) CommittedLog(from uint64, maxBytes int64) (entries []ArchivedEntry, first, committed uint64, err error) {
	if first, err = n.logBegins(); err != nil {
		return nil, 0, 0, err
	}
	committed = n.raft.Load().CommitIndex()
	if from < first {
		return nil, first, committed, nil
	}
	for size := int64(0); from <= committed && len(entries) < maxQueueEntries && size < maxBytes; from++ {
		var l raft.Log
		if err := n.store.GetLog(from, &l); err != nil {
			if errors.Is(err, raft.ErrLogNotFound) { // it was compacted meanwhile
				return nil, from + 1, committed, nil
			}
			return entries, first, committed, fmt.Errorf("read entry %d: %w", from, err)
		}
		e := ArchivedEntry{Index: l.Index, Term: l.Term, Type: uint8(l.Type), Data: l.Data}
		if l.Type == raft.LogCommand {
			entry, err := command.Decode(l.Data)
			if err != nil {
				return entries, first, committed, fmt.Errorf("read entry %d: %w", from, err)
			}
			e.Stamp = entry.Stamp
		}
		entries = append(entries, e)
		size += int64(len(l.Data)) + 64
	}
	return entries, first, committed, nil
}
