package tsdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/tsdb"
)

func TestApplyInOrderAndLate(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	list := history(20, 400)
	applyAll(t, s, list, 0)
	equal(t, "applied", dump(t, s), expected(list))
}

func TestReplayChangesNothing(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, options(t), dir)
	list := history(20, 500)
	applyAll(t, s, list, 6)
	want := expected(list)
	equal(t, "applied", dump(t, s), want)
	applyAll(t, s, list[len(list)/2:], 0)
	equal(t, "applied again", dump(t, s), want)
	if err := s.Open(dir); err != nil { // the same directory, in order
		t.Fatal(err)
	}
	equal(t, "opened again", dump(t, s), want)
	applyAll(t, s, list[len(list)/3:], 3)
	equal(t, "replayed after opening", dump(t, s), want)
}

func TestExistingValueWins(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	apply(t, s, sample{1, t0, 1}, sample{1, t0, 2})
	apply(t, s, sample{1, t0, 3})
	apply(t, s, sample{1, t0 + 10*minute, 10})
	apply(t, s, sample{1, t0 + 5*minute, 5})
	apply(t, s, sample{1, t0 + 5*minute, 6})
	equal(t, "held", dump(t, s), expected([]sample{{1, t0, 1}, {1, t0 + 5*minute, 5}, {1, t0 + 10*minute, 10}}))
}

func TestSampleFarAhead(t *testing.T) {
	// A sample at the edge of what Apply accepts must not shut out the present ones of other series (DESIGN D2).
	s := newStore(t, options(t), t.TempDir())
	list := []sample{{1, t0 + 10*minute, 1}, {2, t0, 2}, {3, t0 - 7*24*60*minute, 3}, {2, t0 - 7*24*60*minute, 4}}
	apply(t, s, list...)
	equal(t, "held", dump(t, s), expected(list))
}

func TestCutAnswersTheSame(t *testing.T) {
	for name, compactions := range map[string]int{"head only": 0, "after compactions": 9} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, options(t), t.TempDir())
			list := history(24, 700)
			applyAll(t, s, list, compactions)
			if compactions > 0 {
				if metas, err := s.BlockMetas(); err != nil || len(metas) == 0 {
					t.Fatalf("no blocks to cut: %v, %v", metas, err)
				}
			}
			want := dump(t, s)
			image := cut(t, s)
			// The source goes on and must not reach into the copy.
			more := []sample{{1, t0 + 800*minute, 1}, {2, t0 + 300*minute + 1, 2}}
			apply(t, s, more...)
			if err := s.Compact(context.Background()); err != nil {
				t.Fatal(err)
			}
			equal(t, "expected", want, expected(list))

			copied := newStore(t, options(t), image)
			equal(t, "copy", dump(t, copied), want)
			apply(t, copied, more...)
			if err := copied.Open(cut(t, copied)); err != nil { // a copy of the copy
				t.Fatal(err)
			}
			if err := copied.Compact(context.Background()); err != nil {
				t.Fatal(err)
			}
			equal(t, "copy of the copy", dump(t, copied), expected(append(list, more...)))
			equal(t, "source", dump(t, s), expected(append(list, more...)))
		})
	}
}

func TestCutWantsPause(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	if err := s.Cut(filepath.Join(t.TempDir(), "x")); err == nil {
		t.Fatal("cut while files may move")
	}
}

// crash copies a store as a killed process leaves it, while it is open.
func crash(t *testing.T, dir string) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "crashed")
	if err := os.CopyFS(dst, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return dst
}

func TestKilledStoreHoldsAll(t *testing.T) {
	for _, compactions := range []int{0, 7} {
		dir := t.TempDir()
		s := newStore(t, options(t), dir)
		list := history(16, 600)
		applyAll(t, s, list, compactions)
		want := expected(list)
		for range 3 { // the copy is killed again and again
			dir = crash(t, dir)
			s = newStore(t, options(t), dir)
			equal(t, "after kill", dump(t, s), want)
			applyAll(t, s, list[len(list)-2000:], 1)
			equal(t, "replayed", dump(t, s), want)
		}
	}
}

// TestLateBlocksAheadOfTheHead has late samples younger than the newest block of in-order ones. Merged with that
// block they would make the store open without the in-order samples of their time.
func TestLateBlocksAheadOfTheHead(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, options(t), dir)
	var list []sample
	for m := range int64(416) {
		list = append(list, sample{1, t0 + m*minute, float64(m)})
	}
	list = append(list, sample{1, t0 + 250*minute + 1, 1}, sample{1, t0 + 370*minute + 1, 2})
	apply(t, s, list...)
	for range 3 {
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	killed := newStore(t, options(t), crash(t, dir))
	equal(t, "killed", dump(t, killed), expected(list))
	if err := s.Open(dir); err != nil {
		t.Fatal(err)
	}
	equal(t, "restarted", dump(t, s), expected(list))
}

// TestRandomMix applies a history while the store is compacted, flushed, killed, restarted and installed from images
// at random moments; after a kill or a restart all since the mark is applied again, as Raft does.
func TestRandomMix(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomMix(t, seed) })
	}
}

func randomMix(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, seed))
	dir := t.TempDir()
	s := newStore(t, options(t), dir)
	list := history(12, 900)
	mark := 0
	var compaction sync.WaitGroup
	for at := 0; at < len(list); {
		n := min(rnd.IntN(400)+1, len(list)-at)
		apply(t, s, list[at:at+n]...)
		at += n
		switch rnd.IntN(12) {
		case 0, 1, 2: // compaction runs beside what follows
			store := s
			compaction.Go(func() {
				if err := store.Compact(t.Context()); err != nil {
					t.Error(err)
				}
			})
		case 3, 4:
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			mark = at
		case 5: // killed
			compaction.Wait() // a file by file copy is no image of one moment
			dir = crash(t, dir)
			s = newStore(t, options(t), dir)
			at = mark
		case 6: // restarted in order
			if err := s.Open(dir); err != nil {
				t.Fatal(err)
			}
			at = mark
		case 7: // installed from an image
			image := cut(t, s)
			if err := s.Open(image); err != nil {
				t.Fatal(err)
			}
			dir, mark = image, at
		}
	}
	compaction.Wait()
	equal(t, "in the end", dump(t, s), expected(list))
}

func TestUnknownSeriesIsAnError(t *testing.T) {
	opts := options(t)
	opts.Dictionary = dictionary{unknown: 2}
	s := newStore(t, opts, t.TempDir())
	err := s.ApplySamples(columns([]sample{{1, t0, 1}, {2, t0, 2}}))
	if err == nil || !strings.Contains(err.Error(), "series 2") {
		t.Fatalf("got %v", err)
	}
	apply(t, s, sample{1, t0, 1})
	equal(t, "held", dump(t, s), expected([]sample{{1, t0, 1}}))
	if err := s.ApplySamples(&wire.Samples{IDs: []uint64{1}}); err == nil {
		t.Fatal("columns of different length were taken")
	}
}

func TestFullDiskIsRecognised(t *testing.T) {
	opts := options(t)
	opts.ReserveBytes = 1 << 62
	s := newStore(t, opts, t.TempDir())
	err := s.ApplySamples(columns([]sample{{1, t0, 1}}))
	if !isNoSpace(err) || errors.Is(err, tsdb.ErrBroken) {
		t.Fatalf("got %v", err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestFailedWriteIsNoFullDisk: whoever waits for room would wait for ever. Opening again and applying all since the
// last Flush again mends the store, whatever it had in memory.
func TestFailedWriteIsNoFullDisk(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, options(t), dir)
	list := history(16, 400)
	half := len(list) / 2
	applyAll(t, s, list[:half], 2)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	applyAll(t, s, list[half:half+half/2], 0)
	s.Break(syscall.ENOSPC)
	for what, err := range map[string]error{
		"apply": s.ApplySamples(columns(list[half:])), "flush": s.Flush(t.Context()), "cut": s.Cut(filepath.Join(t.TempDir(), "image")),
	} {
		if !errors.Is(err, tsdb.ErrBroken) || isNoSpace(err) || !strings.Contains(err.Error(), "no space") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Open(dir); err != nil {
		t.Fatal(err)
	}
	applyAll(t, s, list[half:], 0)
	equal(t, "opened again", dump(t, s), expected(list))
	equal(t, "killed", dump(t, newStore(t, options(t), crash(t, dir))), expected(list))
}

func TestSwapUnderReaders(t *testing.T) {
	reg := prometheus.NewRegistry()
	opts := options(t)
	opts.Registerer = reg
	one, two := t.TempDir(), t.TempDir()
	s := newStore(t, opts, one)
	apply(t, s, sample{1, t0, 1})
	if err := s.Open(two); err != nil {
		t.Fatal(err)
	}
	apply(t, s, sample{1, t0, 1})

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				q, err := s.Querier(t0-1, t0+1)
				if err != nil {
					t.Error(err)
					return
				}
				set, n := q.Select(ctx, false, nil, labels.MustNewMatcher(labels.MatchEqual, "host", "h1")), 0
				for set.Next() {
					n++
				}
				if err := errors.Join(set.Err(), q.Close()); err != nil && !errors.Is(err, tsdb.ErrSwapped) && ctx.Err() == nil {
					t.Error(err)
				} else if err == nil && n != 1 {
					t.Errorf("%d series", n)
				}
			}
		})
	}
	for i := range 20 {
		// The directory that was replaced is closed in the background; take a copy, as an install does.
		if err := s.Open(cut(t, s)); err != nil {
			t.Fatal(err)
		}
		apply(t, s, sample{1, t0 + int64(i+1)*minute, 1})
		if _, err := reg.Gather(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
}

func TestSwapEndsSlowReader(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	apply(t, s, sample{1, t0, 1}, sample{2, t0, 1})
	q, err := s.Querier(t0, t0)
	if err != nil {
		t.Fatal(err)
	}
	set := q.Select(t.Context(), false, nil, labels.MustNewMatcher(labels.MatchEqual, "", ""))
	if !set.Next() {
		t.Fatal("no series")
	}
	if err := s.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for set.Next() { // the old one answers until patience ends
	}
	for !errors.Is(set.Err(), tsdb.ErrSwapped) {
		set.Next()
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFloor(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	list := history(6, 900)
	applyAll(t, s, list, 8)
	before, err := s.BlockMetas()
	if err != nil || len(before) < 3 {
		t.Fatalf("%d blocks, %v", len(before), err)
	}
	floor := t0 + 301*minute + 17
	s.SetFloor(floor)
	s.SetFloor(floor - minute) // never back
	var kept []sample
	for _, x := range list {
		if x.t >= floor {
			kept = append(kept, x)
		}
	}
	equal(t, "above the floor", dump(t, s), expected(kept))
	more := []sample{{1, t0 + 1400*minute, 1}}
	apply(t, s, more...)
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "after deletion", dump(t, s), expected(append(kept, more...)))
	size, err := s.Size()
	if err != nil {
		t.Fatal(err)
	}
	if size.MinTime < floor-120*minute {
		t.Fatalf("blocks from %d are still there", size.MinTime)
	}
}

func TestCloseTwice(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Querier(0, 1); !errors.Is(err, tsdb.ErrClosed) {
		t.Fatalf("got %v", err)
	}
	if err := s.ApplySamples(columns([]sample{{1, t0, 1}})); !errors.Is(err, tsdb.ErrClosed) {
		t.Fatalf("got %v", err)
	}
	if err := s.Open(t.TempDir()); !errors.Is(err, tsdb.ErrClosed) {
		t.Fatalf("got %v", err)
	}
}

// An open store keeps room on its disk beside its own directory.
func TestOpenStoreKeepsRoom(t *testing.T) {
	root := t.TempDir()
	newStore(t, options(t), filepath.Join(root, "gen-000001"))
	if _, err := os.Stat(filepath.Join(root, "ballast")); err != nil {
		t.Error(err)
	}
}
