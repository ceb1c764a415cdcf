package testcluster_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/appliance/internal/testcluster"
)

type members struct {
	Leader string `json:"leader"`
	Nodes  []struct {
		ID       string `json:"id"`
		Voter    bool   `json:"voter"`
		ReadOnly bool   `json:"read_only"`
	} `json:"nodes"`
	Removed []struct {
		ID string `json:"id"`
		By string `json:"by"`
	} `json:"removed"`
}

// part says what a node is by the word of another: voter, read-only, joining or "" for no member.
func part(c *testcluster.Cluster, at *testcluster.Node, id string) (string, error) {
	var m members
	if err := c.Get(at, "/v1/cluster", &m); err != nil {
		return "", err
	}
	for _, n := range m.Nodes {
		switch {
		case n.ID != id:
		case n.Voter:
			return "voter", nil
		case n.ReadOnly:
			return "read-only", nil
		default:
			return "joining", nil
		}
	}
	return "", nil
}

func waitPart(t *testing.T, c *testcluster.Cluster, at *testcluster.Node, id, want string) {
	t.Helper()
	testcluster.Until(t, id+" is "+want, func() error {
		got, err := part(c, at, id)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %q, want %q", id, got, want)
		}
		return err
	})
}

// A node joins to read, gets a vote and loses it, is removed, is told so, and cannot come back as what it was; its machine
// can. Each step is in the audit log.
func TestMembershipIsChangedAndAudited(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	first := c.Nodes[0]
	cfg := testcluster.NewConfig(t, "n4")
	n4, err := c.JoinAs(t, cfg, map[string]any{"read_only": true})
	if err != nil {
		t.Fatal(err)
	}
	c.WaitEqual(t)
	waitPart(t, c, first, "n4", "read-only")
	if err := c.Get(n4, "/v1/hosts?consistency=linearizable", nil); err != nil {
		t.Errorf("a read at the read-only node: %v", err)
	}
	do := func(path string, body any) error { return c.Post(first, path, body, nil) }
	if err := do("/v1/cluster/transfer-leader", map[string]string{"to": "n4"}); err == nil || !strings.Contains(err.Error(), "has no vote") {
		t.Errorf("leadership to a node without a vote: %v", err)
	}
	if _, err := c.JoinAs(t, cfg, nil); err == nil || !strings.Contains(err.Error(), "n4 is a member and answers") {
		t.Errorf("a living node was displaced: %v", err)
	}
	for _, step := range []struct{ verb, want string }{{"promote", "voter"}, {"demote", "read-only"}} {
		if err := do("/v1/cluster/nodes/n4/"+step.verb, struct{}{}); err != nil {
			t.Fatal(err)
		}
		waitPart(t, c, first, "n4", step.want)
	}
	lead := c.Leader(t).Config.NodeID
	if err := do("/v1/cluster/transfer-leader", struct{}{}); err != nil {
		t.Fatal(err)
	}
	testcluster.Until(t, "another leader", func() error {
		var m members
		if err := c.Get(first, "/v1/cluster", &m); err != nil {
			return err
		}
		if m.Leader == lead || m.Leader == "" {
			return fmt.Errorf("%q leads", m.Leader)
		}
		return nil
	})

	n4.Stop(t)
	old := copyNode(t, &cfg)
	n4.Start(t)
	n4.WaitReady(t)
	if err := do("/v1/cluster/nodes/n4/remove", struct{}{}); err != nil {
		t.Fatal(err)
	}
	told := func(cfg *appliance.Config) {
		t.Helper()
		testcluster.Until(t, "the removed node is told", func() error {
			if err := cfg.Removed(); !errors.Is(err, appliance.ErrRemoved) || !strings.Contains(err.Error(), "n4") {
				return fmt.Errorf("it knows: %v", err)
			}
			return nil
		})
	}
	told(&cfg)
	n4.Stop(t)
	c.Forget(n4)
	if _, err := appliance.New(cfg, appliance.Options{}); !errors.Is(err, appliance.ErrRemoved) {
		t.Errorf("it starts again: %v", err)
	}
	var m members
	if err := c.Get(first, "/v1/cluster", &m); err != nil || len(m.Nodes) != 3 || len(m.Removed) != 1 || m.Removed[0].ID != "n4" {
		t.Errorf("%+v %v", m, err)
	}

	// Its machine joins again, with a vote this time. What was set aside of the node that it was is told as well.
	if err := cfg.DiscardRemoved(); err != nil {
		t.Fatal(err)
	}
	if n4, err = c.JoinAs(t, cfg, nil); err != nil {
		t.Fatal(err)
	}
	waitPart(t, c, first, "n4", "voter")
	n4.Stop(t)
	if err := os.RemoveAll(filepath.Dir(cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(old, filepath.Dir(cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	n4.Start(t)
	told(&cfg)
	n4.Stop(t)
	if err := cfg.Removed(); err == nil || !strings.Contains(err.Error(), "another machine has joined as node n4 since") {
		t.Errorf("it was told: %v", err)
	}
	c.Forget(n4)
	c.WaitEqual(t)

	var page auditlog.ChainPage
	if err := c.Get(first, "/v1/audit?limit=1000", &page); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range page.Records {
		got = append(got, r.Action)
	}
	for _, want := range []string{"node.join", "node.promote", "node.demote", "cluster.transfer", "node.remove", "node.removed", "node.vote"} {
		if !slices.Contains(got, want) {
			t.Errorf("no record %s in %v", want, got)
		}
	}
}

// copyNode keeps what a stopped node has of its identity and data, as an old disk would.
func copyNode(t *testing.T, cfg *appliance.Config) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "old")
	for _, dir := range []string{cfg.TLS.Dir, cfg.DataDir} {
		rel, err := filepath.Rel(filepath.Dir(cfg.DataDir), dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(to, rel), os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
	return to
}
