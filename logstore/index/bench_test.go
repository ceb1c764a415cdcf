package index

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/blevesearch/bleve/v2/index/scorch"
)

// BenchmarkAdd indexes a day of 48 times 64 blocks with 600 terms each, of which most are in many blocks.
func BenchmarkAdd(b *testing.B) {
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var spent time.Duration
	var merged, live uint64
	segments := 0
	for b.Loop() {
		d, err := Open(b.TempDir(), 2, func(int64, Name) ([]uint64, error) { return nil, nil }, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		name, err := d.Create(1)
		if err != nil {
			b.Fatal(err)
		}
		rng, id := rand.New(rand.NewPCG(7, 7)), uint64(0)
		before := cpu()
		for range 48 {
			var docs []Doc
			for range 64 {
				var terms []byte
				for range 600 {
					terms = fmt.Appendf(terms, "word%c%c%c\n", 'a'+rng.IntN(26), 'a'+rng.IntN(1+rng.IntN(26)), 'a'+rng.IntN(26))
				}
				docs = append(docs, Doc{ID: id, Terms: terms})
				id++
			}
			if err := d.Add(1, name, docs); err != nil {
				b.Fatal(err)
			}
		}
		h, err := d.hold(dayName{1, name})
		if err != nil {
			b.Fatal(err)
		}
		stats := h.raw.(*scorch.Scorch).StatsMap()
		merged += stats["TotFileMergeWrittenBytes"].(uint64)
		live += stats["CurOnDiskBytes"].(uint64)
		segments = int(stats["TotFileSegmentsAtRoot"].(uint64))
		d.release(h)
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
		spent += cpu() - before
	}
	b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(float64(merged)/float64(b.N)/1e6, "merged-MB/op")
	b.ReportMetric(float64(live)/float64(b.N)/1e6, "MB")
	b.ReportMetric(float64(segments), "segments")
}
