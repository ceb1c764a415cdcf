package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/triward/triward/appliance/backup/target"
)

// Swept says what Sweep did.
type Swept struct {
	Packs    int   // removed
	Segments int   // of the log, removed
	Bytes    int64 // of both
	Busy     bool  // a save is under way: nothing of packs was removed
}

// busyForGood is when the mark of a save counts no more, whose node was never seen again.
const busyForGood = 7 * 24 * time.Hour

// Remove takes a save away. What nothing else needs goes with the next Sweep.
func (r *Repository) Remove(ctx context.Context, name string) error {
	if _, ok := parseSave(name, 0); !ok {
		return fmt.Errorf("%.80q: %w", name, ErrNoSave)
	}
	return r.store.Remove(ctx, name)
}

// Sweep removes packs that no save needs, and segments of the log that lie before the oldest save. now is the time by
// which marks were made, in milliseconds since 1970.
//
// It may run beside saves, other sweeps and whoever goes on late with either, and stop at any point. A save first puts
// up a mark, then looks at the marks of sweeps and uses nothing of what they name; a sweep first puts up a mark that
// names what it will remove, then looks for marks of saves, and removes only when there is none. So at least one of the
// two sees the other, and what a save uses stays. Before it removes, a sweep looks again at which saves there are: those
// that were finished before its mark. The mark of a sweep goes when what it names is gone, and names of packs never come
// again, so that a sweep that goes on late removes nothing of anybody else's.
func (r *Repository) Sweep(ctx context.Context, now int64) (Swept, error) {
	var out Swept
	unneeded, saves, err := r.unneeded(ctx)
	if err != nil {
		return out, err
	}
	if len(unneeded) > 0 {
		if err := r.sweepPacks(ctx, unneeded, now, &out); err != nil {
			return out, err
		}
	}
	if err := r.clearMarks(ctx); err != nil {
		return out, err
	}
	if len(saves) == 0 {
		return out, r.sweepWholeLog(ctx, now, &out)
	}
	segments, err := r.Segments(ctx)
	if err != nil {
		return out, err
	}
	return out, r.removeLog(ctx, segments, saves[0].Index, &out)
}

// unneeded returns the packs, with their sizes, that no save is made of, and the saves.
func (r *Repository) unneeded(ctx context.Context) (map[string]int64, []Save, error) {
	// Packs first: one that comes later belongs to a save under way.
	packs := make(map[string]int64)
	err := r.store.List(ctx, prefixPack, func(i target.Item) error {
		if isPack(i.Name) {
			packs[i.Name] = i.Size
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	saves, err := r.Saves(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range saves {
		m, err := r.openManifest(ctx, s.Name)
		if errors.Is(err, ErrNoSave) {
			continue
		}
		if err != nil { // not knowing what it needs, we remove nothing
			return nil, nil, fmt.Errorf("nothing is removed from %s, since it is not known what a save needs: %w", r.store, err)
		}
		if err := m.in.Close(); err != nil {
			return nil, nil, err
		}
		for _, p := range m.list {
			delete(packs, p)
		}
	}
	return packs, saves, nil
}

func (r *Repository) sweepPacks(ctx context.Context, unneeded map[string]int64, now int64, out *Swept) error {
	var d dropMark
	for p := range unneeded {
		d.Packs = append(d.Packs, p)
	}
	body, err := json.Marshal(&d)
	if err != nil {
		return fmt.Errorf("encode mark: %w", err)
	}
	mark := prefixDrop + newID()
	if err := putBytes(ctx, r.store, mark, body); err != nil {
		return err
	}
	busy, err := r.busy(ctx)
	if err != nil {
		return err
	}
	for name, m := range busy {
		if now-m.At < busyForGood.Milliseconds() {
			out.Busy = true
			if err := r.store.Remove(ctx, mark); !errors.Is(err, target.ErrAbsent) {
				return err
			}
			return nil // another sweep, which had removed the same packs, has cleared it
		}
		if err := r.store.Remove(ctx, name); err != nil && !errors.Is(err, target.ErrAbsent) {
			return err
		}
	}
	// What was finished before our mark stood.
	still, _, err := r.unneeded(ctx)
	if err != nil {
		return err
	}
	for p := range unneeded {
		size, ok := still[p]
		if !ok {
			continue
		}
		if err := r.store.Remove(ctx, p); err != nil && !errors.Is(err, target.ErrAbsent) {
			return err
		}
		out.Packs++
		out.Bytes += size
	}
	return nil
}

// clearMarks removes marks of sweeps of which nothing is there any more.
func (r *Repository) clearMarks(ctx context.Context) error {
	marks, err := r.names(ctx, prefixDrop)
	if err != nil || len(marks) == 0 {
		return err
	}
	type held struct {
		name string
		drop dropMark
	}
	var all []held
	for _, name := range marks {
		h := held{name: name}
		ok, err := r.mark(ctx, name, &h.drop)
		if err != nil {
			return err
		}
		if ok {
			all = append(all, h)
		}
	}
	there := make(map[string]bool) // after the marks were read: what is gone now never comes again
	if err := r.store.List(ctx, prefixPack, func(i target.Item) error { there[i.Name] = true; return nil }); err != nil {
		return err
	}
next:
	for _, h := range all {
		for _, p := range h.drop.Packs {
			if there[p] {
				continue next
			}
		}
		if err := r.store.Remove(ctx, h.name); err != nil && !errors.Is(err, target.ErrAbsent) {
			return err
		}
	}
	return nil
}

// sweepWholeLog removes all segments when there is no save and none under way: nothing can be replayed without one. In
// this order: a save that begins after the segments were listed and the marks looked at is of an entry behind all of them.
func (r *Repository) sweepWholeLog(ctx context.Context, now int64, out *Swept) error {
	segments, err := r.Segments(ctx)
	if err != nil || len(segments) == 0 {
		return err
	}
	busy, err := r.busy(ctx)
	if err != nil {
		return err
	}
	for _, m := range busy {
		if now-m.At < busyForGood.Milliseconds() {
			out.Busy = true
			return nil
		}
	}
	saves, err := r.Saves(ctx)
	if err != nil || len(saves) > 0 {
		return err
	}
	return r.removeLog(ctx, segments, math.MaxUint64, out)
}

// removeLog removes segments that end at or before the oldest save.
func (r *Repository) removeLog(ctx context.Context, segments []Segment, oldest uint64, out *Swept) error {
	for _, s := range segments {
		if s.Last > oldest {
			continue
		}
		if err := r.store.Remove(ctx, s.Name); err != nil && !errors.Is(err, target.ErrAbsent) {
			return err
		}
		out.Segments++
		out.Bytes += s.Size
	}
	return nil
}
