package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/backup/schedule"
)

// snapshotsAnswer is what GET /v1/snapshots tells.
type snapshotsAnswer struct {
	schedule.Overview
	Node     string `json:"node"`
	Folder   string `json:"folder"`
	Recovery string `json:"recovery"`
}

func newSnapshotList(s streams, t *target) *cobra.Command {
	var form outputForm
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List the backups that the cluster has made, and one under way", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, raw, err := askSnapshots(c.Context(), t, limit)
			if err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, raw)
			}
			if r := a.Running; r != nil {
				fmt.Fprintf(s.out, "under way on node %s: run %s, %s, %s of %s\n\n", r.Node, r.ID, r.Phase, bytesText(r.Done), bytesText(r.Total))
			}
			tab := newTable(s.out, "begun", "schedule", "node", "outcome", "stored", "size", "took", "place", "name")
			for i := range a.Runs {
				r := &a.Runs[i]
				tab.row(clock(r.Started), cmp.Or(r.Schedule, "by "+r.By), r.Node, outcome(r, a.Running), size(storedBytes(r)), size(r.Bytes), took(r), placeOf(r), r.Name)
			}
			return tab.flush()
		},
	}
	form.flag(c)
	c.Flags().IntVar(&limit, "limit", 50, "how many at most")
	return c
}

// storedBytes is what a run put into its place.
func storedBytes(r *schedule.Run) int64 {
	if r.Repository != "" {
		return r.Stored
	}
	return r.Bytes
}

// placeOf says where a backup lies.
func placeOf(r *schedule.Run) string {
	if r.Repository == "" {
		return r.Target.String()
	}
	return r.Target.String() + "/" + r.Repository
}

func clock(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05")
}

func size(n int64) string {
	if n == 0 {
		return ""
	}
	return bytesText(n)
}

func took(r *schedule.Run) string {
	if r.Ended == 0 {
		return ""
	}
	return (time.Duration(r.Ended-r.Started) * time.Millisecond).Round(time.Second).String()
}

func outcome(r *schedule.Run, running *schedule.Claim) string {
	switch {
	case r.OK && r.Kind == schedule.KindDrill:
		return "restore tried: good"
	case r.Ended > 0 && !r.OK && r.Kind == schedule.KindDrill:
		return "restore failed: " + r.Error
	case r.Removed && r.OK:
		return "removed by the schedule"
	case r.OK:
		return "good"
	case r.Ended > 0:
		return "failed: " + r.Error
	case running != nil && running.ID == r.ID:
		return "under way"
	}
	return "interrupted: the node went down"
}

func askSnapshots(ctx context.Context, t *target, limit int) (*snapshotsAnswer, json.RawMessage, error) {
	cl, err := t.client()
	if err != nil {
		return nil, nil, err
	}
	var raw json.RawMessage
	if err := cl.get(ctx, "/v1/snapshots", url.Values{"limit": {strconv.Itoa(limit)}}, &raw); err != nil {
		return nil, nil, err
	}
	var a snapshotsAnswer
	if err := json.Unmarshal(raw, &a); err != nil {
		return nil, nil, fmt.Errorf("answer of /v1/snapshots: %w", err)
	}
	return &a, raw, nil
}

func newSnapshotCancel(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "cancel", Short: "End the backup that the cluster is making", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, _, err := askSnapshots(c.Context(), t, 1)
			if err != nil {
				return err
			}
			if a.Running == nil {
				return errors.New("no backup is being made")
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			if err := cl.call(c.Context(), http.MethodDelete, "/v1/snapshots/runs/"+url.PathEscape(a.Running.ID), nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(s.err, "Run %s ends within seconds.\n", a.Running.ID)
			return nil
		},
	}
}

// saveOnServer lets the node that is asked make a backup and store it, and waits for it.
func saveOnServer(ctx context.Context, s streams, t *target, f *saveFlags) error {
	where, err := f.s3.where(f.to)
	if err != nil {
		return err
	}
	protection, err := f.encrypt.protection(s)
	if err != nil {
		return err
	}
	cl, err := t.client()
	if err != nil {
		return err
	}
	var run schedule.Run
	if err := cl.post(ctx, "/v1/snapshots", schedule.Job{Target: where, Protection: protection, Form: formOf(f.incremental)}, &run); err != nil {
		return err
	}
	return waitForRun(ctx, s, t, run.ID, &f.form)
}

// waitForRun follows a run to its end. When it is interrupted the backup goes on.
func waitForRun(ctx context.Context, s streams, t *target, id string, form *outputForm) error {
	p := newProgress(s.err, "waiting", 0)
	defer p.end()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		a, _, err := askSnapshots(ctx, t, 20)
		if err != nil {
			return err
		}
		if r := a.Running; r != nil && r.ID == id {
			p.at(r.Phase, r.Done, r.Total)
		}
		for i := range a.Runs {
			r := &a.Runs[i]
			if r.ID != id || r.Ended == 0 {
				continue
			}
			p.end()
			if form.json() {
				if err := writeJSON(s.out, r); err != nil {
					return err
				}
			}
			if !r.OK && r.Kind == schedule.KindDrill {
				return fmt.Errorf("the restore failed: %s", r.Error)
			}
			if !r.OK {
				return fmt.Errorf("backup failed: %s", r.Error)
			}
			switch {
			case form.json():
			case r.Kind == schedule.KindDrill:
				printDrill(s, r)
			case r.Repository != "":
				fmt.Fprintf(s.out, "stored     %s in %s/%s of node %s (%s of %s in %s)\nas of      entry %d\ndigest     %s\n",
					r.Name, r.Target.String(), r.Repository, r.Node, bytesText(r.Stored), bytesText(r.Bytes), took(r), r.Index, r.Digest)
			default:
				fmt.Fprintf(s.out, "stored     %s in %s of node %s (%s in %s)\nas of      entry %d\ndigest     %s\n",
					r.Name, r.Target.String(), r.Node, bytesText(r.Bytes), took(r), r.Index, r.Digest)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// formOf is the form of a backup as the cluster is told it.
func formOf(incremental bool) string {
	if incremental {
		return schedule.FormRepository
	}
	return schedule.FormFile
}

func printDrill(s streams, r *schedule.Run) {
	d := r.Drill
	if d == nil {
		return
	}
	fmt.Fprintf(s.out, "restored   %s as of entry %d by node %s in %s, and removed again\n", r.Name, r.Index, r.Node, took(r))
	fmt.Fprintf(s.out, "read       %d samples, %d lines, %d events: %d days agree\n", d.Counts["metrics"], d.Counts["logs"], d.Counts["events"], d.Days)
	if d.Partial > 0 { // then the digests cannot be equal
		fmt.Fprintf(s.out, "           %d days of which retention had removed a part: no more than there should be\n", d.Partial)
	} else {
		fmt.Fprintf(s.out, "digest     %s of what was read, %s of the backup\n", d.Digest, d.Want)
	}
	if d.Entries > 0 {
		fmt.Fprintf(s.out, "log        %d entries behind it, to entry %d\n", d.Entries, d.Until)
	}
}

func newSnapshotDrill(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "drill SCHEDULE", Short: "Try to restore the newest backup of a schedule, and wait for the outcome",
		Long: `The node that is asked restores the newest backup of the schedule into a folder of its own, reads every sample, line and
event, compares what comes out with the digests of the backup, and removes it. It needs room for the whole state and takes
64 MiB a second at most. Backups that are encrypted can only be tried when the schedule was given --drill.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var run schedule.Run
			if err := cl.call(c.Context(), http.MethodPost, "/v1/snapshots/schedules/"+url.PathEscape(args[0])+"/drill", nil, &run); err != nil {
				return err
			}
			return waitForRun(c.Context(), s, t, run.ID, &form)
		},
	}
	form.flag(c)
	return c
}

func newSnapshotSchedule(s streams, t *target) *cobra.Command {
	c := &cobra.Command{Use: "schedule", Short: "Let the cluster make backups by itself", Args: cobra.NoArgs, RunE: needSubcommand}
	c.AddCommand(newScheduleList(s, t), newScheduleSet(s, t), newScheduleDelete(t), newScheduleRun(s, t))
	return c
}

func newScheduleList(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "list", Short: "List the schedules with their next and last runs", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, raw, err := askSnapshots(c.Context(), t, 1)
			if err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, raw)
			}
			tab := newTable(s.out, "schedule", "when", "place", "encrypted for", "keeps", "next", "last good", "last", "archive", "drill")
			for i := range a.Schedules {
				sc := &a.Schedules[i]
				next := clock(sc.Next)
				switch {
				case sc.Paused != "":
					next = "paused: " + sc.Paused
				case !sc.Enabled:
					next = "off"
				}
				last, good := "", ""
				if sc.Last != nil {
					last = outcome(sc.Last, a.Running)
				}
				if sc.LastGood != nil {
					good = clock(sc.LastGood.Started) + " (" + bytesText(sc.LastGood.Bytes) + ")"
				}
				tab.row(sc.Name, when(&sc.Schedule), sc.Target.String(), whom(&sc.Protection), keeps(&sc.Schedule), next, good, last, archiveText(sc.ArchiveStatus), drillText(sc))
			}
			return tab.flush()
		},
	}
	form.flag(c)
	return c
}

// archiveText says how far the archive of the log is behind.
func archiveText(a *schedule.Archive) string {
	switch {
	case a == nil:
		return ""
	case a.Gap != nil:
		return fmt.Sprintf("entries %d to %d are missing until the next backup", a.Gap.From, a.Gap.To)
	case a.Error != "":
		return "fails: " + a.Error
	}
	return fmt.Sprintf("to entry %d, %s behind", a.Index, (time.Duration(a.Behind) * time.Millisecond).Round(time.Second))
}

func drillText(s *schedule.ScheduleStatus) string {
	switch {
	case s.LastDrill == nil && s.Drill == 0:
		return ""
	case s.LastDrill == nil:
		return "not tried yet"
	case s.LastDrill.OK:
		return "good " + clock(s.LastDrill.Started)
	}
	return "failed " + clock(s.LastDrill.Started)
}

func when(s *schedule.Schedule) string {
	text := s.At
	if s.Every < 24 {
		text += fmt.Sprintf(" every %dh", s.Every)
	}
	if len(s.Weekdays) > 0 {
		text += " " + strings.Join(s.Weekdays, ",")
	}
	return text + " " + cmp.Or(s.Zone, "UTC")
}

func whom(p *schedule.Protection) string {
	switch {
	case p.Plain:
		return "nobody"
	case p.Recovery && len(p.Recipients) == 0:
		return "recovery key"
	case p.Recovery:
		return fmt.Sprintf("recovery key and %d more", len(p.Recipients))
	}
	return fmt.Sprintf("%d keys", len(p.Recipients))
}

func keeps(s *schedule.Schedule) string {
	switch {
	case s.KeepLast == 0 && s.KeepDays == 0:
		return "all"
	case s.KeepDays == 0:
		return fmt.Sprintf("last %d", s.KeepLast)
	case s.KeepLast == 0:
		return fmt.Sprintf("%d days", s.KeepDays)
	}
	return fmt.Sprintf("last %d and %d days", s.KeepLast, s.KeepDays)
}

func newScheduleSet(s streams, t *target) *cobra.Command {
	var (
		f   saveFlags
		sc  schedule.Schedule
		off bool

		archive time.Duration
	)
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Make or change a schedule",
		Long: `Stores a schedule under NAME, in the place of the one that has it. The leader makes its backups, or the node given
with --on; what is missed while nobody could is made up for once. The keys of an S3 service come from the environment
and are sealed by the cluster.`,
		Example: "  triward snapshot schedule set nightly --at 02:00 --zone Europe/Berlin --to s3://backups/site --recovery --keep-last 14",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if f.to == "" {
				return errors.New("--to: name the place, folder or s3://bucket/prefix")
			}
			where, err := f.s3.where(f.to)
			if err != nil {
				return err
			}
			protection, err := f.encrypt.protection(s)
			if err != nil {
				return err
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			path := "/v1/snapshots/schedules/" + url.PathEscape(args[0])
			body, err := json.Marshal(map[string]any{
				"enabled": !off, "target": where, "recipients": protection.Recipients, "recovery": protection.Recovery, "plain": protection.Plain,
				"node": sc.Node, "at": sc.At, "every_h": sc.Every, "weekdays": sc.Weekdays, "zone": sc.Zone, "keep_last": sc.KeepLast, "keep_days": sc.KeepDays,
				"form": formOf(f.incremental), "archive_s": int(archive / time.Second), "drill_days": sc.Drill,
			})
			if err != nil {
				return fmt.Errorf("encode request: %w", err)
			}
			return cl.call(c.Context(), http.MethodPut, path, body, nil)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.to, "to", "", "place: folder (backup.dir of the node) or s3://bucket/prefix")
	fl.StringVar(&sc.At, "at", "02:00", "time of the day of the first backup")
	fl.IntVar(&sc.Every, "every", 24, "hours from one to the next: 1, 2, 3, 4, 6, 8, 12 or 24")
	fl.StringSliceVar(&sc.Weekdays, "days", nil, "only on these days: mon,tue,wed,thu,fri,sat,sun")
	fl.StringVar(&sc.Zone, "zone", "", "time zone, such as Europe/Berlin; UTC when empty")
	fl.StringVar(&sc.Node, "on", "", "node that makes the backups; the leader when empty")
	fl.IntVar(&sc.KeepLast, "keep-last", 14, "keep this many backups; 0: no rule by number")
	fl.IntVar(&sc.KeepDays, "keep-days", 0, "keep backups of this many days, however many; 0: no rule by age")
	fl.BoolVar(&f.incremental, "incremental", false, "in a repository: what has not changed since an earlier backup is not stored again")
	fl.DurationVar(&archive, "archive", 0, "with --incremental: archive the log this often too, such as 60s, so that a restore can end at any entry; 0: not at all")
	fl.IntVar(&sc.Drill, "drill", 0, "with --incremental: try a restore every so many days; the cluster can then read the backups itself; 0: never")
	fl.BoolVar(&off, "off", false, "store it without using it")
	f.encrypt.flags(c)
	f.s3.flags(c)
	return c
}

func newScheduleDelete(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Remove a schedule; its backups stay", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			return cl.call(c.Context(), http.MethodDelete, "/v1/snapshots/schedules/"+url.PathEscape(args[0]), nil, nil)
		},
	}
}

func newScheduleRun(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "run NAME", Short: "Make the backup of a schedule now and wait for it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var run schedule.Run
			if err := cl.call(c.Context(), http.MethodPost, "/v1/snapshots/schedules/"+url.PathEscape(args[0])+"/run", nil, &run); err != nil {
				return err
			}
			return waitForRun(c.Context(), s, t, run.ID, &form)
		},
	}
	form.flag(c)
	return c
}
