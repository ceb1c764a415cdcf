package machine_test

import (
	"fmt"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
)

// fleet registers n agents with k series each and returns their first ids.
func fleet(b *testing.B, m *machine.Machine, n, k int) []uint64 {
	b.Helper()
	var g machine.Group
	firsts := make([]uint64, n)
	for a := range n {
		name := fmt.Sprint("a", a)
		sets := make([]wire.Labels, k)
		for i := range sets {
			sets[i] = series(name, i)
		}
		rs, err := m.Apply(uint64(a+1), 1, command.Entry{Stamp: start, Commands: []command.Command{
			command.NewOpenEpoch(name, wire.Epoch{1}), command.NewRegisterSeries(name, sets),
		}}, &g)
		if err != nil || rs[1].Status != command.StatusOK {
			b.Fatalf("%+v, %v", rs, err)
		}
		firsts[a] = rs[1].IDs[0]
	}
	m.Finish(&g)
	return firsts
}

// BenchmarkApplyMetrics applies entries of 20 scrapes of 500 series, digests included.
func BenchmarkApplyMetrics(b *testing.B) {
	b.Run("even", func(b *testing.B) { benchMetrics(b, 0) })
	b.Run("jittered", func(b *testing.B) { benchMetrics(b, 7) })
}

const (
	benchAgents   = 200
	benchSeries   = 500
	benchPerEntry = 20
)

func benchMetrics(b *testing.B, jitter int64) {
	m, s := newMachine(b)
	f := &scraper{coder: newCoder(b), firsts: fleet(b, m, benchAgents, benchSeries), jitter: jitter}
	var entries []command.Entry
	var g machine.Group
	index := uint64(benchAgents)
	for b.Loop() {
		if len(entries) == 0 {
			b.StopTimer()
			for range 200 {
				entries = append(entries, f.entry())
			}
			commitMark(b, s, index)
			b.StartTimer()
		}
		index++
		rs, err := m.Apply(index, 1, entries[0], &g)
		if err != nil || rs[benchPerEntry-1].Accepted != benchSeries {
			b.Fatalf("%+v, %v", rs, err)
		}
		m.Finish(&g)
		g.Reset()
		entries = entries[1:]
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchPerEntry*benchSeries), "ns/sample")
}

// scraper makes entries of scrapes, agent after agent.
type scraper struct {
	coder  *wire.Coder
	firsts []uint64
	jitter int64
	seq    uint64
	next   int
}

func (f *scraper) entry() command.Entry {
	var e command.Entry
	for range benchPerEntry {
		if f.next == 0 {
			f.seq++
		}
		a := f.next
		f.next = (f.next + 1) % len(f.firsts)
		s := wire.Scrape{T: start + int64(f.seq)*15_000 + int64(f.seq*7919)%(f.jitter+1)}
		for i := range uint64(benchSeries) {
			s.IDs = append(s.IDs, f.firsts[a]+i)
			s.Values = append(s.Values, float64(i*37%1000)+float64(i%7)/4)
		}
		e.Stamp = s.T
		e.Commands = append(e.Commands, batch(f.coder, wire.Identity{
			Agent: fmt.Sprint("a", a), Epoch: wire.Epoch{1},
			Lane: wire.LaneMetrics, Seq: f.seq,
		}, wire.AppendMetrics(nil, []wire.Scrape{s})))
	}
	return e
}

// benchLines is a body of n lines of about 100 bytes, one a nanosecond from `from` on.
func benchLines(n int, from int64) []byte {
	st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "source", Value: "file"}}}
	for i := range n {
		st.Lines = append(st.Lines, wire.LogLine{T: from + int64(i), Severity: wire.SeverityInfo, Text: fmt.Appendf(nil,
			"connection %d from 10.0.%d.%d closed after %d ms with status %d by the upstream server number %d", i, i%7, i%251, i*13%997, i%5, i%3)})
	}
	return wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{st}})
}

// BenchmarkApplyDeliveries applies deliveries of 500 lines of about 100 bytes, digests included: as they come, held
// against a full window of recent lines, and all of them repeats.
func BenchmarkApplyDeliveries(b *testing.B) {
	const lines = 500
	for _, c := range []struct {
		name    string
		flags   command.DeliverFlags
		repeats bool
	}{{"plain", 0, false}, {"window", command.RepeatsDropped, false}, {"repeats", command.RepeatsDropped, true}} {
		b.Run(c.name, func(b *testing.B) {
			m, s := newMachine(b)
			coder := newCoder(b)
			var g machine.Group
			index := uint64(0)
			apply := func(cmd command.Command, want uint32) {
				index++
				rs, err := m.Apply(index, 1, command.Entry{Stamp: start, Commands: []command.Command{cmd}}, &g)
				if err != nil || rs[0].Accepted != want {
					b.Fatalf("%+v, %v", rs, err)
				}
				m.Finish(&g)
				g.Reset()
			}
			next := func() command.Command {
				return delivery(coder, "loki", wire.LaneLogs, c.flags, benchLines(lines, (start-3_600_000)*1e6+int64(index)*lines))
			}
			for range machine.DefaultLimits().RecentLines / lines {
				apply(next(), lines)
			}
			commitMark(b, s, index)
			var cmds []command.Command
			want := uint32(lines)
			if c.repeats {
				want = 0
			}
			for b.Loop() {
				if len(cmds) == 0 {
					b.StopTimer()
					was := index
					for range 200 {
						cmds = append(cmds, next())
						index++
					}
					if index = was; c.repeats {
						for i := range cmds {
							apply(cmds[i], lines)
						}
					}
					b.StartTimer()
				}
				apply(cmds[0], want)
				cmds = cmds[1:]
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*lines), "ns/line")
		})
	}
}

// BenchmarkApplyLogs applies batches of 500 lines of about 100 bytes, digests included.
func BenchmarkApplyLogs(b *testing.B) {
	const lines = 500
	m, _ := newMachine(b)
	coder := newCoder(b)
	fleet(b, m, 1, 1)
	c := batch(coder, wire.Identity{Agent: "a0", Epoch: wire.Epoch{1}, Lane: wire.LaneLogs, Seq: 1}, benchLines(lines, start*1e6))
	d, err := command.DecodeBatch(c)
	if err != nil {
		b.Fatal(err)
	}
	var g machine.Group
	index := uint64(1)
	for b.Loop() {
		index++
		rs, err := m.Apply(index, 1, command.Entry{Stamp: start, Commands: []command.Command{command.NewBatch(d.Batch, 1)}}, &g)
		if err != nil || rs[0].Accepted != lines {
			b.Fatalf("%+v, %v", rs, err)
		}
		m.Finish(&g)
		g.Reset()
		d.Seq++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*lines), "ns/line")
}

// BenchmarkMark freezes and commits after a scrape of all of 100,000 series; one operation is one mark.
func BenchmarkMark(b *testing.B) {
	m, s := newMachine(b)
	f := &scraper{coder: newCoder(b), firsts: fleet(b, m, benchAgents, benchSeries)}
	var g machine.Group
	index := uint64(benchAgents)
	commitMark(b, s, index)
	for b.Loop() {
		b.StopTimer()
		for range benchAgents / benchPerEntry {
			index++
			if _, err := m.Apply(index, 1, f.entry(), &g); err != nil {
				b.Fatal(err)
			}
			m.Finish(&g)
			g.Reset()
		}
		b.StartTimer()
		commitMark(b, s, index)
	}
}

// BenchmarkOpen opens a file of 100,000 series.
func BenchmarkOpen(b *testing.B) {
	m, s := newMachine(b)
	fleet(b, m, benchAgents, benchSeries)
	commitMark(b, s, benchAgents)
	path := b.TempDir() + "/copy.db"
	if err := s.CopyTo(path); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		again := openStore(b, path)
		if again.SeriesCount() != benchAgents*benchSeries {
			b.Fatal(again.SeriesCount())
		}
		if err := again.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
