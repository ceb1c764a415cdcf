package logstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// fullDisk is a file system whose disk takes no new data while full is set. What Pebble notes in its manifest is so
// little that it goes in nevertheless.
func fullDisk() (fs vfs.FS, full *atomic.Bool) {
	full = new(atomic.Bool)
	fs = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpFileWrite) && !strings.HasPrefix(filepath.Base(op.Path), "MANIFEST") {
			return syscall.ENOSPC
		}
		return nil
	}))
	return fs, full
}

// soon fails the test when fn has not returned after much more than it may take.
func soon(t *testing.T, what string, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		t.Fatalf("%s does not return", what)
		return nil
	}
}

// flushed flushes until a disk that was full takes it: Pebble tries again by itself.
func flushed(t *testing.T, s *Store) {
	t.Helper()
	for i := 0; ; i++ {
		err := s.Flush(t.Context())
		if err == nil {
			return
		}
		if !errors.Is(err, syscall.ENOSPC) || i > 100 {
			t.Fatal(err)
		}
	}
}

func TestFullDiskIsRecognised(t *testing.T) {
	m := newModel(23)
	fs, full := fullDisk()
	s := testStore(t, t.TempDir(), Options{FS: fs})
	m.apply(t, s, 5)
	full.Store(true)
	for range 2 {
		if err := soon(t, "flush", func() error { return s.Flush(t.Context()) }); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("flush on a full disk gives %v", err)
		}
	}
	m.check(t, s, 5, minTime)
	full.Store(false)
	flushed(t, s)
	m.apply(t, s, 5)
	m.check(t, s, 5, minTime)
}

// A compaction or a look at a table's statistics that fails while a flush is under way is no failure of the flush. What
// of it tells of damage is reported as such, and damage that a flush itself meets is returned as such.
func TestFlushFailsForItsOwnReasonsOnly(t *testing.T) {
	var told []*DamageError
	var hold, harm atomic.Bool
	held, goOn := make(chan struct{}), make(chan struct{})
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind != errorfs.OpCreate || filepath.Ext(op.Path) != ".sst" {
			return nil
		}
		if hold.Swap(false) {
			close(held)
			<-goOn
		}
		if harm.Load() {
			return fmt.Errorf("what is flushed: %w", pebble.ErrCorruption)
		}
		return nil
	}))
	s := testStore(t, t.TempDir(), Options{FS: fs, OnDamage: func(d *DamageError) { told = append(told, d) }})
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	m := newModel(28)
	m.apply(t, s, 5)
	hold.Store(true)
	done := make(chan error, 1)
	go func() { done <- s.Flush(t.Context()) }()
	<-held
	e.background(errors.New("a compaction failed"))
	if len(told) != 0 {
		t.Errorf("told of %v", told)
	}
	e.background(fmt.Errorf("a compaction failed: %w", pebble.ErrCorruption))
	if len(told) != 1 || !errors.Is(told[0], ErrDamaged) {
		t.Errorf("told of %v", told)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Errorf("a flush beside failing compactions gives %v", err)
	}

	m.apply(t, s, 5)
	harm.Store(true)
	if err := s.Flush(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flush that meets damage gives %v", err)
	}
	harm.Store(false)
	for i := 0; s.Flush(t.Context()) != nil; i++ {
		if i > 100 {
			t.Fatal("the flush is not tried again")
		}
	}
	m.check(t, s, 5, minTime)
}
