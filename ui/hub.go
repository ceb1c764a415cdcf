package ui

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
)

// Config of a Hub. Sources left nil make their kind answer "unavailable". Zero numbers take the defaults named.
type Config struct {
	Gate    Gate
	Hosts   HostsSource
	Ranges  RangeQuerier
	Cluster ClusterSource
	Alerts  AlertsSource
	Agents  AgentsSource
	Tail    TailSource
	Events  TailSource // of events; nothing of them is left out
	Lines   *LineFeed  // where tails get new lines from; fed by the App's observer

	Node string       // this node's id, told to clients
	Log  *slog.Logger // default: discards
	// Registerer takes the hub's metrics; nil for none.
	Registerer prometheus.Registerer

	MaxConnections int           // 2000
	MaxPerUser     int           // 100 connections
	MaxSubs        int           // 64 subscriptions of a connection
	MaxTopics      int           // 512 different subscriptions evaluated at once
	Ping           time.Duration // 20 s
	Tick           time.Duration // 5 s: the application's tick
	HostsEvery     time.Duration // 5 s
	ClusterEvery   time.Duration // 2 s
	AlertsEvery    time.Duration // 1 s
	AgentsEvery    time.Duration // 2 s
	TailEvery      time.Duration // 200 ms: how long lines are gathered into one message
	TailRate       int           // 200 rows a second for a client
	WriteTimeout   time.Duration // 5 s
	Linger         time.Duration // 60 s: how long a topic without subscribers goes on, for those who resume
	Sweep          time.Duration // 1 s: how often sessions are looked up again at least
}

func (c *Config) defaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.MaxConnections, 2000)
	setDefault(&c.MaxPerUser, 100)
	setDefault(&c.MaxSubs, 64)
	setDefault(&c.MaxTopics, 512)
	setDefault(&c.Ping, 20*time.Second)
	setDefault(&c.Tick, 5*time.Second)
	setDefault(&c.HostsEvery, 5*time.Second)
	setDefault(&c.ClusterEvery, 2*time.Second)
	setDefault(&c.AlertsEvery, time.Second)
	setDefault(&c.AgentsEvery, 2*time.Second)
	setDefault(&c.TailEvery, 200*time.Millisecond)
	setDefault(&c.TailRate, 200)
	setDefault(&c.WriteTimeout, 5*time.Second)
	setDefault(&c.Linger, time.Minute)
	setDefault(&c.Sweep, time.Second)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

const (
	readLimit  = 64 << 10 // a client's message
	ringTicks  = 120      // ticks kept for those who resume
	maxControl = 256      // messages of the connection itself that wait for a slow reader
)

// Hub is the http.Handler of the live socket. It owns the connections and the topics that they subscribe to.
type Hub struct {
	cfg      Config
	epoch    string // of this process: cursors that mean nothing elsewhere carry it
	upgrader websocket.Upgrader
	metrics  *hubMetrics

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // connections, topics, the sweep
	starts chan struct{}  // places to evaluate first answers

	mu      sync.Mutex
	closed  bool
	conns   map[*conn]struct{}
	perUser map[string]int
	topics  map[string]topic // by what they evaluate
}

// topic is something evaluated once for all that subscribe to it. A topic runs until it had no subscriber for the
// linger time.
type topic interface {
	// run evaluates until ctx ends or idle says that nobody is left.
	run(ctx context.Context)
	// idle reports whether nobody is subscribed and the linger time is over. Called with the hub's lock held.
	idle(now time.Time) bool
}

// NewHub starts a hub. Close ends it.
func NewHub(cfg Config) *Hub {
	cfg.defaults()
	ctx, cancel := context.WithCancel(context.Background())
	var id [8]byte
	rand.Read(id[:])
	h := &Hub{
		cfg:     cfg,
		epoch:   hex.EncodeToString(id[:]),
		ctx:     ctx,
		cancel:  cancel,
		starts:  make(chan struct{}, 8),
		conns:   make(map[*conn]struct{}),
		perUser: make(map[string]int),
		topics:  make(map[string]topic),
	}
	h.upgrader = websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second,
		Subprotocols:     []string{Subprotocol},
		CheckOrigin:      func(*http.Request) bool { return true }, // ServeHTTP has looked already
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			refuse(w, status, reason.Error())
		},
		WriteBufferPool: &sync.Pool{},
		WriteBufferSize: 8 << 10,
		ReadBufferSize:  1 << 10,
	}
	h.metrics = newHubMetrics(cfg.Registerer, h)
	h.work.Go(h.sweep)
	return h
}

// Close ends every connection and topic and waits for them. It is idempotent.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	for c := range h.conns {
		c.stop(websocket.CloseGoingAway, "the node is stopping")
	}
	h.mu.Unlock()
	h.cancel()
	h.work.Wait()
	return nil
}

// refuse answers with a problem document (RFC 9457), as every API of the node does: a request that does not become a
// socket, or a file that is not there.
func refuse(w http.ResponseWriter, status int, why string) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		h.Set("Retry-After", "5")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // the client is gone: nobody is left to tell
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(status), status, why})
}

// ServeHTTP checks origin, session and subprotocol, upgrades the connection and serves it until it ends.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.ours(r) {
		refuse(w, http.StatusForbidden, "the page's origin is not one of this cluster; open the page by an address of the cluster")
		return
	}
	viewer, ok := h.cfg.Gate.Viewer(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, "log in first")
		return
	}
	if !slices.Contains(websocket.Subprotocols(r), Subprotocol) {
		refuse(w, http.StatusBadRequest, "want the websocket subprotocol "+Subprotocol)
		return
	}
	c := newConn(r.Context(), h, viewer)
	if err := h.admit(c); err != nil {
		refuse(w, err.status, err.text)
		return
	}
	defer h.leave(c)
	ws, err := h.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	c.serve(ws)
}

// ours reports whether the request comes from a page of this cluster, or from no page at all: browsers send the Origin
// always, and what they would misuse is the cookie. A program that shows a token and no cookie has nothing that a
// foreign page could borrow, and need not name a page.
func (h *Hub) ours(r *http.Request) bool {
	origin := r.Header.Values("Origin")
	if len(origin) == 0 {
		return r.Header.Get("Authorization") != "" && r.Header.Get("Cookie") == ""
	}
	return len(origin) == 1 && slices.Contains(h.cfg.Gate.Origins(), origin[0])
}

type refusal struct {
	status int
	text   string
}

// admit takes a place for the connection.
func (h *Hub) admit(c *conn) *refusal {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return &refusal{http.StatusServiceUnavailable, "the node is stopping"}
	case len(h.conns) >= h.cfg.MaxConnections:
		return &refusal{http.StatusServiceUnavailable, "this node has as many live connections as it can hold; use another"}
	case h.perUser[c.viewer.User] >= h.cfg.MaxPerUser:
		return &refusal{http.StatusTooManyRequests, "this user has too many live connections; close some pages"}
	}
	h.conns[c] = struct{}{}
	h.perUser[c.viewer.User]++
	h.work.Add(1)
	return nil
}

func (h *Hub) leave(c *conn) {
	h.mu.Lock()
	delete(h.conns, c)
	if h.perUser[c.user]--; h.perUser[c.user] <= 0 {
		delete(h.perUser, c.user)
	}
	h.mu.Unlock()
	h.work.Done()
}

// errTopics says that too many different subscriptions are evaluated already.
var errTopics = errors.New("this node evaluates as many different live queries as it can; close some panels")

// join returns the topic of the key, starting the one that make returns when there is none, and attaches to it
// before it can be found idle.
func (h *Hub) join(key string, make func() topic, attach func(topic)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.topics[key]
	if !ok {
		if h.closed {
			return errors.New("the node is stopping")
		}
		if len(h.topics) >= h.cfg.MaxTopics {
			return errTopics
		}
		t = make()
		h.topics[key] = t
		h.work.Go(func() {
			ctx, cancel := context.WithCancel(h.ctx)
			defer cancel()
			t.run(ctx)
		})
	}
	attach(t)
	return nil
}

// retire takes the topic out when nobody needs it any more and reports whether it did; its run then returns.
func (h *Hub) retire(key string, t topic) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !t.idle(time.Now()) {
		return false
	}
	delete(h.topics, key)
	return true
}

// sweep looks every session up again once a second and whenever one may have changed.
func (h *Hub) sweep() {
	changes, stop := h.cfg.Gate.Watch()
	defer stop()
	ticker := time.NewTicker(h.cfg.Sweep)
	defer ticker.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-changes:
		case <-ticker.C:
		}
		h.recheck()
	}
}

func (h *Hub) recheck() {
	h.mu.Lock()
	conns := make([]*conn, 0, len(h.conns))
	for c := range h.conns {
		conns = append(conns, c)
	}
	h.mu.Unlock()
	type answer struct {
		viewer Viewer
		ok     bool
	}
	known := make(map[Viewer]answer)
	for _, c := range conns {
		was := c.currentViewer()
		a, asked := known[was]
		if !asked {
			a.viewer, a.ok = h.cfg.Gate.Recheck(was)
			known[was] = a
		}
		switch {
		case !a.ok:
			c.stop(websocket.ClosePolicyViolation, "the session has ended")
		case a.viewer != was:
			c.setViewer(a.viewer)
		}
	}
}

// hubMetrics are what an operator sees of the hub.
type hubMetrics struct {
	messages *prometheus.CounterVec
	dropped  *prometheus.CounterVec
}

func newHubMetrics(reg prometheus.Registerer, h *Hub) *hubMetrics {
	m := &hubMetrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_live_messages_total",
			Help: "Messages sent on live sockets.",
		}, []string{"kind"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_live_dropped_total",
			Help: "Ticks and rows that slow readers were not sent.",
		}, []string{"kind"}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.messages, m.dropped,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "triward_live_connections",
			Help: "Live sockets that are open.",
		}, func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(len(h.conns))
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "triward_live_topics",
			Help: "Different live subscriptions being evaluated.",
		}, func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(len(h.topics))
		}))
	return m
}
