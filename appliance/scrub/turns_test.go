package scrub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
)

// slow is a node whose files take as long to read as their rate says, and which holds nothing else.
type slow struct {
	bytes int
	reads int // of the metadata file, under mu
	mu    sync.Mutex

	settled func() // called by Settled; nil: nothing
	dir     string
	whole   string // the directory in which the sample is
}

var slowLabels = wire.Labels{{Name: "__name__", Value: "m"}}

type slowSamples struct{ *slow }

type slowLines struct{ *slow }

func (s *slow) Settled(context.Context) (uint64, []meta.Digest, error) {
	if s.settled != nil {
		s.settled()
	}
	var sums meta.Digests
	sums.Add(command.KindMetrics, firstDay*dayMs, meta.HashSample(meta.HashLabels(slowLabels), firstDay*dayMs, 1))
	return 1, sums.List(), nil
}

func (s *slow) Dir() string { return s.dir }

func (s *slow) Floor(command.Kind) int64 { return 0 }

func (s *slow) ScrubLog(_ context.Context, _ uint64, pace func(int) error) error {
	return pace(s.bytes)
}

func (s *slow) ScrubState(pace func(int) error) (string, error) {
	s.mu.Lock()
	s.reads++
	s.mu.Unlock()
	return "", pace(s.bytes)
}

func (s slowSamples) Each(_ context.Context, from, _ int64, series func(wire.Labels) func(int64, float64)) error {
	if s.dir == s.whole && from == firstDay*dayMs {
		series(slowLabels)(from, 1)
	}
	return nil
}

func (s slowSamples) Scrub(_ context.Context, pace func(int) error) ([]*tsdb.DamageError, error) {
	return nil, pace(s.bytes)
}

func (s slowSamples) Adopt(func(int64, int64) bool) error { return nil }

// A step that meets a store which is being replaced goes on with the new one, within the same pass.
func TestStepWaitsForTheStoreThatTakesItsPlace(t *testing.T) {
	for closed, done := range map[int]bool{3: true, swapTries + 1: false} {
		synctest.Test(t, func(t *testing.T) {
			s := &slow{bytes: 1000, dir: "a", whole: "a"}
			c := s.scrubber(t).cfg
			c.Logs = &swappedLines{slowLines{s}, closed}
			err := New(c).Pass(t.Context())
			if done && err != nil || !done && !errors.Is(err, ErrIncomplete) {
				t.Errorf("closed %d times: %v", closed, err)
			}
		})
	}
}

type swappedLines struct {
	slowLines
	closed int // how many times it is still found closed
}

func (s *swappedLines) Scrub(ctx context.Context, pace func(int) error) ([]*logstore.DamageError, error) {
	if s.closed--; s.closed >= 0 {
		return nil, fmt.Errorf("read: %w", logstore.ErrClosed)
	}
	return s.slowLines.Scrub(ctx, pace)
}

func (s slowLines) Each(context.Context, int64, int64, func(*logstore.Row) error) error { return nil }

func (s slowLines) Scrub(_ context.Context, pace func(int) error) ([]*logstore.DamageError, error) {
	return nil, pace(s.bytes)
}

func (s *slow) scrubber(t *testing.T) *Scrubber {
	return New(Config{
		Metrics: slowSamples{s}, Logs: slowLines{s}, Node: s, File: filepath.Join(t.TempDir(), "scrub.json"), Every: 7 * 24 * time.Hour,
		Rate: 1 << 20, CheckRate: 8 << 20, Log: slog.New(slog.DiscardHandler), OnDamage: func(Damage) {},
	})
}

// A check waits for no pass that is under way, and tells how far it is before it comes to the days.
func TestCheckWaitsForNoPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &slow{bytes: 1 << 30}
		s := n.scrubber(t)
		ctx, stop := context.WithCancel(t.Context())
		var pass sync.WaitGroup
		pass.Go(func() { _ = s.Pass(ctx) })
		synctest.Wait()
		if st := s.Status(); st.Doing != stepState {
			t.Fatalf("%+v", st)
		}
		began := time.Now()
		if days, _, err := s.Check(t.Context(), Request{}, nil); err != nil || len(days) != 1 || time.Since(began) > time.Second {
			t.Errorf("%v, %d days after %s", err, len(days), time.Since(began))
		}
		var told []Progress
		if _, _, err := s.Check(t.Context(), Request{Files: true}, func(p Progress) { told = append(told, p) }); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 20*time.Minute {
			t.Errorf("4 GiB at 8 MiB/s took %s", took)
		}
		seen := map[string]bool{}
		for i, p := range told {
			seen[p.Doing] = true
			if p.All != 1 || i > 0 && p.Bytes < told[i-1].Bytes {
				t.Errorf("progress %+v", p)
			}
		}
		if last := told[len(told)-1]; len(seen) != 5 || last.Bytes < 4<<30 || last.Done != 1 {
			t.Errorf("told of %v, at last %+v", seen, last)
		}
		stop()
		pass.Wait()
	})
}

// Who asks for a pass while one is under way gets that one.
func TestPassUnderWayIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &slow{bytes: 1 << 20}
		s := n.scrubber(t)
		var passes sync.WaitGroup
		for range 2 {
			passes.Go(func() {
				if err := s.Pass(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		passes.Wait()
		if n.reads != 1 || s.Status().LastPass == 0 {
			t.Errorf("the metadata was read %d times", n.reads)
		}
	})
}

// What was read of a store that was replaced meanwhile says nothing of the one that came after it.
func TestReplacedStoreIsReadAgain(t *testing.T) {
	n := &slow{dir: "damaged", whole: "taken"}
	s := n.scrubber(t)
	var found []Damage
	s.cfg.OnDamage = func(d Damage) { found = append(found, d) }
	calls := 0
	n.settled = func() {
		if calls++; calls == 6 { // behind the second time that it was read, as an image waits for the same lock
			n.dir = n.whole
		}
	}
	days, _, err := s.Check(t.Context(), Request{}, nil)
	if err != nil || len(days) != 1 || days[0].Verdict != Equal || len(found) > 0 || calls < 8 {
		t.Errorf("%+v, found %+v, %v, asked %d times", days, found, err, calls)
	}
	n.settled, n.dir = nil, "damaged"
	if _, _, err := s.Check(t.Context(), Request{}, nil); err != nil || len(found) != 1 || found[0].Dir != "damaged" {
		t.Errorf("found %+v, %v", found, err)
	}
}
