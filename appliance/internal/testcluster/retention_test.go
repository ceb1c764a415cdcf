package testcluster

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// The policy is one of the cluster: set at any node it holds at all, with an audit record; what it does not keep goes
// from every node, and what went is told.
func TestRetentionPolicyIsThatOfTheCluster(t *testing.T) {
	t.Parallel()
	withinADay(t)
	c := Start(t, 3)
	get := func(n *Node) (v api.RetentionView) {
		t.Helper()
		if err := c.Get(n, "/v1/retention?consistency=linearizable", &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	first := get(c.Nodes[0])
	if first.Version != 0 || first.Policy != first.Defaults || first.Policy.Logs.AgeMs != 30*retention.DayMs || len(first.Nodes) != 3 {
		t.Fatalf("a new cluster has %+v", first)
	}
	Until(t, "every node to say how its disk is", func() error { // each has a second for it
		for _, n := range get(c.Nodes[0]).Nodes {
			if n.State == "unknown" || n.Total <= 0 || n.Room <= 0 || n.Queue <= 0 {
				return fmt.Errorf("disk %+v", n)
			}
		}
		return nil
	})
	today := time.Now().UnixMilli() / retention.DayMs
	a := c.NewAgent(t, "host-a")
	for d := int64(9); d >= 0; d-- {
		at := (today-d)*retention.DayMs + 1000
		if d == 0 {
			at = time.Now().UnixMilli()
		}
		if _, err := a.Send(c.Nodes[d%3], a.Lines(at*1e6, fmt.Sprintf("walrus of day %d", d))); err != nil {
			t.Fatal(err)
		}
	}

	p := first.Policy
	p.Logs.AgeMs = 5 * retention.DayMs
	put := func(n *Node, p retention.Policy, version uint64) error {
		return c.put(n, "/v1/retention", struct {
			retention.Policy
			Version uint64 `json:"version"`
		}{p, version})
	}
	if err := put(c.Nodes[1], p, 0); err != nil {
		t.Fatal(err)
	}
	second := get(c.Nodes[2])
	if second.Policy != p || second.Version == 0 || second.By == "" || second.Defaults != first.Defaults {
		t.Errorf("at another node: %+v", second)
	}
	if err := put(c.Nodes[0], p, 0); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("a change of what is not in effect any more: %v", err)
	}
	p.Warn = 99
	if err := put(c.Nodes[0], p, second.Version); err == nil || !strings.Contains(err.Error(), "400") || !strings.Contains(err.Error(), "warn_pct") {
		t.Errorf("a policy that is none: %v", err)
	}

	floor := (today - 5) * retention.DayMs
	for _, n := range c.Nodes {
		Until(t, "the cut by age", func() error {
			if got := get(n).Kinds[1]; got.Floor != floor || got.Items != 6 || got.Oldest != floor {
				return fmt.Errorf("%s has %+v, want floor %d", n.Config.NodeID, got, floor)
			}
			return nil
		})
		var rows struct{ Rows []struct{ Text string } }
		q := url.Values{"query": {"walrus"}, "start": {"now-20d"}, "end": {"now"}}
		if err := c.Get(n, "/v1/logs/query?"+q.Encode(), &rows); err != nil || len(rows.Rows) != 6 {
			t.Errorf("%s shows %v %v", n.Config.NodeID, rows, err)
		}
		h := get(n).History
		if len(h) != 1 || h[0].Kind != "logs" || h[0].To != floor || h[0].Reason != "age" || h[0].At == 0 || h[0].Index == 0 {
			t.Errorf("%s tells of %+v", n.Config.NodeID, h)
		}
	}
	if err := c.send(http.MethodDelete, c.Nodes[0].URL()+"/v1/retention", nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	if last := get(c.Nodes[1]); last.Version != 0 || last.Policy != first.Policy || last.Kinds[1].Floor != floor {
		t.Errorf("given back to the configuration: %+v", last)
	}
	var actions []string
	c.Nodes[0].App.Node().State().Scan(audit.BucketRecords, "", func(_ string, v meta.Value) bool {
		var r struct{ Action string }
		if json.Unmarshal(v.Data, &r) == nil && strings.HasPrefix(r.Action, "retention.") {
			actions = append(actions, r.Action)
		}
		return true
	})
	if fmt.Sprint(actions) != "[retention.set retention.reset]" {
		t.Errorf("audit has %v", actions)
	}
	c.WaitEqual(t)
}

// A policy that only a newer program can read may keep what the configuration does not: nothing is cut until it is known.
func TestNothingIsCutByAPolicyThatCannotBeRead(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 1, func(cfg *appliance.Config) { cfg.Logs.Retention = appliance.Duration(48 * time.Hour) })
	n := c.Nodes[0]
	unreadable := func(limit int) {
		t.Helper()
		p := retention.Default(400*24*time.Hour, 400*24*time.Hour)
		p.Limit = limit
		rec := retention.Record{Policy: p}
		_, results, err := n.App.Node().Propose(t.Context(), command.NewMetaTxn(command.Txn{
			Ops: []command.Op{{Bucket: retention.Bucket, Key: retention.KeyPolicy, Value: rec.Encode()}},
		}))
		if err != nil || results[0].Status != command.StatusOK {
			t.Fatal(results, err)
		}
	}
	unreadable(300)
	a := c.NewAgent(t, "host-a")
	if _, err := a.Send(n, a.Lines(time.Now().Add(-9*24*time.Hour).UnixNano(), "walrus of last week")); err != nil {
		t.Fatal(err)
	}
	for limit := 301; limit <= 302; limit++ { // when the second is told of, a look that found the line has ended
		unreadable(limit)
		Until(t, "the node says that the policy cannot be used", func() error {
			body, err := os.ReadFile(filepath.Join(n.Config.DataDir, "../../log"))
			if want := fmt.Sprintf("limit_pct: %d", limit); err == nil && !strings.Contains(string(body), want) {
				err = fmt.Errorf("%s is not in the log", want)
			}
			return err
		})
	}
	if floor := n.App.Node().State().Floor(command.KindLogs); floor > 0 {
		t.Errorf("logs before %s were cut", time.UnixMilli(floor).UTC())
	}
}
