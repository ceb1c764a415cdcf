package query

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkSelect decides the lines of one block.
func BenchmarkSelect(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	var l Lines
	for range 4096 {
		l.Text = fmt.Appendf(l.Text, "%s sshd[%d]: Failed password for invalid user %08x from 10.%d.%d.%d port %d ssh2: session closed for stats",
			[]string{"INFO", "WARN", "ERROR"}[rng.IntN(3)], rng.IntN(30000), rng.Uint32(), rng.IntN(9), rng.IntN(255), rng.IntN(255), rng.IntN(60000))
		l.Ends = append(l.Ends, uint32(len(l.Text)))
		l.Severities = append(l.Severities, 0)
	}
	l.N = len(l.Ends)
	for _, text := range []string{"segfault", "segfualt~", "segfau~1", "faield~", "seg*ult", "*fault", "pass*d", `/seg.ault/`, `/(?i)segfault/`} {
		f, err := Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) {
			b.SetBytes(int64(len(l.Text)))
			for b.Loop() {
				l.lowered = l.lowered[:0]
				f.Select(&l, Range(l.N, 0, l.N))
			}
		})
	}
}
