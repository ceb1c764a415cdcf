package ui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/agent/wire"
)

// gate lets in whoever names a user in the header X-User, until they are thrown out.
type gate struct {
	mu      sync.Mutex
	out     map[string]bool
	roles   map[string]string
	changes chan struct{}
}

func newGate() *gate {
	return &gate{out: map[string]bool{}, roles: map[string]string{}, changes: make(chan struct{}, 1)}
}

func (g *gate) Viewer(r *http.Request) (Viewer, bool) {
	u := r.Header.Get("X-User")
	return g.Recheck(Viewer{User: u, Role: "viewer", Key: u})
}

func (g *gate) Recheck(v Viewer) (Viewer, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if role, ok := g.roles[v.User]; ok {
		v.Role = role
	}
	return v, v.User != "" && !g.out[v.User]
}

func (g *gate) May(v Viewer, kind string) bool {
	return v.Role == "viewer" && slices.Contains(Kinds(), kind)
}

func (g *gate) Watch() (<-chan struct{}, func()) { return g.changes, func() {} }
func (g *gate) Origins() []string                { return []string{"https://node1:8443"} }

func (g *gate) change(f func()) {
	g.mu.Lock()
	f()
	g.mu.Unlock()
	g.changes <- struct{}{}
}

// hostList is a hosts view that tests set.
type hostList struct {
	mu    sync.Mutex
	rows  map[string]string
	calls int
}

func (h *hostList) set(id, row string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if row == "" {
		delete(h.rows, id)
		return
	}
	h.rows[id] = row
}

func (h *hostList) Hosts(full bool) ([]Host, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	var out []Host
	for id, row := range h.rows {
		out = append(out, Host{ID: id, Row: json.RawMessage(fmt.Sprintf(`{"id":%q,"v":%s,"full":%v}`, id, row, full))})
	}
	slices.SortFunc(out, func(a, b Host) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// ramp answers every query with series whose value is the time in seconds.
type ramp struct {
	mu     sync.Mutex
	calls  map[string]int
	series []string
}

func (r *ramp) QueryRange(_ context.Context, query string, start, end, step int64) ([]Series, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.HasPrefix(query, "bad") {
		return nil, &QueryError{Pos: 3, Message: "unexpected end"}
	}
	if strings.HasPrefix(query, "down") {
		return nil, errors.New("the store is away")
	}
	r.calls[fmt.Sprint(query, end-start)]++
	n := r.series
	if query == "many" {
		n = make([]string, maxLiveSeries+1)
		for i := range n {
			n[i] = fmt.Sprint(i)
		}
	}
	var out []Series
	for _, name := range n {
		s := Series{Labels: map[string]string{"n": name}}
		for t := start; t <= end; t += step {
			s.T = append(s.T, t)
			s.V = append(s.V, float64(t/1000))
		}
		out = append(out, s)
	}
	return out, nil
}

// lines is a log store in memory.
type lines struct {
	mu   sync.Mutex
	rows []Row
	text []string
	gone Position // rows up to here are gone
	// begun is told of each line that is looked at by the query "endless".
	begun chan struct{}
	lack  Lack // of the newest ones
}

func (l *lines) add(pos Position, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = append(l.rows, Row{pos, json.RawMessage(fmt.Sprintf(`{"pos":%q,"text":%q}`, pos, text))})
	l.text = append(l.text, text)
}

type contains string

// endless is at its first line until nobody waits any more.
type endless chan struct{}

func (e endless) Match(ctx context.Context, _ *Line) (json.RawMessage, bool) {
	e <- struct{}{}
	<-ctx.Done()
	return json.RawMessage(`{"text":"void"}`), true
}

func (c contains) Match(_ context.Context, l *Line) (json.RawMessage, bool) {
	return json.RawMessage(fmt.Sprintf(`{"pos":%q,"text":%q}`, l.Pos, l.Text)), strings.Contains(string(l.Text), string(c))
}

func (l *lines) Compile(query string) (Matcher, error) {
	if query == "(" {
		return nil, &QueryError{Pos: 1, Message: "unclosed"}
	}
	if query == "endless" {
		return endless(l.begun), nil
	}
	return contains(query), nil
}

func (l *lines) Newest(_ context.Context, query string, n int) ([]Row, Lack, error) {
	rows, _, err := l.ReadAfter(context.Background(), query, Position{}, 1<<30)
	return rows[max(0, len(rows)-n):], l.lack, err
}

func (l *lines) ReadAfter(_ context.Context, query string, after Position, limit int) ([]Row, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Row
	for i, r := range l.rows {
		if after.Less(r.Pos) && l.gone.Less(r.Pos) && strings.Contains(l.text[i], query) {
			out = append(out, r)
		}
	}
	complete := !after.Less(l.gone) && len(out) <= limit
	return out[:min(limit, len(out))], complete, nil
}

type clusterState struct{ n int }

func (c *clusterState) Cluster(context.Context) (json.RawMessage, error) {
	c.n++
	return json.RawMessage(fmt.Sprintf(`{"n":%d}`, c.n)), nil
}

// bench is a hub with its sources and a server in front of it.
type bench struct {
	t     *testing.T
	hub   *Hub
	gate  *gate
	hosts *hostList
	ramp  *ramp
	lines *lines
	feed  *LineFeed
	url   string
	index uint64
}

func newBench(t *testing.T, change func(*Config)) *bench {
	b := &bench{
		t: t, gate: newGate(), hosts: &hostList{rows: map[string]string{"h1": "1"}},
		ramp: &ramp{calls: map[string]int{}, series: []string{"a"}}, lines: &lines{begun: make(chan struct{}, 1)}, feed: NewLineFeed(),
	}
	cfg := Config{
		Gate: b.gate, Hosts: b.hosts, Ranges: b.ramp, Cluster: &clusterState{}, Tail: b.lines, Events: b.lines, Lines: b.feed,
		Node: "node1", HostsEvery: 20 * time.Millisecond, ClusterEvery: 20 * time.Millisecond,
		TailEvery: 10 * time.Millisecond, Tick: 50 * time.Millisecond, Sweep: time.Hour,
	}
	if change != nil {
		change(&cfg)
	}
	b.hub = NewHub(cfg)
	srv := httptest.NewServer(b.hub)
	b.url = "ws" + strings.TrimPrefix(srv.URL, "http")
	t.Cleanup(func() {
		if err := b.hub.Close(); err != nil {
			t.Error(err)
		}
		srv.Close()
	})
	return b
}

// apply stores lines of one entry and shows them to the feed, as Apply does.
func (b *bench) apply(texts ...string) {
	b.index++
	s := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: "h1"}}}
	for i, text := range texts {
		b.lines.add(Position{b.index, uint32(i)}, text)
		s.Lines = append(s.Lines, wire.LogLine{T: 1, Text: []byte(text)})
	}
	b.feed.Observe(b.index, []wire.LogEntry{{
		Index:   b.index,
		Batches: []wire.AcceptedLogs{{Agent: "a", Batch: &wire.LogBatch{Streams: []wire.LogStream{s}}}},
	}})
}

// client is a connection to the hub.
type client struct {
	t  *testing.T
	ws *websocket.Conn
}

// got is any message of the server.
type got struct {
	Op, ID, Code, Cursor, Node, Message, From, To string
	Lacks                                         Lack
	Seq                                           uint64
	T0, T, Step                                   int64
	Pos                                           *int
	Dropped, Sampled                              int
	Series                                        []struct{ Labels map[string]string }
	V                                             json.RawMessage
	Gone                                          []string
}

func (b *bench) header(user string) http.Header {
	return http.Header{"Origin": {"https://node1:8443"}, "X-User": {user}, "Sec-Websocket-Protocol": {Subprotocol}}
}

func (b *bench) dial(user string) *client {
	b.t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial(b.url, b.header(user))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { ws.Close() })
	c := &client{b.t, ws}
	if w := c.next("welcome"); w.Node != "node1" {
		b.t.Fatalf("%+v", w)
	}
	return c
}

func (c *client) send(msg string) {
	c.t.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, []byte(msg)); err != nil {
		c.t.Fatal(err)
	}
}

// read returns the next message that is no tick of the application.
func (c *client) read() got {
	c.t.Helper()
	for {
		_ = c.ws.SetReadDeadline(time.Now().Add(patience))
		var m got
		_, data, err := c.ws.ReadMessage()
		if err != nil {
			c.t.Fatal(err)
		}
		// In the hosts' snapshot, series are names of columns.
		data = []byte(strings.Replace(string(data), `"series":`+string(hostColumns), `"series":[]`, 1))
		if err := json.Unmarshal(data, &m); err != nil {
			c.t.Fatalf("%s: %v", data, err)
		}
		if m.Op != "tick" {
			return m
		}
	}
}

func (c *client) next(op string) got {
	c.t.Helper()
	m := c.read()
	if m.Op != op {
		c.t.Fatalf("want %s, got %+v %s", op, m, m.V)
	}
	return m
}

func TestConnectionIsRefused(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxConnections, c.MaxPerUser = 3, 2 })
	cases := map[string]struct {
		change func(http.Header)
		want   int
	}{
		"no origin":      {func(h http.Header) { h.Del("Origin") }, 403},
		"empty origin":   {func(h http.Header) { h.Set("Origin", ""); h.Set("Authorization", "Bearer x") }, 403},
		"cookie as well": {func(h http.Header) { h.Del("Origin"); h.Set("Authorization", "Bearer x"); h.Set("Cookie", "a=b") }, 403},
		"token elsewhere": {func(h http.Header) {
			h.Set("Origin", "https://evil.example")
			h.Set("Authorization", "Bearer x")
		}, 403},
		"foreign origin": {func(h http.Header) { h.Set("Origin", "https://evil.example") }, 403},
		"other port":     {func(h http.Header) { h.Set("Origin", "https://node1:8444") }, 403},
		"plain origin":   {func(h http.Header) { h.Set("Origin", "http://node1:8443") }, 403},
		"null origin":    {func(h http.Header) { h.Set("Origin", "null") }, 403},
		"longer origin":  {func(h http.Header) { h.Set("Origin", "https://node1:8443.evil.example") }, 403},
		"two origins":    {func(h http.Header) { h.Add("Origin", "https://node1:8443") }, 403},
		"nobody":         {func(h http.Header) { h.Del("X-User") }, 401},
		"no subprotocol": {func(h http.Header) { h.Del("Sec-Websocket-Protocol") }, 400},
		"other protocol": {func(h http.Header) { h.Set("Sec-Websocket-Protocol", "chat") }, 400},
	}
	refused := func(name string, h http.Header, want int) {
		ws, resp, err := websocket.DefaultDialer.Dial(b.url, h)
		if err == nil {
			ws.Close()
			t.Errorf("%s: let in", name)
			return
		}
		if resp == nil || resp.StatusCode != want {
			t.Errorf("%s: %v, want %d", name, resp, want)
			return
		}
		var p struct {
			Status        int
			Title, Detail string
		}
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Status != want || p.Title == "" || p.Detail == "" ||
			resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %v %+v is no problem document", name, err, p)
		}
	}
	for name, c := range cases {
		h := b.header("ada")
		c.change(h)
		refused(name, h, c.want)
	}
	b.dial("ada")
	b.dial("ada")
	refused("third of one user", b.header("ada"), 429)
	b.dial("bob")
	refused("beyond all", b.header("eve"), 503)
}

// A program shows a token and names no page.
func TestTokenNeedsNoOrigin(t *testing.T) {
	b := newBench(t, nil)
	h := b.header("ada")
	h.Del("Origin")
	h.Set("Authorization", "Bearer x")
	ws, resp, err := websocket.DefaultDialer.Dial(b.url, h)
	if err != nil {
		t.Fatal(resp, err)
	}
	ws.Close()
}

func TestHostsSnapshotAndDelta(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"s1","kind":"hosts"}`)
	snap := c.next("snap")
	if snap.ID != "s1" || string(snap.V) != `[{"id":"h1","v":1,"full":true}]` || snap.Cursor == "" {
		t.Fatalf("%+v %s", snap, snap.V)
	}
	b.hosts.set("h2", "5")
	var d got
	for d = c.next("delta"); string(d.V) == "[]"; d = c.next("delta") {
	}
	if string(d.V) != `[{"id":"h2","v":5,"full":false}]` && string(d.V) != `[{"id":"h1","v":1,"full":false},{"id":"h2","v":5,"full":false}]` {
		t.Fatalf("%s", d.V)
	}
	b.hosts.set("h1", "")
	for d = c.next("delta"); len(d.Gone) == 0; d = c.next("delta") {
	}
	if d.Gone[0] != "h1" {
		t.Fatalf("%+v", d)
	}
	c.send(`{"op":"unsub","id":"s1"}`)
	for m := c.read(); m.Op != "end"; m = c.read() {
	}
}

func TestHostsResumeGetsWhatChanged(t *testing.T) {
	b := newBench(t, nil)
	b.hosts.set("h2", "1")
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"s1","kind":"hosts"}`)
	c.next("snap")
	cursor := c.next("delta").Cursor
	c.ws.Close()
	b.hosts.set("h2", "7")
	c = b.dial("ada")
	c.send(`{"op":"sub","id":"s9","kind":"hosts","cursor":"` + cursor + `"}`)
	for {
		m := c.next("delta")
		if strings.Contains(string(m.V), `"v":7`) {
			if strings.Contains(string(m.V), "h1") {
				t.Fatalf("h1 has not changed: %s", m.V)
			}
			break
		}
	}
	c.send(`{"op":"sub","id":"s2","kind":"hosts","cursor":"0000:5"}`)
	for m := c.read(); m.ID != "s2"; m = c.read() {
	}
}

func TestClusterIsSentBare(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"c","kind":"cluster","params":{}}`)
	if m := c.next("snap"); !strings.HasPrefix(string(m.V), `{"n":`) {
		t.Fatalf("%s", m.V)
	}
	if m := c.next("delta"); !strings.HasPrefix(string(m.V), `{"n":`) {
		t.Fatalf("%s", m.V)
	}
}

func TestPromSnapshotAndTicksJoinWithoutHole(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"p","kind":"promql","params":{"query":"up","step":1000,"window":10000}}`)
	snap := c.next("snap")
	var v [][]float64
	if err := json.Unmarshal(snap.V, &v); err != nil || len(v) != 1 || len(v[0]) != 11 || snap.Step != 1000 {
		t.Fatalf("%+v %s", snap, snap.V)
	}
	if snap.T0 != int64(v[0][0])*1000 || snap.Series[0].Labels["n"] != "a" {
		t.Fatalf("%+v", snap)
	}
	last := int64(v[0][10])
	d := c.next("delta")
	if string(d.V) != fmt.Sprintf("[%d]", last+1) || d.T != (last+1)*1000 || d.Series != nil || d.Cursor != fmt.Sprint(d.T) {
		t.Fatalf("after %d: %+v %s", last, d, d.V)
	}
	// It goes on from its cursor with another connection.
	c.ws.Close()
	c = b.dial("ada")
	c.send(`{"op":"sub","id":"p2","kind":"promql","params":{"query":"up","step":1000,"window":10000},"cursor":"` + d.Cursor + `"}`)
	next := c.next("delta")
	if next.T != d.T+1000 || len(next.Series) != 1 {
		t.Fatalf("%+v", next)
	}
}

func TestPromSeriesSetChanges(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"p","kind":"promql","params":{"query":"up","step":1000,"window":1000}}`)
	c.next("snap")
	b.ramp.mu.Lock()
	b.ramp.series = []string{"b"}
	b.ramp.mu.Unlock()
	for {
		d := c.next("delta")
		if len(d.Series) == 0 {
			continue
		}
		last := d.Series[len(d.Series)-1].Labels["n"]
		if last != "b" || !strings.HasSuffix(string(d.V), fmt.Sprintf("%d]", d.T/1000)) {
			t.Fatalf("%+v %s", d, d.V)
		}
		return
	}
}

func TestSubscriptionIsRefused(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxSubs = 3; c.MaxTopics = 2 })
	c := b.dial("ada")
	cases := []struct{ msg, code string }{
		{`[]`, codeBadMessage},
		{`{`, codeBadMessage},
		{`{"op":"dance","id":"x"}`, codeBadMessage},
		{`{"op":"sub","kind":"hosts"}`, codeBadMessage},
		{`{"op":"sub","id":"` + strings.Repeat("x", 65) + `","kind":"hosts"}`, codeBadMessage},
		{`{"op":"sub","id":"x","kind":"secrets"}`, codeUnknownKind},
		{`{"op":"sub","id":"x","kind":"promql"}`, codeBadParams},
		{`{"op":"sub","id":"x","kind":"promql","params":{"query":"up","step":10,"window":1}}`, codeBadParams},
		{`{"op":"sub","id":"x","kind":"promql","params":{"query":"up","step":1000,"window":-1}}`, codeBadParams},
		{`{"op":"sub","id":"x","kind":"promql","params":{"query":"up","step":1000,"window":9000000000}}`, codeBadParams},
		{`{"op":"sub","id":"x","kind":"promql","params":{"query":"` + strings.Repeat("(", 20000) + `","step":1000,"window":1}}`, codeBadParams},
		{`{"op":"sub","id":"x","kind":"promql","params":{"query":"bad","step":1000,"window":1000}}`, codeBadQuery},
		{`{"op":"sub","id":"x","kind":"promql","params":{"query":"down","step":1000,"window":1000}}`, codeUnavailable},
		{`{"op":"sub","id":"x","kind":"promql","params":{"query":"many","step":1000,"window":1000}}`, codeLimit},
		{`{"op":"sub","id":"x","kind":"logs.tail","params":{"query":"(","backlog":1}}`, codeBadQuery},
		{`{"op":"sub","id":"x","kind":"logs.tail","params":{"backlog":1000}}`, codeBadParams},
		{`{"op":"sub","id":"x","kind":"logs.tail","params":{},"cursor":"here"}`, codeBadParams},
		{`{"op":"sub","id":"x","kind":"logs.tail","params":[]}`, codeBadParams},
		{`{"op":"sub","id":"x","kind":"hosts","params":[1]}`, codeBadParams},
	}
	b.hub.cfg.MaxTopics = 100 // topics that failed linger
	for _, k := range cases {
		c.send(k.msg)
		m := c.next("err")
		if m.Code != k.code || m.Message == "" {
			t.Errorf("%.80s: %+v", k.msg, m)
		}
		if k.code == codeBadQuery && m.Pos == nil {
			t.Errorf("%.80s: without position", k.msg)
		}
		if m.ID != "" && k.code != codeBadMessage {
			c.next("end")
		}
	}
}

func TestSubscriptionsOfAConnectionAreBounded(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxSubs = 2 })
	c := b.dial("ada")
	for i := range 3 {
		c.send(fmt.Sprintf(`{"op":"sub","id":"%d","kind":"cluster"}`, i))
	}
	for {
		if m := c.read(); m.Op == "err" {
			if m.Code != codeLimit || m.ID != "2" {
				t.Fatalf("%+v", m)
			}
			return
		}
	}
}

func TestIDIsInUse(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"x","kind":"cluster"}`)
	c.next("snap")
	c.send(`{"op":"sub","id":"x","kind":"hosts"}`)
	for m := c.read(); ; m = c.read() {
		if m.Op == "err" {
			break
		}
		if m.Op != "delta" {
			t.Fatalf("%+v", m)
		}
	}
	c.next("delta") // the first goes on
}

func TestConnectionEndsWithItsSession(t *testing.T) {
	b := newBench(t, nil)
	ada, bob := b.dial("ada"), b.dial("bob")
	b.gate.change(func() { b.gate.out["ada"] = true })
	_ = ada.ws.SetReadDeadline(time.Now().Add(patience)) // the next sweep that nobody asks for is in an hour
	for {
		if _, _, err := ada.ws.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
				t.Fatal(err)
			}
			break
		}
	}
	bob.send(`{"op":"sub","id":"x","kind":"cluster"}`)
	bob.next("snap")
}

func TestRoleChangeEndsSubscriptions(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"x","kind":"cluster"}`)
	c.next("snap")
	b.gate.change(func() { b.gate.roles["ada"] = "ingest" })
	for {
		m := c.read()
		if m.Op == "err" {
			if m.Code != codeForbidden {
				t.Fatalf("%+v", m)
			}
			break
		}
	}
	c.next("end")
	c.send(`{"op":"sub","id":"y","kind":"hosts"}`)
	if m := c.next("err"); m.Code != codeForbidden {
		t.Fatalf("%+v", m)
	}
}

func TestHugeMessageEndsTheConnection(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	_ = c.ws.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("x", readLimit+1)))
	_ = c.ws.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, _, err := c.ws.ReadMessage(); err != nil {
			return
		}
	}
}

func TestApplicationTick(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	_ = c.ws.SetReadDeadline(time.Now().Add(patience))
	_, data, err := c.ws.ReadMessage()
	if err != nil || !strings.HasPrefix(string(data), `{"op":"tick","t":`) {
		t.Fatalf("%s %v", data, err)
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	b := newBench(t, nil)
	b.dial("ada")
	for range 2 {
		if err := b.hub.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClientThatDoesNotReadIsClosed(t *testing.T) {
	b := newBench(t, func(c *Config) { c.WriteTimeout = 200 * time.Millisecond; c.TailRate = 1e6 })
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"l","kind":"logs.tail","params":{"query":"","backlog":0}}`)
	c.next("snap")
	text := strings.Repeat("x", 10_000)
	waitFor(t, func() bool { // the client reads nothing more
		b.apply(text, text, text, text, text, text, text, text, text, text)
		b.hub.mu.Lock()
		defer b.hub.mu.Unlock()
		for key, tp := range b.hub.topics {
			if !strings.HasPrefix(key, KindTail) {
				continue
			}
			tp := tp.(*tailTopic)
			tp.mu.Lock()
			for s := range tp.subs {
				if s.bytes > tailBytes || len(s.pending) > tailPending {
					t.Errorf("%d rows of %d bytes wait", len(s.pending), s.bytes)
				}
			}
			tp.mu.Unlock()
		}
		return len(b.hub.conns) == 0
	})
}
