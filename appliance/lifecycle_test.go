package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/internal/testcluster"
)

// found asks a node how many samples and lines of the test it finds.
func found(c *testcluster.Cluster, n *testcluster.Node) (samples, lines int, err error) {
	var prom struct {
		Data struct {
			Result []struct {
				Value [2]any `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	q := url.Values{"query": {`sum(count_over_time(test_value[1h]))`}}
	if err := c.Get(n, "/api/v1/query?"+q.Encode(), &prom); err != nil {
		return 0, 0, err
	}
	if len(prom.Data.Result) == 1 {
		text, _ := prom.Data.Result[0].Value[1].(string)
		if samples, err = strconv.Atoi(text); err != nil {
			return 0, 0, err
		}
	}
	var logs struct {
		Rows []struct {
			Text   string            `json:"text"`
			Labels map[string]string `json:"labels"`
		} `json:"rows"`
	}
	if err := c.Get(n, "/v1/logs/query?limit=5000&query="+url.QueryEscape("walrus"), &logs); err != nil {
		return 0, 0, err
	}
	for _, r := range logs.Rows {
		if !strings.Contains(r.Text, "walrus") || r.Labels["host"] != "host-a" {
			return 0, 0, fmt.Errorf("row %+v is none of the test's", r)
		}
	}
	return samples, len(logs.Rows), nil
}

func wantFound(t *testing.T, c *testcluster.Cluster, n *testcluster.Node, samples, lines int) {
	t.Helper()
	testcluster.Until(t, n.Config.NodeID+" finds everything", func() error {
		s, l, err := found(c, n)
		if err == nil && (s != samples || l != lines) {
			err = fmt.Errorf("%d samples and %d lines, want %d and %d", s, l, samples, lines)
		}
		return err
	})
}

// A sample and a line that one node acknowledged are found on all three, once, whatever happens to the nodes.
func TestSampleAndLineReachAllNodes(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	a := c.NewAgent(t, "host-a", map[string]string{"__name__": "test_value", "x": "1"}, map[string]string{"__name__": "test_value", "x": "2"})
	base := time.Now().Add(-10 * time.Minute).UnixMilli()
	samples, lines := 0, 0
	send := func(n *testcluster.Node) []wire.Batch {
		t.Helper()
		samples += 2
		lines++
		batches := []wire.Batch{
			a.Metrics(wire.Scrape{T: base + int64(samples)*1000, IDs: a.Series, Values: []float64{1, 2.5}}),
			a.Lines((base+int64(lines)*1000)*1e6, fmt.Sprintf("the walrus said %d", lines)),
		}
		var results []testcluster.BatchResult
		testcluster.Until(t, "acknowledged by "+n.Config.NodeID, func() (err error) {
			results, err = a.Send(n, batches...)
			return err
		})
		for i, r := range results {
			if r.Status != "ok" && r.Status != "duplicate" { // duplicate: the first answer was lost
				t.Fatalf("batch %d: %+v", i, r)
			}
		}
		return batches
	}
	for _, n := range c.Nodes { // any node takes any request
		send(n)
	}
	for _, n := range c.Nodes {
		wantFound(t, c, n, samples, lines)
	}

	repeated := send(c.Nodes[1])
	results, err := a.Send(c.Nodes[2], repeated...)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Status != "duplicate" {
			t.Errorf("a repeat at another node is %+v, want duplicate", r)
		}
	}

	leader := c.Leader(t)
	leader.Stop(t)
	others := make([]*testcluster.Node, 0, 2)
	for _, n := range c.Nodes {
		if n != leader {
			others = append(others, n)
		}
	}
	send(others[0])
	leader.Start(t)
	leader.WaitReady(t)
	wantFound(t, c, leader, samples, lines)

	others[1].Stop(t)
	others[1].Wipe(t)
	send(leader)
	others[1].Start(t)
	others[1].WaitReady(t)
	for _, n := range c.Nodes {
		wantFound(t, c, n, samples, lines)
	}
	c.WaitEqual(t)
}

// What was acknowledged is there after all nodes were stopped, and an App can be made again in one process.
func TestStopAndStartAgain(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	a := c.NewAgent(t, "host-a", map[string]string{"__name__": "test_value"})
	now := time.Now().Add(-time.Minute).UnixMilli()
	if _, err := a.Send(n, a.Metrics(wire.Scrape{T: now, IDs: a.Series, Values: []float64{7}}), a.Lines(now*1e6, "walrus")); err != nil {
		t.Fatal(err)
	}
	if _, err := appliance.New(n.Config, appliance.Options{}); err == nil {
		t.Error("two Apps opened one data directory")
	}
	n.Stop(t)
	n.Start(t)
	n.WaitReady(t)
	wantFound(t, c, n, 1, 1)
	if err := n.App.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if err := n.App.Stop(context.Background()); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
}

// A New that fails leaves nothing behind: the same configuration works once its fault is mended.
func TestNewRollsBack(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	n.Stop(t)
	bad := n.Config
	bad.NodeID = "other"
	if app, err := appliance.New(bad, appliance.Options{}); err == nil {
		_ = app.Stop(context.Background())
		t.Fatal("a node opened with the certificate of another")
	}
	busy := n.Config
	busy.Listen.HTTP.Address = busy.Listen.Agents.Address
	_, err := appliance.New(busy, appliance.Options{})
	if ce, ok := errors.AsType[*appliance.ConfigError](err); !ok || !strings.Contains(ce.Error(), "is the same as listen.agents.address") {
		t.Errorf("two listeners on one port: %v", err)
	}
	n.Start(t)
	n.WaitReady(t)
}

// A certificate that cannot be used keeps no node down that has the CA's key; without it the node says what is wrong.
func TestUnusableCertificateIsIssuedAnew(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	n.Stop(t)
	cert, key := filepath.Join(n.Config.TLS.Dir, "node.pem"), filepath.Join(n.Config.TLS.Dir, "ca-key.pem")
	body, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cert, body[:len(body)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start(t)
	n.WaitReady(t)
	n.Stop(t)
	for path, text := range map[string]string{cert: "garbage", key: "garbage"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if app, err := appliance.New(n.Config, appliance.Options{}); err == nil || !strings.Contains(err.Error(), "node.pem") {
		t.Errorf("%v", err)
		if app != nil {
			_ = app.Stop(context.Background())
		}
	}
}

// Whoever is not known learns nothing, and bad input is named.
func TestStrangersAndGarbage(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	stranger := *c
	stranger.Token = ""
	for _, path := range []string{"/v1/hosts", "/v1/cluster", "/api/v1/query?query=up", "/v1/logs/query", "/metrics", "/v1/digest"} {
		if err := stranger.Get(n, path, nil); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("%s for a stranger: %v", path, err)
		}
		if err := c.Get(n, path, nil); path != "/metrics" && err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := c.Get(n, "/v1/logs/query?query="+url.QueryEscape(`a AND (`), nil); err == nil || !strings.Contains(err.Error(), `"pos"`) {
		t.Errorf("a broken query is not told its place: %v", err)
	}
	for _, id := range []string{n.Config.NodeID, "n9"} { // whether there is such a node is told to those who have a token
		err := stranger.Post(n, "/v1/cluster/join", map[string]any{"token": "twn_x", "id": id, "csr_pem": "x", "peer_addr": "127.0.0.1:1", "ring_to": "x"}, nil)
		if err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("joining as %s without a token: %v", id, err)
		}
	}
	resp, err := c.HTTP.Post(n.Config.Listen.Agents.Advertise+"/v1/agent/batches", wire.ContentType, strings.NewReader("garbage"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("batches of a stranger: %s", resp.Status)
	}
	if _, err := a(c, t).Send(n, wire.Batch{Identity: wire.Identity{Lane: 99}}); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("a batch of an unknown lane: %v", err)
	}
}

func a(c *testcluster.Cluster, t *testing.T) *testcluster.Agent { return c.NewAgent(t, "host-b") }
