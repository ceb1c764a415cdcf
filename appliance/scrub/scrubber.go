package scrub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
)

// Damage is something that is not what was written. Part is one of raftstate's. From and To bound the times that it is about, in milliseconds since
// 1970, To exclusive; both 0 when unknown. Kind is that of the data, "" for all of a part.
type Damage struct {
	Part, Kind string
	From, To   int64
	Place      string
	Err        error
	Dir        string // of the store that was read; "" when it is not about one
}

// Metrics is the store of samples.
type Metrics interface {
	Samples
	Scrub(ctx context.Context, pace func(bytes int) error) ([]*tsdb.DamageError, error)
	Adopt(proven func(minT, maxT int64) bool) error
}

// Logs is the store of lines.
type Logs interface {
	Lines
	Scrub(ctx context.Context, pace func(bytes int) error) ([]*logstore.DamageError, error)
}

// Node is the log and the state.
type Node interface {
	State
	ScrubLog(ctx context.Context, first uint64, pace func(bytes int) error) error
	ScrubState(pace func(bytes int) error) (path string, err error)
}

// Config of a Scrubber.
type Config struct {
	Metrics Metrics
	Logs    Logs
	Node    Node
	// File is where the state of the pass is kept.
	File string
	// Every is how often a pass begins; zero: only Check. Shift moves it, so that nodes do not read at the same time.
	Every, Shift time.Duration
	// Rate and CheckRate bound what is read in a second, by passes and by Check.
	Rate, CheckRate int64
	// Busy tells that the node has better to do. A pass waits then, for a minute at most before each step.
	Busy func() bool
	// OnDamage is told of damage that the stores do not report themselves: that of the log, of the state, and days that
	// differ. It calls Found, now or by way of the store. It must not block.
	OnDamage func(Damage)
	Log      *slog.Logger
	Now      func() time.Time // time.Now when nil
}

// Scrubber makes passes. Its methods may be called from any goroutine.
type Scrubber struct {
	cfg  Config
	deep deep

	pass  turn // held by a pass
	files turn // held by a Check that reads files, for each part of them
	day   turn // held by a Check, for each day

	mu    sync.Mutex // guards state, metrics are read from it
	state state
	read  int64 // bytes since the start
	found int64 // since the start
	doing string
	ended uint64 // passes
}

// New makes a Scrubber that goes on from where the one before it was. A file that cannot be read begins anew.
func New(cfg Config) *Scrubber {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Scrubber{cfg: cfg, pass: make(turn, 1), files: make(turn, 1), day: make(turn, 1)}
	s.deep = deep{samples: cfg.Metrics, lines: cfg.Logs, state: cfg.Node, spoilt: spoilt}
	var err error
	if s.state, err = readState(cfg.File); err != nil {
		cfg.Log.Warn("where the search for damage was is not known: it begins anew", "err", err)
	}
	if s.state.Since == 0 {
		s.state.Since = cfg.Now().UnixMilli()
		s.save()
	}
	return s
}

func spoilt(err error) bool {
	return errors.Is(err, tsdb.ErrDamaged) || errors.Is(err, logstore.ErrDamaged) || errors.Is(err, syscall.EIO)
}

// Run makes passes until ctx ends.
func (s *Scrubber) Run(ctx context.Context) {
	if s.cfg.Every <= 0 {
		return
	}
	for {
		wait := time.NewTimer(s.due())
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		if err := s.Look(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("a pass that looks for damage was broken off and goes on in a minute", "err", err)
			if !sleep(ctx, time.Minute) {
				return
			}
		}
	}
}

// Look makes a pass, or the rest of the one that was broken off, with as many tries of the steps that fail as they have.
func (s *Scrubber) Look(ctx context.Context) error {
	for {
		err := s.Pass(ctx)
		if !errors.Is(err, ErrIncomplete) {
			return err
		}
		s.cfg.Log.Warn("a pass that looks for damage goes on in some minutes", "err", err)
		if !sleep(ctx, stepPause) {
			return ctx.Err()
		}
	}
}

// A step that fails is tried stepTries times in a pass, stepPause apart: a store may be being replaced.
const (
	stepTries = 3
	stepPause = 5 * time.Minute
)

// swapTries is how many seconds a step waits for a store that is closed, since another one takes its place.
const swapTries = 30

func replaced(err error) bool {
	return errors.Is(err, logstore.ErrClosed) || errors.Is(err, tsdb.ErrClosed)
}

// firstPass is how long after its start a node that has made no pass begins one.
const firstPass = time.Hour

// due returns how long it is until a pass begins or goes on.
func (s *Scrubber) due() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	switch {
	case s.state.Began != 0 && s.state.Done != nil: // in the middle of one
		return time.Minute
	case s.state.LastPass == 0 && s.state.Tried == 0:
		return firstPass + s.cfg.Shift%firstPass
	}
	last := time.UnixMilli(max(s.state.LastBegan, s.state.Tried))
	at := last.Truncate(s.cfg.Every).Add(s.cfg.Shift % s.cfg.Every)
	for !at.After(last) {
		at = at.Add(s.cfg.Every)
	}
	return max(time.Minute, at.Sub(now))
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// pacer returns what keeps to a rate in bytes a second.
func (s *Scrubber) pacer(ctx context.Context, rate int64) Pace {
	began, sum := time.Now(), int64(0)
	return func(n int) error {
		s.mu.Lock()
		s.read += int64(n)
		s.mu.Unlock()
		if rate <= 0 {
			return ctx.Err()
		}
		sum += int64(n)
		ahead := time.Duration(float64(sum)/float64(rate)*float64(time.Second)) - time.Since(began)
		if ahead < -time.Second { // what was not read is not made up for
			began, sum = time.Now(), 0
			return ctx.Err()
		}
		if ahead > 10*time.Millisecond && !sleep(ctx, ahead) {
			return ctx.Err()
		}
		return ctx.Err()
	}
}

// busyPatience bounds how long one step waits for a node that is busy: a pass must end some day.
const busyPatience = time.Minute

func (s *Scrubber) yield(ctx context.Context) error {
	for waited := time.Duration(0); s.cfg.Busy != nil && s.cfg.Busy() && waited < busyPatience; waited += time.Second {
		if !sleep(ctx, time.Second) {
			break
		}
	}
	return ctx.Err()
}

// turn is held by one reader of its kind at a time. A pass and a Check read beside each other, each at its rate: the pass may
// take hours, and an operator waits for the other.
type turn chan struct{}

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) leave() { <-t }

// step is a part of a pass.
type step struct {
	name string
	do   func(ctx context.Context, pace Pace) error
}

// Steps that come before the days.
const (
	stepState   = "state"
	stepLog     = "log"
	stepMetrics = "files/metrics"
	stepLogs    = "files/logs"
	stepDays    = "days" // of a Check
	stepDay     = "day/" // and kind or "lines", and the day
	lines       = "lines"
)

// Pass makes a pass, or the rest of the one that was broken off. A step that cannot be made does not keep the others from
// being made. When one is under way it is waited for instead. An error that matches ErrIncomplete says that Pass is to be called once more for those that failed; after
// stepTries of that the pass ends as it is.
func (s *Scrubber) Pass(ctx context.Context) error {
	before := s.passes()
	if err := s.pass.take(ctx); err != nil {
		return err
	}
	defer s.pass.leave()
	if s.passes() != before {
		return nil
	}
	s.begin()
	steps, err := s.steps(ctx)
	if err != nil {
		return err
	}
	var failed []Failure
	pace := s.pacer(ctx, s.cfg.Rate)
	for _, st := range steps {
		if s.done(st.name) {
			continue
		}
		if err := s.yield(ctx); err != nil {
			return err
		}
		s.note(st.name)
		err := st.do(ctx, pace)
		for tries := 0; replaced(err) && tries < swapTries && sleep(ctx, time.Second); tries++ {
			err = st.do(ctx, pace)
		}
		s.note("")
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.cfg.Log.Warn("a step of the search for damage could not be made", "step", st.name, "err", err)
			failed = append(failed, failure(st.name, err))
			continue
		}
		s.finished(st.name)
	}
	if len(failed) > 0 && s.again() {
		return fmt.Errorf("%w: %d steps, the first is %s: %s", ErrIncomplete, len(failed), failed[0].Step, failed[0].Error)
	}
	if err := s.cfg.Metrics.Adopt(s.proven()); err != nil {
		failed = append(failed, failure("checksums", err))
	}
	s.end(failed)
	return nil
}

// ErrIncomplete says that steps of a pass could not be made, and are tried again.
var ErrIncomplete = errors.New("not everything could be looked through")

func failure(step string, err error) Failure {
	text := err.Error()
	return Failure{Step: step, Error: text[:min(len(text), maxError)]}
}

// steps lists what a pass is made of: files first, since their damage explains days that differ, then the days from the
// newest back.
func (s *Scrubber) steps(ctx context.Context) ([]step, error) {
	_, sums, err := s.cfg.Node.Settled(ctx)
	if err != nil {
		return nil, err
	}
	all := s.parts()
	for _, d := range days(sums, nil, 0, 0) {
		name := lines
		if d.kinds[0] == command.KindMetrics {
			name = raftstate.PartMetrics
		}
		all = append(all, step{stepDay + name + "/" + strconv.FormatInt(d.day, 10), func(ctx context.Context, pace Pace) error {
			out, err := s.deep.compare(ctx, d.kinds, d.day, pace)
			for i := range out {
				s.tell(&out[i])
			}
			return err
		}})
	}
	return all, nil
}

// parts lists the steps that read files.
func (s *Scrubber) parts() []step {
	return []step{{stepState, s.scrubState}, {stepLog, s.scrubLog}, {stepMetrics, s.scrubMetrics}, {stepLogs, s.scrubLogs}}
}

type storeDay struct {
	kinds []command.Kind // of one store
	day   int64
}

// days groups the digests of kinds (nil: all) by store and day, within [from, to) in milliseconds (0: no bound), the newest
// day first.
func days(sums []meta.Digest, kinds []command.Kind, from, to int64) (out []storeDay) {
	at := map[string]int{}
	for _, d := range sums {
		if kinds != nil && !slices.Contains(kinds, d.Kind) || from != 0 && (d.Day+1)*dayMs <= from || to != 0 && d.Day*dayMs >= to {
			continue
		}
		key := fmt.Sprint(d.Kind == command.KindMetrics, d.Day)
		if i, ok := at[key]; ok {
			out[i].kinds = append(out[i].kinds, d.Kind)
			continue
		}
		at[key] = len(out)
		out = append(out, storeDay{[]command.Kind{d.Kind}, d.Day})
	}
	slices.SortStableFunc(out, func(a, b storeDay) int { return int(b.day - a.day) })
	return out
}

// tell notes what came of a day, and reports it when it differs.
func (s *Scrubber) tell(d *Day) {
	s.noteDay(d)
	if d.Verdict != Differs {
		return // what could not be read the store has reported
	}
	s.report(Damage{Part: partOf(d.Kind), Kind: d.Kind, From: d.Day * dayMs, To: (d.Day + 1) * dayMs, Place: d.Place(), Err: differs(d), Dir: d.dir})
}

func partOf(kind string) string {
	if kind == command.KindMetrics.String() {
		return raftstate.PartMetrics
	}
	return raftstate.PartLogs
}

func (s *Scrubber) report(d Damage) {
	if s.cfg.OnDamage == nil {
		s.Found(d)
		return
	}
	s.cfg.OnDamage(d)
}

func (s *Scrubber) scrubState(_ context.Context, pace Pace) error {
	path, err := s.cfg.Node.ScrubState(pace)
	if errors.Is(err, meta.ErrDamaged) {
		s.report(Damage{Part: raftstate.PartState, Place: path, Err: err})
		return nil
	}
	return err
}

func (s *Scrubber) scrubLog(ctx context.Context, pace Pace) error {
	err := s.cfg.Node.ScrubLog(ctx, 0, pace)
	if errors.Is(err, logfile.ErrCorrupt) {
		s.report(Damage{Part: raftstate.PartLog, Place: "raft", Err: err})
		return nil
	}
	return err
}

// The stores report what their files have themselves, as they do what queries meet.

func (s *Scrubber) scrubMetrics(ctx context.Context, pace Pace) error {
	_, err := s.cfg.Metrics.Scrub(ctx, pace)
	return err
}

func (s *Scrubber) scrubLogs(ctx context.Context, pace Pace) error {
	_, err := s.cfg.Logs.Scrub(ctx, pace)
	return err
}

// Request says what Check reads.
type Request struct {
	Files    bool           // the files of all parts, too, whatever the kinds
	Kinds    []command.Kind // nil: all
	From, To int64          // milliseconds since 1970; 0: no bound
}

// Progress is how far a Check is.
type Progress struct {
	Doing     string // what is read: state, log, files/metrics, files/logs or days
	Done, All int    // days
	Bytes     int64  // read
}

// Check compares the days of the request now, and returns what is known to be damaged beside. progress, which may be nil, is
// told at each step and about every MiB. It waits for no pass, and for another Check a part or a day long at most.
func (s *Scrubber) Check(ctx context.Context, r Request, progress func(Progress)) (out []Day, found []Finding, err error) {
	_, sums, err := s.cfg.Node.Settled(ctx)
	if err != nil {
		return nil, nil, err
	}
	c := check{s: s, at: Progress{All: len(days(sums, r.Kinds, r.From, r.To))}, progress: progress}
	c.rate = s.pacer(ctx, s.cfg.CheckRate)
	if r.Files {
		for _, st := range s.parts() {
			err := c.step(ctx, s.files, st.name, func() error { return st.do(ctx, c.pace) })
			found = s.open(found) // before it is repaired
			if err != nil {
				return nil, found, fmt.Errorf("%s: %w", st.name, err)
			}
		}
	}
	if _, sums, err = s.cfg.Node.Settled(ctx); err != nil {
		return nil, found, err
	}
	list := days(sums, r.Kinds, r.From, r.To)
	for i, d := range list {
		c.at.Done, c.at.All = i, len(list)
		var got []Day
		err := c.step(ctx, s.day, stepDays, func() (err error) {
			got, err = s.deep.compare(ctx, d.kinds, d.day, c.pace)
			return err
		})
		if err != nil {
			return out, found, err
		}
		for i := range got {
			s.tell(&got[i])
		}
		out = append(out, got...)
	}
	c.at.Done, c.at.All = len(list), len(list)
	c.tell()
	slices.SortFunc(out, func(a, b Day) int {
		if c := strings.Compare(a.Kind, b.Kind); c != 0 {
			return c
		}
		return int(a.Day - b.Day)
	})
	found = slices.DeleteFunc(s.open(found), func(f Finding) bool { // the day says it itself
		return slices.ContainsFunc(out, func(d Day) bool { return d.Verdict != Equal && d.Place() == f.Place })
	})
	return out, found, nil
}

// check is a Check under way.
type check struct {
	s        *Scrubber
	rate     Pace
	at       Progress
	told     int64 // bytes
	progress func(Progress)
}

func (c *check) tell() {
	if c.told = c.at.Bytes; c.progress != nil {
		c.progress(c.at)
	}
}

// pace keeps to the rate and tells how far it is.
func (c *check) pace(n int) error {
	if c.at.Bytes += int64(n); c.at.Bytes-c.told >= 1<<20 {
		c.tell()
	}
	return c.rate(n)
}

func (c *check) step(ctx context.Context, t turn, name string, do func() error) error {
	if err := t.take(ctx); err != nil {
		return err
	}
	defer t.leave()
	c.at.Doing = name
	c.tell()
	return do()
}

// open adds what was found and is not repaired to a list.
func (s *Scrubber) open(list []Finding) []Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.state.Found {
		if !slices.ContainsFunc(list, func(o Finding) bool { return o.Part == f.Part && o.Place == f.Place }) {
			list = append(list, f)
		}
	}
	return list
}
