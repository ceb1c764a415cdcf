package collect

import (
	"context"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
)

// book gives out numbers and remembers scrapes.
type book struct {
	numbers map[string]uint64
	labels  []wire.Labels
	scrapes []wire.Scrape
}

func newBook() *book { return &book{numbers: map[string]uint64{}} }

func (b *book) Number(key []byte) (uint64, error) {
	if n, ok := b.numbers[string(key)]; ok {
		return n, nil
	}
	ls, _, err := wire.LabelsFromKey(key)
	if err != nil {
		return 0, err
	}
	b.labels = append(b.labels, ls)
	b.numbers[string(key)] = uint64(len(b.labels))
	return uint64(len(b.labels)), nil
}

func (b *book) Put(_ context.Context, scrapes []wire.Scrape) error {
	b.scrapes = append(b.scrapes, scrapes...)
	return nil
}

func (b *book) Between() error { return nil }

func (b *book) value(s wire.Scrape, want wire.Labels) float64 {
	n := b.numbers[string(want.AppendKey(nil))]
	if i := slices.Index(s.IDs, n); n != 0 && i >= 0 {
		return s.Values[i]
	}
	return math.NaN()
}

func ls(pairs ...string) wire.Labels {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return wire.LabelsFromMap(m)
}

func testRegistry(t *testing.T) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewRegistry()
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "h", Buckets: []float64{0.5, 1}}, []string{"zone"})
	s := prometheus.NewSummary(prometheus.SummaryOpts{Name: "s", Objectives: map[float64]float64{0.5: 0.01}})
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c_total"}, []string{"b", "A"})
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "g"})
	reg.MustRegister(h, s, c, g)
	h.WithLabelValues("z").Observe(0.7)
	h.WithLabelValues("z").Observe(7)
	s.Observe(3)
	c.WithLabelValues("", "x").Add(4)
	g.Set(-1.5)
	return reg
}

func TestFlatten(t *testing.T) {
	families, err := testRegistry(t).Gather()
	if err != nil {
		t.Fatal(err)
	}
	b := newBook()
	s, refused, err := NewFlattener(b).Flatten(15000, families)
	if err != nil || refused != 0 || s.T != 15000 || !slices.IsSorted(s.IDs) {
		t.Fatalf("%+v, %d refused: %v", s, refused, err)
	}
	for _, c := range []struct {
		labels wire.Labels
		want   float64
	}{
		{ls("__name__", "h_bucket", "zone", "z", "le", "0.5"), 0},
		{ls("__name__", "h_bucket", "zone", "z", "le", "1.0"), 1},
		{ls("__name__", "h_bucket", "zone", "z", "le", "+Inf"), 2},
		{ls("__name__", "h_count", "zone", "z"), 2},
		{ls("__name__", "h_sum", "zone", "z"), 7.7},
		{ls("__name__", "s", "quantile", "0.5"), 3},
		{ls("__name__", "s_count"), 1},
		{ls("__name__", "c_total", "A", "x"), 4},
		{ls("__name__", "g"), -1.5},
	} {
		if got := b.value(s, c.labels); got != c.want {
			t.Errorf("%v: %v, want %v", c.labels, got, c.want)
		}
	}
}

func TestScraperKeepsToMultiplesOfThePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		s := &Scraper{
			Gatherer: testRegistry(t), Sink: b, Period: 15 * time.Second, Exclude: regexp.MustCompile("^(?:h|s)$"),
			Log: slog.New(slog.DiscardHandler),
		}
		time.Sleep(7 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 61*time.Second)
		defer cancel()
		s.Run(ctx)
		if len(b.scrapes) != 4 {
			t.Fatalf("%d scrapes in 61 s", len(b.scrapes))
		}
		for i, sc := range b.scrapes {
			if sc.T%15000 != 0 || i > 0 && sc.T != b.scrapes[i-1].T+15000 || len(sc.IDs) != 2 {
				t.Errorf("scrape %d at %d with %d samples", i, sc.T, len(sc.IDs))
			}
		}
	})
}

func BenchmarkFlattenAndEncode(b *testing.B) {
	reg := prometheus.NewRegistry()
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "node_thing_bytes"}, []string{"device", "mode"})
	reg.MustRegister(v)
	for d := range 50 {
		for m := range 10 {
			v.WithLabelValues(string(rune('a'+d)), string(rune('a'+m))).Set(float64(d*m) / 4)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		b.Fatal(err)
	}
	f := NewFlattener(newBook())
	var raw []byte
	for b.Loop() {
		s, _, err := f.Flatten(1, families)
		if err != nil {
			b.Fatal(err)
		}
		raw = wire.AppendMetrics(raw[:0], []wire.Scrape{s})
	}
	b.ReportMetric(float64(len(raw))/500, "B/sample")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/sample")
}
