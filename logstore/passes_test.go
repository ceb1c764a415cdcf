package logstore

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// What was done is counted, nothing is left under way, and what waits is told.
func TestPassesAreCounted(t *testing.T) {
	m := newModel(5)
	s := testStore(t, t.TempDir(), Options{SealBytes: 2 << 10})
	m.apply(t, s, 40)
	if w := s.Waiting(); w.InboxBytes == 0 {
		t.Errorf("%+v waits before anything is sealed", w)
	}
	for range 3 {
		m.apply(t, s, 20)
		work(t, s, true)
	}
	for _, p := range s.Passes() {
		if p.Begun == 0 || p.Finished != p.Begun || p.Failed != 0 {
			t.Errorf("%v: %+v", p.Pass, p)
		}
	}
	if w := s.Waiting(); w.InboxBytes != 0 || w.Unindexed != 0 || w.Rebuilds != 0 {
		t.Errorf("%+v waits after all was done", w)
	}
}

// A pass that does not come to its end is no finished one, and the next one is. What waits to be sealed is several times what Pebble
// holds in memory, so that sealing it needs a new file, which a full disk refuses.
func TestPassThatFailsIsCounted(t *testing.T) {
	const memory = 64 << 10
	m := newModel(8)
	fs, full := fullDisk()
	s := testStore(t, t.TempDir(), Options{FS: fs, NoIndex: true, SealBytes: 1, MemTableBytes: memory})
	for s.Waiting().InboxBytes < 4*memory {
		m.apply(t, s, 10)
	}
	full.Store(true)
	if err := s.Work(t.Context(), true); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("work on a full disk: %v", err)
	}
	full.Store(false)
	flushed(t, s)
	if p := s.Passes()[PassSeal]; p.Failed == 0 || p.Begun != p.Finished+p.Failed {
		t.Errorf("on a full disk: %+v", p)
	}
	work(t, s, true)
	for _, p := range s.Passes() {
		if p.Begun != p.Finished+p.Failed || p.Pass == PassSeal && p.Finished == 0 {
			t.Errorf("%v: %+v after all have ended", p.Pass, p)
		}
	}
}

// The parts are all of the disk, and blocks are in theirs.
func TestPartsAreTheWholeDisk(t *testing.T) {
	m := newModel(7)
	s := testStore(t, t.TempDir(), Options{})
	for range 4 {
		m.apply(t, s, 60)
		work(t, s, true)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	by := map[string]int64{}
	add := func() error {
		whole, err := s.DiskBytes()
		if err != nil {
			return err
		}
		parts, err := s.Parts()
		if err != nil {
			return err
		}
		var sum int64
		for _, p := range parts {
			sum += p.Bytes
			by[p.Name] = p.Bytes
		}
		if diff := sum - whole; diff < -int64(len(parts)) || diff > 0 {
			return fmt.Errorf("parts %v are %d bytes together, the store %d", parts, sum, whole)
		}
		return nil
	}
	err := add()
	for begin := time.Now(); err != nil && time.Since(begin) < time.Minute; { // files came and went meanwhile
		err = add()
	}
	if err != nil {
		t.Error(err)
	}
	for _, name := range []string{"columns", "text", "filter", "index"} {
		if by[name] == 0 {
			t.Errorf("no bytes of %s: %v", name, by)
		}
	}
}
