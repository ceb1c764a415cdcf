package schedule

import (
	"context"
	"errors"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/claim"
)

// pruneAtOnce bounds what one look removes.
const pruneAtOnce = 8

// prune removes backups that the rule of their schedule keeps no longer, and what interrupted runs may have left. Each
// node removes from its own folder; from a service the one whose turn the schedule is.
func (r *Runner) prune(ctx context.Context) {
	schedules := make(map[string]Schedule)
	for _, s := range list[Schedule](r.cfg.Meta, prefixSchedule, MaxSchedules) {
		if s.Paused == "" {
			schedules[s.Name] = s
		}
	}
	running, _, _ := r.claims.Held()
	all := list[Run](r.cfg.Meta, prefixRun, maxRecords)
	for _, run := range r.spare(all, schedules, running.ID) {
		if ctx.Err() != nil {
			return
		}
		if err := r.drop(ctx, run); err != nil {
			r.cfg.Log.Warn("an old backup is not removed", "run", run.ID, "name", run.Name, "from", run.Target.String(), "err", err)
			return // it is tried again at the next look
		}
		r.cfg.Log.Info("old backup removed", "run", run.ID, "name", run.Name, "from", run.Target.String())
	}
}

// spare returns the runs whose backups this node is to remove now.
func (r *Runner) spare(all []Run, schedules map[string]Schedule, running string) (out []*Run) {
	newer := make(map[string]int) // good ones seen, by schedule
	now := r.cfg.Meta.LogTime()
	for i := len(all) - 1; i >= 0 && len(out) < pruneAtOnce; i-- { // newest first
		run := &all[i]
		if run.Kind != "" {
			continue
		}
		if run.Removed || run.Name == "" || run.Incarnation != r.cfg.Incarnation || run.ID == running || !r.reaches(run, schedules) {
			if run.OK && !run.Removed {
				newer[run.Schedule]++
			}
			continue
		}
		s, known := schedules[run.Schedule]
		switch {
		case !run.OK:
			// Nothing should be there; what an interruption left is removed once nobody can be writing it any more.
			if now-max(run.Started, run.Ended) > 2*claim.Life.Milliseconds() {
				out = append(out, run)
			}
		case known && s.keeps(newer[run.Schedule], now-run.Started):
			newer[run.Schedule]++
		case known:
			out = append(out, run)
		}
	}
	return out
}

// keeps reports whether a backup stays that has so many newer good ones and such an age in milliseconds.
func (s *Schedule) keeps(newer int, age int64) bool {
	if newer < keepAtLeast || s.KeepLast == 0 && s.KeepDays == 0 {
		return true
	}
	return s.KeepLast > 0 && newer < s.KeepLast || s.KeepDays > 0 && age < int64(s.KeepDays)*(24*time.Hour).Milliseconds()
}

// wants is how many backups the rule of a schedule keeps; 0 when it removes none.
func (s *Schedule) wants() int {
	if s.KeepLast == 0 && s.KeepDays == 0 {
		return 0
	}
	days := s.KeepDays
	if n := len(s.Weekdays); n > 0 {
		days = (days + 6) / 7 * n
	}
	return max(s.KeepLast, days*(24/max(s.Every, 1)), keepAtLeast)
}

// reaches reports whether it is for this node to remove the backup of a run.
func (r *Runner) reaches(run *Run, schedules map[string]Schedule) bool {
	if run.Target.Kind == KindFolder {
		return run.Node == r.cfg.Node
	}
	return r.mine(schedules[run.Schedule].Node)
}

// drop removes the backup of a run and notes that.
func (r *Runner) drop(ctx context.Context, run *Run) error {
	to, err := r.target(&run.Target)
	if err != nil {
		return err
	}
	if run.Repository != "" {
		err = r.dropSave(ctx, to, run)
	} else {
		err = to.Remove(ctx, run.Name)
	}
	if err != nil && !errors.Is(err, target.ErrAbsent) {
		return err
	}
	held, mod, ok := get[Run](r.cfg.Meta, runKey(run))
	if !ok {
		return nil
	}
	held.Removed = true
	ctx, cancel := context.WithTimeout(ctx, claim.CommitLimit)
	defer cancel()
	_, err = r.cfg.Meta.Commit(ctx, auth.Txn{
		Compares: []auth.Compare{{Bucket: Bucket, Key: runKey(run), ModIndex: mod}},
		Ops:      []auth.Op{{Bucket: Bucket, Key: runKey(run), Value: encode(held)}},
	})
	return err
}
