package simulation

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// scratch returns a directory for files of nodes, in memory when the machine has such a one: what is durable is
// simulated.
func scratch(t *testing.T) string {
	t.Helper()
	root := os.Getenv("TRIWARD_SIM_DIR")
	if root == "" {
		root = "/dev/shm"
	}
	if st, err := os.Stat(root); err != nil || !st.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(root, "triward-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func number(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, s, err)
	}
	return n
}

// runSeed runs the plan of a seed in a bubble.
func runSeed(t *testing.T, seed uint64, opt Options) (h *History) {
	t.Helper()
	opt.Dir = filepath.Join(scratch(t), strconv.FormatUint(seed, 10))
	if os.Getenv("TRIWARD_TEST_LOG") != "" {
		opt.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	synctest.Test(t, func(t *testing.T) {
		var err error
		if h, err = Run(NewPlan(seed), opt); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestSchedules runs TRIWARD_SIM_SCHEDULES schedules (50) from the seed TRIWARD_SIM_SEED (1) on.
func TestSchedules(t *testing.T) {
	first, count := number(t, "TRIWARD_SIM_SEED", 1), number(t, "TRIWARD_SIM_SCHEDULES", 50)
	var sums totals
	began := time.Now()
	t.Run("all", func(t *testing.T) {
		for seed := first; seed < first+count; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				h := runSeed(t, seed, Options{Replay: seed%4 == 0})
				sums.add(h)
				if found := Check(h); len(found) > 0 {
					sums.failed.Add(1)
					report(t, seed, h, found)
				}
			})
		}
	})
	t.Logf("%d schedules from seed %d in %s: %s", count, first, time.Since(began).Round(time.Second), sums.String())
}

// report tells what was found and keeps the history.
func report(t *testing.T, seed uint64, h *History, found []Violation) {
	t.Helper()
	for _, v := range found {
		t.Errorf("%s", v)
	}
	dir := os.Getenv("TRIWARD_SIM_HISTORIES")
	if dir == "" {
		dir = os.TempDir()
	}
	file := filepath.Join(dir, fmt.Sprintf("triward-sim-%d.json", seed))
	if err := h.Save(file); err != nil {
		t.Errorf("%v", err)
		return
	}
	t.Logf("repeat with: make simulate SEED=%d SCHEDULES=1; look at it with: TRIWARD_SIM_HISTORY=%s go test -run TestCheckHistory ./appliance/internal/simulation", seed, file)
}

// totals counts over all schedules.
type totals struct {
	failed, faults, batches, unknown, looks, sets, entries, installs, starts, fatal, replays, seconds atomic.Int64
}

func (s *totals) add(h *History) {
	for i := range h.Records {
		r := &h.Records[i]
		switch r.Kind {
		case kindFault:
			s.faults.Add(1)
		case kindBatch:
			switch r.Out {
			case outOK, outDuplicate:
				s.batches.Add(1)
			case outUnknown:
				s.unknown.Add(1)
			}
		case kindSeen, kindGet:
			s.looks.Add(1)
		case kindSet:
			s.sets.Add(1)
		case kindApplied:
			s.entries.Add(1)
			if r.Text == installed {
				s.installs.Add(1)
			}
		case kindDown:
			if strings.HasPrefix(r.Text, "fatal: ") {
				s.fatal.Add(1)
			}
		case kindUp:
			s.starts.Add(1)
		case kindReplay:
			s.replays.Add(1)
		case kindEnd:
			s.seconds.Add(r.At / 1e9)
		}
	}
}

func (s *totals) String() string {
	return fmt.Sprintf("%d failed; %d faults, %d starts of nodes, %d ended by their own disk, %d images installed, %d batches acknowledged, %d attempts of unknown outcome, %d linearizable reads, %d writes of metadata, %d groups of entries applied, %d replays, %d h of virtual time",
		s.failed.Load(), s.faults.Load(), s.starts.Load(), s.fatal.Load(), s.installs.Load(), s.batches.Load(), s.unknown.Load(), s.looks.Load(), s.sets.Load(), s.entries.Load(), s.replays.Load(), s.seconds.Load()/3600)
}

// TestCheckHistory checks the history in the file TRIWARD_SIM_HISTORY again.
func TestCheckHistory(t *testing.T) {
	file := os.Getenv("TRIWARD_SIM_HISTORY")
	if file == "" {
		t.Skip("TRIWARD_SIM_HISTORY names no file")
	}
	h, err := ReadHistory(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range Check(h) {
		t.Errorf("%s", v)
	}
}
