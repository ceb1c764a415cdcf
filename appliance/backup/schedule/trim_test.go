package schedule

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/appliance/auth"
)

// TestRecordsOfWhatARuleRemovesStay has more backups than records of other runs are kept: those whose backups a rule will
// remove stay, or the backups would stay for ever.
func TestRecordsOfWhatARuleRemovesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		sc := incremental()
		sc.Enabled, sc.Every, sc.KeepLast, sc.KeepDays = false, 1, 0, 30
		s.put(sc)
		r := s.any()
		const held, other = 720, maxRuns + 100
		var ops []auth.Op
		add := func(run Run) {
			run.ID, run.Started, run.Incarnation = fmt.Sprint("r", len(ops)), int64(len(ops)+1), "first"
			ops = append(ops, auth.Op{Bucket: Bucket, Key: runKey(&run), Value: encode(run)})
		}
		for range held {
			add(Run{Schedule: "nightly", Name: "save-x", OK: true, Repository: "repo-x"})
		}
		for i := range other {
			add([]Run{{Schedule: "nightly"}, {Name: "a file", OK: true}, {Schedule: "nightly", Name: "save-x", OK: true, Removed: true}, {Kind: KindDrill, Name: "save-x"}}[i%4])
		}
		if _, err := s.meta.Commit(t.Context(), auth.Txn{Ops: ops}); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			var txn auth.Txn
			r.trim(&txn)
			if _, err := s.meta.Commit(t.Context(), txn); err != nil {
				t.Fatal(err)
			}
		}
		kept, free := 0, 0
		for _, run := range list[Run](s.meta, prefixRun, 10*maxRecords) {
			if run.Schedule == "nightly" && run.OK && !run.Removed {
				kept++
			} else {
				free++
			}
		}
		if kept != held || free >= maxRuns || free < maxRuns-2 {
			t.Errorf("%d records of backups that a rule keeps, of %d; %d others", kept, held, free)
		}
		sc.Name, sc.KeepDays = "second", 15
		if err := r.Put(t.Context(), sc, Actor{Name: "ada"}); !errors.Is(err, ErrInvalid) {
			t.Errorf("rules that keep more than there are records for: %v", err)
		}
		sc.KeepDays, sc.Weekdays = 14, []string{"mon", "tue"}
		s.put(sc)
	})
}

// TestSweepWaitsForOthers: a repository in which somebody is at work, or seems to be, is not swept again at every look.
func TestSweepWaitsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "n1")
		sc := incremental()
		sc.KeepLast = 1
		s.put(sc)
		time.Sleep(26*time.Hour + 30*time.Minute)
		folder := filepath.Join(s.dirs["n1"], s.runs()[0].Repository)
		mark := filepath.Join(folder, "busy-other")
		body := fmt.Sprintf(`{"node":"n9","process":"p","at":%d}`, time.Now().UnixMilli())
		if err := os.WriteFile(mark, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24*time.Hour + 7*time.Second) // the next backup leaves something of the one before
		r := s.any()
		r.mu.Lock()
		if len(r.sweeps) != 1 {
			t.Errorf("%d repositories are to be swept", len(r.sweeps))
		}
		for _, w := range r.sweeps {
			if until := time.Until(w.next); until <= -time.Minute || until > sweepAgain {
				t.Errorf("it is swept again in %s", until)
			}
		}
		r.mu.Unlock()
		if err := os.Remove(mark); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * sweepAgain)
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.sweeps) != 0 {
			t.Error("it was not swept when nobody was at work any more")
		}
	})
}
