package raftstate

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// What selectors cut is in no digest and known to every store at once: to one that applies the lines and the cut in one go,
// to one that installs an image or begins again before it is opened. Nothing may be removed before the state is durable that
// knows of it.
func TestStoresKnowTheCutsBeforeTheyOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, smallQueue)
		w := newWriter(t, c.leader(), "agent-1")
		w.must(c.leader(), command.NewSetFormat(2))
		behind := c.follower()
		c.kill(behind.id)
		w.clock -= (3 * 24 * time.Hour).Milliseconds()
		for range 5 {
			w.write(c.leader())
		}
		lead := c.leader()
		index, sums, err := lead.Settled(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cut := command.SelectorCut{Kind: command.KindLogs, Through: index}
		for _, d := range sums {
			if d.Kind == command.KindLogs {
				cut.Day = d.Day
				cut.Cuts = []command.CutLines{{Selector: wire.Selector{{Name: "host", Op: wire.MatchEqual, Value: "agent-1"}}, Count: d.Count, Hi: d.Sum.Hi, Lo: d.Sum.Lo}}
			}
		}
		if len(cut.Cuts) != 1 || cut.Cuts[0].Count != 5 {
			t.Fatalf("digests %v", sums)
		}
		if res := w.must(lead, command.NewSelectorCut(cut)); res[0].Status != command.StatusOK {
			t.Fatalf("%+v", res)
		}
		if res := w.must(lead, command.NewSelectorCut(cut)); res[0].Status != command.StatusConflict { // of another leader, say
			t.Errorf("the same again: %+v", res)
		}
		w.write(lead) // late: stays
		check := func(n *testNode, late uint64) {
			t.Helper()
			_, sums, at, err := n.Accepted()
			if err != nil {
				t.Fatal(err)
			}
			left := meta.Digest{}
			for _, d := range sums {
				if d.Kind == command.KindLogs && d.Day == cut.Day {
					left = d
				}
			}
			list, err := n.State().LogCuts()
			if err != nil || left.Count != late || len(list) != 1 || list[0].Index != at {
				t.Fatalf("%s: %d lines are left, cut by %d: %+v %v", n.id, left.Count, at, list, err)
			}
			if told := n.logs.hidden.Load(); told == nil || !reflect.DeepEqual(*told, list) {
				t.Errorf("the store of %s was told of %v", n.id, told)
			}
			if durable, mark := n.logs.durable.Load(), n.mark.Load().Index; durable != mark {
				t.Errorf("the store of %s was told that %d is durable, the mark is %d", n.id, durable, mark)
			}
		}
		check(lead, 1)
		c.start(behind.id) // applies lines, cut and a late line together
		c.settle()
		check(behind, 1)

		away, restarted := c.follower(), c.leader()
		c.kill(away.id)
		c.wipe(away.id)
		w.text = strings.Repeat("x", 20_000)
		c.wait("a short log", func() bool { w.write(c.leader()); return c.leader().Status().FirstIndex > 100 })
		c.start(away.id)
		c.wait("the install", func() bool { return away.seen.installs() > 0 })
		c.settle()
		_, sums, err = c.leader().Settled(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		late := uint64(0)
		for _, d := range sums {
			if d.Kind == command.KindLogs && d.Day == cut.Day {
				late = d.Count
			}
		}
		c.kill(restarted.id)
		c.start(restarted.id)
		c.settle()
		for _, n := range []*testNode{away, restarted} {
			check(n, late)
			if told := n.logs.hiddenAtOpen.Load(); told == nil || len(*told) != 1 || (*told)[0].Index > n.logs.durableAtOpen.Load() {
				t.Errorf("the store of %s was opened knowing of %v, durable up to %d", n.id, told, n.logs.durableAtOpen.Load())
			}
		}
	})
}
