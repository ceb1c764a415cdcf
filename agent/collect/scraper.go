package collect

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/triward/triward/agent/wire"
)

// maxSamplesPerBatch keeps a batch below wire.MaxBatchRaw with certainty: a sample takes at most 19 bytes.
const maxSamplesPerBatch = 20_000

// maxSamplesPerScrape bounds a scrape; the rest is left out and counted.
const maxSamplesPerScrape = 200_000

// Sink takes finished scrapes. Put returns when they are durable, or an error when they cannot be taken.
// Between is called between two scrapes, when the scraper holds no numbers.
type Sink interface {
	Numbers
	Put(ctx context.Context, scrapes []wire.Scrape) error
	Between() error
}

// ScrapeStats tells of one scrape.
type ScrapeStats struct {
	Samples  int
	Refused  int
	Took     time.Duration
	Families int
}

// Scraper gathers each period at multiples of it, so that the time stamps of a machine form runs and those of
// all machines meet.
type Scraper struct {
	Gatherer prometheus.Gatherer
	Sink     Sink
	Period   time.Duration
	Exclude  *regexp.Regexp // metric names to leave out; nil for none
	Log      *slog.Logger
	Observe  func(ScrapeStats) // may be nil
}

// Run scrapes until ctx ends. Failures are logged and the next period tries again.
func (s *Scraper) Run(ctx context.Context) {
	f := NewFlattener(s.Sink)
	for {
		now := time.Now()
		at := now.Truncate(s.Period).Add(s.Period)
		t := time.NewTimer(at.Sub(now))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if _, err := s.scrape(ctx, f, at); err != nil && ctx.Err() == nil {
			s.Log.Error("scrape is lost", "at", at.UnixMilli(), "err", err)
		}
		if err := s.Sink.Between(); err != nil {
			s.Log.Error("reclaim series numbers", "err", err)
		}
	}
}

func (s *Scraper) scrape(ctx context.Context, f *Flattener, at time.Time) (ScrapeStats, error) {
	begin := time.Now()
	families, err := s.Gatherer.Gather()
	if err != nil {
		if len(families) == 0 {
			return ScrapeStats{}, fmt.Errorf("gather metrics: %w", err)
		}
		s.Log.Warn("some metrics cannot be gathered", "err", err)
	}
	families = s.filter(families)
	scrape, refused, err := f.Flatten(at.UnixMilli(), families)
	if err != nil {
		s.Log.Warn("some samples are left out", "count", refused, "last", err)
	}
	if n := len(scrape.IDs); n > maxSamplesPerScrape {
		s.Log.Warn("scrape is too large, the rest is left out", "samples", n, "limit", maxSamplesPerScrape)
		refused += n - maxSamplesPerScrape
		scrape.IDs, scrape.Values = scrape.IDs[:maxSamplesPerScrape], scrape.Values[:maxSamplesPerScrape]
	}
	stats := ScrapeStats{Samples: len(scrape.IDs), Refused: refused, Families: len(families)}
	for from := 0; from < len(scrape.IDs); from += maxSamplesPerBatch {
		to := min(from+maxSamplesPerBatch, len(scrape.IDs))
		part := wire.Scrape{T: scrape.T, IDs: scrape.IDs[from:to], Values: scrape.Values[from:to]}
		if err := s.Sink.Put(ctx, []wire.Scrape{part}); err != nil {
			return stats, fmt.Errorf("spool %d samples: %w", to-from, err)
		}
	}
	stats.Took = time.Since(begin)
	if s.Observe != nil {
		s.Observe(stats)
	}
	return stats, nil
}

func (s *Scraper) filter(families []*dto.MetricFamily) []*dto.MetricFamily {
	if s.Exclude == nil {
		return families
	}
	kept := families[:0]
	for _, f := range families {
		if !s.Exclude.MatchString(f.GetName()) {
			kept = append(kept, f)
		}
	}
	return kept
}
