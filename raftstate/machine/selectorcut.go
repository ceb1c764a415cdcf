package machine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

const dayMs = 24 * 3600 * 1000

// EndsGroup reports whether the group before the entry must be finished first. How entries are grouped is each node's own,
// and a command that takes lines out of digests must find all of them there.
func EndsGroup(e command.Entry) bool {
	return slices.ContainsFunc(e.Commands, func(c command.Command) bool {
		return c.Type&^command.Ignorable == command.TypeSelectorCut
	})
}

// selectorCut takes the lines that selectors pick of a day out of its digest and remembers the selectors, by which every
// store hides the lines from then on. It is refused when the day was cut by others since the lines were counted.
func (m *Machine) selectorCut(tx *meta.Tx, c command.Command, r *command.Result) error {
	cut, err := command.DecodeSelectorCut(c)
	if err != nil {
		return err
	}
	end, floor := (cut.Day+1)*dayMs, m.store.Floor(cut.Kind)
	switch {
	case cut.Through >= tx.Index():
		return fmt.Errorf("it is of lines up to entry %d, this is entry %d", cut.Through, tx.Index())
	case end > tx.LogTime()-MinRetention:
		return fmt.Errorf("day %d ends within the last hour before the cluster's time %d, or after it", cut.Day, tx.LogTime())
	case end <= floor:
		return nil // retention has removed all of the day
	case cut.Day*dayMs < floor:
		return fmt.Errorf("the retention floor %d lies in day %d: a part of it is hidden already", floor, cut.Day)
	}
	key := command.CutKey(cut.Kind, cut.Day)
	before, _ := tx.Get(command.BucketSelectorCuts, key)
	if before.ModIndex != cut.After {
		r.Status, r.Expected = command.StatusConflict, before.ModIndex
		r.Detail = fmt.Sprintf("%s/%s was changed by entry %d, not %d", command.BucketSelectorCuts, key, before.ModIndex, cut.After)
		return nil
	}
	var rec command.CutRecord
	if before.ModIndex != 0 {
		if rec, err = command.DecodeCutRecord(before.Data); err != nil {
			return err
		}
	}
	if err := rec.Add(&cut, tx.LogTime()); err != nil {
		r.Status, r.Detail = command.StatusLimit, command.Bounded(err.Error())
		return nil
	}
	gone := meta.Digest{Kind: cut.Kind, Day: cut.Day}
	for i := range cut.Cuts {
		l := &cut.Cuts[i]
		if gone.Count+l.Count < gone.Count {
			return fmt.Errorf("more lines than can be counted")
		}
		gone.Count, gone.Sum = gone.Count+l.Count, gone.Sum.Add(meta.Sum{Hi: l.Hi, Lo: l.Lo})
	}
	if !tx.SubDigest(gone) {
		return fmt.Errorf("it is of %d lines with digest %s, and of day %d not so many are held, or others", gone.Count, gone.Sum, cut.Day)
	}
	tx.Put(command.BucketSelectorCuts, key, rec.Append(nil), 0)
	return nil
}

// dropSelectorCuts forgets the cuts of days that retention has removed as a whole.
func dropSelectorCuts(tx *meta.Tx, kind command.Kind, floor int64) {
	for _, key := range tx.Keys(command.BucketSelectorCuts) {
		if !strings.HasPrefix(key, kind.String()+"/") {
			continue
		}
		if _, day, err := command.ParseCutKey(key); err == nil && (day+1)*dayMs <= floor {
			tx.Delete(command.BucketSelectorCuts, key)
		}
	}
}
