package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/record"
)

// Bucket of the metadata that this package owns.
const Bucket = "snapshots"

const (
	keyRunning     = "running"
	prefixSchedule = "schedule/"
	prefixState    = "state/"
	prefixRun      = "run/"
	// maxRuns bounds the record of runs whose backups no rule will remove, maxHeld how many backups the rules of all
	// schedules may keep: the records of those stay. maxRecords bounds both, whatever else happens.
	maxRuns    = 500
	maxHeld    = 1000
	maxRecords = 2000
	casRetries = 32
)

// Actor is who asks for a change.
type Actor struct{ Name, Address string }

// Sealer seals credentials before they are proposed and opens them again.
type Sealer interface {
	Seal(purpose string, plain []byte) (string, error)
	Open(purpose, sealed string) ([]byte, error)
}

// purpose binds a sealed secret to its place.
const purpose = "backup target"

func encode(v any) []byte { return record.Encode(v) }

func get[T any](m auth.Meta, key string) (v T, mod uint64, ok bool) {
	return record.Get[T](m, Bucket, key)
}

func list[T any](m auth.Meta, prefix string, most int) []T {
	return record.List[T](m, Bucket, prefix, most)
}

func runKey(r *Run) string { return fmt.Sprintf("%s%013d-%s", prefixRun, r.Started, r.ID) }

// shown takes away what nobody needs to see.
func (w *Where) shown() Where {
	out := *w
	out.SecretKey = ""
	return out
}

// Overview is everything that is known of backups. Secrets are left out.
type Overview struct {
	Schedules []ScheduleStatus `json:"schedules"`
	Running   *Claim           `json:"running,omitempty"`
	Runs      []Run            `json:"runs"` // newest first
	LogTime   int64            `json:"log_time"`
}

// ScheduleStatus is a schedule and how it stands.
type ScheduleStatus struct {
	Schedule
	SecretSet bool  `json:"secret_set"`
	Next      int64 `json:"next,omitempty"`  // milliseconds since 1970
	Retry     int64 `json:"retry,omitempty"` // of the run that failed
	Last      *Run  `json:"last,omitempty"`
	LastGood  *Run  `json:"last_good,omitempty"`
	LastDrill *Run  `json:"last_drill,omitempty"`
	// ArchiveStatus says how far the log is archived; nil when it is not to be.
	ArchiveStatus *Archive `json:"archive,omitempty"`
}

// Overview returns what is known of backups, at most so many runs.
func (r *Runner) Overview(runs int) Overview {
	m := r.cfg.Meta
	out := Overview{Schedules: []ScheduleStatus{}, Runs: []Run{}, LogTime: m.LogTime()}
	if c, _, ok := r.claims.Held(); ok {
		c.Target = Where{Kind: c.Target.Kind, URL: c.Target.URL}
		out.Running = &c
	}
	all := list[Run](m, prefixRun, maxRecords)
	slices.Reverse(all)
	for i := range all { // of a run the place matters, not how it was opened
		all[i].Target = Where{Kind: all[i].Target.Kind, URL: all[i].Target.URL}
	}
	for _, s := range list[Schedule](m, prefixSchedule, MaxSchedules) {
		st := ScheduleStatus{Schedule: s, SecretSet: s.Target.SecretKey != "", Next: s.Next(out.LogTime)}
		st.Target = s.Target.shown()
		if held, _, ok := get[state](m, prefixState+s.Name); ok && s.Enabled && s.Paused == "" {
			st.Retry = held.Retry
		}
		for i := range all {
			if all[i].Schedule != s.Name {
				continue
			}
			if all[i].Kind == KindDrill {
				if st.LastDrill == nil {
					st.LastDrill = &all[i]
				}
				continue
			}
			if st.Last == nil {
				st.Last = &all[i]
			}
			if all[i].OK && st.LastGood == nil {
				st.LastGood = &all[i]
			}
			if st.LastGood != nil && (st.LastDrill != nil || s.Drill == 0) {
				break
			}
		}
		st.ArchiveStatus = r.archiveOf(&s, out.LogTime)
		out.Schedules = append(out.Schedules, st)
	}
	out.Runs = append(out.Runs, all[:min(len(all), runs)]...)
	return out
}

// seal replaces a secret key that came in clear by its sealed form. An empty one stays what held has.
func (r *Runner) seal(w, held *Where) error { return r.places().Seal(w, held) }

// checkRules makes sure that there is room for a record of every backup that the rules of all schedules keep.
func (r *Runner) checkRules(s *Schedule) error {
	kept := s.wants()
	for _, other := range list[Schedule](r.cfg.Meta, prefixSchedule, MaxSchedules) {
		if other.Name != s.Name {
			kept += other.wants()
		}
	}
	if s.wants() > 0 && kept > maxHeld {
		return fmt.Errorf("%w: keep_days and keep_last of all schedules together keep %d backups (this one %d), at most %d are possible: keep fewer, or make them less often",
			ErrInvalid, kept, s.wants(), maxHeld)
	}
	return nil
}

// Put stores a schedule, new or in the place of the one of its name. A secret key that is left out stays as it was.
func (r *Runner) Put(ctx context.Context, s Schedule, by Actor) error {
	if err := s.check(); err != nil {
		return err
	}
	given := s.Target
	for range casRetries {
		held, mod, ok := get[Schedule](r.cfg.Meta, prefixSchedule+s.Name)
		if !ok && len(list[Schedule](r.cfg.Meta, prefixSchedule, MaxSchedules)) >= MaxSchedules {
			return fmt.Errorf("%w: there are %d schedules, no more are possible", ErrInvalid, MaxSchedules)
		}
		var before *Where
		if ok {
			before = &held.Target
		}
		if err := r.checkRules(&s); err != nil {
			return err
		}
		s.Target = given
		if err := r.seal(&s.Target, before); err != nil {
			return err
		}
		now := r.cfg.Meta.LogTime()
		s.Paused, s.By, s.Changed = "", by.Name, now
		// What was due before it was saved is not made up for.
		st := state{Slot: max(now, s.last(now))}
		shown := s
		shown.Target = s.Target.shown()
		_, err := r.cfg.Meta.Commit(ctx, auth.Txn{
			Compares: []auth.Compare{{Bucket: Bucket, Key: prefixSchedule + s.Name, ModIndex: mod}},
			Ops: []auth.Op{
				{Bucket: Bucket, Key: prefixSchedule + s.Name, Value: encode(s)},
				{Bucket: Bucket, Key: prefixState + s.Name, Value: encode(st)},
			},
			Audit: []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "snapshot.schedule.set", Target: s.Name, Detail: record.Detail(shown)}},
		})
		if !errors.Is(err, auth.ErrConflict) {
			return err
		}
	}
	return auth.ErrConflict
}

// Delete removes a schedule. Its backups stay.
func (r *Runner) Delete(ctx context.Context, name string, by Actor) error {
	_, mod, ok := get[Schedule](r.cfg.Meta, prefixSchedule+name)
	if !ok {
		return fmt.Errorf("schedule %.60q: %w", name, ErrNotFound)
	}
	_, err := r.cfg.Meta.Commit(ctx, auth.Txn{
		Compares: []auth.Compare{{Bucket: Bucket, Key: prefixSchedule + name, ModIndex: mod}},
		Ops: []auth.Op{
			{Delete: true, Bucket: Bucket, Key: prefixSchedule + name},
			{Delete: true, Bucket: Bucket, Key: prefixState + name},
		},
		Audit: []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "snapshot.schedule.delete", Target: name}},
	})
	return err
}

// Cancel asks the run under way to end.
func (r *Runner) Cancel(ctx context.Context, id string, by Actor) error {
	for range casRetries {
		c, mod, ok := r.claims.Held()
		if !ok || c.ID != id {
			return fmt.Errorf("run %.40q: %w", id, ErrNotFound)
		}
		c.Cancel = true
		_, err := r.cfg.Meta.Commit(ctx, auth.Txn{
			Compares: []auth.Compare{{Bucket: Bucket, Key: keyRunning, ModIndex: mod}},
			Ops:      []auth.Op{r.claims.Op(&c)},
			Audit:    []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "snapshot.cancel", Target: id}},
		})
		if !errors.Is(err, auth.ErrConflict) {
			return err
		}
	}
	return auth.ErrConflict
}

// PauseAll edits the metadata of a backup that is being restored: schedules would write to, and remove from, the
// places of the cluster that was backed up. edit is called with every value that changes; nil removes the key.
func PauseAll(keys []string, value func(key string) []byte, edit func(key string, value []byte)) {
	for _, key := range keys {
		switch {
		case key == keyRunning, strings.HasPrefix(key, prefixArchive):
			edit(key, nil)
		case strings.HasPrefix(key, prefixSchedule):
			var s Schedule
			if json.Unmarshal(value(key), &s) != nil {
				edit(key, nil)
				continue
			}
			s.Paused = "the cluster was restored from a backup; look at the target, then save the schedule"
			edit(key, encode(s))
		}
	}
}
