package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/claim"
	"github.com/triward/triward/appliance/record"
)

// Config of a Service.
type Config struct {
	Meta                 auth.Meta
	Node                 string
	Cluster, Incarnation string
	Program              string
	Leading              func() bool
	Store                Source
	Places               schedule.Places
	// Settled returns the totals of the days as of an entry which the store holds; Totals the same about now, cheaply.
	Settled func(ctx context.Context) (index uint64, days map[int64]Totals, err error)
	Totals  func() map[int64]Totals
	// Floor is before which nothing of a kind is kept, in milliseconds.
	Floor func(kind wire.StreamKind) int64
	// Rate bounds the bytes of lines that are read in a second; 32 MiB when 0.
	Rate int
	// LookEvery is how often the days are looked at; 5 s.
	LookEvery time.Duration
	Log       *slog.Logger
}

const (
	// lateRest is how long a day that is archived rests before what came late is added.
	lateRest = 6 * time.Hour
)

// retryAfter are the pauses before a day that failed is tried again; the last is repeated.
var retryAfter = []time.Duration{time.Minute, 5 * time.Minute, 20 * time.Minute, time.Hour}

var (
	errLost     = errors.New("the claim to archive was lost: this node could not reach the others in time")
	errStopping = errors.New("the node was stopped")
	errGone     = errors.New("retention removed the day meanwhile")
)

// Service archives days. Make it with New, run Run, and Close it.
type Service struct {
	cfg    Config
	claims claim.Of[Claim] // of archiving a day
	sweeps claim.Of[Claim] // of removing what was left of one
	tag    string
	pace   *rate.Limiter
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	born   time.Time
	// busy bounds the files of the archive that are read out at once.
	busy chan struct{}
}

// New makes a service. It archives nothing before Run or Start.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.LookEvery == 0 {
		cfg.LookEvery = 5 * time.Second
	}
	if cfg.Rate == 0 {
		cfg.Rate = 32 << 20
	}
	s := &Service{
		cfg: cfg, tag: Tag(cfg.Cluster, cfg.Incarnation), pace: rate.NewLimiter(rate.Limit(cfg.Rate), 2*max(cfg.Rate, 4<<20)),
		born: time.Now(), busy: make(chan struct{}, 2),
	}
	s.claims = claim.Of[Claim]{Meta: cfg.Meta, Bucket: Bucket, Key: keyRunning, ID: func(c *Claim) string { return c.ID }, Lost: errLost, Stopping: errStopping}
	s.sweeps = s.claims
	s.sweeps.Key = keySweep
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Tag is that of this cluster's files.
func (s *Service) Tag() string { return s.tag }

// Close ends what is under way and waits for it.
func (s *Service) Close() error {
	s.cancel()
	s.work.Wait()
	return nil
}

// Run archives what is due until ctx ends.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(s.cfg.LookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("archive of lines", "err", err)
		}
	}
}

// look archives the days that are due here.
func (s *Service) look(ctx context.Context) error {
	for ctx.Err() == nil {
		p, _, ok := s.policy()
		if !ok || !p.active() || p.Node != s.cfg.Node && (p.Node != "" || !s.cfg.Leading()) {
			return nil
		}
		now := s.cfg.Meta.LogTime()
		due := slices.DeleteFunc(s.unarchived(s.over(now, time.Duration(p.After)*time.Hour)), func(d int64) bool {
			r, _, ok := get[DayRecord](s.cfg.Meta, prefixDay+DateOf(d))
			return ok && (r.Retry > now || r.Error == "" && r.Tag == s.tag && r.Through > 0 && now < r.At+lateRest.Milliseconds())
		})
		if len(due) == 0 {
			return s.tidy(ctx, &p)
		}
		if err := s.day(ctx, &p, due[0], schedule.Actor{}); err != nil {
			if errors.Is(err, ErrRunning) || errors.Is(err, auth.ErrConflict) {
				return nil
			}
			return err
		}
	}
	return nil
}

// over lists the days with lines that ended so long ago, the oldest first.
func (s *Service) over(now int64, after time.Duration) []int64 {
	days := slices.Collect(maps.Keys(s.cfg.Totals()))
	slices.Sort(days)
	return slices.DeleteFunc(days, func(d int64) bool { return (d+1)*DayMs+after.Milliseconds() > now || !s.kept(d) })
}

// kept reports whether anything of a day is still kept, and nothing of it was taken but whole kinds.
func (s *Service) kept(d int64) bool {
	from, to, some := d*DayMs, (d+1)*DayMs, false
	for _, kind := range []wire.StreamKind{wire.StreamLog, wire.StreamEvent} {
		floor := s.cfg.Floor(kind)
		if floor > from && floor < to {
			return false
		}
		some = some || floor <= from
	}
	return some
}

// unarchived picks of the days those that are not archived as they are now.
func (s *Service) unarchived(days []int64) []int64 {
	now := s.cfg.Totals()
	return slices.DeleteFunc(slices.Clone(days), func(d int64) bool {
		r, _, ok := get[DayRecord](s.cfg.Meta, prefixDay+DateOf(d))
		return now[d].Lines() == 0 || ok && r.Tag == s.tag && r.Through > 0 && r.Seen == now[d]
	})
}

// Start archives a day now, on this node; all that are over and not archived when date is empty. It returns once the first
// has begun.
func (s *Service) Start(ctx context.Context, date string, by schedule.Actor) (Claim, error) {
	p, _, ok := s.policy()
	if !ok {
		return Claim{}, fmt.Errorf("%w: nothing says where lines are archived: set the policy first", ErrNotFound)
	}
	if p.Paused != "" {
		return Claim{}, fmt.Errorf("%w: %s", ErrInvalid, p.Paused)
	}
	if s.ctx.Err() != nil {
		return Claim{}, errStopping
	}
	days := s.over(s.cfg.Meta.LogTime(), 0)
	if date != "" {
		day, err := ParseDate(date)
		if err != nil {
			return Claim{}, err
		}
		if !slices.Contains(days, day) {
			return Claim{}, fmt.Errorf("%w: %s is not over, or there are no lines of it", ErrInvalid, date)
		}
		days = []int64{day}
	} else if days = s.unarchived(days); len(days) == 0 {
		return Claim{}, fmt.Errorf("%w: all days that are over are archived", ErrInvalid)
	}
	h, err := s.claim(ctx, &p, days[0], by)
	if err != nil {
		return Claim{}, err
	}
	shown := h.claim
	s.work.Go(func() {
		err := s.make(s.ctx, h, &p)
		for _, d := range days[1:] {
			if err != nil || s.ctx.Err() != nil {
				break
			}
			err = s.day(s.ctx, &p, d, by)
		}
		if err != nil {
			s.cfg.Log.Warn("archive of lines", "err", err)
		}
	})
	return shown, nil
}

// day claims a day and archives it. What becomes of it is in the record; an error is of the claim alone.
func (s *Service) day(ctx context.Context, p *Policy, day int64, by schedule.Actor) error {
	h, err := s.claim(ctx, p, day, by)
	if err != nil {
		return err
	}
	if err := s.make(ctx, h, p); err != nil {
		s.cfg.Log.Warn("a day of lines was not archived", "day", h.claim.Date, "attempt", h.record.Attempts, "err", err)
	}
	return nil
}

// hold is a claim that this node has.
type hold struct {
	day    int64
	record DayRecord
	claim  Claim // as it was made
	held   *claim.Hold[Claim]
}

// claim takes the right to archive, and writes down what the attempt is of: should this node go down, another one goes on
// with the same entries and so with the same names.
func (s *Service) claim(ctx context.Context, p *Policy, day int64, by schedule.Actor) (*hold, error) {
	if c, _, ok := s.claims.Held(); ok {
		return nil, fmt.Errorf("%w: on node %s", ErrRunning, c.Node)
	}
	date := DateOf(day)
	r, mod, _ := get[DayRecord](s.cfg.Meta, prefixDay+date)
	if r.Tag != s.tag { // of the cluster that this one was restored from: its entries were others
		r = DayRecord{}
	}
	r.Date, r.Tag = date, s.tag
	if r.Plan == nil {
		index, totals, err := s.cfg.Settled(ctx)
		if err != nil {
			return nil, err
		}
		r.Plan = &Plan{Through: index, Want: totals[day]}
	}
	r.Attempts++
	now := s.cfg.Meta.LogTime()
	r.Retry = now + pause(r.Attempts) // should this node go down in the middle of it
	c := Claim{ID: newID(), Date: date, Node: s.cfg.Node, By: by.Name, Started: now, Total: r.Plan.Want.Lines() - r.Totals.Lines()}
	txn := auth.Txn{
		Compares: []auth.Compare{{Bucket: Bucket, Key: prefixDay + date, ModIndex: mod}},
		Ops:      []auth.Op{{Bucket: Bucket, Key: prefixDay + date, Value: encode(r)}},
	}
	if mod == 0 {
		trim(s.cfg.Meta, prefixDay, maxDays, &txn)
	}
	if by.Name != "" {
		txn.Audit = []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "logs.archive.run", Target: date, Detail: record.Detail(p.Target.Shown())}}
	}
	held, err := s.claims.Take(ctx, c, txn)
	if err != nil {
		if errors.Is(err, auth.ErrConflict) {
			err = fmt.Errorf("%w: %w", ErrRunning, err)
		}
		return nil, err
	}
	return &hold{day: day, record: r, claim: c, held: held}, nil
}

func newID() string { return strings.ToLower(rand.Text()[:10]) }

func pause(attempt int) int64 {
	return retryAfter[min(attempt, len(retryAfter))-1].Milliseconds()
}

func (h *hold) progress(lines int64) {
	h.held.Change(func(c *Claim) { c.Done = lines })
}

// make archives the day that was claimed and records what became of it.
func (s *Service) make(ctx context.Context, h *hold, p *Policy) error {
	var run Run
	err := h.held.While(ctx, s.ctx, func(ctx context.Context) (err error) {
		run, err = s.write(ctx, h, p)
		return err
	})
	s.record(h, run, err)
	return err
}

// write writes what the archive lacks of the day, and puts what it has then into the record.
func (s *Service) write(ctx context.Context, h *hold, p *Policy) (run Run, err error) {
	run = Run{ID: h.claim.ID, Date: h.claim.Date, Node: s.cfg.Node, By: h.claim.By, Started: h.claim.Started, Attempt: h.record.Attempts, Target: p.Target.String()}
	to, err := s.cfg.Places.Open(&p.Target)
	if err != nil {
		return run, err
	}
	if f, ok := to.(*target.Folder); ok && h.record.Attempts > 1 {
		clean(f, h.claim.Date, s.born)
	}
	names, err := Names(ctx, to, h.claim.Date)
	if err != nil {
		return run, err
	}
	r := &h.record
	r.Through, r.Totals, r.Stored, r.Agents = 0, Totals{}, 0, 0
	for _, n := range Chain(names, h.claim.Date, s.tag) { // what is there counts, not what the record says
		d, err := ReadDay(ctx, to, n)
		if err != nil {
			return run, err
		}
		r.take(d)
	}
	if r.Through < r.Plan.Through {
		w := Writer{
			Store: s.cfg.Store, To: to, Cluster: s.cfg.Cluster, Tag: s.tag, Node: s.cfg.Node, Program: s.cfg.Program, Written: time.Now().UnixMilli(),
			Pace: s.wait, Progress: h.progress,
		}
		d, err := w.Day(ctx, h.day, r.Through, r.Plan.Through, r.Totals, r.Plan.Want)
		if errors.Is(err, ErrDiffers) && !s.kept(h.day) {
			err = fmt.Errorf("%w: %w", errGone, err)
		}
		if err != nil {
			return run, err
		}
		r.take(d)
		run.Lines = d.Totals.Lines()
		for i := range d.Agents {
			run.Stored += d.Agents[i].Stored
		}
	}
	r.Seen = r.Plan.Want
	return run, nil
}

// take adds to the record what a manifest tells.
func (r *DayRecord) take(d *Day) {
	r.Through, r.Totals, r.Agents = d.Through, d.Upto, max(r.Agents, len(d.Agents))
	for i := range d.Agents {
		r.Stored += d.Agents[i].Stored
	}
}

// clean removes what an attempt at the day that was cut off left half written in a folder.
func clean(f *target.Folder, date string, before time.Time) {
	for _, below := range []string{"*/*", "."} {
		dirs, err := filepath.Glob(filepath.Join(f.Dir, folderLogs, "*", date, below))
		if err != nil {
			continue
		}
		for _, dir := range dirs {
			_ = (&target.Folder{Dir: dir}).CleanPartial(before) // it is in nobody's way
		}
	}
	_ = (&target.Folder{Dir: filepath.Join(f.Dir, folderDays)}).CleanPartial(before)
}

// wait keeps reading within its rate.
func (s *Service) wait(ctx context.Context, n int) error {
	for n > 0 {
		k := min(n, s.pace.Burst())
		if err := s.pace.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// failuresTold is every how many failed attempts at a day, after the first, another event tells of it.
const failuresTold = 12

// record writes what became of an attempt and ends its claim, however often that takes; a claim that cannot be ended ends by
// itself.
func (s *Service) record(h *hold, run Run, failed error) {
	claim.Record(s.ctx, func(ctx context.Context) error { return s.recordOnce(ctx, h, run, failed) }, func(err error) {
		s.cfg.Log.Warn("what became of the archive of a day is not recorded yet", "day", run.Date, "err", err)
	})
}

func (s *Service) recordOnce(ctx context.Context, h *hold, run Run, failed error) error {
	m := s.cfg.Meta
	run.Ended, run.OK = m.LogTime(), failed == nil
	held, mod, ok := get[DayRecord](m, prefixDay+run.Date)
	r := h.record
	switch {
	case failed == nil:
		r.Plan, r.Attempts, r.Told, r.Error, r.Retry = nil, 0, 0, "", 0
		r.Node, r.Target, r.At = s.cfg.Node, run.Target, run.Ended
	default:
		run.Error = clip(failed.Error())
		r = held // what was found out before it failed is not known for sure
		r.Error, r.Retry = run.Error, run.Ended+pause(h.record.Attempts)
		// Not by the number of the attempt alone: of one whose node went there is no run.
		if since := run.Attempt - r.Told; r.Told == 0 || since == 0 || since >= failuresTold {
			run.Tell, r.Told = true, run.Attempt
		}
		if errors.Is(failed, ErrTaken) || errors.Is(failed, ErrDiffers) || errors.Is(failed, errGone) {
			r.Plan = nil // the next attempt is of other entries
		}
	}
	txn := auth.Txn{Ops: []auth.Op{{Bucket: Bucket, Key: fmt.Sprintf("%s%013d-%s", prefixRun, run.Started, run.ID), Value: encode(run)}}}
	if ok && (failed == nil || held.Attempts == h.record.Attempts) { // nobody has tried again since
		txn.Compares = append(txn.Compares, auth.Compare{Bucket: Bucket, Key: prefixDay + run.Date, ModIndex: mod})
		txn.Ops = append(txn.Ops, auth.Op{Bucket: Bucket, Key: prefixDay + run.Date, Value: encode(r)})
		if failed != nil && r.Plan == nil {
			s.leave(&txn, run.Date)
		}
	}
	s.claims.Release(&txn, run.ID)
	trim(m, prefixRun, maxRuns, &txn)
	_, err := m.Commit(ctx, txn)
	return err
}

// HoldFloor is how far retention by age may go, which would remove everything before floor (milliseconds): not over days that
// are not archived, for so long as the policy says.
func (s *Service) HoldFloor(floor int64) int64 {
	p, _, ok := s.policy()
	if !ok || !p.active() || !p.Hold {
		return floor
	}
	for _, d := range s.unarchived(s.over(s.cfg.Meta.LogTime(), 0)) {
		if at := d * DayMs; at < floor && floor-at <= int64(p.HoldDays)*DayMs {
			floor = at
		}
	}
	return floor
}

// Losing writes down which days that are not archived go, now that retention removes all of a kind between two floors
// (milliseconds), and why. It is called before they do.
func (s *Service) Losing(ctx context.Context, from, to int64, why string) error {
	p, _, ok := s.policy()
	if !ok || !p.active() {
		return nil
	}
	txn := auth.Txn{}
	for _, d := range s.unarchived(s.over(s.cfg.Meta.LogTime(), 0)) {
		key := prefixLost + DateOf(d)
		if d*DayMs < from || d*DayMs >= to || len(txn.Ops) >= 64 {
			continue
		}
		if _, _, known := get[Lost](s.cfg.Meta, key); known {
			continue
		}
		txn.Ops = append(txn.Ops, auth.Op{Bucket: Bucket, Key: key, Value: encode(Lost{Date: DateOf(d), At: s.cfg.Meta.LogTime(), Why: why})})
		s.cfg.Log.Error("a day of lines goes that was not archived, or not with what came late", "day", DateOf(d), "why", why)
	}
	if len(txn.Ops) == 0 {
		return nil
	}
	trim(s.cfg.Meta, prefixLost, maxLost, &txn)
	ctx, cancel := context.WithTimeout(ctx, claim.CommitLimit)
	defer cancel()
	_, err := s.cfg.Meta.Commit(ctx, txn)
	return err
}

// overdue is how long after its end a day should have been archived, with what comes late.
func overdue(p *Policy) time.Duration { return time.Duration(p.After)*time.Hour + 2*lateRest }
