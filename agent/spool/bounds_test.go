package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
)

// TestUnreadableFilesAreDamage: a file that the disk does not give back sets the spool aside; the agent starts. A
// folder in place of the file gives the read error without a broken disk.
func TestUnreadableFilesAreDamage(t *testing.T) {
	for _, name := range []string{"logs/0000000000000001.seg", "series", "epoch", "acks"} {
		dir := filepath.Join(t.TempDir(), "spool")
		s := open(t, dir, Options{})
		number(t, s, "up")
		add(t, s, wire.LaneMetrics, 1, 1)
		add(t, s, wire.LaneLogs, 1, 2)
		s.Close()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
		s, damage, err := OpenOrReplace(dir, Options{}, time.Unix(0, 0))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if damage == nil || !errors.Is(damage.Cause, ErrDamaged) {
			t.Errorf("%s: damage %+v", name, damage)
		}
		add(t, s, wire.LaneLogs, 3, 3)
		if got := bodies(t, s, wire.LaneLogs); got != "batch 3 " {
			t.Errorf("%s: the new spool holds %q", name, got)
		}
		s.Close()
	}
}

// TestUnreadableBatchIsDamage: the disk loses a sector while the agent runs.
func TestUnreadableBatchIsDamage(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	add(t, s, wire.LaneLogs, 1, 2)
	l := s.lane(wire.LaneLogs)
	deaf, err := os.OpenFile(l.segments[0].path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.reading, l.readOf = deaf, l.segments[0]
	if _, err := s.Read(wire.LaneLogs, 1, 10, 1<<20); !errors.Is(err, ErrDamaged) {
		t.Errorf("read of a batch that cannot be read: %v", err)
	}
}

// badSectors is a disk that does not give back some bytes.
type badSectors struct {
	b        []byte
	from, to int64
}

func (d *badSectors) ReadAt(p []byte, off int64) (int, error) {
	if off < d.to && off+int64(len(p)) > d.from {
		return 0, errors.New("input/output error")
	}
	return copy(p, d.b[off:]), nil
}

func TestSalvageReadsAroundBadSectors(t *testing.T) {
	whole := bytes.Repeat([]byte("0123456789abcdef"), 60_000)
	got := readable(&badSectors{whole, 300_000, 300_001}, int64(len(whole)))
	const bad = 300_000 / sector * sector
	want := append([]byte{}, whole...)
	clear(want[bad : bad+sector])
	if !bytes.Equal(got, want) {
		t.Error("more is lost than the bad sector")
	}
}

// many are the positions of n sources of about size bytes each.
func many(n, size int, fill string) []StateChange {
	out := make([]StateChange, n)
	for i := range out {
		out[i] = StateChange{fmt.Sprintf("file/%d", i), []byte(strings.Repeat(fill, size))}
	}
	return out
}

// TestPositionsOfManySources: the state is larger than any record; it is written, carried from segment to segment,
// and there after a restart.
func TestPositionsOfManySources(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	want := many(1000, 8<<10, "a")
	if err := s.AppendState(wire.LaneLogs, want); err != nil {
		t.Fatal(err)
	}
	c := content(1)
	c.Body = make([]byte, 400<<10)
	c.RawLen = len(c.Body)
	c.Hash = wire.HashContent(c.Body)
	for n := 1; n <= 40; n++ {
		if err := s.Append(wire.LaneLogs, c); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Lanes["logs"].Files; n < 2 || n > 4 {
		t.Errorf("%d files", n)
	}
	s.Close()
	s = open(t, dir, Options{})
	st := s.State(wire.LaneLogs)
	if len(st) != len(want)+1 || string(st["file/999"]) != string(want[999].Value) {
		t.Errorf("%d positions after a restart", len(st))
	}
	if acked, next := s.Position(wire.LaneLogs); acked != 0 || next != 41 {
		t.Errorf("position %d, %d", acked, next)
	}

	// A segment whose head is cut short is damage, never a smaller state.
	g := s.lane(wire.LaneLogs).segments[len(s.lane(wire.LaneLogs).segments)-1]
	path, head := g.path, g.head
	s.Close()
	if err := os.Truncate(path, head-1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("head cut short: %v", err)
	}
}

// TestSmallSpoolWithManySources: positions larger than the lane may be do not keep batches out.
func TestSmallSpoolWithManySources(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxBytes: MinMaxBytes})
	limit := int(s.lane(wire.LaneLogs).limit)
	if err := s.AppendState(wire.LaneLogs, many(2*limit>>10, 1<<10, "a")); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 60; n++ {
		if err := s.Append(wire.LaneLogs, content(n)); err != nil {
			t.Fatalf("batch %d: %v", n, err)
		}
		if err := s.Ack(wire.LaneLogs, uint64(n)); err != nil {
			t.Fatal(err)
		}
	}
	if b := s.Stats().Lanes["logs"].Bytes; b > int64(5*limit) {
		t.Errorf("%d bytes on disk", b)
	}
}

// TestAcknowledgedSegmentMakesRoom: a lane whose newest segment fills it goes on once all of it is acknowledged.
func TestAcknowledgedSegmentMakesRoom(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxBytes: MinMaxBytes})
	c := content(1)
	c.Body = make([]byte, 20<<10)
	c.RawLen = len(c.Body)
	for n := uint64(1); n <= 10; n++ {
		if err := s.Append(wire.LaneEvents, c); err != nil {
			t.Fatalf("batch %d: %v", n, err)
		}
		if err := s.Ack(wire.LaneEvents, n); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTooLarge: what no waiting makes fit is told apart from a full lane.
func TestTooLarge(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxBytes: MinMaxBytes})
	big := func(n int, changes []StateChange) Content {
		c := content(1)
		c.Body, c.RawLen, c.Changes = make([]byte, n), n, changes
		return c
	}
	for name, err := range map[string]error{
		"batch":        s.Append(wire.LaneLogs, big(wire.MaxBatchRaw+1, nil)),
		"for its lane": s.Append(wire.LaneEvents, big(60<<10, nil)),
		"positions":    s.Append(wire.LaneLogs, big(1, many(300, 8<<10, "a"))),
		"position":     s.Append(wire.LaneLogs, big(1, many(1, maxChange, "a"))),
		"state":        s.AppendState(wire.LaneLogs, many(1, maxChange, "a")),
	} {
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Append(wire.LaneLogs, content(1)); err != nil {
		t.Error(err)
	}
}
