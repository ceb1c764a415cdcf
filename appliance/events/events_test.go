package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
)

var errDied = errors.New("the node died")

// world is a cluster in memory: metadata that transactions change, and a log that drops lines it has.
type world struct {
	meta    authtest.Meta
	lines   []string
	seen    map[string]bool
	cluster Cluster
	agents  []Agent
	records map[string]Event
	// steps counts commits and deliveries; at dieAt the node that does it dies, before or after it took effect.
	steps, dieAt int
	after        bool
	before       func() // of the next step
}

// dying is what one node sees of the world.
type dying struct {
	auth.Meta
	w *world
}

func (w *world) step(do func() error) error {
	if do := w.before; do != nil {
		w.before = nil
		do()
	}
	w.steps++
	if w.steps != w.dieAt {
		return do()
	}
	if w.after {
		_ = do()
	}
	return errDied
}

func (d dying) Commit(ctx context.Context, txn auth.Txn) (index uint64, err error) {
	err = d.w.step(func() error { index, err = d.Meta.Commit(ctx, txn); return err })
	return index, err
}

func (w *world) deliver(_ context.Context, b *wire.LogBatch) error {
	if n := len(wire.AppendLogs(nil, b)); n > wire.MaxBatchRaw {
		return fmt.Errorf("a body of %d bytes is refused", n)
	}
	return w.step(func() error {
		for _, s := range b.Streams {
			for _, l := range s.Lines {
				id := fmt.Sprint(s.Labels, l.T, string(l.Text), l.Fields)
				if w.seen[id] {
					continue
				}
				w.seen[id] = true
				w.lines = append(w.lines, s.Labels.Get("name")+" "+s.Labels.Get("host"))
			}
		}
		return nil
	})
}

func (w *world) node(id string) *Service {
	return New(Config{
		Node: id, Meta: dying{&w.meta, w}, Leading: func() bool { return w.cluster.Leader == id }, Log: slog.New(slog.DiscardHandler),
		Cluster: func(context.Context) (Cluster, error) { return w.cluster, nil },
		Agents:  func() []Agent { return w.agents }, Deliver: w.deliver, Buckets: []string{"records"},
		Read: func(_, key string, since int64) (Event, bool) { e, ok := w.records[key]; return e, ok && e.T >= since },
		Recent: func(string, int64) (keys []string) {
			for k := range w.records {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			return keys
		},
	})
}

func newWorld() *world {
	w := &world{seen: make(map[string]bool), records: make(map[string]Event), cluster: Cluster{Leader: "n1", Term: 2}}
	w.meta.Advance(1_700_000_000_000)
	for _, id := range []string{"n1", "n2", "n3"} {
		w.cluster.Nodes = append(w.cluster.Nodes, Node{ID: id, Known: true, Total: 100, Free: 50, CertEnd: w.meta.LogTime() + 1e12})
	}
	w.agents = []Agent{{ID: "a1", Host: "web1", LastSeen: w.meta.LogTime()}}
	return w
}

// turns has a node look again, as if time had passed.
func (s *Service) turns(t *testing.T, n int) error {
	t.Helper()
	for range n {
		s.askedAt, s.agentsAt, s.ledSince = time.Time{}, time.Time{}, time.Now().Add(-time.Hour)
		if err := s.step(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// story lives through a bit of everything. Whoever dies is replaced by the next node, which leads and goes on.
func (w *world) story(t *testing.T) {
	nodes := []string{"n1", "n2", "n3"}
	at := 0
	s := w.node(nodes[0])
	s.leading = true // a leader, whose start is no part of the story
	look := func() {
		t.Helper()
		for try := 0; ; try++ {
			err := s.turns(t, 2)
			if err == nil {
				return
			}
			if !errors.Is(err, errDied) || try > 3 {
				t.Fatal(err)
			}
			at++
			w.cluster.Leader, w.cluster.Term = nodes[at%3], w.cluster.Term+1
			s = w.node(w.cluster.Leader)
		}
	}
	look()
	w.cluster.Nodes[2].Lost, w.cluster.Nodes[2].LostMs = true, 60_000
	w.cluster.Nodes[1].Free = 3
	w.agents[0].LastSeen -= 600_000
	look()
	w.records["r1"] = Event{ID: "records/r1", T: w.meta.LogTime(), Kind: "backup_done", Host: "n1", Text: "a backup"}
	w.records["old"] = Event{ID: "records/old", T: w.meta.LogTime() - 2*lookBack, Kind: "backup_done", Host: "n9", Text: "an old one"}
	s.Changed("records", "r1")
	w.cluster.Nodes[2].Lost = false
	w.cluster.Nodes[1].Free = 50
	w.agents[0].LastSeen = w.meta.LogTime()
	look()
	s.Tell(Event{ID: "damage/n1/x", Kind: "damage_found", Host: "n1", Text: "damage"})
	s.Tell(Event{ID: "damage/n1/x", Kind: "damage_found", Host: "n1", Text: "damage"})
	waiting := s.waiting
	look()
	if len(waiting) > 0 && at > 0 { // the node that noticed it comes back and notices it again
		s.Tell(waiting[0])
		look()
	}
}

func (w *world) counts() map[string]int {
	out := make(map[string]int)
	for _, l := range w.lines {
		if !strings.HasPrefix(l, "leader_changed") {
			out[l]++
		}
	}
	return out
}

// Everything is told once, whoever dies at which step, before or after it took effect.
func TestEachEventOnceWhoeverDies(t *testing.T) {
	w := newWorld()
	w.story(t)
	want := map[string]int{
		"node_joined n1": 1, "node_joined n2": 1, "node_joined n3": 1, "node_lost n3": 1, "node_back n3": 1,
		"node_disk_full n2": 1, "node_disk_room n2": 1, "agent_silent web1": 1, "agent_heard web1": 1, "backup_done n1": 1, "damage_found n1": 1,
	}
	if got := w.counts(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("told %v\nwant %v", got, want)
	}
	total := w.steps
	if total < 15 {
		t.Fatalf("%d steps", total)
	}
	for at := 1; at <= total; at++ {
		for _, after := range []bool{false, true} {
			w := newWorld()
			w.dieAt, w.after = at, after
			w.story(t)
			got := w.counts()
			// What only the dead node had noticed, and had not written down, is told when it notices it again.
			if got["damage_found n1"] == 0 {
				got["damage_found n1"] = 1
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("death at step %d, after its effect %v: told %v\nwant %v", at, after, got, want)
			}
			if out := w.meta.Keys(Bucket); slices.ContainsFunc(out, func(k string) bool { return strings.HasPrefix(k, prefixOut) }) {
				t.Errorf("death at step %d: the outbox holds %v", at, out)
			}
		}
	}
}

func TestLeadersAndMembers(t *testing.T) {
	w := newWorld()
	s := w.node("n1")
	if err := s.turns(t, 3); err != nil {
		t.Fatal(err)
	}
	w.cluster.Leader, w.cluster.Term = "n2", 3
	w.cluster.Nodes = w.cluster.Nodes[:2]
	w.cluster.Suspect = "90 s late"
	s2 := w.node("n2")
	if err := errors.Join(s.turns(t, 2), s2.turns(t, 2)); err != nil {
		t.Fatal(err)
	}
	w.cluster.Suspect = ""
	w.cluster.Nodes[0].CertEnd = w.meta.LogTime() + 1000
	if err := s2.turns(t, 2); err != nil {
		t.Fatal(err)
	}
	slices.Sort(w.lines)
	want := []string{
		"certificate_ending n1", "clock_agreement n2", "clock_disagreement n2", "leader_changed n1", "leader_changed n2",
		"node_joined n1", "node_joined n2", "node_joined n3", "node_removed n3",
	}
	if !slices.Equal(w.lines, want) {
		t.Errorf("told %q\nwant %q", w.lines, want)
	}
}

// Two nodes that both believe to lead, one acting between the other's look and its commit, tell everything once.
func TestTwoThatLead(t *testing.T) {
	for at := range 12 {
		w := newWorld()
		w.records["r1"] = Event{ID: "records/r1", T: w.meta.LogTime(), Kind: "backup_done", Host: "n1", Text: "a backup"}
		w.cluster.Nodes[1].Lost, w.cluster.Nodes[1].LostMs = true, 60_000
		a, b := w.node("n1"), w.node("n2")
		b.cfg.Leading = func() bool { return true }
		var both func(left int)
		both = func(left int) {
			w.before = func() {
				if left > 0 {
					both(left - 1)
					return
				}
				w.meta.Advance(5)
				if err := b.turns(t, 2); err != nil {
					t.Error(err)
				}
			}
		}
		both(at)
		if err := errors.Join(a.turns(t, 2), b.turns(t, 2)); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"node_joined n1": 1, "node_joined n2": 1, "node_joined n3": 1, "node_lost n2": 1, "backup_done n1": 1}
		if got := w.counts(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("before step %d: told %v", at, got)
		}
	}
}

// After an outage of the cluster every agent was silent; none is told of before it had time to be heard.
func TestAgentsAreGivenTime(t *testing.T) {
	w := newWorld()
	w.agents[0].LastSeen -= 3600_000
	s := w.node("n1")
	if err := s.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(w.lines, "agent_silent web1") {
		t.Error("an agent is told to be silent by a leader that has just begun")
	}
}

func TestBoundsOfAnEvent(t *testing.T) {
	e := Event{ID: strings.Repeat("x", 1000), Kind: "k", Text: "\xff" + strings.Repeat("y", 1<<20), Tags: map[string]string{"a": strings.Repeat("z", 1<<20), "": "b", "c": ""}}
	b := e.bounded()
	if len(b.Text) > maxText || len(b.Tags["a"]) > maxTag || len(b.Tags) != 1 || len(name(e.ID)) > 300 || b.Source != SourceCluster {
		t.Errorf("%d bytes of text, tags %d", len(b.Text), len(b.Tags))
	}
	s := newWorld().node("n1")
	for i := range 2 * maxWaiting {
		s.Tell(Event{ID: fmt.Sprint(i), Kind: "k"})
	}
	for i := range 2 * maxChanged {
		s.Changed("records", fmt.Sprint(i))
	}
	if len(s.waiting) != maxWaiting || len(s.changed) > maxChanged {
		t.Errorf("%d wait, %d changed", len(s.waiting), len(s.changed))
	}
}

// However long many events at once are, they are delivered in bodies that the log takes.
func TestManyLongEventsAreDelivered(t *testing.T) {
	w := newWorld()
	s := w.node("n1")
	tags := make(map[string]string)
	for i := range maxTags {
		tags[fmt.Sprint("tag", i)] = strings.Repeat("v", maxTag)
	}
	const n = 2 * perTick
	for i := range n {
		w.records[fmt.Sprintf("r%03d", i)] = Event{
			ID: fmt.Sprint("records/", i), T: w.meta.LogTime(), Kind: "long", Text: strings.Repeat("t", maxText), Key: fmt.Sprint(i), Tags: tags,
		}
	}
	if err := s.turns(t, 2); err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, l := range w.lines {
		if strings.HasPrefix(l, "long ") {
			got++
		}
	}
	if out := w.meta.Keys(Bucket); got != n || slices.ContainsFunc(out, func(k string) bool { return strings.HasPrefix(k, prefixOut) }) {
		t.Errorf("%d of %d events delivered", got, n)
	}
}

// A node that starts with a state of long ago dates what it notices by the cluster's clock.
func TestNoticedAtTheStartIsOfNow(t *testing.T) {
	w := newWorld()
	s := w.node("n2")
	before := w.meta.LogTime()
	behind := errors.New("it has not caught up")
	s.cfg.Fresh = func(context.Context) error { return behind }
	s.Tell(Event{ID: "damage/n2/x", Kind: "damage_found", Host: "n2", Text: "damage"})
	if err := s.step(t.Context()); !errors.Is(err, behind) || len(s.waiting) != 1 {
		t.Fatalf("while it is behind: %v, %d wait", err, len(s.waiting))
	}
	s.cfg.Fresh = func(context.Context) error { w.meta.Advance(3_600_000); return nil }
	if err := s.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys := w.meta.Keys(Bucket)
	at := slices.IndexFunc(keys, func(k string) bool { return strings.HasPrefix(k, prefixOut) })
	if at < 0 {
		t.Fatalf("nothing was written down: %v", keys)
	}
	v, _ := w.meta.Get(Bucket, keys[at])
	var e Event
	if err := json.Unmarshal(v.Data, &e); err != nil || e.T != before+3_600_000 {
		t.Fatalf("dated %d, the cluster's clock is at %d (%v)", e.T, before+3_600_000, err)
	}
}
