package logstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/triward/triward/agent/wire"
)

// Readers never see a closed store or half of one while the directory is replaced under them.
func TestSwapUnderReaders(t *testing.T) {
	m := newModel(20)
	dir := t.TempDir()
	s := testStore(t, filepath.Join(dir, "0"), Options{})
	m.apply(t, s, 30)
	work(t, s, true)
	want := len(m.rows)
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var reads atomic.Int64
	var wrong atomic.Value
	for range 3 {
		readers.Go(func() {
			for ctx.Err() == nil {
				a, err := s.Search(t.Context(), Request{Limit: MaxRows})
				if err != nil || len(a.Rows) != want {
					wrong.Store(fmt.Sprintf("%v %+v", err, a))
					return
				}
				reads.Add(1)
			}
		})
	}
	for i := range 8 {
		resume, err := s.Pause(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, fmt.Sprint(i+1))
		if err := s.Cut(to); err != nil {
			t.Fatal(err)
		}
		resume()
		resume()
		if err := s.Open(to); err != nil {
			t.Fatal(err)
		}
		work(t, s, true)
	}
	stop()
	readers.Wait()
	if w := wrong.Load(); w != nil || reads.Load() == 0 {
		t.Errorf("%d reads, a wrong one: %v", reads.Load(), w)
	}
	m.check(t, s, 10, minTime)
}

// Lines are sealed, merged and indexed while others come in and searches run: each search sees a state between
// two groups, whole.
func TestBackgroundWorkBesideApplyAndSearch(t *testing.T) {
	m := newModel(21)
	s := testStore(t, t.TempDir(), Options{SealBytes: 4 << 10})
	for range 60 {
		m.entry()
	}
	lines := map[uint64]int{} // at each index, the lines up to it
	n, k := 0, 0
	for _, e := range m.entries {
		for k < len(m.rows) && m.rows[k].Index <= e.Index {
			k++
		}
		n = k
		lines[e.Index] = n
	}
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() {
		for ctx.Err() == nil {
			if err := s.Work(ctx, true); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	others.Go(func() {
		for ctx.Err() == nil {
			before := lines[s.Applied()]
			h, err := s.Hits(t.Context(), Request{Start: testDay * DayNs, End: (testDay + 3) * DayNs}, DayNs)
			behind := lines[s.Applied()]
			if err != nil || h.Total < int64(before) || h.Total > int64(behind) {
				t.Errorf("%v: %+v, want %d to %d", err, h, before, behind)
				return
			}
		}
	})
	for _, e := range m.entries {
		if err := s.ApplyLogs(e.Index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	work(t, s, true)
	stop()
	others.Wait()
	m.check(t, s, 20, minTime)
}

func TestPauseHoldsBackgroundWork(t *testing.T) {
	m := newModel(22)
	s := testStore(t, t.TempDir(), Options{})
	m.apply(t, s, 5)
	resume, err := s.Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Pause(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a second pause gives %v", err)
	}
	if err := s.Work(ctx, true); !errors.Is(err, context.Canceled) {
		t.Errorf("work while paused gives %v", err)
	}
	m.check(t, s, 5, minTime)
	resume()
	work(t, s, true)
	m.check(t, s, 5, minTime)
}

func TestClosedStoreSaysSo(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Search(t.Context(), Request{}); !errors.Is(err, ErrClosed) {
		t.Errorf("search gives %v", err)
	}
	if err := s.ApplyLogs(1, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("apply gives %v", err)
	}
	select {
	case <-s.Changed():
	default:
		t.Error("Changed waits for ever")
	}
}

func TestRequestsAreBounded(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	for name, err := range map[string]error{
		"limit":  second(s.Search(t.Context(), Request{Limit: MaxRows + 1})),
		"cursor": second(s.Search(t.Context(), Request{Cursor: "x"})),
		"hits":   second(s.Hits(t.Context(), Request{Start: 0, End: 1e18}, 1e9)),
		"step":   second(s.Hits(t.Context(), Request{Start: 0, End: 10}, 0)),
		"facets": second(s.Facets(t.Context(), Request{}, "")),
		"around": second(s.Context(t.Context(), Position{}, 0, -1, 0)),
	} {
		if !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := newModel(24)
	m.apply(t, s, 5)
	if _, err := s.Search(ctx, Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled search gives %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
