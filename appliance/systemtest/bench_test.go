package systemtest

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/triward/triward/agent/wire"
)

// cpuSeconds returns the processor time that a process has used.
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	var ticks float64
	for _, s := range f[11:13] {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return 0, err
		}
		ticks += v
	}
	return ticks / 100, nil // USER_HZ is 100 on every Linux that Go runs on
}

func rssMiB(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(f[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20)
}

func dirBytes(dir string) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil {
				n += st.Blocks * 512
			}
		}
		return nil
	})
	return n
}

// load is one benchmark: senders that deliver prepared requests as fast as they are answered.
type load struct {
	unit     string        // what is counted: samples or lines
	store    string        // folder of the store that takes them
	sealed   time.Duration // after this the store has sealed the last of them
	nodes    int
	senders  int
	requests int // of each sender
	series   int // of each sender
	// make prepares request i of a sender and says how many units it carries.
	make func(s *sender, i int) ([]wire.Batch, int)
}

func (ld load) run(b *testing.B) {
	bin, err := filepath.Abs(os.Getenv("TRIWARD_BIN"))
	if err != nil || os.Getenv("TRIWARD_BIN") == "" {
		b.Fatal("TRIWARD_BIN must name the folder of the binaries: run `make bench`")
	}
	for b.Loop() {
		ld.once(b, bin)
	}
}

func (ld load) once(b *testing.B, bin string) {
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	dir := b.TempDir()
	c, err := start(ctx, bin, dir, "--agent=false", "--plain-http", "--http-port", "0", "--nodes", strconv.Itoa(ld.nodes))
	if err != nil {
		b.Fatal(err)
	}
	defer c.stop()
	l, err := newLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.close()
	senders := make([]*sender, ld.senders)
	for i := range senders {
		if senders[i], err = (kills{}).sender(ctx, c, l, i, max(ld.series, 1)); err != nil {
			b.Fatal(err)
		}
	}
	leader, err := c.leader(ctx)
	if err != nil {
		b.Fatal(err)
	}
	before, queueBefore := ld.cpu(b, c), queueBytes(ctx, b, c, leader)
	begin := time.Now()
	units, acks := ld.send(ctx, b, senders)
	took := time.Since(begin).Seconds()
	var v violations
	if err := c.settle(ctx, &v); err != nil || v.total() > 0 {
		b.Fatalf("%v %v", err, &v)
	}
	queue := queueBytes(ctx, b, c, leader) - queueBefore
	ld.rest(ctx, b, c, leader)
	after := ld.cpu(b, c)
	million := float64(units) / 1e6
	var followers float64
	for i := range c.Nodes {
		used := after[i] - before[i]
		if c.Nodes[i].ID == leader.ID {
			b.ReportMetric(used/million, "leader-cpu-s/M")
			b.ReportMetric(rssMiB(c.Nodes[i].PID), "leader-rss-MiB")
			continue
		}
		followers += used
	}
	if ld.nodes > 1 {
		b.ReportMetric(followers/float64(ld.nodes-1)/million, "follower-cpu-s/M")
	}
	slices.Sort(acks)
	b.ReportMetric(float64(units)/took, ld.unit+"/s")
	b.ReportMetric(float64(acks[len(acks)/2].Microseconds())/1000, "ack-p50-ms")
	b.ReportMetric(float64(acks[len(acks)*99/100].Microseconds())/1000, "ack-p99-ms")
	b.ReportMetric(float64(queue)/float64(units), "queue-B/"+ld.unit)
	b.ReportMetric(float64(queue)/took/1e6, "queue-MB/s")
	b.ReportMetric(float64(dirBytes(filepath.Join(leader.DataDir, ld.store)))/float64(units), ld.store+"-B/"+ld.unit)
	b.ReportMetric(0, "ns/op")
}

// rest returns when what was sent is behind a mark on each node and the log stores have sealed it, so that the
// figures hold the work done behind the acknowledgement too.
func (ld load) rest(ctx context.Context, b *testing.B, c *cluster, leader *devNode) {
	begin, size, since := time.Now(), int64(-1), time.Now()
	var asked time.Time
	err := until(ctx, 3*time.Minute, func(ctx context.Context) error {
		if time.Since(asked) < 3*time.Second { // asking costs the nodes time that would be counted
			return errors.New("the store still changes")
		}
		asked = time.Now()
		var st clusterStatus
		if err := c.get(ctx, leader, "/v1/cluster", nil, &st); err != nil {
			return err
		}
		for _, n := range st.Nodes {
			if n.MarkIndex+100 < n.AppliedIndex { // heartbeats and ticks go on
				return fmt.Errorf("mark of %s is at %d of %d", n.ID, n.MarkIndex, n.AppliedIndex)
			}
		}
		if now := dirBytes(filepath.Join(leader.DataDir, ld.store)); now != size {
			size, since = now, time.Now()
		}
		if time.Since(begin) < ld.sealed || time.Since(since) < 10*time.Second {
			return fmt.Errorf("store still changes, %d bytes now", size)
		}
		return nil
	})
	if err != nil {
		b.Log(err)
	}
}

func queueBytes(ctx context.Context, b *testing.B, c *cluster, n *devNode) int64 {
	var q struct {
		Bytes int64 `json:"bytes"`
	}
	if err := c.get(ctx, n, "/v1/queue", nil, &q); err != nil {
		b.Fatal(err)
	}
	return q.Bytes
}

func (ld load) cpu(b *testing.B, c *cluster) []float64 {
	used := make([]float64, len(c.Nodes))
	for i := range used {
		var err error
		if used[i], err = cpuSeconds(c.Nodes[i].PID); err != nil {
			b.Fatal(err)
		}
	}
	return used
}

// send lets all senders deliver their requests and returns the units and the time to each answer.
func (ld load) send(ctx context.Context, b *testing.B, senders []*sender) (units int, acks []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range senders {
		wg.Go(func() {
			for i := range ld.requests {
				batches, n := ld.make(s, i)
				begin := time.Now()
				if err := s.deliver(ctx, batches); err != nil {
					b.Errorf("%s: %v", s.name, err)
					return
				}
				mu.Lock()
				units += n
				acks = append(acks, time.Since(begin))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(acks) == 0 {
		b.Fatal("nothing was acknowledged")
	}
	return units, acks
}

// nodeLikeValue moves as host metrics do: many stand still, counters grow, some have decimals.
func nodeLikeValue(column, step int, rng *rand.Rand) float64 {
	switch column % 5 {
	case 0, 1:
		return float64(column % 7)
	case 2:
		return float64(column*1000 + step*rng.IntN(50))
	case 3:
		return float64(step)*14.93 + float64(rng.IntN(100))/100
	}
	return float64(8_000_000_000 + column*4096 + rng.IntN(1<<20)*4096)
}

func metricsLoad(nodes int) load {
	const scrapes, perRequest = 4, 4
	return load{
		unit: "samples", store: "tsdb", nodes: nodes, senders: 16, requests: 40, series: 500,
		make: func(s *sender, i int) ([]wire.Batch, int) {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			batches := make([]wire.Batch, perRequest)
			for k := range batches {
				seq := i*perRequest + k + 1
				scs := make([]wire.Scrape, scrapes)
				for j := range scs {
					step := seq*scrapes + j
					scs[j] = wire.Scrape{T: s.base + int64(step)*1000, IDs: s.series, Values: make([]float64, len(s.series))}
					for col := range scs[j].Values {
						scs[j].Values[col] = nodeLikeValue(col, step, rng)
					}
				}
				batches[k] = s.batch(wire.LaneMetrics, uint64(seq), wire.AppendMetrics(nil, scs))
			}
			return batches, perRequest * scrapes * len(s.series)
		},
	}
}

// logLines returns real lines when TRIWARD_LOGS names a folder of them, else lines shaped like them.
func logLines(b *testing.B) [][]byte {
	var lines [][]byte
	if dir := os.Getenv("TRIWARD_LOGS"); dir != "" {
		files, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil || len(files) == 0 {
			b.Fatalf("no *.log in TRIWARD_LOGS %q (%v)", dir, err)
		}
		for _, name := range files {
			f, err := os.Open(name)
			if err != nil {
				b.Fatal(err)
			}
			for sc := bufio.NewScanner(f); sc.Scan(); {
				lines = append(lines, bytes.Clone(sc.Bytes()))
			}
			f.Close()
		}
		return lines
	}
	rng := rand.New(rand.NewPCG(7, 7))
	for range 20_000 {
		lines = append(lines, fmt.Appendf(nil, "sshd[%d]: Failed password for invalid user u%d from 10.%d.%d.%d port %d ssh2",
			rng.IntN(30000), rng.IntN(500), rng.IntN(256), rng.IntN(256), rng.IntN(256), 1024+rng.IntN(60000)))
	}
	return lines
}

func logsLoad(b *testing.B, nodes int) load {
	const perBatch, perRequest = 500, 4
	lines := logLines(b)
	return load{
		unit: "lines", store: "logs", sealed: 75 * time.Second, nodes: nodes, senders: 16, requests: 60,
		make: func(s *sender, i int) ([]wire.Batch, int) {
			batches := make([]wire.Batch, perRequest)
			for k := range batches {
				seq := i*perRequest + k + 1
				st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "file", Value: "/var/log/" + s.name}, {Name: "source", Value: "file"}}}
				for j := range perBatch {
					st.Lines = append(st.Lines, wire.LogLine{
						T: s.base*1e6 + int64(seq*perBatch+j)*1e6, Severity: wire.SeverityInfo, Text: lines[(seq*perBatch+j)%len(lines)],
					})
				}
				batches[k] = s.batch(wire.LaneLogs, uint64(seq), wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{st}}))
			}
			return batches, perRequest * perBatch
		},
	}
}

// commitLoad is entries of 230 KiB that do not compress: what the log and its replication take.
func commitLoad(nodes int) load {
	return load{
		unit: "lines", store: "logs", nodes: nodes, senders: 8, requests: 60,
		make: func(s *sender, i int) ([]wire.Batch, int) {
			line := make([]byte, 230<<10)
			_, _ = crand.Read(line) // never fails
			st := wire.LogStream{
				Kind: wire.StreamLog, Labels: wire.Labels{{Name: "source", Value: "file"}},
				Lines: []wire.LogLine{{T: s.base*1e6 + int64(i), Text: line}},
			}
			return []wire.Batch{s.batch(wire.LaneLogs, uint64(i+1), wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{st}}))}, 1
		},
	}
}

// The whole path from the agents' listener to all stores, three processes and one, on the disk of TMPDIR.
func BenchmarkMetrics3Nodes(b *testing.B) { metricsLoad(3).run(b) }
func BenchmarkMetrics1Node(b *testing.B)  { metricsLoad(1).run(b) }
func BenchmarkLogs3Nodes(b *testing.B)    { logsLoad(b, 3).run(b) }
func BenchmarkLogs1Node(b *testing.B)     { logsLoad(b, 1).run(b) }
func BenchmarkCommit3Nodes(b *testing.B)  { commitLoad(3).run(b) }
func BenchmarkCommit1Node(b *testing.B)   { commitLoad(1).run(b) }

// BenchmarkPlainWriters is what the disk gives: writers that append 256 KiB and fdatasync, one and three beside
// each other.
func BenchmarkPlainWriters(b *testing.B) {
	for _, writers := range []int{1, 3} {
		b.Run(strconv.Itoa(writers), func(b *testing.B) {
			const size, count = 256 << 10, 400
			dir := b.TempDir()
			for b.Loop() {
				begin := time.Now()
				var wg sync.WaitGroup
				for w := range writers {
					wg.Go(func() {
						f, err := os.Create(filepath.Join(dir, strconv.Itoa(w)))
						if err != nil {
							b.Error(err)
							return
						}
						defer f.Close()
						buf := make([]byte, size)
						for range count {
							if _, err := f.Write(buf); err != nil {
								b.Error(err)
								return
							}
							if err := unix.Fdatasync(int(f.Fd())); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(size*count/time.Since(begin).Seconds()/1e6, "MB/s-each")
			}
			b.ReportMetric(float64(runtime.NumCPU()), "cpus")
			b.ReportMetric(0, "ns/op")
		})
	}
}
