package repair

import (
	"context"
	"errors"
	"time"

	"github.com/triward/triward/raftstate"
)

const (
	// leaseSpan is how long a node may take for a swap once it has all it needs; a lease is extended before.
	leaseSpan = 15 * time.Minute
	// tidyEvery is how often what was set aside is looked at.
	tidyEvery = time.Hour
	// leaseCheck is how often a node that mends nothing looks whether it has a lease: of a try whose outcome it was not told, or
	// of the process before it.
	leaseCheck = 10 * time.Second
	// tellAgain is how young records are told again after a start, since who was told may have lost it.
	tellAgain = 24 * time.Hour
)

// Run mends what is damaged until ctx ends.
func (s *Service) Run(ctx context.Context) {
	s.tellKnown()
	failures := 0
	var tidied time.Time
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-retry.C:
		}
		if s.cfg.Rechecks != nil && s.cfg.Rechecks() {
			if err := s.recheck(ctx); err != nil {
				s.put(ctx, err, s.cfg.Now().Add(s.cfg.RetryMost), s.cfg.RetryMost, retry)
				continue
			}
		}
		if len(s.open(mendable)) > 0 {
			if next, err := s.due(); err != nil {
				s.put(ctx, err, next, s.cfg.RetryMost, retry) // an order may come earlier
				continue
			}
			if err := s.mend(ctx); err != nil {
				failures++
				wait := min(s.cfg.Retry<<min(failures-1, 10), s.cfg.RetryMost)
				s.put(ctx, err, s.cfg.Now().Add(wait), wait, retry)
				continue
			}
			failures = 0
		}
		if len(s.open(mendable)) > 0 { // it is under way elsewhere
			retry.Reset(s.cfg.RetryMost)
			continue
		}
		s.mu.Lock()
		s.next = time.Time{}
		s.mu.Unlock()
		if s.cfg.DropAside != nil && time.Since(tidied) >= tidyEvery {
			tidied = time.Now()
			if err := s.cfg.DropAside(keepAside); err != nil {
				s.cfg.Log.Warn("what was set aside is not removed", "err", err)
			}
		}
		s.cfg.Release(ctx, false)
		retry.Reset(leaseCheck)
	}
}

// mendable reports whether damage of the part is mended by the node rather than by its store.
func mendable(part string) bool { return inImage(part) || part == raftstate.PartLog }

// put notes why a repair failed or is not tried, and when it is tried again, zero for never. It is looked at again in wait.
func (s *Service) put(ctx context.Context, err error, next time.Time, wait time.Duration, retry *time.Timer) {
	if !next.IsZero() {
		wait = max(0, min(wait, next.Sub(s.cfg.Now())))
	}
	s.mu.Lock()
	why := err.Error()
	changed := why != s.refused
	s.refused = why
	s.next = next
	s.mu.Unlock()
	s.Doing("", 0, 0)
	if ctx.Err() != nil {
		return
	}
	if changed || !errors.Is(err, ErrNoHelp) {
		s.cfg.Log.Warn("the repair failed", "looked_at_again_in", wait, "err", err)
	}
	if open := s.open(mendable); changed && len(open) > 0 && s.cfg.TellRefused != nil {
		s.cfg.TellRefused(s.cfg.Node, clip(why), open[0].Damage)
	}
	retry.Reset(wait)
}

// mend takes the lease and has the state replaced.
func (s *Service) mend(ctx context.Context) error {
	s.Doing("waiting for its turn", 0, 0)
	if err := s.cfg.Lease(ctx, leaseSpan); err != nil {
		return err
	}
	carried := false
	defer func() { s.cfg.Release(ctx, carried) }()
	if len(s.open(inImage)) == 0 {
		s.Doing("reading the log", 0, 0)
		defer s.Doing("", 0, 0)
		return s.cfg.MendLog(ctx)
	}
	err := s.cfg.Mend(ctx, func(ctx context.Context) error { return s.cfg.Lease(ctx, leaseSpan) })
	carried = err == nil
	return err
}

// tellKnown tells again what happened lately.
func (s *Service) tellKnown() {
	since := s.cfg.Now().Add(-tellAgain).UnixMilli()
	s.mu.Lock()
	var list []Record
	for _, r := range s.journal.Records {
		if max(r.FoundAt, r.RepairedAt) >= since {
			list = append(list, r)
		}
	}
	s.mu.Unlock()
	for _, r := range list {
		if s.cfg.Tell == nil {
			return
		}
		if !r.Open() { // what was found first
			found := r
			found.RepairedAt = 0
			s.cfg.Tell(s.cfg.Node, found)
		}
		s.cfg.Tell(s.cfg.Node, r)
	}
}
