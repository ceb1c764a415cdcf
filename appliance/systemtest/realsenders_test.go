package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/triward/triward/appliance/internal/freeaddr"
)

// realSenders are programs that other people wrote, delivering to a cluster.
type realSenders struct {
	t    *testing.T
	c    *cluster
	dir  string
	bins string // of prometheus and lokiclient

	tokenFile    string
	udp, tcp     map[string]string // addresses for syslog, by node id
	ticks        atomic.Int64      // scrapes that Prometheus made
	prom         string            // its address
	rsyslog      *exec.Cmd
	loggerSocket string
}

// A real Prometheus, a client of Loki, rsyslog and logger deliver while the leader is killed with SIGKILL. The first
// two send to the node that is killed and repeat what they know no outcome of: nothing may be lost, nothing be there
// twice. Syslog goes to a node that lives: nothing may be lost. Then that node is killed as well, and the test says
// what plain syslog costs.
func TestRealSenders(t *testing.T) {
	t.Parallel()
	bins := senderPrograms(t)
	rsyslogd, err := exec.LookPath("rsyslogd")
	if err != nil { // it is no program of ordinary users
		rsyslogd, err = exec.LookPath("/usr/sbin/rsyslogd")
	}
	if err != nil {
		t.Fatalf("%v: packaging/syslog.sh install", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	c, err := start(ctx, binaries(t, ""), dir, "--agent=false", "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	s := &realSenders{t: t, c: c, dir: dir, bins: bins, udp: map[string]string{}, tcp: map[string]string{}}
	s.must(s.openSyslog(ctx))
	s.must(s.makeToken(ctx))
	leader, err := c.leader(ctx)
	s.must(err)
	var lives *devNode
	for i := range c.Nodes {
		if c.Nodes[i].ID != leader.ID {
			lives = &c.Nodes[i]
		}
	}
	stopProm := s.startPrometheus(ctx, leader)
	defer stopProm()
	loki, lokiIn := s.startLoki(ctx, leader)
	stopRsyslog := s.startRsyslog(ctx, rsyslogd, lives)
	defer stopRsyslog()
	logger, loggerIn := s.startLogger(ctx)

	sent := 0
	feed := func(until int) {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ; sent < until; sent++ {
			<-tick.C
			for what, in := range map[string]io.Writer{"lokiline": lokiIn, "rsysline": loggerIn} {
				if _, err := fmt.Fprintf(in, "%s number%dx of a sender\n", what, sent); err != nil {
					t.Fatalf("%s %d: %v", what, sent, err)
				}
			}
		}
	}
	s.directly(ctx, lives, "before")
	feed(200)
	s.must(c.kill(leader))
	feed(500)
	s.directly(ctx, lives, "without")
	_, err = c.leader(ctx)
	s.must(err)
	feed(600)
	s.must(c.restart(leader))
	s.must(s.ready(ctx, leader))
	feed(700)
	s.must(loggerIn.Close())
	s.must(logger.Wait())
	s.must(lokiIn.Close())
	if err := loki.Wait(); err != nil {
		t.Fatalf("the client of Loki gave up: %v", err)
	}
	end := time.Now()
	for i := range c.Nodes {
		n := &c.Nodes[i]
		s.exactly(ctx, n, "lokiline", sent)
		s.exactly(ctx, n, "rsysline", sent)
		s.exactly(ctx, n, "directline", 2*4)
		s.sameSamples(ctx, n, end)
	}
	s.must(c.settle(ctx, new(violations)))
	t.Logf("each node has all %d lines of the client of Loki and of rsyslog once, and the samples of %d scrapes as Prometheus has them", sent, s.ticks.Load())
	s.costOfPlainSyslog(ctx, lives)
}

// senderPrograms returns the folder with prometheus and lokiclient: the one named by TRIWARD_SENDERS, which make fills,
// else built here.
func senderPrograms(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("TRIWARD_SENDERS"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	for _, args := range [][]string{
		{"-modfile=packaging/peers.mod", "-tags", "remove_all_sd,enable_file_sd", "-o", filepath.Join(dir, "prometheus"), "github.com/prometheus/prometheus/cmd/prometheus"},
		{"-modfile=packaging/loki.mod", "-o", filepath.Join(dir, "lokiclient"), "packaging/lokiclient/main.go"},
	} {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"build"}, args...)...)
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build %v: %v\n%s", args, err, out)
		}
	}
	return dir
}

func (s *realSenders) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v\nnodes said last:\n%s", err, s.c.tail())
	}
}

var emptyAddress = regexp.MustCompile(`(?m)^( +)(udp|tcp): ""$`)

// openSyslog configures syslog on every node and starts it again, as an operator would.
func (s *realSenders) openSyslog(ctx context.Context) error {
	for i := range s.c.Nodes {
		n := &s.c.Nodes[i]
		body, err := os.ReadFile(n.Config)
		if err != nil {
			return err
		}
		at, err := freeaddr.Addresses(2)
		if err != nil {
			return err
		}
		s.udp[n.ID], s.tcp[n.ID] = at[0], at[1]
		body = emptyAddress.ReplaceAllFunc(body, func(line []byte) []byte {
			address := s.udp[n.ID]
			if bytes.Contains(line, []byte("tcp")) {
				address = s.tcp[n.ID]
			}
			return bytes.Replace(line, []byte(`""`), []byte(address), 1)
		})
		if err := os.WriteFile(n.Config, body, 0o600); err != nil {
			return err
		}
		if err := s.c.kill(n); err != nil {
			return err
		}
		if err := s.c.restart(n); err != nil {
			return err
		}
		if err := s.ready(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (s *realSenders) ready(ctx context.Context, n *devNode) error {
	return until(ctx, time.Minute, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/-/ready", nil)
		if err != nil {
			return err
		}
		resp, err := s.c.client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s is not ready: %s", n.ID, resp.Status)
		}
		return nil
	})
}

func (s *realSenders) makeToken(ctx context.Context) error {
	s.tokenFile = filepath.Join(s.dir, "ingest.token")
	return until(ctx, 30*time.Second, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.c.Nodes[0].URL+"/v1/tokens/api", strings.NewReader(`{"name":"senders","role":"ingest"}`))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		var answer struct {
			Token string `json:"token"`
		}
		if err := s.c.do(r, &answer); err != nil {
			return err
		}
		return os.WriteFile(s.tokenFile, []byte(answer.Token), 0o600)
	})
}

// run starts a program whose output goes to a file of its name.
func (s *realSenders) run(ctx context.Context, name string, cmd *exec.Cmd) *exec.Cmd {
	s.t.Helper()
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	s.must(err)
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.must(cmd.Start())
	s.t.Cleanup(func() {
		_ = log.Close()
		if s.t.Failed() {
			body, _ := os.ReadFile(log.Name())
			s.t.Logf("%s said last:\n%s", name, body[max(0, len(body)-3000):])
		}
	})
	return cmd
}

// stopper ends a program that runs until it is told to.
func stopper(cmd *exec.Cmd) func() {
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it ends by the signal
	}
}

const promConfig = `global: {scrape_interval: 250ms, scrape_timeout: 200ms}
scrape_configs:
  - job_name: ticks
    static_configs: [{targets: ["%s"]}]
remote_write:
  - url: %s/api/v1/write
    authorization: {credentials_file: %s}
    tls_config: {ca_file: %s}
    queue_config: {min_backoff: 100ms, max_backoff: 1s, batch_send_deadline: 500ms}
`

// startPrometheus has a Prometheus scrape a target of ours and write what it gets to a node.
func (s *realSenders) startPrometheus(ctx context.Context, to *devNode) (stop func()) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := s.ticks.Add(1)
		for i := range 20 {
			fmt.Fprintf(w, "tick_total{i=\"%d\"} %d\n", i, n)
		}
	}))
	config := filepath.Join(s.dir, "prometheus.yml")
	s.must(os.WriteFile(config, fmt.Appendf(nil, promConfig, strings.TrimPrefix(target.URL, "http://"), to.URL, s.tokenFile, s.c.CA), 0o600))
	at, err := freeaddr.Addresses(1)
	s.must(err)
	s.prom = at[0]
	cmd := s.run(ctx, "prometheus", exec.Command(filepath.Join(s.bins, "prometheus"), "--config.file="+config,
		"--storage.tsdb.path="+filepath.Join(s.dir, "prometheus"), "--web.listen-address="+s.prom))
	s.must(until(ctx, time.Minute, func(context.Context) error {
		if s.ticks.Load() == 0 {
			return errors.New("Prometheus scrapes nothing")
		}
		return nil
	}))
	end := stopper(cmd)
	return func() { end(); target.Close() }
}

func (s *realSenders) startLoki(ctx context.Context, to *devNode) (*exec.Cmd, io.WriteCloser) {
	cmd := exec.Command(filepath.Join(s.bins, "lokiclient"), "-url", to.URL+"/loki/api/v1/push", "-token", s.tokenFile, "-ca", s.c.CA)
	in, err := cmd.StdinPipe()
	s.must(err)
	return s.run(ctx, "lokiclient", cmd), in
}

const rsyslogConfig = `global(workDirectory="%[1]s")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="%[2]s" RateLimit.Interval="0")
action(type="omfwd" target="%[3]s" port="%[4]s" protocol="tcp" TCP_Framing="octet-counted"
       template="RSYSLOG_SyslogProtocol23Format" keepAlive="on"
       action.resumeRetryCount="-1" action.resumeInterval="1"
       queue.type="LinkedList" queue.filename="triward" queue.maxDiskSpace="1g" queue.saveOnShutdown="on")
`

// startRsyslog runs an rsyslogd of our own with the settings of docs/senders.md, that sends to a node what loggers
// write to its socket.
func (s *realSenders) startRsyslog(ctx context.Context, program string, to *devNode) (stop func()) {
	// The path of a socket is short.
	sock, err := os.MkdirTemp("", "rsys")
	s.must(err)
	s.t.Cleanup(func() { _ = os.RemoveAll(sock) })
	s.loggerSocket = filepath.Join(sock, "log")
	work := filepath.Join(s.dir, "rsyslog")
	s.must(os.Mkdir(work, 0o700))
	config := filepath.Join(s.dir, "rsyslog.conf")
	host, port, err := net.SplitHostPort(s.tcp[to.ID])
	s.must(err)
	s.must(os.WriteFile(config, fmt.Appendf(nil, rsyslogConfig, work, s.loggerSocket, host, port), 0o600))
	s.rsyslog = s.run(ctx, "rsyslogd", exec.Command(program, "-n", "-f", config, "-i", filepath.Join(work, "pid")))
	s.must(until(ctx, 30*time.Second, func(context.Context) error { _, err := os.Stat(s.loggerSocket); return err }))
	return stopper(s.rsyslog)
}

// startLogger runs a logger that sends the lines it is given to rsyslog.
func (s *realSenders) startLogger(ctx context.Context) (*exec.Cmd, io.WriteCloser) {
	cmd := exec.Command("logger", "--socket", s.loggerSocket, "--tag", "real")
	in, err := cmd.StdinPipe()
	s.must(err)
	return s.run(ctx, "logger", cmd), in
}

// directly has loggers send to a node themselves, in either form by either transport.
func (s *realSenders) directly(ctx context.Context, to *devNode, when string) {
	for _, form := range []string{"--rfc3164", "--rfc5424"} {
		for _, transport := range []string{"--udp", "--tcp"} {
			address := s.udp[to.ID]
			if transport == "--tcp" {
				address = s.tcp[to.ID]
			}
			host, port, err := net.SplitHostPort(address)
			s.must(err)
			n := map[string]int{"before": 0, "without": 4}[when] + map[string]int{"--rfc3164": 0, "--rfc5424": 2}[form] + map[string]int{"--udp": 0, "--tcp": 1}[transport]
			args := []string{"--server", host, "--port", port, transport, form, "--tag", "real", "--id=77", fmt.Sprintf("directline number%dx of a sender", n)}
			if out, err := exec.CommandContext(ctx, "logger", args...).CombinedOutput(); err != nil {
				s.t.Fatalf("logger %v: %v\n%s", args, err, out)
			}
		}
	}
}

// count returns how often each number is there of lines that begin with a word.
func (s *realSenders) count(ctx context.Context, n *devNode, word string) (map[int]int, error) {
	seen := map[int]int{}
	q := url.Values{"query": {word}, "limit": {"5000"}, "start": {"now-1h"}, "consistency": {"linearizable"}}
	for {
		var page struct {
			Rows []struct {
				Text string `json:"text"`
			} `json:"rows"`
			Next string `json:"next"`
		}
		if err := s.c.get(ctx, n, "/v1/logs/query", q, &page); err != nil {
			return nil, err
		}
		for _, r := range page.Rows {
			_, rest, _ := strings.Cut(r.Text, "number")
			number, _, _ := strings.Cut(rest, "x")
			k, err := strconv.Atoi(number)
			if err != nil {
				return nil, fmt.Errorf("a line that nobody sent: %q", r.Text)
			}
			seen[k]++
		}
		if page.Next == "" {
			return seen, nil
		}
		q.Set("cursor", page.Next)
	}
}

// exactly waits until a node has the lines 0 to n-1, and fails when one is there twice.
func (s *realSenders) exactly(ctx context.Context, node *devNode, word string, n int) {
	s.t.Helper()
	s.must(until(ctx, time.Minute, func(ctx context.Context) error {
		seen, err := s.count(ctx, node, word)
		if err != nil {
			return err
		}
		var missing []int
		for k := range n {
			switch {
			case seen[k] == 0:
				missing = append(missing, k)
			case seen[k] > 1:
				s.t.Errorf("%s has %s %d %d times", node.ID, word, k, seen[k])
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%s lacks %d of %d lines %s: %v", node.ID, len(missing), n, word, missing[:min(len(missing), 20)])
		}
		return nil
	}))
}

// sameSamples waits until a node holds the very samples that Prometheus itself holds up to a time.
func (s *realSenders) sameSamples(ctx context.Context, node *devNode, end time.Time) {
	s.t.Helper()
	q := url.Values{"query": {"tick_total[30m]"}, "time": {fmt.Sprintf("%.3f", float64(end.UnixMilli())/1000)}}
	s.must(until(ctx, time.Minute, func(ctx context.Context) error {
		want, err := samplesOf(ctx, http.DefaultClient, "http://"+s.prom, "", q)
		if err != nil {
			return err
		}
		got, err := samplesOf(ctx, s.c.client, node.URL, s.c.Token, q)
		if err != nil {
			return err
		}
		if len(want) != 20 || len(got) != len(want) {
			return fmt.Errorf("%s has %d series, Prometheus has %d", node.ID, len(got), len(want))
		}
		for name, w := range want {
			if g := got[name]; g != w {
				return fmt.Errorf("%s has %d bytes of samples of %s, Prometheus has %d", node.ID, len(g), name, len(w))
			}
		}
		return nil
	}))
}

// samplesOf asks for a range of samples and returns them as written, by series.
func samplesOf(ctx context.Context, client *http.Client, base, token string, q url.Values) (map[string]string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/query?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Values json.RawMessage   `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, r := range answer.Data.Result {
		all[r.Metric["i"]] = string(r.Values)
	}
	return all, nil
}

// costOfPlainSyslog kills the node that rsyslog sends to and prints how many messages that costs: TCP tells a sender of
// what the kernel took, not of what a program read. Those that come after the node is back must be there.
func (s *realSenders) costOfPlainSyslog(ctx context.Context, n *devNode) {
	logger, in := s.startLogger(ctx)
	const lines = 1000
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for k := range lines {
		<-tick.C
		if k == lines/2 {
			s.must(s.c.kill(n))
		}
		if k == lines*3/4 {
			s.must(s.c.restart(n))
		}
		_, err := fmt.Fprintf(in, "costline number%dx of a sender\n", k)
		s.must(err)
	}
	s.must(in.Close())
	s.must(logger.Wait())
	s.must(s.ready(ctx, n))
	s.must(until(ctx, time.Minute, func(ctx context.Context) error {
		seen, err := s.count(ctx, n, "costline")
		if err != nil {
			return err
		}
		missing, first, last := 0, -1, -1
		for k := range lines {
			if seen[k] == 0 {
				missing++
				if first < 0 {
					first = k
				}
				last = k
			}
		}
		if seen[lines-1] == 0 {
			return fmt.Errorf("the last of %d lines has not come, %d are missing", lines, missing)
		}
		s.t.Logf("killing the node that rsyslog sends to over plain TCP cost %d messages of %d at 200 a second (from %d to %d)", missing, lines, first, last)
		return nil
	}))
}
