package meta

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/boltcheck"
	"github.com/triward/triward/raftstate/command"
)

func openAt(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openNew(t testing.TB) *Store { return openAt(t, filepath.Join(t.TempDir(), "meta.db")) }

// entry runs fn as the entry index at the log time stamp.
func entry(s *Store, index uint64, stamp int64, fn func(tx *Tx)) []Change {
	var changes []Change
	tx := s.Begin(index, stamp, &changes)
	if fn != nil {
		fn(tx)
	}
	tx.End()
	s.Publish(index, 1, nil)
	return changes
}

func commit(t testing.TB, s *Store, index uint64) {
	t.Helper()
	if err := s.Freeze(index, 1).Commit(Mark{Index: index, Term: 1, Configuration: []byte("conf"), Generation: "g1"}); err != nil {
		t.Fatal(err)
	}
}

func dump(t testing.TB, s *Store) string {
	t.Helper()
	var b strings.Builder
	if err := s.Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func keys(s *Store, bucket, prefix string) []string {
	var out []string
	s.Scan(bucket, prefix, func(key string, v Value) bool {
		out = append(out, key+"="+string(v.Data))
		return true
	})
	return out
}

func TestLayersAreReadInOrder(t *testing.T) {
	s := openNew(t)
	entry(s, 1, 100, func(tx *Tx) {
		tx.Put("b", "k1", []byte("file"), 0)
		tx.Put("b", "k2", []byte("file"), 0)
		tx.Put("b", "k3", []byte("file"), 0)
		tx.Put("b", "k4", []byte("file"), 0)
		tx.Put("bb", "k1", []byte("other bucket"), 0)
	})
	commit(t, s, 1)
	entry(s, 2, 200, func(tx *Tx) {
		tx.Put("b", "k2", []byte("frozen"), 0)
		tx.Put("b", "k3", []byte("frozen"), 0)
		tx.Delete("b", "k4")
	})
	f := s.Freeze(2, 1)
	entry(s, 3, 300, func(tx *Tx) {
		tx.Put("b", "k3", []byte("live"), 0)
		tx.Put("b", "k0", []byte("live"), 0)
	})
	want := []string{"k0=live", "k1=file", "k2=frozen", "k3=live"}
	check := func(when string) {
		t.Helper()
		if got := keys(s, "b", ""); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
		if v, ok := s.Get("b", "k2"); !ok || string(v.Data) != "frozen" || v.ModIndex != 2 {
			t.Errorf("%s: k2 is %+v, %t", when, v, ok)
		}
		if v, ok := s.Get("b", "k4"); ok {
			t.Errorf("%s: k4, deleted, is %+v", when, v)
		}
	}
	check("frozen")
	if err := f.Commit(Mark{Index: 2, Term: 1}); err != nil {
		t.Fatal(err)
	}
	check("committed")
	if got := keys(s, "b", "k3"); !slices.Equal(got, []string{"k3=live"}) {
		t.Errorf("prefix k3: %v", got)
	}
	again := openCopy(t, s)
	if got := keys(again, "b", ""); !slices.Equal(got, []string{"k1=file", "k2=frozen", "k3=frozen"}) {
		t.Errorf("the file holds %v", got)
	}
	if m, ok := again.Mark(); !ok || m.Index != 2 {
		t.Errorf("mark %+v, %t", m, ok)
	}
}

// openCopy opens what is durable.
func openCopy(t testing.TB, s *Store) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := s.CopyTo(path); err != nil {
		t.Fatal(err)
	}
	return openAt(t, path)
}

func TestScanOfManyKeysInChunks(t *testing.T) {
	s := openNew(t)
	want := make([]string, 0, 3000)
	for i := range 3000 {
		want = append(want, fmt.Sprintf("%05d=v", i))
	}
	put := func(tx *Tx, from, step int) {
		for i := from; i < 3000; i += step {
			tx.Put("b", fmt.Sprintf("%05d", i), []byte("v"), 0)
		}
	}
	entry(s, 1, 1, func(tx *Tx) { put(tx, 0, 3) })
	commit(t, s, 1)
	entry(s, 2, 2, func(tx *Tx) { put(tx, 1, 3) })
	s.Freeze(2, 1)
	entry(s, 3, 3, func(tx *Tx) { put(tx, 2, 3) })
	if got := keys(s, "b", ""); !slices.Equal(got, want) {
		t.Errorf("%d keys, want %d, in order", len(got), len(want))
	}
	n := 0
	s.Scan("b", "", func(string, Value) bool { n++; return n < 7 })
	if n != 7 {
		t.Errorf("scan went on to %d keys", n)
	}
}

// Within an entry keys are listed as it left them, whatever layer they lie in and however many there are.
func TestKeysWithinAnEntry(t *testing.T) {
	s := openNew(t)
	put := func(tx *Tx, from, to int) {
		for i := from; i < to; i++ {
			tx.Put("b", fmt.Sprintf("%05d", i), []byte("v"), 0)
		}
	}
	entry(s, 1, 1, func(tx *Tx) { put(tx, 0, 1500); tx.Put("c", "other", nil, 0) })
	commit(t, s, 1)
	entry(s, 2, 2, func(tx *Tx) { put(tx, 1500, 1600); tx.Delete("b", "00007") })
	s.Freeze(2, 1)
	entry(s, 3, 3, func(tx *Tx) {
		if got := tx.Keys("b"); len(got) != 1599 || got[7] != "00008" || got[1598] != "01599" {
			t.Errorf("%d keys before the entry's own changes", len(got))
		}
		put(tx, 1600, 1700)
		tx.Delete("b", "01550")
		tx.Put("b", "00007", nil, 0)
		got := tx.Keys("b")
		if len(got) != 1699 || !slices.IsSorted(got) || got[7] != "00007" || slices.Contains(got, "01550") {
			t.Errorf("%d keys after them", len(got))
		}
		if got := tx.Keys("absent"); got != nil {
			t.Errorf("keys of an absent bucket: %v", got)
		}
	})
}

func TestExpiryByLogTime(t *testing.T) {
	s := openNew(t)
	entry(s, 1, 1000, func(tx *Tx) {
		tx.Put("s", "a", []byte("1"), 2000)
		tx.Put("s", "b", []byte("1"), 2000)
		tx.Put("s", "past", []byte("1"), 1000)
	})
	commit(t, s, 1)
	entry(s, 2, 1500, func(tx *Tx) { tx.Put("s", "b", []byte("2"), 3000) })
	s = openCopyWith(t, s, 2)
	if got := keys(s, "s", ""); !slices.Equal(got, []string{"a=1", "b=2"}) {
		t.Errorf("before: %v", got)
	}
	changes := entry(s, 3, 2000, nil)
	if !slices.Equal(changes, []Change{{"s", "a"}}) {
		t.Errorf("changes %v", changes)
	}
	if got := keys(s, "s", ""); !slices.Equal(got, []string{"b=2"}) {
		t.Errorf("after: %v", got)
	}
	entry(s, 4, 1, nil)
	if s.LogTime() != 2000 {
		t.Errorf("log time went back to %d", s.LogTime())
	}
}

func openCopyWith(t testing.TB, s *Store, index uint64) *Store {
	t.Helper()
	commit(t, s, index)
	return openCopy(t, s)
}

func labels(name string) wire.Labels {
	return wire.Labels{{Name: "__name__", Value: name}, {Name: "agent", Value: "a1"}}
}

func TestSeriesAreNeverGivenTheSameID(t *testing.T) {
	s := openNew(t)
	seen := make(map[uint64]string)
	for round := range uint64(6) {
		entry(s, round+1, int64(round), func(tx *Tx) {
			var set [][]byte
			for i := range 300 {
				set = append(set, labels(fmt.Sprintf("m%d_%d", round, i)).AppendKey(nil))
			}
			first := tx.AllotSeries("a1", set)
			for i := range 300 {
				id := first + uint64(i)
				if was := seen[id]; was != "" {
					t.Fatalf("id %d given out again, was %s", id, was)
				}
				seen[id] = fmt.Sprintf("m%d_%d", round, i)
			}
			if round%2 == 1 {
				for i := range uint64(300) {
					if !tx.RemoveSeries(first+i, 1<<60) {
						t.Fatalf("series %d was not removed", first+i)
					}
				}
			}
		})
		if round == 3 {
			s = openCopyWith(t, s, round+1)
		}
	}
	if s.SeriesCount() != 900 {
		t.Errorf("%d series", s.SeriesCount())
	}
	check := func(s *Store) {
		t.Helper()
		for id, name := range seen {
			round := int(name[1] - '0')
			se, ok := s.Series(id)
			if ok != (round%2 == 0) || ok && (se.Agent != "a1" || !reflect.DeepEqual(se.Labels, labels(name))) {
				t.Fatalf("series %d (%s): %+v, %t", id, name, se, ok)
			}
		}
	}
	check(s)
	again := openCopyWith(t, s, 6)
	check(again)
	if dump(t, again) != dump(t, s) {
		t.Error("the state read back is another")
	}
	entry(again, 7, 10, func(tx *Tx) {
		id, agent, ok := tx.FindSeries(labels("m0_7").AppendKey(nil))
		if !ok || agent != "a1" || seen[id] != "m0_7" {
			t.Errorf("m0_7 found as %d of %s, %t", id, agent, ok)
		}
		if id, _, ok := tx.FindSeries(labels("m1_7").AppendKey(nil)); ok {
			t.Errorf("m1_7, removed, found as %d", id)
		}
	})
}

// Label sets whose hashes collide must stay apart; the hash is forced here.
func TestCollidingLabels(t *testing.T) {
	s := openNew(t)
	entry(s, 1, 1, func(tx *Tx) {
		first := tx.AllotSeries("a1", [][]byte{labels("x").AppendKey(nil), labels("y").AppendKey(nil)})
		hx := s.dict[0].hash[first]
		hy := s.dict[0].hash[first+1]
		delete(s.index, hy)
		s.dict[0].hash[first+1] = hx
		s.indexSeries(hx, first+1)
		s.index[hy], s.collide[hy] = first, []uint64{first + 1}
		if id, _, ok := tx.FindSeries(labels("y").AppendKey(nil)); !ok || id != first+1 {
			t.Errorf("y found as %d, %t", id, ok)
		}
		if !tx.RemoveSeries(first, 1<<60) {
			t.Error("x was not removed")
		}
		if s.index[hx] != first+1 || len(s.collide[hx]) != 0 {
			t.Errorf("index %d, further %v", s.index[hx], s.collide[hx])
		}
	})
}

func TestFailedCommitIsTakenAlong(t *testing.T) {
	s := openNew(t)
	entry(s, 1, 1, func(tx *Tx) { tx.Put("b", "k1", []byte("1"), 0); tx.OpenEpoch("a1", wire.Epoch{1}) })
	first := s.Freeze(1, 1)
	if err := first.Commit(Mark{Index: 9}); err == nil {
		t.Error("a mark of another index was committed")
	}
	entry(s, 2, 2, func(tx *Tx) { tx.Put("b", "k2", []byte("2"), 0); tx.OpenEpoch("a2", wire.Epoch{2}) })
	if got := keys(s, "b", ""); !slices.Equal(got, []string{"k1=1", "k2=2"}) {
		t.Errorf("%v", got)
	}
	again := openCopyWith(t, s, 2)
	if dump(t, again) != dump(t, s) {
		t.Error("the state read back is another")
	}
	if err := first.Commit(Mark{Index: 1, Term: 1}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the older state was committed over the newer: %v", err)
	}
}

func TestReload(t *testing.T) {
	a, b := openNew(t), openNew(t)
	entry(a, 1, 1, func(tx *Tx) { tx.Put("b", "k", []byte("a"), 0) })
	entry(b, 5, 9, func(tx *Tx) {
		tx.Put("b", "k", []byte("b"), 0)
		tx.OpenEpoch("a1", wire.Epoch{1})
		tx.RaiseFloor(command.KindLogs, 77)
		tx.SetFormat(1)
	})
	commit(t, b, 5)
	want := dump(t, b)
	path := filepath.Join(t.TempDir(), "image.db")
	if err := b.CopyTo(path); err != nil {
		t.Fatal(err)
	}
	f := a.Freeze(1, 1)
	if err := a.Reload(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent file was loaded")
	}
	if v, ok := a.Get("b", "k"); !ok || string(v.Data) != "a" {
		t.Errorf("after a failed reload: %+v, %t", v, ok)
	}
	if err := a.Reload(path); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, a); got != want {
		t.Errorf("state after reload:\n%s\nwant\n%s", got, want)
	}
	if err := f.Commit(Mark{Index: 1, Term: 1}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("state of the file before was committed: %v", err)
	}
	entry(a, 6, 10, func(tx *Tx) { tx.Put("b", "k", []byte("c"), 0) })
	commit(t, a, 6)
	if m, _ := a.Mark(); m.Index != 6 || a.Path() != path {
		t.Errorf("mark %+v of %s", m, a.Path())
	}
}

// Readers, a commit and the apply goroutine run beside each other; the race detector looks on.
func TestReadersBesideCommits(t *testing.T) {
	s := openNew(t)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-done:
					return
				default:
				}
				s.Scan("b", "", func(key string, _ Value) bool { s.Get("b", key); return true })
				s.Series(3)
				s.Agent("a1")
				s.LastSeqs("a1", wire.Epoch{1})
				s.Digests()
				if _, err := s.IdleSeries(1<<60, 10); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	values := make([]float64, 600)
	for i := range uint64(40) {
		entry(s, i+1, int64(i)*1000, func(tx *Tx) {
			tx.Put("b", fmt.Sprint("k", i), []byte("v"), 0)
			if i == 0 {
				tx.OpenEpoch("a1", wire.Epoch{1})
				var set [][]byte
				for j := range 600 {
					set = append(set, labels(fmt.Sprint("m", j)).AppendKey(nil))
				}
				tx.AllotSeries("a1", set)
			}
			tx.Advance("a1", wire.LaneMetrics, i, i)
			ids := make([]uint64, 600)
			for j := range ids {
				ids[j] = uint64(j + 1)
			}
			var out wire.Samples
			var hashes []uint64
			if dup, late := tx.AcceptScrape(int64(i)*1000, noFloor, ids, values, &out, &hashes); dup != 0 || len(late) != 0 {
				t.Errorf("%d duplicates, %d late", dup, len(late))
			}
		})
		f := s.Freeze(i+1, 1)
		wg.Add(1)
		committed := make(chan error, 1)
		go func() {
			defer wg.Done()
			committed <- f.Commit(Mark{Index: f.Index, Term: f.Term})
		}()
		if i%2 == 0 {
			if err := <-committed; err != nil {
				t.Error(err)
			}
		} else if err := func() error { // the next entry runs beside the commit
			entry(s, i+1, int64(i)*1000, func(tx *Tx) { tx.Put("b", "k0", []byte("again"), 0); tx.CountClone("a1") })
			return <-committed
		}(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
	again := openCopyWith(t, s, 40)
	if dump(t, again) != dump(t, s) {
		t.Error("the state read back is another")
	}
}

// Whatever happens to the file, opening it must end in an error that names it or in the state that was written;
// never in another state and never in the death of the process.
func TestDamagedFiles(t *testing.T) {
	s := openNew(t)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range uint64(4) {
		entry(s, i+1, int64(i), func(tx *Tx) {
			var set [][]byte
			for j := range 60 {
				tx.Put("b", fmt.Sprint(r.Uint64()), []byte(strings.Repeat("v", r.IntN(300))), 0)
				set = append(set, labels(fmt.Sprint("m", i, "_", j)).AppendKey(nil))
			}
			tx.AllotSeries("a1", set)
		})
		commit(t, s, i+1)
	}
	want := dump(t, s)
	file, err := os.ReadFile(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	try := func(name string, b []byte) {
		t.Helper()
		path := filepath.Join(dir, "meta.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Open(path, slog.New(slog.DiscardHandler))
		if err != nil {
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		defer func() { _ = got.Close() }()
		if m, ok := got.Mark(); ok && m.Index == 4 && dump(t, got) != want {
			t.Errorf("%s: opened with another state at the same mark", name)
		}
	}
	try("empty", nil)
	for n := 100; n < len(file); n += 1 + len(file)/30 {
		try(fmt.Sprintf("cut to %d bytes", n), file[:n])
	}
	for range 150 {
		b := slices.Clone(file)
		at := r.IntN(len(b))
		b[at] ^= 1 << r.IntN(8)
		try(fmt.Sprintf("bit flipped at %d", at), b)
	}
	for range 20 {
		b := slices.Clone(file)
		p := r.IntN(len(b) / boltcheck.PageSize)
		clear(b[p*boltcheck.PageSize : (p+1)*boltcheck.PageSize])
		try(fmt.Sprintf("page %d zeroed", p), b)
	}
}

// rewriteState replaces the state record of a closed file by what fn makes of it.
func rewriteState(t *testing.T, path string, fn func(value []byte) []byte) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, options(false))
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketState)
		value, err := unsealed(keyState, b.Get(keyState))
		if err != nil {
			return err
		}
		value = fn(slices.Clone(value))
		if value == nil {
			return b.Delete(keyState)
		}
		return putSealed(b, keyState, value)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A file of another version is told from a damaged one, whatever else it holds or lacks, and is left as it is.
func TestAnotherVersion(t *testing.T) {
	s := openNew(t)
	entry(s, 1, 1, func(tx *Tx) { tx.Put("b", "k", []byte("v"), 0) })
	want := openCopyWith(t, s, 1)
	path := want.Path()
	if err := want.Close(); err != nil {
		t.Fatal(err)
	}
	fresh := openNew(t)
	if err := fresh.Close(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	for name, path := range map[string]string{"with a mark": path, "as it was made": fresh.Path()} {
		rewriteState(t, path, func(value []byte) []byte { value[0] = 9; return value[:3] })
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(path, log)
		if !errors.Is(err, ErrVersion) || errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, text := range []string{path, "version 9", "knows 1"} {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q does not say %q", name, err, text)
			}
		}
		if after, err := os.ReadFile(path); err != nil || !slices.Equal(before, after) {
			t.Errorf("%s: the file was changed: %v", name, err)
		}
		if err := s.Reload(path); !errors.Is(err, ErrVersion) {
			t.Errorf("%s: reload: %v", name, err)
		}
	}
	if v, ok := s.Get("b", "k"); !ok || string(v.Data) != "v" {
		t.Errorf("after the refusals: %+v, %t", v, ok)
	}
	rewriteState(t, path, func([]byte) []byte { return nil })
	if _, err := Open(path, log); !errors.Is(err, ErrDamaged) {
		t.Errorf("without a state record: %v", err)
	}
}

func TestTimesPageIsSmallWhenScrapedTogether(t *testing.T) {
	s := openNew(t)
	entry(s, 1, 1, func(tx *Tx) {
		var set [][]byte
		ids := make([]uint64, 1000)
		for j := range ids {
			set = append(set, labels(fmt.Sprint("m", j)).AppendKey(nil))
			ids[j] = uint64(j + 1)
		}
		tx.AllotSeries("a1", set)
		var out wire.Samples
		var hashes []uint64
		for i := range int64(100) {
			out, hashes = wire.Samples{}, hashes[:0]
			tx.AcceptScrape(1_700_000_000_000+i*15_000, 0, ids, make([]float64, 1000), &out, &hashes)
			if len(out.IDs) != 1000 || len(hashes) != 1000 {
				t.Fatalf("%d of 1000 accepted", len(out.IDs))
			}
		}
	})
	if n := len(s.times[1].append(nil)); n > 40 {
		t.Errorf("a page of 256 series takes %d bytes", n)
	}
}

func TestIdleSeries(t *testing.T) {
	s := openNew(t)
	entry(s, 1, 1, func(tx *Tx) {
		tx.AllotSeries("a1", [][]byte{labels("x").AppendKey(nil), labels("y").AppendKey(nil), labels("z").AppendKey(nil), labels("w").AppendKey(nil)})
		var out wire.Samples
		var hashes []uint64
		tx.AcceptScrape(100, noFloor, []uint64{1, 2}, make([]float64, 2), &out, &hashes)
		tx.AcceptScrape(200, noFloor, []uint64{2, 3}, make([]float64, 2), &out, &hashes)
	})
	// 1 and 4 were registered at log time 1; 4 never had a sample.
	idle := func(index uint64, before int64, want ...uint64) {
		t.Helper()
		commit(t, s, index)
		if got, err := s.IdleSeries(before, 10); err != nil || !slices.Equal(got, want) {
			t.Errorf("idle before %d: %v, %v, want %v", before, got, err, want)
		}
	}
	idle(1, 1)
	idle(1, 2, 4)
	idle(1, 101, 1, 4)
	idle(1, 201, 1, 2, 3, 4)
	entry(s, 2, 2, func(tx *Tx) {
		if tx.RemoveSeries(2, 200) || !tx.RemoveSeries(1, 200) {
			t.Error("series 2 was removed although it is in use, or 1 was not")
		}
	})
	idle(2, 201, 2, 3, 4)
	if got, err := s.IdleSeries(201, 1); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// A key whose time is put off again and again must not fill memory with its former times.
func TestExpiryOfKeysPutOff(t *testing.T) {
	s := openNew(t)
	for i := range int64(20_000) {
		entry(s, uint64(i+1), i, func(tx *Tx) { tx.Put("s", fmt.Sprint("k", i%5), []byte("v"), 1_000_000+i) })
	}
	if len(s.expiry) > 4096 {
		t.Errorf("%d notes of 5 keys", len(s.expiry))
	}
	if changes := entry(s, 30_000, 1_019_997, nil); len(changes) != 3 {
		t.Errorf("gone: %v", changes)
	}
	if got := keys(s, "s", ""); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
	if changes := entry(s, 30_001, 1_020_000, nil); len(changes) != 2 {
		t.Errorf("gone: %v", changes)
	}
}
