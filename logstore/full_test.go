package logstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// fullDisk is a file system whose disk takes no new data while full is set. What is noted in Pebble's manifest and of floors is
// so little that it goes in nevertheless.
func fullDisk() (fs vfs.FS, full *atomic.Bool) {
	full = new(atomic.Bool)
	data := func(name string) bool {
		base := filepath.Base(name)
		return !strings.HasPrefix(base, "MANIFEST") && !strings.HasPrefix(base, floorsFile)
	}
	return smallDisk{vfs.NewMem(), data, func(int64) bool { return !full.Load() }}, full
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

// inTables counts the rows of a day that are in tables.
func (e *engine) inTables(t *testing.T, d int64, prefixes string) (n int) {
	t.Helper()
	for _, p := range []byte(prefixes) {
		it, err := e.db.NewIter(&pebble.IterOptions{
			LowerBound: dayPrefix(p, d), UpperBound: dayPrefix(p, d+1), OnlyReadGuaranteedDurable: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			n++
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// Others have taken the last byte of the disk. What retention drops must be freed all the same, and what of it is still
// in memory must not come back.
func TestRetentionFreesAFullDisk(t *testing.T) {
	m := newModel(25)
	fs, full := fullDisk()
	s := testStore(t, t.TempDir(), Options{FS: fs})
	m.apply(t, s, 60)
	work(t, s, true)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if e.inTables(t, testDay, "hcxfs") == 0 {
		t.Fatal("nothing to drop")
	}
	full.Store(true)
	floor := (testDay + 1) * DayNs
	s.SetFloor(floor)
	if err := soon(t, "background work", func() error { return s.Work(t.Context(), false) }); err != nil {
		t.Fatal(err)
	}
	if n := e.inTables(t, testDay, "hcxfs"); n != 0 {
		t.Errorf("%d rows of the dropped day are still there", n)
	}
	m.check(t, s, 10, floor)

	// Of the next day some blocks are in memory only.
	m.apply(t, s, 30)
	if err := soon(t, "background work", func() error { return s.Work(t.Context(), true) }); err != nil {
		t.Fatal(err)
	}
	floor += DayNs
	s.SetFloor(floor)
	if err := soon(t, "background work", func() error { return s.Work(t.Context(), false) }); err != nil {
		t.Fatal(err)
	}
	m.check(t, s, 10, floor)
	full.Store(false)
	flushed(t, s)
	for d := testDay; d < testDay+2; d++ {
		if n := e.inTables(t, d, "hcxfmsd"); n != 0 {
			t.Errorf("%d rows of day %d are left", n, d)
		}
	}
	for _, p := range []byte("hcxfmsd") {
		if days, err := e.days(e.db, p, false); err != nil || len(days) > 0 && days[0] != testDay+2 {
			t.Errorf("days of %c: %v %v", p, days, err)
		}
	}
	m.check(t, s, 10, floor)
}

// While a full disk takes no flush, writers are told so before Pebble makes them wait: whoever waits there keeps
// everybody else from flushing, pausing and dropping.
func TestFullDiskHoldsNobodyUp(t *testing.T) {
	m := newModel(26)
	fs, full := fullDisk()
	s := testStore(t, t.TempDir(), Options{FS: fs, MemTableBytes: 64 << 10})
	m.apply(t, s, 40)
	work(t, s, true)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	var err error
	for i := 0; err == nil && i < 10_000; i++ {
		m.entry()
		err = soon(t, "apply", func() error { return s.ApplyLogs(m.index, m.entries) })
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("apply on a full disk gives %v", err)
	}
	if err := soon(t, "flush", func() error { return s.Flush(t.Context()) }); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("flush on a full disk gives %v", err)
	}
	if err := soon(t, "cut", func() error { return s.Cut(filepath.Join(t.TempDir(), "cut")) }); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a copy on a full disk gives %v", err)
	}
	e, release, aerr := s.acquire()
	if aerr != nil {
		t.Fatal(aerr)
	}
	defer release()
	floor := (testDay + 1) * DayNs
	s.SetFloor(floor)
	// Sealing has no room in memory and says so; dropping needs none.
	if err := soon(t, "background work", func() error { return s.Work(t.Context(), true) }); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if n := e.inTables(t, testDay, "hcxf"); n != 0 {
		t.Errorf("%d rows of the dropped day are still there", n)
	}
	full.Store(false)
	flushed(t, s)
	m.replay(t, s)
	m.check(t, s, 10, floor)
	work(t, s, true)
	m.check(t, s, 10, floor)
}

// A day that is dropped takes its bytes with it, also those that came to disk together with the bytes of other days.
func TestDroppedDayLeavesNothingOnDisk(t *testing.T) {
	fs := vfs.NewMem()
	dir := t.TempDir()
	s := testStore(t, dir, Options{FS: fs, NoIndex: true})
	rng := rand.New(rand.NewPCG(27, 27))
	index := uint64(0)
	for range 2 {
		for d := range int64(3) {
			b := &wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"unit": "a"})}}}
			for i := range int64(300) {
				text := make([]byte, 1<<10)
				for k := range text {
					text[k] = byte(rng.Uint32())
				}
				b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{T: (testDay+d)*DayNs + i, Text: text})
			}
			index++
			if err := s.ApplyLogs(index, []wire.LogEntry{{Index: index, Batches: []wire.AcceptedLogs{{Batch: b}}}}); err != nil {
				t.Fatal(err)
			}
		}
		work(t, s, true)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.SetFloor((testDay + 2) * DayNs)
	work(t, s, false)
	if err := s.Close(); err != nil { // what is obsolete is removed behind
		t.Fatal(err)
	}
	names, err := fs.List(filepath.Join(dir, "pebble"))
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, name := range names {
		info, err := fs.Stat(filepath.Join(dir, "pebble", name))
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	if day := int64(2 * 300 << 10); sum > day*3/2 {
		t.Errorf("%d KiB are on disk, a day has %d KiB", sum>>10, day>>10)
	}
}

// Lines that are cut while the events of their day are kept take their bytes with them, and their words.
func TestCutLinesOfADayLeaveNothingOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, Options{})
	rng := rand.New(rand.NewPCG(28, 28))
	var lines []wire.LogLine
	for i := range int64(2000) {
		text := make([]byte, 1<<10)
		for k := range text {
			text[k] = "abcdefghijklmnopqrstuvwxyz     "[rng.IntN(31)]
		}
		lines = append(lines, wire.LogLine{T: testDay*DayNs + i, Text: text})
	}
	b := &wire.LogBatch{Streams: []wire.LogStream{
		{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"unit": "a"}), Lines: lines},
		{Kind: wire.StreamEvent, Labels: wire.LabelsFromMap(map[string]string{"unit": "b"}), Lines: []wire.LogLine{{T: testDay * DayNs, Text: []byte("precious event")}}},
	}}
	if err := s.ApplyLogs(1, []wire.LogEntry{{Index: 1, Batches: []wire.AcceptedLogs{{Batch: b}}}}); err != nil {
		t.Fatal(err)
	}
	work(t, s, true)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, err := s.DiskBytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = testStore(t, dir, Options{}) // what is in use is known after a start too
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Passing(); n > before/20 {
		t.Errorf("%d of %d bytes pass although all is in use", n, before)
	}
	reader, err := e.db.NewIter(nil) // as a search under way has one
	release()
	if err != nil {
		t.Fatal(err)
	}
	s.SetKindFloor(wire.StreamLog, (testDay+1)*DayNs)
	if pending, err := s.Pending(); err != nil || !pending {
		t.Errorf("pending: %v %v", pending, err)
	}
	work(t, s, false)
	if pending, err := s.Pending(); err != nil || pending {
		t.Errorf("pending after the work: %v %v", pending, err)
	}
	if n := s.Passing(); n < 1<<20 { // of random letters, which are packed to two thirds
		t.Errorf("%d of %d bytes pass while a reader holds them", n, before)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	page, err := s.Search(t.Context(), Request{Filter: query.Phrase("precious", false), Start: minTime, End: maxTime, Limit: 10})
	if err != nil || len(page.Rows) != 1 {
		t.Errorf("the event: %v %v", page, err)
	}
	if err := s.Close(); err != nil { // what is obsolete is removed behind
		t.Fatal(err)
	}
	after := int64(0)
	for _, kind := range []string{"pebble", "index"} {
		if err := filepath.WalkDir(filepath.Join(dir, kind), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil && !strings.Contains(path, "OPTIONS") {
				after += info.Size()
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if after > before/4 {
		t.Errorf("%d KiB of %d are on disk", after>>10, before>>10)
	}
	t.Logf("%d KiB of %d are on disk", after>>10, before>>10)
}

// Pebble begins to flush a large batch before its commit returns. What that flush took must not be taken for being in
// memory still: Apply would wait for the next flush, and the next mark for Apply.
func TestFlushDuringACommitCountsIt(t *testing.T) {
	var p pressure
	var l pebble.EventListener
	p.listen(&l)
	err := p.counted(64<<20, func() error {
		l.FlushBegin(pebble.FlushInfo{})
		l.FlushEnd(pebble.FlushInfo{})
		return nil
	})
	if n := p.written.Load() - p.flushed.Load(); err != nil || n != 0 {
		t.Errorf("%d bytes are waited for: %v", n, err)
	}
	if err := p.counted(5, func() error { return errStop }); !errors.Is(err, errStop) || p.written.Load() != 64<<20 {
		t.Errorf("a write that failed is counted: %d, %v", p.written.Load(), err)
	}
}

// Neither the name of its index nor anything else that is damaged in a day keeps it from being dropped.
func TestDamagedDayIsDropped(t *testing.T) {
	m := newModel(29)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 30)
	work(t, s, true)
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := e.db.Set(dayPrefix(prefixIndex, testDay), []byte("\x01no name of an index"), pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	floor := (testDay + 1) * DayNs
	s.SetFloor(floor)
	work(t, s, false)
	for _, p := range []byte("hcxfmsd") {
		if days, err := e.days(e.db, p, false); err != nil || len(days) > 0 && days[0] == testDay {
			t.Errorf("days of %c: %v %v", p, days, err)
		}
	}
	m.check(t, s, 10, floor)
}
