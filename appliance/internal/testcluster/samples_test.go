package testcluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/raftstate/command"
)

const (
	minute = int64(60_000)
	tooOld = "older than the retention"
	tooNew = "more than ten minutes before the cluster's time"
)

// outcome is what the cluster says of a batch, with its reasons.
type outcome struct {
	Status     string              `json:"status"`
	Accepted   int                 `json:"accepted"`
	Duplicates int                 `json:"duplicates"`
	Rejected   int                 `json:"rejected"`
	Items      []command.ItemError `json:"items"`
}

// sampleTest is the agent, and the model of what the stores must hold: per series and time the first value.
type sampleTest struct {
	t     *testing.T
	c     *Cluster
	a     *Agent
	model []map[int64]float64
}

// ask sends one batch to a node and returns the answer to it. After a lost answer the repeat says only that the
// batch was taken, and sure is false.
func (s *sampleTest) ask(n *Node, b wire.Batch) (got outcome, sure bool) {
	s.t.Helper()
	sure = true
	var answer struct {
		Results []outcome `json:"results"`
	}
	Until(s.t, "an answer of "+n.Config.NodeID, func() error {
		err := s.a.post(n, "/v1/agent/batches", wire.ContentType, wire.AppendRequest(nil, s.a.Epoch, []wire.Batch{b}), &answer)
		if err == nil && len(answer.Results) != 1 {
			err = fmt.Errorf("%d results for one batch", len(answer.Results))
		}
		if err != nil {
			sure = false
		}
		return err
	})
	got = answer.Results[0]
	return got, sure || got.Status != "duplicate"
}

// send sends scrapes as one batch, compares the answer to the rules and keeps the model. reason is of all items that
// are refused.
func (s *sampleTest) send(n *Node, what, reason string, scrapes ...wire.Scrape) {
	s.t.Helper()
	want := outcome{Status: "ok"}
	for _, sc := range scrapes {
		for i, v := range sc.Values {
			_, held := s.model[i][sc.T]
			switch {
			case reason != "":
				want.Rejected++
			case held:
				want.Duplicates++
			default:
				want.Accepted++
				s.model[i][sc.T] = v
			}
		}
	}
	got, sure := s.ask(n, s.a.Metrics(scrapes...))
	if !sure {
		return
	}
	if got.Status != want.Status || got.Accepted != want.Accepted || got.Duplicates != want.Duplicates || got.Rejected != want.Rejected {
		s.t.Errorf("%s at %s: %+v, want %+v", what, n.Config.NodeID, got, want)
	}
	for i, item := range got.Items {
		if int(item.Item) != i || reason == "" || !strings.Contains(item.Reason, reason) {
			s.t.Errorf("%s at %s: item %+v, want number %d and %q", what, n.Config.NodeID, item, i, reason)
		}
	}
	if len(got.Items) != want.Rejected {
		s.t.Errorf("%s at %s: %d reasons for %d refusals", what, n.Config.NodeID, len(got.Items), want.Rejected)
	}
}

func (s *sampleTest) scrape(t int64, x float64) wire.Scrape {
	return wire.Scrape{T: t, IDs: s.a.Series, Values: []float64{x, -x - 0.25}}
}

// hard sends at node n the samples of which the rules must be asked: a late one that no other round sends, a
// repeated, a conflicting, a future and an old one.
func (s *sampleTest) hard(n *Node, late, held int64) {
	s.t.Helper()
	first := s.scrape(late, float64(late%1e6))
	s.send(n, "late", "", first)
	s.send(n, "repeated late", "", first)
	s.send(n, "conflicting late", "", s.scrape(late, 666))
	s.send(n, "repeated", "", wire.Scrape{T: held, IDs: s.a.Series, Values: []float64{s.model[0][held], s.model[1][held]}})
	s.send(n, "conflicting", "", s.scrape(held, 777))
	// Ten minutes may be ahead: the rest is for what a busy machine takes until the leader stamps it.
	s.send(n, "future", tooNew, s.scrape(time.Now().UnixMilli()+20*minute, 888))
	s.send(n, "old", tooOld, s.scrape(time.Now().UnixMilli()-7*24*60*minute-minute, 999))
}

// raw returns what a node holds in (at-8h, at], in one text.
func (s *sampleTest) raw(n *Node, at int64) (string, error) {
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Values [][2]any          `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	q := url.Values{"query": {"m[8h]"}, "time": {strconv.FormatInt(at/1000, 10)}}
	if err := s.c.Get(n, "/api/v1/query?"+q.Encode(), &answer); err != nil {
		return "", err
	}
	var lines []string
	for _, r := range answer.Data.Result {
		for _, v := range r.Values {
			t, _ := v[0].(float64)
			lines = append(lines, fmt.Sprintf("x=%s %d %v", r.Metric["x"], int64(t*1000+0.5), v[1]))
		}
	}
	slices.Sort(lines) // the order of series is the node's own; that of times is asserted by equality as a set
	return strings.Join(lines, "\n"), nil
}

// same waits until every node gives exactly the model, and that the digests are equal.
func (s *sampleTest) same(when string, at int64) {
	s.t.Helper()
	var lines []string
	for i, values := range s.model {
		for _, t := range slices.Sorted(maps.Keys(values)) {
			lines = append(lines, fmt.Sprintf("x=%d %d %s", i, t, strconv.FormatFloat(values[t], 'f', -1, 64)))
		}
	}
	slices.Sort(lines)
	want := strings.Join(lines, "\n")
	s.c.WaitEqual(s.t)
	for _, n := range s.c.Nodes {
		got, err := s.raw(n, at)
		if err != nil {
			s.t.Fatalf("%s: ask %s: %v", when, n.Config.NodeID, err)
		}
		if got != want {
			s.t.Errorf("%s: %s does not hold what the model does: %s", when, n.Config.NodeID, firstDifference(got, want))
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("%q, want %q (%d samples, want %d)", g[i], w[i], len(g), len(w))
		}
	}
	return fmt.Sprintf("%d samples, want %d", len(g), len(w))
}

// ballast adds bytes that do not compress to the log: it forgets its beginning in pieces of a size.
func (s *sampleTest) ballast(n *Node) {
	s.t.Helper()
	var texts []string
	for range 30 {
		random := make([]byte, 4<<10)
		_, _ = rand.Read(random) // never fails
		texts = append(texts, hex.EncodeToString(random))
	}
	if got, sure := s.ask(n, s.a.Lines(time.Now().UnixNano(), texts...)); sure && got.Accepted != len(texts) {
		s.t.Fatalf("ballast: %+v", got)
	}
}

// lead makes n the leader, which decides.
func (s *sampleTest) lead(n *Node) {
	s.t.Helper()
	Until(s.t, n.Config.NodeID+" leads", func() error {
		leader := s.c.Leader(s.t)
		if leader == n {
			return nil
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), Patience)
		defer cancel()
		if err := leader.App.Node().TransferLeadership(ctx, n.Config.NodeID); err != nil {
			return err
		}
		return fmt.Errorf("%s leads", s.c.Leader(s.t).Config.NodeID)
	})
}

// A late, a future, a repeated and a conflicting sample give the same answer on all three nodes, whichever of them
// compacted, installed an image or restarted meanwhile, and whichever of them leads.
func TestSampleRulesAreTheSameOnAllNodes(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	for _, n := range c.Nodes { // a short queue, so that an emptied node can come back by an image only
		n.Stop(t)
		n.Config.Queue.Retention = appliance.QueueRetention{Bytes: 1 << 20, Time: appliance.Duration(time.Second)}
		n.CompactEvery = -1 // which of them compacted is what this test sets up
		n.Start(t)
		n.WaitReady(t)
	}
	s := &sampleTest{t: t, c: c, model: []map[int64]float64{{}, {}}}
	s.a = c.NewAgent(t, "host-a", map[string]string{"__name__": "m", "x": "0"}, map[string]string{"__name__": "m", "x": "1"})
	base := (time.Now().UnixMilli()/minute - 7*60) * minute
	at := base + 7*60*minute + 9*minute

	var scrapes []wire.Scrape
	for i := range int64(7 * 60) {
		if i%10 != 3 { // the gaps that late samples fill
			scrapes = append(scrapes, s.scrape(base+i*minute, float64(i)))
		}
	}
	for i, part := range slices.Collect(slices.Chunk(scrapes, 60)) {
		s.send(c.Nodes[i%3], "in order", "", part...)
	}
	s.send(c.Nodes[0], "nine minutes ahead", "", s.scrape(at, 9))
	gap := int64(3)
	late := func() int64 { gap += 10; return base + (gap-10)*minute }
	for _, n := range c.Nodes {
		s.hard(n, late(), base+30*minute)
	}
	s.same("before", at)

	untouched := c.Leader(t)
	others := slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return n == untouched })
	compacted, installed := others[0], others[1]
	if err := compacted.App.Metrics().Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if blocks, err := compacted.App.Metrics().BlockMetas(); err != nil || len(blocks) == 0 {
		t.Fatalf("%s made %d blocks: %v", compacted.Config.NodeID, len(blocks), err)
	}
	for _, n := range c.Nodes {
		s.hard(n, late(), base+60*minute)
	}
	s.same("after compaction", at)

	before := installed.App.Node().Status()
	installed.Stop(t)
	installed.Wipe(t)
	s.hard(untouched, late(), base+90*minute)
	Until(t, "the queue forgets its beginning", func() error {
		if st := untouched.App.Node().Status(); st.FirstIndex <= before.FirstIndex {
			s.send(untouched, "while it is away", "", s.scrape(base+90*minute, 1))
			s.ballast(untouched)
			return fmt.Errorf("the first index is %d, the mark %d", st.FirstIndex, st.MarkIndex)
		}
		return nil
	})
	installed.Start(t)
	for range 3 { // writes go on while the image is cut, sent and swapped in
		s.hard(untouched, late(), base+120*minute)
	}
	installed.WaitReady(t)
	s.same("after the image", at)
	// It holds everything, and its log does not begin where everything began.
	if st := installed.App.Node().Status(); st.FirstIndex == 1 {
		t.Errorf("%s came back by the log and not by an image", installed.Config.NodeID)
	}

	compacted.Stop(t)
	compacted.Start(t)
	compacted.WaitReady(t)
	for _, leader := range []*Node{compacted, installed, untouched} {
		s.lead(leader)
		for _, n := range c.Nodes {
			s.hard(n, late(), base+30*minute)
		}
	}
	if blocks, err := installed.App.Metrics().BlockMetas(); err != nil || len(blocks) != 0 {
		t.Errorf("%s has %d blocks, and only %s should have: %v", installed.Config.NodeID, len(blocks), compacted.Config.NodeID, err)
	}
	s.same("after each node led", at)
}

// A line that claims to be of the future is stored at the cluster's time with its own in time_sent, and one from
// before the floor is refused; every node shows the same.
func TestLineRulesAreTheSameOnAllNodes(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	s := &sampleTest{t: t, c: c, a: c.NewAgent(t, "host-a")}
	now := time.Now()
	floor := now.Add(-24 * time.Hour).UnixMilli()
	if _, _, err := c.Leader(t).App.Node().Propose(t.Context(), command.NewRetentionCut(command.KindLogs, floor, command.CutOperator)); err != nil {
		t.Fatal(err)
	}
	future, ahead := now.Add(time.Hour), now.Add(5*time.Minute)
	for i, line := range []struct {
		t        int64
		text     string
		rejected int
	}{
		{future.UnixNano(), "walrus of the future", 0},
		{ahead.UnixNano(), "walrus ahead", 0},
		{floor * 1e6, "walrus at the floor", 0},
		{floor*1e6 - 1, "walrus before the floor", 1},
	} {
		got, sure := s.ask(c.Nodes[i%3], s.a.Lines(line.t, line.text))
		if sure && (got.Status != "ok" || got.Rejected != line.rejected || got.Accepted != 1-line.rejected || got.Duplicates != 0) {
			t.Errorf("%s: %+v", line.text, got)
		}
		if sure && line.rejected == 1 && (len(got.Items) != 1 || !strings.Contains(got.Items[0].Reason, tooOld)) {
			t.Errorf("%s: refused for %+v", line.text, got.Items)
		}
	}
	c.WaitEqual(t)
	type row struct {
		T      string            `json:"t"`
		Pos    string            `json:"pos"`
		Text   string            `json:"text"`
		Fields map[string]string `json:"fields"`
	}
	var first []row
	for i, n := range c.Nodes {
		var answer struct {
			Rows []row `json:"rows"`
		}
		q := url.Values{"query": {"walrus"}, "start": {"now-25h"}, "end": {"now+2h"}}
		if err := c.Get(n, "/v1/logs/query?"+q.Encode(), &answer); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = answer.Rows
		} else if fmt.Sprint(answer.Rows) != fmt.Sprint(first) {
			t.Errorf("%s shows %v, %s %v", n.Config.NodeID, answer.Rows, c.Nodes[0].Config.NodeID, first)
		}
	}
	byText := make(map[string]row)
	for _, r := range first {
		byText[r.Text] = r
	}
	if len(first) != 3 || len(byText) != 3 {
		t.Fatalf("rows %v, want three", first)
	}
	moved := byText["walrus of the future"]
	ns, err := strconv.ParseInt(moved.T, 10, 64)
	if err != nil || ns < now.UnixNano()-int64(time.Minute) || ns > time.Now().UnixNano()+int64(time.Minute) {
		t.Errorf("the line of the future is stored at %s, want the cluster's time (%v)", moved.T, err)
	}
	if want := future.UTC().Format(time.RFC3339Nano); moved.Fields["time_sent"] != want {
		t.Errorf("time_sent is %q, want %q", moved.Fields["time_sent"], want)
	}
	if r := byText["walrus ahead"]; r.T != strconv.FormatInt(ahead.UnixNano(), 10) || r.Fields["time_sent"] != "" {
		t.Errorf("a line five minutes ahead was changed: %+v", r)
	}
}
