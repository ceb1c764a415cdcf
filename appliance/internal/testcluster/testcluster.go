// Package testcluster runs whole nodes (appliance.App) in the process of a test: their own directories, ports that
// the system gave, real TLS and real disks. It owns how a test waits for a cluster, logs in, sends as an agent
// does, and stops, starts and empties single nodes.
//
// Tests import it and nothing else does.
package testcluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/internal/freeaddr"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
)

// Patience is how long anything that a test waits for may take on a busy machine.
const Patience = 3 * time.Minute

const user = "admin"

// Password of the first administrator.
const Password = "correct horse battery staple"

// Cluster is some nodes and a client that trusts them.
type Cluster struct {
	Nodes []*Node
	HTTP  *http.Client
	TLS   *tls.Config
	Token string // an administrator's API token
	// Recovery is the key that opens what the cluster wrapped for the day when no node is left.
	Recovery string

	running *running // a pointer since tests copy clusters
}

// Node is one node; App is nil while it is stopped.
type Node struct {
	Config appliance.Config
	App    *appliance.App
	// CompactEvery is Options.CompactEvery from the next start on.
	CompactEvery time.Duration

	cluster *Cluster
	log     *slog.Logger
	stopped bool
}

// Start founds a cluster of n nodes and waits until all of them serve. Everything ends with the test.
func Start(t testing.TB, n int) *Cluster {
	t.Helper()
	return StartWith(t, n, func(*appliance.Config) {})
}

// StartWith is Start with configurations that change has changed.
func StartWith(t testing.TB, n int, change func(*appliance.Config)) *Cluster {
	t.Helper()
	dir := t.TempDir()
	const id = "testcluster"
	ca, err := pki.NewCA(id, time.Now())
	must(t, err)
	ring, recovery, err := keyring.New()
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.CertPEM())
	conf := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	c := &Cluster{Recovery: recovery, TLS: conf, running: new(running)}
	c.HTTP = c.client(t, conf)
	setup := appliance.Setup{ClusterID: id, User: user, Password: Password}
	for i := range n {
		cfg := nodeConfig(t, dir, fmt.Sprintf("n%d", i+1))
		change(&cfg)
		must(t, ring.Save(cfg.TLS.Dir))
		must(t, cfg.IssueIdentity(ca))
		setup.Members = append(setup.Members, raftstate.Server{ID: cfg.NodeID, Addr: cfg.Listen.Peer.Advertise})
		c.Nodes = append(c.Nodes, &Node{Config: cfg, cluster: c, log: logTo(t, dir)})
	}
	must(t, setup.Write(c.Nodes[0].Config.DataDir))
	for _, node := range c.Nodes[1:] {
		founding := appliance.Setup{ClusterID: id, Founding: true}
		must(t, founding.Write(node.Config.DataDir))
	}
	t.Cleanup(func() {
		for _, node := range c.Nodes {
			node.Stop(t)
		}
	})
	for _, node := range c.Nodes {
		node.Start(t)
	}
	for _, node := range c.Nodes {
		node.WaitReady(t)
	}
	c.login(t)
	return c
}

// client asks the nodes of the cluster, with patience while they have no leader.
func (c *Cluster) client(t testing.TB, conf *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: Patience, Transport: &patient{transport, c.running}}
}

// nodeConfig is the configuration of a node whose directories lie below dir.
func nodeConfig(t testing.TB, dir, id string) appliance.Config {
	t.Helper()
	cfg := appliance.DefaultConfig()
	cfg.NodeID = id
	cfg.DataDir = filepath.Join(dir, id, "data")
	cfg.TLS.Dir = filepath.Join(dir, id, "tls")
	cfg.Backup.Dir = filepath.Join(dir, id, "backups")
	cfg.Queue.MarkInterval = appliance.Duration(time.Second)
	cfg.SelfMonitoring = false // what tests count is what they send
	cfg.Alerting = appliance.AlertingConfig{Interval: appliance.Duration(time.Second), AllowLoopbackReceivers: true}
	at, err := freeaddr.Addresses(3)
	must(t, err)
	cfg.Listen.Peer.Address, cfg.Listen.Agents.Address, cfg.Listen.HTTP.Address = at[0], at[1], at[2]
	cfg.Listen.Peer.Advertise = cfg.Listen.Peer.Address
	cfg.Listen.Agents.Advertise = "https://" + cfg.Listen.Agents.Address
	cfg.Listen.HTTP.URL = "https://" + cfg.Listen.HTTP.Address
	return cfg
}

// logTo keeps what the nodes log and prints the end of it when the test fails.
func logTo(t testing.TB, dir string) *slog.Logger {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	must(t, err)
	t.Cleanup(func() {
		defer f.Close()
		if !t.Failed() {
			return
		}
		if body, err := os.ReadFile(f.Name()); err == nil {
			t.Logf("the nodes logged at last:\n%s", body[max(0, len(body)-8000):])
		}
	})
	return slog.New(slog.NewTextHandler(f, nil))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Start runs the node on what its directory holds.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	app, err := appliance.New(n.Config, appliance.Options{
		Log: n.log, Version: "test", PasswordCost: auth.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1},
		CompactEvery: n.CompactEvery,
	})
	must(t, err)
	n.App = app
	n.cluster.running.up.Add(1)
	if n.stopped {
		n.cluster.running.down.Add(-1)
	}
	must(t, app.Start())
}

// Stop ends the node in good order. Stopping twice is no error.
func (n *Node) Stop(t testing.TB) {
	t.Helper()
	if n.App == nil {
		return
	}
	app := n.App
	n.App, n.stopped = nil, true
	n.cluster.running.up.Add(-1)
	n.cluster.running.down.Add(1)
	if err := app.Stop(context.Background()); err != nil {
		t.Errorf("stop %s: %v", n.Config.NodeID, err)
	}
}

// Wipe empties the data directory of a stopped node. Its certificate stays.
func (n *Node) Wipe(t testing.TB) {
	t.Helper()
	must(t, os.RemoveAll(n.Config.DataDir))
}

// URL is the node's address for browsers and APIs.
func (n *Node) URL() string { return n.Config.Listen.HTTP.URL }

// WaitReady waits until the node serves as a member.
func (n *Node) WaitReady(t testing.TB) {
	t.Helper()
	Until(t, n.Config.NodeID+" is ready", func() error { return n.cluster.Get(n, "/-/ready", nil) })
}

// withinADay waits for midnight (UTC) where it is so near that a test which counts back from today might see two days.
func withinADay(t testing.TB) {
	t.Helper()
	const most = 3 * time.Minute // such a test takes tens of seconds
	now := time.Now()
	if left := now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now); left < most {
		t.Logf("it begins at midnight, in %s", left)
		<-time.After(left)
	}
}

// Until tries until it succeeds, and fails the test when that takes longer than Patience.
func Until(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not in %s: %v", what, Patience, err)
		case <-tick.C:
		}
	}
}

// login makes the administrator's token through the API, as a person would.
func (c *Cluster) login(t testing.TB) {
	t.Helper()
	var answer struct {
		Token string `json:"token"`
	}
	Until(t, "log in", func() error {
		resp, err := c.do(http.MethodPost, c.Nodes[0].URL()+"/v1/login", map[string]string{"user": user, "password": Password}, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return c.send(http.MethodPost, c.Nodes[0].URL()+"/v1/tokens/api", map[string]string{"name": "test", "role": "administrator"}, resp.Cookies(), &answer)
	})
	c.Token = answer.Token
}

// Get asks a node and decodes its JSON into v, which may be nil. An answer that is no success is an error.
func (c *Cluster) Get(n *Node, path string, v any) error {
	return c.send(http.MethodGet, n.URL()+path, nil, nil, v)
}

// Post sends body as JSON to a node and decodes its answer into v, which may be nil.
func (c *Cluster) Post(n *Node, path string, body, v any) error {
	return c.send(http.MethodPost, n.URL()+path, body, nil, v)
}

// Call sends body as JSON, unless it is nil, and decodes the answer into v, which may be nil. With cookies it asks in their
// session, without as the administrator.
func (c *Cluster) Call(method string, n *Node, path string, body, v any, cookies ...*http.Cookie) error {
	return c.send(method, n.URL()+path, body, cookies, v)
}

// Login opens a session and returns its cookie.
func (c *Cluster) Login(n *Node, user, password string) (*http.Cookie, error) {
	resp, err := c.do(http.MethodPost, n.URL()+"/v1/login", map[string]string{"user": user, "password": password}, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for _, k := range resp.Cookies() {
		return k, nil
	}
	return nil, fmt.Errorf("log in %s: no cookie", user)
}

func (c *Cluster) send(method, url string, body any, cookies []*http.Cookie, v any) error {
	resp, err := c.do(method, url, body, cookies)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(answer, v)
}

func (c *Cluster) do(method, url string, body any, cookies []*http.Cookie) (*http.Response, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	if body == nil {
		req.Body = http.NoBody
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" && len(cookies) == 0 { // a token would count instead of them
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	for _, k := range cookies {
		req.AddCookie(k)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, said)
	}
	return resp, nil
}

// Leader returns the node that leads, once there is one.
func (c *Cluster) Leader(t testing.TB) *Node {
	t.Helper()
	var leader *Node
	Until(t, "a leader", func() error {
		for _, n := range c.Nodes {
			if n.App == nil {
				continue
			}
			if _, self := n.App.Node().Leader(); self {
				leader = n
				return nil
			}
		}
		return fmt.Errorf("no node leads")
	})
	return leader
}

// WaitEqual waits until all running nodes are at one index with one digest.
func (c *Cluster) WaitEqual(t testing.TB) {
	t.Helper()
	Until(t, "equal digests", func() error {
		var first *digest
		for _, n := range c.Nodes {
			if n.App == nil {
				continue
			}
			var d digest
			if err := c.Get(n, "/v1/digest", &d); err != nil {
				return err
			}
			if first == nil {
				first = &d
				continue
			}
			if d.Index != first.Index || !bytes.Equal(d.Sums, first.Sums) {
				return fmt.Errorf("%s at %d: %s, %s at %d: %s", first.Node, first.Index, first.Sums, d.Node, d.Index, d.Sums)
			}
		}
		return nil
	})
}

type digest struct {
	Node  string          `json:"node"`
	Index uint64          `json:"index"`
	Sums  json.RawMessage `json:"sums"`
}
