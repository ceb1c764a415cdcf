package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/logstore"
)

// site is a cluster of some nodes that have the same lines and share a folder.
type site struct {
	*corpus
	meta   *authtest.Meta
	ring   *keyring.Ring
	leader string
	floor  int64
	dir    string
}

const hourMs = 3600 * 1000

func newSite(t *testing.T, seed uint64) *site {
	t.Helper()
	ring, _, err := keyring.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{corpus: newCorpus(t, seed), meta: &authtest.Meta{}, ring: ring, leader: "n1", dir: filepath.Join(t.TempDir(), "backups")}
	s.meta.Advance((testDay + 1) * DayMs)
	return s
}

func (s *site) service(node, incarnation string) *Service {
	return New(Config{
		Meta: s.meta, Node: node, Cluster: "c", Incarnation: incarnation, Program: "v0", Leading: func() bool { return s.leader == node },
		Store:   s.store,
		Settled: func(context.Context) (uint64, map[int64]Totals, error) { return s.index, maps.Clone(s.sums), nil },
		Totals:  func() map[int64]Totals { return maps.Clone(s.sums) },
		Floor:   func(wire.StreamKind) int64 { return s.floor },
		Places:  schedule.Places{Folder: s.dir, Sealer: func() (schedule.Sealer, error) { return s.ring, nil }},
		Rate:    1 << 30,
	})
}

func (s *site) look(svc *Service) {
	s.t.Helper()
	if err := svc.look(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) record(day int64) DayRecord {
	r, _, _ := get[DayRecord](s.meta, prefixDay+DateOf(day))
	return r
}

var ann = schedule.Actor{Name: "ann", Address: "10.0.0.1"}

func (s *site) set(svc *Service, p Policy) {
	s.t.Helper()
	p.Enabled, p.Target.Kind = true, schedule.KindFolder
	if err := svc.Put(s.t.Context(), p, ann); err != nil {
		s.t.Fatal(err)
	}
}

// TestDaysAreArchivedByTheLeader: when they are over, once, and with what comes late.
func TestDaysAreArchivedByTheLeader(t *testing.T) {
	s := newSite(t, 30)
	s.apply(20, testDay, testDay+1)
	n1, n2 := s.service("n1", "1"), s.service("n2", "1")
	to := &target.Folder{Dir: s.dir}
	s.look(n1)
	s.set(n1, Policy{})
	s.meta.Advance(23 * hourMs)
	s.look(n1)
	if r := s.record(testDay); r.Through != 0 {
		t.Fatalf("archived before its time: %+v", r)
	}
	s.meta.Advance(2 * hourMs)
	s.look(n2)
	if r := s.record(testDay); r.Through != 0 {
		t.Fatalf("archived by another node than the leader: %+v", r)
	}
	s.look(n1)
	r := s.record(testDay)
	if r.Through != s.index || r.Totals != s.sums[testDay] || r.Seen != r.Totals || r.Node != "n1" || r.Plan != nil || r.Stored == 0 || r.Agents == 0 {
		t.Fatalf("%+v", r)
	}
	equal(t, "archived", readDay(t, to, testDay, n1.tag), s.lines(testDay))
	if r := s.record(testDay + 1); r.Through != 0 {
		t.Fatal("a day that is not over is archived")
	}
	s.look(n1)
	if runs := list[Run](s.meta, prefixRun); len(runs) != 1 || !runs[0].OK || runs[0].Lines != r.Totals.Lines() {
		t.Fatalf("%+v", runs)
	}
	s.apply(3, testDay) // late
	s.leader = "n2"
	s.look(n2)
	if s.record(testDay).Through != r.Through {
		t.Fatal("late lines do not wait")
	}
	s.meta.Advance(7 * hourMs)
	s.look(n2)
	if r := s.record(testDay); r.Totals != s.sums[testDay] || r.Node != "n2" {
		t.Fatalf("%+v", r)
	}
	equal(t, "late", readDay(t, to, testDay, n1.tag), s.lines(testDay))
	o := n2.Overview(10)
	if len(o.Days) != 1 || o.Policy == nil || o.Policy.By != "ann" || len(o.Waiting) != 1 || o.Running != nil {
		t.Fatalf("%+v", o)
	}
	if audited := s.meta.Audited(); len(audited) != 1 || audited[0].Action != "logs.archive.set" {
		t.Fatalf("%+v", audited)
	}
}

// newFailingSite is a site whose testDay waits to be archived by either node, where no archive can be until s.dir, a file, is removed.
func newFailingSite(t *testing.T, seed uint64) (s *site, n1, n2 *Service) {
	t.Helper()
	s = newSite(t, seed)
	s.apply(10, testDay)
	n1, n2 = s.service("n1", "1"), s.service("n2", "1")
	s.set(n1, Policy{After: 1})
	s.meta.Advance(2 * hourMs)
	if err := os.WriteFile(s.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return s, n1, n2
}

// TestFailureIsToldThoughTheFirstAttemptLeftNoRun: the node that made it went down, or lost its place before it wrote down
// what became of it.
func TestFailureIsToldThoughTheFirstAttemptLeftNoRun(t *testing.T) {
	s, n1, n2 := newFailingSite(t, 32)
	p, _, _ := n1.policy()
	if _, err := n1.claim(t.Context(), &p, testDay, schedule.Actor{}); err != nil {
		t.Fatal(err)
	}
	s.leader = "n2"
	for s.record(testDay).Attempts < 15 {
		s.meta.Advance(24 * hourMs)
		s.look(n2)
	}
	var told []int
	for _, run := range list[Run](s.meta, prefixRun) {
		if run.Tell {
			told = append(told, run.Attempt)
		}
	}
	if !slices.Equal(told, []int{2, 14}) {
		t.Fatalf("told of attempts %v", told)
	}
	if err := os.Remove(s.dir); err != nil {
		t.Fatal(err)
	}
	s.meta.Advance(24 * hourMs)
	s.look(n2)
	if r := s.record(testDay); r.Error != "" || r.Told != 0 {
		t.Fatalf("%+v", r)
	}
}

// TestAttemptsThatFailAreRepeated: with pauses, by whoever leads, of the same entries; what was wrong is told.
func TestAttemptsThatFailAreRepeated(t *testing.T) {
	s, n1, n2 := newFailingSite(t, 31)
	s.look(n1)
	r := s.record(testDay)
	if r.Error == "" || r.Attempts != 1 || r.Plan == nil || r.Retry == 0 {
		t.Fatalf("%+v", r)
	}
	s.look(n1)
	if got := s.record(testDay); got.Attempts != 1 {
		t.Fatal("it is repeated without a pause")
	}
	through, want := s.index, s.lines(testDay)
	s.apply(2, testDay)
	s.meta.Advance(61_000)
	s.look(n1)
	if got := s.record(testDay); got.Attempts != 2 || got.Plan.Through != through {
		t.Fatalf("%+v", got)
	}
	if err := os.Remove(s.dir); err != nil {
		t.Fatal(err)
	}
	s.meta.Advance(6 * 60_000)
	s.leader = "n2"
	s.look(n2)
	if got := s.record(testDay); got.Error != "" || got.Attempts != 0 || got.Through != through || got.Retry != 0 {
		t.Fatalf("%+v", got)
	}
	equal(t, "of the first attempt's entries", readDay(t, &target.Folder{Dir: s.dir}, testDay, n1.tag), want)
	if runs := list[Run](s.meta, prefixRun); len(runs) != 3 || runs[0].OK || runs[1].OK || !runs[2].OK {
		t.Fatalf("%+v", runs)
	}
	if len(n2.Overview(10).Waiting) != 1 {
		t.Fatal("what came meanwhile does not wait")
	}
}

// TestLostClaimEndsTheWork: a node whose claim is gone stores nothing more, and does not touch what its successor noted.
func TestLostClaimEndsTheWork(t *testing.T) {
	s := newSite(t, 32)
	s.apply(5, testDay)
	n1 := s.service("n1", "1")
	s.set(n1, Policy{After: 1})
	p, _, _ := n1.policy()
	h, err := n1.claim(t.Context(), &p, testDay, schedule.Actor{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.service("n2", "1").claim(t.Context(), &p, testDay, schedule.Actor{}); !errors.Is(err, ErrRunning) {
		t.Fatal(err)
	}
	s.meta.Advance(61_000) // no renewal
	if err := h.held.Renew(t.Context()); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	n2 := s.service("n2", "1")
	if err := n2.day(t.Context(), &p, testDay, schedule.Actor{}); err != nil {
		t.Fatal(err)
	}
	done := s.record(testDay)
	n1.record(h, Run{ID: h.claim.ID, Date: h.claim.Date, Started: h.claim.Started}, errLost)
	if got := s.record(testDay); got.Through == 0 || got.Error != "" || got.At != done.At {
		t.Fatalf("%+v", got)
	}
}

// TestRestoredClusterLeavesTheArchiveAlone: its files have other names, and it archives nothing before somebody looked.
func TestRestoredClusterLeavesTheArchiveAlone(t *testing.T) {
	s := newSite(t, 33)
	s.apply(8, testDay)
	old := s.service("n1", "1")
	s.set(old, Policy{After: 1})
	s.meta.Advance(2 * hourMs)
	s.look(old)
	to := &target.Folder{Dir: s.dir}
	want := readDay(t, to, testDay, old.tag)
	Pause(s.meta.Keys(Bucket), func(key string) []byte { v, _ := s.meta.Get(Bucket, key); return v.Data }, func(key string, value []byte) {
		if key != keyPolicy || value == nil {
			t.Fatalf("%s becomes %q", key, value)
		}
		var p Policy
		if err := json.Unmarshal(value, &p); err != nil || p.Paused == "" || p.active() {
			t.Fatalf("%+v %v", p, err)
		}
	})
	stale := s.record(testDay)
	stale.Plan = &Plan{Through: s.index + 1000} // of an attempt that was cut off; these entries are others now
	if _, err := s.meta.Commit(t.Context(), auth.Txn{Ops: []auth.Op{{Bucket: Bucket, Key: prefixDay + DateOf(testDay), Value: encode(stale)}}}); err != nil {
		t.Fatal(err)
	}
	restored := s.service("n1", "2")
	s.apply(2, testDay)
	s.meta.Advance(hourMs)
	s.look(restored)
	if r := s.record(testDay); r.Tag != restored.tag || r.Through != s.index || r.Totals != s.sums[testDay] {
		t.Fatalf("%+v", r)
	}
	equal(t, "of the old cluster", readDay(t, to, testDay, old.tag), want)
	equal(t, "of the new one", readDay(t, to, testDay, restored.tag), s.lines(testDay))
	if _, err := find(t.Context(), to, DateOf(testDay), "", "none of them"); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
}

// TestRetentionWaitsWithinBounds: for days that are not archived, as long as the policy says, and what goes nevertheless is told.
func TestRetentionWaitsWithinBounds(t *testing.T) {
	s := newSite(t, 34)
	for d := range int64(5) {
		s.apply(2, testDay+d)
	}
	s.meta.Advance(10 * DayMs)
	n1 := s.service("n1", "1")
	floor := (testDay + 4) * DayMs
	if got := n1.HoldFloor(floor); got != floor {
		t.Fatal("it waits for nothing")
	}
	s.set(n1, Policy{After: 1})
	if got := n1.HoldFloor(floor); got != floor {
		t.Fatal("it waits unasked")
	}
	s.set(n1, Policy{After: 1, Hold: true, HoldDays: 3})
	if got := n1.HoldFloor(floor); got != (testDay+1)*DayMs { // the day before is overdue
		t.Fatal(got/DayMs - testDay)
	}
	p, _, _ := n1.policy()
	for d := range int64(2) {
		if err := n1.day(t.Context(), &p, testDay+d, schedule.Actor{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := n1.HoldFloor(floor); got != (testDay+2)*DayMs {
		t.Fatal(got/DayMs - testDay)
	}
	for range 2 {
		if err := n1.Losing(t.Context(), 0, (testDay+3)*DayMs, "size"); err != nil {
			t.Fatal(err)
		}
	}
	if lost := list[Lost](s.meta, prefixLost); len(lost) != 1 || lost[0].Date != DateOf(testDay+2) || lost[0].Why != "size" {
		t.Fatalf("%+v", lost)
	}
	s.floor = (testDay+3)*DayMs + 1 // nobody can say what a part of a day should be
	for range 3 {
		s.meta.Advance(7 * hourMs)
		s.look(n1)
	}
	if r := s.record(testDay + 3); r.Through != 0 {
		t.Fatalf("%+v", r)
	}
	if r := s.record(testDay + 4); r.Through == 0 {
		t.Fatalf("%+v", r)
	}
}

// TestPoliciesAreChecked: what cannot work is refused with the place of the mistake, and secrets are sealed.
func TestPoliciesAreChecked(t *testing.T) {
	s := newSite(t, 35)
	n1 := s.service("n1", "1")
	s3 := schedule.Where{Kind: schedule.KindS3, URL: "s3://logs/x", Endpoint: "https://127.0.0.1:1", AccessKey: "a", SecretKey: "hidden words"}
	plain := s3
	plain.Endpoint = "http://127.0.0.1:1"
	for name, p := range map[string]Policy{
		"after_h":   {Target: schedule.Where{Kind: schedule.KindFolder}, After: -1},
		"hold_days": {Target: schedule.Where{Kind: schedule.KindFolder}, Hold: true},
		"without":   {Target: schedule.Where{Kind: schedule.KindFolder}, HoldDays: 1},
		"https":     {Target: plain},
		"kind":      {Target: schedule.Where{Kind: "tape"}},
		"node":      {Target: schedule.Where{Kind: schedule.KindFolder}, Node: strings.Repeat("n", 65)},
	} {
		if err := n1.Put(t.Context(), p, ann); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := n1.Put(t.Context(), Policy{Enabled: true, Target: s3}, ann); err != nil {
		t.Fatal(err)
	}
	held, _ := s.meta.Get(Bucket, keyPolicy)
	if strings.Contains(string(held.Data), "hidden words") || strings.Contains(string(encode(n1.Overview(1))), "hidden") {
		t.Fatal("the secret is there in clear")
	}
	sealed, _, _ := n1.policy()
	s3.SecretKey = ""
	if err := n1.Put(t.Context(), Policy{Target: s3}, ann); err != nil {
		t.Fatal(err)
	}
	if again, _, _ := n1.policy(); again.Target.SecretKey != sealed.Target.SecretKey {
		t.Fatal("the secret that was left out is lost")
	}
	if n, err := n1.Reseal(t.Context(), func(string) bool { return false }, ann); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if again, _, _ := n1.policy(); again.Target.SecretKey == sealed.Target.SecretKey {
		t.Fatal("it is not sealed anew")
	}
	if _, err := n1.Start(t.Context(), "2000-01-01", ann); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
}

// TestTreeOfStoreAndArchive: both show the same files with the same lines, whatever they are called.
func TestTreeOfStoreAndArchive(t *testing.T) {
	s := newSite(t, 36)
	s.apply(25, testDay)
	n1 := s.service("n1", "1")
	s.set(n1, Policy{After: 1})
	p, _, _ := n1.policy()
	if err := n1.day(t.Context(), &p, testDay, ann); err != nil {
		t.Fatal(err)
	}
	var files []string
	var walk func(path string)
	walk = func(path string) {
		a, err := n1.Tree(t.Context(), path, OfStore)
		b, aerr := n1.Tree(t.Context(), path, OfArchive)
		if err != nil || aerr != nil || len(a.Entries) == 0 {
			t.Fatal(path, err, aerr)
		}
		var left, right []string
		for _, e := range a.Entries {
			left = append(left, e.Name+" "+e.Path)
		}
		lines := int64(0)
		for _, e := range b.Entries {
			right = append(right, e.Name+" "+e.Path)
			lines += e.Lines
		}
		if !slices.Equal(left, right) {
			// A stream may have come without lines of the day.
			t.Fatalf("%s:\n%q\n%q", path, left, right)
		}
		if path == "/logs" && lines != s.sums[testDay].Lines() {
			t.Fatalf("%d lines of %d", lines, s.sums[testDay].Lines())
		}
		for _, e := range a.Entries {
			if strings.Count(e.Path, "/") == 5 {
				files = append(files, e.Path)
			} else {
				walk(e.Path)
			}
		}
	}
	walk("/logs")
	total := 0
	for _, f := range files {
		var a, b, text strings.Builder
		cat := func(of string, asJSON bool, out *strings.Builder) {
			if err := n1.Cat(t.Context(), f, of, asJSON, func() io.Writer { return out }); err != nil {
				t.Fatal(f, err)
			}
		}
		cat(OfStore, true, &a)
		cat(OfArchive, true, &b)
		cat(OfArchive, false, &text)
		if a.String() != b.String() || text.Len() == 0 {
			t.Fatalf("%s: %d and %d bytes", f, a.Len(), b.Len())
		}
		total += strings.Count(a.String(), "\n")
	}
	if int64(total) != s.sums[testDay].Lines() {
		t.Fatalf("%d lines of %d in %d files", total, s.sums[testDay].Lines(), len(files))
	}
	for path, want := range map[string]error{
		"/logs/nobody": ErrNotFound, "/logs/a/b": ErrInvalid, "/logs/a/2020-01-01/x/y/z": ErrInvalid, "/logs//x": ErrInvalid, files[0]: ErrInvalid,
		"/logs/" + strings.Repeat("x", 500): ErrInvalid,
	} {
		for _, of := range []string{OfStore, OfArchive} {
			if _, err := n1.Tree(t.Context(), path, of); !errors.Is(err, want) {
				t.Errorf("%s of %s: %v", path, of, err)
			}
		}
	}
	if err := n1.Cat(t.Context(), "/logs/a/2020-01-01/x/y", OfStore, false, nil); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
}

// TestReadingOutIsAdmitted: files of the store take places of exports, lists those of people, and no more run than of these.
func TestReadingOutIsAdmitted(t *testing.T) {
	s := newSite(t, 37)
	s.apply(10, testDay)
	n1 := s.service("n1", "1")
	l, err := n1.Tree(t.Context(), "/logs", OfStore)
	for err == nil && strings.Count(l.Entries[0].Path, "/") < 5 {
		l, err = n1.Tree(t.Context(), l.Entries[0].Path, OfStore)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := l.Entries[0].Path
	running, listed := 0, s.store.QueryLoad(logstore.LanePeople).Admitted
	if err := n1.Cat(t.Context(), file, OfStore, false, func() io.Writer {
		running = s.store.QueryLoad(logstore.LaneExport).Running
		return io.Discard
	}); err != nil || running != 1 || listed == 0 {
		t.Fatalf("%v: %d exports run, %d lists were admitted", err, running, listed)
	}
	for _, in := range []logstore.Lane{logstore.LaneExport, logstore.LanePeople} {
		var taken []func()
		for key := 0; s.store.QueryLoad(in).Running == len(taken); key++ { // until one waits
			who := logstore.AskedBy(logstore.InLane(t.Context(), in), logstore.Asker{Key: fmt.Sprint(key)})
			late, cancel := context.WithTimeout(who, time.Millisecond)
			_, done, err := s.store.Admit(late, 1)
			cancel()
			if err != nil {
				break
			}
			taken = append(taken, done)
		}
		ended, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if in == logstore.LaneExport {
			err = n1.Cat(ended, file, OfStore, false, func() io.Writer { return io.Discard })
		} else {
			_, err = n1.Tree(ended, "/logs", OfStore)
		}
		if !errors.Is(err, logstore.ErrBusy) {
			t.Errorf("lane %d with %d places taken: %v", in, len(taken), err)
		}
		for _, done := range taken {
			done()
		}
	}
}

// TestStartArchivesWhatWaits: an operator gets all days that are over, also before their time.
func TestStartArchivesWhatWaits(t *testing.T) {
	s := newSite(t, 37)
	s.apply(6, testDay, testDay-1)
	n1 := s.service("n1", "1")
	if _, err := n1.Start(t.Context(), "", ann); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	s.set(n1, Policy{})
	c, err := n1.Start(t.Context(), "", ann)
	if err != nil || c.Date != DateOf(testDay-1) {
		t.Fatal(c, err)
	}
	n1.work.Wait()
	if err := n1.Close(); err != nil {
		t.Fatal(err)
	}
	for d := testDay - 1; d <= testDay; d++ {
		if r := s.record(d); r.Totals != s.sums[d] || r.Error != "" {
			t.Fatalf("%+v", r)
		}
	}
	if _, err := n1.Start(t.Context(), "", ann); err == nil {
		t.Fatal("it works although it is closed")
	}
	if got := s.service("n1", "1").Overview(5).Waiting; len(got) != 0 {
		t.Fatal(got)
	}
}
