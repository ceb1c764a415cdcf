package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/repository"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

func TestNext(t *testing.T) {
	at := func(text string) int64 {
		tm, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return tm.UnixMilli()
	}
	for name, c := range map[string]struct {
		s           Schedule
		after, want string
	}{
		"later today":          {Schedule{At: "02:30", Every: 24}, "2026-11-26T02:29:59Z", "2026-11-26T02:30:00Z"},
		"at the moment itself": {Schedule{At: "02:30", Every: 24}, "2026-11-26T02:30:00Z", "2026-11-27T02:30:00Z"},
		"every six hours":      {Schedule{At: "02:30", Every: 6}, "2026-11-26T21:00:00Z", "2026-11-27T02:30:00Z"},
		"from late at night":   {Schedule{At: "22:00", Every: 6}, "2026-11-26T03:00:00Z", "2026-11-26T04:00:00Z"},
		"on Sundays":           {Schedule{At: "02:30", Every: 24, Weekdays: []string{"sun"}}, "2026-11-26T12:00:00Z", "2026-11-29T02:30:00Z"},
		"in Shanghai":          {Schedule{At: "02:30", Every: 24, Zone: "Asia/Shanghai"}, "2026-11-26T12:00:00Z", "2026-11-26T18:30:00Z"},
		"a day of 23 hours":    {Schedule{At: "03:00", Every: 24, Zone: "Europe/Berlin"}, "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"},
		"a day of 25 hours":    {Schedule{At: "02:30", Every: 24, Zone: "Europe/Berlin"}, "2026-10-25T00:00:00Z", "2026-10-25T01:30:00Z"},
		"and no second time":   {Schedule{At: "02:30", Every: 24, Zone: "Europe/Berlin"}, "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"},
	} {
		c.s.Enabled = true
		if got := c.s.Next(at(c.after)); got != at(c.want) {
			t.Errorf("%s: after %s comes %s, want %s", name, c.after, time.UnixMilli(got).UTC().Format(time.RFC3339), c.want)
		}
	}
	off := Schedule{At: "02:30", Every: 24}
	paused := Schedule{At: "02:30", Every: 24, Enabled: true, Paused: "x"}
	if off.Next(1) != 0 || paused.Next(1) != 0 {
		t.Error("a schedule that is off has a next time")
	}
}

// site is a cluster's metadata, whose log time goes with the clock of the bubble, and its runners.
type site struct {
	t       *testing.T
	meta    *authtest.Meta
	ring    *keyring.Ring
	leader  atomic.Value // string
	made    atomic.Int64
	fail    atomic.Pointer[error]
	log     *entryLog
	hold    atomic.Pointer[chan struct{}] // when set, writing waits until it is closed or its context ends
	runners map[string]*Runner
	dirs    map[string]string
}

var start = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)

func newSite(t *testing.T, nodes ...string) *site {
	t.Helper()
	return newSiteWith(t, nil, nodes...)
}

// newSiteWith is newSite whose nodes archive a log.
func newSiteWith(t *testing.T, log *entryLog, nodes ...string) *site {
	t.Helper()
	ring, _, err := keyring.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, log: log, meta: &authtest.Meta{}, ring: ring, runners: map[string]*Runner{}, dirs: map[string]string{}}
	s.meta.Advance(start.UnixMilli())
	s.leader.Store(nodes[0])
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() {
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				s.meta.Advance(5000)
			}
		}
	}()
	for _, n := range nodes {
		s.start(n)
	}
	return s
}

func (s *site) start(n string) {
	s.t.Helper()
	if s.dirs[n] == "" {
		s.dirs[n] = filepath.Join(s.t.TempDir(), n)
	}
	cfg := Config{
		Meta: s.meta, Node: n, Leading: func() bool { return s.leader.Load() == n }, Folder: s.dirs[n], Incarnation: "first",
		Prepare: func(context.Context, Protection) (Prepared, error) { return &state1{s}, nil },
		Sealer:  func() (Sealer, error) { return s.ring, nil }, LookEvery: 30 * time.Second,
	}
	if s.log != nil {
		cfg.Entries, cfg.Oldest = s.log.read, s.log.oldest
	}
	r := New(cfg)
	s.runners[n] = r
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	s.t.Cleanup(func() { cancel(); <-done; _ = r.Close() })
}

// state1 is a small state that can be written.
type state1 struct{ s *site }

func (p *state1) Name() string      { return fmt.Sprintf("triward-c1-%d%s", p.s.made.Load(), Suffix) }
func (p *state1) ImageBytes() int64 { return 1 << 20 }
func (p *state1) Close() error      { return nil }

func (p *state1) Write(ctx context.Context, w io.Writer, progress func(done, total int64)) (*backup.Manifest, int64, error) {
	n := p.s.made.Add(1)
	progress(100, 1<<20)
	if hold := p.s.hold.Load(); hold != nil {
		select {
		case <-*hold:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	if err := p.s.fail.Load(); err != nil {
		return nil, 0, *err
	}
	c, err := container.NewWriter(w, container.Header{Cluster: "c1", Index: uint64(n), Digest: "d"})
	if err != nil {
		return nil, 0, err
	}
	if _, err := io.WriteString(c, "content"); err != nil {
		return nil, 0, err
	}
	return &backup.Manifest{Index: uint64(n), Digest: "d"}, c.Written(), c.Close()
}

func (p *state1) SaveName(run string) string {
	n := uint64(p.s.made.Load() + 1)
	return repository.SaveName(n, int64(n)*1000, run)
}

// Save stores a file that differs a little from one time to the next.
func (p *state1) Save(ctx context.Context, in *repository.Repository, run string, cache *repository.Cache, progress func(done, total int64)) (*backup.Manifest, string, repository.Stats, error) {
	n := uint64(p.s.made.Add(1))
	if hold := p.s.hold.Load(); hold != nil {
		select {
		case <-*hold:
		case <-ctx.Done():
			return nil, "", repository.Stats{}, ctx.Err()
		}
	}
	if err := p.s.fail.Load(); err != nil {
		return nil, "", repository.Stats{}, *err
	}
	dir := p.s.t.TempDir()
	var parts []snapshot.Part
	for _, kind := range []string{snapshot.KindMetrics, snapshot.KindLogs, snapshot.KindMeta} {
		part := snapshot.Part{Name: kind, Dir: filepath.Join(dir, kind)}
		parts = append(parts, part)
		body := []byte(strings.Repeat(kind, 10_000))
		if kind == snapshot.KindMeta {
			body = fmt.Append(body, n)
		}
		if err := errors.Join(os.MkdirAll(part.Dir, 0o700), os.WriteFile(filepath.Join(part.Dir, "file"), body, 0o600)); err != nil {
			return nil, "", repository.Stats{}, err
		}
	}
	img, err := snapshot.NewImage(snapshot.Header{Index: n, Term: 1, Node: "n1"}, parts)
	if err != nil {
		return nil, "", repository.Stats{}, err
	}
	about := backup.About{Cluster: "c1", Node: "n1", Created: time.Now().UnixMilli(), State: meta.Summary{Mark: meta.Mark{Index: n, Term: 1}, LogTime: int64(n) * 1000}}
	return in.Save(ctx, imageState{img}, repository.Request{About: about, Run: run, Process: "p", Cache: cache, Progress: progress})
}

type imageState struct{ *snapshot.Image }

func (i imageState) Header() snapshot.Header { return i.Image.Header }

// block makes writing wait until release is called.
func (s *site) block() (release func()) {
	hold := make(chan struct{})
	s.hold.Store(&hold)
	return func() { close(hold) }
}

func (s *site) put(sc Schedule) {
	s.t.Helper()
	if err := s.any().Put(s.t.Context(), sc, Actor{Name: "ada"}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) any() *Runner {
	for _, r := range s.runners {
		return r
	}
	return nil
}

func nightly() Schedule {
	return Schedule{
		Name: "nightly", Enabled: true, At: "02:00", Every: 24,
		Job: Job{Target: Where{Kind: KindFolder}, Protection: Protection{Plain: true}},
	}
}

func (s *site) files(node string) []string {
	entries, err := os.ReadDir(s.dirs[node])
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Error(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (s *site) runs() []Run { return s.any().Overview(100).Runs }

func TestScheduleIsKeptByTheLeaderAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1", "n2", "n3")
		sc := nightly()
		sc.KeepLast = 3
		s.put(sc)
		if st := s.any().Overview(0).Schedules[0]; st.Next != start.Add(2*time.Hour).UnixMilli() {
			t.Errorf("next is %s", time.UnixMilli(st.Next))
		}
		time.Sleep(2*time.Hour + time.Minute)
		if len(s.files("n1")) != 1 || len(s.files("n2")) != 0 {
			t.Fatalf("n1 has %v, n2 %v", s.files("n1"), s.files("n2"))
		}
		s.leader.Store("n2")
		time.Sleep(4 * 24 * time.Hour)
		// Five were made; the newest three are kept, wherever they lie, and the first was removed by the node that has it.
		if len(s.files("n1")) != 0 || len(s.files("n2")) != 3 {
			t.Errorf("n1 has %v, n2 %v", s.files("n1"), s.files("n2"))
		}
		runs := s.runs()
		if len(runs) != 5 || !runs[0].OK || !runs[0].ReadBack || runs[0].Removed || !runs[4].Removed || runs[4].Node != "n1" {
			t.Errorf("runs: %+v", runs)
		}
		if last := s.any().Overview(0).Schedules[0].LastGood; last == nil || last.ID != runs[0].ID {
			t.Errorf("last good: %+v", last)
		}
	})
}

func TestAMissedSlotIsMadeUpForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		s.put(nightly())
		s.leader.Store("nobody")
		time.Sleep(3 * 24 * time.Hour)
		s.leader.Store("n1")
		time.Sleep(time.Minute)
		if got := s.files("n1"); len(got) != 1 {
			t.Errorf("made up by %v", got)
		}
	})
}

func TestAFailedRunIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		s.put(nightly())
		broken := errors.New("the disk is full")
		s.fail.Store(&broken)
		time.Sleep(2*time.Hour + 4*time.Minute)
		if n := s.made.Load(); n != 2 {
			t.Errorf("%d attempts three minutes later", n)
		}
		time.Sleep(20 * time.Hour)
		runs := s.runs()
		if len(runs) != 4 || runs[0].OK || runs[0].Error != broken.Error() {
			t.Fatalf("runs: %+v", runs)
		}
		s.fail.Store(nil)
		time.Sleep(4 * time.Hour)
		if runs = s.runs(); len(runs) != 5 || !runs[0].OK {
			t.Errorf("the next night: %+v", runs[0])
		}
		if len(s.files("n1")) != 1 {
			t.Errorf("left: %v", s.files("n1"))
		}
	})
}

func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1", "n2")
		release := s.block()
		var began, refused atomic.Int64
		for _, r := range s.runners {
			for range 10 {
				go func() {
					_, err := r.Start(t.Context(), nightly().Job, Actor{Name: "ada"})
					switch {
					case err == nil:
						began.Add(1)
					case errors.Is(err, ErrRunning):
						refused.Add(1)
					default:
						t.Error(err)
					}
				}()
			}
		}
		time.Sleep(10 * time.Minute)
		if began.Load() != 1 || refused.Load() != 19 {
			t.Errorf("%d began, %d were refused", began.Load(), refused.Load())
		}
		c := s.any().Overview(0).Running
		if c == nil || c.Phase != "writing" || c.Done != 100 {
			t.Errorf("running: %+v", c)
		}
		release()
		time.Sleep(10 * time.Second)
		if runs := s.runs(); len(runs) != 1 || !runs[0].OK || s.any().Overview(0).Running != nil {
			t.Errorf("runs: %+v", runs)
		}
		if n := len(s.meta.Audited()); n != 1 {
			t.Errorf("%d audit records", n)
		}
	})
}

func TestAClaimThatIsLostEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		s.block()
		if _, err := s.any().Start(t.Context(), nightly().Job, Actor{Name: "ada"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		s.meta.Fail(errors.New("no leader"))
		time.Sleep(70 * time.Second)
		s.meta.Fail(nil)
		time.Sleep(10 * time.Second)
		runs := s.runs()
		if len(runs) != 1 || runs[0].OK || !strings.Contains(runs[0].Error, "claim") || len(s.files("n1")) != 0 {
			t.Errorf("runs: %+v, files %v", runs, s.files("n1"))
		}
	})
}

func TestANodeThatGoesDownInTheMiddleIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1", "n2")
		s.put(nightly())
		release := s.block()
		time.Sleep(2*time.Hour + time.Minute)
		// It dies: nothing of it is written any more, and a file is left that nobody knows to be whole.
		first := s.any().Overview(0).Running
		if first == nil || first.Node != "n1" {
			t.Fatalf("running: %+v", first)
		}
		s.leader.Store("n2")
		s.meta.Fail(errors.New("down"))
		_ = s.runners["n1"].Close()
		time.Sleep(10 * time.Second) // until it has ended what it was at, and has given up writing that down
		s.meta.Fail(nil)
		release()
		time.Sleep(5 * time.Minute)
		runs := s.runs()
		if len(runs) < 1 || !runs[0].OK || runs[0].Node != "n2" {
			t.Errorf("runs: %+v", runs)
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1", "n2")
		s.block()
		s.put(nightly())
		time.Sleep(2*time.Hour + time.Minute)
		c := s.any().Overview(0).Running
		if c == nil {
			t.Fatal("nothing runs")
		}
		if err := s.runners["n2"].Cancel(t.Context(), "another", Actor{}); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if err := s.runners["n2"].Cancel(t.Context(), c.ID, Actor{Name: "ada"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		runs := s.runs()
		if len(runs) != 1 || runs[0].OK || runs[0].Error != errCancelled.Error() || s.any().Overview(0).Running != nil {
			t.Errorf("runs: %+v", runs)
		}
		time.Sleep(time.Hour)
		if len(s.runs()) != 1 {
			t.Error("what was cancelled is tried again")
		}
	})
}

func s3Where(secret string) Where {
	return Where{Kind: KindS3, URL: "s3://bucket/x", Endpoint: "https://s3.example", AccessKey: "key", SecretKey: secret}
}

func TestSecretsAreSealedAndNeverShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		const secret = "the secret key of the bucket"
		sc := nightly()
		sc.Enabled = false
		sc.Target = s3Where(secret)
		s.put(sc)
		held, _, _ := get[Schedule](s.meta, prefixSchedule+"nightly")
		if plain, err := s.ring.Open(purpose, held.Target.SecretKey); err != nil || string(plain) != secret {
			t.Errorf("opened: %q, %v", plain, err)
		}
		// Saved again without it, it stays; for another service it must be given again.
		sc.Target.SecretKey = ""
		s.put(sc)
		if again, _, _ := get[Schedule](s.meta, prefixSchedule+"nightly"); again.Target.SecretKey != held.Target.SecretKey {
			t.Error("the secret was lost")
		}
		elsewhere := sc
		elsewhere.Target.Endpoint = "https://elsewhere.example"
		if err := s.any().Put(t.Context(), elsewhere, Actor{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("the secret goes to another service: %v", err)
		}
		o := s.any().Overview(10)
		body, err := json.Marshal(o)
		if err != nil || strings.Contains(string(body), held.Target.SecretKey) || !o.Schedules[0].SecretSet {
			t.Errorf("shown: %s, %v", body, err)
		}
		if dump := s.meta.Dump(); strings.Contains(dump, secret) {
			t.Errorf("the secret stands in the metadata: %s", dump)
		}
		s.ring = nil
		r := New(Config{Meta: s.meta, Node: "n9", Sealer: func() (Sealer, error) { return nil, keyring.ErrNoRing }})
		sc.Name, sc.Target = "other", s3Where(secret)
		if err := r.Put(t.Context(), sc, Actor{}); !errors.Is(err, ErrUnsealed) {
			t.Errorf("without a ring: %v", err)
		}
	})
}

func TestOnlyOwnBackupsAreRemoved(t *testing.T) {
	const day = 24 * 3600 * 1000
	now := 100 * int64(day)
	m := &authtest.Meta{}
	m.Advance(now)
	r := New(Config{Meta: m, Node: "n1", Incarnation: "second", Leading: func() bool { return true }})
	folder, bucket := Where{Kind: KindFolder}, s3Where("x")
	run := func(id string, age int, change func(*Run)) Run {
		out := Run{ID: id, Schedule: "nightly", Node: "n1", Started: now - int64(age)*day, Ended: now - int64(age)*day, OK: true, Name: id, Target: folder, Incarnation: "second"}
		if change != nil {
			change(&out)
		}
		return out
	}
	all := []Run{
		run("foreign", 90, func(r *Run) { r.Incarnation = "first" }),
		run("by hand", 80, func(r *Run) { r.Schedule = "" }),
		run("old", 70, nil),
		run("old elsewhere", 60, func(r *Run) { r.Node = "n2" }),
		run("old in a bucket", 50, func(r *Run) { r.Target = bucket }),
		run("failed", 40, func(r *Run) { r.OK = false }),
		run("removed", 30, func(r *Run) { r.Removed = true }),
		run("young enough", 5, nil),
		run("second", 2, nil),
		run("newest", 1, nil),
	}
	rule := nightly()
	rule.KeepLast, rule.KeepDays = 2, 10
	spared := func(s map[string]Schedule) (ids []string) {
		for _, run := range r.spare(slices.Clone(all), s, "") {
			ids = append(ids, run.ID)
		}
		slices.Sort(ids)
		return ids
	}
	if got := spared(map[string]Schedule{"nightly": rule}); !slices.Equal(got, []string{"failed", "old", "old in a bucket"}) {
		t.Errorf("removes %q", got)
	}
	if got := spared(nil); !slices.Equal(got, []string{"failed"}) {
		t.Errorf("without the schedule it removes %q", got)
	}
	rule.KeepLast, rule.KeepDays = 0, 0
	if got := spared(map[string]Schedule{"nightly": rule}); !slices.Equal(got, []string{"failed"}) {
		t.Errorf("a schedule that keeps all removes %q", got)
	}
	all = []Run{run("only", 90, nil)}
	rule.KeepDays = 1
	if got := spared(map[string]Schedule{"nightly": rule}); len(got) != 0 {
		t.Errorf("the newest good one is removed: %q", got)
	}
}

func TestWhatCannotBeSaved(t *testing.T) {
	r := New(Config{Meta: &authtest.Meta{}, Node: "n1", Sealer: func() (Sealer, error) { return nil, keyring.ErrNoRing }})
	for name, change := range map[string]func(*Schedule){
		"name":           func(s *Schedule) { s.Name = "../x" },
		"time":           func(s *Schedule) { s.At = "25:00" },
		"hours":          func(s *Schedule) { s.Every = 5 },
		"day":            func(s *Schedule) { s.Weekdays = []string{"monday"} },
		"zone":           func(s *Schedule) { s.Zone = "Nowhere/At-All" },
		"keep":           func(s *Schedule) { s.KeepLast = -1 },
		"kind":           func(s *Schedule) { s.Target.Kind = "tape" },
		"folder and URL": func(s *Schedule) { s.Target.URL = "s3://x/y" },
		"not protected":  func(s *Schedule) { s.Plain = false },
		"plain and key":  func(s *Schedule) { s.Recovery = true },
		"no key":         func(s *Schedule) { s.Plain, s.Recipients = false, []string{"age1x"} },
		"plain by http":  func(s *Schedule) { s.Target = s3Where("x"); s.Target.Endpoint = "http://s3.example" },
		"S3 no secret":   func(s *Schedule) { s.Target = s3Where("") },
	} {
		s := nightly()
		change(&s)
		if err := r.Put(t.Context(), s, Actor{}); !errors.Is(err, ErrInvalid) && !errors.Is(err, backup.ErrRecipient) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range MaxSchedules + 1 {
		s := nightly()
		s.Name = fmt.Sprint("s", i)
		if err := r.Put(t.Context(), s, Actor{}); (err != nil) != (i == MaxSchedules) {
			t.Errorf("schedule %d: %v", i, err)
		}
	}
}

func TestRestoredClusterMakesNoBackups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		s.put(nightly())
		keys := s.meta.Keys(Bucket)
		var ops []auth.Op
		PauseAll(keys, func(key string) []byte { v, _ := s.meta.Get(Bucket, key); return v.Data }, func(key string, value []byte) {
			ops = append(ops, auth.Op{Bucket: Bucket, Key: key, Value: value, Delete: value == nil})
		})
		if _, err := s.meta.Commit(t.Context(), auth.Txn{Ops: ops}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48 * time.Hour)
		if len(s.runs()) != 0 || s.any().Overview(0).Schedules[0].Paused == "" {
			t.Errorf("runs: %+v", s.runs())
		}
		if _, err := s.any().StartSchedule(t.Context(), "nightly", Actor{}); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
		s.put(nightly()) // somebody looked at it
		time.Sleep(24 * time.Hour)
		if len(s.runs()) != 1 {
			t.Errorf("runs: %+v", s.runs())
		}
	})
}
