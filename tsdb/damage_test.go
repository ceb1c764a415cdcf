package tsdb_test

import (
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/triward/triward/tsdb"
)

func isNoSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) }

// stockedStore makes a closed or killed store with blocks, a checkpointed log and late samples.
func stockedStore(t *testing.T, clean bool) (dir string, list []sample) {
	t.Helper()
	dir = t.TempDir()
	s := newStore(t, options(t), dir)
	list = history(40, 900)
	applyAll(t, s, list[:len(list)*4/5], 5)
	applyAll(t, s, list[len(list)*4/5:], 0)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !clean {
		return crash(t, dir), list
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, list
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("no file %s: %v", pattern, err)
	}
	sort.Strings(found)
	return found
}

func edit(t *testing.T, path string, change func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func flip(at int) func(b []byte) []byte {
	return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 0x10; return b }
}

func TestDamageIsNamed(t *testing.T) {
	cases := []struct {
		name, pattern string
		last          bool
		change        func(b []byte) []byte
	}{
		{"bit in a log segment", "wal/0*", false, flip(5000)},
		{"bit in the last full log segment", "wal/0*", true, flip(20)},
		{"log segment cut short", "wal/0*", true, func(b []byte) []byte { return b[:len(b)/2] }},
		{"page of zeros in the log", "wal/0*", false, func(b []byte) []byte { clear(b[:32<<10]); return b }},
		{"log segment gone", "wal/0*", false, nil},
		{"last log segment gone", "wal/0*", true, nil},
		{"checkpoint", "wal/checkpoint*/0*", false, flip(100)},
		{"late samples", "wbl/0*", false, flip(100)},
		{"late samples cut short", "wbl/0*", true, func(b []byte) []byte { return b[:len(b)-5] }},
		{"meta of a block", "0*/meta.json", false, func(b []byte) []byte { return b[:10] }},
		{"meta of a block gone", "0*/meta.json", false, nil},
		{"index of a block", "0*/index", false, flip(-20)},
		{"index of a block gone", "0*/index", false, nil},
		{"chunks of a block", "0*/chunks/000001", false, func(b []byte) []byte { return b[:3] }},
		{"chunks of a block cut short", "0*/chunks/000001", false, func(b []byte) []byte { return b[:len(b)-100] }},
		{"chunks of a block gone", "0*/chunks/000001", false, nil},
		{"block gone", "0*", false, nil},
		{"position", "flushed.json", false, flip(30)},
	}
	stocked, _ := stockedStore(t, false)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := crash(t, stocked)
			found := files(t, filepath.Join(dir, c.pattern))
			victim := found[0]
			if c.last {
				victim = found[len(found)-1]
			}
			if c.change == nil {
				if err := os.RemoveAll(victim); err != nil {
					t.Fatal(err)
				}
			} else {
				edit(t, victim, c.change)
			}
			s, err := tsdb.New(options(t))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			err = s.Open(dir)
			if !errors.Is(err, tsdb.ErrDamaged) {
				t.Fatalf("got %v", err)
			}
			var d *tsdb.DamageError
			if !errors.As(err, &d) || !strings.HasPrefix(d.File, dir) || d.Hint() == "" {
				t.Fatalf("no file is named: %v", err)
			}
		})
	}
}

// TestFilesOfAnotherVersion: they are neither read nor called damaged, and the form of this version is fixed.
func TestFilesOfAnotherVersion(t *testing.T) {
	stocked, _ := stockedStore(t, false)
	for _, name := range []string{"flushed.json", "blocks.json"} {
		dir := crash(t, stocked)
		edit(t, filepath.Join(dir, name), func(b []byte) []byte {
			var sealed struct {
				Version uint8           `json:"version"`
				Body    json.RawMessage `json:"body"`
				CRC     uint32          `json:"crc32c"`
			}
			table := crc32.MakeTable(crc32.Castagnoli)
			if err := json.Unmarshal(b, &sealed); err != nil || sealed.Version != 1 ||
				sealed.CRC != crc32.Checksum(append([]byte{1}, sealed.Body...), table) {
				t.Errorf("the form of %s changed: %v, %.200s", name, err, b)
			}
			sealed.Version, sealed.Body = 2, json.RawMessage(`{"anything":"else"}`)
			sealed.CRC = crc32.Checksum(append([]byte{2}, sealed.Body...), table)
			b, err := json.Marshal(sealed)
			if err != nil {
				t.Fatal(err)
			}
			return b
		})
		s, err := tsdb.New(options(t))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var other *tsdb.VersionError
		if err := s.Open(dir); !errors.As(err, &other) || other.Version != 2 || errors.Is(err, tsdb.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTornEndBehindTheFlushIsCutOff(t *testing.T) {
	for name, tear := range map[string]func(b []byte) []byte{
		"half a record": func(b []byte) []byte { return b[:len(b)-7] },
		"zeros":         func(b []byte) []byte { return append(b, make([]byte, 40_000)...) },
		"garbage":       func(b []byte) []byte { return append(b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) },
	} {
		for _, log := range []string{"wal/0*", "wbl/0*"} {
			t.Run(name+" "+log, func(t *testing.T) {
				dir := t.TempDir()
				s := newStore(t, options(t), dir)
				list := history(16, 400)
				half := len(list) / 2
				applyAll(t, s, list[:half], 0)
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				applyAll(t, s, list[half:], 0)
				dir = crash(t, dir)
				found := files(t, filepath.Join(dir, log))
				edit(t, found[len(found)-1], tear)
				s = newStore(t, options(t), dir)
				applyAll(t, s, list[half:], 0) // as the cluster's log does
				equal(t, "replayed", dump(t, s), expected(list))
				s = newStore(t, options(t), crash(t, dir))
				equal(t, "and once more", dump(t, s), expected(list))
			})
		}
	}
}

func TestDerivedFilesMayVanish(t *testing.T) {
	for _, what := range []string{"chunks_head", "chunk_snapshot.*"} {
		dir, list := stockedStore(t, true)
		for _, f := range files(t, filepath.Join(dir, what)) {
			if err := os.RemoveAll(f); err != nil {
				t.Fatal(err)
			}
		}
		s := newStore(t, options(t), dir)
		equal(t, what, dump(t, s), expected(list))
	}
}

func TestFailedOpenKeepsTheFormer(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	apply(t, s, sample{1, t0, 1})
	bad, _ := stockedStore(t, false)
	edit(t, filepath.Join(bad, "flushed.json"), flip(30))
	if err := s.Open(bad); !errors.Is(err, tsdb.ErrDamaged) {
		t.Fatalf("got %v", err)
	}
	apply(t, s, sample{1, t0 + minute, 2})
	equal(t, "held", dump(t, s), expected([]sample{{1, t0, 1}, {1, t0 + minute, 2}}))
}

// What was found in a store that is not open any more is not damage of the one that is.
func TestDamageOfAnotherStoreIsPassedOver(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	for dir, want := range map[string]int{"replaced": 0, s.Dir(): 1} {
		s.Report(&tsdb.DamageError{File: "metrics of a day " + dir, Err: errors.New("it differs"), Dir: dir})
		if got := len(s.Damaged()); got < want || want == 0 && strings.Contains(strings.Join(s.Damaged(), " "), dir) {
			t.Errorf("%q: damaged %q", dir, s.Damaged())
		}
	}
}
