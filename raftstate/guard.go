package raftstate

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/logfile"
)

// guard is the log as raft sees it. Raft panics or carries on where a node must stop and say why, so the guard
// turns failures into the node's fatal error.
type guard struct {
	*logfile.Store
	n   *Node
	cut atomic.Bool // the end of the log went, and what was to take its place has not come
}

// heldBacklog is how many entries a node whose Apply is held up takes beyond what it has applied.
const heldBacklog = 64

// GetLog implements raft.LogStore. Damage in entries that the state holds heals itself: they are hidden, so that a
// node that needs them installs an image. Damage in others stops the node; its next start cuts them off.
func (g *guard) GetLog(index uint64, l *raft.Log) error {
	err := g.Store.GetLog(index, l)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrLogNotFound):
		if inApply() { // raft believes in an end of the log that is none; a start asks the log
			g.halt(&FatalError{Part: "log", Code: ExitStorage, Hint: hintRestart, Err: fmt.Errorf("entry %d is to be applied: %w", index, err)})
		}
		return err
	}
	if errors.Is(err, logfile.ErrCorrupt) && g.n.hideDamage(index, err) {
		return raft.ErrLogNotFound
	}
	stop := refused("log", err)
	if errors.Is(err, logfile.ErrCorrupt) && g.n.mends() {
		stop = &FatalError{Part: "log", Code: ExitStorage, Hint: hintMends, Err: err}
	}
	if inApply() {
		g.halt(stop)
	}
	g.n.fatal(stop)
	return err
}

// inApply reports whether the calling goroutine is raft's own on its way to apply entries: there an error of
// GetLog becomes a panic, while replication goes on in order.
func inApply() bool {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "(*Raft).processLogs") {
			return true
		}
		if !more {
			return false
		}
	}
}

// halt stops the calling goroutine of raft for good, before raft turns the error into a panic that would hide
// the reason. The process is about to exit; in a test the goroutine ends with Close.
func (g *guard) halt(err error) {
	g.n.fatal(err)
	if !g.n.started.Load() {
		return
	}
	<-g.n.closing
	runtime.Goexit()
}

// StoreLogs implements raft.LogStore.
func (g *guard) StoreLogs(logs []*raft.Log) error {
	if g.n.fsm.failed.Load() {
		return ErrStopped
	}
	var err error
	if len(logs) > 0 {
		err = g.heldUp(logs[len(logs)-1].Index)
	}
	if err == nil {
		err = g.Store.StoreLogs(logs)
	}
	switch {
	case err == nil:
		g.cut.Store(false)
	case !diskFull(err) && !errors.Is(err, ErrDiskFull):
		g.n.fatal(brokenDisk("log", err))
	case g.cut.Load():
		g.n.fatal(&FatalError{Part: "log", Code: ExitStorage, Hint: hintRestart, Err: fmt.Errorf("what replaces the end of the log is not taken: %w", err)})
	}
	return err
}

// heldUp returns why entries up to last are not taken while Apply stands still.
func (g *guard) heldUp(last uint64) error {
	if (g.n.fsm.held.Load() != nil || g.n.replaying.Load()) && last > g.n.fsm.applied.Load()+heldBacklog {
		return fmt.Errorf("apply is held up: %w", ErrDiskFull)
	}
	return nil
}

// DeleteRange implements raft.LogStore. Raft removes the end of the log when the leader has other entries, and goes on
// believing in it when those are then refused (hashicorp/raft 1.7.3, appendEntries): it would take nothing any more. So
// the end stays while there is no room for what replaces it.
func (g *guard) DeleteRange(lo, hi uint64) error {
	first, err := g.FirstIndex()
	if err != nil {
		return err
	}
	last, err := g.LastIndex()
	if err != nil {
		return err
	}
	end := hi >= last && lo > first
	if end {
		if err := errors.Join(g.heldUp(lo), g.CheckRoom()); err != nil {
			return err
		}
	}
	err = g.Store.DeleteRange(lo, hi)
	if end && err == nil {
		g.cut.Store(true)
	}
	return err
}

// StoreLog implements raft.LogStore.
func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// Get implements raft.StableStore. Raft only logs that it could not read its vote, so damage stops the node here.
func (g *guard) Get(key []byte) ([]byte, error) {
	v, err := g.Store.Get(key)
	if err != nil && g.n.started.Load() {
		g.halt(refused("log", err))
	}
	return v, err
}

// GetUint64 implements raft.StableStore.
func (g *guard) GetUint64(key []byte) (uint64, error) {
	v, err := g.Store.GetUint64(key)
	if err != nil && g.n.started.Load() {
		g.halt(refused("log", err))
	}
	return v, err
}

// Set implements raft.StableStore.
func (g *guard) Set(key, val []byte) error {
	if g.n.fsm.failed.Load() { // after a failed sync nothing is synced again
		g.halt(ErrStopped)
		return ErrStopped
	}
	err := g.Store.Set(key, val)
	if err != nil {
		g.halt(brokenDisk("log", err))
	}
	return err
}

// SetUint64 implements raft.StableStore.
func (g *guard) SetUint64(key []byte, val uint64) error {
	if g.n.fsm.failed.Load() { // after a failed sync nothing is synced again
		g.halt(ErrStopped)
		return ErrStopped
	}
	err := g.Store.SetUint64(key, val)
	if err != nil {
		g.halt(brokenDisk("log", err))
	}
	return err
}

func brokenDisk(part string, err error) error {
	return &FatalError{Part: part, Code: ExitStorage, Hint: cmp.Or(obstacle(err), hintDisk), Err: err}
}
