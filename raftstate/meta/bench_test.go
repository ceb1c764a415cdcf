package meta

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/triward/triward/agent/wire"
)

// fill registers agents of 500 series with labels as node_exporter has them.
func fill(s *Store, agents int) {
	entry(s, 1, 1, func(tx *Tx) {
		for a := range agents {
			var set [][]byte
			for i := range 500 {
				set = append(set, wire.Labels{
					{Name: "__name__", Value: fmt.Sprintf("node_network_receive_bytes_%d_total", i/4)},
					{Name: "agent", Value: fmt.Sprintf("agent-%08d", a)},
					{Name: "device", Value: fmt.Sprintf("eth%d", i%4)},
					{Name: "host", Value: fmt.Sprintf("web-%05d.example.org", a)},
					{Name: "instance", Value: fmt.Sprintf("web-%05d.example.org", a)},
					{Name: "job", Value: "node"},
				}.AppendKey(nil))
			}
			tx.AllotSeries(fmt.Sprintf("agent-%08d", a), set)
		}
	})
}

// BenchmarkSeriesLabels reads labels of series that are in the file only, and reports what memory and disk
// 100,000 series take.
func BenchmarkSeriesLabels(b *testing.B) {
	s := openNew(b)
	fill(s, 200)
	commit(b, s, 1)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	again := openCopy(b, s)
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	n := uint64(again.SeriesCount())
	id := uint64(0)
	for b.Loop() {
		id = id%n + 1
		if _, ok := again.SeriesLabels(id); !ok {
			b.Fatal(id)
		}
	}
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/float64(n), "heap-B/series")
	st, err := os.Stat(again.Path())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(st.Size())/float64(n), "disk-B/series")
}
