package tsdb_test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

// Merged blocks are days in UTC, so that what a cut between days removes is freed and nothing else is waited for.
func TestMergedBlocksAreDays(t *testing.T) {
	opts := options(t)
	opts.BlockDuration, opts.MaxBlockDuration = 2*time.Hour, 24*time.Hour
	dir := t.TempDir()
	s := newStore(t, opts, dir)
	const dayMs = 24 * 3600 * 1000
	first := (t0/dayMs + 1) * dayMs
	var list []sample
	for at := first; at < first+4*dayMs; at += 5 * minute {
		list = append(list, sample{1, at, float64(at)})
	}
	apply(t, s, list...)
	for range 4 {
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	blocks, err := s.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for _, b := range blocks {
		if b.MinTime/dayMs != (b.MaxTime-1)/dayMs {
			t.Errorf("block %+v reaches over midnight", b)
		}
		if b.MaxTime-b.MinTime > 20*3600*1000 {
			whole++
		}
		if b.Bytes <= 0 {
			t.Errorf("block %+v", b)
		}
	}
	if whole < 3 {
		t.Errorf("%d days are merged to one block: %+v", whole, blocks)
	}
	if n := s.Passing(); n != 0 {
		t.Errorf("%d bytes pass although nothing is deleted", n)
	}
	gone := filepath.Join(dir, ulid.MustNew(1, rand.Reader).String()) // as a reader leaves it that holds a deleted block
	for _, dir := range []string{gone, gone + ".tmp-for-deletion"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "index"), make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Passing(); n != 2000 {
		t.Errorf("%d bytes pass, want 2000", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(); err == nil {
		t.Error("a closed store says that it works")
	}
}
