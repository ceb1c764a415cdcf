package schedule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/repository"
)

const (
	drillFolder = "drill" // below backup/ in the data directory
	// drillRate bounds how many bytes a second a drill reads and writes, beside what the node is there for.
	drillRate  = 64 << 20
	drillBurst = 4 << 20
	// drillSpare is what must be left of the disk besides what the backup unpacks to: a tenth and 512 MiB, above the
	// limits at which the node itself stops taking data.
	drillSpare = 512 << 20
)

// dueForDrill reports whether a restore is to be tried by the schedule now.
func (r *Runner) dueForDrill(s *Schedule, now int64) bool {
	if s.Drill == 0 || !s.Enabled || s.Paused != "" || !r.mine(s.Node) {
		return false
	}
	period := int64(s.Drill) * (24 * time.Hour).Milliseconds()
	failed := 0
	runs := list[Run](r.cfg.Meta, prefixRun, maxRecords)
	good := false
	for i := len(runs) - 1; i >= 0; i-- { // newest first
		run := &runs[i]
		if run.Schedule != s.Name || run.Incarnation != r.cfg.Incarnation {
			continue
		}
		if run.Kind != KindDrill {
			good = good || run.OK && !run.Removed && run.Repository != ""
			continue
		}
		if run.OK {
			return good && now-run.Started >= period
		}
		// One that failed is tried again, less often each time.
		if failed++; failed > len(retryAfter) || now-run.Started < retryAfter[min(failed, len(retryAfter))-1].Milliseconds() {
			return good && now-run.Started >= period
		}
		return good && failed <= len(retryAfter)
	}
	return good
}

// newestOf returns the newest good backup of a schedule that this node can read.
func (r *Runner) newestOf(schedule string) (Run, bool) {
	runs := list[Run](r.cfg.Meta, prefixRun, maxRecords)
	for i := len(runs) - 1; i >= 0; i-- {
		run := runs[i]
		if run.Schedule == schedule && run.OK && !run.Removed && run.Kind == "" && run.Incarnation == r.cfg.Incarnation &&
			(run.Target.Kind != KindFolder || run.Node == r.cfg.Node) {
			return run, true
		}
	}
	return Run{}, false
}

// StartDrill tries to restore the newest backup of a schedule now, on this node.
func (r *Runner) StartDrill(ctx context.Context, name string, by Actor) (Run, error) {
	s, _, ok := get[Schedule](r.cfg.Meta, prefixSchedule+name)
	if !ok {
		return Run{}, fmt.Errorf("schedule %.60q: %w", name, ErrNotFound)
	}
	if s.Paused != "" {
		return Run{}, fmt.Errorf("%w: schedule %s: %s", ErrInvalid, name, s.Paused)
	}
	run, ok := r.newestOf(name)
	if !ok {
		return Run{}, fmt.Errorf("%w: there is no good backup of schedule %s that this node can read: one in a folder is read by the node that made it", ErrInvalid, name)
	}
	if run.Encryption != "" && s.Drill == 0 {
		return Run{}, fmt.Errorf("%w: the backups of schedule %s are not readable by the cluster: set --drill for it, and backups made from then on are", ErrInvalid, name)
	}
	s.Job.kind = KindDrill
	return r.begin(ctx, &s.Job, name, by)
}

// drill restores the newest backup of a schedule into a folder of its own, reads all of it and removes it.
func (r *Runner) drill(ctx context.Context, h *hold, run Run) (Run, error) {
	of, ok := r.newestOf(run.Schedule)
	if !ok {
		return run, errors.New("there is no good backup that this node can read")
	}
	run.Name, run.Repository, run.Target, run.Index, run.ImageBytes = of.Name, of.Repository, of.Target, of.Index, of.ImageBytes
	run.Encryption, run.Drill = of.Encryption, &Drill{Of: of.ID, Want: of.Digest}
	source, err := r.sourceOf(ctx, &of)
	if err != nil {
		return run, err
	}
	defer source.close()
	stage, err := r.stage(of.ImageBytes)
	if err != nil {
		return run, err
	}
	defer func() { _ = os.RemoveAll(stage) }() // a start removes what stays
	limit := rate.NewLimiter(drillRate, drillBurst)
	done := int64(0)
	deepest, deep, err := backup.VerifySource(ctx, source.Source, backup.VerifyOptions{
		Stage: stage, Log: r.cfg.Log, Phase: func(name string) { h.enter("drill: " + name) },
		Throttle: func(n int) error {
			done += int64(n)
			h.progress(min(done, of.ImageBytes), of.ImageBytes)
			for ; n > 0; n -= drillBurst {
				if err := limit.WaitN(ctx, min(n, drillBurst)); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if deep != nil {
		run.Drill.Digest, run.Drill.Days, run.Drill.Partial, run.Drill.Counts = deep.Digest, deep.Days, deep.Partial, deep.Counts
	}
	if err != nil {
		return run, fmt.Errorf("restore of %s: %w", of.Name, err)
	}
	if deepest.Manifest.Digest != of.Digest || deepest.Manifest.Index != of.Index {
		return run, fmt.Errorf("restore of %s: it is of entry %d with digest %s, recorded were %d and %s",
			of.Name, deepest.Manifest.Index, deepest.Manifest.Digest, of.Index, of.Digest)
	}
	if source.repo != nil {
		h.enter("drill: reading the archived log")
		if err := readLog(ctx, source.repo, limit, &run); err != nil {
			return run, fmt.Errorf("the log archived behind %s: %w", of.Name, err)
		}
	}
	run.OK, run.ReadBack, run.Digest = true, true, deepest.Manifest.Digest
	return run, nil
}

// readLog reads what a restore of the newest state would replay: each entry whole, in order, of one history.
func readLog(ctx context.Context, repo *repository.Repository, limit *rate.Limiter, run *Run) error {
	run.Drill.Until = run.Index
	return repo.Replay(ctx, run.Index, 0, func(e repository.Entry) error {
		run.Drill.Until = e.Index
		run.Drill.Entries++
		return limit.WaitN(ctx, min(len(e.Data)+1, drillBurst))
	})
}

// opened is a backup for reading.
type opened struct {
	backup.Source
	in   io.Closer
	repo *repository.Repository // that it lies in
}

func (o *opened) close() {
	if o.in != nil {
		_ = o.in.Close()
	}
}

// sourceOf opens the backup of a run, with what the cluster has to open it by.
func (r *Runner) sourceOf(ctx context.Context, run *Run) (*opened, error) {
	to, err := r.target(&run.Target)
	if err != nil {
		return nil, err
	}
	if run.Repository == "" {
		in, _, err := to.Open(ctx, run.Name)
		if err != nil {
			return nil, err
		}
		return &opened{Source: backup.Stream(in), in: in}, nil
	}
	rec, _, ok := get[repositoryRecord](r.cfg.Meta, prefixRepository+run.Repository[len(repository.FolderPrefix):])
	if !ok {
		return nil, fmt.Errorf("the secret of %s is not known any more", run.Repository)
	}
	secret, err := r.openSecret(&rec)
	if err != nil {
		return nil, err
	}
	ids, err := secret.Identities()
	if err != nil {
		return nil, err
	}
	repo, err := repository.Look(ctx, to.Below(run.Repository), ids)
	if err != nil {
		return nil, err
	}
	return &opened{Source: repo.Source(run.Name), repo: repo}, nil
}

// stage makes the folder of a drill, when there is room for it.
func (r *Runner) stage(need int64) (string, error) {
	if r.cfg.DataDir == "" {
		return "", errors.New("this node has no place for it")
	}
	dir := filepath.Join(r.cfg.DataDir, "backup", drillFolder)
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("remove what an interrupted drill left: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder for the drill: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("look for room in %s: %w", dir, err)
	}
	// Of the size, too, only what is ours: file systems keep blocks for root.
	free, size := int64(st.Bavail)*st.Bsize, int64(st.Blocks-st.Bfree+st.Bavail)*st.Bsize
	if want := need + need/10 + drillSpare + size/10; free < want {
		return "", fmt.Errorf("the backup unpacks to %d MiB; with what must stay free that wants %d MiB in %s, which has %d MiB free",
			need>>20, want>>20, dir, free>>20)
	}
	return dir, nil
}

// clearDrill removes what an interrupted drill left on this node.
func (r *Runner) clearDrill() {
	if r.cfg.DataDir == "" {
		return
	}
	if err := os.RemoveAll(filepath.Join(r.cfg.DataDir, "backup", drillFolder)); err != nil {
		r.cfg.Log.Warn("remove what an interrupted drill left", "err", err)
	}
}
