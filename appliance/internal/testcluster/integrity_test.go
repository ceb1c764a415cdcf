package testcluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
)

// compare runs a comparison of all nodes and returns what came of it.
func compare(t *testing.T, c *Cluster, n *Node, r api.VerifyRequest) (v api.Verification) {
	t.Helper()
	Until(t, "a comparison", func() error { return c.Post(n, "/v1/cluster/verify", r, &v) })
	Until(t, "its end", func() error {
		name := v.Name
		if err := c.Get(n, "/v1/cluster/verify/"+name, &v); err != nil {
			v.Name = name
			return err
		}
		if v.Verdict == api.VerifyRunning {
			return errors.New("it runs")
		}
		return nil
	})
	return v
}

// TestNodesAreComparedAtOneIndex compares three nodes under load, restarts one, lets one lie about a day, stops one.
func TestNodesAreComparedAtOneIndex(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	a := c.NewAgent(t, "web1", series(1), series(2))
	yesterday := time.Now().Add(-24 * time.Hour).Truncate(24 * time.Hour).Add(6 * time.Hour)
	_, err := a.Send(c.Nodes[0], a.Metrics(wire.Scrape{T: yesterday.UnixMilli(), IDs: a.Series, Values: []float64{1, 2}}), a.Lines(yesterday.UnixNano(), "one", "two"))
	must(t, err)
	acked, stop := busy(t, c, a)
	Until(t, "some load", func() error {
		if acked.Load() < 10 {
			return errors.New("too little")
		}
		return nil
	})
	for i, n := range c.Nodes {
		v := compare(t, c, n, api.VerifyRequest{Deep: i == 1})
		if v.Verdict != api.VerifyEqual || v.Index == 0 || v.State == "" || len(v.Nodes) != 3 || v.Items == 0 {
			t.Fatalf("by %s: %+v", n.Config.NodeID, v)
		}
		for _, node := range v.Nodes {
			if i == 1 && node.Equal < 2 { // the samples and lines of yesterday
				t.Errorf("%+v", node)
			}
		}
	}
	stop()
	c.WaitEqual(t)
	c.Nodes[2].Stop(t)
	c.Nodes[2].Start(t)
	c.Nodes[2].WaitReady(t)
	if v := compare(t, c, c.Nodes[0], api.VerifyRequest{Deep: true}); v.Verdict != api.VerifyEqual {
		t.Fatalf("after a restart: %+v", v)
	}

	// A sample that only one node has.
	must(t, c.Nodes[1].App.Metrics().ApplySamples(&wire.Samples{IDs: a.Series[:1], T: []int64{yesterday.UnixMilli() + 1000}, Values: []float64{7}}))
	v := compare(t, c, c.Nodes[0], api.VerifyRequest{Deep: true})
	if v.Verdict != api.VerifyDiffers || len(v.Differences) != 1 {
		t.Fatalf("%+v", v)
	}
	if d := v.Differences[0]; d.What != "store" || d.Kind != "metrics" || d.Day != yesterday.UnixMilli()/86400_000 || !slices.Equal(d.Odd, []string{"n2"}) {
		t.Errorf("%+v", d)
	}
	var view api.IntegrityView
	Until(t, "what another node knows of it", func() error {
		view = api.IntegrityView{}
		if err := c.Get(c.Nodes[2], "/v1/cluster/integrity", &view); err != nil {
			return err
		}
		if view.Last == nil || view.Last.Verdict != api.VerifyDiffers || len(view.Nodes) != 3 {
			return fmt.Errorf("%+v", view)
		}
		return nil
	})
	// The node takes its state from another one by itself, and is what the others are again.
	Until(t, "the repair", func() error {
		view = api.IntegrityView{}
		if err := c.Get(c.Nodes[0], "/v1/cluster/integrity", &view); err != nil {
			return err
		}
		if len(view.Nodes[1].Found) > 0 {
			return fmt.Errorf("%+v", view.Nodes[1].Found)
		}
		return c.Get(c.Nodes[1], "/-/ready", nil)
	})
	if v := compare(t, c, c.Nodes[1], api.VerifyRequest{Deep: true}); v.Verdict != api.VerifyEqual {
		t.Errorf("after the repair: %+v", v)
	}

	c.Nodes[2].Stop(t)
	v = compare(t, c, c.Nodes[0], api.VerifyRequest{Kinds: []string{"logs"}})
	if v.Verdict != api.VerifyIncomplete || v.Nodes[2].Answered {
		t.Errorf("with a node away: %+v", v)
	}
	if err := c.Post(c.Nodes[0], "/v1/cluster/verify", api.VerifyRequest{Kinds: []string{"sounds"}}, nil); err == nil || !strings.Contains(err.Error(), "sounds") {
		t.Errorf("a kind that there is none of: %v", err)
	}
}
