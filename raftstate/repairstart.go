package raftstate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/snapshot"
)

// A node that finds damage when it starts mends itself before raft begins, and keeps its vote as long as its log is
// whole: the log says what it has acknowledged, and its state is a function of the log that any member has too. Without
// its whole log it may have forgotten what it acknowledged, so it is on probation until it has caught up.

// errGap says that the log goes on behind where the state ends.
var errGap = errors.New("entries between state and log are missing")

// Waits between attempts of a repair at the start.
const (
	repairRetry = time.Second
	repairPause = 15 * time.Second
	// repairTimes is how often one start takes images: what is damaged again and again a person must look at.
	repairTimes = 3
)

// openMending opens state and log and mends what is damaged in them.
func (n *Node) openMending(ctx context.Context) error {
	n.loadRoster()
	stateOpen, logCut, logAside := false, false, false
	for images := 0; ; {
		var err error
		if !stateOpen {
			err = n.openState(ctx)
		}
		if stateOpen = err == nil; stateOpen {
			err = n.openLog(ctx)
		}
		if err == nil {
			return nil
		}
		d, ok := damageOf(err)
		if !ok || !n.mends() {
			return err
		}
		if d.Part == PartLog && errors.Is(err, errGap) {
			d.Part = PartState // the log is whole, and the state does not reach it
		}
		n.log.Error("damage was found at the start", "part", d.Part, "place", d.Place, "err", err)
		n.cfg.Repairs.Found(d)
		began := time.Now()
		switch {
		case d.Part == PartLog && logAside, images >= repairTimes:
			return err
		case d.Part == PartLog: // one that was cut and is not whole yet is set aside
			logCut, logAside = true, logCut
			n.closeLog()
			err = n.mendLog(ctx, d, began, logAside)
		default:
			images++
			stateOpen = false
			n.closeState()
			err = n.mendState(ctx, d, errors.Is(err, snapshot.ErrCurrent), began)
		}
		if err != nil {
			return err
		}
	}
}

// closeState closes what a start has opened so far, except for stores, which are opened elsewhere next.
func (n *Node) closeState() {
	if n.state != nil {
		if err := n.state.Close(); err != nil {
			n.log.Warn("close the state", "err", err)
		}
		n.state, n.fsm.store, n.fsm.machine = nil, nil, nil
	}
	if err := n.fsm.verdicts.Close(); err != nil {
		n.log.Warn("close the verdicts", "err", err)
	}
	n.fsm.verdicts = nil
	n.closeLog()
}

func (n *Node) closeLog() {
	if n.store != nil {
		if err := n.store.Close(); err != nil {
			n.log.Warn("close the log", "err", err)
		}
		n.store = nil
	}
}

// mendState replaces the state by that of another node, however long that takes.
func (n *Node) mendState(ctx context.Context, d Damage, pointer bool, began time.Time) error {
	if pointer {
		if done, err := n.mendPointer(began); done || err != nil {
			return err
		}
	}
	if err := n.connect(); err != nil {
		return err
	}
	n.cfg.Repairs.Doing("asking the other nodes", 0, 0)
	for attempt := 0; ; attempt++ {
		err := n.replaceState(ctx, d, began)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("repair of %s: %w", d.Part, err)
		}
		if errors.Is(err, snapshot.ErrNewer) { // waiting does not help
			return otherVersion("repair", err)
		}
		n.refuse(err)
		n.cfg.Repairs.Doing("waiting: "+err.Error(), 0, 0)
		n.log.Warn("the repair waits", "part", d.Part, "place", d.Place, "attempt", attempt+1, "err", err)
		wait := time.NewTimer(min(repairRetry<<min(attempt, 6), repairPause))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("repair of %s: %w", d.Part, ctx.Err())
		}
	}
}

// mendPointer mends the file that names the generation in use, where there is only one that it can mean.
func (n *Node) mendPointer(began time.Time) (bool, error) {
	whole, err := n.layout.Whole()
	if err != nil || len(whole) != 1 {
		return false, err
	}
	if err := n.layout.Flip(whole[0]); err != nil {
		return false, err
	}
	n.mended(Repaired{Parts: []string{PartState}, How: HowPointer, Took: time.Since(began)})
	return true, nil
}

const placePointer = "meta/CURRENT"

// replaceState takes an image, makes it the state in use and sets aside what it replaces.
func (n *Node) replaceState(ctx context.Context, d Damage, began time.Time) error {
	t, err := n.take(ctx)
	if err != nil {
		return err
	}
	if first := n.logFirst(); first > t.mark.Index+1 {
		return errors.Join(fmt.Errorf("node %s is at entry %d, the log of this node begins at entry %d", t.from, t.mark.Index, first), n.layout.Remove(t.generation))
	}
	old, err := n.layout.Current()
	if err != nil {
		old = "" // it is not known; the next start removes what is not in use
	}
	if err := n.layout.Flip(t.generation); err != nil {
		return brokenDisk("repair", err)
	}
	n.cfg.Repairs.Replacing(imageParts)
	r := Repaired{How: HowImage, From: t.from, Index: t.mark.Index, Bytes: t.bytes, Parts: imageParts}
	if kind := kindOf(d.Part); old != "" && kind != "" {
		if r.Aside, err = n.layout.SetAside(kind, old, d.String(), time.Now()); err != nil {
			n.log.Warn("what is damaged was not set aside", "err", err)
		}
	}
	if old != "" {
		n.leaving = append(n.leaving, old)
		n.after(oldGeneration, func() {
			if err := n.layout.Remove(old); err != nil {
				n.log.Warn("remove replaced generation", "err", err)
			}
		})
	}
	r.Took = time.Since(began)
	n.mended(r)
	return nil
}

func (n *Node) mended(r Repaired) {
	n.log.Info("repaired", "parts", r.Parts, "how", r.How, "from", r.From, "index", r.Index, "bytes", r.Bytes, "took", r.Took, "aside", r.Aside)
	n.refusal.Store(nil)
	n.askedSince.Store(nil)
	n.cfg.Repairs.Doing("", 0, 0)
	n.cfg.Repairs.Done(r)
}

// kindOf names the directories that hold a part.
func kindOf(part string) string {
	switch part {
	case PartState:
		return snapshot.KindMeta
	case PartMetrics:
		return snapshot.KindMetrics
	case PartLogs:
		return snapshot.KindLogs
	}
	return ""
}

// logFirst is the first entry of the log on disk; 0 when it is empty or cannot be opened, which is looked at later.
func (n *Node) logFirst() uint64 {
	store, err := logfile.Open(filepath.Join(n.cfg.DataDir, raftDir), n.logOptions())
	if err != nil {
		return 0
	}
	first, err := store.FirstIndex()
	if err := errors.Join(err, store.Close()); err != nil {
		return 0
	}
	return first
}
