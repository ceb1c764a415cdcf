package schedule

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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
}

func (l *entryLog) read(from uint64, most int64) (out []repository.Entry, first, committed uint64, err error) {
	first, committed = l.first.Load(), l.last.Load()
	for i := from; i >= first && i <= committed && int64(len(out)) < most; i++ {
		out = append(out, repository.Entry{Index: i, Term: 1, Stamp: int64(i) * 1000, Data: []byte("x")})
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
		s := newSiteWith(t, l.read, "n1")
		r := s.any()
		dir, ctx := s.dirs["n1"], t.Context()
		sc := incremental()
		sc.Archive = 60
		s.put(sc)
		time.Sleep(2 * time.Minute)
		if a := r.Overview(0).Schedules[0].ArchiveStatus; a == nil || !strings.Contains(a.Error, "no backup") {
			t.Errorf("before the first backup: %+v", a)
		}
		if _, err := r.StartSchedule(ctx, "nightly", Actor{Name: "ada"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		repo := (&repositoryAt{dir, s.runs()[0].Repository}).look(t)
		until := func() uint64 {
			saves, err1 := repo.Saves(context.Background())
			segments, err2 := repo.Segments(context.Background())
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			spans := repository.Covered(saves, segments)
			return spans[len(spans)-1].Until
		}
		if until() != 50 {
			t.Errorf("archived to %d", until())
		}
		l.last.Store(80)
		s.leader.Store("n2") // another leads: it has no repository here, and this node writes nothing
		time.Sleep(3 * time.Minute)
		if until() != 50 {
			t.Errorf("a node whose turn it is not archived to %d", until())
		}
		s.leader.Store("n1")
		time.Sleep(3 * time.Minute)
		if a := r.Overview(0).Schedules[0].ArchiveStatus; until() != 80 || a.Index != 80 || a.Gap != nil || a.Error != "" {
			t.Errorf("archived to %d, %+v", until(), a)
		}
		// The log went on without it.
		s.leader.Store("n2")
		time.Sleep(time.Minute)
		l.first.Store(120)
		l.last.Store(150)
		s.leader.Store("n1")
		time.Sleep(3 * time.Minute)
		a := r.Overview(0).Schedules[0].ArchiveStatus
		if a.Gap == nil || a.Gap.From != 81 || a.Gap.To != 119 || until() != 80 {
			t.Errorf("gap %+v, archived to %d", a.Gap, until())
		}
		if gaps := list[Gap](s.meta, prefixGap, 10); len(gaps) != 1 {
			t.Errorf("gaps %+v", gaps)
		}
		s.made.Store(139) // the next backup is of entry 140
		if _, err := r.StartSchedule(ctx, "nightly", Actor{Name: "ada"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		if a := r.Overview(0).Schedules[0].ArchiveStatus; a.Gap != nil || a.Error != "" || until() != 150 {
			t.Errorf("after the backup: %+v, archived to %d", a, until())
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
