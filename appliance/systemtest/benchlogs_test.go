package systemtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// benchLogs is a run of `make bench-logs`.
type benchLogs struct {
	t     *testing.T
	c     *corpus
	ref   *reference
	bin   string
	peer  string // the program of VictoriaLogs, "" for none
	loki  string // the program of Loki, "" for none
	cold  int    // rounds with nothing in memory
	out   strings.Builder
	notes []string
}

// TestBenchLogs feeds real-shaped lines to Triward, VictoriaLogs and Loki, one after the other, asks all the same, compares the
// answers with those of a walk through all lines, and prints what it took. `make bench-logs` sets the environment; a quiet
// machine gives figures, any other a test.
func TestBenchLogs(t *testing.T) {
	n := int(number(t, "TRIWARD_BENCH_LINES", 0))
	if n == 0 {
		t.Log("the log store is measured by make bench-logs")
		return
	}
	day := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)
	c, err := newCorpus(os.Getenv("TRIWARD_LOGS"), n, day)
	if err != nil {
		t.Fatal(err)
	}
	b := &benchLogs{t: t, c: c, bin: binaries(t, ""), peer: os.Getenv("TRIWARD_VICTORIALOGS"), loki: os.Getenv("TRIWARD_LOKI"), cold: int(number(t, "TRIWARD_BENCH_COLD", 5))}
	b.logf("walking through %d lines", n)
	if b.ref, err = c.newReference(); err != nil {
		t.Fatal(err)
	}
	b.say("## Log store: %d lines, %.0f MB of text, %d hosts with 8 files each, one day, seed %d\n", n, float64(b.ref.bytes)/1e6, corpusHosts, corpusSeed)
	b.say("%s, %d processors, %s. Each system alone on the machine, one after the other, over HTTP.\n", time.Now().UTC().Format("2006-01-02 15:04"), runtime.NumCPU(), runtime.Version())
	ours, err := b.ours(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	var peer, loki *measured
	if b.peer != "" {
		if peer, err = b.victoriaLogs(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if b.loki != "" {
		if loki, err = b.grafanaLoki(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var three *measured
	if os.Getenv("TRIWARD_BENCH_NODES") != "1" {
		if three, err = b.ours(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
	}
	b.report(ours, three, peer, loki)
	if os.Getenv("TRIWARD_BENCH_HOSTILE") != "0" {
		if err := b.hostileLines(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	text := b.out.String()
	fmt.Print("\n", text)
	if to := os.Getenv("TRIWARD_BENCH_TABLE"); to != "" {
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
}

func (b *benchLogs) logf(format string, args ...any) {
	fmt.Printf("%s bench-logs: %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

func (b *benchLogs) say(format string, args ...any) { fmt.Fprintf(&b.out, format+"\n", args...) }

// measured is what was measured of a system.
type measured struct {
	cpu     float64 // seconds until it was at rest; of the leader, or of the only one
	idle    float64 // what it would have used in that time without any line
	others  float64 // cpu of a follower
	fed     time.Duration
	acks    []time.Duration
	queue   float64 // bytes of the Raft log
	disk    float64
	parts   []benchPart
	rss     float64 // MiB at rest
	peak    float64 // MiB at most until then
	warm    []timing
	coldly  []timing
	plain   []timing // without the word index
	noIndex string   // why that was not measured
	small   string   // memory while searching with small caches
}

// timing is what one question took.
type timing struct {
	times []time.Duration // sorted
	cpu   float64         // ms each
	wrong string
	none  string // why there are no times, as short as a cell
}

func (m timing) at(q float64) float64 {
	if len(m.times) == 0 {
		return 0
	}
	return float64(m.times[min(len(m.times)-1, int(q*float64(len(m.times))))].Microseconds()) / 1000
}

// ours measures a cluster of so many nodes. Only one that stands alone is asked for times: each node answers from what it has.
func (b *benchLogs) ours(ctx context.Context, nodes int) (*measured, error) {
	b.logf("%d nodes of Triward", nodes)
	o, err := startOurs(ctx, b.c, b.bin, b.t.TempDir(), nodes)
	if err != nil {
		return nil, err
	}
	defer o.stop()
	m := &measured{}
	leader, err := o.tr.c.leader(ctx)
	if err != nil {
		return nil, err
	}
	before, err := o.cpu()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := o.feed(ctx); err != nil {
		return nil, err
	}
	m.fed = time.Since(begin)
	b.logf("fed in %v", m.fed.Round(time.Millisecond))
	if err := o.rest(ctx); err != nil {
		return nil, err
	}
	after, err := o.cpu()
	if err != nil {
		return nil, err
	}
	for i := range after {
		if used := after[i] - before[i]; i == o.tr.index(leader) {
			m.cpu = used
		} else {
			m.others += used / float64(nodes-1)
		}
	}
	if m.idle, err = idleOver(ctx, leader.PID, time.Since(begin)); err != nil {
		return nil, err
	}
	m.rss, m.peak = rssMiB(leader.PID), peakMiB(leader.PID)
	m.acks, m.queue = o.acks, o.queue
	if m.parts, err = o.bytesByPart(ctx); err != nil {
		return nil, err
	}
	for _, p := range m.parts {
		m.disk += p.bytes
	}
	if m.disk == 0 { // an older program; there is a reserve for a full disk too
		m.disk = float64(dirBytes(filepath.Join(o.node().DataDir, "logs")))
	}
	if now, err := o.tr.c.leader(ctx); err != nil {
		return nil, err
	} else if now.ID != leader.ID {
		b.notes = append(b.notes, fmt.Sprintf("the leader changed while lines were fed to %d nodes: the figures of leader and follower are of none alone", nodes))
	}
	if nodes > 1 {
		return m, b.sameEverywhere(ctx, o)
	}
	if m.warm, err = b.warmly(ctx, o, true); err != nil {
		return nil, err
	}
	if m.coldly, err = b.coldly(ctx, o); err != nil {
		return nil, err
	}
	if err := b.smallCaches(ctx, o, m); err != nil {
		return nil, err
	}
	return m, b.withoutIndex(ctx, o, m)
}

// idleOver measures for ten seconds what a process uses that has nothing to do, and returns what that is over a longer time.
func idleOver(ctx context.Context, pid int, span time.Duration) (float64, error) {
	const sample = 10 * time.Second
	before, err := cpuSeconds(pid)
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, sample); err != nil {
		return 0, err
	}
	after, err := cpuSeconds(pid)
	return (after - before) * span.Seconds() / sample.Seconds(), err
}

func (o *ourLogs) cpu() ([]float64, error) {
	used := make([]float64, len(o.tr.c.Nodes))
	for i := range used {
		var err error
		if used[i], err = cpuSeconds(o.tr.c.Nodes[i].PID); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// sameEverywhere asks every node all questions.
func (b *benchLogs) sameEverywhere(ctx context.Context, o *ourLogs) error {
	var v violations
	if err := o.tr.c.settle(ctx, &v); err != nil {
		return err
	}
	if v.total() > 0 {
		b.t.Errorf("the nodes differ: %v", &v)
	}
	first := o.tr.c.Nodes[0]
	defer func() { o.tr.c.Nodes[0] = first }()
	for i := range o.tr.c.Nodes {
		o.tr.c.Nodes[0] = o.tr.c.Nodes[i]
		if i == 0 {
			o.tr.c.Nodes[0] = first
		}
		for k := range b.ref.queries {
			if _, wrong, err := b.once(ctx, o, k); err != nil {
				return err
			} else if wrong != "" {
				b.t.Errorf("%s of three, %s: %s", o.node().ID, b.ref.queries[k].name, wrong)
			}
		}
	}
	return nil
}

// peerSystem is another log store.
type peerSystem interface {
	logSystem
	fedSystem
}

func (b *benchLogs) victoriaLogs(ctx context.Context) (*measured, error) {
	b.logf("VictoriaLogs")
	p, err := startPeer(ctx, b.c, b.peer, b.t.TempDir())
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.stop() }()
	m, err := b.theirs(ctx, p)
	if err != nil {
		return nil, err
	}
	m.coldly, err = b.coldly(ctx, p)
	return m, err
}

// grafanaLoki measures Loki. It is not asked coldly: it looks at every line whatever was asked before, and that takes long enough.
func (b *benchLogs) grafanaLoki(ctx context.Context) (*measured, error) {
	b.logf("Loki")
	l, err := startLoki(ctx, b.c, b.loki, b.t.TempDir())
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.stop() }()
	return b.theirs(ctx, l)
}

// theirs feeds and asks another system.
func (b *benchLogs) theirs(ctx context.Context, p peerSystem) (*measured, error) {
	m := &measured{}
	before, err := cpuSeconds(p.pid())
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := p.feed(ctx); err != nil {
		return nil, err
	}
	m.fed = time.Since(begin)
	b.logf("fed in %v", m.fed.Round(time.Millisecond))
	if err := p.rest(ctx); err != nil {
		return nil, err
	}
	after, err := cpuSeconds(p.pid())
	if err != nil {
		return nil, err
	}
	if m.idle, err = idleOver(ctx, p.pid(), time.Since(begin)); err != nil {
		return nil, err
	}
	m.cpu, m.rss, m.peak = after-before, rssMiB(p.pid()), peakMiB(p.pid())
	if m.disk, err = p.stored(ctx); err != nil {
		return nil, err
	}
	m.warm, err = b.warmly(ctx, p, false)
	return m, err
}

// once asks one question and says what is wrong with the answer.
func (b *benchLogs) once(ctx context.Context, s logSystem, k int) (took time.Duration, wrong string, err error) {
	q := &b.ref.queries[k]
	r, err := s.request(ctx, q)
	if err != nil {
		return 0, "", err
	}
	begin := time.Now()
	body, err := fetch(s.client(), r)
	took = time.Since(begin)
	if err != nil {
		return took, "", fmt.Errorf("%s, %s: %w", s.name(), q.name, err)
	}
	got, err := s.parse(q, body)
	if err != nil {
		return took, "", fmt.Errorf("%s, %s: %w in %.200q", s.name(), q.name, err, body)
	}
	return took, q.difference(&got, &b.ref.want[k]), nil
}

// slow is what an answer takes of a system that is asked less: the first answer counts, and no more follow for long.
const slow = 2 * time.Second

// warmly asks each question over and over, at least ten times and for about two seconds. One that is slow is asked again only while
// five times that has not passed.
func (b *benchLogs) warmly(ctx context.Context, s logSystem, must bool) ([]timing, error) {
	out := make([]timing, len(b.ref.queries))
	for k := range out {
		m := &out[k]
		before, err := cpuSeconds(s.pid())
		if err != nil {
			return nil, err
		}
		begin := time.Now()
		first, wrong, err := b.once(ctx, s, k)
		if !must && unanswered(err, m) {
			continue
		} else if err != nil {
			return nil, err
		}
		if first >= slow {
			m.times = []time.Duration{first}
		} else {
			for range 2 {
				if _, wrong, err = b.once(ctx, s, k); err != nil {
					return nil, err
				}
			}
			if before, err = cpuSeconds(s.pid()); err != nil {
				return nil, err
			}
			begin = time.Now()
		}
		if m.wrong = wrong; m.wrong != "" && must {
			b.t.Errorf("%s, %s: %s", s.name(), b.ref.queries[k].name, m.wrong)
		}
		again := func() bool {
			if first >= slow {
				return len(m.times) < 10 && time.Since(begin) < 5*slow
			}
			return len(m.times) < 10 || len(m.times) < 200 && time.Since(begin) < slow
		}
		for again() {
			took, _, err := b.once(ctx, s, k)
			if err != nil {
				return nil, err
			}
			m.times = append(m.times, took)
		}
		after, err := cpuSeconds(s.pid())
		if err != nil {
			return nil, err
		}
		m.cpu = 1000 * (after - before) / float64(len(m.times))
		slices.Sort(m.times)
	}
	b.logf("%s asked warmly", s.name())
	return out, nil
}

// unanswered reports whether a question has no answer that could be timed, and notes why.
func unanswered(err error, m *timing) bool {
	late, timed := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errNotAsked):
		m.none = "—"
	case timed && late.Timeout():
		m.none = "> 60 s"
	}
	return m.none != ""
}

// coldly asks each question once in each round: the process is started again before the round, and what the kernel keeps of files
// is dropped before each question. Questions come in another order each time, as one warms the process for the next.
func (b *benchLogs) coldly(ctx context.Context, s logSystem) ([]timing, error) {
	if b.cold == 0 {
		return nil, nil
	}
	if err := dropCaches(); err != nil {
		b.notes = append(b.notes, fmt.Sprintf("nothing cold was measured: the page cache cannot be dropped: %v", err))
		b.cold = 0
		return nil, nil
	}
	out := make([]timing, len(b.ref.queries))
	rng := rand.New(rand.NewPCG(3, 3))
	for range b.cold {
		if err := s.restart(ctx); err != nil {
			return nil, err
		}
		for _, k := range rng.Perm(len(out)) {
			if err := dropCaches(); err != nil {
				return nil, err
			}
			took, wrong, err := b.once(ctx, s, k)
			if err != nil {
				return nil, err
			}
			out[k].times = append(out[k].times, took)
			if wrong != "" {
				out[k].wrong = wrong
			}
			if _, ours := s.(*ourLogs); wrong != "" && ours {
				b.t.Errorf("%s cold, %s: %s", s.name(), b.ref.queries[k].name, wrong)
			}
		}
	}
	for k := range out {
		slices.Sort(out[k].times)
	}
	b.logf("%s asked coldly", s.name())
	return out, nil
}

// dropCaches drops what the kernel keeps of files that are on disk.
func dropCaches() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) }

// smallCaches asks all questions of a node whose caches hold a tenth of what there is to search.
func (b *benchLogs) smallCaches(ctx context.Context, o *ourLogs, m *measured) error {
	cache := max(1<<20, int64(m.disk/10))
	if err := o.configure(ctx, map[string]any{"cache_bytes": fmt.Sprint(cache)}); err != nil {
		return err
	}
	rest := rssMiB(o.pid())
	if err := resetPeak(o.pid()); err != nil {
		b.notes = append(b.notes, fmt.Sprintf("the highest memory while searching counts from the start of the process: %v", err))
	}
	for range 3 {
		for k := range b.ref.queries {
			if _, wrong, err := b.once(ctx, o, k); err != nil {
				return err
			} else if wrong != "" {
				b.t.Errorf("with small caches, %s: %s", b.ref.queries[k].name, wrong)
			}
		}
	}
	m.small = fmt.Sprintf("`logs.cache_bytes` %.1f MiB for %.1f MiB on disk: RSS %.0f MiB after the start, at most %.0f MiB while all questions were asked three times",
		float64(cache)/(1<<20), m.disk/(1<<20), rest, peakMiB(o.pid()))
	return nil
}

// withoutIndex asks all questions of a node that leaves the word index out.
func (b *benchLogs) withoutIndex(ctx context.Context, o *ourLogs, m *measured) (err error) {
	if err := o.configure(ctx, map[string]any{"word_index": false}); err != nil {
		m.noIndex = fmt.Sprintf("this program cannot leave the word index out: %.100v", err)
		return nil //nolint:nilerr // an older program
	}
	m.plain, err = b.warmly(ctx, o, true)
	return err
}

// peakMiB is the most memory that a process had, in MiB.
func peakMiB(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kb float64
	_, _ = fmt.Sscan(rest, &kb) // 0 when there is none
	return kb / 1024
}

// resetPeak has peakMiB begin again.
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}
