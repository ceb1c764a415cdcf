package tsdb_test

import (
	"errors"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/tsdb"
)

// A bit that is flipped while the store is open, where readers of a block look at no checksum, is met by the next query.
func TestFlippedIndexIsNotReadFrom(t *testing.T) {
	stocked, _ := stockedStore(t, false)
	for _, at := range []int{5, 9, 14, 20, 30, -52, -30, -4, -60, -80} { // from the length of the symbols on; table of postings and what follows
		dir := crash(t, stocked)
		s, err := tsdb.New(options(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Open(dir); err != nil {
			t.Fatal(err)
		}
		q, err := s.Querier(0, math.MaxInt64-1)
		if err != nil {
			t.Fatal(err)
		}
		_ = q.Close()
		victim := files(t, filepath.Join(dir, "0*/index"))[0]
		edit(t, victim, flip(at))
		for name, open := range map[string]func() (io.Closer, error){
			"samples": func() (io.Closer, error) { return s.Querier(0, math.MaxInt64-1) },
			"chunks":  func() (io.Closer, error) { return s.ChunkQuerier(0, math.MaxInt64-1) },
		} {
			q, err := open()
			var d *tsdb.DamageError
			if !errors.As(err, &d) || !strings.HasPrefix(d.File, filepath.Dir(victim)) || !d.Hides {
				t.Errorf("byte %d, %s: %v", at, name, err)
			}
			if err == nil {
				_ = q.Close()
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What is merged from a block whose symbols are damaged would have right checksums, and wrong labels for good.
func TestFlippedIndexIsNotMerged(t *testing.T) {
	stocked, _ := stockedStore(t, false)
	dir := crash(t, stocked)
	s := newStore(t, options(t), dir)
	before := files(t, filepath.Join(dir, "0*/index"))
	for _, f := range before {
		edit(t, f, flip(9))
	}
	var d *tsdb.DamageError
	if err := s.Compact(t.Context()); !errors.As(err, &d) || !d.Hides {
		t.Errorf("compact: %v", err)
	}
	after := files(t, filepath.Join(dir, "0*/index"))
	for _, f := range before { // what was merged takes the place of what it is made from
		if !slices.Contains(after, f) {
			t.Errorf("%s is gone", f)
		}
	}
}
