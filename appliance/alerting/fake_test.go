package alerting

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
)

// fakeMeta is the replicated metadata of a whole cluster: one state that all nodes see at once.
type fakeMeta struct {
	mu    sync.Mutex
	now   int64
	index uint64
	keys  map[[2]string]fakeEntry
	audit []Audit
	nodes []*fakeNode

	// lose, when set, is asked before each commit: 0 commits, 1 refuses, 2 commits and says that it is not known.
	lose func(node string) int
}

type fakeEntry struct {
	v       Value
	expires int64
}

func newFakeMeta() *fakeMeta {
	return &fakeMeta{now: 1_700_000_000_000, keys: make(map[[2]string]fakeEntry)}
}

func (m *fakeMeta) advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now += d.Milliseconds()
}

func (m *fakeMeta) get(bucket, key string) (Value, bool) {
	e, ok := m.keys[[2]string{bucket, key}]
	if !ok || e.expires != 0 && e.expires <= m.now {
		return Value{}, false
	}
	return e.v, true
}

var errLost = errors.New("the outcome is not known")

func (m *fakeMeta) commit(node string, t Txn) (uint64, error) {
	m.mu.Lock()
	lose := 0
	if m.lose != nil {
		lose = m.lose(node)
	}
	if lose == 1 {
		m.mu.Unlock()
		return 0, errors.New("there is no leader")
	}
	if len(t.Compares) > 256 || len(t.Ops) > 256 {
		m.mu.Unlock()
		panic(fmt.Sprintf("%d compares and %d operations", len(t.Compares), len(t.Ops)))
	}
	m.index++
	for _, c := range t.Compares {
		if v, ok := m.get(c.Bucket, c.Key); ok != (c.ModIndex != 0) || ok && v.ModIndex != c.ModIndex {
			m.mu.Unlock()
			return 0, ErrConflict
		}
	}
	for _, o := range t.Ops {
		k := [2]string{o.Bucket, o.Key}
		if o.Delete {
			delete(m.keys, k)
			continue
		}
		m.keys[k] = fakeEntry{Value{slices.Clone(o.Value), m.index}, o.Expires}
	}
	m.audit = append(m.audit, t.Audit...)
	index, nodes := m.index, m.nodes
	m.mu.Unlock()
	for _, n := range nodes {
		for _, o := range t.Ops {
			n.service.Changed(o.Bucket, o.Key)
		}
	}
	if lose == 2 {
		return 0, errLost
	}
	return index, nil
}

// nodeMeta is the metadata as one node reaches it.
type nodeMeta struct {
	*fakeMeta
	node string
}

func (m nodeMeta) Get(bucket, key string) (Value, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.get(bucket, key)
}

func (m nodeMeta) LogTime() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m nodeMeta) Scan(bucket, prefix string, fn func(string, Value) bool) {
	m.mu.Lock()
	var keys []string
	for k := range m.keys {
		if k[0] == bucket && strings.HasPrefix(k[1], prefix) {
			keys = append(keys, k[1])
		}
	}
	m.mu.Unlock()
	slices.Sort(keys)
	for _, k := range keys {
		if v, ok := m.Get(bucket, k); ok && !fn(k, v) {
			return
		}
	}
}

func (m nodeMeta) Commit(ctx context.Context, t Txn) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return m.commit(m.node, t)
}

// fakeWorld is what rules look at.
type fakeWorld struct {
	refused string // queries that hold it are not taken
	mu      sync.Mutex
	samples map[string][]Sample // by expression
	logql   map[string][]Sample // by expression
	asked   map[string]int64    // the last time that one in LogQL was asked for
	counts  map[string][]Count
	lines   map[string][]fakeLine // instead of counts, by query
	clock   func() int64
	events  []Line
	agents  []Agent
	err     error
	stored  map[string]float64 // of recording rules, by labels and time; what was first stays
	repeats int
	refuse  error
}

// Record keeps the first value of each time, as the state machine does.
func (w *fakeWorld) Record(_ context.Context, t int64, values []Sample) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range values {
		key := fmt.Sprint(v.Labels, " ", t)
		if _, ok := w.stored[key]; ok {
			w.repeats++
			continue
		}
		w.stored[key] = v.V
	}
	return w.refuse
}

func (w *fakeWorld) set(expr string, samples ...Sample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples[expr] = samples
}

func (w *fakeWorld) Instant(_ context.Context, q string, t int64) ([]Sample, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, w.err
	}
	return slices.Clone(w.samples[q]), nil
}

func (w *fakeWorld) Range(context.Context, string, int64, int64, int64) ([]Series, error) {
	return nil, nil
}
func (w *fakeWorld) Parser() parser.Parser { return parser.NewParser(parser.Options{}) }
func (w *fakeWorld) CheckQuery(q string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refused != "" && strings.Contains(q, w.refused) {
		return errors.New("its expressions are too large")
	}
	return nil
}

func (w *fakeWorld) CheckLogQL(expr string) (rules.Shape, error) {
	if err := w.CheckQuery(expr); err != nil {
		return rules.Shape{}, err
	}
	if !strings.Contains(expr, "{") {
		return rules.Shape{}, errors.New("no selector")
	}
	return rules.Shape{
		Window: time.Minute, Reach: time.Minute, Lines: `{app="a"}`, Keeps: true, Absent: strings.Contains(expr, "absent"), Compared: "side",
	}, nil
}

func (w *fakeWorld) LogQL(_ context.Context, expr string, t int64) ([]Sample, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[expr] = t
	if w.err != nil {
		return nil, w.err
	}
	return slices.Clone(w.logql[expr]), nil
}

func (w *fakeWorld) LogQLRange(_ context.Context, expr string, start, end, step int64) ([]Series, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, w.err
	}
	s := Series{Labels: map[string]string{"host": "h1"}}
	for t := start; t <= end; t += step {
		s.T, s.V = append(s.T, t), append(s.V, 7)
	}
	return []Series{s}, nil
}

func (w *fakeWorld) Agents() []Agent { w.mu.Lock(); defer w.mu.Unlock(); return slices.Clone(w.agents) }

func (w *fakeWorld) Count(_ context.Context, q string, start, end int64, by string, limit int) ([]Count, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if lines, ok := w.lines[q]; ok {
		return countFake(lines, w.clock(), start, end, by), false, w.err
	}
	return slices.Clone(w.counts[q]), false, w.err
}

// fakeLine is a line of time t that can be found from log time seen on.
type fakeLine struct {
	t, seen int64
	host    string
}

// countFake counts lines as the store does.
func countFake(lines []fakeLine, now, start, end int64, by string) []Count {
	var out []Count
	for _, l := range lines {
		if l.seen > now || l.t < start || l.t >= end {
			continue
		}
		value := ""
		if by != "" {
			value = l.host
		}
		i := slices.IndexFunc(out, func(c Count) bool { return c.Value == value })
		if i < 0 {
			i, out = len(out), append(out, Count{Value: value})
		}
		out[i].Lines++
	}
	return out
}

func (w *fakeWorld) EventsAfter(_ context.Context, q string, index uint64, limit int) ([]Line, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Line
	for _, e := range w.events {
		if e.Index > index && strings.Contains(e.Text, q) {
			out = append(out, e)
		}
	}
	return out[:min(limit, len(out))], len(out) > limit, nil
}

func (w *fakeWorld) Applied() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.events); n > 0 {
		return w.events[n-1].Index
	}
	return 1
}

// fakeNode is one node: its service, stepped by hand.
type fakeNode struct {
	name    string
	cluster *fakeCluster
	service *Service
	leader  *leader
	dead    bool
}

func (n *fakeNode) Verify(context.Context) error {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	if n.dead || n.cluster.leads != n.name {
		return errors.New("this node does not lead")
	}
	return nil
}

func (n *fakeNode) Term() uint64 {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	return n.cluster.term
}

// delivered is a message as a receiver got it.
type delivered struct {
	at       int64
	node     string
	key      string
	receiver string
	alerts   []notify.Alert
	escalate bool
}

func (d *delivered) has(name string, firing bool) bool {
	return slices.ContainsFunc(d.alerts, func(a notify.Alert) bool { return a.Labels["alertname"] == name && a.Firing == firing })
}

// fakeCluster is three nodes over one state.
type fakeCluster struct {
	t     testing.TB
	meta  *fakeMeta
	world *fakeWorld
	nodes []*fakeNode

	mu    sync.Mutex
	leads string
	term  uint64
	got   []delivered
	// answer says how a receiver takes a message: before is what happens before it is written, after what is told.
	old    bool // nodes of an older release may lead
	answer func(node string, in *route.Integration, m *notify.Message) (taken bool, err error)
}

func newFakeCluster(t testing.TB, n int) *fakeCluster {
	c := &fakeCluster{t: t, meta: newFakeMeta(), world: &fakeWorld{samples: make(map[string][]Sample), logql: make(map[string][]Sample), asked: make(map[string]int64), counts: make(map[string][]Count), lines: make(map[string][]fakeLine), stored: make(map[string]float64)}}
	c.world.clock = func() int64 { return nodeMeta{c.meta, ""}.LogTime() }
	for i := range n {
		node := &fakeNode{name: fmt.Sprintf("n%d", i+1), cluster: c}
		c.boot(node)
		c.nodes = append(c.nodes, node)
	}
	c.meta.nodes = c.nodes
	c.elect(0)
	t.Cleanup(func() {
		for _, node := range c.nodes {
			node.leader.end()
			if err := node.service.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func (c *fakeCluster) boot(node *fakeNode) {
	node.service = New(Config{
		Node: node.name, Meta: nodeMeta{c.meta, node.name}, Leadership: node, Metrics: c.world, Logs: c.world, Fleet: c.world, Recorder: c.world,
		LogQL: func() bool { return !c.old },
		Send: func(ctx context.Context, in *route.Integration, m *notify.Message, gate notify.Gate) error {
			return c.take(ctx, node.name, in, m, gate)
		},
	})
}

func (c *fakeCluster) take(ctx context.Context, node string, in *route.Integration, m *notify.Message, gate notify.Gate) error {
	if err := gate(ctx); err != nil {
		return fmt.Errorf("%w: %w", notify.ErrGate, err)
	}
	taken, err := true, error(nil)
	if c.answer != nil {
		taken, err = c.answer(node, in, m)
	}
	if taken {
		c.mu.Lock()
		c.got = append(c.got, delivered{c.meta.now, node, m.Key, m.Receiver, m.Alerts, m.Escalation})
		c.mu.Unlock()
	}
	return err
}

// elect makes a node the leader.
func (c *fakeCluster) elect(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leads = c.nodes[i].name
	c.term++
}

// step lets every node that believes to lead take a step. Messages and evaluations end before it returns.
func (c *fakeCluster) step() {
	for _, n := range c.nodes {
		if n.dead {
			continue
		}
		n.step()
	}
}

func (n *fakeNode) step() {
	ctx := context.Background()
	if n.leader == nil {
		if n.Verify(ctx) != nil {
			return
		}
		l, err := n.service.takeLease(ctx)
		if err != nil {
			return
		}
		n.leader = l
	}
	for range 3 { // due evaluations begin, are taken over, and their messages sent
		err := n.leader.step(ctx)
		n.leader.work.Wait()
		if errors.Is(err, errDeposed) {
			n.leader.end()
			n.leader = nil
			return
		}
	}
}

// kill ends a node at once: nothing that it holds in memory is left.
func (c *fakeCluster) kill(i int) {
	n := c.nodes[i]
	n.dead = true
	n.leader = nil
}

func (c *fakeCluster) restart(i int) {
	n := c.nodes[i]
	c.boot(n)
	n.dead = false
}

// run steps once a second for the time.
func (c *fakeCluster) run(d time.Duration) {
	for ; d > 0; d -= time.Second {
		c.meta.advance(time.Second)
		c.step()
	}
}

func (c *fakeCluster) messages() []delivered {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

func (c *fakeCluster) put(name, body string) {
	c.t.Helper()
	if _, _, err := c.nodes[0].service.PutFile(context.Background(), name, FileChange{Body: &body}, By{Actor: "ada"}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *fakeCluster) route(body string) {
	c.t.Helper()
	if _, err := c.nodes[0].service.PutRoutes(context.Background(), []byte(body), 0, By{Actor: "ada"}); err != nil {
		c.t.Fatal(err)
	}
}

const testRoutes = `
route: {receiver: ops, group_by: [alertname], group_wait: 5s, group_interval: 10s, repeat_interval: 1h}
receivers:
  - name: ops
    webhook_configs: [{url: "http://ops.example/"}]
  - name: boss
    webhook_configs: [{url: "http://boss.example/"}]
`

const testRules = `
groups:
  - name: g
    interval: 5s
    rules:
      - {alert: Hot, expr: temperature > 30, for: 30s, labels: {severity: warning}, annotations: {summary: "{{ $labels.room }} has {{ $value }}"}}
      - {alert: Down, expr: up == 0, labels: {severity: critical}}
`
