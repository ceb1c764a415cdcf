package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
)

func open(t *testing.T, dir string, opt Options) *Spool {
	t.Helper()
	s, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// content makes a batch whose body tells n and whose state remembers it.
func content(n int) Content {
	body := fmt.Appendf(nil, "batch %d ", n)
	return Content{
		Hash: wire.HashContent(body), RawLen: len(body), Body: body, Items: 2,
		Changes: []StateChange{{Key: "pos", Value: fmt.Append(nil, n)}},
	}
}

func add(t *testing.T, s *Spool, lane wire.Lane, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		if err := s.Append(lane, content(n)); err != nil {
			t.Fatalf("append %d: %v", n, err)
		}
	}
}

func bodies(t *testing.T, s *Spool, lane wire.Lane) string {
	t.Helper()
	acked, _ := s.Position(lane)
	batches, err := s.Read(lane, acked+1, 1000, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for i, b := range batches {
		if b.Seq != acked+1+uint64(i) || b.Lane != lane || b.Epoch != s.Epoch() {
			t.Fatalf("batch %d has identity %+v", i, b.Identity)
		}
		if b.Hash != wire.HashContent(b.Body) {
			t.Fatalf("batch %d has the hash of another content", i)
		}
		out.Write(b.Body)
	}
	return out.String()
}

func TestAppendReadAckReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	epoch := s.Epoch()
	add(t, s, wire.LaneLogs, 1, 5)
	add(t, s, wire.LaneMetrics, 1, 2)
	if err := s.Ack(wire.LaneLogs, 2); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if s.Epoch() != epoch {
		t.Error("a restart changed the epoch")
	}
	if acked, next := s.Position(wire.LaneLogs); acked != 2 || next != 6 {
		t.Errorf("position %d, %d after restart", acked, next)
	}
	if got := bodies(t, s, wire.LaneLogs); got != "batch 3 batch 4 batch 5 " {
		t.Errorf("read %q", got)
	}
	if got := string(s.State(wire.LaneLogs)["pos"]); got != "5" {
		t.Errorf("state %q", got)
	}
	if n := s.NextAtOpen(wire.LaneLogs); n != 6 {
		t.Errorf("next at open %d", n)
	}
	if err := s.Ack(wire.LaneLogs, 6); err == nil {
		t.Error("an acknowledgement beyond the end was taken")
	}
	if err := s.Ack(wire.LaneLogs, 1); err != nil {
		t.Errorf("a repeated acknowledgement: %v", err)
	}
}

func TestOnlyOneProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
}

func TestSegmentsAreRemovedWhenAcknowledged(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxBytes: MinMaxBytes})
	big := content(1)
	big.Body = make([]byte, 20<<10)
	big.RawLen = len(big.Body)
	for range 20 {
		if err := s.Append(wire.LaneLogs, big); err != nil {
			t.Fatal(err)
		}
	}
	before := s.Stats().Lanes["logs"]
	if err := s.Ack(wire.LaneLogs, 20); err != nil {
		t.Fatal(err)
	}
	after := s.Stats().Lanes["logs"]
	if before.Files < 4 || after.Files != 1 || after.Bytes >= before.Bytes/2 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// copyDir copies a spool as a dead process leaves it.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// TestCutAtAnyByte: whatever the length at which writing stopped, the spool opens with a prefix of its batches, and
// the state is that of the last one.
func TestCutAtAnyByte(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	s := open(t, base, Options{})
	add(t, s, wire.LaneLogs, 1, 4)
	s.Close()
	seg := filepath.Join("logs", fmt.Sprintf("%016x.seg", 1))
	whole, err := os.ReadFile(filepath.Join(base, seg))
	if err != nil {
		t.Fatal(err)
	}
	_, head, err := nextRecord(whole)
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	for n := head; n <= len(whole); n++ {
		dir := filepath.Join(t.TempDir(), "cut")
		copyDir(t, base, dir)
		if err := os.Truncate(filepath.Join(dir, seg), int64(n)); err != nil {
			t.Fatal(err)
		}
		c, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		_, next := c.Position(wire.LaneLogs)
		k := int(next - 1)
		want, state := "", ""
		for i := 1; i <= k; i++ {
			want += fmt.Sprintf("batch %d ", i)
			state = fmt.Sprint(i)
		}
		if got := bodies(t, c, wire.LaneLogs); got != want || string(c.State(wire.LaneLogs)["pos"]) != state {
			t.Fatalf("cut at %d: read %q with state %q", n, got, c.State(wire.LaneLogs)["pos"])
		}
		if k < last {
			t.Fatalf("cut at %d: fewer batches than at %d", n, n-1)
		}
		last = k
		add(t, c, wire.LaneLogs, k+1, k+1) // and it can be written on
		if got := bodies(t, c, wire.LaneLogs); got != want+fmt.Sprintf("batch %d ", k+1) {
			t.Fatalf("cut at %d: after another append %q", n, got)
		}
		c.Close()
	}
	if last != 4 {
		t.Errorf("the whole file gave %d batches", last)
	}
}

// TestDamageOfBytes: a changed byte is found, or cuts off the last record; and the agent starts in any case.
func TestDamageOfBytes(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	s := open(t, base, Options{})
	add(t, s, wire.LaneLogs, 1, 3)
	number(t, s, "up")
	number(t, s, "down")
	add(t, s, wire.LaneMetrics, 1, 1)
	s.Close()
	for _, name := range []string{"logs/0000000000000001.seg", "series", "epoch"} {
		whole, err := os.ReadFile(filepath.Join(base, name))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(whole); i += 3 { // each field of a record is hit
			dir := filepath.Join(t.TempDir(), "spool")
			copyDir(t, base, dir)
			b := append([]byte{}, whole...)
			b[i] ^= 0x41
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			c, damage, err := OpenOrReplace(dir, Options{}, time.Unix(0, 0))
			if err != nil {
				t.Fatalf("%s byte %d: %v", name, i, err)
			}
			got := bodies(t, c, wire.LaneLogs)
			switch {
			case damage != nil && (got != "" || c.Epoch() == s.Epoch()):
				t.Fatalf("%s byte %d: a new spool holds %q", name, i, got)
			case damage == nil && !strings.HasPrefix("batch 1 batch 2 batch 3 ", got):
				t.Fatalf("%s byte %d: read %q", name, i, got)
			case damage == nil && name != "series" && got != "batch 1 batch 2 ":
				t.Fatalf("%s byte %d: damage of an inner record was not found: %q", name, i, got)
			}
			if damage != nil {
				if _, err := os.Stat(damage.SetAside); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
		}
	}
}

// TestDamageKeepsPositions: the readable positions of a damaged spool go on, so that files are not read twice.
func TestDamageKeepsPositions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, dir, Options{})
	add(t, s, wire.LaneLogs, 1, 3)
	s.Close()
	seg := filepath.Join(dir, "logs", fmt.Sprintf("%016x.seg", 1))
	b, err := os.ReadFile(seg)
	if err != nil {
		t.Fatal(err)
	}
	b[strings.Index(string(b), "batch 2")] ^= 1
	if err := os.WriteFile(seg, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, damage, err := OpenOrReplace(dir, Options{}, time.Unix(0, 0))
	if err != nil || damage == nil {
		t.Fatalf("damage %v, %v", damage, err)
	}
	defer s.Close()
	if got := string(s.State(wire.LaneLogs)["pos"]); got != "3" || damage.Positions != 1 {
		t.Errorf("position %q, %d taken over", got, damage.Positions)
	}
	if len(DamagedBeside(dir)) != 1 {
		t.Error("the damaged spool is not listed")
	}
}

func number(t *testing.T, s *Spool, name string) uint64 {
	t.Helper()
	n, err := s.Number(wire.Labels{{Name: "__name__", Value: name}}.AppendKey(nil))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSeriesNumbersOutliveRestarts(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{MaxSeries: 3})
	if a, b, again := number(t, s, "a"), number(t, s, "b"), number(t, s, "a"); a != 1 || b != 2 || again != 1 {
		t.Errorf("numbers %d %d %d", a, b, again)
	}
	add(t, s, wire.LaneMetrics, 1, 1) // makes them durable
	number(t, s, "lost")              // used by no batch
	s.Close()
	s = open(t, dir, Options{MaxSeries: 3})
	if ls, ok := s.SeriesLabels(2); !ok || ls.Get("__name__") != "b" {
		t.Errorf("labels of 2: %v %v", ls, ok)
	}
	if _, ok := s.SeriesLabels(3); ok {
		t.Error("a number that no batch uses was kept")
	}
	if n := number(t, s, "c"); n != 3 {
		t.Errorf("c has number %d", n)
	}
	if _, err := s.Number(wire.Labels{{Name: "__name__", Value: "d"}}.AppendKey(nil)); !errors.Is(err, ErrSeriesFull) {
		t.Errorf("a full dictionary answered %v", err)
	}
	g := s.Generation()
	if err := s.ReclaimSeries(); err != nil || s.Generation() != g {
		t.Errorf("numbers that a waiting batch uses were reclaimed: %v", err)
	}
	if err := s.Ack(wire.LaneMetrics, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.ReclaimSeries(); err != nil || s.Generation() == g {
		t.Errorf("numbers were not reclaimed: %v", err)
	}
	if n := number(t, s, "d"); n != 1 {
		t.Errorf("d has number %d", n)
	}
}

func TestNewEpochCarriesOver(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	add(t, s, wire.LaneLogs, 1, 5)
	if err := s.Ack(wire.LaneLogs, 3); err != nil {
		t.Fatal(err)
	}
	old := s.Epoch()
	e, err := s.NewEpoch()
	if err != nil || e == old || s.Epoch() != e {
		t.Fatalf("epoch %s, was %s: %v", e, old, err)
	}
	check := func() {
		t.Helper()
		if acked, next := s.Position(wire.LaneLogs); acked != 0 || next != 3 {
			t.Errorf("position %d, %d", acked, next)
		}
		if got := bodies(t, s, wire.LaneLogs); got != "batch 4 batch 5 " {
			t.Errorf("carried over %q", got)
		}
	}
	check()
	s.Close()
	s = open(t, dir, Options{})
	if s.Epoch() != e {
		t.Error("the new epoch is not durable")
	}
	check()
}

// TestFullLanes: logs push back; metrics give up what can not have been sent, counted, with sequences exact.
func TestFullLanes(t *testing.T) {
	dir := t.TempDir()
	var drops []Drop
	s := open(t, dir, Options{MaxBytes: MinMaxBytes, OnDrop: func(d Drop) { drops = append(drops, d) }})
	c := content(1)
	c.Body = make([]byte, 2<<10)
	c.RawLen = len(c.Body)
	c.Hash = wire.HashContent(c.Body)
	var err error
	for err == nil {
		err = s.Append(wire.LaneLogs, c)
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("full lane of logs: %v", err)
	}
	for range 300 {
		if err := s.Append(wire.LaneMetrics, c); err != nil {
			t.Fatalf("metrics: %v", err)
		}
	}
	if len(drops) == 0 || drops[0].From <= protectedBatches {
		t.Fatalf("drops %+v", drops)
	}
	var given uint64
	for _, d := range drops {
		given += d.To - d.From + 1
		if d.Items != 2*(d.To-d.From+1) {
			t.Errorf("drop %+v", d)
		}
	}
	if st := s.Stats(); st.Lanes["metrics"].Lost != 2*given || st.Bytes > MinMaxBytes {
		t.Errorf("stats %+v, %d batches given up", st, given)
	}
	check := func() {
		t.Helper()
		batches, err := s.Read(wire.LaneMetrics, 1, 1000, 10<<20)
		if err != nil || len(batches) != 300 {
			t.Fatalf("read %d: %v", len(batches), err)
		}
		empty := uint64(0)
		for i, b := range batches {
			if b.Seq != uint64(i+1) {
				t.Fatalf("batch %d has sequence %d", i, b.Seq)
			}
			if len(b.Body) < 100 {
				empty++
				if b.Hash != wire.HashContent(EmptyBody(wire.LaneMetrics)) || !s.Given(wire.LaneMetrics, b.Seq) {
					t.Errorf("empty batch %+v", b.Identity)
				}
			}
		}
		if empty != given {
			t.Errorf("%d empty batches, %d given up", empty, given)
		}
	}
	check()
	s.Close()
	s = open(t, dir, Options{MaxBytes: MinMaxBytes})
	check()
	if err := s.Ack(wire.LaneMetrics, 300); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, Options{MaxBytes: MinMaxBytes})
	if acked, next := s.Position(wire.LaneMetrics); acked != 300 || next != 301 {
		t.Errorf("position %d %d", acked, next)
	}
}

func TestSetAside(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	add(t, s, wire.LaneLogs, 1, 3)
	if err := s.SetAside(wire.LaneLogs, 2, "refused"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetAside(wire.LaneLogs, 2, "refused"); err == nil {
		t.Error("a batch was set aside twice")
	}
	s.Close()
	s = open(t, dir, Options{})
	want := "batch 1 " + string(EmptyBody(wire.LaneLogs)) + "batch 3 "
	if got := bodies(t, s, wire.LaneLogs); got != want {
		t.Errorf("read %q", got)
	}
	kept, err := os.ReadDir(filepath.Join(dir, "set-aside"))
	if err != nil || len(kept) != 1 {
		t.Errorf("kept %v: %v", kept, err)
	}
}

func TestLostAcknowledgementsAreHarmless(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	add(t, s, wire.LaneLogs, 1, 3)
	if err := s.Ack(wire.LaneLogs, 2); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := os.WriteFile(filepath.Join(dir, "acks"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if got := bodies(t, s, wire.LaneLogs); got != "batch 1 batch 2 batch 3 " {
		t.Errorf("read %q: repeats are recognised by the cluster, gaps are not", got)
	}
}

func FuzzRecords(f *testing.F) {
	rec := batchRecord{
		ord: 7, hash: 1, rawLen: 3, items: 1, changes: []StateChange{{"k", []byte("v")}, {"gone", nil}},
		body: []byte("abc"),
	}
	f.Add(appendRecord(nil, rec.append(nil)))
	f.Add(appendHead(nil, 3, map[string][]byte{"k": []byte("v")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, n, err := nextRecord(b); err == nil && (n > len(b) || len(p) > n) {
			t.Fatal("record is longer than its bytes")
		}
		if rec, err := parseBatch(b); err == nil && len(rec.body) > len(b) {
			t.Fatal("body is longer than its record")
		}
		parseCheckpoint(b)
		holdsRecord(b)
	})
}

func BenchmarkAppend(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	body := make([]byte, 8<<10)
	c := Content{RawLen: len(body), Body: body, Changes: []StateChange{{"file/1", []byte(`{"off":123}`)}}}
	b.SetBytes(int64(len(body)))
	var seq uint64
	for b.Loop() {
		if err := s.Append(wire.LaneLogs, c); err != nil {
			b.Fatal(err)
		}
		if seq++; seq%64 == 0 {
			if err := s.Ack(wire.LaneLogs, seq); err != nil {
				b.Fatal(err)
			}
		}
	}
}
