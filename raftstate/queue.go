package raftstate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/command"
)

// ErrGone says that entries of the log were asked for that this node no longer holds.
var ErrGone = errors.New("entries of the log are gone here")

// GoneError says that no member that answers holds an entry any more. It is ErrGone.
type GoneError struct {
	From  uint64 // the entry that was asked for
	First uint64 // the first one that a member still holds
	// Silent are members that did not answer, or have not applied the entry yet: they may hold it.
	Silent []string
}

// Error implements error.
func (e *GoneError) Error() string {
	text := fmt.Sprintf("entries %d to %d of the log are gone", e.From, e.First-1)
	if len(e.Silent) > 0 {
		text += fmt.Sprintf(" (of the members that answer; no answer of %v)", e.Silent)
	}
	return text
}

// Is makes the error ErrGone.
func (e *GoneError) Is(target error) bool { return target == ErrGone } //nolint:errorlint // as errors.Is asks

// QueueEntry is one entry of the log as the durable queue that it is.
type QueueEntry struct {
	Index      uint64
	Term       uint64
	Bytes      int
	AppendedAt time.Time // by the clock of the leader
	Stamp      int64     // milliseconds since 1970, by the leader's clock; 0 for entries of raft's own
	Commands   []command.Command
	// Verdict says which of the commands and their items were not applied as they stand; nil when all were. It can only
	// be believed when Judged is set: a node that has just installed an image, or lost the file, does not know it.
	Verdict *command.Verdict
	Judged  bool
}

// maxQueueEntries bounds what one call of Entries returns.
const maxQueueEntries = 1000

// Entries reads entries of the log that this node has applied from index from on: at most limit of them (up to 1000) and
// about maxBytes, but at least one. next is where to read on; it is from when there is nothing yet. ErrGone when from
// lies before the log; next is then its first entry. What is returned is shared and must not be changed.
func (n *Node) Entries(from uint64, limit int, maxBytes int64) (entries []QueueEntry, next uint64, err error) {
	next, err = n.eachEntry(from, limit, maxBytes, func(l *raft.Log) error {
		body, judged := n.fsm.verdicts.Get(l.Index)
		e, err := queueEntry(l, body, judged)
		entries = append(entries, e)
		return err
	})
	return entries, next, err
}

// eachEntry reads entries from this node's own log.
func (n *Node) eachEntry(from uint64, limit int, maxBytes int64, fn func(l *raft.Log) error) (next uint64, err error) {
	first, err := n.logBegins()
	if err != nil {
		return from, err
	}
	if from < first {
		return first, fmt.Errorf("entry %d is gone, the log begins at %d: %w", from, first, ErrGone)
	}
	last := min(n.raft.Load().CommitIndex(), n.fsm.applied.Load())
	next = from
	limit = min(limit, maxQueueEntries)
	for size, count := int64(0), 0; next <= last && count < limit && (size == 0 || size < maxBytes); next++ {
		var l raft.Log
		if err := n.store.GetLog(next, &l); err != nil {
			if errors.Is(err, raft.ErrLogNotFound) { // it was compacted meanwhile
				err = ErrGone
			}
			return next, fmt.Errorf("read entry %d: %w", next, err)
		}
		if err := fn(&l); err != nil {
			return next, fmt.Errorf("read entry %d: %w", next, err)
		}
		size += int64(len(l.Data)) + 1
		count++
	}
	return next, nil
}

func queueEntry(l *raft.Log, verdict []byte, judged bool) (QueueEntry, error) {
	e := QueueEntry{Index: l.Index, Term: l.Term, Bytes: len(l.Data), AppendedAt: l.AppendedAt, Judged: judged}
	if l.Type != raft.LogCommand {
		return e, nil
	}
	entry, err := command.Decode(l.Data)
	if err != nil {
		return e, err
	}
	e.Stamp, e.Commands = entry.Stamp, entry.Commands
	if judged && len(verdict) > 0 {
		if e.Verdict, err = command.DecodeVerdict(verdict); err != nil {
			return e, fmt.Errorf("verdict: %w", err)
		}
	}
	return e, nil
}

// ReadQueue is Entries over the whole cluster: what this node does not hold, or does not know the verdicts on, it asks
// the other members for, one after the other, the one that had it last first. The error is a *GoneError when none of
// those that answer has it; next is then the first entry that one of them has.
func (n *Node) ReadQueue(ctx context.Context, from uint64, limit int, maxBytes int64) (entries []QueueEntry, next uint64, err error) {
	first, err := n.logBegins()
	if err != nil {
		return nil, from, err
	}
	held := from >= first
	if held && n.fsm.verdicts.Knows(from) || from > n.fsm.applied.Load() {
		entries, next, err = n.Entries(from, limit, maxBytes)
		if !errors.Is(err, ErrGone) {
			return entries, next, err
		}
		held = false // it was compacted while we looked
		first = max(first, next)
	}
	gone := &GoneError{From: from, First: first}
	for _, peer := range n.queuePeers() {
		page, err := n.entriesFrom(ctx, peer, from, limit, maxBytes)
		switch {
		case err == nil && (page[0].Judged || !held):
			n.queuePeer.Store(&peer)
			page = n.beforeOwn(page, first)
			return page, page[len(page)-1].Index + 1, nil
		case err == nil:
		case ctx.Err() != nil:
			return nil, from, fmt.Errorf("read entry %d: %w", from, ctx.Err())
		default:
			var begins *beginsError
			if errors.As(err, &begins) && begins.first > 0 {
				if begins.first > from {
					gone.First = min(gone.First, begins.first)
				}
				continue
			}
			// Also one that has not applied the entry yet, as just behind its start: it may hold it in a moment.
			n.log.Debug("a member does not serve entries", "peer", peer, "err", err)
			gone.Silent = append(gone.Silent, peer)
		}
	}
	if held { // nobody knows more
		return n.Entries(from, limit, maxBytes)
	}
	slices.Sort(gone.Silent)
	return nil, gone.First, gone
}

// beforeOwn cuts off what this node can read itself.
func (n *Node) beforeOwn(page []QueueEntry, first uint64) []QueueEntry {
	for i := 1; i < len(page); i++ {
		if page[i].Index >= first && n.fsm.verdicts.Knows(page[i].Index) {
			return page[:i]
		}
	}
	return page
}

// OldestEntry returns the first entry that this node or another member that answers still holds, and the members that
// do not answer.
func (n *Node) OldestEntry(ctx context.Context) (first uint64, silent []string, err error) {
	if first, err = n.logBegins(); err != nil {
		return 0, nil, err
	}
	for _, peer := range n.queuePeers() {
		st, err := n.PeerStatus(ctx, peer)
		switch {
		case err != nil:
			silent = append(silent, peer)
		case st.FirstIndex > 0:
			first = min(first, st.FirstIndex)
		}
	}
	slices.Sort(silent)
	return first, silent, nil
}

// QueuedBytes returns about how many bytes the entries from..to take in this node's log.
func (n *Node) QueuedBytes(from, to uint64) int64 { return n.store.Between(from, to) }

// oldestVerdict is the first entry whose verdict is still asked for, at a mark.
func (n *Node) oldestVerdict(mark uint64) uint64 {
	first, err := n.store.FirstIndex()
	if err != nil || first == 0 {
		return mark + 1
	}
	return first
}

// stampSkew is how far, in milliseconds, the stamps of two leaders may lie from the order of the log.
const stampSkew = 60_000

// maxSkewed bounds how far EntryAt looks back for a stamp out of order.
const maxSkewed = 1000

// EntryAt returns the first entry of the log, anywhere in the cluster, that was stamped at the time ms (milliseconds
// since 1970) or later: the next one to come when there is none.
func (n *Node) EntryAt(ctx context.Context, ms int64) (uint64, error) {
	first, _, err := n.OldestEntry(ctx)
	if err != nil {
		return 0, err
	}
	end := n.fsm.applied.Load() + 1
	lo, hi := first, end
	for lo < hi { // the first that is not before
		mid := lo + (hi-lo)/2
		at, stamp, err := n.stampFrom(ctx, mid, hi)
		switch {
		case err != nil:
			return 0, err
		case at < hi && stamp < ms:
			lo = at + 1
		default:
			hi = mid
		}
	}
	// Leaders' clocks differ a little: one before may have been ahead.
	found := lo
	for i, looked := lo, 0; i > first && looked < maxSkewed; looked++ {
		i--
		at, stamp, err := n.stampFrom(ctx, i, i+1)
		if err != nil {
			return 0, err
		}
		if at == i && stamp >= ms {
			found = i
		}
		if at == i && stamp < ms-stampSkew || at == i && stamp < ms && looked >= 8 {
			break
		}
	}
	return found, nil
}

// stampFrom returns the first entry from index on, before end, that has a stamp; end when there is none.
func (n *Node) stampFrom(ctx context.Context, index, end uint64) (at uint64, stamp int64, err error) {
	for index < end {
		entries, _, err := n.ReadQueue(ctx, index, 1, 1)
		if err != nil {
			return 0, 0, err
		}
		if len(entries) == 0 {
			return end, 0, nil
		}
		if entries[0].Stamp > 0 {
			return index, entries[0].Stamp, nil
		}
		index++
	}
	return end, 0, nil
}

// AppliedIndex returns the last entry that this node's state and stores hold.
func (n *Node) AppliedIndex() uint64 { return n.fsm.applied.Load() }
