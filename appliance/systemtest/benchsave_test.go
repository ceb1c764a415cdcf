package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// savedRun is a run of a backup as the API tells of it.
type savedRun struct {
	ID     string `json:"id"`
	Ended  int64  `json:"ended"`
	OK     bool   `json:"ok"`
	Error  string `json:"error"`
	Stored int64  `json:"stored"`
	Image  int64  `json:"image_bytes"`
}

// BenchmarkSaveUnderLoad fills a cluster of three until the log store of a node has TRIWARD_BENCH_GB (2), measuring peak
// intake on the way, then sends at half of that: for a minute alone, and while the leader saves into a repository. It
// reports the slow-down and the times of acknowledgements, and what a second save wrote. It wants a quiet machine:
// `make bench-save`.
func BenchmarkSaveUnderLoad(b *testing.B) {
	gb, err := strconv.ParseFloat(os.Getenv("TRIWARD_BENCH_GB"), 64)
	if err != nil || gb <= 0 {
		gb = 2
	}
	bin, err := filepath.Abs(os.Getenv("TRIWARD_BIN"))
	if err != nil || os.Getenv("TRIWARD_BIN") == "" {
		b.Fatal("TRIWARD_BIN must name the folder of the binaries: run `make bench-save`")
	}
	ld := logsLoad(b, 3)
	for b.Loop() {
		saveUnderLoad(b, ld, bin, int64(gb*1e9))
	}
}

// paced is what senders got through in a phase.
type paced struct {
	units int
	acks  []time.Duration
	took  time.Duration
}

func (p *paced) rate() float64 { return float64(p.units) / p.took.Seconds() }

func (p *paced) p99() float64 {
	slices.Sort(p.acks)
	return float64(p.acks[len(p.acks)*99/100].Microseconds()) / 1000
}

// feeder sends requests of a load, each sender going on where it was.
type feeder struct {
	b       *testing.B
	ld      load
	senders []*sender
	next    []int
}

// phase sends until done is closed, each sender no more often than every pace; 0: as fast as it is answered.
func (f *feeder) phase(ctx context.Context, pace time.Duration, done <-chan struct{}) *paced {
	var mu sync.Mutex
	var wg sync.WaitGroup
	p := &paced{}
	begin := time.Now()
	for n, s := range f.senders {
		wg.Go(func() {
			due := time.Now()
			for {
				select {
				case <-done:
					return
				case <-ctx.Done():
					return
				case <-time.After(time.Until(due)):
				}
				due = due.Add(pace)
				batches, units := f.ld.make(s, f.next[n])
				f.next[n]++
				at := time.Now()
				if err := s.deliver(ctx, batches); err != nil {
					f.b.Errorf("%s: %v", s.name, err)
					return
				}
				mu.Lock()
				p.units += units
				p.acks = append(p.acks, time.Since(at))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	p.took = time.Since(begin)
	if len(p.acks) == 0 {
		f.b.Fatal("nothing was acknowledged")
	}
	return p
}

func saveUnderLoad(b *testing.B, ld load, bin string, want int64) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	dir := b.TempDir()
	c, err := start(ctx, bin, dir, "--agent=false", "--plain-http", "--http-port", "0", "--nodes", "3")
	if err != nil {
		b.Fatal(err)
	}
	defer c.stop()
	l, err := newLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.close()
	f := &feeder{b: b, ld: ld, senders: make([]*sender, ld.senders), next: make([]int, ld.senders)}
	for i := range f.senders {
		if f.senders[i], err = (kills{}).sender(ctx, c, l, i, max(ld.series, 1)); err != nil {
			b.Fatal(err)
		}
	}
	leader, err := c.leader(ctx)
	if err != nil {
		b.Fatal(err)
	}
	full := make(chan struct{})
	go func() {
		defer close(full)
		_ = until(ctx, time.Hour, func(context.Context) error {
			if n := dirBytes(filepath.Join(leader.DataDir, ld.store)); n < want {
				return fmt.Errorf("%d bytes yet", n)
			}
			return nil
		})
	}()
	peak := f.phase(ctx, 0, full)
	pace := 2 * peak.took * time.Duration(len(f.senders)) / time.Duration(len(peak.acks)) // half of peak
	alone := f.phase(ctx, pace, after(ctx, time.Minute))
	first, during := f.save(ctx, c, leader, pace)
	second, _ := f.save(ctx, c, leader, pace)
	b.ReportMetric(float64(first.Image)/1e9, "state-GB")
	b.ReportMetric(100*(1-during.rate()/alone.rate()), "slower-%")
	b.ReportMetric(alone.p99(), "ack-p99-ms")
	b.ReportMetric(during.p99(), "ack-p99-while-saving-ms")
	b.ReportMetric(during.took.Seconds(), "save-s")
	b.ReportMetric(float64(first.Stored)/1e6, "first-save-MB")
	b.ReportMetric(float64(second.Stored)/1e6, "second-save-MB")
	b.ReportMetric(0, "ns/op")
}

func after(ctx context.Context, d time.Duration) <-chan struct{} {
	short, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(short, cancel) // frees its timer
	return short.Done()
}

// save lets a node save into a repository in its folder while the load goes on.
func (f *feeder) save(ctx context.Context, c *cluster, n *devNode, pace time.Duration) (run savedRun, p *paced) {
	body, err := json.Marshal(map[string]any{"target": map[string]any{"kind": "folder"}, "plain": true, "form": "repository"})
	if err != nil {
		f.b.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL+"/v1/snapshots", strings.NewReader(string(body)))
	if err == nil {
		r.Header.Set("Content-Type", "application/json")
		err = c.do(r, &run)
	}
	if err != nil {
		f.b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = until(ctx, time.Hour, func(ctx context.Context) error {
			var o struct {
				Runs []savedRun `json:"runs"`
			}
			if err := c.get(ctx, n, "/v1/snapshots", nil, &o); err != nil {
				return err
			}
			for _, one := range o.Runs {
				if one.ID == run.ID && one.Ended > 0 {
					run = one
					return nil
				}
			}
			return errors.New("the save goes on")
		})
	}()
	p = f.phase(ctx, pace, done)
	if err != nil || !run.OK {
		f.b.Fatalf("save: %v %s", err, run.Error)
	}
	return run, p
}
