package appliance_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/triward/triward/appliance/internal/testcluster"
	"github.com/triward/triward/raftstate/meta"
)

func agentToken(t *testing.T, c *testcluster.Cluster) string {
	t.Helper()
	var token struct {
		Token string `json:"token"`
	}
	if err := c.Post(c.Nodes[0], "/v1/tokens/join", map[string]any{"kind": "agent", "group": "web"}, &token); err != nil {
		t.Fatal(err)
	}
	return token.Token
}

// A token shown a hundred times at once to three nodes gives one certificate.
func TestHundredRedemptionsGiveOneCertificate(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	token := agentToken(t, c)
	var good, used atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		a := c.Stranger("host")
		wg.Go(func() {
			switch err := a.Enroll(t, c.Nodes[i%3], token); {
			case err == nil:
				good.Add(1)
			case strings.Contains(err.Error(), "used already"):
				used.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if good.Load() != 1 || used.Load() != 99 {
		t.Errorf("%d certificates, %d told that it was used", good.Load(), used.Load())
	}
	var list struct {
		Agents []struct {
			Group   string `json:"group"`
			Expires int64  `json:"cert_expires"`
		} `json:"agents"`
	}
	if err := c.Get(c.Nodes[0], "/v1/agents?consistency=linearizable", &list); err != nil || len(list.Agents) != 1 ||
		list.Agents[0].Group != "web" || list.Agents[0].Expires < time.Now().Add(29*24*time.Hour).UnixMilli() {
		t.Errorf("%+v %v", list, err)
	}
	c.WaitEqual(t)
	for _, n := range c.Nodes {
		keys, records := 0, 0
		n.App.Node().State().Scan("agents", "", func(string, meta.Value) bool { keys++; return true })
		n.App.Node().State().Scan("audit", "", func(_ string, v meta.Value) bool {
			if strings.Contains(string(v.Data), `"action":"agent.enroll"`) {
				records++
			}
			return true
		})
		if keys != 1 || records != 1 {
			t.Errorf("%s: %d records of agents, %d enrollments in the audit log", n.Config.NodeID, keys, records)
		}
	}
}

// A revoked agent's open connections end on every node and no new one is taken; another agent's
// goes on. The agents' CA outlives an install, and an agent's certificate is nobody between nodes.
func TestRevocationEndsSessionsEverywhere(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	bad, good := c.NewAgent(t, "bad"), c.NewAgent(t, "good")
	for _, n := range c.Nodes {
		for _, a := range []*testcluster.Agent{bad, good} {
			testcluster.Until(t, "a heartbeat at "+n.Config.NodeID, func() error { return a.Beat(n) })
		}
	}
	if err := bad.Renew(t, c.Nodes[1]); err != nil {
		t.Fatal(err)
	}
	// connect opens a connection to every node, on which nothing is asked: in a while that ends in any case.
	connect := func(a *testcluster.Agent) []*tls.Conn {
		conns := make([]*tls.Conn, len(c.Nodes))
		for i, n := range c.Nodes {
			conf := c.TLS.Clone()
			conf.Certificates = []tls.Certificate{a.Cert}
			conn, err := tls.Dial("tcp", n.Config.Listen.Agents.Address, conf)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetReadDeadline(time.Now().Add(testcluster.Patience))
			conns[i] = conn
		}
		return conns
	}
	ended := make([]atomic.Bool, len(c.Nodes)) // of the other agent, which were opened first
	for i, conn := range connect(good) {
		go func() {
			_, _ = io.Copy(io.Discard, conn)
			ended[i].Store(true)
		}()
	}
	testcluster.Until(t, "a heartbeat between", func() error { return good.Beat(c.Nodes[0]) })
	conns := connect(bad)
	if err := c.Post(c.Nodes[2], "/v1/agents/"+bad.ID+"/revoke", map[string]any{}, nil); err != nil {
		t.Fatal(err)
	}
	for i, conn := range conns {
		if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) || ended[i].Load() {
			t.Errorf("%s: the connection of a revoked agent ended no sooner than another's: %v", c.Nodes[i].Config.NodeID, err)
		}
	}
	for _, n := range c.Nodes {
		testcluster.Until(t, "refused", func() error {
			if err := bad.Beat(n); err == nil {
				return os.ErrExist
			}
			return nil
		})
		if err := good.Beat(n); err != nil {
			t.Errorf("another agent at %s: %v", n.Config.NodeID, err)
		}
	}

	conf := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{good.Cert}, MinVersion: tls.VersionTLS13}
	peer := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}, Timeout: testcluster.Patience}
	defer peer.CloseIdleConnections()
	if resp, err := peer.Get("https://" + c.Nodes[0].Config.Listen.Peer.Address + "/appliance/node"); err == nil {
		resp.Body.Close()
		t.Errorf("an agent's certificate is answered %s on the port of the nodes", resp.Status)
	}

	wiped := c.Nodes[1]
	if c.Leader(t) == wiped {
		wiped = c.Nodes[0]
	}
	wiped.Stop(t)
	wiped.Wipe(t)
	wiped.Start(t)
	wiped.WaitReady(t)
	testcluster.Until(t, "the agent is known after an install", func() error { return good.Beat(wiped) })
	if err := bad.Beat(wiped); err == nil {
		t.Error("a revoked agent is taken by a node that was installed anew")
	}
	if err := good.Renew(t, wiped); err != nil {
		t.Errorf("a node that was installed anew cannot sign: %v", err)
	}
	if leaf, err := x509.ParseCertificate(good.Cert.Certificate[0]); err != nil || leaf.Subject.CommonName != good.ID {
		t.Errorf("renewed for %v: %v", leaf.Subject, err)
	}
}

// After the agents' CA has changed, agents with certificates of the one before go on, get the new one's when they renew,
// and so do new agents; on a node that was installed anew as well.
func TestAgentsOutliveTheirCA(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	a := c.NewAgent(t, "old")
	issuer := func(a *testcluster.Agent) string {
		leaf, err := x509.ParseCertificate(a.Cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return string(leaf.AuthorityKeyId)
	}
	first := issuer(a)
	var list struct {
		CAs []struct {
			Signs bool `json:"signs"`
		} `json:"cas"`
	}
	if err := c.Post(c.Nodes[1], "/v1/tls/agents/rotate", map[string]any{}, &list); err != nil || len(list.CAs) != 2 || !list.CAs[0].Signs {
		t.Fatalf("%+v %v", list, err)
	}
	if err := c.Post(c.Nodes[2], "/v1/tls/agents/rotate", map[string]any{}, nil); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("another one at once: %v", err)
	}
	wiped := c.Nodes[0]
	if c.Leader(t) == wiped {
		wiped = c.Nodes[1]
	}
	wiped.Stop(t)
	wiped.Wipe(t)
	wiped.Start(t)
	wiped.WaitReady(t)
	for _, n := range c.Nodes {
		testcluster.Until(t, "an agent of the CA before is served", func() error { return a.Beat(n) })
	}
	if err := a.Renew(t, wiped); err != nil {
		t.Fatal(err)
	}
	b := c.NewAgent(t, "new")
	if issuer(a) == first || issuer(b) != issuer(a) {
		t.Error("the CA before signs still")
	}
	for _, n := range c.Nodes {
		testcluster.Until(t, "agents of the new CA are served", func() error { return errors.Join(a.Beat(n), b.Beat(n)) })
	}
}
