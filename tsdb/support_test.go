package tsdb_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/tsdb"
)

// t0 is the first time stamp of tests: a boundary of blocks.
const t0 = int64(1_700_006_400_000)

const minute = int64(60_000)

// dictionary gives series id the labels {__name__="m<id mod 7>", host="h<id>"}.
type dictionary struct{ unknown uint64 }

func (d dictionary) SeriesLabels(id uint64) (wire.Labels, bool) {
	if id == d.unknown {
		return nil, false
	}
	return wire.Labels{{Name: "__name__", Value: fmt.Sprintf("m%d", id%7)}, {Name: "host", Value: fmt.Sprintf("h%d", id)}}, true
}

func options(t testing.TB) tsdb.Options {
	return tsdb.Options{
		Dictionary: dictionary{unknown: math.MaxUint64}, Logger: slog.New(slog.DiscardHandler),
		StripeSize: 64, WALSegmentBytes: 32 << 10, CompactEvery: -1, SwapPatience: 100 * time.Millisecond,
	}
}

func newStore(t testing.TB, opts tsdb.Options, dir string) *tsdb.Store {
	t.Helper()
	s, err := tsdb.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Open(dir); err != nil {
		t.Fatal(err)
	}
	return s
}

type sample struct {
	id uint64
	t  int64
	v  float64
}

func apply(t testing.TB, s *tsdb.Store, list ...sample) {
	t.Helper()
	if err := s.ApplySamples(columns(list)); err != nil {
		t.Fatal(err)
	}
}

func columns(list []sample) *wire.Samples {
	var c wire.Samples
	for _, x := range list {
		c.IDs, c.T, c.Values = append(c.IDs, x.id), append(c.T, x.t), append(c.Values, x.v)
	}
	return &c
}

// dump reads everything as one line per series, failing on time stamps that do not ascend.
func dump(t testing.TB, s *tsdb.Store) string {
	t.Helper()
	q, err := s.Querier(math.MinInt64+1, math.MaxInt64-1)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchEqual, "", ""))
	var lines []string
	for set.Next() {
		var b strings.Builder
		b.WriteString(set.At().Labels().String())
		last := int64(math.MinInt64)
		it := set.At().Iterator(nil)
		for it.Next() == chunkenc.ValFloat {
			at, v := it.At()
			if at <= last {
				t.Fatalf("%s: %d follows %d", set.At().Labels(), at, last)
			}
			last = at
			fmt.Fprintf(&b, " %d=%v", at-t0, v)
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, b.String())
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// expected is what dump must say of samples of which none is at the same time as another of its series.
func expected(list []sample) string {
	byID := make(map[uint64][]sample)
	for _, x := range list {
		byID[x.id] = append(byID[x.id], x)
	}
	var lines []string
	for id, xs := range byID {
		sort.Slice(xs, func(i, j int) bool { return xs[i].t < xs[j].t })
		ls, _ := dictionary{unknown: math.MaxUint64}.SeriesLabels(id)
		line := labels.FromStrings("__name__", ls[0].Value, "host", ls[1].Value).String()
		for _, x := range xs {
			line += fmt.Sprintf(" %d=%v", x.t-t0, x.v)
		}
		lines = append(lines, line)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func equal(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			at := 0
			for at < min(len(g[i]), len(w[i])) && g[i][at] == w[i][at] {
				at++
			}
			from := max(0, at-60)
			t.Fatalf("%s: series %.50s differs\n got ...%.160s\nwant ...%.160s", what, w[i], g[i][from:], w[i][from:])
		}
	}
	t.Fatalf("%s: got %d series, want %d", what, len(g), len(w))
}

// history is an even hour by hour mix: every series has a sample a minute, one of four late by up to three hours,
// some series only late ones. It is applied in the order returned.
func history(series, minutes int) []sample {
	var list []sample
	for m := range minutes {
		for id := range series {
			switch {
			case (m+id)%4 == 3 && m > 0: // held back
			default:
				list = append(list, sample{uint64(id + 1), t0 + int64(m)*minute, float64(m*1000 + id)})
			}
			if late := m - 30 - 37*(id%5); late > 0 && (late+id)%4 == 3 {
				list = append(list, sample{uint64(id + 1), t0 + int64(late)*minute, float64(late*1000 + id)})
			}
		}
	}
	return list
}

// applyAll applies in groups, from two goroutines with disjoint series as Apply does, and compacts now and then.
func applyAll(t testing.TB, s *tsdb.Store, list []sample, compactions int) {
	t.Helper()
	const group = 500
	groups := (len(list) + group - 1) / group
	for n := range groups {
		part := list[n*group : min(len(list), (n+1)*group)]
		var halves [2][]sample
		for _, x := range part {
			halves[x.id%2] = append(halves[x.id%2], x)
		}
		var wg sync.WaitGroup
		for _, half := range halves {
			wg.Go(func() {
				if err := s.ApplySamples(columns(half)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if compactions > 0 && n%max(1, groups/compactions) == 0 {
			if err := s.Compact(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func cut(t testing.TB, s *tsdb.Store) string {
	t.Helper()
	resume, err := s.Pause(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer resume()
	dst := filepath.Join(t.TempDir(), "image")
	if err := s.Cut(dst); err != nil {
		t.Fatal(err)
	}
	return dst
}
