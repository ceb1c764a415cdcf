package testcluster_test

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/internal/testcluster"
	"github.com/triward/triward/raftstate/logfile"
)

// onProbation makes a stopped node one that lost part of what it acknowledged.
func onProbation(t *testing.T, n *testcluster.Node) {
	t.Helper()
	s, err := logfile.Open(filepath.Join(n.Config.DataDir, "raft"), logfile.Options{})
	if err == nil {
		err = errors.Join(s.Set([]byte("triward.probation"), []byte("on")), s.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Two of three nodes without a vote: the third says so and what to do, and that is not refused.
func TestTooFewNodesHaveAVote(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	c.WaitEqual(t)
	whole := c.Nodes[0]
	for _, n := range c.Nodes {
		n.Stop(t)
	}
	for _, n := range c.Nodes[1:] {
		onProbation(t, n)
	}
	for _, n := range c.Nodes {
		n.Start(t)
	}
	testcluster.Until(t, "the state is told", func() error {
		var a struct {
			NoMajority string `json:"no_majority"`
		}
		if err := c.Get(whole, "/v1/cluster", &a); err != nil {
			return err
		}
		if !strings.Contains(a.NoMajority, "1 of 3 voters have a vote") || !strings.Contains(a.NoMajority, "cluster recover` on n1") {
			return fmt.Errorf("it says %q", a.NoMajority)
		}
		return nil
	})
	whole.Stop(t)
	plan, err := whole.Config.PlanRecovery(t.Context())
	if err != nil || !slices.Equal(plan.Answering, []string{"n2", "n3"}) {
		t.Errorf("plan %+v, %v", plan, err)
	}
	c.Nodes[1].Stop(t)
	if _, err := c.Nodes[1].Config.PlanRecovery(t.Context()); err == nil || errors.Is(err, appliance.ErrMajority) {
		t.Errorf("recovery on a node without a vote: %v", err)
	}
}

// A majority that was given up and comes back together ends: it neither goes on as the cluster of before nor waits for ever.
func TestLostMajorityThatComesBackEnds(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	c.WaitEqual(t)
	for _, n := range c.Nodes {
		n.Stop(t)
	}
	left, lost := c.Nodes[0], c.Nodes[1:]
	if err := appliance.Recover(t.Context(), left.Config, "a test", false, slog.New(slog.DiscardHandler), func(string) {}); err != nil {
		t.Fatal(err)
	}
	left.Start(t)
	left.WaitReady(t)
	for _, n := range lost {
		n.Start(t)
	}
	told := map[*testcluster.Node]bool{}
	testcluster.Until(t, "both are told that they were given up", func() error {
		var wait error
		for _, n := range lost {
			err := n.Config.Removed()
			switch {
			case told[n]:
			case !errors.Is(err, appliance.ErrRemoved) || !strings.Contains(err.Error(), "recovered on node n1"):
				wait = fmt.Errorf("%s knows: %v", n.Config.NodeID, err)
			default: // its process ends: as long as it leads, the other hears of a leader and asks nobody
				told[n] = true
				n.Stop(t)
			}
		}
		return wait
	})
	for _, n := range lost {
		if _, err := appliance.New(n.Config, appliance.Options{}); !errors.Is(err, appliance.ErrRemoved) {
			t.Errorf("it starts again: %v", err)
		}
	}
	if err := lost[0].Config.DiscardRemoved(); err != nil { // its machine can join again
		t.Error(err)
	}
	if got, err := part(c, left, "n1"); err != nil || got != "voter" {
		t.Errorf("n1 is %q, %v", got, err)
	}
}
