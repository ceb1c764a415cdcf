package systemtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
)

// What BenchmarkIntakeBesideSearches does.
const (
	besideSenders  = 16
	besideRequests = 120 // of each sender in a phase
	besideBatches  = 4   // of a request
	besideLines    = 500
	besideFiles    = 125 // of each sender: 2,000 streams
	besideClients  = 64
	besideRounds   = 3 // alone, beside searches, alone, ...
)

// heavyQuestions take long: each looks at every line.
func heavyQuestions(start, end string) []string {
	const expression = "[0-9]+.*(user|root|port).*[0-9]{2,}.*[a-z]+[0-9]"
	own := func(path string, more url.Values) string {
		more.Set("start", start)
		more.Set("end", end)
		return path + "?" + more.Encode()
	}
	return []string{
		own("/v1/logs/hits", url.Values{"query": {"/" + expression + "/"}, "step": {"1m"}}),
		own("/v1/logs/hits", url.Values{"query": {"-/" + expression + "/"}, "step": {"1m"}, "field": {"file"}}),
		own("/v1/logs/query", url.Values{"query": {"/" + expression + "zz/"}, "limit": {"1000"}}),
		own("/v1/logs/patterns", url.Values{"query": {"-/zzzz/"}, "step": {"1h"}}),
		own("/v1/logs/facets", url.Values{"query": {"-/" + expression + "zz/"}, "field": {"file"}}),
		own("/loki/api/v1/query_range", url.Values{"query": {"sum by (file) (count_over_time({source=\"file\"} | regexp `port (?P<port>[0-9]+)` | port > 1000 [1m]))"}, "step": {"60s"}}),
		own("/v1/logs/export", url.Values{"query": {"-/zzzz/"}}),
	}
}

// lightQuestions are what somebody asks who looks for something.
func lightQuestions(start, end string) []string {
	var out []string
	for _, query := range []string{"nothinglikeit", "failed", "user root", "port 10*", `"invalid user"`, "severity:error", "host:sender1"} {
		q := url.Values{"query": {query}, "start": {start}, "end": {end}, "limit": {"100"}}
		out = append(out, "/v1/logs/query?"+q.Encode())
		q.Del("limit")
		q.Set("step", "1m")
		out = append(out, "/v1/logs/hits?"+q.Encode())
	}
	return out
}

// beside is a node, those who deliver lines to it, and those who ask.
type beside struct {
	c       *cluster
	senders []*sender
	lines   [][]byte
	made    int // requests of each sender
	start   string
	end     string
	asking  *http.Client
	panels  string // the token of those who ask what is heavy
}

// phase is what was seen while the senders delivered as fast as they were answered.
type phase struct {
	lines  int
	took   time.Duration
	acks   []time.Duration
	heavy  []time.Duration // to the answers to heavy questions
	cpu    float64         // seconds of the node
	waited int             // heavy questions that were refused for the moment
	light  []time.Duration // to the answers to light questions
}

func (p *phase) perSecond() float64 { return float64(p.lines) / p.took.Seconds() }

func (p *phase) add(q *phase) {
	p.lines += q.lines
	p.took += q.took
	p.acks = append(p.acks, q.acks...)
	p.heavy = append(p.heavy, q.heavy...)
	p.cpu += q.cpu
	p.waited += q.waited
	p.light = append(p.light, q.light...)
}

// BenchmarkIntakeBesideSearches delivers lines to one node over the agents' protocol, alone and beside 64 clients that ask without a
// pause and with one token for what looks at every line, in turn. A client beside them asks light questions with a token of its own, at
// the peak of intake and at rest. Senders and clients share the machine with the node.
func BenchmarkIntakeBesideSearches(b *testing.B) {
	bin, err := filepath.Abs(os.Getenv("TRIWARD_BIN"))
	if err != nil || os.Getenv("TRIWARD_BIN") == "" {
		b.Fatal("TRIWARD_BIN must name the folder of the binaries: run `make bench`")
	}
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), 30*time.Minute)
		besideOnce(ctx, b, bin)
		cancel()
	}
}

func besideOnce(ctx context.Context, b *testing.B, bin string) {
	dir := b.TempDir()
	c, err := start(ctx, bin, dir, "--agent=false", "--plain-http", "--http-port", "0", "--nodes", "1")
	if err != nil {
		b.Fatal(err)
	}
	defer c.stop()
	l, err := newLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.close()
	s := &beside{c: c, lines: logLines(b), start: fmt.Sprint(time.Now().Add(-3 * time.Hour).UnixNano()), end: fmt.Sprint(time.Now().Add(time.Hour).UnixNano()), asking: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * besideClients}}}
	var panels struct{ Token string }
	if err := c.change(ctx, &c.Nodes[0], http.MethodPost, "/v1/tokens/api", map[string]any{"name": "panels", "role": "viewer"}, &panels); err != nil {
		b.Fatal(err)
	}
	s.panels = panels.Token
	for i := range besideSenders {
		sender, err := (kills{}).sender(ctx, c, l, i, 1)
		if err != nil {
			b.Fatal(err)
		}
		s.senders = append(s.senders, sender)
	}
	s.run(ctx, b, 0, false) // what is searched, and what is warm
	atRest := s.askLight(ctx, b, 5)
	var alone, with phase
	var rss, inbox float64
	for range besideRounds {
		p := s.run(ctx, b, 0, true)
		alone.add(&p)
		p = s.run(ctx, b, besideClients, true)
		with.add(&p)
		rss = max(rss, rssMiB(c.Nodes[0].PID))
		inbox = max(inbox, s.metric(ctx, b, "triward_logs_inbox_bytes"))
	}
	b.ReportMetric(alone.perSecond(), "alone-lines/s")
	b.ReportMetric(with.perSecond(), "beside-lines/s")
	b.ReportMetric(100*with.perSecond()/alone.perSecond(), "kept-%")
	for name, p := range map[string]*phase{"alone": &alone, "beside": &with} {
		slices.Sort(p.acks)
		b.ReportMetric(ms(p.acks, 0.5), name+"-ack-p50-ms")
		b.ReportMetric(ms(p.acks, 0.99), name+"-ack-p99-ms")
		slices.Sort(p.light)
		b.ReportMetric(ms(p.light, 0.5), name+"-light-p50-ms")
		b.ReportMetric(ms(p.light, 0.99), name+"-light-p99-ms")
		b.ReportMetric(p.cpu/p.took.Seconds(), name+"-cores")
	}
	slices.Sort(with.heavy)
	b.ReportMetric(ms(with.heavy, 0.5), "heavy-p50-ms")
	b.ReportMetric(ms(with.heavy, 0.99), "heavy-p99-ms")
	slices.Sort(atRest)
	b.ReportMetric(ms(atRest, 0.5), "rest-light-p50-ms")
	b.ReportMetric(ms(atRest, 0.99), "rest-light-p99-ms")
	b.ReportMetric(float64(len(with.heavy))/with.took.Seconds(), "heavy/s")
	b.ReportMetric(float64(with.waited)/with.took.Seconds(), "refused/s")
	b.ReportMetric(rss, "rss-MiB")
	b.ReportMetric(inbox/(1<<20), "inbox-MiB")
	b.ReportMetric(0, "ns/op")
}

// ms is a quantile of sorted times.
func ms(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Microseconds()) / 1000
}

// prepare makes the requests of a phase beforehand: what senders take of the processors is not the node's.
func (s *beside) prepare() [][][]wire.Batch {
	all := make([][][]wire.Batch, len(s.senders))
	var wg sync.WaitGroup
	for i, sender := range s.senders {
		wg.Go(func() {
			for r := range besideRequests {
				batches := make([]wire.Batch, besideBatches)
				for k := range batches {
					seq := (s.made+r)*besideBatches + k + 1
					streams := make([]wire.LogStream, besideFiles)
					for f := range streams {
						file := fmt.Sprintf("/var/log/%s.%d", sender.name, f)
						streams[f] = wire.LogStream{Kind: wire.StreamLog, Labels: sender.labels().With("file", file).With("source", "file")}
					}
					for j := range besideLines {
						st := &streams[j%besideFiles]
						st.Lines = append(st.Lines, wire.LogLine{
							T: sender.base*1e6 + int64(seq*besideLines+j)*1e5, Severity: wire.SeverityInfo, Text: s.lines[(seq*besideLines+j)%len(s.lines)],
						})
					}
					batches[k] = sender.batch(wire.LaneLogs, uint64(seq), wire.AppendLogs(nil, &wire.LogBatch{Streams: streams}))
				}
				all[i] = append(all[i], batches)
			}
		})
	}
	wg.Wait()
	s.made += besideRequests
	return all
}

// run has the senders deliver what was prepared, beside so many clients that ask what is heavy, and one with light questions.
func (s *beside) run(ctx context.Context, b *testing.B, clients int, light bool) (p phase) {
	requests := s.prepare()
	asking, stop := context.WithCancel(ctx)
	var wg, asked sync.WaitGroup
	var mu sync.Mutex
	for i := range clients {
		asked.Go(func() { s.askHeavy(asking, b, i, &mu, &p) })
	}
	if light {
		asked.Go(func() {
			for asking.Err() == nil {
				some := s.askLight(asking, b, 1)
				mu.Lock()
				p.light = append(p.light, some...)
				mu.Unlock()
			}
		})
	}
	if clients > 0 { // all of them ask by now
		if err := until(ctx, time.Minute, func(context.Context) error {
			if n := s.metric(ctx, b, `triward_log_queries{lane="people",state="waiting"}`); n == 0 {
				return errors.New("no search waits")
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		mu.Lock()
		p.heavy, p.waited = nil, 0
		mu.Unlock()
	}
	begin := time.Now()
	used, err := cpuSeconds(s.c.Nodes[0].PID)
	if err != nil {
		b.Fatal(err)
	}
	for i, sender := range s.senders {
		wg.Go(func() {
			for _, batches := range requests[i] {
				sent := time.Now()
				if err := sender.deliver(ctx, batches); err != nil {
					b.Errorf("%s: %v", sender.name, err)
					return
				}
				mu.Lock()
				p.lines += besideBatches * besideLines
				p.acks = append(p.acks, time.Since(sent))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	p.took = time.Since(begin)
	after, err := cpuSeconds(s.c.Nodes[0].PID)
	if err != nil {
		b.Fatal(err)
	}
	p.cpu = after - used
	mu.Lock()
	heavy, waited := p.heavy, p.waited
	mu.Unlock()
	stop()
	asked.Wait()
	p.heavy, p.waited = heavy, waited
	return p
}

func (s *beside) askHeavy(ctx context.Context, b *testing.B, i int, mu *sync.Mutex, p *phase) {
	questions := heavyQuestions(s.start, s.end)
	for k := i; ctx.Err() == nil; k++ {
		took, err := s.ask(ctx, s.panels, questions[k%len(questions)])
		refused, is := errors.AsType[*answerError](err)
		mu.Lock()
		switch {
		case err == nil:
			p.heavy = append(p.heavy, took)
		case is && refused.status == http.StatusTooManyRequests:
			p.waited++
		case is && refused.status == http.StatusGatewayTimeout || ctx.Err() != nil:
		default:
			b.Errorf("%s: %v", questions[k%len(questions)], err)
		}
		mu.Unlock()
		if err != nil {
			_ = pause(ctx, time.Duration(50+rand.IntN(100))*time.Millisecond)
		}
	}
}

func (s *beside) askLight(ctx context.Context, b *testing.B, rounds int) (out []time.Duration) {
	for range rounds {
		for _, q := range lightQuestions(s.start, s.end) {
			took, err := s.ask(ctx, s.c.Token, q)
			refused, is := errors.AsType[*answerError](err)
			switch {
			case err == nil, is && refused.status == http.StatusGatewayTimeout: // limits.query_timeout was all it took
				out = append(out, took)
			case ctx.Err() != nil:
				return out
			case is && refused.status == http.StatusTooManyRequests:
				_ = pause(ctx, 100*time.Millisecond)
			default:
				b.Errorf("%s: %v", q, err)
				return out
			}
		}
	}
	return out
}

func (s *beside) ask(ctx context.Context, token, path string) (time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.c.Nodes[0].URL+path, nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	begin := time.Now()
	_, err = fetch(s.asking, r)
	return time.Since(begin), err
}

func (s *beside) metric(ctx context.Context, b *testing.B, name string) float64 {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.c.Nodes[0].URL+"/metrics", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.c.Token)
	body, err := fetch(s.c.client, r)
	if err != nil {
		b.Fatal(fmt.Errorf("metrics: %w", err))
	}
	return sumOf(body, name)
}
