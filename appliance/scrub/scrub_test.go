package scrub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// The deep digest of each day is the running one, whatever compaction, sealing, merging, retention and restarts do.
func TestDeepDigestIsTheRunningOne(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			for round := range 12 {
				for range 5 {
					w.apply(60, 90)
				}
				w.hours(int64(w.rng.IntN(10)))
				switch w.rng.IntN(5) {
				case 0, 1:
					w.work()
				case 2:
					w.flush()
					w.reopen()
				case 3:
					w.cut(command.Kinds[w.rng.IntN(len(command.Kinds))], max(0, w.clock/dayMs-2)*dayMs)
				}
				var found []Damage
				days, _, err := w.scrubber(&found).Check(t.Context(), Request{}, nil)
				if err != nil || len(found) > 0 {
					t.Fatalf("round %d: %v %+v", round, err, found)
				}
				_, sums, _ := w.Settled(t.Context())
				if len(days) != len(sums) {
					t.Fatalf("round %d: %d days were compared of %d", round, len(days), len(sums))
				}
				for _, d := range days {
					if d.Verdict != Equal {
						t.Fatalf("round %d: %+v", round, d)
					}
				}
			}
			if told := w.told(); len(told) > 0 {
				t.Errorf("damage: %v", told)
			}
		})
	}
}

// Nothing is ever said to differ while data comes, blocks are made and days dropped beside the reading.
func TestNothingDiffersWhileDataComes(t *testing.T) {
	w := newWorld(t, 9)
	ctx, stop := context.WithCancel(t.Context())
	var feed sync.WaitGroup
	feed.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			w.apply(30, 30)
			if i%7 == 0 {
				w.hours(2)
			}
			if i%11 == 0 {
				w.work()
			}
			if i%40 == 39 {
				w.cut(command.Kinds[i/40%3], max(0, w.clock/dayMs-3)*dayMs)
			}
		}
	})
	var found []Damage
	s := w.scrubber(&found)
	verdicts := map[Verdict]int{}
	for range 15 {
		days, _, err := s.Check(ctx, Request{}, nil)
		if err != nil {
			t.Error(err)
			break
		}
		for _, d := range days {
			verdicts[d.Verdict]++
		}
		if err := s.Pass(ctx); err != nil {
			t.Error(err)
			break
		}
	}
	stop()
	feed.Wait()
	if len(found) > 0 || verdicts[Differs] > 0 || verdicts[Damaged] > 0 || len(w.told()) > 0 {
		t.Errorf("found %+v, verdicts %v, told %v", found, verdicts, w.told())
	}
	if verdicts[Equal] == 0 {
		t.Errorf("nothing was compared: %v", verdicts)
	}
}

// A sample, a line and an event that are not what was accepted name exactly their kind and day.
func TestWhatDiffersIsNamed(t *testing.T) {
	w := newWorld(t, 3)
	for range 10 {
		w.apply(60, 90)
		w.hours(12)
	}
	w.work()
	for _, kind := range command.Kinds {
		w.sums.Add(kind, (firstDay+2)*dayMs, meta.Sum{Lo: 1}) // as if one more had been accepted
	}
	var found []Damage
	s := w.scrubber(&found)
	if err := s.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, d := range found {
		places = append(places, d.Part+": "+d.Place)
		if d.From != (firstDay+2)*dayMs || d.To != (firstDay+3)*dayMs {
			t.Errorf("%+v", d)
		}
	}
	slices.Sort(places)
	if want := []string{"logs: events of 2024-10-06", "logs: logs of 2024-10-06", "metrics: metrics of 2024-10-06"}; !slices.Equal(places, want) {
		t.Errorf("found %q, want %q", places, want)
	}
	if st := s.Status(); st.LastPass == 0 || len(st.Left) != 3 || st.LastEqual == 0 {
		t.Errorf("%+v", st)
	}
}

// damageFile flips one bit in the middle of a file of each kind, and says what must be found.
type fileKind struct {
	name    string
	store   int    // index of world.dirs
	pattern string // the biggest of these is damaged
	place   string // is part of what is told
}

var fileKinds = []fileKind{
	{"block chunks", 0, "0*/chunks/*", "metrics"},
	{"block index", 0, "0*/index", "metrics"},
	{"block meta.json", 0, "0*/meta.json", "metrics"},
	{"block tombstones", 0, "0*/tombstones", "metrics"},
	{"blocks.json", 0, "blocks.json", "metrics"},
	{"sealed WAL segment", 0, "wal/0*", "metrics"},
	{"Pebble table", 1, "pebble/*.sst", "logs"},
	{"Pebble blob file", 1, "pebble/*.blob", "logs"},
	{"Pebble manifest", 1, "pebble/MANIFEST-*", "logs"},
	{"word index segment", 1, "index/*/store/*.zap", "index"},
}

func (k *fileKind) pick(t *testing.T, w *world) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.dirs[k.store], k.pattern))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(k.name, "sealed") { // the last one is being written
		if slices.Sort(paths); len(paths) > 0 {
			paths = paths[:len(paths)-1]
		}
	}
	if strings.HasPrefix(k.name, "Pebble manifest") { // older ones are of no use any more
		if slices.Sort(paths); len(paths) > 0 {
			paths = paths[len(paths)-1:]
		}
	}
	best, size := "", int64(-1)
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && st.Size() > size {
			best, size = p, st.Size()
		}
	}
	if best == "" {
		t.Fatalf("there is no %s", k.name)
	}
	return best
}

func flipBit(t *testing.T, path string) {
	t.Helper()
	b := mustRead(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := len(b) / 2
	if _, err := f.WriteAt([]byte{b[at] ^ 0x10}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

func stocked(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed)
	w.noise = true
	for range 8 {
		w.apply(400, 300)
		w.hours(7)
		if err := w.logs.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.work()
	if err := w.logs.Work(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	w.apply(200, 30)
	w.flush()
	return w
}

// A flipped bit in each kind of file is found by a pass while the store is open.
func TestFlippedBitIsFoundWhileOpen(t *testing.T) {
	first := stocked(t, 5)
	first.close()
	for _, k := range fileKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			w := first.copied(t)
			w.open()
			var before []Damage
			if err := w.scrubber(&before).Pass(t.Context()); err != nil || len(before) > 0 || len(w.told()) > 0 {
				t.Fatalf("before: %v %v %v", err, before, w.told())
			}
			path := k.pick(t, w)
			flipBit(t, path)
			var found []Damage
			if err := w.scrubber(&found).Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			told := w.told()
			if len(told) == 0 || !strings.HasPrefix(told[0], k.place) {
				t.Fatalf("%s was damaged, told %q, found %+v", path, told, found)
			}
		})
	}
}

// After a restart the store either refuses to open or a pass finds it; what it answers is never other than what was
// accepted without being said.
func TestFlippedBitIsFoundAfterReopening(t *testing.T) {
	first := stocked(t, 6)
	first.close()
	for _, k := range fileKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			w := first.copied(t)
			path := k.pick(t, w)
			flipBit(t, path)
			if err := w.tryOpen(); err != nil {
				t.Log("refused:", err)
				return
			}
			var found []Damage
			s := w.scrubber(&found)
			if err := s.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			told := w.told()
			if len(told) == 0 && len(found) == 0 {
				if _, err := os.Stat(path); os.IsNotExist(err) {
					t.Log("the file was derived and is gone")
					return
				}
				t.Fatalf("%s was damaged and nothing is said", path)
			}
		})
	}
}

// A store that is damaged answers with an error, or says that the answer is partial: never with something else.
func TestDamagedStoreNeverAnswersWrongly(t *testing.T) {
	first := stocked(t, 7)
	first.close()
	for _, k := range fileKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			w := first.copied(t)
			w.open()
			flipBit(t, k.pick(t, w))
			var found []Damage
			if err := w.scrubber(&found).Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := map[string]meta.Digest{}
			for _, d := range w.digests() {
				want[fmt.Sprint(d.Kind, d.Day)] = d
			}
			for day := int64(firstDay); day*dayMs < w.clock; day++ {
				m, err := MetricsDigest(t.Context(), w.metrics, day, func(int) error { return nil })
				if w := want[fmt.Sprint(command.KindMetrics, day)]; err == nil && m.Count > 0 && m != w {
					t.Errorf("day %d: %+v, want %+v", day, m, w)
				}
				logs, _, err := LinesDigest(t.Context(), w.logs, day, func(int) error { return nil })
				if w := want[fmt.Sprint(command.KindLogs, day)]; err == nil && logs.Count > 0 && logs != w {
					t.Errorf("day %d: %+v, want %+v", day, logs, w)
				}
			}
		})
	}
}

// Blocks of a version without checksums get them once their days were found to be equal, and not before.
func TestChecksumsAreAdopted(t *testing.T) {
	w := stocked(t, 8)
	w.close()
	path := filepath.Join(w.dirs[0], "blocks.json")
	dropSums(t, path)
	w.open()
	if strings.Contains(string(mustRead(t, path)), `"sums"`) {
		t.Fatal("the manifest has sums from the start")
	}
	var found []Damage
	if err := w.scrubber(&found).Pass(t.Context()); err != nil || len(found) > 0 {
		t.Fatal(err, found)
	}
	if !strings.Contains(string(mustRead(t, path)), `"sums"`) {
		t.Error("no sums were adopted")
	}
}

// A pass that was broken off goes on where it was.
func TestPassGoesOn(t *testing.T) {
	w := newWorld(t, 4)
	for range 6 {
		w.apply(30, 30)
		w.hours(24)
	}
	var found []Damage
	s := w.scrubber(&found)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	s.cfg.Busy = func() bool {
		if n++; n == 6 {
			cancel()
		}
		return false
	}
	if err := s.Pass(ctx); err == nil {
		t.Fatal("it was not broken off")
	}
	first := s.Status()
	s.cfg.Busy = nil
	again := New(s.cfg)
	if st := again.Status(); st.Steps != first.Steps || st.Steps == 0 {
		t.Fatalf("%d steps were done, now %d", first.Steps, st.Steps)
	}
	if err := again.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := again.Status(); st.LastPass == 0 || st.Began != 0 {
		t.Errorf("%+v", st)
	}
}

// dropSums makes of a manifest one of a version that knew no checksums.
func dropSums(t *testing.T, path string) {
	t.Helper()
	var sealed struct {
		Version uint8           `json:"version"`
		Body    json.RawMessage `json:"body"`
		CRC     uint32          `json:"crc32c"`
	}
	var body map[string]any
	if err := json.Unmarshal(mustRead(t, path), &sealed); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(sealed.Body))
	dec.UseNumber()
	if err := dec.Decode(&body); err != nil {
		t.Fatal(err)
	}
	for _, b := range body["blocks"].([]any) {
		delete(b.(map[string]any), "sums")
	}
	var err error
	if sealed.Body, err = json.Marshal(body); err != nil {
		t.Fatal(err)
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sealed.CRC = crc32.Update(crc32.Checksum([]byte{sealed.Version}, table), table, sealed.Body)
	out, err := json.Marshal(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A step that cannot be made does not keep the others from being made, and a pass without it does not count as one.
func TestStepThatFailsIsPassedOver(t *testing.T) {
	w := newWorld(t, 4)
	for range 3 {
		w.apply(30, 30)
		w.hours(24)
	}
	w.work()
	w.sums.Add(command.KindMetrics, (firstDay+1)*dayMs, meta.Sum{Lo: 1}) // a day that differs, behind the step that fails
	w.broken = os.ErrPermission
	var found []Damage
	s := w.scrubber(&found)
	noon := time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC) // the passes of the plan begin at midnight
	s.cfg.Now = func() time.Time { return noon }
	for range stepTries - 1 {
		if err := s.Pass(t.Context()); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), stepState) {
			t.Fatal(err)
		}
	}
	if len(found) != 1 || found[0].From != (firstDay+1)*dayMs {
		t.Errorf("found %+v", found)
	}
	s = New(s.cfg) // it knows after a restart what it tried
	if err := s.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := s.Status()
	if st.LastPass != 0 || st.Began != 0 || len(st.Failed) != 1 || st.Failed[0].Step != stepState || st.Failed[0].Error == "" || st.LastEqual == 0 {
		t.Errorf("%+v", st)
	}
	if due := s.due(); due < time.Hour {
		t.Errorf("the next pass is due in %s", due)
	}
	w.broken = nil
	if err := s.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.LastPass == 0 || len(st.Failed) > 0 {
		t.Errorf("%+v", st)
	}
}

// A file of which the disk cannot read a sector is damaged, in each store.
func TestUnreadableSectorIsDamage(t *testing.T) {
	for store, part := range []string{"metrics", "logs"} {
		t.Run(part, func(t *testing.T) {
			w := stocked(t, 5)
			large := 0
			pace := func(n int) error {
				if n < 512 { // a file of some size, and not the first, which is Pebble's manifest
					return nil
				}
				if large++; large == 1 || len(w.told()) > 0 {
					return nil
				}
				return fmt.Errorf("read it: %w", syscall.EIO)
			}
			var err error
			if store == 0 {
				_, err = w.metrics.Scrub(t.Context(), pace)
			} else {
				_, err = w.logs.Scrub(t.Context(), pace)
			}
			if told := w.told(); err != nil || large < 2 || len(told) == 0 || !strings.HasPrefix(told[0], part) {
				t.Errorf("%v, %d reads, told %q", err, large, told)
			}
		})
	}
}
