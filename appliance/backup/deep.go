package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
)

// DeepReport says what reading every sample and line of a backup found.
type DeepReport struct {
	Days    int               `json:"days"`    // kinds and days that agree with the manifest
	Partial int               `json:"partial"` // of which retention has removed a part: only their counts can be bounded
	Counts  map[string]uint64 `json:"counts"`  // items read by kind
	// Digest folds what was read of the days that agree, as `triward cluster status` folds all days: equal to the
	// manifest's when retention has removed a part of none.
	Digest string `json:"digest"`
}

const dayMs = 24 * 3600 * 1000

// CheckStores opens the stores of an unpacked image, reads everything in them and compares the digests that come out
// with those of the manifest. A difference is ErrContent. The stores are opened as a node opens them, so afterwards
// their files may differ from those of the image. cuts are those of the state in the image: what they hide is not accounted for.
func CheckStores(ctx context.Context, metricsDir, logsDir string, m *Manifest, cuts []wire.LogCut, log *slog.Logger) (*DeepReport, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var sums meta.Digests
	if err := addMetrics(ctx, &sums, metricsDir, log); err != nil {
		return nil, err
	}
	if err := addLines(ctx, &sums, logsDir, cuts, log); err != nil {
		return nil, err
	}
	return compare(m, sums.List())
}

// noDictionary knows no series: nothing is written to the store.
type noDictionary struct{}

// SeriesLabels implements tsdb.Dictionary.
func (noDictionary) SeriesLabels(uint64) (wire.Labels, bool) { return wire.Labels{}, false }

func addMetrics(ctx context.Context, sums *meta.Digests, dir string, log *slog.Logger) (err error) {
	store, err := tsdb.New(tsdb.Options{Dictionary: noDictionary{}, Logger: log, CompactEvery: -1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.Open(dir); err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	q, err := store.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	set := q.Select(ctx, false, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".*"))
	var it chunkenc.Iterator
	for set.Next() {
		series := set.At()
		id := meta.HashLabels(fromLibrary(series.Labels()))
		it = series.Iterator(it)
		for it.Next() != chunkenc.ValNone {
			t, v := it.At()
			sums.Add(command.KindMetrics, t, meta.HashSample(id, t, v))
		}
		if err := it.Err(); err != nil {
			return fmt.Errorf("%w: series %s: %w", ErrContent, series.Labels(), err)
		}
	}
	if err := set.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	return ctx.Err()
}

func fromLibrary(ls labels.Labels) wire.Labels {
	m := make(map[string]string, ls.Len())
	ls.Range(func(l labels.Label) { m[l.Name] = l.Value })
	return wire.LabelsFromMap(m)
}

func addLines(ctx context.Context, sums *meta.Digests, dir string, cuts []wire.LogCut, log *slog.Logger) (err error) {
	store, err := logstore.New(logstore.Options{Log: log, NoIndex: true, Manual: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	store.SetCuts(cuts)
	if err := store.Open(dir); err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	var buf []byte
	var line wire.LogLine
	err = store.Each(ctx, math.MinInt64, 0, func(r *logstore.Row) error {
		kind := command.KindLogs
		if r.Kind == wire.StreamEvent {
			kind = command.KindEvents
		}
		line = wire.LogLine{T: r.T, Severity: r.Severity, Fields: r.Fields, Text: r.Text}
		var sum meta.Sum
		sum, buf = meta.HashLine(meta.HashStream(r.Kind, r.Labels), &line, buf)
		ms := r.T / 1e6
		if r.T%1e6 < 0 {
			ms--
		}
		sums.Add(kind, ms, sum)
		return nil
	})
	if errors.Is(err, logstore.ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	return err
}

type kindDay struct {
	kind string
	day  int64
}

// compare holds what was read against the manifest. Below the retention floor stores may or may not have removed what
// they hold: days wholly below are in no digest, and of the day in which the floor lies a part may be gone.
func compare(m *Manifest, read []meta.Digest) (*DeepReport, error) {
	floors := make(map[string]int64)
	for _, f := range m.Floors {
		floors[f.Kind] = f.Time
	}
	found := make(map[kindDay]meta.Digest)
	r := &DeepReport{Counts: make(map[string]uint64)}
	var kept []meta.Digest
	for _, d := range read {
		kind := d.Kind.String()
		if (d.Day+1)*dayMs <= floors[kind] {
			continue
		}
		found[kindDay{kind, d.Day}] = d
		kept = append(kept, d)
		r.Counts[kind] += d.Count
	}
	for _, want := range m.Digests {
		k := kindDay{want.Kind, want.Day}
		got := found[k]
		delete(found, k)
		if want.Day*dayMs < floors[want.Kind] {
			if got.Count > want.Count {
				return nil, differs(want, got)
			}
			r.Partial++
			continue
		}
		if got.Count != want.Count || got.Sum.String() != want.Sum {
			return nil, differs(want, got)
		}
		r.Days++
	}
	for k, got := range found {
		if got.Count > 0 {
			return nil, differs(Digest{Kind: k.kind, Day: k.day}, got)
		}
	}
	r.Digest = meta.FoldDigests(kept)
	return r, nil
}

func differs(want Digest, got meta.Digest) error {
	return fmt.Errorf("%w: %s of day %d: %d with digest %s were read, the manifest says %d with %s",
		ErrContent, want.Kind, want.Day, got.Count, got.Sum, want.Count, want.Sum)
}
