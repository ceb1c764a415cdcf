package appliance_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent"
	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/agent/sender"
	"github.com/triward/triward/appliance/internal/testcluster"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate/command"
)

// agedCertificate gives the agent a certificate that was signed so long ago, as if it had enrolled then.
func agedCertificate(t *testing.T, n *testcluster.Node, id string, age time.Duration) (certPEM, keyPEM []byte) {
	t.Helper()
	state := n.App.Node().State()
	v, ok := state.Get("pki", "agents")
	var cas struct {
		CAs []struct {
			Cert string `json:"cert_pem"`
			Key  string `json:"key_sealed"`
		} `json:"cas"`
	}
	if !ok || json.Unmarshal(v.Data, &cas) != nil || len(cas.CAs) == 0 {
		t.Fatalf("the CAs of agents: %v %s", ok, v.Data)
	}
	caKey, err := n.App.Keys().Open("pki/agents", cas.CAs[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.ParseCA([]byte(cas.CAs[0].Cert), caKey)
	if err != nil {
		t.Fatal(err)
	}
	csr, keyPEM, err := pki.NewRequest("agent")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, leaf, err := ca.SignAgent(csr, id, time.UnixMilli(state.LogTime()).Add(-age))
	if err != nil {
		t.Fatal(err)
	}
	testcluster.Until(t, "the record has the certificate", func() error {
		rec, ok := state.Get("agents", id)
		if !ok {
			return os.ErrNotExist
		}
		var fields map[string]any
		if err := json.Unmarshal(rec.Data, &fields); err != nil {
			return err
		}
		fields["cert_serial"], fields["cert_expires"] = pki.Serial(leaf), leaf.NotAfter.UnixMilli()
		b, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		_, _, err = n.App.Node().Propose(t.Context(), command.NewMetaTxn(command.Txn{
			Compares: []command.Compare{{Bucket: "agents", Key: id, ModIndex: rec.ModIndex}},
			Ops:      []command.Op{{Bucket: "agents", Key: id, Value: b}},
		}))
		return err
	})
	return certPEM, keyPEM
}

// An agent whose certificate is near its end renews it by itself, with a new key, while its data flows; what it was
// renewed from is good until the next renewal and for nobody after it.
func TestAgentRenewsWhileDataFlows(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	stranger := c.Stranger("renewing")
	if err := stranger.Enroll(t, c.Nodes[0], agentToken(t, c)); err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := agedCertificate(t, c.Nodes[0], stranger.ID, 29*24*time.Hour)
	aged, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	cfg := config.Default()
	cfg.DataDir, cfg.Status.Listen, cfg.Journal.Enabled = filepath.Join(dir, "data"), "0", "false"
	cfg.Metrics.Period = time.Second
	cfg.Logs.Files = []config.FileGroup{{Include: []string{filepath.Join(dir, "a.log")}}}
	ca, err := os.ReadFile(filepath.Join(c.Nodes[0].Config.TLS.Dir, pki.FileCA))
	if err != nil {
		t.Fatal(err)
	}
	id := sender.Identity{AgentID: stranger.ID, Cert: string(certPEM), Key: string(keyPEM), CA: string(ca)}
	for _, n := range c.Nodes {
		id.Nodes = append(id.Nodes, n.Config.Listen.Agents.Advertise)
	}
	if err := id.Save(cfg.IdentityPath()); err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Options{Config: cfg, Identity: id, Version: "test", Log: slog.New(slog.DiscardHandler), Gatherer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	file, err := os.Create(filepath.Join(dir, "a.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := 0
	write := func() {
		t.Helper()
		lines++
		if _, err := fmt.Fprintf(file, "renewal %d\n", lines); err != nil {
			t.Fatal(err)
		}
	}
	var kept sender.Identity
	testcluster.Until(t, "the agent renews", func() error {
		write()
		if kept, err = sender.LoadIdentity(cfg.IdentityPath()); err != nil {
			return err
		}
		if kept.Cert == id.Cert || kept.Key == id.Key {
			return fmt.Errorf("it has the certificate that it began with")
		}
		return nil
	})
	renewed, err := tls.X509KeyPair([]byte(kept.Cert), []byte(kept.Key))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		write()
	}
	testcluster.Until(t, "every line came once", func() error {
		var page struct {
			Rows []struct{ Text string }
		}
		q := url.Values{"query": {"renewal host:renewing"}, "limit": {"5000"}, "consistency": {"linearizable"}}
		if err := c.Get(c.Nodes[1], "/v1/logs/query?"+q.Encode(), &page); err != nil {
			return err
		}
		seen := map[string]int{}
		for _, r := range page.Rows {
			seen[r.Text]++
		}
		if len(page.Rows) != lines || len(seen) != lines {
			return fmt.Errorf("%d lines, %d different ones, of %d", len(page.Rows), len(seen), lines)
		}
		return nil
	})

	old := c.Stranger("renewing")
	old.ID = stranger.ID
	old.Use(t, aged)
	for _, n := range c.Nodes {
		testcluster.Until(t, "the certificate that was renewed is good until the next renewal", func() error { return old.Beat(n) })
	}
	newest := c.Stranger("renewing")
	newest.ID = stranger.ID
	newest.Use(t, renewed)
	if err := newest.Renew(t, c.Nodes[2]); err != nil { // as the agent will in twenty days
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		testcluster.Until(t, "a certificate that was replaced twice is refused", func() error {
			if err := old.Beat(n); err == nil || !strings.Contains(err.Error(), "replaced by a newer one") {
				return fmt.Errorf("it is answered %w", err)
			}
			return nil
		})
		if err := old.Renew(t, n); err == nil {
			t.Error("it may be renewed")
		}
		testcluster.Until(t, "the newest is good", func() error { return newest.Beat(n) })
	}
}
