package logstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// The corpus of the benchmarks is the *.log files in the directory that TRIWARD_LOGS names, or lines made up
// here. Digits in runs of four and more are drawn anew for every line, so that repeating a file does not make it
// compress better than it would.

const benchLines = 1_000_000

func corpus(tb testing.TB) [][]byte {
	tb.Helper()
	var lines [][]byte
	if dir := os.Getenv("TRIWARD_LOGS"); dir != "" {
		files, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil || len(files) == 0 {
			tb.Fatalf("TRIWARD_LOGS=%s: no *.log files: %v", dir, err)
		}
		slices.Sort(files)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				tb.Fatal(err)
			}
			for _, l := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
				lines = append(lines, bytes.TrimRight(l, "\r"))
			}
		}
		return lines
	}
	rng := rand.New(rand.NewPCG(1, 1))
	verbs := []string{"accepted", "refused", "opened", "closed", "renewed", "failed"}
	for i := range 12000 {
		lines = append(lines, fmt.Appendf(nil, "%s connection %d from 10.%d.%d.%d port %d for user%d session %08x: %s in %d ms",
			[]string{"INFO", "WARN", "ERROR"}[i%3], i, rng.IntN(9), rng.IntN(9), rng.IntN(255), 1024+rng.IntN(60000), rng.IntN(50), rng.Uint32(),
			verbs[rng.IntN(len(verbs))], rng.IntN(2000)))
	}
	return lines
}

// load applies n lines of 96 streams over an hour, in batches of about 500 lines of one host.
func load(tb testing.TB, s *Store, n int, lines [][]byte) (apply time.Duration) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(3, 3))
	coder, err := wire.NewCoder()
	if err != nil {
		tb.Fatal(err)
	}
	const hosts, units = 12, 8
	at := [hosts * units]int{}
	for i := range at {
		at[i] = i * len(lines) / len(at)
	}
	base := (testDay+2)*DayNs + DayNs/4
	for i, index := 0, uint64(1); i < n; index++ {
		h := int(index) % hosts
		var b wire.LogBatch
		for u := range units {
			st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{
				"host": fmt.Sprintf("web-%02d", h), "unit": fmt.Sprintf("unit%d", u), "source": "file",
			})}
			for range 64 {
				k := h*units + u
				at[k]++
				sev := wire.SeverityInfo
				text := fresh(rng, lines[(k*len(lines)/len(at)+at[k]%(len(lines)/8))%len(lines)])
				if bytes.Contains(text, []byte("ERROR")) || bytes.Contains(text, []byte("error")) {
					sev = wire.SeverityError
				}
				st.Lines = append(st.Lines, wire.LogLine{T: base + int64(i)*int64(time.Hour)/int64(n) + rng.Int64N(1e6), Severity: sev, Text: text})
				i++
			}
			b.Streams = append(b.Streams, st)
		}
		codec, body := coder.Compress(nil, wire.AppendLogs(nil, &b))
		e := wire.LogEntry{Index: index, Batches: []wire.AcceptedLogs{{Agent: "a", Codec: codec, Body: body, Batch: &b}}}
		before := cpu()
		if err := s.ApplyLogs(index, []wire.LogEntry{e}); err != nil {
			tb.Fatal(err)
		}
		if s.engine.sealDue() {
			if err := s.Work(tb.Context(), false); err != nil {
				tb.Fatal(err)
			}
		}
		apply += cpu() - before
	}
	before := cpu()
	if err := s.Work(tb.Context(), true); err != nil {
		tb.Fatal(err)
	}
	if err := s.Flush(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return apply + cpu() - before
}

func fresh(rng *rand.Rand, line []byte) []byte {
	out := bytes.Clone(line)
	for i := 0; i < len(out); {
		j := i
		for j < len(out) && '0' <= out[j] && out[j] <= '9' {
			j++
		}
		if j-i >= 4 {
			for k := i; k < j; k++ {
				out[k] = '0' + byte(rng.IntN(10))
			}
		}
		i = max(j, i+1)
	}
	return out
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// formats runs a benchmark with the blocks of each format of the cluster.
func formats(b *testing.B, run func(b *testing.B, format uint32)) {
	for _, format := range []uint32{1, 2} {
		b.Run(fmt.Sprint("format=", format), func(b *testing.B) { run(b, format) })
	}
}

func BenchmarkIntake(b *testing.B) {
	benchmarkIntake(b, benchLines, Options{templateLines: templateLines})
}

// BenchmarkIntakeOfFew seals some 70 lines of each stream at once, so that every line is merged twice.
func BenchmarkIntakeOfFew(b *testing.B) {
	benchmarkIntake(b, benchLines/5, Options{templateLines: templateLines, SealBytes: 1 << 20})
}

func benchmarkIntake(b *testing.B, count int, opt Options) {
	lines := corpus(b)
	formats(b, func(b *testing.B, format uint32) {
		var spent time.Duration
		var disk int64
		parts := map[string]int64{}
		n := 0
		for b.Loop() {
			s := testStore(b, b.TempDir(), opt)
			s.SetFormat(format)
			spent += load(b, s, count, lines)
			n += count
			d, err := s.DiskBytes()
			if err != nil {
				b.Fatal(err)
			}
			disk += d
			addParts(b, s, parts)
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(spent.Seconds()*1e6/float64(n), "cpu-s/Mline")
		b.ReportMetric(float64(disk)/float64(n), "B/line")
		for part, bytes := range parts {
			b.ReportMetric(float64(bytes)/float64(n), part+"-B/line")
		}
	})
}

// addParts adds the bytes of the rows of each kind, of all rows together ("live") and of the word index to parts. What is on disk has
// besides what was merged since and is not swept yet.
func addParts(tb testing.TB, s *Store, parts map[string]int64) {
	tb.Helper()
	e, release, err := s.acquire()
	if err != nil {
		tb.Fatal(err)
	}
	defer release()
	for prefix, part := range map[byte]string{
		prefixHeader: "headers", prefixColumns: "columns", prefixText: "text", prefixFilter: "filter", prefixMark: "marks", prefixStream: "streams",
	} {
		err = errors.Join(err, e.rows(e.db, []byte{prefix}, func(key, value []byte) error {
			parts[part] += int64(len(key) + len(value))
			parts["live"] += int64(len(key) + len(value))
			return nil
		}))
	}
	n, ierr := e.indexBytes()
	if parts["index"] += n; errors.Join(err, ierr) != nil {
		tb.Fatal(err, ierr)
	}
}

// timed calls fn as often as the benchmark wants and reports the processor time and the median of a call.
func timed(b *testing.B, fn func()) {
	before, took := cpu(), []time.Duration(nil)
	for b.Loop() {
		began := time.Now()
		fn()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(cpu()-before)/1e6/float64(len(took)), "cpu-ms/op")
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
}

func BenchmarkQuery(b *testing.B) {
	lines := corpus(b)
	formats(b, func(b *testing.B, format uint32) {
		s := testStore(b, b.TempDir(), Options{})
		s.SetFormat(format)
		load(b, s, benchLines, lines)
		benchmarkQueries(b, s)
	})
}

func benchmarkQueries(b *testing.B, s *Store) {
	day := (testDay + 2) * DayNs
	for _, q := range []struct{ name, text string }{
		{"all", "*"},
		{"rare", "segfault"},
		{"word", "error"},
		{"and", "error failed"},
		{"and-value", "authentication root"}, // of lines of TRIWARD_LOGS: a word that all lines of a form have and a value of some
		{"phrase", `"connection closed"`},
		{"prefix", "auth*"},
		{"digits", "10.251.73.220"},
		{"id", "7f3a99c2d1e0"},
		{"severity", "severity:error"},
		{"host", "host:web-03"},
		{"not", "-info -warn"},
		{"regex", `/block \w+ of/`},
		{"near-rare", "segfualt~"},
		{"near", "faield~"},
		{"star", "fail*d"},
		{"star-first", "*ailed"},
		{"times", "@2024-10-06T10:00..10:05 error"},
	} {
		f, err := query.Parse(q.text)
		if err != nil {
			b.Fatal(err)
		}
		req := Request{Filter: f, Start: day, End: day + DayNs, Limit: 200}
		b.Run("search/"+q.name, func(b *testing.B) {
			timed(b, func() {
				if _, err := s.Search(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			})
		})
		b.Run("hits/"+q.name, func(b *testing.B) {
			var h *Hits
			timed(b, func() {
				if h, err = s.Hits(b.Context(), req, 60e9); err != nil {
					b.Fatal(err)
				}
			})
			b.ReportMetric(float64(h.Total), "lines")
			b.ReportMetric(float64(h.Stats.Blocks), "blocks")
			b.ReportMetric(float64(h.Stats.Skipped()), "skipped")
		})
	}
}

// BenchmarkPatterns counts by pattern, and beside it by severity with all texts looked at, to compare.
func BenchmarkPatterns(b *testing.B) {
	lines := corpus(b)
	formats(b, func(b *testing.B, format uint32) {
		s := testStore(b, b.TempDir(), Options{})
		s.SetFormat(format)
		load(b, s, benchLines, lines)
		day := (testDay + 2) * DayNs
		ask := func(req PatternsRequest) func(*testing.B) {
			req.Start, req.End = day, day+DayNs
			return func(b *testing.B) {
				var p *Patterns
				timed(b, func() {
					var err error
					if p, err = s.Patterns(b.Context(), req); err != nil {
						b.Fatal(err)
					}
				})
				b.ReportMetric(float64(p.Lines), "lines")
				b.ReportMetric(float64(p.Distinct), "patterns")
				b.ReportMetric(float64(p.Stats.Bytes), "bytes")
			}
		}
		b.Run("all", ask(PatternsRequest{}))
		b.Run("steps", ask(PatternsRequest{Step: 3600e9}))
		b.Run("new", ask(PatternsRequest{Since: day + DayNs/2}))
		f, err := query.Parse("-/ZZZZ/")
		if err != nil {
			b.Fatal(err)
		}
		b.Run("regex-hits", func(b *testing.B) {
			timed(b, func() {
				if _, err := s.Hits(b.Context(), Request{Filter: f, Start: day, End: day + DayNs}, 3600e9); err != nil {
					b.Fatal(err)
				}
			})
		})
	})
}

// BenchmarkSuggest asks without a bound of time, so that all work is counted.
func BenchmarkSuggest(b *testing.B) {
	lines := corpus(b)
	s := testStore(b, b.TempDir(), Options{})
	load(b, s, benchLines, lines)
	day := (testDay + 2) * DayNs
	for _, q := range []struct {
		name string
		req  SuggestRequest
	}{
		{"word", SuggestRequest{Prefix: "con"}},
		{"letter", SuggestRequest{Prefix: "e"}},
		{"rare", SuggestRequest{Prefix: "segf"}},
		{"nothing", SuggestRequest{Prefix: "zzzzzz"}},
		{"digits", SuggestRequest{Prefix: "10"}},
		{"names", SuggestRequest{Kind: SuggestName}},
		{"values", SuggestRequest{Kind: SuggestValue, Field: "host"}},
	} {
		q.req.Start, q.req.End, q.req.Limit, q.req.Budget = day, day+DayNs, 10, time.Hour
		b.Run(q.name, func(b *testing.B) {
			n, items := 0, 0
			before := cpu()
			for ; b.Loop(); n++ {
				g := &suggester{store: s, req: q.req, caller: b.Context(), ctx: b.Context(), began: time.Now(), lines: suggestLines}
				out, err := g.run()
				if err != nil {
					b.Fatal(err)
				}
				items = len(out.Items)
			}
			b.ReportMetric(float64(cpu()-before)/1e6/float64(n), "cpu-ms/op")
			b.ReportMetric(float64(items), "items")
		})
	}
}

// BenchmarkApplyBesideQueries stores batches of 500 lines while nobody asks anything, and while 64 clients ask again and again
// for what takes long.
func BenchmarkApplyBesideQueries(b *testing.B) {
	lines := corpus(b)
	s := testStore(b, b.TempDir(), Options{})
	load(b, s, 200_000, lines)
	coder, err := wire.NewCoder()
	if err != nil {
		b.Fatal(err)
	}
	index := s.Applied()
	apply := func(b *testing.B) {
		var worst time.Duration
		for b.Loop() {
			index++
			batch := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: "beside"}}}}}
			st := &batch.Streams[0]
			for i := range 500 {
				st.Lines = append(st.Lines, wire.LogLine{T: (testDay+2)*DayNs + int64(index), Text: lines[(int(index)*500+i)%len(lines)]})
			}
			codec, body := coder.Compress(nil, wire.AppendLogs(nil, &batch))
			began := time.Now()
			if err := s.ApplyLogs(index, []wire.LogEntry{{Index: index, Batches: []wire.AcceptedLogs{{Codec: codec, Body: body, Batch: &batch}}}}); err != nil {
				b.Fatal(err)
			}
			worst = max(worst, time.Since(began))
		}
		b.ReportMetric(float64(500*b.N)/b.Elapsed().Seconds(), "lines/s")
		b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
	}
	b.Run("alone", apply)
	ctx, cancel := context.WithCancel(b.Context())
	var clients sync.WaitGroup
	for range 64 {
		clients.Go(func() {
			req := Request{Filter: slowFilter(b), Start: testDay * DayNs, End: (testDay + 3) * DayNs}
			for ctx.Err() == nil {
				if _, err := s.Hits(ctx, req, DayNs); err != nil && ctx.Err() == nil {
					b.Error(err)
				}
			}
		})
	}
	b.Run("beside", apply)
	cancel()
	clients.Wait()
}
