package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance/internal/freeaddr"
)

// plan is what a row asks of the cluster that is founded for it.
type plan struct {
	nodes int // 3 when 0
	// apart gives each node a machine of its own on the network of the bench.
	apart bool
	// dataDir, when set, says where node i keeps its data: the row may have mounted something there.
	dataDir func(i int) string
	// config, when set, changes the configuration of node i, which is the text of the file as a tree.
	config func(i int, c map[string]any)
	// command, when set, changes how node i is started: under another program, with other environment, by another binary.
	command func(i int, cmd *exec.Cmd)
}

// found makes a cluster as an operator does, by init and join, and returns when all nodes vote. The trial stops it.
func (tr *trial) found(ctx context.Context, p plan) error {
	if p.nodes == 0 {
		p.nodes = 3
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	log, err := os.Create(filepath.Join(tr.dir, "nodes.log"))
	if err != nil {
		return err
	}
	c := &cluster{bin: tr.bin, dir: tr.dir, again: make(map[string]*exec.Cmd), log: log}
	tr.c = c
	tr.atEnd(c.stop)
	if p.apart {
		if tr.net, err = newNetwork(ctx); err != nil {
			return err
		}
		tr.atEnd(func() { _ = tr.net.close(context.WithoutCancel(ctx)) })
	}
	for i := range p.nodes {
		if err := tr.newNode(ctx, i, &p); err != nil {
			return err
		}
	}
	c.launch = func(n *devNode, cmd *exec.Cmd) error { return tr.launch(n, cmd, &p) }
	if err := tr.first(ctx); err != nil {
		return fmt.Errorf("found the cluster: %w", err)
	}
	for i := 1; i < p.nodes; i++ {
		if err := tr.join(ctx, &c.Nodes[i]); err != nil {
			return fmt.Errorf("join %s: %w", c.Nodes[i].ID, err)
		}
	}
	err = until(ctx, 2*time.Minute, func(ctx context.Context) error { return tr.voters(ctx, p.nodes) })
	c.started = time.Time{} // which was no end of a fault
	return err
}

// newNode writes the configuration of node i.
func (tr *trial) newNode(ctx context.Context, i int, p *plan) error {
	n := devNode{ID: fmt.Sprintf("n%d", i+1)}
	home := filepath.Join(tr.dir, n.ID)
	n.Config, n.DataDir = filepath.Join(home, "triward.yaml"), filepath.Join(home, "data")
	if p.dataDir != nil {
		n.DataDir = p.dataDir(i)
	}
	at := [3]string{}
	if p.apart {
		place, err := tr.net.add(ctx, n.ID)
		if err != nil {
			return err
		}
		tr.places = append(tr.places, place)
		for j, port := range []string{"8443", "8001", "8002"} {
			at[j] = net.JoinHostPort(place.addr, port)
		}
	} else if os.Getenv(inBench) != "" { // nobody else has addresses here
		for j, port := range []string{"8443", "8001", "8002"} {
			at[j] = net.JoinHostPort(loopback(11+i), port)
		}
	} else {
		free, err := freeaddr.Addresses(len(at))
		if err != nil {
			return err
		}
		copy(at[:], free)
	}
	n.URL, n.AgentURL = "https://"+at[0], "https://"+at[1]
	conf := map[string]any{
		"node_id": n.ID, "data_dir": n.DataDir, "tls": map[string]any{"dir": filepath.Join(home, "tls")},
		"backup": map[string]any{"dir": filepath.Join(home, "backups")},
		"listen": map[string]any{
			"http":   map[string]any{"address": at[0], "url": n.URL},
			"agents": map[string]any{"address": at[1], "advertise": n.AgentURL},
			"peer":   map[string]any{"address": at[2], "advertise": at[2]},
		},
		"alerting": map[string]any{"allow_loopback_receivers": true},
	}
	if p.config != nil {
		p.config(i, conf)
	}
	body, err := yaml.Marshal(conf)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	tr.c.Nodes = append(tr.c.Nodes, n)
	return os.WriteFile(n.Config, body, 0o600)
}

// loopback is an address of this machine alone that nobody else has in the network of the bench.
func loopback(i int) string { return fmt.Sprintf("127.0.77.%d", i) }

// launch starts a node where it belongs.
func (tr *trial) launch(n *devNode, cmd *exec.Cmd, p *plan) error {
	i := tr.index(n)
	if p.command != nil {
		p.command(i, cmd)
	}
	if i < len(tr.places) {
		return tr.places[i].within(cmd.Start)
	}
	return cmd.Start()
}

func (tr *trial) index(n *devNode) int {
	for i := range tr.c.Nodes {
		if tr.c.Nodes[i].ID == n.ID {
			return i
		}
	}
	return len(tr.c.Nodes)
}

// triward runs a command as somebody does on the machine of a node.
func (tr *trial) triward(ctx context.Context, n *devNode, env []string, args ...string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(tr.bin, "triward"), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), append([]string{"TRIWARD_CONFIG=" + n.Config}, env...)...)
	start := cmd.Start
	if i := tr.index(n); i < len(tr.places) {
		start = func() error { return tr.places[i].within(cmd.Start) }
	}
	if err := start(); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s# triward %s: %w\n%s", n.ID, strings.Join(args, " "), err, &out)
	}
	return nil
}

// first founds the cluster with the first node and takes the token that the node made for its command line.
func (tr *trial) first(ctx context.Context) error {
	n := &tr.c.Nodes[0]
	if err := tr.triward(ctx, n, nil, "cluster", "init", "--password"); err != nil {
		return err
	}
	return tr.trustNode(ctx, n)
}

// trustNode starts the first node of a cluster and takes the CA and the token that it has made for its command line.
func (tr *trial) trustNode(ctx context.Context, n *devNode) error {
	c := tr.c
	tlsDir := filepath.Join(tr.dir, n.ID, "tls")
	c.CA = filepath.Join(tlsDir, "ca.pem")
	if err := c.trust(); err != nil {
		return err
	}
	if err := c.restart(n); err != nil {
		return err
	}
	return until(ctx, time.Minute, func(ctx context.Context) error {
		token, err := os.ReadFile(filepath.Join(tlsDir, "cli-token"))
		if err != nil {
			return tr.alive(n, err)
		}
		c.Token = strings.TrimSpace(string(token))
		return tr.alive(n, c.get(ctx, n, "/v1/cluster", nil, new(clusterStatus)))
	})
}

// alive returns err, and says so when the node is not even there.
func (tr *trial) alive(n *devNode, err error) error {
	if err != nil && tr.c.ended(n) {
		return fmt.Errorf("%s ended by itself: %w\n%s", n.ID, err, tr.c.tail())
	}
	return err
}

// join lets a node join and starts it.
func (tr *trial) join(ctx context.Context, n *devNode) error {
	c := tr.c
	var answer struct {
		Token string `json:"token"`
	}
	err := until(ctx, 30*time.Second, func(ctx context.Context) error {
		return c.change(ctx, &c.Nodes[0], http.MethodPost, "/v1/tokens/join", map[string]any{"kind": "node"}, &answer)
	})
	if err != nil {
		return err
	}
	if err := tr.triward(ctx, n, []string{"TRIWARD_JOIN_TOKEN=" + answer.Token}, "cluster", "join", "--addr", c.Nodes[0].URL); err != nil {
		return err
	}
	return c.restart(n)
}

// change asks a node to do something and decodes what it answers.
func (c *cluster) change(ctx context.Context, n *devNode, method, path string, body, answer any) error {
	r, err := newRequest(ctx, method, n.URL+path, body)
	if err != nil {
		return err
	}
	return c.do(r, answer)
}

// newRequest is a request with a body of JSON, or none.
func newRequest(ctx context.Context, method, target string, body any) (*http.Request, error) {
	if body == nil {
		return http.NewRequestWithContext(ctx, method, target, nil)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(text))
	if err == nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}

// voters says why not all nodes vote and are reached.
func (tr *trial) voters(ctx context.Context, want int) error {
	var st struct {
		Leader string
		Nodes  []struct {
			Role      string
			Voter     bool
			Probation bool
		}
	}
	if err := tr.c.get(ctx, &tr.c.Nodes[0], "/v1/cluster", nil, &st); err != nil {
		return tr.alive(&tr.c.Nodes[0], err)
	}
	voters := 0
	for _, n := range st.Nodes {
		if n.Voter && !n.Probation && n.Role != "unreachable" {
			voters++
		}
	}
	if voters != want || st.Leader == "" {
		return fmt.Errorf("%d of %d nodes vote, leader %q", voters, want, st.Leader)
	}
	var errs []error
	for i := range tr.c.Nodes {
		errs = append(errs, tr.c.ready(ctx, &tr.c.Nodes[i]))
	}
	return errors.Join(errs...)
}
