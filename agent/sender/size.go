package sender

import (
	"time"

	"github.com/triward/triward/agent/wire"
)

const (
	requestBytes    = 960 << 10 // of a request, as long as the gateway names no less: all of it goes into one entry
	minRequestBytes = 32 << 10
	requestOverhead = 32        // of its head
	batchOverhead   = 48        // and of each batch
	sizeForget      = time.Hour // how long a size that was refused is not tried again
)

// grow allows larger requests after one that was taken, up to what the gateway takes.
func (s *Sender) grow() {
	s.count = min(s.maxCount, s.count*2)
	s.budget = min(s.bound(time.Now()), s.budget*2)
}

// bound is the size that a request may have: what the gateway said, and less than what was refused lately.
func (s *Sender) bound(now time.Time) int {
	if s.ceiling > 0 && now.Before(s.ceilingUntil) {
		return min(s.limit, s.ceiling)
	}
	return s.limit
}

// obey takes over the limits that the gateway names.
func (s *Sender) obey(l *helloLimits) {
	s.limit, s.maxCount, s.ids.perCall = requestBytes, wire.MaxBatchesPerCall, wire.MaxSeriesPerCall
	if l.RequestBytes > 0 {
		s.limit = min(s.limit, l.RequestBytes)
	}
	if l.BatchesPerCall > 0 {
		s.maxCount = min(s.maxCount, l.BatchesPerCall)
	}
	if l.SeriesPerCall > 0 {
		s.ids.perCall = min(s.ids.perCall, l.SeriesPerCall)
	}
	s.count, s.budget = min(s.count, s.maxCount), min(s.budget, s.bound(time.Now()))
}

// fit leaves out what a request of at most the budget has no room for, at the end, but for the first batch.
func (s *Sender) fit(batches []wire.Batch) []wire.Batch {
	size := requestOverhead
	for i := range batches {
		if size += len(batches[i].Body) + batchOverhead; size > s.budget && i > 0 {
			return batches[:i]
		}
	}
	return batches
}
