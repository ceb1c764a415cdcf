package block

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// corpora are the *.log files in the directory that TRIWARD_LOGS names, if any, and kinds of lines that are made up here. Digits
// in runs of four and more are drawn anew for every line.
func corpora(tb testing.TB, n int) map[string][]Line {
	tb.Helper()
	rng := rand.New(rand.NewPCG(9, 9))
	verbs := []string{"accepted", "refused", "opened", "closed", "renewed", "failed"}
	letters := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = 'a' + byte(rng.IntN(26))
		}
		return string(b)
	}
	out := map[string][]Line{}
	add := func(name string, text func(i int) string) {
		for i := range n {
			out[name] = append(out[name], Line{T: 17e17 + int64(i)*1e6 + rng.Int64N(1e6), Index: uint64(1 + i/64), Ord: uint32(i % 500), Severity: 2, Text: []byte(text(i))})
		}
	}
	add("service", func(i int) string {
		return fmt.Sprintf("%s connection %d from 10.%d.%d.%d port %d for user%d session %08x: %s in %d ms", []string{"INFO", "WARN", "ERROR"}[i%3], i,
			rng.IntN(9), rng.IntN(9), rng.IntN(255), 1024+rng.IntN(60000), rng.IntN(50), rng.Uint32(), verbs[rng.IntN(len(verbs))], rng.IntN(2000))
	})
	add("json", func(i int) string {
		return fmt.Sprintf(`{"time":"2026-11-27T10:%02d:%02d.%03dZ","level":"info","msg":"request %s","id":"%08x-%04x-%04x","ms":%d}`, i/60%60, i%60, i%1000,
			verbs[rng.IntN(len(verbs))], rng.Uint32(), rng.IntN(1<<16), rng.IntN(1<<16), rng.IntN(300))
	})
	add("random-after-=", func(i int) string { return "token=" + letters(20) + " state=" + verbs[i%6] + " done" })
	add("random", func(int) string { return letters(8) + " " + letters(9) + " " + letters(7) })
	dir := os.Getenv("TRIWARD_LOGS")
	if dir == "" {
		return out
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("TRIWARD_LOGS=%s: no *.log files: %v", dir, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		add(strings.TrimSuffix(filepath.Base(f), ".log"), func(i int) string {
			line := bytes.Clone(bytes.TrimRight(lines[i%len(lines)], "\r"))
			freshDigits(rng, line)
			return string(line)
		})
	}
	return out
}

func freshDigits(rng *rand.Rand, line []byte) {
	for i := 0; i < len(line); {
		j := i
		for j < len(line) && '0' <= line[j] && line[j] <= '9' {
			j++
		}
		if j-i >= 4 {
			for k := i; k < j; k++ {
				line[k] = '0' + byte(rng.IntN(10))
			}
		}
		i = max(j, i+1)
	}
}

func sortedNames(m map[string][]Line) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkEncode(b *testing.B) {
	c := codec(b)
	all := corpora(b, 4096)
	for _, name := range sortedNames(all) {
		for _, version := range []int{Version1, Version2} {
			for _, n := range []int{4096, 256, 128, 64, 16} { // 256 lines are a small block, which is merged later
				b.Run(fmt.Sprintf("%s/v%d/%d", name, version, n), func(b *testing.B) {
					var voc Vocabulary
					size, filter, before := 0, 0, cpu()
					for b.Loop() {
						for lines := range slices.Chunk(all[name], n) {
							voc.Reset()
							out, err := c.Encode(lines, version, &voc)
							if err != nil || out.Fallback != nil {
								b.Fatal(err, out.Fallback)
							}
							size, filter = size+len(out.Columns)+len(out.Text), filter+len(voc.Filter(version))
						}
					}
					n := float64(len(all[name]) * b.N)
					b.ReportMetric(float64(size)/n, "B/line")
					b.ReportMetric(float64(filter)/n, "filter-B/line")
					b.ReportMetric(float64(cpu()-before)/n/1e3, "cpu-s/Mline")
				})
			}
		}
	}
}
