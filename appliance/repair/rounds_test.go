package repair

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/raftstate"
)

// TestRepairsThatDoNotHelpEnd: the same place found again is mended with growing waits, a few times; what is found beside
// it is mended at once, and an operator's order is carried out once.
func TestRepairsThatDoNotHelpEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &told{}
		day := Damage{Part: raftstate.PartLogs, Place: "logs of a day"}
		var s *Service
		var mu sync.Mutex
		var at []time.Time
		tries := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(at)
		}
		var tried []string
		ordered := false
		s = service(t, t.TempDir(), o, func() error {
			mu.Lock()
			defer mu.Unlock()
			at, tried = append(at, time.Now()), s.Tried()
			return nil
		})
		mend := s.cfg.Mend
		s.cfg.Mend = func(ctx context.Context, before func(context.Context) error) error {
			err := mend(ctx, before)
			s.Found(day) // whoever looks finds it again at once
			return err
		}
		s.cfg.Ordered = func() (Order, bool) {
			mu.Lock()
			defer mu.Unlock()
			if ordered {
				return Order{From: "n3"}, true
			}
			return Order{}, false
		}
		s.cfg.Release = func(_ context.Context, carried bool) {
			mu.Lock()
			defer mu.Unlock()
			ordered = ordered && !carried
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		s.Found(day)
		time.Sleep(time.Minute)
		if st := s.Status(); tries() != 1 || st.NextMs == 0 || st.State != StateRefused {
			t.Errorf("%d tries in the first minute: %+v", tries(), st)
		}
		time.Sleep(10 * time.Hour)
		if tries() != maxRounds || at[1].Sub(at[0]) < s.cfg.RetryMost || at[2].Sub(at[1]) < roundFactor*s.cfg.RetryMost || !slices.Equal(tried, []string{"n2"}) {
			t.Errorf("tried at %v, before the last from %q", at, tried)
		}
		st := s.Status()
		if st.State != StateRefused || !strings.Contains(st.Refused, "--recheck") || st.NextMs != 0 || len(o.refused) != 3 {
			t.Errorf("%+v, told %q", st, o.refused)
		}
		s.Found(Damage{Part: raftstate.PartMetrics, Place: "a block"})
		time.Sleep(time.Minute)
		if tries() != maxRounds+1 {
			t.Errorf("damage of another place was not mended: %d tries", tries())
		}
		mu.Lock()
		ordered = true
		mu.Unlock()
		time.Sleep(time.Hour)
		if tries() != maxRounds+2 {
			t.Errorf("an order makes %d tries", tries()-maxRounds-1)
		}
		cancel()
		wg.Wait()
	})
}
