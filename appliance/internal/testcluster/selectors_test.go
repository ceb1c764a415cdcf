package testcluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// What a rule for single streams does not keep goes from every node and from no other stream, and nothing that looks for
// damage finds any: on no node, whoever cut, after a restart, on one that installed an image, for lines that come late.
func TestSelectorsCutLinesOfSomeStreams(t *testing.T) {
	t.Parallel()
	withinADay(t)
	c := Start(t, 3)
	today := time.Now().UnixMilli() / retention.DayMs
	walrus, otter := c.NewAgent(t, "walrus"), c.NewAgent(t, "otter")
	send := func(a *Agent, n *Node, day int64, text string) {
		t.Helper()
		if _, err := a.Send(n, a.Lines((day*retention.DayMs+5000)*1e6, text)); err != nil {
			t.Fatal(err)
		}
	}
	for d := int64(9); d >= 1; d-- {
		send(walrus, c.Nodes[d%3], today-d, fmt.Sprintf("beast of day %d", d))
		send(otter, c.Nodes[d%3], today-d, fmt.Sprintf("beast of day %d", d))
	}
	shown := func(n *Node, query string, want int) {
		t.Helper()
		Until(t, fmt.Sprintf("%d lines of %s at %s", want, query, n.Config.NodeID), func() error {
			var rows struct {
				Rows  []struct{ Text string }
				Stats struct{ Partial bool }
			}
			q := url.Values{"query": {query}, "start": {"now-20d"}, "end": {"now"}}
			if err := c.Get(n, "/v1/logs/query?"+q.Encode(), &rows); err != nil {
				return err
			}
			if rows.Stats.Partial {
				t.Fatalf("an answer is partial: %+v", rows)
			}
			if len(rows.Rows) != want {
				return fmt.Errorf("%d lines", len(rows.Rows))
			}
			return nil
		})
	}
	for _, n := range c.Nodes {
		shown(n, "beast", 18)
	}
	q := url.Values{"select": {`{host=~"wal.*"}`}, "age": {"5d"}}
	var p api.SelectorPreview
	if err := c.Get(c.Nodes[1], "/v1/retention/selectors/preview?"+q.Encode(), &p); err != nil || p.Lines != 4 || p.Days != 4 || p.Total != 8 || p.Streams != 1 || p.Everything {
		t.Fatalf("preview: %+v %v", p, err)
	}
	put := func(sel string, days int64, everything bool) error {
		return c.put(c.Nodes[1], "/v1/retention/selectors", map[string]any{"kind": "logs", "select": sel, "age_ms": days * retention.DayMs, "everything": everything})
	}
	for sel, want := range map[string]string{`{host="x"`: "character 10", `{host=~"("}`: "character 8", `{}`: "every stream", `{host=~".*"}`: "every stream"} {
		if err := put(sel, 5, false); err == nil || !strings.Contains(err.Error(), "400") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", sel, err)
		}
	}
	must(t, put(`{host=~"wal.*"}`, 5, false))
	equal := func(when string) {
		t.Helper()
		c.WaitEqual(t)
		if v := compare(t, c, c.Nodes[0], api.VerifyRequest{Deep: true}); v.Verdict != api.VerifyEqual || len(v.Differences) > 0 {
			t.Fatalf("%s: %+v", when, v)
		}
		var view api.IntegrityView
		must(t, c.Get(c.Nodes[0], "/v1/cluster/integrity", &view))
		for _, n := range view.Nodes {
			if len(n.Found) > 0 {
				t.Fatalf("%s: %s found %+v", when, n.Node, n.Found)
			}
		}
	}
	for _, n := range c.Nodes {
		shown(n, "beast", 14)
		shown(n, "host:walrus beast", 5)
		shown(n, "host:otter beast", 9)
	}
	equal("after the first cut")

	// A second rule that overlaps: a line is taken away once. The shorter age counts.
	must(t, put(`{file="/var/log/test.log", host!="otter"}`, 3, false))
	for _, n := range c.Nodes {
		shown(n, "beast", 12)
	}
	equal("after a cut that overlaps")

	// What comes late is shown until it is cut, by another leader as well.
	lead := c.Leader(t)
	lead.Stop(t)
	for _, n := range c.Nodes {
		if n != lead {
			send(walrus, n, today-8, "late beast")
			break
		}
	}
	lead.Start(t)
	lead.WaitReady(t)
	must(t, put(`{host="nobody"}`, 1, false)) // wakes the leader
	for _, n := range c.Nodes {
		shown(n, "beast", 12)
		shown(n, "late", 0)
	}
	equal("after a late line and another leader")

	// A backup is what was accepted less what was cut, whether the lines are on disk still or not, and brings the cuts along.
	id, err := age.GenerateX25519Identity()
	must(t, err)
	saved, err := c.Backup(c.Nodes[0], id.Recipient().String())
	must(t, err)
	_, deep, err := backup.Verify(t.Context(), bytes.NewReader(saved), backup.VerifyOptions{Identities: []age.Identity{id}})
	if err != nil || deep.Partial > 0 {
		t.Fatalf("backup: %+v %v", deep, err)
	}
	cfg := NewConfig(t, "r1")
	report, err := appliance.Restore(t.Context(), cfg, backup.Stream(bytes.NewReader(saved)), appliance.RestoreOptions{Identities: []age.Identity{id}, Deep: true})
	if err != nil || report.Deep == nil || report.Deep.Partial > 0 {
		t.Fatalf("restore: %+v %v", report, err)
	}
	restored := Adopt(t, cfg, c.Token)
	var left struct{ Rows []struct{} }
	Until(t, "what was restored", func() error {
		q := url.Values{"query": {"beast"}, "start": {"now-20d"}, "end": {"now"}}
		if err := restored.Get(restored.Nodes[0], "/v1/logs/query?"+q.Encode(), &left); err != nil {
			return err
		}
		if len(left.Rows) != 12 {
			return fmt.Errorf("%d lines", len(left.Rows))
		}
		return nil
	})
	if v := compare(t, restored, restored.Nodes[0], api.VerifyRequest{Deep: true}); v.Verdict != api.VerifyEqual || len(v.Differences) > 0 {
		t.Fatalf("restored: %+v", v)
	}

	joined := c.Join(t, "n4")
	shown(joined, "beast", 12)
	equal("with a node that installed an image")
	for _, n := range c.Nodes {
		n.Stop(t)
	}
	for _, n := range c.Nodes {
		n.Start(t)
	}
	for _, n := range c.Nodes {
		n.WaitReady(t)
		shown(n, "beast", 12)
	}
	equal("after a restart of all")

	q = url.Values{"select": {`{host=~"wal.*"}`}}
	must(t, c.send(http.MethodDelete, c.Nodes[2].URL()+"/v1/retention/selectors?"+q.Encode(), nil, nil, nil))
	if err := c.send(http.MethodDelete, c.Nodes[2].URL()+"/v1/retention/selectors?"+q.Encode(), nil, nil, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a rule that is not there: %v", err)
	}
	var v api.RetentionView
	must(t, c.Get(c.Nodes[0], "/v1/retention?consistency=linearizable", &v))
	if len(v.Selectors) != 3 {
		t.Fatalf("%+v", v.Selectors)
	}
	for _, s := range v.Selectors {
		switch s.Select {
		case `{host=~"wal.*"}`:
			if s.AgeMs != 0 || s.Lines != 5 || s.Days != 4 || s.Before != (today-5)*retention.DayMs {
				t.Errorf("%+v", s)
			}
		case `{file="/var/log/test.log", host!="otter"}`:
			if s.AgeMs != 3*retention.DayMs || s.Lines != 2 || s.By == "" {
				t.Errorf("%+v", s)
			}
		case `{host="nobody"}`:
			if s.Lines != 0 {
				t.Errorf("%+v", s)
			}
		}
	}
	shown(c.Nodes[0], "beast", 12) // they do not come back
	var actions []string
	c.Nodes[0].App.Node().State().Scan(audit.BucketRecords, "", func(_ string, v meta.Value) bool {
		var r struct{ Action string }
		if json.Unmarshal(v.Data, &r) == nil && strings.HasPrefix(r.Action, "retention.") {
			actions = append(actions, r.Action)
		}
		return true
	})
	if fmt.Sprint(actions) != "[retention.select retention.select retention.select retention.unselect]" {
		t.Errorf("audit has %v", actions)
	}

	// Once the whole day goes, so does what was remembered of it.
	pol := v.Policy
	pol.Logs.AgeMs = 4 * retention.DayMs
	must(t, c.put(c.Nodes[0], "/v1/retention", pol))
	Until(t, "the cut of whole days", func() error {
		n := 0
		c.Nodes[0].App.Node().State().Scan(command.BucketSelectorCuts, "", func(string, meta.Value) bool { n++; return true })
		if n != 1 {
			return fmt.Errorf("cuts of %d days are remembered", n)
		}
		return nil
	})
	equal("after whole days went")
}
