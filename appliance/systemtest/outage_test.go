package systemtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance/internal/freeaddr"
)

// hostAgent is a real triward-agent that follows one file and scrapes this machine every second.
type hostAgent struct {
	bin, config, status string
	log                 *os.File
	cmd                 *exec.Cmd
	client              *http.Client // that reaches its status; nil: any
}

func newHostAgent(ctx context.Context, c *cluster, dir, file string) (*hostAgent, error) {
	at, err := freeaddr.Addresses(1)
	if err != nil {
		return nil, err
	}
	a := &hostAgent{bin: filepath.Join(c.bin, "triward-agent"), config: filepath.Join(dir, "agent.yaml"), status: at[0]}
	if a.log, err = os.Create(filepath.Join(dir, "agent.log")); err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(map[string]any{
		"data_dir": filepath.Join(dir, "agent"), "status": map[string]any{"listen": a.status},
		"metrics": map[string]any{"period": "1s"}, "journal": map[string]any{"enabled": "false"},
		"logs": map[string]any{"files": []map[string]any{{"include": []string{file}}}},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.config, text, 0o600); err != nil {
		return nil, err
	}
	token, err := c.agentToken(ctx)
	if err != nil {
		return nil, err
	}
	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, a.bin, "enroll", "--config", a.config, "--url", c.Nodes[0].AgentURL,
		"--token-file", tokenFile).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("enroll the agent: %w\n%s", err, out)
	}
	return a, a.start()
}

func (a *hostAgent) start() error {
	a.cmd = exec.Command(a.bin, "run", "--config", a.config)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return a.cmd.Start()
}

// kill ends the agent with SIGKILL and returns when it is gone.
func (a *hostAgent) kill() error {
	if err := a.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill the agent: %w", err)
	}
	_ = a.cmd.Wait() // says that it was killed
	return nil
}

type agentStatus struct {
	LastFailure string `json:"last_failure"`
	Spool       struct {
		Bytes   int64  `json:"bytes"`
		Batches uint64 `json:"batches"`
		Lanes   map[string]struct {
			Lost uint64 `json:"lost_items"`
		} `json:"lanes"`
	} `json:"spool"`
}

func (a *hostAgent) ask(ctx context.Context) (st agentStatus, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.status+"/status", nil)
	if err != nil {
		return st, err
	}
	resp, err := cmp.Or(a.client, http.DefaultClient).Do(r)
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// delivered returns when next to nothing waits in the spool: scrapes go on all the time.
func (a *hostAgent) delivered(ctx context.Context, limit time.Duration) error {
	return until(ctx, limit, func(ctx context.Context) error {
		st, err := a.ask(ctx)
		if err == nil && st.Spool.Batches > 2 {
			err = fmt.Errorf("%d batches wait, last failure %q", st.Spool.Batches, st.LastFailure)
		}
		return err
	})
}

func outageLine(n int64) string {
	text := fmt.Sprintf("outageline n=%d of the file that the agent follows", n)
	return fmt.Sprintf("%s crc=%08x", text, crc32.ChecksumIEEE([]byte(text)))
}

// appendLines writes twenty lines ten times a second until ctx ends, and counts them.
func appendLines(ctx context.Context, file string, count *atomic.Int64) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		for range 20 {
			if _, err := fmt.Fprintln(f, outageLine(count.Load()+1)); err != nil {
				return err
			}
			count.Add(1)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// span is the time during which no node was up.
type span struct{ from, to time.Time }

// TestAgentOutage: a real agent goes on collecting while no node is up, dies once itself meanwhile, and
// afterwards every node holds every line once and the samples of the outage.
func TestAgentOutage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	length := 20 * time.Second
	if v := os.Getenv("TRIWARD_OUTAGE"); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	boot, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := start(boot, binaries(t, ""), dir, "--agent=false", "--plain-http", "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	file := filepath.Join(dir, "followed.log")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := newHostAgent(boot, c, dir, file)
	if err != nil {
		t.Fatal(err)
	}
	defer a.log.Close()
	defer func() { _ = a.kill() }()
	begin := time.Now()
	var count atomic.Int64
	writing, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- appendLines(writing, file, &count) }()
	if err := until(ctx, 60*time.Second, func(ctx context.Context) error {
		return c.findLines(ctx, &c.Nodes[0], begin, 200, false)
	}); err != nil {
		t.Fatalf("before the outage: %v\n%s", err, c.tail())
	}

	out := outage(t, c, a, length, &count)
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := a.delivered(ctx, 60*time.Second); err != nil {
		t.Error(err)
	}
	var v violations
	if err := c.settle(ctx, &v); err != nil || v.total() > 0 {
		t.Errorf("%v %v", err, &v)
	}
	for i := range c.Nodes {
		n := &c.Nodes[i]
		// The newest lines may still be on their way from the file to the spool.
		if err := until(ctx, 60*time.Second, func(ctx context.Context) error { return c.findLines(ctx, n, begin, count.Load(), true) }); err != nil {
			t.Error(err)
		}
		if err := c.checkClock(ctx, n, begin, out); err != nil {
			t.Error(err)
		}
	}
	if st, err := a.ask(ctx); err != nil {
		t.Error(err)
	} else {
		for lane, l := range st.Spool.Lanes {
			if l.Lost > 0 {
				t.Errorf("lane %s of the spool lost %d items", lane, l.Lost)
			}
		}
	}
	t.Logf("%d lines in all, each once on each of %d nodes", count.Load(), len(c.Nodes))
	if t.Failed() {
		log, _ := os.ReadFile(a.log.Name())
		t.Logf("nodes:\n%s\nagent:\n%s", c.tail(), log[max(0, len(log)-4000):])
	}
}

// outage kills all nodes, kills the agent half way and starts it again, and ends when all that waited is sent.
func outage(t *testing.T, c *cluster, a *hostAgent, length time.Duration, count *atomic.Int64) span {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			log, _ := os.ReadFile(a.log.Name())
			t.Fatalf("%v\nnodes:\n%s\nagent:\n%s", err, c.tail(), log[max(0, len(log)-4000):])
		}
	}
	passed := func(at time.Time) {
		t.Helper()
		must(until(ctx, length+time.Minute, func(context.Context) error {
			if left := time.Until(at); left > 0 {
				return fmt.Errorf("the outage goes on for %v", left)
			}
			return nil
		}))
	}
	for i := range c.Nodes {
		must(c.kill(&c.Nodes[i]))
	}
	s, first := span{from: time.Now()}, count.Load()
	passed(s.from.Add(length / 2))
	must(a.kill())
	must(a.start())
	passed(s.from.Add(length))
	st, err := a.ask(ctx)
	must(err)
	if want := uint64(length.Seconds() / 2); st.Spool.Batches < want {
		t.Errorf("the spool holds %d batches after %v without a node, want at least %d", st.Spool.Batches, length, want)
	}
	s.to = time.Now()
	lines := count.Load() - first
	for i := range c.Nodes {
		must(c.restart(&c.Nodes[i]))
	}
	for i := range c.Nodes {
		must(c.ready(ctx, &c.Nodes[i]))
	}
	up := time.Since(s.to)
	must(a.delivered(ctx, 2*time.Minute))
	t.Logf("outage of %v: %d lines appended, the spool held %d batches in %.1f MiB; nodes ready %v after their start, all sent %v after it",
		s.to.Sub(s.from).Round(time.Second), lines, st.Spool.Batches, float64(st.Spool.Bytes)/(1<<20),
		up.Round(time.Millisecond), time.Since(s.to).Round(time.Millisecond))
	return s
}

// findLines says what the node lacks of the first count lines, or has twice; exactly: or has besides them.
func (c *cluster) findLines(ctx context.Context, n *devNode, begin time.Time, count int64, exactly bool) error {
	seen := make(map[string]int)
	q := url.Values{
		"query": {"outageline"}, "limit": {"5000"},
		"start": {strconv.FormatInt(begin.Add(-time.Hour).UnixMilli(), 10)}, "end": {strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10)},
	}
	for {
		var page struct {
			Rows  []struct{ Text string }
			Next  string
			Stats struct {
				Partial bool
				Node    string
			}
		}
		if err := c.get(ctx, n, "/v1/logs/query", q, &page); err != nil {
			return err
		}
		if page.Stats.Partial || page.Stats.Node != "" {
			return errors.New("the answer is partial")
		}
		for _, r := range page.Rows {
			seen[r.Text]++
		}
		if page.Next == "" {
			break
		}
		q.Set("cursor", page.Next)
	}
	var lost, doubled []int64
	for i := int64(1); i <= count; i++ {
		switch k := seen[outageLine(i)]; {
		case k == 0:
			lost = append(lost, i)
		case k > 1:
			doubled = append(doubled, i)
		}
		delete(seen, outageLine(i))
	}
	if len(lost) > 0 || len(doubled) > 0 || exactly && len(seen) > 0 {
		return fmt.Errorf("%s: of %d lines %d are lost %v, %d are there more than once %v, %d others", n.ID, count,
			len(lost), lost[:min(5, len(lost))], len(doubled), doubled[:min(5, len(doubled))], len(seen))
	}
	return nil
}

// checkClock looks at node_time_seconds, whose value tells when it was taken: no time stamp twice, none that
// is not its own, and the outage filled but for the time in which the agent was down.
func (c *cluster) checkClock(ctx context.Context, n *devNode, begin time.Time, out span) error {
	const most = 10 * time.Second // between two samples: a scrape a second, on a busy machine
	var answer struct {
		Data struct {
			Result []struct{ Values [][2]json.RawMessage }
		}
	}
	q := url.Values{
		"query": {fmt.Sprintf("node_time_seconds[%ds]", int(time.Since(begin).Seconds())+60)},
		"time":  {strconv.FormatInt(time.Now().Unix()+1, 10)},
	}
	if err := c.get(ctx, n, "/api/v1/query", q, &answer); err != nil {
		return err
	}
	if k := len(answer.Data.Result); k != 1 {
		return fmt.Errorf("%s: %d series of node_time_seconds, want one", n.ID, k)
	}
	before, inside := 0.0, 0
	for _, p := range answer.Data.Result[0].Values {
		at, err := strconv.ParseFloat(string(p[0]), 64)
		if err != nil {
			return fmt.Errorf("%s: time stamp %s: %w", n.ID, p[0], err)
		}
		value, err := strconv.ParseFloat(strings.Trim(string(p[1]), `"`), 64)
		if err != nil {
			return fmt.Errorf("%s: value %s: %w", n.ID, p[1], err)
		}
		if math.Abs(at-value) > most.Seconds() {
			return fmt.Errorf("%s: sample at %.3f says it was taken at %.3f", n.ID, at, value)
		}
		if before > 0 && (at <= before || at-before > most.Seconds()) {
			return fmt.Errorf("%s: sample at %.3f follows one at %.3f", n.ID, at, before)
		}
		before = at
		if at >= float64(out.from.UnixMilli())/1000 && at <= float64(out.to.UnixMilli())/1000 {
			inside++
		}
	}
	if want := int(out.to.Sub(out.from).Seconds()) * 3 / 4; inside < want {
		return fmt.Errorf("%s: %d samples of node_time_seconds from inside the outage, want %d", n.ID, inside, want)
	}
	return nil
}
