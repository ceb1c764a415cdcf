package raftstate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/meta"
)

// replayBatch is how many entries are applied at once when the own log is replayed onto an image.
const replayBatch = 64

// errNotNow says that a repair has to be tried again later.
var errNotNow = errors.New("not now")

// Reinstall replaces the whole state of this running node by an image of another member and applies what its own log
// holds above it, so that it is where it was. The vote stays: the log does. On error the state is as before, unless the
// node meets a fatal error, after which a start goes on. before is called when all is there, immediately before
// applying is held up, and may refuse. One call at a time.
func (n *Node) Reinstall(ctx context.Context, before func(ctx context.Context) error) (Repaired, error) {
	began := time.Now()
	if !n.mends() || !n.started.Load() {
		return Repaired{}, fmt.Errorf("repair: %w", ErrNoGiver)
	}
	if !n.reinstalling.CompareAndSwap(false, true) {
		return Repaired{}, fmt.Errorf("repair: another one is under way: %w", errNotNow)
	}
	defer n.reinstalling.Store(false)
	hold := n.store.Hold() // what follows the image comes from here
	defer hold()
	generation := n.currentGeneration()
	if err := n.stepDown(ctx); err != nil {
		return Repaired{}, err
	}
	t, err := n.take(ctx)
	if err != nil {
		return Repaired{}, fmt.Errorf("repair: %w", err)
	}
	r := Repaired{How: HowImage, From: t.from, Index: t.mark.Index, Bytes: t.bytes, Parts: imageParts}
	if err := n.swapTaken(ctx, t, generation, before, &r); err != nil {
		if !n.fsm.failed.Load() { // else it may be in use
			err = errors.Join(err, n.layout.Remove(t.generation))
		}
		return Repaired{}, fmt.Errorf("repair: %w", err)
	}
	r.Took = time.Since(began)
	n.mended(r)
	return r, nil
}

func (n *Node) currentGeneration() string {
	n.fsm.mu.Lock()
	defer n.fsm.mu.Unlock()
	return n.generation
}

// stepDown hands leadership over: while a leader replays, what it has applied would say less than it has acknowledged.
func (n *Node) stepDown(ctx context.Context) error {
	r := n.raft.Load()
	if r.State() != raft.Leader {
		return nil
	}
	if err := n.handOver(r, nil); err != nil {
		return fmt.Errorf("hand leadership over before the repair: %w", err)
	}
	return ctx.Err()
}

func (n *Node) swapTaken(ctx context.Context, t *taken, generation string, before func(ctx context.Context) error, r *Repaired) error {
	f := n.fsm
	n.cfg.Repairs.Doing("checking the own log", 0, 0)
	// The other node may be ahead; raft brings the rest.
	if err := f.waiters.wait(ctx, t.mark.Index, n.closing); err != nil {
		return err
	}
	if err := n.logReaches(ctx, &t.mark); err != nil {
		return err
	}
	if before != nil {
		if err := before(ctx); err != nil {
			return err
		}
	}
	if err := n.stepDown(ctx); err != nil {
		return err
	}
	release, err := n.durable()
	if err != nil {
		return err
	}
	defer release()
	if err := f.mu.LockContext(ctx); err != nil {
		return fmt.Errorf("wait for apply: %w", err)
	}
	frozen, mark, err := n.replayOnto(ctx, t, generation, r)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if err := n.commit(frozen, mark); err != nil {
		n.log.Warn("no mark after the repair", "err", err) // the one of the image stands
	}
	return nil
}

// logReaches holds the own log against the image: it must go on from there, whole.
func (n *Node) logReaches(ctx context.Context, m *meta.Mark) error {
	first, err := n.store.FirstIndex()
	if err != nil {
		return err
	}
	if first > m.Index+1 {
		return fmt.Errorf("the log begins at entry %d, the image is of entry %d: %w", first, m.Index, errNotNow)
	}
	var l raft.Log
	if first > 0 && m.Index >= first {
		if err := n.store.GetLog(m.Index, &l); err != nil {
			return err
		}
		if l.Term != m.Term {
			return fmt.Errorf("the log has entry %d of term %d, the image is of term %d: %w", m.Index, l.Term, m.Term, errNotNow)
		}
	}
	return n.store.Verify(ctx, m.Index+1)
}

// replayOnto swaps the generation in and applies the own log up to where the node was. It is called with durable and
// with Apply held.
func (n *Node) replayOnto(ctx context.Context, t *taken, generation string, r *Repaired) (*meta.Frozen, meta.Mark, error) {
	f := n.fsm
	var none meta.Mark
	switch {
	case f.failed.Load():
		return nil, none, ErrStopped
	case n.generation != generation:
		return nil, none, fmt.Errorf("the state was replaced meanwhile: %w", errNotNow)
	case n.raft.Load().State() == raft.Leader:
		return nil, none, fmt.Errorf("this node leads: %w", errNotNow)
	}
	began := time.Now()
	n.replaying.Store(true)
	defer n.replaying.Store(false)
	goal, old := f.applied.Load(), n.generation
	stop := func(err error) (*meta.Frozen, meta.Mark, error) {
		f.failed.Store(true)
		n.fatal(&FatalError{Part: "repair", Code: ExitStorage, Hint: hintRestart, Err: err})
		return nil, none, err
	}
	if err := n.layout.Flip(t.generation); err != nil {
		return stop(err) // which generation is current is only known after a restart
	}
	n.useGeneration(t.generation)
	n.cfg.Repairs.Replacing(imageParts)
	f.freezes++
	f.adopt(&t.mark)
	if err := n.openStores(); err != nil {
		return stop(err)
	}
	n.mark.Store(&t.mark)
	if err := n.replayLog(ctx, t.mark.Index, goal); errors.Is(err, ErrStopped) { // the next start goes on from the image
		f.failed.Store(true)
		return nil, none, err
	} else if err != nil {
		return stop(err)
	}
	f.observe(&Applied{Index: goal, LogTime: n.state.LogTime(), Installed: true, Repaired: true})
	f.waiters.wake(goal)
	n.log.Info("state was replaced for a repair", "from", t.from, "image", t.mark.Index, "replayed_to", goal, "apply_paused", time.Since(began))
	n.retire(old, r)
	mark := meta.Mark{Index: goal, Term: f.term, Configuration: raft.EncodeConfiguration(f.config), ConfigurationIndex: f.configIndex}
	f.freezes++
	return n.state.Freeze(goal, f.term), mark, nil
}

// replayLog applies the entries of the own log in (from, to]. Nobody is told of them: they were told of when they came. It
// returns ErrStopped when ctx ends or the node closes.
func (n *Node) replayLog(ctx context.Context, from, to uint64) error {
	f := n.fsm
	f.quiet = true
	defer func() { f.quiet = false }()
	for next := from + 1; next <= to; {
		select {
		case <-n.closing:
			return fmt.Errorf("replay up to entry %d of %d: %w", next-1, to, ErrStopped)
		case <-ctx.Done():
			return fmt.Errorf("replay up to entry %d of %d: %w: %w", next-1, to, ErrStopped, ctx.Err())
		default:
		}
		batch := make([]*raft.Log, 0, replayBatch)
		for ; next <= to && len(batch) < replayBatch; next++ {
			l := new(raft.Log)
			if err := n.store.GetLog(next, l); err != nil {
				return fmt.Errorf("replay entry %d: %w", next, err)
			}
			batch = append(batch, l)
		}
		if err := f.applyLocked(batch, make([]any, len(batch))); err != nil {
			return fmt.Errorf("replay up to entry %d: %w", next-1, err)
		}
		n.cfg.Repairs.Doing(fmt.Sprintf("applying the own log: entry %d of %d", next-1, to), 0, 0)
	}
	return nil
}

// retire sets the damaged stores of a generation that was replaced aside once its readers are gone, and removes the rest.
func (n *Node) retire(old string, r *Repaired) {
	damaged := map[string]string{} // kind to reason
	for _, d := range n.cfg.Repairs.Known() {
		if kind := kindOf(d.Part); kind != "" && damaged[kind] == "" {
			damaged[kind] = d.String()
			r.Aside = n.layout.AsideDir(kind, old)
		}
	}
	n.after(oldGeneration, func() {
		for kind, reason := range damaged {
			if _, err := n.layout.SetAside(kind, old, reason, time.Now()); err != nil {
				n.log.Warn("what was damaged was not set aside", "err", err)
			}
		}
		if err := n.layout.Remove(old); err != nil {
			n.log.Warn("remove replaced generation", "err", err)
		}
	})
}

// afterReplay waits, as long as for a leader, until a repair has applied the log again: until then whoever proposes is
// judged by a state from before.
func (n *Node) afterReplay(ctx context.Context) error {
	for end := time.Now().Add(leaderWait); n.replaying.Load(); {
		if time.Now().After(end) {
			return ErrReplaying
		}
		retry := time.NewTimer(leaderRetry)
		select {
		case <-retry.C:
		case <-n.closing:
			retry.Stop()
			return ErrStopped
		case <-ctx.Done():
			retry.Stop()
			return ErrReplaying
		}
	}
	return nil
}

// Replaying says that the state of this node is behind what it has shown before, as a repair applies the log to it.
func (n *Node) Replaying() bool { return n.replaying.Load() }

// DropAside removes what repairs have set aside on this node when all of it is older than that.
func (n *Node) DropAside(olderThan time.Duration) error {
	list, err := n.layout.SetAsides()
	if err != nil {
		return err
	}
	for _, a := range list {
		if time.Since(a.At) < olderThan {
			return nil
		}
	}
	return n.layout.DropAside()
}
