package schedule

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup/repository"
	"github.com/triward/triward/appliance/backup/target"
)

func incremental() Schedule {
	s := nightly()
	s.Form, s.KeepLast = FormRepository, 2
	return s
}

// TestADrillThatFailsIsRecorded has a schedule try a restore that cannot succeed, again and again.
func TestADrillThatFailsIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		sc := incremental()
		sc.Drill = 1
		s.put(sc)
		time.Sleep(3*24*time.Hour + 12*time.Hour) // there is nothing that restores here
		backups, drills := 0, 0
		for _, r := range s.runs() {
			switch {
			case r.Kind == KindDrill && !r.OK && r.Error != "":
				drills++
			case r.Kind == "" && r.OK:
				backups++
			default:
				t.Errorf("run %+v", r)
			}
		}
		if backups < 3 || drills == 0 {
			t.Errorf("%d backups, %d drills", backups, drills)
		}
	})
}

func (s *site) repository(node, folder string) *repository.Repository {
	s.t.Helper()
	r, err := repository.Look(context.Background(), &target.Folder{Dir: filepath.Join(s.dirs[node], folder)}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// TestRepositoryKeepsWhatTheScheduleKeeps makes a backup a day: what the rule keeps stays whole, the rest goes, also
// after a run that failed.
func TestRepositoryKeepsWhatTheScheduleKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		s.put(incremental())
		time.Sleep(4*24*time.Hour + 12*time.Hour)
		broken := context.DeadlineExceeded
		var err error = broken
		s.fail.Store(&err)
		time.Sleep(24 * time.Hour)
		s.fail.Store(nil)
		time.Sleep(48 * time.Hour)
		good := 0
		for _, r := range s.runs() {
			if !r.OK {
				continue
			}
			if r.Repository == "" || r.Stored == 0 || !r.ReadBack {
				t.Errorf("run %+v", r)
			}
			if !r.Removed {
				good++
			}
		}
		repo := s.repository("n1", s.runs()[0].Repository)
		saves, err := repo.Saves(t.Context())
		if err != nil || len(saves) != 2 || good != 2 {
			t.Errorf("%d good runs, saves %+v, %v", good, saves, err)
		}
		for _, save := range saves {
			if _, _, err := repo.CheckStored(t.Context(), save.Name, nil); err != nil {
				t.Error(err)
			}
		}
		if sw, err := repo.Sweep(t.Context(), time.Now().UnixMilli()); err != nil || sw.Packs+sw.Segments > 0 || sw.Busy {
			t.Errorf("something was left: %+v, %v", sw, err)
		}
	})
}

// log is a cluster's log that grows by an entry a second and keeps so many.
type entryLog struct {
	first, last atomic.Uint64
	others      atomic.Uint64 // where the log of another member begins; 0: there is none
	silent      atomic.Bool   // a third does not answer
	term        atomic.Uint64 // 1 when 0
}

func (l *entryLog) oldest(context.Context) (first uint64, silent []string, err error) {
	if first = l.first.Load(); l.others.Load() > 0 {
		first = min(first, l.others.Load())
	}
	if l.silent.Load() {
		silent = []string{"n3"}
	}
	return first, silent, nil
}

func (l *entryLog) read(_ context.Context, from uint64, most int64) (out []repository.Entry, first, committed uint64, err error) {
	first, committed = l.first.Load(), l.last.Load()
	begin := first
	if l.others.Load() > 0 {
		begin = min(begin, l.others.Load())
	}
	for i := from; i >= begin && i <= committed && int64(len(out)) < most; i++ {
		out = append(out, repository.Entry{Index: i, Term: max(1, l.term.Load()), Stamp: int64(i) * 1000, Data: []byte("x")})
	}
	return out, first, committed, nil
}

// TestArchiveGoesOnWhereItStands archives the log through a change of leaders, a restart, and a time in which the log went
// on without it: the gap is named, and the next backup closes it.
func TestArchiveGoesOnWhereItStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &entryLog{}
		l.first.Store(1)
		l.last.Store(50)
		s := newSiteWith(t, l, "n1")
		r := s.any()
		s.made.Store(9)
		failing := errors.New("the disk is full")
		s.fail.Store(&failing)
		dir := s.dirs["n1"]
		sc := incremental()
		sc.Archive = 60
		s.put(sc)
		time.Sleep(2*time.Minute + 7*time.Second)
		if a := r.Overview(0).Schedules[0].ArchiveStatus; a == nil || !strings.Contains(a.Error, "no backup") {
			t.Errorf("before the first backup: %+v", a)
		}
		s.fail.Store(nil)
		time.Sleep(12 * time.Minute) // it is made without anybody's doing
		repo := (&repositoryAt{dir, s.runs()[0].Repository}).look(t)
		if until(t, repo) != 50 {
			t.Errorf("archived to %d", until(t, repo))
		}
		l.last.Store(80)
		s.leader.Store("n2") // another leads: it has no repository here, and this node writes nothing
		time.Sleep(3 * time.Minute)
		if until(t, repo) != 50 {
			t.Errorf("a node whose turn it is not archived to %d", until(t, repo))
		}
		s.leader.Store("n1")
		time.Sleep(3 * time.Minute)
		if a := r.Overview(0).Schedules[0].ArchiveStatus; until(t, repo) != 80 || a.Index != 80 || a.Gap != nil || a.Error != "" {
			t.Errorf("archived to %d, %+v", until(t, repo), a)
		}
		// The log went on without it.
		s.leader.Store("n2")
		time.Sleep(time.Minute)
		l.first.Store(120)
		l.last.Store(150)
		s.fail.Store(&failing)
		s.leader.Store("n1")
		time.Sleep(3 * time.Minute)
		a := r.Overview(0).Schedules[0].ArchiveStatus
		if a.Gap == nil || a.Gap.From != 81 || a.Gap.To != 119 || until(t, repo) != 80 {
			t.Errorf("gap %+v, archived to %d", a.Gap, until(t, repo))
		}
		if gaps := list[Gap](s.meta, prefixGap, 10); len(gaps) != 1 {
			t.Errorf("gaps %+v", gaps)
		}
		s.fail.Store(nil)
		s.made.Store(139) // the next backup, which is made at once, is of entry 140
		time.Sleep(10 * time.Minute)
		if a := r.Overview(0).Schedules[0].ArchiveStatus; a.Gap != nil || a.Error != "" || until(t, repo) != 150 {
			t.Errorf("after the backup: %+v, archived to %d", a, until(t, repo))
		}
	})
}

// until is how far a restore from a repository can go.
func until(t *testing.T, repo *repository.Repository) uint64 {
	t.Helper()
	saves, err1 := repo.Saves(context.Background())
	segments, err2 := repo.Segments(context.Background())
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	spans := repository.Covered(saves, segments)
	if len(spans) == 0 {
		return 0
	}
	return spans[len(spans)-1].Until
}

// archivingSite is a node whose schedule has archived the entries 1 to 50, behind a first backup of the entry made.
func archivingSite(t *testing.T, made int64) (*entryLog, *site, Schedule) {
	l := &entryLog{}
	l.first.Store(1)
	l.last.Store(50)
	s := newSiteWith(t, l, "n1")
	if made > 0 {
		s.made.Store(made)
	}
	sc := incremental()
	sc.Archive = 60
	s.put(sc)
	time.Sleep(3 * time.Minute)
	return l, s, sc
}

// TestArchiveBeginsAnewAtOnce changes the readers of a schedule: a backup for the new ones is made without waiting for
// the night, and until then the log goes on into the old repository.
func TestArchiveBeginsAnewAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, sc := archivingSite(t, 9)
		old := s.repository("n1", s.runs()[0].Repository)
		if until(t, old) != 50 || len(s.runs()) != 1 {
			t.Fatalf("archived to %d, runs %+v", until(t, old), s.runs())
		}
		failing := errors.New("the disk is full")
		s.fail.Store(&failing)
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		sc.Plain, sc.Recipients = false, []string{id.Recipient().String()}
		s.put(sc)
		l.last.Store(60)
		time.Sleep(3 * time.Minute)
		if until(t, old) != 60 {
			t.Errorf("before there is a backup in the new repository the old one ends at %d", until(t, old))
		}
		s.fail.Store(nil)
		s.made.Store(54)
		time.Sleep(10 * time.Minute)
		l.last.Store(70)
		time.Sleep(3 * time.Minute)
		fresh := s.repository("n1", s.runs()[0].Repository)
		if until(t, old) != 60 || until(t, fresh) != 70 {
			t.Errorf("the old repository ends at %d, the new one at %d", until(t, old), until(t, fresh))
		}
		if a := s.any().Overview(0).Schedules[0].ArchiveStatus; a.Error != "" || a.Gap != nil || a.Index != 70 {
			t.Errorf("archive %+v", a)
		}
		good := 0
		for _, r := range s.runs() {
			if r.OK {
				good++
			}
		}
		if good != 2 {
			t.Errorf("%d backups were made, want one for each repository", good)
		}
	})
}

// TestArchiveReadsWhatOthersHold has a node archive whose own log begins behind what is archived: another member has the
// entries, or one that does not answer may have them, and only what nobody has is a gap.
func TestArchiveReadsWhatOthersHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, _ := archivingSite(t, 0)
		repo := s.repository("n1", s.runs()[0].Repository)
		l.others.Store(40)
		l.first.Store(90)
		l.last.Store(100)
		time.Sleep(3 * time.Minute)
		status := func() *Archive { return s.any().Overview(0).Schedules[0].ArchiveStatus }
		if a := status(); until(t, repo) != 100 || a.Gap != nil || a.Error != "" {
			t.Fatalf("another member held all: archived to %d, %+v", until(t, repo), a)
		}
		l.silent.Store(true)
		l.others.Store(150)
		l.first.Store(190)
		l.last.Store(200)
		time.Sleep(3 * time.Minute)
		if a := status(); until(t, repo) != 100 || a.Gap != nil || !strings.Contains(a.Error, "n3") {
			t.Fatalf("a member that may hold all does not answer: archived to %d, %+v", until(t, repo), a)
		}
		failing := errors.New("the disk is full")
		s.fail.Store(&failing)
		l.silent.Store(false)
		time.Sleep(3 * time.Minute)
		if a := status(); a.Gap == nil || a.Gap.From != 101 || a.Gap.To != 149 {
			t.Errorf("nobody holds them: %+v", a)
		}
	})
}

// TestArchiveOfAnotherHistory sets a cluster back, as a copy of its machines is: what it writes from then on is not
// archived behind what it wrote before.
func TestArchiveOfAnotherHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s, _ := archivingSite(t, 0)
		repo := s.repository("n1", s.runs()[0].Repository)
		l.last.Store(60)
		time.Sleep(3 * time.Minute)
		if until(t, repo) != 60 {
			t.Fatalf("archived to %d", until(t, repo))
		}
		s.leader.Store("n2") // it looks anew where it stands
		time.Sleep(time.Minute)
		l.last.Store(55)
		l.term.Store(2)
		s.leader.Store("n1")
		status := func() *Archive { return s.any().Overview(0).Schedules[0].ArchiveStatus }
		time.Sleep(10 * time.Minute)
		if a := status(); !strings.Contains(a.Error, "another history") {
			t.Errorf("while the place is ahead: %+v", a)
		}
		l.last.Store(80)
		time.Sleep(5 * time.Minute)
		if a := status(); until(t, repo) != 60 || !strings.Contains(a.Error, "another history") {
			t.Errorf("archived to %d, %+v", until(t, repo), a)
		}
	})
}

type repositoryAt struct{ dir, folder string }

func (p *repositoryAt) look(t *testing.T) *repository.Repository {
	t.Helper()
	r, err := repository.Look(context.Background(), &target.Folder{Dir: filepath.Join(p.dir, p.folder)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFormsThatMakeNoSense(t *testing.T) {
	for name, change := range map[string]func(*Schedule){
		"unknown form":         func(s *Schedule) { s.Form = "tape" },
		"archive of files":     func(s *Schedule) { s.Form, s.Archive = FormFile, 60 },
		"drill of files":       func(s *Schedule) { s.Form, s.Drill = "", 1 },
		"archive too often":    func(s *Schedule) { s.Archive = 1 },
		"archive too seldom":   func(s *Schedule) { s.Archive = maxArchive + 1 },
		"drill never or later": func(s *Schedule) { s.Drill = -1 },
	} {
		s := incremental()
		change(&s)
		if s.check() == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if s := incremental(); s.check() != nil {
		t.Error(s.check())
	}
}
