package tsdb_test

import (
	"errors"
	"io"
	"math"
	"path/filepath"
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
