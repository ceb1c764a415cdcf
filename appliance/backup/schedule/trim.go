package schedule

import (
	"cmp"
	"slices"

	"github.com/triward/triward/appliance/auth"
)

// trimAtOnce bounds how many records go with one run.
const trimAtOnce = 32

// trim keeps the record of runs within its bounds: what failed or was removed goes first. The record of a backup that a
// rule will remove one day stays: without it the backup would stay for ever, and all of the log behind it.
func (r *Runner) trim(txn *auth.Txn) {
	ruled := make(map[string]bool)
	for _, s := range list[Schedule](r.cfg.Meta, prefixSchedule, MaxSchedules) {
		ruled[s.Name] = s.wants() > 0
	}
	all := list[Run](r.cfg.Meta, prefixRun, maxRecords+trimAtOnce)
	rank := func(run *Run) int {
		lies := run.Name != "" && !run.Removed && run.Kind == "" && run.Incarnation == r.cfg.Incarnation
		switch {
		case lies && (!run.OK || ruled[run.Schedule]):
			return 2
		case run.OK && !run.Removed && run.Kind == "":
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(x, y Run) int {
		return cmp.Or(cmp.Compare(rank(&x), rank(&y)), cmp.Compare(x.Started, y.Started))
	})
	free := 0 // records that nothing hangs on
	for i := range all {
		if rank(&all[i]) < 2 {
			free++
		}
	}
	over := max(free+1-maxRuns, len(all)+1-maxRecords)
	for i := range all[:max(0, min(over, trimAtOnce))] {
		txn.Ops = append(txn.Ops, auth.Op{Delete: true, Bucket: Bucket, Key: runKey(&all[i])})
	}
}
