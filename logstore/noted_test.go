package logstore

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/triward/triward/agent/wire"
)

// syncDirs makes the names of a directory and of all above it durable.
func syncDirs(t *testing.T, files vfs.FS, dir string) {
	t.Helper()
	for ; ; dir = filepath.Dir(dir) {
		d, err := files.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if dir == filepath.Dir(dir) {
			return
		}
	}
}

// The power goes while retention removes lines, before the state that knows of the cut is durable. The node begins with the
// state of the mark, which counts all that was there: what is gone must not be taken for damage, and what the log brings
// again must meet the same store.
func TestPowerLossBetweenACutAndItsMark(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(140 + seed)
			mem := vfs.NewCrashableMem()
			dir := t.TempDir()
			s := testStore(t, dir, Options{FS: mem, MemTableBytes: 256 << 10})
			m.apply(t, s, 40)
			work(t, s, true)
			m.apply(t, s, 10)
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			syncDirs(t, mem, dir)
			mark, counted := m.index, m.counts(m.index)

			m.apply(t, s, 5)
			cut := func(s *Store) {
				switch seed % 3 {
				case 0:
					s.SetFloor((testDay + 1) * DayNs)
				case 1:
					s.SetKindFloor(wire.StreamLog, (testDay+1)*DayNs)
				case 2:
					s.SetKindFloor(wire.StreamEvent, (testDay+2)*DayNs)
					s.SetKindFloor(wire.StreamLog, (testDay+1)*DayNs)
				}
			}
			cut(s)
			done := make(chan error, 1)
			go func() {
				err := s.Work(context.Background(), seed%2 == 0)
				if err == nil {
					err = s.Flush(context.Background()) // as memtables are when they are full, or before the mark that the power takes
				}
				done <- err
			}()
			for range m.rng.IntN(400) {
				runtime.Gosched()
			}
			var crashed *vfs.MemFS
			crash := func() {
				crashed = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: m.rng.IntN(101), RNG: m.rng})
			}
			if seed < 6 {
				crash()
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if seed >= 6 { // all is removed
				crash()
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}

			told := 0
			s = testStore(t, dir, Options{FS: crashed, OnDamage: func(d *DamageError) { told++; t.Log(d) }})
			if s.Applied() < mark {
				t.Fatalf("applied %d, the mark is %d", s.Applied(), mark)
			}
			if err := s.Verify(t.Context(), mark, counted, 0, noFloor); err != nil {
				t.Fatalf("as of the mark: %v", err)
			}
			m.replay(t, s)
			if err := s.Verify(t.Context(), m.index, m.counts(m.index), 0, noFloor); err != nil {
				t.Fatalf("before the cut comes again: %v", err)
			}
			work(t, s, true)
			cut(s)
			if err := s.Verify(t.Context(), m.index, m.counts(m.index), 0, noFloor); err != nil {
				t.Fatalf("behind the cut: %v", err)
			}
			if seed%3 == 0 {
				m.check(t, s, 8, (testDay+1)*DayNs)
			}
			if told > 0 {
				t.Errorf("%d places are told to be damaged", told)
			}
		})
	}
}

// What was written down of floors is of one directory, and a damaged note says nothing.
func TestNotedFloors(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, Options{})
	m := newModel(160)
	m.apply(t, s, 10)
	work(t, s, true)
	low := (testDay + 1) * DayNs
	s.SetKindFloor(wire.StreamLog, low)
	work(t, s, false)
	copied := filepath.Join(t.TempDir(), "copy")
	if err := s.Cut(copied); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := noFloors()
	if got := testStore(t, copied, Options{}).floorsNow(); got != want {
		t.Errorf("a copy, whose state comes with it, has floors %v", got)
	}
	want[wire.StreamLog] = low
	s = testStore(t, dir, Options{})
	if got := s.floorsNow(); got != want {
		t.Errorf("floors after a start: %v, want %v", got, want)
	}
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.writeDurably(floorsFile, []byte(`{"version":1,"logs":5,"events":6,"crc32c":7}`)); err != nil {
		t.Fatal(err)
	}
	release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := testStore(t, dir, Options{}).floorsNow(); got != noFloors() {
		t.Errorf("floors of a damaged note: %v", got)
	}
}
