package raftstate

import (
	"context"
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
// when there is one and maxBytes is positive. What this node does not hold, or cannot read, it asks the other members for.
// first is where the log begins on this node and committed its last committed entry; from below first gives none when no
// member that answers holds it.
func (n *Node) CommittedLog(ctx context.Context, from uint64, maxBytes int64) (entries []ArchivedEntry, first, committed uint64, err error) {
	if first, err = n.logBegins(); err != nil {
		return nil, 0, 0, err
	}
	committed = n.raft.Load().CommitIndex()
	if maxBytes <= 0 || from > committed {
		return nil, first, committed, nil
	}
	if from >= first {
		if entries, err = n.ownLog(from, committed, maxBytes); len(entries) > 0 {
			return entries, first, committed, nil
		}
	}
	for _, peer := range n.queuePeers() {
		served, e := n.logsFrom(ctx, peer, from, maxQueueEntries, maxBytes)
		if ctx.Err() != nil {
			return nil, first, committed, fmt.Errorf("read entry %d: %w", from, ctx.Err())
		}
		if e != nil {
			n.log.Debug("a member does not serve entries for the archive", "peer", peer, "from", from, "err", e)
			continue
		}
		for i := range served {
			a, e := archived(&served[i].log)
			if e != nil {
				return nil, first, committed, fmt.Errorf("read entry %d of node %s: %w", served[i].log.Index, peer, e)
			}
			entries = append(entries, a)
		}
		n.queuePeer.Store(&peer)
		return entries, first, committed, nil
	}
	if errors.Is(err, raft.ErrLogNotFound) { // it was compacted meanwhile
		return nil, max(first, from+1), committed, nil
	}
	return nil, first, committed, err
}

// ownLog reads entries from this node's own log, up to the first that cannot be read; the error is of that one.
func (n *Node) ownLog(from, committed uint64, maxBytes int64) (entries []ArchivedEntry, err error) {
	for size := int64(0); from <= committed && len(entries) < maxQueueEntries && size < maxBytes; from++ {
		var l raft.Log
		if err := n.store.GetLog(from, &l); err != nil {
			return entries, fmt.Errorf("read entry %d: %w", from, err)
		}
		e, err := archived(&l)
		if err != nil {
			return entries, fmt.Errorf("read entry %d: %w", from, err)
		}
		entries = append(entries, e)
		size += int64(len(l.Data)) + 64
	}
	return entries, nil
}

func archived(l *raft.Log) (ArchivedEntry, error) {
	e := ArchivedEntry{Index: l.Index, Term: l.Term, Type: uint8(l.Type), Data: l.Data}
	if l.Type == raft.LogCommand {
		entry, err := command.Decode(l.Data)
		if err != nil {
			return e, err
		}
		e.Stamp = entry.Stamp
	}
	return e, nil
}
