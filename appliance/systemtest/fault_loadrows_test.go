package systemtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"github.com/triward/triward/agent/wire"
)

// Goals under overload.
const (
	overGoodputGoal = 0.8
	overAckGoal     = 2 * time.Second
	memoryLimit     = 400 << 20 // GOMEMLIMIT of each node
	memoryGoal      = 1.2       // of it
)

// loadRows are those of more than the cluster takes.
func loadRows() []faultRow {
	return []faultRow{
		{
			name: "overload", fault: "60 agents deliver as fast as they can, ten times as many as keep the cluster busy, and heed no word of waiting, for 30 s (TRIWARD_OVERLOAD: another time)",
			weight: 80 * time.Second, longer: lengthOf("TRIWARD_OVERLOAD"), run: func(ctx context.Context, tr *trial) error { return tr.overload(ctx) },
		},
		{
			name: "slow-connections", fault: "5,000 connections to the agents' port of each node, which send a byte every few seconds, for 30 s",
			weight: 70 * time.Second, run: func(ctx context.Context, tr *trial) error { return tr.slowConnections(ctx, 5000) },
		},
		{
			name: "many-sockets", fault: "2,000 live sockets are asked for, shared out over the nodes, each with a chart, for 30 s",
			weight: 90 * time.Second, run: func(ctx context.Context, tr *trial) error { return tr.manySockets(ctx, 2000) },
		},
		{
			name: "new-series", fault: "one sender registers 200,000 series (TRIWARD_SERIES: another number) and sends a sample of each",
			weight: 80 * time.Second, run: func(ctx context.Context, tr *trial) error { return tr.newSeries(ctx) },
		},
	}
}

// limited is a plan whose nodes have a limit of memory.
func limited() plan {
	return plan{command: func(_ int, cmd *exec.Cmd) {
		cmd.Env = append(os.Environ(), fmt.Sprintf("GOMEMLIMIT=%d", memoryLimit))
	}}
}

// gauge looks at the memory of the nodes every 200 ms until it is stopped.
type gauge struct {
	most atomic.Int64
	stop context.CancelFunc
	done sync.WaitGroup
}

// weigh begins to look at the memory of nodes. The trial ends it.
func (tr *trial) weigh(ctx context.Context, nodes ...*devNode) *gauge {
	g := new(gauge)
	ctx, g.stop = context.WithCancel(ctx)
	g.done.Go(func() {
		for pause(ctx, 200*time.Millisecond) == nil {
			for _, n := range nodes {
				g.most.Store(max(g.most.Load(), anonymous(n.PID)))
			}
		}
	})
	tr.atEnd(g.end)
	return g
}

func (g *gauge) end() {
	g.stop()
	g.done.Wait()
}

// anonymous is the memory of a process that is no file, in bytes.
func anonymous(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// heavy holds what the memory of nodes must be.
func (tr *trial) heavy(g *gauge) error {
	g.end()
	most := g.most.Load()
	tr.note("%d MiB at most on a node (goal %.0f MiB)", most>>20, memoryGoal*memoryLimit/(1<<20))
	if float64(most) > tooMuch*memoryGoal*memoryLimit {
		return fmt.Errorf("a node takes %d MiB, GOMEMLIMIT is %d MiB", most>>20, memoryLimit>>20)
	}
	return nil
}

// quiet runs a fault while senders go on, and holds that nobody is elected, that acknowledgements come in time and that
// nobody who sends as before is hurt.
func (tr *trial) quiet(ctx context.Context, p plan, fault func(ctx context.Context) error) error {
	if err := tr.found(ctx, p); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	g := tr.weigh(ctx, &tr.c.Nodes[0], &tr.c.Nodes[1], &tr.c.Nodes[2])
	before, err := tr.rate(ctx, 3*time.Second)
	if err != nil {
		return err
	}
	takeLongest(tr.traffic.senders)
	from, acks, begin := tr.logEnd(), tr.acks(), time.Now()
	if err := fault(ctx); err != nil {
		return err
	}
	tr.mended()
	during := float64(tr.acks()-acks) / time.Since(begin).Seconds()
	longest := takeLongest(tr.traffic.senders)
	tr.note("senders that go on as before: %.0f batches a second, %.0f before; longest without an answer %v", during, before, longest.Round(time.Millisecond))
	if n := tr.elections(from); n > 0 {
		return fmt.Errorf("%d elections under load", n)
	}
	if err := tr.progress(ctx, 5); err != nil {
		return err
	}
	if err := tr.heavy(g); err != nil {
		return err
	}
	return tr.compare(ctx)
}

// burst is many agents that deliver as fast as they can and heed no word of waiting. The first one sends most by far.
type burst struct {
	senders []*burstSender
	taken   atomic.Int64 // bytes
	refused atomic.Int64
	noRetry atomic.Int64 // refusals without a word on when to try again
	other   atomic.Int64
	mu      sync.Mutex
	acks    []time.Duration
	example string
}

// burstSender is one of them.
type burstSender struct {
	*sender
	batches int    // a request
	seq     uint64 // of the last batch that was taken
	lines   [][]byte
}

const burstLines = 300 // a batch, of 800 bytes each

// newBurst enrolls the agents.
func (tr *trial) newBurst(ctx context.Context, n int) (*burst, error) {
	b := new(burst)
	l := &ledger{all: make(map[string]*account)}
	lines := make([][]byte, 256)
	for i := range lines {
		lines[i] = junk(800)
	}
	for i := range n {
		s, err := tr.sender(ctx, l, 100+i)
		if err != nil {
			return nil, fmt.Errorf("enroll sender %d of the burst: %w", i, err)
		}
		s.http.Timeout = time.Minute
		w := &burstSender{sender: s, batches: 1, lines: lines}
		if i == 0 {
			w.batches = 16
		}
		b.senders = append(b.senders, w)
	}
	return b, nil
}

// request is the next one.
func (w *burstSender) request() []byte {
	batches := make([]wire.Batch, w.batches)
	for k := range batches {
		seq := w.seq + uint64(k) + 1
		st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "file", Value: "/burst/" + w.name}, {Name: "source", Value: "file"}}}
		for j := range uint64(burstLines) {
			st.Lines = append(st.Lines, wire.LogLine{T: w.base*1e6 + int64(seq*burstLines+j), Severity: wire.SeverityInfo, Text: w.lines[(seq*7+j)%uint64(len(w.lines))]})
		}
		batches[k] = w.batch(wire.LaneLogs, seq, wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{st}}))
	}
	return wire.AppendRequest(nil, w.epoch, batches)
}

// run lets the first n of them send for a time, and returns the bytes a second that were taken.
func (b *burst) run(ctx context.Context, n int, length time.Duration) float64 {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	begin, taken := time.Now(), b.taken.Load()
	var work sync.WaitGroup
	for _, w := range b.senders[:n] {
		work.Go(func() {
			for body := w.request(); ctx.Err() == nil; {
				if b.one(ctx, w, body) {
					w.seq += uint64(w.batches)
					body = w.request()
					continue
				}
				_ = pause(ctx, 20*time.Millisecond)
			}
		})
	}
	work.Wait()
	return float64(b.taken.Load()-taken) / time.Since(begin).Seconds()
}

// one delivers a request and reports whether it was taken.
func (b *burst) one(ctx context.Context, w *burstSender, body []byte) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.nodes[0]+"/v1/agent/batches", bytes.NewReader(body))
	if err != nil {
		return false
	}
	r.Header.Set("Content-Type", wire.ContentType)
	begin := time.Now()
	resp, err := w.http.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch {
	case err != nil:
		return false
	case resp.StatusCode == http.StatusOK && !bytes.Contains(said, []byte(`"gap"`)):
		b.taken.Add(int64(len(body)))
		b.mu.Lock()
		b.acks = append(b.acks, time.Since(begin))
		b.mu.Unlock()
		return true
	case resp.StatusCode == http.StatusTooManyRequests:
		b.refused.Add(1)
		if resp.Header.Get("Retry-After") == "" {
			b.noRetry.Add(1)
		}
		return false
	}
	b.other.Add(1)
	b.mu.Lock()
	b.example = fmt.Sprintf("%s: %s", resp.Status, said)
	b.mu.Unlock()
	return false
}

// overload measures what one sender gets through by a few connections, and then by many that heed nothing.
func (tr *trial) overload(ctx context.Context) error {
	length := 30 * time.Second
	if v := os.Getenv("TRIWARD_OVERLOAD"); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			return fmt.Errorf("TRIWARD_OVERLOAD: %w", err)
		}
	}
	p := limited()
	p.config = func(_ int, c map[string]any) { // so that two cores reach the bound
		listen, _ := c["listen"].(map[string]any)
		agents, _ := listen["agents"].(map[string]any)
		agents["bytes_in_flight"] = "8MiB"
	}
	return tr.quiet(ctx, p, func(ctx context.Context) error {
		const many, few = 60, 6
		b, err := tr.newBurst(ctx, many)
		if err != nil {
			return err
		}
		capacity := b.run(ctx, few, 8*time.Second)
		b.acks = nil
		tr.faulted(1)
		got := b.run(ctx, many, length)
		slices.Sort(b.acks)
		if len(b.acks) == 0 {
			return errors.New("nothing was taken under overload")
		}
		p99 := b.acks[len(b.acks)*99/100]
		tr.note("%.1f MB/s taken under overload, %.1f MB/s by six connections: goodput %.0f %% (goal %.0f %%); ack p99 %v (goal %v); %d requests refused with 429",
			got/1e6, capacity/1e6, 100*got/capacity, 100*overGoodputGoal, p99.Round(time.Millisecond), overAckGoal, b.refused.Load())
		switch {
		case b.noRetry.Load() > 0:
			return fmt.Errorf("%d refusals do not say when to try again", b.noRetry.Load())
		case b.other.Load() > 0:
			return fmt.Errorf("%d answers are neither 200 nor 429, such as %s", b.other.Load(), b.example)
		case got < capacity*overGoodputGoal/tooMuch:
			return fmt.Errorf("goodput fell from %.1f to %.1f MB/s", capacity/1e6, got/1e6)
		case p99 > tooSlow*overAckGoal:
			return fmt.Errorf("ack p99 %v", p99)
		case b.refused.Load() == 0:
			return errors.New("nothing was refused: this was no overload")
		}
		return tr.named(ctx, b.senders[0].name)
	})
}

// named holds that an event names a sender as the one who sends most.
func (tr *trial) named(ctx context.Context, host string) error {
	return until(ctx, time.Minute, func(ctx context.Context) error {
		var page struct {
			Events []struct{ Kind, Host, Text string } `json:"events"`
		}
		if err := tr.c.get(ctx, &tr.c.Nodes[0], "/v1/events", url.Values{"kind": {"agent_overload"}}, &page); err != nil {
			return err
		}
		for _, e := range page.Events {
			if e.Host == host {
				return nil
			}
		}
		return fmt.Errorf("no event names %s as the busiest sender: %v", host, page.Events)
	})
}

// slowConnections opens many connections to the agents' ports that hardly send anything.
func (tr *trial) slowConnections(ctx context.Context, n int) error {
	if err := moreFiles(4 * n); err != nil {
		return fmt.Errorf("%w: %w", errNotRun, err)
	}
	return tr.quiet(ctx, limited(), func(ctx context.Context) error {
		var mu sync.Mutex
		var open []net.Conn
		defer func() {
			for _, c := range open {
				_ = c.Close()
			}
		}()
		var work sync.WaitGroup
		var refused atomic.Int64
		for i := range tr.c.Nodes {
			at, err := url.Parse(tr.c.Nodes[i].AgentURL)
			if err != nil {
				return err
			}
			for range 8 {
				work.Go(func() {
					for range n / 8 {
						c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", at.Host)
						if err != nil {
							refused.Add(1)
							continue
						}
						_, _ = c.Write([]byte{22, 3, 1, 2, 0}) // the beginning of a TLS handshake
						mu.Lock()
						open = append(open, c)
						mu.Unlock()
					}
				})
			}
		}
		work.Wait()
		tr.faulted(len(open))
		closed := 0
		for range 10 {
			if err := pause(ctx, 3*time.Second); err != nil {
				return err
			}
			closed = 0
			for _, c := range open {
				_ = c.SetWriteDeadline(time.Now().Add(time.Millisecond))
				if _, err := c.Write([]byte{1}); err != nil {
					closed++
				}
			}
		}
		tr.note("%d connections, %d refused, %d closed by the nodes in 30 s", len(open), refused.Load(), closed)
		return nil
	})
}

// moreFiles lets this process, and the nodes that it starts, have n files open.
func moreFiles(n int) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if l.Cur >= uint64(n) {
		return nil
	}
	l.Cur = uint64(n)
	l.Max = max(l.Max, l.Cur)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("%d open files: %w", n, err)
	}
	return nil
}

// manySockets opens live sockets until no more are taken, and lets each watch a chart.
func (tr *trial) manySockets(ctx context.Context, n int) error {
	if err := moreFiles(4 * n); err != nil {
		return fmt.Errorf("%w: %w", errNotRun, err)
	}
	p := limited()
	p.config = func(_ int, c map[string]any) { c["limits"] = map[string]any{"live_clients": n} }
	return tr.quiet(ctx, p, func(ctx context.Context) error {
		tokens, err := tr.tokens(ctx, 8) // one user may have 100 sockets at a node
		if err != nil {
			return err
		}
		var mu sync.Mutex
		var open []*websocket.Conn
		var work, readers sync.WaitGroup
		var frames, refused, unclear atomic.Int64
		defer readers.Wait()
		defer func() {
			for _, c := range open {
				_ = c.Close()
			}
		}()
		d := websocket.Dialer{TLSClientConfig: tr.c.tlsConf, Subprotocols: []string{"triward.v1.json"}, HandshakeTimeout: 20 * time.Second, ReadBufferSize: 1024, WriteBufferSize: 1024}
		const watch = `{"op":"sub","id":"a","kind":"promql","params":{"query":"sum(ledger_seq)","step":1000,"window":60000}}`
		for w := range 16 {
			work.Go(func() {
				for k := range n / 16 {
					node := &tr.c.Nodes[(w+k)%len(tr.c.Nodes)]
					at := strings.Replace(node.URL, "https://", "wss://", 1) + "/v1/live"
					c, resp, err := d.DialContext(ctx, at, http.Header{"Authorization": {"Bearer " + tokens[k%len(tokens)]}})
					if err != nil {
						if resp != nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
							refused.Add(1)
						} else {
							unclear.Add(1)
							tr.logf("socket: %v", err)
						}
						continue
					}
					_ = c.WriteMessage(websocket.TextMessage, []byte(watch))
					mu.Lock()
					open = append(open, c)
					mu.Unlock()
					readers.Go(func() {
						for {
							if _, _, err := c.ReadMessage(); err != nil {
								return
							}
							frames.Add(1)
						}
					})
				}
			})
		}
		work.Wait()
		tr.faulted(len(open))
		if err := pause(ctx, 30*time.Second); err != nil {
			return err
		}
		tr.note("%d sockets open, %d refused in clear, %d frames came", len(open), refused.Load(), frames.Load())
		if unclear.Load() > 0 {
			return fmt.Errorf("%d sockets failed without a clear answer", unclear.Load())
		}
		if len(open) == 0 || frames.Load() < int64(len(open)) {
			return errors.New("the sockets were told nothing")
		}
		return nil
	})
}

// tokens makes API tokens for reading.
func (tr *trial) tokens(ctx context.Context, n int) ([]string, error) {
	out := make([]string, n)
	for i := range out {
		var answer struct{ Token string }
		if err := tr.c.change(ctx, &tr.c.Nodes[0], http.MethodPost, "/v1/tokens/api", map[string]any{"name": fmt.Sprintf("sockets%d", i), "role": "viewer"}, &answer); err != nil {
			return nil, err
		}
		out[i] = answer.Token
	}
	return out, nil
}

// newSeries floods the cluster with series.
func (tr *trial) newSeries(ctx context.Context) error {
	total := 200_000
	if v := os.Getenv("TRIWARD_SERIES"); v != "" {
		var err error
		if total, err = strconv.Atoi(v); err != nil {
			return fmt.Errorf("TRIWARD_SERIES: %w", err)
		}
	}
	p := limited()
	return tr.quiet(ctx, p, func(ctx context.Context) error {
		s, err := tr.sender(ctx, &ledger{all: make(map[string]*account)}, 100)
		if err != nil {
			return err
		}
		begin, seq := time.Now(), uint64(0)
		for at := 0; at < total; at += wire.MaxSeriesPerCall {
			series := make([]map[string]string, min(wire.MaxSeriesPerCall, total-at))
			for k := range series {
				series[k] = map[string]string{"__name__": "flood", "n": strconv.Itoa(at + k), "pod": fmt.Sprintf("web-%x", (at+k)*7919)}
			}
			var ids struct {
				IDs []uint64 `json:"ids"`
			}
			if err := s.retry(ctx, "/v1/agent/series", map[string]any{"series": series}, &ids); err != nil {
				if a, ok := errors.AsType[*answerError](err); ok && a.status/100 == 4 {
					tr.note("refused after %d series with %d: %s", at, a.status, a.body)
					break
				}
				return err
			}
			slices.Sort(ids.IDs)
			seq++
			sc := wire.Scrape{T: s.base + int64(seq), IDs: ids.IDs, Values: make([]float64, len(ids.IDs))}
			if err := s.deliver(ctx, []wire.Batch{s.batch(wire.LaneMetrics, seq, wire.AppendMetrics(nil, []wire.Scrape{sc}))}); err != nil {
				return err
			}
			tr.faulted(len(ids.IDs))
		}
		tr.note("%d series in %v", tr.faults, time.Since(begin).Round(time.Second))
		return nil
	})
}
