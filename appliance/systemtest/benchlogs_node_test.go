package systemtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/agent/wire"
)

// ourLogs is a running cluster of Triward that takes and finds the corpus; the first node is asked.
type ourLogs struct {
	c     *corpus
	tr    *trial
	acks  []time.Duration
	queue float64 // bytes of the log, for what was fed
	// last delivers one more line, of today.
	last func(ctx context.Context) error
}

// startOurs founds a cluster of so many nodes with the configuration that an operator has, but for its own metrics and log,
// which would be counted.
func startOurs(ctx context.Context, c *corpus, bin, dir string, nodes int) (*ourLogs, error) {
	o := &ourLogs{c: c, tr: &trial{bin: bin, dir: dir, row: &faultRow{name: "bench-logs"}, rng: rand.New(rand.NewPCG(1, 1))}}
	err := o.tr.found(ctx, plan{nodes: nodes, config: func(_ int, conf map[string]any) { conf["self_monitoring"] = false }})
	if err != nil {
		o.stop()
	}
	return o, err
}

func (o *ourLogs) stop() {
	for _, end := range slices.Backward(o.tr.ends) {
		end()
	}
	o.tr.ends = nil
}

func (o *ourLogs) name() string         { return "Triward" }
func (o *ourLogs) client() *http.Client { return o.tr.c.client }
func (o *ourLogs) node() *devNode       { return &o.tr.c.Nodes[0] }
func (o *ourLogs) pid() int             { return o.node().PID }

// stopNode ends the first node as an operator does.
func (o *ourLogs) stopNode() error {
	n, c := o.node(), o.tr.c
	cmd := c.again[n.ID]
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	end := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer end.Stop()
	_ = cmd.Wait() // it ends by the signal
	delete(c.again, n.ID)
	return nil
}

func (o *ourLogs) restart(ctx context.Context) error {
	if err := o.stopNode(); err != nil {
		return err
	}
	if err := o.tr.c.restart(o.node()); err != nil {
		return err
	}
	return o.tr.alive(o.node(), o.tr.c.ready(ctx, o.node()))
}

// configure changes the section logs of the first node and starts it again.
func (o *ourLogs) configure(ctx context.Context, logs map[string]any) error {
	b, err := os.ReadFile(o.node().Config)
	if err != nil {
		return err
	}
	conf := map[string]any{}
	if err := yaml.Unmarshal(b, &conf); err != nil {
		return err
	}
	conf["logs"] = logs
	if b, err = yaml.Marshal(conf); err != nil {
		return err
	}
	if err := os.WriteFile(o.node().Config, b, 0o600); err != nil {
		return err
	}
	return o.restart(ctx)
}

// metrics is the exposition of a node.
func (o *ourLogs) metrics(ctx context.Context, n *devNode) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+o.tr.c.Token)
	return fetch(o.tr.c.client, r)
}

func (o *ourLogs) queueBytes(ctx context.Context) (float64, error) {
	var q struct {
		Bytes float64 `json:"bytes"`
	}
	err := o.tr.c.get(ctx, o.node(), "/v1/queue", nil, &q)
	return q.Bytes, err
}

// feed sends the corpus by the agents' protocol, an agent for each host, each waiting for the answer.
func (o *ourLogs) feed(ctx context.Context) error {
	l, err := newLedger(filepath.Join(o.tr.dir, "ledger"))
	if err != nil {
		return err
	}
	defer l.close()
	senders := make([]*sender, corpusHosts)
	for i := range senders {
		if senders[i], err = o.tr.sender(ctx, l, i); err != nil {
			return err
		}
	}
	before, err := o.queueBytes(ctx)
	if err != nil {
		return err
	}
	acks, delivered := make([][]time.Duration, corpusHosts), make([]uint64, corpusHosts)
	err = o.c.deal(ctx, func(ctx context.Context, host int, parts <-chan []corpusLine) error {
		s := senders[host]
		var pending []corpusLine
		size := 0
		deliver := func() error {
			delivered[host]++
			batch := s.batch(wire.LaneLogs, delivered[host], wire.AppendLogs(nil, &wire.LogBatch{Streams: streamsOf(pending, s.labels())}))
			pending, size = pending[:0], 0
			begin := time.Now()
			if err := s.deliver(ctx, []wire.Batch{batch}); err != nil {
				return fmt.Errorf("deliver: %w", err)
			}
			acks[host] = append(acks[host], time.Since(begin))
			return nil
		}
		for part := range parts {
			for i := range part {
				pending = append(pending, part[i])
				if size += part[i].size(); size < agentBatch {
					continue
				}
				if err := deliver(); err != nil {
					return err
				}
			}
		}
		if len(pending) == 0 {
			return nil
		}
		return deliver()
	})
	if err != nil {
		return err
	}
	o.last = func(ctx context.Context) error {
		s := senders[0]
		seq := delivered[0] + 1
		delivered[0] = seq
		line := corpusLine{t: time.Now().UnixNano(), file: "/var/log/end.log", severity: wire.SeverityInfo, text: []byte("that is all")}
		return s.deliver(ctx, []wire.Batch{s.batch(wire.LaneLogs, seq, wire.AppendLogs(nil, &wire.LogBatch{Streams: streamsOf([]corpusLine{line}, s.labels())}))})
	}
	o.acks = slices.Sorted(slices.Values(slices.Concat(acks...)))
	after, err := o.queueBytes(ctx)
	o.queue = after - before
	return err
}

// agentBatch is how many bytes of lines agents send at once when there are more (agent/lines.batchRaw).
const agentBatch = 256 << 10

// size is what the line takes in a batch, about.
func (l *corpusLine) size() int {
	n := len(l.text) + 16
	for _, f := range l.fields {
		n += len(f.Name) + len(f.Value) + 4
	}
	return n
}

// streamsOf sorts lines of a host into the streams of its files, which have the labels of the host.
func streamsOf(lines []corpusLine, host wire.Labels) (streams []wire.LogStream) {
	for i := range lines {
		l := &lines[i]
		k := slices.IndexFunc(streams, func(st wire.LogStream) bool { return st.Labels.Get("file") == l.file })
		if k < 0 {
			k = len(streams)
			streams = append(streams, wire.LogStream{Kind: wire.StreamLog, Labels: host.With("file", l.file).With("source", "file")})
		}
		streams[k].Lines = append(streams[k].Lines, wire.LogLine{T: l.t, Severity: l.severity, Fields: l.fields, Text: l.text})
	}
	return streams
}

// rest returns when every line is sealed, merged and indexed on all nodes, what was done is behind a mark, and the stores do
// not change any more.
func (o *ourLogs) rest(ctx context.Context) error {
	if err := o.worked(ctx); err != nil {
		return err
	}
	if err := o.last(ctx); err != nil { // there is no mark without an entry
		return err
	}
	if err := o.tr.marked(ctx); err != nil {
		return err
	}
	size, quiet := int64(-1), time.Now()
	return until(ctx, 10*time.Minute, func(ctx context.Context) error {
		var now int64
		for i := range o.tr.c.Nodes {
			now += dirBytes(filepath.Join(o.tr.c.Nodes[i].DataDir, "logs"))
		}
		if now != size {
			size, quiet = now, time.Now()
		}
		if d := time.Since(quiet); d < 5*time.Second {
			return fmt.Errorf("the stores changed %v ago", d.Round(time.Second))
		}
		return nil
	})
}

// worked returns when no line waits for background work on any node.
func (o *ourLogs) worked(ctx context.Context) error {
	return until(ctx, 20*time.Minute, func(ctx context.Context) error {
		if err := pause(ctx, 2*time.Second); err != nil { // asking costs the nodes time that is counted
			return err
		}
		for i := range o.tr.c.Nodes {
			n := &o.tr.c.Nodes[i]
			b, err := o.metrics(ctx, n)
			if err != nil {
				return err
			}
			under := sumOf(b, "triward_logs_passes_begun_total") - sumOf(b, "triward_logs_passes_finished_total") - sumOf(b, "triward_logs_passes_failed_total")
			if waits := under + sumOf(b, "triward_logs_inbox_bytes") + sumOf(b, "triward_logs_unindexed_blocks") + sumOf(b, "triward_logs_index_rebuilds"); waits > 0 {
				return fmt.Errorf("%s has %v bytes in the inbox, %v blocks without index, %v passes under way", n.ID,
					sumOf(b, "triward_logs_inbox_bytes"), sumOf(b, "triward_logs_unindexed_blocks"), under)
			}
		}
		return nil
	})
}

// bytesByPart is what the first node tells of its store, by part.
func (o *ourLogs) bytesByPart(ctx context.Context) (parts []benchPart, err error) {
	b, err := o.metrics(ctx, o.node())
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		rest, ok := strings.CutPrefix(line, `triward_logs_disk_bytes{part="`)
		if name, value, cut := strings.Cut(strings.TrimSpace(rest), `"} `); ok && cut {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return nil, err
			}
			parts = append(parts, benchPart{name, v})
		}
	}
	return parts, nil
}

// benchPart is a part of a store and its bytes.
type benchPart struct {
	name  string
	bytes float64
}

func (o *ourLogs) request(ctx context.Context, q *benchQuery) (*http.Request, error) {
	v := url.Values{
		"query": {q.ours}, "start": {strconv.FormatInt(o.c.day.UnixMilli(), 10)}, "end": {strconv.FormatInt(o.c.day.Add(24*time.Hour).UnixMilli(), 10)},
	}
	path := "/v1/logs/query"
	switch q.kind {
	case askRows:
		v.Set("limit", strconv.Itoa(askedRows))
	case askCount:
		path = "/v1/logs/hits"
		v.Set("step", "24h")
	case askBars:
		path = "/v1/logs/hits"
		v.Set("step", "1m")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, o.node().URL+path+"?"+v.Encode(), nil)
	if err == nil {
		r.Header.Set("Authorization", "Bearer "+o.tr.c.Token)
	}
	return r, err
}

func (o *ourLogs) parse(q *benchQuery, body []byte) (a benchAnswer, err error) {
	if q.kind == askRows {
		var page struct {
			Rows []struct {
				T    int64 `json:"t,string"`
				Text string
			}
			Stats struct{ Partial bool }
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return a, err
		}
		for _, r := range page.Rows {
			a.rows = append(a.rows, benchRow{r.T, r.Text})
		}
		sortRows(a.rows)
		return a, partial(page.Stats.Partial)
	}
	var hits struct {
		T0, Step, Total int64
		Series          []struct{ Counts []int64 }
		Partial         bool
	}
	if err := json.Unmarshal(body, &hits); err != nil {
		return a, err
	}
	a.count, a.bars = hits.Total, map[int64]int64{}
	for _, s := range hits.Series {
		for i, n := range s.Counts {
			if n > 0 {
				a.bars[(hits.T0+int64(i)*hits.Step)/1000] += n
			}
		}
	}
	return a, partial(hits.Partial)
}

func partial(is bool) error {
	if is {
		return fmt.Errorf("the answer is partial")
	}
	return nil
}
