package logstore

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// BenchmarkRareIDsAndNumbers looks for ids in some 140 sealed blocks, of which a quarter has ids of their form, and for numbers in structured
// fields that a sixth of the lines of these have.
func BenchmarkRareIDsAndNumbers(b *testing.B) {
	s := testStore(b, b.TempDir(), Options{})
	rng := rand.New(rand.NewPCG(4, 4))
	day := (testDay + 1) * DayNs
	index, one := uint64(0), ""
	for round := range 4 {
		for host := range 48 {
			batch := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: strconv.Itoa(host)}}}}}
			st := &batch.Streams[0]
			for i := range 4096 {
				l := wire.LogLine{T: day + int64(4096*round+i)*1e9, Severity: wire.SeverityInfo}
				switch id := fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64()); {
				case host%4 > 0:
					l.Text = fmt.Appendf(nil, "job %d of 10.%d.%d.%d took %d ms", rng.IntN(1e6), rng.IntN(256), rng.IntN(256), rng.IntN(256), rng.IntN(3000))
				case i%6 == 0:
					one = id
					l.Text = []byte("request served")
					l.Text = append(append(l.Text, " trace_id="...), id...)
					l.Fields = wire.Labels{{Name: "took", Value: strconv.FormatFloat(rng.ExpFloat64()*40, 'f', 2, 64)}, {Name: "trace", Value: id}}
				default:
					l.Text = fmt.Appendf(nil, "charge accepted order=%d trace_id=%s", rng.IntN(1e7), id)
				}
				st.Lines = append(st.Lines, l)
			}
			index++
			e := wire.LogEntry{Index: index, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &batch), Batch: &batch}}}
			if err := s.ApplyLogs(index, []wire.LogEntry{e}); err != nil {
				b.Fatal(err)
			}
			if s.engine.sealDue() {
				work(b, s, false)
			}
		}
	}
	work(b, s, true)
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, text := range []string{one, "4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6a3ce929d0e0e", "took>100", "took>1000", "took>=7 took<7.05"} {
		f, err := query.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) {
			var h *Hits
			timed(b, func() {
				if h, err = s.Hits(b.Context(), Request{Filter: f, Start: day, End: day + DayNs}, DayNs); err != nil {
					b.Fatal(err)
				}
			})
			b.ReportMetric(float64(h.Total), "lines")
			b.ReportMetric(float64(h.Stats.Blocks), "blocks")
			b.ReportMetric(float64(h.Stats.Considered), "considered")
		})
	}
}
