// Package systemtest drives the real binaries over real ports: it starts `triward dev`, kills nodes with
// SIGKILL, and compares what three nodes answer with a ledger kept outside. It imports the wire format and
// nothing else of Triward.
package systemtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// devLine is the line that `triward dev --json` prints when it is ready.
type devLine struct {
	User, Password, Token, CA string
	Nodes                     []devNode
	Agent                     *struct {
		PID    int
		Config string
	}
}

type devNode struct {
	ID       string
	URL      string
	AgentURL string `json:"agent_url"`
	PID      int
	Config   string
	DataDir  string `json:"data_dir"`
}

// cluster is a running `triward dev` and whatever nodes were started again beside it.
type cluster struct {
	devLine
	bin     string
	dir     string
	dev     *exec.Cmd
	stdin   io.Closer
	again   map[string]*exec.Cmd // by node id
	client  *http.Client
	tlsConf *tls.Config
	log     *os.File
	// launch, when set, starts a node's process instead of this process doing so itself, and sets n.PID: elsewhere, or as
	// another program.
	launch  func(n *devNode, cmd *exec.Cmd) error
	started time.Time // when restart last started a node
}

// start runs `triward dev` with the given further arguments and waits until it is ready.
func start(ctx context.Context, bin, dir string, args ...string) (*cluster, error) {
	log, err := os.Create(filepath.Join(dir, "nodes.log"))
	if err != nil {
		return nil, err
	}
	c := &cluster{bin: bin, dir: dir, again: make(map[string]*exec.Cmd), log: log}
	c.dev = exec.Command(filepath.Join(bin, "triward"), append([]string{"dev", "--json", "--data-dir", filepath.Join(dir, "data")}, args...)...)
	c.dev.Stderr = log
	out, err := c.dev.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.dev.Start(); err != nil {
		return nil, fmt.Errorf("start triward dev: %w", err)
	}
	lines := make(chan string, 1)
	go func() {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		lines <- line
		_, _ = io.Copy(log, r)
	}()
	select {
	case line := <-lines:
		if err := json.Unmarshal([]byte(line), &c.devLine); err != nil {
			c.stop()
			return nil, fmt.Errorf("line of triward dev %q: %w\n%s", line, err, c.tail())
		}
	case <-ctx.Done():
		c.stop()
		return nil, fmt.Errorf("triward dev was not ready in time\n%s", c.tail())
	}
	if err := c.trust(); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// trust makes the client that believes the cluster's CA.
func (c *cluster) trust() error {
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return fmt.Errorf("read CA of the cluster: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	c.tlsConf = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	c.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: c.tlsConf}}
	return nil
}

// tail returns the end of what the nodes logged.
func (c *cluster) tail() string {
	b, _ := os.ReadFile(c.log.Name())
	return string(b[max(0, len(b)-4000):])
}

// stop ends everything that start and restart started.
func (c *cluster) stop() {
	for _, cmd := range c.again {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, cmd := range c.again {
		end := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		end.Stop()
	}
	if c.dev != nil {
		_ = c.dev.Process.Signal(syscall.SIGTERM)
		_ = c.dev.Wait()
	}
	_ = c.log.Close()
}

// kill ends a node with SIGKILL and returns when it is gone.
func (c *cluster) kill(n *devNode) error {
	if err := syscall.Kill(n.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", n.ID, err)
	}
	if cmd := c.again[n.ID]; cmd != nil {
		_ = cmd.Wait()
		delete(c.again, n.ID)
		return nil
	}
	return until(context.Background(), 10*time.Second, func(context.Context) error { // triward dev reaps it
		if syscall.Kill(n.PID, 0) == nil {
			return fmt.Errorf("%s (pid %d) is still there", n.ID, n.PID)
		}
		return nil
	})
}

// restart starts a node again with its own configuration, as an operator would.
func (c *cluster) restart(n *devNode) error {
	cmd := exec.Command(filepath.Join(c.bin, "triward"), "server", "--config", n.Config)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	launch := c.launch
	if launch == nil {
		launch = func(_ *devNode, cmd *exec.Cmd) error { return cmd.Start() }
	}
	if err := launch(n, cmd); err != nil {
		return fmt.Errorf("start %s again: %w", n.ID, err)
	}
	n.PID = cmd.Process.Pid
	c.again[n.ID] = cmd
	c.started = time.Now()
	return nil
}

// get asks a node and decodes the JSON answer.
func (c *cluster) get(ctx context.Context, n *devNode, path string, query url.Values, answer any) error {
	u := n.URL + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	return c.do(r, answer)
}

func (c *cluster) do(r *http.Request, answer any) error {
	r.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return &answerError{resp.StatusCode, string(b)}
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(b, answer)
}

// agentToken makes a token for one agent, at whichever node answers.
func (c *cluster) agentToken(ctx context.Context) (string, error) {
	var answer struct {
		Token string `json:"token"`
	}
	err := until(ctx, 30*time.Second, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Nodes[0].URL+"/v1/tokens/join", strings.NewReader(`{"kind":"agent"}`))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		return c.do(r, &answer)
	})
	return answer.Token, err
}

// clusterStatus is what GET /v1/cluster tells, as far as the tests look at it.
type clusterStatus struct {
	Leader string `json:"leader"`
	Nodes  []struct {
		ID           string `json:"id"`
		Role         string `json:"role"`
		LastIndex    uint64 `json:"last_index"`
		AppliedIndex uint64 `json:"applied_index"`
		MarkIndex    uint64 `json:"mark_index"`
	} `json:"nodes"`
}

// until repeats fn until it returns nil or the time is up; the last error is returned then, not that of a try which the end of the
// time cut short.
func until(ctx context.Context, limit time.Duration, fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", limit, last)
		}
	}
}

// leader returns the node that the cluster names as its leader, asking any that answers.
func (c *cluster) leader(ctx context.Context) (*devNode, error) {
	var found *devNode
	err := until(ctx, 30*time.Second, func(ctx context.Context) error {
		var last error
		for i := range c.Nodes {
			var st clusterStatus
			if last = c.get(ctx, &c.Nodes[i], "/v1/cluster", nil, &st); last != nil {
				continue
			}
			for j := range c.Nodes {
				if c.Nodes[j].ID == st.Leader {
					found = &c.Nodes[j]
					return nil
				}
			}
			last = fmt.Errorf("%s names no leader (%q)", c.Nodes[i].ID, st.Leader)
		}
		return last
	})
	return found, err
}

// ended reports whether the process of a node is gone, or waits to be taken note of.
func (c *cluster) ended(n *devNode) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID))
	if err != nil {
		return true
	}
	state := strings.TrimSpace(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return strings.HasPrefix(state, "Z")
}
