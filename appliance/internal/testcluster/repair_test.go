package testcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/appliance/repair"
)

// spoil changes bytes all over the files that match, which there must be.
func spoil(t *testing.T, dir, pattern string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	must(t, err)
	if len(files) == 0 {
		t.Fatalf("no file is like %s", filepath.Join(dir, pattern))
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		must(t, err)
		for i := min(8192, len(b)/3); i < len(b); i += 97 {
			b[i] ^= 0x10
		}
		must(t, os.WriteFile(name, b, 0o600))
	}
}

// repairOf is what the node says of its damage.
func (c *Cluster) repairOf(asked, of *Node) (*repair.Status, error) {
	var st struct {
		Nodes []struct {
			ID     string         `json:"id"`
			Repair *repair.Status `json:"repair"`
		} `json:"nodes"`
	}
	if err := c.Get(asked, "/v1/cluster", &st); err != nil {
		return nil, err
	}
	for _, n := range st.Nodes {
		if n.ID == of.Config.NodeID && n.Repair != nil {
			return n.Repair, nil
		}
	}
	return nil, fmt.Errorf("%s says nothing of repairs: %+v", of.Config.NodeID, st)
}

// lineCount is how many lines with the word the node finds.
func (c *Cluster) lineCount(n *Node, word string) (int, bool, error) {
	var page struct {
		Rows  []struct{} `json:"rows"`
		Stats struct {
			Partial bool   `json:"partial"`
			Node    string `json:"node"` // that answered in its place
		} `json:"stats"`
	}
	err := c.Get(n, "/v1/logs/query?limit=5000&query="+word, &page)
	return len(page.Rows), page.Stats.Partial || page.Stats.Node != "", err
}

// TestDamagedNodesMendThemselves: a node whose files are damaged while it is down comes up whole, with everything that
// was acknowledged, keeps its vote where it may, and events tell of it.
func TestDamagedNodesMendThemselves(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 3, watchesItself)
	a := c.NewAgent(t, "web", map[string]string{"__name__": "temperature"})
	sent := 0
	send := func(n *Node, k int) {
		t.Helper()
		for range k {
			sent++
			now := time.Now()
			batches := []wire.Batch{ // the same ones each time: what had no answer may be there
				a.Lines(now.UnixNano(), fmt.Sprintf("the walrus said %d", sent)),
				a.Metrics(wire.Scrape{T: now.UnixMilli(), IDs: a.Series, Values: []float64{float64(sent)}}),
			}
			Until(t, "acknowledged", func() error {
				_, err := a.Send(n, batches...)
				return err
			})
		}
	}
	send(c.Nodes[0], 20)
	c.WaitEqual(t)
	for _, k := range []struct{ name, part, pattern string }{
		{"metadata", "state", "meta/gen-*/meta.db"},
		{"manifest of lines", "logs", "logs/gen-*/pebble/MANIFEST-*"},
		{"log of samples", "metrics", "tsdb/gen-*/wal/0*"},
		{"where samples are durable", "metrics", "tsdb/gen-*/flushed.json"},
		{"small storage of the log", "log", "raft/wal-meta.db"},
		{"segments of the log", "log", "raft/*.wal"},
		{"names of the members", "notes", "MEMBERS"},
		{"verdicts on old entries", "notes", "queue/verdicts.db"},
		{"journal of damage", "notes", "damage.json"},
	} {
		t.Run(k.name, func(t *testing.T) {
			n := c.Nodes[2]
			n.Stop(t)
			send(c.Nodes[0], 3)
			spoil(t, n.Config.DataDir, k.pattern)
			n.Start(t)
			n.WaitReady(t)
			send(c.Nodes[1], 3)
			c.WaitEqual(t)
			Until(t, "all lines", func() error {
				got, partial, err := c.lineCount(n, "walrus")
				if err != nil || got != sent || partial {
					return fmt.Errorf("%d lines of %d, partial %v, %w", got, sent, partial, err)
				}
				return nil
			})
			Until(t, "the repair in the status", func() error {
				st, err := c.repairOf(c.Nodes[0], n)
				if err != nil {
					return err
				}
				if st.State != repair.StateWhole || len(st.History) == 0 || st.History[0].Part != k.part || st.History[0].How == "" {
					return fmt.Errorf("%+v", st)
				}
				return nil
			})
			for _, kind := range []string{"damage_found", "damage_repaired"} {
				Until(t, kind, func() error {
					if !slices.ContainsFunc(c.events(t, c.Nodes[0], ""), func(e event) bool {
						return e.Kind == kind && e.Host == n.Config.NodeID && strings.HasPrefix(e.Key, k.part+":")
					}) {
						return fmt.Errorf("no event: %+v", c.events(t, c.Nodes[0], ""))
					}
					return nil
				})
			}
		})
	}
	// An order is noted with who gave it.
	order := map[string]string{"node": c.Nodes[2].Config.NodeID, "from": c.Nodes[1].Config.NodeID}
	must(t, c.Post(c.Nodes[0], "/v1/cluster/repair", order, nil))
	var page auditlog.ChainPage
	must(t, c.Get(c.Nodes[0], "/v1/audit?limit=20", &page))
	if !slices.ContainsFunc(page.Records, func(r auditlog.ChainRecord) bool {
		return r.Action == "cluster.repair" && r.Target == order["node"] && r.Actor != "" && strings.Contains(string(r.Detail), order["from"])
	}) {
		t.Errorf("the order has no record: %+v", page.Records)
	}
}
