package raftstate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/snapshot"
)

// raft's own records in its small storage.
var (
	keyVoteTerm = []byte("LastVoteTerm")
	keyVoteCand = []byte("LastVoteCand")
)

// nobody has the vote of a node that does not know whom it gave it to.
var nobody = []byte("-")

// mendLog makes the end of a damaged log whole from the other nodes, or cuts it before what cannot be read, or sets it aside, at
// once with aside. Except for the first, this node may have acknowledged what it does not hold any more, so it is on probation
// afterwards. It is called while nothing is open.
func (n *Node) mendLog(ctx context.Context, d Damage, began time.Time, aside bool) error {
	n.cfg.Repairs.Doing("mending the log", 0, 0)
	defer n.cfg.Repairs.Doing("", 0, 0)
	if err := n.connect(); err != nil {
		return err
	}
	if !aside {
		r, err := n.mendTail(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("mend the log: %w", errors.Join(ctx.Err(), err))
		case err != nil:
			n.log.Warn("the log cannot be cut", "err", err)
		case r.How == HowLogFilled:
			r.Took = time.Since(began)
			n.mended(r)
			return nil
		default:
			n.log.Warn("the log was cut before what is damaged; this node has no vote until it has caught up", "first_lost", r.Index)
			r.Took = time.Since(began)
			n.pending.Store(&r)
			return nil
		}
	}
	n.log.Warn("the log is set aside; this node has no vote until it has caught up")
	dir, err := n.setLogAside(d)
	if err != nil {
		return err
	}
	n.pending.Store(&Repaired{Parts: []string{PartLog}, How: HowLogAside, Aside: dir, Took: time.Since(began)})
	return nil
}

// setLogAside begins an empty log and keeps the damaged one beside.
func (n *Node) setLogAside(d Damage) (string, error) {
	dir := filepath.Join(n.cfg.DataDir, raftDir)
	aside, err := snapshot.SetAside(dir, d.String(), time.Now())
	if err != nil {
		return "", brokenDisk("log", err)
	}
	store, err := logfile.Open(dir, n.logOptions())
	if err != nil {
		return "", brokenDisk("log", err)
	}
	// The vote of the newest term that anybody here knows of may have been given already.
	term := n.mark.Load().Term
	for _, p := range n.askPeers(n.ctx, n.peerRepair()) {
		term = max(term, p.Term)
	}
	// One after the other, the identity last: a log that has one is taken for whole.
	for _, write := range []func() error{
		func() error { return store.Set([]byte(probationKey), []byte(probationOn)) },
		func() error { return store.SetUint64(keyTerm, term) },
		func() error { return store.Set(keyVoteCand, nobody) },
		func() error { return store.SetUint64(keyVoteTerm, term) },
		func() error { return store.Set([]byte(identityKey), []byte(n.cfg.NodeID)) },
	} {
		if err := write(); err != nil {
			return "", brokenDisk("log", errors.Join(err, store.Close()))
		}
	}
	if err := store.Close(); err != nil {
		return "", brokenDisk("log", err)
	}
	return aside, nil
}

// dropAtMark drops what the log holds up to the mark, whose entry is damaged: all of it is in the state. It returns where
// the log begins then. Whether what follows goes on from that entry raft itself finds out, as of every entry whose
// predecessor is the last one of an image: it takes nothing for committed before it was compared with the leader's log.
func (n *Node) dropAtMark(first uint64, cause error) (uint64, error) {
	mark := n.mark.Load().Index
	n.log.Error("the log entry at the mark is damaged; the state holds it, and the log is dropped up to it", "index", mark, "err", cause)
	if n.cfg.Repairs != nil {
		n.cfg.Repairs.Found(logDamage(mark, cause))
	}
	if err := n.store.DeleteRange(first, mark); err != nil {
		return first, err
	}
	if n.cfg.Repairs != nil {
		n.cfg.Repairs.Done(Repaired{Parts: []string{PartLog}, Places: n.droppedPlaces(mark), How: HowLogDrop, Index: mark})
	}
	return mark + 1, nil
}

// hideDamage lets go of damaged entries that the state holds already; false when they are not all in it. The entries are
// not served from here on: whoever needs them is sent an image.
func (n *Node) hideDamage(index uint64, err error) bool {
	if index <= n.mark.Load().Index {
		n.log.Error("log entry behind the mark is damaged and was dropped", "index", index, "err", err)
		if first, firstErr := n.store.FirstIndex(); firstErr == nil {
			_ = n.store.DeleteRange(first, index) // an attempt; the entry stays hidden either way
		}
		if n.cfg.Repairs != nil && n.toldLog.Swap(index) != index {
			n.cfg.Repairs.Found(logDamage(index, err))
			n.cfg.Repairs.Done(Repaired{Parts: []string{PartLog}, Places: n.droppedPlaces(index), How: HowLogDrop, Index: index})
		}
		return true
	}
	if !n.mends() || index > n.fsm.applied.Load() || !n.started.Load() {
		return false
	}
	if !n.dropping.CompareAndSwap(false, true) {
		return true
	}
	n.log.Error("log entry is damaged; the state holds it: a mark is made, then it is dropped", "index", index, "err", err)
	n.cfg.Repairs.Found(logDamage(index, err))
	began := time.Now()
	n.wg.Go(func() {
		defer n.dropping.Store(false)
		n.markUpTo(index)
		if n.mark.Load().Index < index {
			return
		}
		if first, err := n.store.FirstIndex(); err == nil {
			if err := n.store.DeleteRange(first, index); err != nil {
				n.log.Warn("drop damaged entries", "through", index, "err", err)
			}
		}
		n.mended(Repaired{Parts: []string{PartLog}, Places: n.droppedPlaces(index), How: HowLogDrop, Index: index, Took: time.Since(began)})
	})
	return true
}

// placeEntry names an entry of the log.
const placeEntry = "log entry "

func logDamage(index uint64, err error) Damage {
	return Damage{Part: PartLog, Place: placeEntry + strconv.FormatUint(index, 10), Err: err.Error()}
}

// droppedPlaces are the places of known damage that are gone when the log was dropped up to an entry.
func (n *Node) droppedPlaces(through uint64) []string {
	places := []string{}
	for _, d := range n.cfg.Repairs.Known() {
		index, err := strconv.ParseUint(strings.TrimPrefix(d.Place, placeEntry), 10, 64)
		if d.Part == PartLog && err == nil && index <= through {
			places = append(places, d.Place)
		}
	}
	return places
}

// markUpTo makes marks until one covers index, which is applied, or the node closes.
func (n *Node) markUpTo(index uint64) {
	for n.mark.Load().Index < index {
		if r := n.raft.Load(); r != nil {
			if err := r.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
				n.log.Warn("mark beyond a damaged entry", "err", err)
			}
		}
		wait := time.NewTimer(time.Second)
		select {
		case <-wait.C:
		case <-n.closing:
			wait.Stop()
			return
		}
	}
}

// mendNames writes the file that names the data in use and the one of the members anew when they are not what this node
// knows.
func (n *Node) mendNames() {
	if n.cfg.Repairs == nil {
		return
	}
	if release, err := n.durable(); err == nil { // not while a generation is being swapped in
		now, err := n.layout.Current()
		if err != nil && !errors.Is(err, snapshot.ErrCurrent) {
			now = n.generation // it cannot be read now, which says nothing
		}
		if now != n.generation {
			began := time.Now()
			n.cfg.Repairs.Found(Damage{Part: PartState, Place: placePointer, Err: fmt.Sprintf("it names %.40q, in use is %s", now, n.generation)})
			if err := n.layout.Flip(n.generation); err != nil {
				n.fatal(brokenDisk("state", err))
			} else {
				n.mended(Repaired{Parts: []string{PartState}, How: HowPointer, Took: time.Since(began)})
			}
		}
		release()
	}
	if _, err := readRoster(n.cfg.DataDir); err != nil {
		n.log.Warn("the file of the members is written anew", "err", err)
		n.noteDamaged(rosterFile, err)
		n.rosterMu.Lock()
		n.roster, n.rosterSpoilt = nil, true
		n.rosterMu.Unlock()
		n.noteMembers()
	}
}

// MendLog has the damage of the running log mended that dropping entries does not mend: that of its small storage, and
// of entries which are not applied. There is no mending that under raft, so the node ends (Config.OnFatal, with an exit
// code that has it started again) and its start mends it; not before the others are a majority that is well without it.
// It returns nil when there is nothing to do, or when it is being done.
func (n *Node) MendLog(ctx context.Context) error {
	if n.probation.Load() || n.dropping.Load() || !n.started.Load() {
		return nil
	}
	err := n.ScrubLog(ctx, 0, func(int) error { return nil })
	if err == nil { // it is gone: the entries are, or the page was written anew
		if !n.dropping.Load() {
			n.mended(Repaired{Parts: []string{PartLog}, How: HowLogDrop})
		}
		return nil
	}
	if !errors.Is(err, logfile.ErrCorrupt) || !n.mends() {
		return err
	}
	voters, well := 0, 0
	said := n.askPeers(ctx, n.peerRepair())
	for _, m := range n.lastMembers() {
		if !m.Voter {
			continue
		}
		voters++
		if p, ok := said[m.ID]; ok && p.Ready && !p.Probation {
			well++
		}
	}
	if well <= voters/2 {
		return fmt.Errorf("the log is damaged, and %d of %d voters would be well without this node: %w", well, voters, err)
	}
	n.fatal(&FatalError{Part: "log", Code: ExitStorage, Hint: hintMends, Err: err})
	return nil
}
