package raftstate

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
)

// TestLeaderRefusesWhatItDoesNotKnow: a newer follower hands on commands that would stop this leader and others.
func TestLeaderRefusesWhatItDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		for _, n := range []*testNode{c.leader(), c.follower()} {
			for name, cmd := range map[string]command.Command{
				"type": {Type: 99, Version: 1}, "version": {Type: command.TypeTick, Version: 9}, "format": command.NewSetFormat(machine.Format + 1),
			} {
				if _, _, err := n.Propose(t.Context(), command.NewTick("x"), cmd); !errors.Is(err, ErrUnsupported) {
					t.Errorf("unknown %s from %s: %v", name, n.id, err)
				}
			}
			for _, cmd := range []command.Command{{Type: 99 | command.Ignorable, Version: 1}, command.NewSetFormat(1)} {
				if _, res, err := n.Propose(t.Context(), cmd); err != nil || res[0].Status != command.StatusOK {
					t.Errorf("%s from %s: %v %+v", cmd.Type, n.id, err, res)
				}
			}
		}
		w.write(c.follower())
		c.settle()
		for _, id := range c.ids {
			if why := c.nodes[id].Status().Fatal; why != "" {
				t.Errorf("node %s stopped: %s", id, why)
			}
		}
	})
}

// TestFormatNeedsEveryMember pretends that all nodes but the last are upgraded.
func TestFormatNeedsEveryMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := "n3"
		c := newTestCluster(t, 3, func(cfg *Config) {
			if cfg.NodeID == old {
				cfg.format = 1
			}
		})
		if c.leader().id == old {
			if err := c.leader().TransferLeadership(t.Context(), "n1"); err != nil {
				t.Fatal(err)
			}
			c.wait("a new leader", func() bool { id, _ := c.nodes["n2"].Leader(); return id == "n1" })
		}
		raise := []command.Command{command.NewSetFormat(2)}
		if err := c.leader().admit(t.Context(), raise); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "node n3 knows formats up to 1") {
			t.Errorf("with an old member: %v", err)
		}
		c.kill("n3")
		if err := c.leader().admit(t.Context(), raise); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "n3 knows format 2 is not known") {
			t.Errorf("with a member away: %v", err)
		}
		old = ""
		c.start("n3")
		if err := c.leader().admit(t.Context(), raise); err != nil {
			t.Errorf("when all know it: %v", err)
		}
		if err := c.leader().admit(t.Context(), []command.Command{command.NewSetFormat(3)}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("beyond all: %v", err)
		}
		if _, res, err := c.leader().Propose(t.Context(), raise...); err != nil || res[0].Status != command.StatusOK {
			t.Fatalf("raise the format: %v %+v", err, res)
		}
		c.settle()
		c.kill("n2")
		c.start("n2")
		c.settle()
		for _, id := range c.ids { // n2 knows it from its state before its stores are opened
			if got := c.nodes[id].logs.format.Load(); got != 2 {
				t.Errorf("the store of lines of %s was told of format %d", id, got)
			}
		}
	})
}
