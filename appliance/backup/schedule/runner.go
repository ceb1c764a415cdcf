package schedule

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/repository"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/claim"
	"github.com/triward/triward/appliance/record"
)

// Prepared is a state that was cut and waits to be written as a backup.
type Prepared interface {
	// Name is what the backup is to be called; it ends with Suffix.
	Name() string
	// ImageBytes is how long it is before compression.
	ImageBytes() int64
	// Write writes the backup. progress is told the bytes of the image that went in.
	Write(ctx context.Context, w io.Writer, progress func(done, total int64)) (*backup.Manifest, int64, error)
	// SaveName is what it is called in a repository.
	SaveName(run string) string
	// Save stores it in a repository.
	Save(ctx context.Context, in *repository.Repository, run string, cache *repository.Cache, progress func(done, total int64)) (*backup.Manifest, string, repository.Stats, error)
	// Close lets go of the state.
	Close() error
}

// Suffix ends the names of backups.
const Suffix = ".triward"

// Config of a Runner.
type Config struct {
	Meta auth.Meta
	Node string // this node's id
	// Leading reports whether this node leads the cluster: it makes the backups of schedules that name no node.
	Leading func() bool
	// Cluster is its id, Incarnation that of the cluster.
	Cluster, Incarnation string
	// Recovery returns the public part of the cluster's recovery key.
	Recovery func() (string, error)
	// DataDir is where the node keeps what makes saves cheaper, and tries restores; "" keeps nothing.
	DataDir string
	// Entries reads the committed log, for the archive; nil: none is made.
	Entries EntrySource
	// Oldest is asked when this node's log begins behind what is archived; nil: there is nobody else.
	Oldest OldestSource
	// Program is the version of Triward, Format that of the cluster's state.
	Program string
	Format  func() uint32
	// Prepare cuts the state for a backup protected so.
	Prepare func(ctx context.Context, p Protection) (Prepared, error)
	// Sealer returns the cluster's key ring, or an error when it has none.
	Sealer func() (Sealer, error)
	// Folder is where backups of the kind folder go on this node.
	Folder string
	// LookEvery is how often the schedules are looked at; 5 s.
	LookEvery time.Duration
	Log       *slog.Logger
}

const (
	lostAfter   = 2 * claim.Life
	keepAtLeast = 1
)

// Runner makes the backups of this node. Make it with New, run Run, and Close it.
type Runner struct {
	cfg    Config
	claims claim.Of[Claim]
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	born   time.Time

	mu      sync.Mutex
	sweeps  map[string]*sweeping // repositories to be swept, by place and folder
	caches  map[string]*repository.Cache
	archive map[string]*archiving // by schedule
	wants   map[string]*wanted    // by schedule, whose archive waits for a backup
}

// New makes a runner. It makes nothing before Run.
func New(cfg Config) *Runner {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.LookEvery == 0 {
		cfg.LookEvery = 5 * time.Second
	}
	r := &Runner{
		cfg: cfg, born: time.Now(), sweeps: make(map[string]*sweeping),
		caches: make(map[string]*repository.Cache), archive: make(map[string]*archiving),
		wants: make(map[string]*wanted),
		claims: claim.Of[Claim]{
			Meta: cfg.Meta, Bucket: Bucket, Key: keyRunning, ID: func(c *Claim) string { return c.ID }, Cancelled: cancelled, Lost: errLost, Stopping: errStopping,
		},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close ends runs under way and waits for them.
func (r *Runner) Close() error {
	r.cancel()
	r.wg.Wait()
	return nil
}

// Run makes what is due until ctx ends.
func (r *Runner) Run(ctx context.Context) {
	if err := (&target.Folder{Dir: r.cfg.Folder}).CleanPartial(r.born); err != nil {
		r.cfg.Log.Warn("remove what an interrupted backup left", "err", err)
	}
	r.clearDrill()
	var archive sync.WaitGroup
	archive.Go(func() { r.archiveLog(ctx) })
	defer archive.Wait()
	tick := time.NewTicker(r.cfg.LookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn("backups by schedule", "err", err)
		}
		r.prune(ctx)
		r.sweepAll(ctx)
	}
}

// look makes what is due here and now.
func (r *Runner) look(ctx context.Context) error {
	now := r.cfg.Meta.LogTime()
	for _, s := range list[Schedule](r.cfg.Meta, prefixSchedule, MaxSchedules) {
		if !s.Enabled || s.Paused != "" || !r.mine(s.Node) {
			continue
		}
		if r.dueForDrill(&s, now) {
			j := s.Job
			j.kind = KindDrill
			if err := r.run(ctx, &j, s.Name, Actor{}, nil, nil); err != nil && !errors.Is(err, ErrRunning) {
				return fmt.Errorf("drill of schedule %s: %w", s.Name, err)
			}
		}
		st, mod, _ := get[state](r.cfg.Meta, prefixState+s.Name)
		slot := s.last(now)
		switch {
		case slot > st.Slot:
			st = state{Slot: slot}
		case st.Retry == 0 && st.Attempts <= len(retryAfter) && r.awaited(&s):
		case st.Retry == 0 || st.Retry > now:
			continue
		}
		st.Attempts++
		st.Retry = now + lostAfter.Milliseconds() // should this node go down in the middle of it
		err := r.run(ctx, &s.Job, s.Name, Actor{}, []auth.Compare{{Bucket: Bucket, Key: prefixState + s.Name, ModIndex: mod}}, &st)
		if errors.Is(err, ErrRunning) || errors.Is(err, auth.ErrConflict) {
			continue // somebody else is at it; we look again soon
		}
		if err != nil {
			return fmt.Errorf("schedule %s: %w", s.Name, err)
		}
	}
	return nil
}

func (r *Runner) mine(node string) bool { return node == r.cfg.Node || node == "" && r.cfg.Leading() }

// Start makes a backup now, here, for an operator, and returns its run once it has begun.
func (r *Runner) Start(ctx context.Context, j Job, by Actor) (Run, error) {
	if j.Node != "" && j.Node != r.cfg.Node {
		return Run{}, fmt.Errorf("%w: ask node %s itself to make it", ErrInvalid, j.Node)
	}
	if err := j.check(); err != nil {
		return Run{}, err
	}
	if j.Target.Kind == KindS3 && j.Target.SecretKey == "" {
		return Run{}, fmt.Errorf("%w: target: secret_key is missing", ErrInvalid)
	}
	if err := r.seal(&j.Target, nil); err != nil {
		return Run{}, err
	}
	return r.begin(ctx, &j, "", by)
}

// StartSchedule makes the backup of a schedule now, besides its times.
func (r *Runner) StartSchedule(ctx context.Context, name string, by Actor) (Run, error) {
	s, _, ok := get[Schedule](r.cfg.Meta, prefixSchedule+name)
	if !ok {
		return Run{}, fmt.Errorf("schedule %.60q: %w", name, ErrNotFound)
	}
	if s.Paused != "" {
		return Run{}, fmt.Errorf("%w: schedule %s: %s", ErrInvalid, name, s.Paused)
	}
	return r.begin(ctx, &s.Job, name, by)
}

// begin claims and goes on in the background.
func (r *Runner) begin(ctx context.Context, j *Job, schedule string, by Actor) (Run, error) {
	if r.ctx.Err() != nil {
		return Run{}, errStopping
	}
	h, err := r.claim(ctx, j, schedule, by, nil, nil)
	if err != nil {
		return Run{}, err
	}
	shown := h.claim.Run
	shown.Target = shown.Target.shown()
	r.wg.Go(func() {
		if err := r.make(r.ctx, h, j, nil); err != nil {
			r.cfg.Log.Warn("backup failed", "run", h.claim.ID, "err", err)
		}
	})
	return shown, nil
}

// run claims and makes, and returns when all is recorded. An error of the backup itself is in the record, and nil here.
func (r *Runner) run(ctx context.Context, j *Job, schedule string, by Actor, also []auth.Compare, st *state) error {
	h, err := r.claim(ctx, j, schedule, by, also, st)
	if err != nil {
		return err
	}
	if err := r.make(ctx, h, j, st); err != nil {
		log := r.cfg.Log.With("schedule", schedule, "run", h.claim.ID, "err", err)
		if st == nil { // a tried restore
			log.Warn("restore drill failed")
		} else {
			log.Warn("backup failed", "attempt", st.Attempts)
		}
	}
	return nil
}

// hold is a claim that this node has.
type hold struct {
	claim Claim // as it was made
	held  *claim.Hold[Claim]
}

var (
	errLost      = errors.New("the claim to make the backup was lost: this node could not reach the others in time")
	errCancelled = errors.New("cancelled by an operator")
	errStopping  = errors.New("the node was stopped")
)

// cancelled is why a run is to end whose claim is held as it is.
func cancelled(held *Claim) error {
	if held.Cancel {
		return errCancelled
	}
	return nil
}

func (r *Runner) claim(ctx context.Context, j *Job, schedule string, by Actor, also []auth.Compare, st *state) (*hold, error) {
	if c, _, ok := r.claims.Held(); ok {
		return nil, fmt.Errorf("%w: on node %s", ErrRunning, c.Node)
	}
	c := Claim{Phase: "waiting", Run: Run{
		ID: strings.ToLower(rand.Text()[:10]), Schedule: schedule, By: by.Name, Node: r.cfg.Node, Started: r.cfg.Meta.LogTime(),
		Target: j.Target, Incarnation: r.cfg.Incarnation, Kind: j.kind,
	}}
	txn := auth.Txn{Compares: also}
	if st != nil {
		txn.Ops = append(txn.Ops, auth.Op{Bucket: Bucket, Key: prefixState + schedule, Value: encode(st)})
	}
	if by.Name != "" {
		shown := *j
		shown.Target = j.Target.shown()
		txn.Audit = []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: startAction(j), Target: cmp.Or(schedule, j.Target.String()), Detail: record.Detail(shown)}}
	}
	held, err := r.claims.Take(ctx, c, txn)
	if errors.Is(err, auth.ErrConflict) && also == nil {
		return nil, ErrRunning
	}
	if err != nil {
		return nil, err
	}
	return &hold{claim: c, held: held}, nil
}

func startAction(j *Job) string {
	if j.kind == KindDrill {
		return "snapshot.drill"
	}
	return "snapshot.start"
}

func (h *hold) enter(phase string) {
	h.held.Change(func(c *Claim) { c.Phase = phase })
}

func (h *hold) progress(done, total int64) {
	h.held.Change(func(c *Claim) { c.Done, c.Total = done, total })
}

// make makes the backup that was claimed and records what became of it. The error is of the backup.
func (r *Runner) make(ctx context.Context, h *hold, j *Job, st *state) error {
	var run Run
	err := h.held.While(ctx, r.ctx, func(ctx context.Context) (err error) {
		run, err = r.store(ctx, h, j)
		return err
	})
	if err != nil {
		run.OK, run.Error = false, clip(err.Error())
	}
	r.record(run, st)
	return err
}

// maxError bounds what is kept of an error.
const maxError = 500

func clip(s string) string { return s[:min(len(s), maxError)] }

// store writes the backup to its target and returns the record of it.
func (r *Runner) store(ctx context.Context, h *hold, j *Job) (run Run, err error) {
	run = h.claim.Run
	to, err := r.target(&j.Target)
	if err != nil {
		return run, err
	}
	if run.Kind == KindDrill {
		return r.drill(ctx, h, run)
	}
	h.enter("cutting")
	p, err := r.cfg.Prepare(ctx, j.Protection)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if j.Form == FormRepository {
		return r.storeInRepository(ctx, h, j, run, to, p)
	}
	// With the run's id no other backup has the name, so that what this run leaves can be removed by it.
	run.Name = strings.TrimSuffix(p.Name(), Suffix) + "-" + run.ID + Suffix
	run.ImageBytes = p.ImageBytes()
	// From here on something may lie in the target: should this node go down, the record says what.
	if err := r.note(ctx, &run); err != nil {
		return run, fmt.Errorf("record the backup: %w", err)
	}
	h.enter("writing")
	var m *backup.Manifest
	run.Bytes, err = to.Put(ctx, run.Name, run.ImageBytes, func(w io.Writer) (err error) {
		m, _, err = p.Write(ctx, w, h.progress)
		return err
	})
	if err != nil {
		return run, err
	}
	run.Index, run.Digest = m.Index, m.Digest
	h.enter("reading back")
	if err := r.readBack(ctx, to, &run); err != nil {
		return run, fmt.Errorf("read back: %w", err)
	}
	run.OK, run.ReadBack = true, true
	return run, nil
}

// readBack makes sure that what is stored is whole.
func (r *Runner) readBack(ctx context.Context, to target.Target, run *Run) error {
	in, _, err := to.Open(ctx, run.Name)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	h, n, err := backup.CheckContainer(in)
	if err = errors.Join(err, ignoreClosed(ctx, in.Close())); err != nil {
		return err
	}
	if n != run.Bytes || h.Index != run.Index {
		return fmt.Errorf("%d bytes of entry %d are there, %d of %d were stored", n, h.Index, run.Bytes, run.Index)
	}
	run.Encryption, run.Keys = h.Encryption, h.Keys
	return nil
}

func ignoreClosed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// places are those of this node.
func (r *Runner) places() Places { return Places{r.cfg.Sealer, r.cfg.Folder} }

// target opens the place that a job names.
func (r *Runner) target(w *Where) (target.Target, error) { return r.places().Open(w) }

// Check finds out whether backups can be stored in a place. A secret key that is left out is the one of the schedule.
func (r *Runner) Check(ctx context.Context, w Where, schedule string) error {
	if err := w.check(); err != nil {
		return err
	}
	if w.Kind == KindFolder {
		return (&target.Folder{Dir: r.cfg.Folder}).Check(ctx)
	}
	if w.SecretKey == "" {
		held, _, ok := get[Schedule](r.cfg.Meta, prefixSchedule+schedule)
		if !ok {
			return fmt.Errorf("%w: target: secret_key is missing", ErrInvalid)
		}
		if err := r.seal(&w, &held.Target); err != nil {
			return err
		}
		to, err := r.target(&w)
		if err != nil {
			return err
		}
		return to.Check(ctx)
	}
	to, err := target.NewS3(w.s3(w.SecretKey))
	if err != nil {
		return err
	}
	return to.Check(ctx)
}

// note writes the record of a run whose backup is about to be stored.
func (r *Runner) note(ctx context.Context, run *Run) error {
	ctx, cancel := context.WithTimeout(ctx, claim.CommitLimit)
	defer cancel()
	_, err := r.cfg.Meta.Commit(ctx, auth.Txn{Ops: []auth.Op{{Bucket: Bucket, Key: runKey(run), Value: encode(run)}}})
	return err
}

// record writes what became of a run and ends its claim, however often that takes; a claim that cannot be ended ends by
// itself.
func (r *Runner) record(run Run, st *state) {
	claim.Record(r.ctx, func(ctx context.Context) error {
		run.Ended = r.cfg.Meta.LogTime()
		txn := auth.Txn{Ops: []auth.Op{{Bucket: Bucket, Key: runKey(&run), Value: encode(run)}}}
		r.claims.Release(&txn, run.ID)
		r.recordState(&txn, &run, st)
		r.trim(&txn)
		_, err := r.cfg.Meta.Commit(ctx, txn)
		return err
	}, func(err error) {
		r.cfg.Log.Warn("what became of a backup is not recorded yet", "run", run.ID, "err", err)
	})
}

// recordState notes when a schedule whose run failed is tried again.
func (r *Runner) recordState(txn *auth.Txn, run *Run, st *state) {
	if st == nil {
		return
	}
	held, mod, ok := get[state](r.cfg.Meta, prefixState+run.Schedule)
	if !ok || held.Slot != st.Slot { // the schedule was saved anew or removed meanwhile
		return
	}
	held.Retry = 0
	switch {
	case run.OK:
		held.Attempts = 0
	case run.Error == errCancelled.Error():
		held.Attempts = len(retryAfter) + 1 // not again before the next time
	case st.Attempts <= len(retryAfter):
		held.Retry = run.Ended + retryAfter[st.Attempts-1].Milliseconds()
	}
	txn.Compares = append(txn.Compares, auth.Compare{Bucket: Bucket, Key: prefixState + run.Schedule, ModIndex: mod})
	txn.Ops = append(txn.Ops, auth.Op{Bucket: Bucket, Key: prefixState + run.Schedule, Value: encode(held)})
}
