package meta

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// somewhere returns a line of few, whose searches in the index meet one another.
func somewhere(r *rand.Rand, lines int) Sum {
	n := r.Uint64N(uint64(lines))
	return Sum{Hi: n, Lo: n%5<<40 | 1023 - n%2}
}

// The window must answer as a plain list does, however often it is set aside, committed, read back or given to
// another node in between, and whatever the numbers of its lines are.
func TestRecentLines(t *testing.T) {
	for _, c := range []struct {
		most, lines, rounds int
		from                uint64
	}{
		{1, 4, 400, 0},
		{3, 9, 2000, 1<<31 - recentPageSize},
		{700, 1500, 6000, 1<<32 - recentPageSize},
		{recentPageSize, 2500, 12_000, 0},
		{2500, 6000, 30_000, 1<<31 - 5*recentPageSize},
	} {
		t.Run(fmt.Sprint(c.most), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(c.most), 1))
			s, plain, other := openNew(t), openNew(t), openNew(t)
			s.recent.first, s.recent.next = c.from, c.from
			plain.recent.first, plain.recent.next = c.from, c.from
			entry(other, 1, 1, func(tx *Tx) { tx.Remember(Sum{1, 2}, 10) })
			var list []Sum
			index := uint64(0)
			for done := 0; done < c.rounds; {
				index++
				var lines []Sum
				for range 1 + r.IntN(c.rounds/40) {
					lines = append(lines, somewhere(r, c.lines))
				}
				done += len(lines)
				for _, st := range []*Store{s, plain} {
					was := slices.Clone(list)
					entry(st, index, 1, func(tx *Tx) {
						for _, line := range lines {
							fresh := !slices.Contains(was, line)
							if fresh {
								was = append(was, line)
								was = was[max(0, len(was)-c.most):]
							}
							if tx.Remember(line, c.most) != fresh {
								t.Fatalf("line %v after %d of them: fresh is not %t", line, len(was), fresh)
							}
						}
					})
					if st == plain {
						list = was
					}
				}
				switch r.IntN(4) {
				case 0:
					s.Freeze(index, 1) // its commit never comes: the next one takes it along
				case 1:
					commit(t, s, index)
				case 2:
					s = openCopyWith(t, s, index)
				case 3:
					commit(t, s, index)
					path := filepath.Join(t.TempDir(), "image.db")
					if err := errors.Join(s.CopyTo(path), other.Reload(path)); err != nil {
						t.Fatal(err)
					}
					s, other = other, s
				}
			}
			var held []Sum
			s.recent.each(func(line Sum) { held = append(held, line) })
			if !reflect.DeepEqual(held, list) {
				t.Errorf("%d lines are held, want %d", len(held), len(list))
			}
			if dump(t, s) != dump(t, plain) {
				t.Error("the state is another than without marks")
			}
			if pages := len(s.recent.pages); pages > c.most/recentPageSize+2 {
				t.Errorf("%d pages of %d lines", pages, c.most)
			}
		})
	}
}

// A mark writes the pages that changed and takes those away that are forgotten.
func TestRecentPagesAreWrittenOnce(t *testing.T) {
	const most = 10 * recentPageSize
	s := openNew(t)
	next := uint64(0)
	remember := func(index uint64, n int) {
		entry(s, index, 1, func(tx *Tx) {
			for range n {
				next++
				tx.Remember(Sum{next, next}, most)
			}
		})
	}
	stored := func() (n int) {
		if err := s.view(func(tx *bolt.Tx) error { n = tx.Bucket(bucketRecent).Stats().KeyN; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	remember(1, 5*recentPageSize+10)
	commit(t, s, 1)
	if n := stored(); n != 6 {
		t.Errorf("%d pages in the file, want 6", n)
	}
	remember(2, 10)
	remember(3, 10)
	if n := len(s.live.recent); n != 1 {
		t.Errorf("%d pages changed by 20 lines", n)
	}
	commit(t, s, 3)
	remember(4, 20*recentPageSize)
	commit(t, s, 4)
	if n := stored(); n != 11 {
		t.Errorf("%d pages in the file, want 11", n)
	}
	if again := openCopy(t, s); dump(t, again) != dump(t, s) || again.recent.len() != most {
		t.Errorf("%d lines were read back", again.recent.len())
	}
}

func TestDamagedRecentPages(t *testing.T) {
	s := openNew(t)
	entry(s, 1, 1, func(tx *Tx) {
		for i := range uint64(3000) {
			tx.Remember(Sum{i, i}, 2500)
		}
	})
	commit(t, s, 1)
	for name, harm := range map[string]func(b *bolt.Bucket) error{
		"first page gone":  func(b *bolt.Bucket) error { return b.Delete(idKey(0)) },
		"middle page gone": func(b *bolt.Bucket) error { return b.Delete(idKey(1)) },
		"last page gone":   func(b *bolt.Bucket) error { return b.Delete(idKey(2)) },
		"one more page":    func(b *bolt.Bucket) error { return putSealed(b, idKey(3), make([]byte, 16)) },
		"short page":       func(b *bolt.Bucket) error { return putSealed(b, idKey(1), make([]byte, 160)) },
		"odd page":         func(b *bolt.Bucket) error { return putSealed(b, idKey(1), make([]byte, 16*recentPageSize-1)) },
		"long page":        func(b *bolt.Bucket) error { return putSealed(b, idKey(1), make([]byte, 16*recentPageSize+16)) },
		"empty page":       func(b *bolt.Bucket) error { return putSealed(b, idKey(1), []byte{}) },
		"a line twice":     func(b *bolt.Bucket) error { return putSealed(b, idKey(1), make([]byte, 16*recentPageSize)) },
		"odd key":          func(b *bolt.Bucket) error { return putSealed(b, []byte("k"), make([]byte, 16)) },
	} {
		path := filepath.Join(t.TempDir(), "copy.db")
		if err := s.CopyTo(path); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path, 0o600, options(false))
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error { return harm(tx.Bucket(bucketRecent)) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkRemember puts lines into a full window of half a million, and reports what it takes in memory.
func BenchmarkRemember(b *testing.B) {
	const most = 1 << 19
	var before, after runtime.MemStats
	s := openNew(b)
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := rand.New(rand.NewPCG(1, 2))
	remember := func(tx *Tx) { tx.Remember(Sum{r.Uint64(), r.Uint64()}, most) }
	var changes []Change
	tx := s.Begin(1, 1, &changes)
	for range most {
		remember(tx)
	}
	for b.Loop() {
		remember(tx)
	}
	tx.End()
	s.live.recent = nil // as after a mark
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/(1<<20), "heap-MiB")
}
