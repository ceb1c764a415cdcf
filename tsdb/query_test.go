package tsdb_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/tsdb"
)

func newQuery(t testing.TB, s *tsdb.Store, opts tsdb.QueryOptions) *tsdb.Query {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	q := tsdb.NewQuery(s, opts)
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

func TestInstantAndRange(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	apply(t, s, sample{1, t0, 1}, sample{8, t0, 8}, sample{1, t0 + minute, 3})
	q := newQuery(t, s, tsdb.QueryOptions{})
	got, err := q.Instant(t.Context(), "sum(m1)", t0+minute)
	if err != nil || len(got) != 1 || len(got[0].Labels) != 0 || got[0].V[0] != 11 || got[0].T[0] != t0+minute {
		t.Fatalf("got %v, %v", got, err)
	}
	got, err = q.Range(t.Context(), `m1{host="h1"}`, t0-minute, t0+minute, minute)
	if err != nil || len(got) != 1 || got[0].Labels.Get("host") != "h1" || fmt.Sprint(got[0].T, got[0].V) != fmt.Sprint([]int64{t0, t0 + minute}, []float64{1, 3}) {
		t.Fatalf("got %v, %v", got, err)
	}
	if got, err = q.Instant(t.Context(), "1+1", t0); err != nil || got[0].V[0] != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err = q.Instant(t.Context(), `"text"`, t0); err == nil {
		t.Fatal("a string was taken")
	}
	_, err = q.Range(t.Context(), "sum(m1", t0, t0, minute)
	if pos, ok := tsdb.ErrorPosition(err); !ok || pos != 6 {
		t.Fatalf("position %d %v of %v", pos, ok, err)
	}
}

func TestRangeIsBounded(t *testing.T) {
	q := newQuery(t, newStore(t, options(t), t.TempDir()), tsdb.QueryOptions{})
	for _, r := range [][3]int64{{0, 10, 0}, {10, 0, 1}, {0, tsdb.MaxPoints * 1000, 1000}, {0, math.MaxInt64, 1}} {
		if _, err := q.Range(t.Context(), "1", r[0], r[1], r[2]); err == nil {
			t.Errorf("%v was taken", r)
		}
	}
}

func TestLatestSamples(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	now := time.Now().UnixMilli()
	apply(t, s, sample{1, now - 10*minute, 1}, sample{1, now, 2}, sample{2, now - 30*minute, 3}, sample{8, now, 4}, sample{1, now - minute, 5})
	q := newQuery(t, s, tsdb.QueryOptions{})
	for selector, want := range map[string]string{
		"": "m1/h1=2 m1/h8=4", "m1": "m1/h1=2 m1/h8=4", `{host="h8"}`: "m1/h8=4", "m2": "",
	} {
		var got []string
		err := q.LatestSamples(t.Context(), selector, now-5*minute, func(ls wire.Labels, at int64, v float64) bool {
			if at != now {
				t.Errorf("time %d", at)
			}
			got = append(got, fmt.Sprintf("%s/%s=%v", ls.Get("__name__"), ls.Get("host"), v))
			return true
		})
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: got %v, %v", selector, got, err)
		}
	}
	n := 0
	if err := q.LatestSamples(t.Context(), "", 0, func(wire.Labels, int64, float64) bool { n++; return false }); err != nil || n != 1 {
		t.Fatalf("%d calls, %v", n, err)
	}
}

// What a query says is no damage, whatever words the one who wrote it, or a label, put into it.
func TestWordsOfQueriesAreNoDamage(t *testing.T) {
	o := options(t)
	found := 0
	o.OnDamage = func(*tsdb.DamageError) { found++ }
	s := newStore(t, o, t.TempDir())
	apply(t, s, sample{1, t0, 1})
	q := newQuery(t, s, tsdb.QueryOptions{})
	for _, words := range []string{"checksum mismatch(", "doesn't include enough bytes("} {
		text := fmt.Sprintf("label_replace(vector(1), %q, %q, %q, %q)", "a", "b", "c", words)
		if _, err := q.Instant(t.Context(), text, t0); err == nil {
			t.Errorf("%s is a query", text)
		}
	}
	if found != 0 || len(s.Damaged()) != 0 {
		t.Errorf("%d times, %v", found, s.Damaged())
	}
}

func TestHostileQueries(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	apply(t, s, sample{1, t0, 1})
	q := newQuery(t, s, tsdb.QueryOptions{Timeout: time.Second})
	fill := func(part string) string { return strings.Repeat(part, tsdb.MaxQueryBytes/len(part)-8) }
	for name, text := range map[string]string{
		"100k brackets":  strings.Repeat("(", 100_000),
		"1M sums":        strings.Repeat("sum(", 1_000_000),
		"brackets":       fill("("),
		"closed":         strings.Repeat("(", 8000) + "1" + strings.Repeat(")", 8000),
		"sums":           fill("sum("),
		"signs":          fill("-") + "1",
		"signs apart":    fill("- ") + "1",
		"commented":      fill("(#)\n"),
		"braces":         fill("{"),
		"quote":          fill("'("),
		"plus":           fill("1+") + "1",
		"power":          fill("1^") + "1",
		"or":             fill("m1 or ") + "m1",
		"and":            fill("a and ") + "a",
		"subqueries":     "m1" + fill("[1m:]"),
		"offsets":        "m1" + fill(" offset 1m"),
		"matchers":       "m1{" + fill(`a="b",`) + "}",
		"regex":          `m1{host=~"` + fill("(a|b)*") + `"}`,
		"nested regex":   `m1{host=~"` + strings.Repeat("(", 900) + "a" + strings.Repeat(")", 900) + `"}`,
		"counted regex":  `m1{host=~"` + strings.Repeat("(", 3) + "a" + strings.Repeat("{1000})", 3) + `"}`,
		"alternatives":   `m1{host=~"` + fill("h|") + `"}`,
		"unicode":        fill("é"),
		"zero bytes":     fill("\x00"),
		"invalid utf8":   fill("\xff\xfe"),
		"digits":         fill("9"),
		"one long name":  fill("a"),
		"group modifier": "m1 * on(" + fill("a,") + "b) m1",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := q.Instant(t.Context(), text, t0)
			took := time.Since(start)
			t.Logf("%v: %.80v", took, err)
			if took > 20*time.Second {
				t.Errorf("took %v", took)
			}
			if len(text) > tsdb.MaxQueryBytes && !errors.Is(err, tsdb.ErrQueryTooLong) {
				t.Errorf("got %.200v", err)
			}
		})
	}
}

func TestNestingIsCountedOutsideStrings(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	apply(t, s, sample{1, t0, 1})
	q := newQuery(t, s, tsdb.QueryOptions{})
	deep := func(n int) string { return strings.Repeat("(", n) + "m1" + strings.Repeat(")", n) }
	for text, ok := range map[string]bool{
		deep(tsdb.MaxQueryDepth):                                         true,
		deep(tsdb.MaxQueryDepth + 1):                                     false,
		`m1{host!="` + strings.Repeat("(", 1000) + `"}`:                  true,
		"m1{host!='\\'" + strings.Repeat("(", 1000) + "'}":               true,
		"m1{host!=`\\`} == m1{host!=`" + strings.Repeat("[", 500) + "`}": true,
		"m1 # " + strings.Repeat("(", 1000):                              true,
		"m1 # \n + " + deep(1000):                                        false,
	} {
		_, err := q.Instant(t.Context(), text, t0)
		if ok != (err == nil) || !ok && !errors.Is(err, tsdb.ErrQueryTooDeep) {
			t.Errorf("%.60q: %v", text, err)
		}
	}
}

func TestQueryIsBounded(t *testing.T) {
	s := newStore(t, options(t), t.TempDir())
	for m := range int64(300) {
		apply(t, s, sample{1, t0 + m*minute, 1}, sample{8, t0 + m*minute, 1})
	}
	q := newQuery(t, s, tsdb.QueryOptions{MaxSamples: 100})
	if _, err := q.Instant(t.Context(), "sum_over_time(m1[5h])", t0+300*minute); err == nil || !strings.Contains(err.Error(), "too many samples") {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Instant(ctx, "m1", t0); err == nil {
		t.Fatal("answered after the caller had gone")
	}
	slow := newQuery(t, s, tsdb.QueryOptions{Timeout: time.Nanosecond})
	var late promql.ErrQueryTimeout // what the engine says, when it is the first to see that the time is up
	if _, err := slow.Instant(t.Context(), "m1", t0); !errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &late) {
		t.Fatalf("got %v", err)
	}
}

func BenchmarkApply(b *testing.B) {
	const series, group = 20_000, 2_000
	opts := options(b)
	opts.WALSegmentBytes, opts.StripeSize = 16<<20, 2048
	s := newStore(b, opts, b.TempDir())
	in := wire.Samples{IDs: make([]uint64, group), T: make([]int64, group), Values: make([]float64, group)}
	at, first := t0, 0
	start := cpuSeconds(b)
	for b.Loop() {
		for i := range group {
			in.IDs[i], in.T[i], in.Values[i] = uint64(first+i+1), at, float64(at/1000%1000)+float64(i)
		}
		if err := s.ApplySamples(&in); err != nil {
			b.Fatal(err)
		}
		if first += group; first == series {
			first, at = 0, at+15_000
		}
	}
	b.ReportMetric((cpuSeconds(b)-start)/float64(b.N)/group*1e6, "cpu-s/Msample")
}

// cpuSeconds is what the process used, which other load on the machine does not change much.
func cpuSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func BenchmarkRange10SeriesX720(b *testing.B) {
	s := newStore(b, options(b), b.TempDir())
	for m := range int64(720) {
		for id := range uint64(70) {
			apply(b, s, sample{id + 1, t0 + m*15_000, float64(m)})
		}
	}
	q := newQuery(b, s, tsdb.QueryOptions{})
	for b.Loop() {
		got, err := q.Range(b.Context(), "m1", t0, t0+719*15_000, 15_000)
		if err != nil || len(got) != 10 || len(got[0].T) != 720 {
			b.Fatal(len(got), err)
		}
	}
}
