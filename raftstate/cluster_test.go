package raftstate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
)

// testNode is a node and what it feeds.
type testNode struct {
	*Node
	id      string
	dir     string
	metrics *fakeMetrics
	logs    *fakeLogs
	seen    *recorder
	trans   *raft.InmemTransport
	fatal   chan error
	up      bool
	repairs *fakeRepairs
	pages   atomic.Pointer[http.Handler]
}

// testCluster is a cluster in one process, on transports in memory.
type testCluster struct {
	t     *testing.T
	ids   []string
	nodes map[string]*testNode
	loop  *forward.Loopback
	tune  func(*Config)
	slow  func(from, to string) time.Duration // of calls; nil: none
	addrs []Server
	ctx   context.Context // of starts; nil: one without an end
}

// slowCaller delays calls.
type slowCaller struct {
	forward.Caller
	by func(to string) time.Duration
}

func (s slowCaller) Call(ctx context.Context, peer, method string, body []byte) ([]byte, error) {
	delay := time.NewTimer(s.by(peer))
	defer delay.Stop()
	select {
	case <-delay.C:
		return s.Caller.Call(ctx, peer, method, body)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newTestCluster(t *testing.T, size int, tune func(*Config)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, nodes: map[string]*testNode{}, loop: &forward.Loopback{}, tune: tune}
	root := t.TempDir()
	for i := range size {
		id := fmt.Sprintf("n%d", i+1)
		c.ids = append(c.ids, id)
		c.addrs = append(c.addrs, Server{ID: id, Addr: id})
		c.nodes[id] = &testNode{id: id, dir: filepath.Join(root, id), fatal: make(chan error, 1)}
	}
	for _, id := range c.ids {
		c.start(id)
	}
	t.Cleanup(c.close)
	return c
}

func testLogger(t *testing.T) *slog.Logger {
	if os.Getenv("TRIWARD_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (c *testCluster) config(n *testNode, trans *Transport) Config {
	cfg := Config{
		NodeID: n.id, DataDir: n.dir, Transport: trans, Bootstrap: c.addrs, LogSegment: 1 << 20, DiskReserve: -1,
		Logger: testLogger(c.t), InstallPause: time.Millisecond,
		OnFatal: func(err error) { n.fatal <- err },
	}
	if n.repairs != nil {
		cfg.Repairs = n.repairs
	}
	if c.tune != nil {
		c.tune(&cfg)
	}
	return cfg
}

func (c *testCluster) start(id string) {
	c.t.Helper()
	if err := c.open(id); err != nil {
		c.t.Fatalf("open node %s: %v", id, err)
	}
}

func (c *testCluster) open(id string) error {
	n := c.nodes[id]
	_, n.trans = raft.NewInmemTransport(raft.ServerAddress(id))
	for _, other := range c.nodes {
		if other.trans != nil {
			n.trans.Connect(raft.ServerAddress(other.id), other.trans)
			other.trans.Connect(raft.ServerAddress(id), n.trans)
		}
	}
	n.metrics, n.logs, n.seen = &fakeMetrics{}, &fakeLogs{}, &recorder{}
	caller := c.loop.From(id)
	if c.slow != nil {
		caller = slowCaller{caller, func(to string) time.Duration { return c.slow(id, to) }}
	}
	trans := &Transport{Raft: n.trans, Caller: caller, Serve: func(h forward.Handler) {
		c.loop.Attach(id, h)
		if h == nil {
			n.pages.Store(nil)
		}
	}, Pages: pagesOf{c}, ServePages: func(h http.Handler) { n.pages.Store(&h) }}
	cfg := c.config(n, trans)
	ctx := c.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	node, err := Open(ctx, cfg, Sinks{Metrics: n.metrics, Logs: n.logs, Observers: []Observer{n.seen}})
	if err != nil {
		return err
	}
	n.Node, n.up = node, true
	return nil
}

// kill stops a node without a last mark: its disk is as after a crash.
func (c *testCluster) kill(id string) {
	c.t.Helper()
	n := c.nodes[id]
	n.up = false
	n.trans.DisconnectAll()
	for _, other := range c.nodes {
		other.trans.Disconnect(raft.ServerAddress(id))
	}
	n.closeOnce.Do(func() { n.closeErr = n.shutdown() })
	if n.closeErr != nil {
		c.t.Errorf("stop node %s: %v", id, n.closeErr)
	}
}

func (c *testCluster) wipe(id string) {
	if err := os.RemoveAll(c.nodes[id].dir); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) close() {
	for _, id := range c.ids {
		if c.nodes[id].up {
			c.kill(id)
		}
	}
}

func (c *testCluster) leader() *testNode {
	c.t.Helper()
	var leader *testNode
	c.wait("a leader", func() bool {
		for _, id := range c.ids {
			n := c.nodes[id]
			if n.up && n.raft.Load().State() == raft.Leader && n.ready.Load() == n.raft.Load().CurrentTerm() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

func (c *testCluster) follower() *testNode {
	leader := c.leader()
	for _, id := range c.ids {
		if n := c.nodes[id]; n.up && n != leader {
			return n
		}
	}
	c.t.Fatal("no follower")
	return nil
}

// wait polls for a condition for up to 30 s of the bubble's time.
func (c *testCluster) wait(what string, cond func() bool) {
	c.t.Helper()
	waitFor(c.t, what, cond)
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// settle waits until all running nodes have applied the same and compares them.
func (c *testCluster) settle() {
	c.t.Helper()
	c.leader()
	c.wait("equal nodes", func() bool {
		var index uint64
		for _, id := range c.ids {
			n := c.nodes[id]
			if !n.up {
				continue
			}
			st := n.Status()
			if index == 0 {
				index = st.AppliedIndex
			}
			if st.AppliedIndex != index || st.LastIndex != st.CommitIndex || st.AppliedIndex < st.LastIndex-1 {
				return false
			}
		}
		return true
	})
	var first *testNode
	for _, id := range c.ids {
		n := c.nodes[id]
		if !n.up {
			continue
		}
		if n.seen.outOfOrder() {
			c.t.Errorf("node %s: observers were told out of order", id)
		}
		if first == nil {
			first = n
			continue
		}
		_, want := first.Digest()
		if _, got := n.Digest(); !reflect.DeepEqual(got, want) {
			c.t.Errorf("digest of %s is %v, of %s %v", id, got, first.id, want)
		}
		a, b := first.metrics.snapshot(), n.metrics.snapshot()
		if !reflect.DeepEqual(a.Samples, b.Samples) {
			c.t.Errorf("samples of %s (%d) and %s (%d) differ", first.id, len(a.Samples), id, len(b.Samples))
		}
		if a, b := first.logs.snapshot(), n.logs.snapshot(); !reflect.DeepEqual(a.Lines, b.Lines) {
			c.t.Errorf("lines of %s (%d) and %s (%d) differ", first.id, len(a.Lines), id, len(b.Lines))
		}
	}
}

// writer is an agent: it sends metrics and lines in turn and repeats what it does not know the outcome of.
type writer struct {
	t       *testing.T
	name    string
	epoch   wire.Epoch
	ids     []uint64
	seq     [3]uint64 // by lane
	clock   int64
	samples int // acknowledged
	lines   int
	text    string // of each line, for bulk
	stop    atomic.Bool
}

func newWriter(t *testing.T, n *testNode, name string) *writer {
	t.Helper()
	w := &writer{t: t, name: name, clock: time.Now().UnixMilli(), text: "a line"}
	copy(w.epoch[:], name)
	var series []wire.Labels
	for i := range 10 {
		series = append(series, wire.LabelsFromMap(map[string]string{"__name__": fmt.Sprintf("m%d", i), "agent": name}))
	}
	res := w.must(n, command.NewOpenEpoch(name, w.epoch), command.NewRegisterSeries(name, series))
	w.ids = res[1].IDs
	return w
}

// must proposes until the outcome is known. The commands bear repeating.
func (w *writer) must(n *testNode, cmds ...command.Command) []command.Result {
	w.t.Helper()
	for range 400 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, res, err := n.Propose(ctx, cmds...)
		cancel()
		switch {
		case err == nil:
			return res
		case errors.Is(err, ErrNoLeader), errors.Is(err, ErrUnknown), errors.Is(err, ErrBusy):
		default:
			w.t.Errorf("propose at %s: %v", n.id, err)
			return nil
		}
	}
	w.t.Errorf("propose at %s: no success", n.id)
	return nil
}

// write sends one metrics batch and one logs batch in one proposal.
func (w *writer) write(n *testNode) {
	w.t.Helper()
	w.clock += 10
	values := make([]float64, len(w.ids))
	for i := range values {
		values[i] = float64(w.seq[1]*100) + float64(i)
	}
	body := wire.AppendMetrics(nil, []wire.Scrape{{T: w.clock, IDs: w.ids, Values: values}})
	lines := wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{
		Kind: wire.StreamLog, Labels: wire.Labels{{Name: "agent", Value: w.name}, {Name: "host", Value: w.name}},
		Lines: []wire.LogLine{{T: w.clock * 1e6, Text: []byte(fmt.Sprintf("%s %s %d", w.text, w.name, w.seq[2]+1))}},
	}}})
	res := w.must(n, w.batch(wire.LaneMetrics, body), w.batch(wire.LaneLogs, lines))
	if len(res) != 2 {
		return
	}
	for i, lane := range []wire.Lane{wire.LaneMetrics, wire.LaneLogs} {
		if st := res[i].Status; st != command.StatusOK && st != command.StatusDuplicate {
			w.t.Errorf("%s batch %d: %s %s", lane, w.seq[lane]+1, st, res[i].Detail)
		}
		w.seq[lane]++
	}
	w.samples += len(w.ids)
	w.lines++
}

func (w *writer) batch(lane wire.Lane, body []byte) command.Command {
	return command.NewBatch(wire.Batch{
		Identity: wire.Identity{Agent: w.name, Epoch: w.epoch, Lane: lane, Seq: w.seq[lane] + 1, Hash: wire.HashContent(body)},
		RawLen:   len(body), Body: body,
	}, 0)
}

// check holds what was acknowledged against a node.
func (w *writer) check(n *testNode) {
	w.t.Helper()
	m, l := n.metrics.snapshot(), n.logs.snapshot()
	if len(m.Samples) != w.samples || len(l.Lines) != w.lines {
		w.t.Errorf("node %s holds %d samples and %d lines, acknowledged were %d and %d",
			n.id, len(m.Samples), len(l.Lines), w.samples, w.lines)
	}
}
