package testcluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	hostevents "github.com/triward/triward/agent/events"
	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

type event struct {
	ID, Kind, Severity, Host, Agent, Source, Key, Message string
	Tags                                                  map[string]string
}

func (c *Cluster) events(t testing.TB, n *Node, filter string) []event {
	t.Helper()
	var page struct{ Events []event }
	must(t, c.Get(n, "/v1/events?limit=5000&consistency=linearizable"+filter, &page))
	return page.Events
}

func countEvents(list []event, kind, host string) (n int) {
	for _, e := range list {
		if e.Kind == kind && (host == "" || e.Host == host) {
			n++
		}
	}
	return n
}

// What happens to the cluster is told exactly once, though the leader ends in the middle of it.
func TestClusterEventsComeOnce(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 3, watchesItself)
	var agents []*Agent
	for i := range 3 {
		agents = append(agents, c.NewAgent(t, fmt.Sprint("web", i)))
	}
	old := c.Leader(t)
	old.Stop(t)
	lost := old.Config.NodeID
	other := func() *Node {
		for _, n := range c.Nodes {
			if n.App != nil {
				return n
			}
		}
		return nil
	}
	want := func(kind, host string, times int) {
		t.Helper()
		Until(t, fmt.Sprintf("%s of %q is told", kind, host), func() error {
			if got := countEvents(c.events(t, other(), ""), kind, host); got != times {
				return fmt.Errorf("%d times, want %d", got, times)
			}
			return nil
		})
	}
	agents = append(agents, c.NewAgentAt(t, other(), "web3"))
	for _, a := range agents {
		want("agent_enrolled", a.Host, 1)
	}
	for _, n := range c.Nodes {
		want("node_joined", n.Config.NodeID, 1)
	}
	want("node_lost", lost, 1)
	old.Start(t)
	old.WaitReady(t)
	want("node_back", lost, 1)
	want("node_lost", lost, 1)
	second := c.Leader(t)
	second.Stop(t)
	leads := map[string]int{}
	Until(t, "three leaders are told", func() error {
		clear(leads)
		for _, e := range c.events(t, c.Leader(t), "&source=cluster&kind=leader_changed") {
			leads[e.Tags["term"]]++
		}
		if len(leads) < 3 {
			return fmt.Errorf("leaders of terms %v", leads)
		}
		return nil
	})
	second.Start(t)
	second.WaitReady(t)
	c.WaitEqual(t)
	for term, n := range leads {
		if n != 1 {
			t.Errorf("the leader of term %s was told %d times", term, n)
		}
	}
	// All nodes show the same, in the same order.
	first := c.events(t, c.Nodes[0], "")
	for _, n := range c.Nodes[1:] {
		if got := c.events(t, n, ""); !slices.EqualFunc(got, first, func(a, b event) bool { return a.ID == b.ID && a.Message == b.Message }) {
			t.Errorf("node %s shows other events than node %s", n.Config.NodeID, c.Nodes[0].Config.NodeID)
		}
	}
}

// hostEvents has an agent's watcher see a failed unit, a killed process, a full file system and a reboot, and returns
// what it spooled.
func hostEvents(t *testing.T) [][]byte {
	t.Helper()
	dir := t.TempDir()
	entries := fmt.Sprintf(`{"__CURSOR":"1","__REALTIME_TIMESTAMP":"%d","MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c","UNIT":"web.service","UNIT_RESULT":"exit-code","MESSAGE":"web.service: Failed with result 'exit-code'."}
{"__CURSOR":"2","__REALTIME_TIMESTAMP":"%d","_TRANSPORT":"kernel","PRIORITY":"3","MESSAGE":"Out of memory: Killed process 4711 (java) total-vm:9kB"}
`, time.Now().UnixMicro(), time.Now().UnixMicro())
	script := filepath.Join(dir, "journalctl")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\ncat <<'E'\n"+entries+"E\nexec sleep 600\n"), 0o700))
	sp, err := spool.Open(filepath.Join(dir, "spool"), spool.Options{})
	must(t, err)
	defer sp.Close()
	coder, err := wire.NewCoder()
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	b := lines.NewBatcher(wire.LaneEvents, sp, coder, nil, log, nil)
	s, err := hostevents.New(hostevents.Config{
		Warn: 90, Critical: 95, Journal: true, Command: []string{"/bin/sh", script}, Batcher: b, Log: log,
		State:  []byte(`{"boot":"the one before","alive":1700000000000}`),
		BootID: func() string { return "this one" },
		Mounts: func() ([]hostevents.Mount, error) {
			return []hostevents.Mount{{Point: "/", Device: "/dev/sda1", Type: "ext4"}}, nil
		},
		Usage: func(string) (hostevents.Usage, error) { return hostevents.Usage{Used: 97, Free: 3}, nil },
	})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	Until(t, "four events are spooled", func() error {
		if b.Lines.Load() < 4 {
			return errors.New("not yet")
		}
		return nil
	})
	cancel()
	must(t, <-done)
	must(t, b.Close(context.Background()))
	batches, err := sp.Read(wire.LaneEvents, 1, 100, 1<<20)
	must(t, err)
	var out [][]byte
	for i := range batches {
		raw, err := coder.Decompress(nil, &batches[i])
		must(t, err)
		out = append(out, slices.Clone(raw))
	}
	return out
}

// The rules that are shipped make alerts of what an agent tells of its host, with levels that fit.
func TestShippedRulesOfEvents(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 3, watchesItself)
	Until(t, "the shipped rules are there", func() error {
		return c.Get(c.Nodes[0], "/v1/rules/files/events", &struct{}{})
	})
	a := c.NewAgent(t, "web1")
	for _, raw := range hostEvents(t) {
		batch := a.batch(wire.LaneEvents, raw)
		Until(t, "an event is taken", func() error { _, err := a.Send(c.Nodes[1], batch); return err })
	}
	want := map[string]string{"UnitFailed": "warning", "OOMKill": "critical", "FilesystemFull": "critical", "HostRebooted": "warning"}
	Until(t, "alerts of events fire", func() error {
		var answer struct {
			Alerts []struct {
				Name, State string
				Labels      map[string]string
			} `json:"alerts"`
		}
		if err := c.Get(c.Nodes[2], "/v1/alerts?state=firing", &answer); err != nil {
			return err
		}
		got := map[string]string{}
		for _, x := range answer.Alerts {
			if x.Labels["host"] == "web1" {
				got[x.Name] = x.Labels["severity"]
			}
		}
		for name, level := range want {
			if got[name] != level {
				return fmt.Errorf("%s is %q, want %q; all: %v", name, got[name], level, got)
			}
		}
		return nil
	})
	// The alerts themselves are events, of which no rule makes alerts again.
	Until(t, "the alerts are told as events", func() error {
		if n := countEvents(c.events(t, c.Nodes[0], "&source=alerts"), "alert_fired", "web1"); n != len(want) {
			return fmt.Errorf("%d alerts are told", n)
		}
		return nil
	})
	for _, e := range c.events(t, c.Nodes[0], "&host=web1&severity=error") {
		if e.Source == "agent" && (e.Agent != a.ID || e.Message == "") {
			t.Errorf("%+v", e)
		}
	}
	if list := c.events(t, c.Nodes[0], "&kind=oom_kill&query=java"); len(list) != 1 || list[0].Key != "java" || list[0].Tags["pid"] != "4711" {
		t.Errorf("%+v", list)
	}
}
