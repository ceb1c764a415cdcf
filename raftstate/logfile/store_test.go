package logfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
)

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	if o.ReserveBytes == 0 {
		o.ReserveBytes = -1
	}
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func entry(index uint64, size int) *raft.Log {
	data := bytes.Repeat([]byte(fmt.Sprintf("%08d", index)), size/8+1)[:size]
	return &raft.Log{Index: index, Term: 1 + index/100, Type: raft.LogCommand, Data: data, AppendedAt: time.Unix(1700000000, int64(index))}
}

func store(t *testing.T, s *Store, from, to uint64, size int) {
	t.Helper()
	for i := from; i <= to; i += 4 {
		var batch []*raft.Log
		for j := i; j < i+4 && j <= to; j++ {
			batch = append(batch, entry(j, size))
		}
		if err := s.StoreLogs(batch); err != nil {
			t.Fatal(err)
		}
	}
}

func check(t *testing.T, s *Store, first, last uint64, size int) {
	t.Helper()
	f, err := s.FirstIndex()
	if err != nil || f != first {
		t.Fatalf("first index %d, %v; want %d", f, err, first)
	}
	l, err := s.LastIndex()
	if err != nil || l != last {
		t.Fatalf("last index %d, %v; want %d", l, err, last)
	}
	for i := first; i <= last && i > 0; i++ {
		var got raft.Log
		if err := s.GetLog(i, &got); err != nil {
			t.Fatal(err)
		}
		want := entry(i, size)
		if got.Index != i || got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) ||
			got.Extensions != nil || !got.AppendedAt.Equal(want.AppendedAt) {
			t.Fatalf("entry %d: %+v", i, got)
		}
	}
	for _, i := range []uint64{first - 1, last + 1} {
		if i == 0 {
			continue
		}
		if err := s.GetLog(i, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("entry %d outside of the log: %v", i, err)
		}
	}
}

func TestLogStoreContract(t *testing.T) {
	for name, cache := range map[string]int64{"cached": 64 << 20, "uncached": 1, "part": 40 << 10} {
		t.Run(name, func(t *testing.T) {
			const size = 1000
			dir := t.TempDir()
			o := Options{SegmentBytes: 64 << 10, CacheBytes: cache}
			s := open(t, dir, o)
			if !s.IsMonotonic() {
				t.Error("not monotonic")
			}
			check(t, s, 0, 0, size)
			store(t, s, 1, 300, size)
			check(t, s, 1, 300, size)
			if s.CachedBytes() > cache {
				t.Errorf("cache holds %d bytes, its bound is %d", s.CachedBytes(), cache)
			}
			if got, want := s.Bytes(), int64(300*(size+sealBytes)); got != want {
				t.Errorf("log has %d bytes, want %d", got, want)
			}
			if err := s.DeleteRange(1, 120); err != nil { // compaction
				t.Fatal(err)
			}
			check(t, s, 121, 300, size)
			if err := s.DeleteRange(251, 300); err != nil { // conflict
				t.Fatal(err)
			}
			check(t, s, 121, 250, size)
			store(t, s, 251, 280, size)
			check(t, s, 121, 280, size)
			if err := s.DeleteRange(150, 160); err == nil {
				t.Error("a hole was made")
			}
			if err := errors.Join(s.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, o)
			check(t, s, 121, 280, size)
			if err := s.Verify(context.Background(), 0); err != nil {
				t.Error(err)
			}
			if err := s.Clear(); err != nil {
				t.Fatal(err)
			}
			check(t, s, 0, 0, size)
			store(t, s, 1000, 1010, size) // after an install
			check(t, s, 1000, 1010, size)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			check(t, open(t, dir, o), 1000, 1010, size)
		})
	}
}

func TestStableStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if v, err := s.GetUint64([]byte("CurrentTerm")); err != nil || v != 0 {
		t.Errorf("absent number: %d, %v", v, err)
	}
	if err := errors.Join(s.SetUint64([]byte("CurrentTerm"), 7), s.Set([]byte("LastVoteCand"), []byte("n1")), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if v, err := s.GetUint64([]byte("CurrentTerm")); err != nil || v != 7 {
		t.Errorf("number: %d, %v", v, err)
	}
	if v, err := s.Get([]byte("LastVoteCand")); err != nil || string(v) != "n1" {
		t.Errorf("value: %q, %v", v, err)
	}
}

func TestExtensionsSurvive(t *testing.T) {
	s := open(t, t.TempDir(), Options{CacheBytes: 1})
	l := entry(1, 10)
	l.Extensions = []byte("ext")
	if err := s.StoreLog(l); err != nil {
		t.Fatal(err)
	}
	var got raft.Log
	if err := s.GetLog(1, &got); err != nil || string(got.Extensions) != "ext" {
		t.Errorf("extensions %q, %v", got.Extensions, err)
	}
	if string(l.Extensions) != "ext" {
		t.Error("the caller's entry was changed")
	}
}

// The stored form of an entry is a format, and one of another version is neither served nor called damaged.
func TestVersionOfStoredEntries(t *testing.T) {
	l := &raft.Log{Index: 300, Term: 2, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(1_700_000_000, 5)}
	if got := fmt.Sprintf("%x", seal(l).Extensions); got != "015bb537b4657874" {
		t.Errorf("the form changed: %s", got)
	}
	dir := t.TempDir()
	s := open(t, dir, Options{CacheBytes: 1})
	store(t, s, 1, 3, 10)
	newer := entry(4, 10)
	newer.Extensions = binary.LittleEndian.AppendUint32([]byte{9}, checksum(newer, 9, []byte("more")))
	newer.Extensions = append(newer.Extensions, "more"...)
	if err := s.wal.StoreLogs([]*raft.Log{newer}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{CacheBytes: 1})
	err := s.GetLog(4, new(raft.Log))
	if !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "version 9, this program knows 1") {
		t.Errorf("entry of another version: %v", err)
	}
	if err := s.Verify(t.Context(), 1); !errors.Is(err, ErrVersion) {
		t.Errorf("verify: %v", err)
	}
}

// TestDamageIsNeverServed flips single bits all over the files: each is either harmless or reported.
func TestDamageIsNeverServed(t *testing.T) {
	const size, last = 900, 150
	dir := t.TempDir()
	o := Options{SegmentBytes: 64 << 10, CacheBytes: 1}
	s := open(t, dir, o)
	store(t, s, 1, last, size)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) < 2 {
		t.Fatalf("segments %v, %v", files, err)
	}
	found, flips := 0, 0
	for _, name := range files {
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		used := len(bytes.TrimRight(whole, "\x00"))
		for at := 3; at < used; at += 1021 {
			copied := filepath.Join(t.TempDir(), "log") // a refused log stays locked as long as the process lives
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(whole)
			bad[at] ^= 0x10
			if err := os.WriteFile(filepath.Join(copied, filepath.Base(name)), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			flips++
			found += damaged(t, copied, o, size, last)
		}
	}
	t.Logf("%d flips, %d found, the others without effect", flips, found)
	if found < flips*9/10 {
		t.Errorf("only %d of %d flips were found", found, flips)
	}
}

// damaged reads the whole log and returns 1 when it was refused.
func damaged(t *testing.T, dir string, o Options, size int, last uint64) int {
	t.Helper()
	o.ReserveBytes = -1
	s, err := Open(dir, o)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("open: %v", err)
		}
		return 1
	}
	defer func() { _ = s.Close() }()
	if end, _ := s.LastIndex(); end != last {
		t.Fatalf("the log silently ends at %d", end)
	}
	for i := uint64(1); i <= last; i++ {
		var got raft.Log
		switch err := s.GetLog(i, &got); {
		case errors.Is(err, ErrCorrupt):
			return 1
		case err != nil:
			t.Fatalf("entry %d: %v", i, err)
		case !bytes.Equal(got.Data, entry(i, size).Data) || got.Term != entry(i, size).Term:
			t.Fatalf("entry %d was served wrong", i)
		}
	}
	return 0
}

// TestDamagedMetaIsReported changes and cuts the file with raft's term and vote: mapped unchecked, it would end the
// process or be served wrong.
func TestDamagedMetaIsReported(t *testing.T) {
	dir := t.TempDir()
	o := Options{SegmentBytes: 64 << 10, ReserveBytes: -1}
	s := open(t, dir, o)
	store(t, s, 1, 100, 1000)
	for term := range uint64(20) {
		if err := errors.Join(s.SetUint64([]byte("CurrentTerm"), term), s.Set([]byte("LastVoteCand"), []byte("n1"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, metaFile))
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	found, tries := 0, 0
	try := func(what string, b []byte) {
		t.Helper()
		tries++
		if err := os.WriteFile(filepath.Join(copied, metaFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(copied, o)
		if err != nil {
			found++
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: open: %v", what, err)
			}
			return
		}
		term, termErr := s.GetUint64([]byte("CurrentTerm"))
		vote, voteErr := s.Get([]byte("LastVoteCand"))
		last, lastErr := s.LastIndex()
		if err := errors.Join(termErr, voteErr, lastErr, s.Close()); err != nil || last != 100 || term < 18 || string(vote) != "n1" {
			t.Errorf("%s: served term %d, vote %q, entries up to %d, %v", what, term, vote, last, err)
		}
	}
	for at := 0; at < len(whole); at += 97 {
		if at%4096 > 600 && at%4096 < 3400 && whole[at] == 0 { // unused, mostly
			continue
		}
		bad := bytes.Clone(whole)
		bad[at] ^= 0x04
		try(fmt.Sprintf("byte %d", at), bad)
	}
	for _, text := range []string{"CurrentTerm", "LastVoteCand", "NextSegmentID"} {
		bad := bytes.Clone(whole)
		for at := 0; ; { // every version of the record
			i := bytes.Index(bad[at:], []byte(text))
			if i < 0 {
				break
			}
			at += i + len(text)
			bad[at+6] ^= 0x10
		}
		before := found
		if try("value of "+text, bad); found == before {
			t.Errorf("a changed value of %s was not found", text)
		}
	}
	for _, size := range []int{0, 100, 4096, 4 * 4096, len(whole) - 4096} {
		try(fmt.Sprintf("cut to %d bytes", size), whole[:size])
	}
	t.Logf("%d changes, %d found, the others without effect", tries, found)
	if found < 12 {
		t.Errorf("only %d of %d changes were found", found, tries)
	}
}

func TestMetaOfAnotherVersion(t *testing.T) {
	if got := fmt.Sprintf("%x", sealRecord("stable", []byte("k"), []byte("v"))); got != "01a89d964276" {
		t.Errorf("the form changed: %s", got)
	}
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, metaFile), 0o600, metaOptions())
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		rec := binary.LittleEndian.AppendUint32([]byte{9}, recordSum("stable", []byte("k"), 9, []byte("v")))
		return tx.Bucket(bucketStable).Put([]byte("k"), append(rec, 'v'))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) {
		t.Errorf("open: %v", err)
	}
}

func TestDamagedReachIsReported(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	store(t, s, 1, 4, 10)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, reachFile), []byte("twelve bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("open: %v", err)
	}
}

func TestFormOfReach(t *testing.T) {
	b := appendReach(300)
	if got := fmt.Sprintf("%x", b); got != "010d71fe492c01000000000000" {
		t.Errorf("the form changed: %s", got)
	}
	if index, err := readReach(b); err != nil || index != 300 {
		t.Errorf("read back %d, %v", index, err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 4
		if _, err := readReach(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := readReach(b[:i]); i > 0 && !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	newer := binary.LittleEndian.AppendUint32([]byte{2}, reachSum(2, []byte("anything else")))
	if _, err := readReach(append(newer, "anything else"...)); !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) {
		t.Errorf("another version: %v", err)
	}
}

func TestHoldKeepsThePrefix(t *testing.T) {
	s := open(t, t.TempDir(), Options{SegmentBytes: 64 << 10, HoldBytes: 150 << 10})
	store(t, s, 1, 100, 1000)
	release := s.Hold()
	if err := s.DeleteRange(1, 50); err != nil {
		t.Fatal(err)
	}
	check(t, s, 1, 100, 1000)
	if err := s.DeleteRange(91, 100); err != nil { // a conflict is never held
		t.Fatal(err)
	}
	check(t, s, 1, 90, 1000)
	store(t, s, 91, 200, 1000) // too large to be held
	if err := s.DeleteRange(1, 60); err != nil {
		t.Fatal(err)
	}
	check(t, s, 61, 200, 1000)
	if err := s.DeleteRange(61, 100); err != nil { // held again
		t.Fatal(err)
	}
	check(t, s, 61, 200, 1000)
	release()
	release()
	if err := s.DeleteRange(61, 100); err != nil {
		t.Fatal(err)
	}
	check(t, s, 101, 200, 1000)
}

func TestNewestCountsBytesAndAge(t *testing.T) {
	var x extents
	now := time.Unix(1700000000, 0)
	for i := uint64(1); i <= 60; i++ {
		x.add([]*raft.Log{{Index: i, Data: make([]byte, 1<<20), AppendedAt: now.Add(time.Duration(i) * time.Minute)}})
	}
	if n := x.newest(20<<20, time.Time{}); n < 16 || n > 20 {
		t.Errorf("%d entries of 1 MiB in 20 MiB", n)
	}
	if n := x.newest(1, time.Time{}); n < 1 || n > 5 {
		t.Errorf("%d entries in 1 byte", n)
	}
	if n := x.newest(1<<40, now.Add(31*time.Minute)); n < 26 || n > 30 {
		t.Errorf("%d entries of the last 30 minutes", n)
	}
	x.truncate(1, 31)
	if n := x.newest(1<<40, time.Time{}); n != 29 {
		t.Errorf("%d entries left", n)
	}
}

func TestFullDiskIsRefusedBeforeWriting(t *testing.T) {
	s := open(t, t.TempDir(), Options{ReserveBytes: 1 << 60})
	if err := s.StoreLog(entry(1, 10)); !errors.Is(err, ErrFull) {
		t.Errorf("store: %v", err)
	}
	check(t, s, 0, 0, 10)
}

func TestRoomGoesInSteps(t *testing.T) {
	free := int64(0)
	s := open(t, t.TempDir(), Options{SegmentBytes: 64 << 10, ReserveBytes: 1000, FreeBytes: func(string) (int64, error) { return free, nil }})
	next := uint64(1)
	for _, k := range []struct {
		free int64
		room Room
	}{{1000 + 64<<10, RoomAmple}, {1000 + 64<<10 - 1, RoomTight}, {1000, RoomTight}, {999, RoomControl}, {500, RoomControl}, {499, RoomNone}, {0, RoomNone}} {
		free = k.free
		room, err := s.Room()
		if room != k.room || errors.Is(err, ErrFull) != (room >= RoomControl) {
			t.Errorf("%d bytes free are room %d, %v", k.free, room, err)
		}
		if err := s.StoreLog(entry(next, 10)); errors.Is(err, ErrFull) != (room == RoomNone) {
			t.Errorf("%d bytes free: append: %v", k.free, err)
		} else if err == nil {
			next++
		}
	}
}

func TestWritingTellsHowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(Store)
		if d := s.Writing(); d != 0 {
			t.Errorf("idle log has been writing for %v", d)
		}
		first := s.writes.begin()
		time.Sleep(time.Minute)
		second := s.writes.begin() // as when a new leader's term is stored while entries hang
		time.Sleep(time.Second)
		if d := s.Writing(); d != time.Minute+time.Second {
			t.Errorf("writing for %v", d)
		}
		first()
		if d := s.Writing(); d != time.Second {
			t.Errorf("writing for %v when only the second is left", d)
		}
		second()
		if d := s.Writing(); d != 0 {
			t.Errorf("still writing for %v", d)
		}
	})
}

func BenchmarkStoreLogs(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			s, err := Open(b.TempDir(), Options{ReserveBytes: -1})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			b.SetBytes(int64(8 * size))
			next := uint64(1)
			for b.Loop() {
				batch := make([]*raft.Log, 8)
				for i := range batch {
					batch[i] = entry(next, size)
					next++
				}
				if err := s.StoreLogs(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// After an install raft clears the log but goes on from the last entry it had: what continues the image must stay, and
// the term of the entry before it be known.
func TestLogThatGoesOnFromAnImage(t *testing.T) {
	const term = 3
	fill := func(t *testing.T, from, to uint64) *Store {
		t.Helper()
		s := open(t, t.TempDir(), Options{})
		var logs []*raft.Log
		for i := from; i <= to; i++ {
			logs = append(logs, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: []byte("x")})
		}
		if err := s.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		name        string
		from, to    uint64 // of the log
		index, term uint64 // of the image
		goesOn      bool
		first, last uint64 // afterwards
	}{
		{"image within the log", 100, 110, 105, term, true, 106, 110},
		{"log right behind the image", 106, 110, 105, term, true, 106, 110},
		{"image at the end of the log", 100, 105, 105, term, true, 0, 0},
		{"image behind the log", 100, 104, 105, term, true, 0, 0},
		{"another entry in the image's place", 100, 110, 105, term + 1, false, 0, 0},
		{"a gap", 107, 110, 105, term, false, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := fill(t, c.from, c.to)
			if goesOn, err := s.Follow(c.index, c.term, true); err != nil || goesOn != c.goesOn {
				t.Fatalf("goes on: %t, %v", goesOn, err)
			}
			if err := s.DeleteRange(c.from, c.to); err != nil {
				t.Fatal(err)
			}
			first, _ := s.FirstIndex()
			last, _ := s.LastIndex()
			if first != c.first || last != c.last {
				t.Errorf("entries %d to %d, want %d to %d", first, last, c.first, c.last)
			}
			var l raft.Log
			if err := s.GetLog(c.index, &l); err != nil || l.Index != c.index || l.Term != c.term || l.Data != nil {
				t.Errorf("the entry before the log: %+v, %v", l, err)
			}
			if err := s.GetLog(c.index-1, &l); !errors.Is(err, raft.ErrLogNotFound) {
				t.Errorf("an older entry: %v", err)
			}
			if c.last > 0 {
				if err := s.DeleteRange(c.first, c.last); err != nil { // any later clearing clears
					t.Fatal(err)
				}
				if last, _ := s.LastIndex(); last != 0 {
					t.Errorf("cleared up to %d", last)
				}
			}
		})
	}
}
