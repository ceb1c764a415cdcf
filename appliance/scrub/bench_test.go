package scrub

import "testing"

func benchWorld(b *testing.B) *world {
	w := newWorld(b, 11)
	for range 30 {
		w.apply(2000, 6000)
		w.hours(1)
	}
	w.work()
	w.flush()
	return w
}

// BenchmarkDeepMetrics gives the cost of reading and hashing samples.
func BenchmarkDeepMetrics(b *testing.B) {
	w, n := benchWorld(b), uint64(0)
	for b.Loop() {
		for day := int64(firstDay); day*dayMs < w.clock; day++ {
			d, err := MetricsDigest(b.Context(), w.metrics, day, func(int) error { return nil })
			if err != nil {
				b.Fatal(err)
			}
			n += d.Count
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/sample")
}

// BenchmarkDeepLines gives the cost of reading and hashing lines, a GB of their text at a time.
func BenchmarkDeepLines(b *testing.B) {
	w, n := benchWorld(b), 0
	for b.Loop() {
		for day := int64(firstDay); day*dayMs < w.clock; day++ {
			if _, _, err := LinesDigest(b.Context(), w.logs, day, func(k int) error { n += k; return nil }); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/(float64(n)/(1<<30)), "s/GiB")
}

// BenchmarkFiles gives the cost of comparing files with their checksums.
func BenchmarkFiles(b *testing.B) {
	w, n := benchWorld(b), 0
	pace := func(k int) error { n += k; return nil }
	for b.Loop() {
		if _, err := w.metrics.Scrub(b.Context(), pace); err != nil {
			b.Fatal(err)
		}
		if _, err := w.logs.Scrub(b.Context(), pace); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/(float64(n)/(1<<30)), "s/GiB")
}
