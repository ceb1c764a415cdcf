package meta

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/triward/triward/raftstate/boltcheck"
	"github.com/triward/triward/raftstate/command"
)

// filled is a committed state with keys, an agent, series and digests.
func filled(t *testing.T, index uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta.db")
	s := openAt(t, path)
	entry(s, index, 86_400_000*3, func(tx *Tx) {
		tx.SetFormat(1)
		tx.Put("users", "ada", []byte("x"), 0)
		tx.Put("sessions", "s1", []byte("x"), 0)
		tx.Put("sessions", "s2", []byte("x"), 0)
		tx.AllotSeries("a1", [][]byte{labels("one").AppendKey(nil), labels("two").AppendKey(nil)})
	})
	s.Publish(index, 1, []Digest{{Kind: command.KindLogs, Day: 2, Count: 5, Sum: Sum{1, 2}}})
	commit(t, s, index)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSummarize(t *testing.T) {
	path := filled(t, 7)
	got, err := Summarize(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Mark.Index != 7 || got.Format != 1 || got.LogTime != 86_400_000*3 || got.Agents != 1 || got.Series != 2 ||
		got.Keys["users"] != 1 || got.Keys["sessions"] != 2 || len(got.Digests) != 1 || got.Digests[0].Count != 5 {
		t.Errorf("summary %+v", got)
	}
	again, err := Summarize(filled(t, 7))
	if err != nil || again.Sum != got.Sum || FoldDigests(again.Digests) != FoldDigests(got.Digests) {
		t.Errorf("the same state has the sums %s and %s, %v", got.Sum, again.Sum, err)
	}
	other, err := Summarize(filled(t, 8))
	if err != nil || other.Sum == got.Sum {
		t.Errorf("another state has the same sum, %v", err)
	}
	// A mark of another node is no part of the sum.
	if err := Renew(path, func(*Tx) error { return nil }, func(m *Mark) { m.Generation = "other" }); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{5 * boltcheck.PageSize, boltcheck.PageSize - 1, 0} {
		if err := os.WriteFile(path, b[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Summarize(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestRenew(t *testing.T) {
	path := filled(t, 7)
	broken := errors.New("no")
	before, _ := Summarize(path)
	if err := Renew(path, func(tx *Tx) error { tx.Delete("users", "ada"); return broken }, func(*Mark) {}); !errors.Is(err, broken) {
		t.Error(err)
	}
	if after, err := Summarize(path); err != nil || after.Sum != before.Sum {
		t.Errorf("a change that failed was written, %v", err)
	}
	err := Renew(path, func(tx *Tx) error {
		for _, key := range tx.Keys("sessions") {
			tx.Delete("sessions", key)
		}
		tx.Put("settings", "restored", []byte("x"), 0)
		return nil
	}, func(m *Mark) { m.Configuration, m.ConfigurationIndex = []byte("alone"), m.Index })
	if err != nil {
		t.Fatal(err)
	}
	s := openAt(t, path)
	m, ok := s.Mark()
	if !ok || m.Index != 7 || m.Term != 1 || string(m.Configuration) != "alone" || m.ConfigurationIndex != 7 {
		t.Errorf("mark %+v", m)
	}
	if got := keys(s, "sessions", ""); len(got) != 0 {
		t.Errorf("sessions %v", got)
	}
	if v, ok := s.Get("settings", "restored"); !ok || v.ModIndex != 7 {
		t.Errorf("restored %+v", v)
	}
	if _, ok := s.Get("users", "ada"); !ok {
		t.Error("the user is gone")
	}
	if index, sums := s.Digests(); index != 7 || len(sums) != 1 || sums[0].Count != 5 {
		t.Errorf("digests %d %+v", index, sums)
	}
	var first uint64
	entry(s, 8, 0, func(tx *Tx) { first = tx.AllotSeries("a1", [][]byte{labels("three").AppendKey(nil)}) })
	if first <= SkippedIDs {
		t.Errorf("id %d could have been given out by the lost cluster", first)
	}
	if _, err := os.Stat(path + ".new"); err == nil {
		t.Error("something was left")
	}
	empty := filepath.Join(t.TempDir(), "meta.db")
	_ = openAt(t, empty).Close()
	if err := Renew(empty, func(*Tx) error { return nil }, func(*Mark) {}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a state without a mark: %v", err)
	}
}

func TestEachSeries(t *testing.T) {
	s := openNew(t)
	names := func() (out []string) {
		s.EachSeries(func(id uint64, se Series) bool {
			if got, ok := s.Series(id); !ok || got.Agent != se.Agent {
				t.Errorf("series %d is %+v", id, got)
			}
			out = append(out, se.Labels.Get("__name__"))
			return true
		})
		slices.Sort(out)
		return out
	}
	allot := func(index uint64, name string) {
		entry(s, index, int64(index), func(tx *Tx) { tx.AllotSeries("a1", [][]byte{labels(name).AppendKey(nil)}) })
	}
	allot(1, "file")
	allot(2, "removed")
	commit(t, s, 2)
	s.nextID += SkippedIDs
	allot(3, "frozen")
	s.Freeze(3, 1)
	allot(4, "live")
	entry(s, 5, 5, func(tx *Tx) { tx.RemoveSeries(2, 1<<40) })
	if got := names(); !slices.Equal(got, []string{"file", "frozen", "live"}) {
		t.Errorf("series %v", got)
	}
	many := make([][]byte, 3*scanChunk)
	for i := range many {
		many[i] = labels("many" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))).AppendKey(nil)
	}
	entry(s, 6, 6, func(tx *Tx) { tx.AllotSeries("a2", many) })
	commit(t, s, 6)
	if got := names(); len(got) != 3+len(many) {
		t.Errorf("%d series, want %d", len(got), 3+len(many))
	}
	n := 0
	s.EachSeries(func(uint64, Series) bool { n++; return n < 5 })
	if n != 5 {
		t.Errorf("went on to %d after it was told to stop", n)
	}
}
