package logstore

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/triward/triward/logstore/query"
)

// BenchmarkMembers asks for fields that texts hold, in JSON lines and beside lines that hold none.
func BenchmarkMembers(b *testing.B) {
	rng := rand.New(rand.NewPCG(2, 2))
	var lines [][]byte
	for i := range 12000 {
		lines = append(lines, fmt.Appendf(nil, `{"time":"2026-11-27T10:%02d:%02d.%03dZ","level":"%s","msg":"request served","req":{"method":"GET","path":"/api/v1/users/%d","id":"%08x-77b3"},"status":%d,"took_ms":%d.5}`,
			i/60%60, i%60, rng.IntN(1000), []string{"info", "warn", "error"}[i%3], rng.IntN(90000), rng.Uint32(), 200+rng.IntN(5)*100+rng.IntN(5), rng.IntN(2000)))
	}
	for name, corpus := range map[string][][]byte{"json": lines, "plain": corpus(b)} {
		s := testStore(b, b.TempDir(), Options{})
		s.SetFormat(2)
		load(b, s, 200_000, corpus)
		for _, text := range []string{"status:>499", `req.id:"4bf92f35-77b3"`, "level:error", "connection", "req.path:/api* status:503"} {
			f, err := query.Parse(text)
			if err != nil {
				b.Fatal(err)
			}
			b.Run(name+"/"+text, func(b *testing.B) {
				n := 0
				timed(b, func() {
					h, err := s.Hits(b.Context(), Request{Filter: f, Start: testDay * DayNs, End: (testDay + 4) * DayNs}, DayNs)
					if err != nil {
						b.Fatal(err)
					}
					n = int(h.Total)
				})
				b.ReportMetric(float64(n), "lines")
			})
		}
		for _, field := range []string{"status", "host"} {
			b.Run(name+"/top "+field, func(b *testing.B) {
				timed(b, func() {
					if _, err := s.Facets(b.Context(), Request{Start: testDay * DayNs, End: (testDay + 4) * DayNs}, field); err != nil {
						b.Fatal(err)
					}
				})
			})
		}
	}
}
