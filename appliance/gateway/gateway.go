// Package gateway is the listener that agents talk to (8001): it authenticates an agent, bounds what it sends,
// decodes and checks every batch, and proposes it. It keeps no state of its own: what it answers was decided by
// the state machine (DESIGN D4, D5), so any number of gateways may serve one agent in turn.
//
// It promises that a batch is acknowledged only when its entry is committed, and that no request takes more
// memory than the limits in Options. It must not import the stores or the browser's API.
package gateway

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/agentconfig"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pipeline"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// Cluster is the replicated log as the gateway needs it.
type Cluster interface {
	// Propose returns when the commands are applied on the leader: their results and the index of their entry.
	Propose(ctx context.Context, cmds ...command.Command) (index uint64, results []command.Result, err error)
	// ReadIndex returns an index that holds everything acknowledged before the call.
	ReadIndex(ctx context.Context) (uint64, error)
	// WaitApplied returns when this node has applied index.
	WaitApplied(ctx context.Context, index uint64) error
}

// State is this node's copy of the metadata.
type State interface {
	Get(bucket, key string) (meta.Value, bool)
	Scan(bucket, prefix string, fn func(key string, v meta.Value) bool)
	// LastSeqs returns the last sequence of each lane in an open epoch, and how the epoch stands.
	LastSeqs(agent string, e wire.Epoch) (last map[wire.Lane]uint64, state meta.EpochState)
	LogTime() int64
}

// Auth redeems tokens and keeps the records of agents.
type Auth interface {
	// CheckJoin returns the token when it could be redeemed now from that address, else an auth.ErrToken that says why.
	CheckJoin(kind auth.JoinKind, token string, from netip.Addr) (auth.JoinToken, error)
	// Redeem counts one use of the token and applies the changes with it, or neither (auth.ErrToken).
	Redeem(ctx context.Context, kind auth.JoinKind, token string, with auth.Txn) error
	// Agent returns the agent's record as this node has applied it, or auth.ErrNotFound. It must not be changed.
	Agent(id string) (rec *auth.Agent, mod uint64, err error)
	// RenewAgent makes serial the agent's newest certificate; auth.ErrUnauthenticated when the one shown is not good.
	RenewAgent(ctx context.Context, id, shown, serial string, expires int64) error
}

// Certificates are the CAs of agents.
type Certificates interface {
	// Pool holds the CAs whose certificates agents may show; during a rotation two.
	Pool() *x509.CertPool
	// Sign makes a certificate for the key of the request that names id. A bad request is pki.ErrBadRequest.
	Sign(csrPEM []byte, id string, now time.Time) (certPEM []byte, leaf *x509.Certificate, err error)
}

// GroupConfigs are the configurations of agents by group.
type GroupConfigs interface {
	// For returns what the agents of a group are to have as this node has applied it; version 0 for nothing. It must not
	// be changed.
	For(group string) *agentconfig.Version
}

// Options are the gateway's limits and parts. All fields are needed.
type Options struct {
	Cluster Cluster
	State   State
	Auth    Auth
	Coder   *wire.Coder
	// Decoded is given what batches of lines hold that are proposed as they came, for whoever applies them; nil for nobody.
	Decoded   *wire.Decoded
	ClusterID string
	// Certificates are what agents prove themselves by, NodeCA the PEM of what they check the nodes by.
	Certificates Certificates
	Configs      GroupConfigs
	NodeCA       []byte
	// Redactor masks secrets in lines before they are proposed; nil masks nothing.
	Redactor *pipeline.Redactor
	Intake   Intake // of the JSON lists
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	// Problem turns an error of the cluster into an answer.
	Problem func(error) *problem.Problem
	// Unusable says why nobody is judged by State now: it is older than what this node has shown. Nil, or nil returned: it may
	// be.
	Unusable func() error
	// OnCloned is told that another spool sends under an agent's identity. It must not block; nil tells nobody.
	OnCloned func(agent *auth.Agent)
	// OnOverload is told who sends most, and what part of all bytes, while requests are refused for want of room; once a
	// minute at most. It must not block; nil tells nobody.
	OnOverload func(agent *auth.Agent, part float64)

	Timeout       time.Duration // of one request, from its headers to its answer
	BytesInFlight int64         // at once over all requests: half for bodies as they come, half for what batches unfold to
	RegisterRate  rate.Limit    // registrations and failed logins a second, over all senders
}

// Gateway serves the agents' protocol. Make it with New, mount Handler, end it with Close.
type Gateway struct {
	opts     Options
	bodies   *byteBudget   // as they come, half of all bytes in flight
	decoded  *byteBudget   // what batches unfold to, the other half
	strange  *rate.Limiter // look-ups on behalf of senders that are not known yet
	beats    *heartbeats
	sessions *sessions
	checked  checkedCerts
	together *together // catching up for agents that want their configuration
	failures *failureLog
	busiest  busiest
	met      gatewayMetrics
	buffers  sync.Pool
}

// New makes a gateway and starts the goroutines that pass heartbeats on and watch connections.
func New(opts Options) *Gateway {
	g := &Gateway{
		opts:     opts,
		bodies:   newByteBudget(opts.BytesInFlight / 2),
		decoded:  newByteBudget(opts.BytesInFlight / 2),
		strange:  rate.NewLimiter(opts.RegisterRate, int(opts.RegisterRate)*2+1),
		together: newTogether(),
		failures: newFailureLog(),
		met:      newGatewayMetrics(opts.Metrics),
	}
	g.buffers.New = func() any { b := make([]byte, 0, 64<<10); return &b }
	g.beats = newHeartbeats(opts.Cluster, opts.Log)
	g.sessions = newSessions(g)
	return g
}

// Close passes the last heartbeats on and ends the gateway's goroutines. The HTTP server must be shut before.
func (g *Gateway) Close() error {
	g.sessions.close()
	return g.beats.close()
}

// Handler returns the routes of the agents' protocol.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/agent/enroll", g.handle("enroll", g.enroll))
	mux.HandleFunc("POST /agent/register", g.handle("enroll", g.enroll))
	mux.HandleFunc("POST /v1/agent/renew", g.handle("renew", g.renew))
	beat := g.handle("heartbeat", g.asAgent(bodyCost{maxHeartbeatSize, jsonUnfolds}, g.heartbeat))
	mux.HandleFunc("POST /v1/agent/hello", g.handle("hello", g.asAgent(bodyCost{maxHello, jsonUnfolds}, g.hello)))
	mux.HandleFunc("POST /v1/agent/series", g.handle("series", g.asAgent(bodyCost{wire.MaxRequestBody, seriesUnfolds}, g.series)))
	mux.HandleFunc("POST /v1/agent/batches", g.handle("batches", g.asAgent(bodyCost{wire.MaxRequestBody, 1}, g.batches)))
	mux.HandleFunc("POST /v1/agent/heartbeat", beat)
	mux.HandleFunc("POST /agent/heartbeat", beat)
	mux.HandleFunc("GET /agent/config", g.handle("config", g.asAgent(bodyCost{}, g.config)))
	g.messageRoutes(mux)
	mux.HandleFunc("/", g.handle("other", func(http.ResponseWriter, *http.Request) error {
		return problem.New(http.StatusNotFound, "this listener serves agents only").
			WithHint("browsers and the command line use the HTTP listener, port 8443 unless configured otherwise")
	}))
	return mux
}

// sender says in a request's context whose it is, once that is known.
type senderKey struct{}

type sender struct{ agent string }

// handle runs fn with the time limit, counts it, and writes its error.
func (g *Gateway) handle(route string, fn func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		from := &sender{}
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), senderKey{}, from), g.opts.Timeout)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				g.opts.Log.Error("request panicked", "route", route, "agent", from.agent, "panic", p, "stack", string(debug.Stack()))
				problem.New(http.StatusInternalServerError, "the request could not be served").Write(w)
			}
		}()
		code := http.StatusOK
		var err error
		if g.opts.Unusable != nil {
			err = g.opts.Unusable()
		}
		if err == nil {
			err = fn(w, r.WithContext(ctx))
		}
		if err != nil {
			p := g.problem(err)
			switch code = p.Status; {
			case code >= http.StatusInternalServerError:
				g.failures.note(g.opts.Log, route, from.agent, code, err)
			case code == http.StatusTooManyRequests:
				g.tellBusy()
			}
			p.Write(w)
		}
		g.met.requests.WithLabelValues(route, statusClass(code)).Inc()
		g.met.duration.WithLabelValues(route).Observe(time.Since(start).Seconds())
	}
}

// failureLog says in the node's log what could not be served. While a cluster has no leader every agent fails, so what
// comes too fast is only counted.
type failureLog struct {
	limit   *rate.Limiter
	skipped atomic.Int64
}

func newFailureLog() *failureLog { return &failureLog{limit: rate.NewLimiter(1, 20)} }

func (f *failureLog) note(log *slog.Logger, route, agent string, status int, err error) {
	if !f.limit.Allow() {
		f.skipped.Add(1)
		return
	}
	log.Warn("request of an agent failed", "route", route, "agent", agent, "status", status, "err", err, "not_logged", f.skipped.Swap(0))
}

func statusClass(code int) string { return fmt.Sprintf("%dxx", code/100) }

func (g *Gateway) problem(err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem.Wrap(http.StatusRequestEntityTooLarge, err)
	}
	if errors.Is(err, wire.ErrMalformed) || errors.Is(err, wire.ErrRawLength) {
		return problem.Wrap(http.StatusBadRequest, err)
	}
	return g.opts.Problem(err)
}

// readJSON reads a JSON body of at most limit bytes into v; unknown members are ignored, so that a newer agent
// can talk to an older gateway.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	if err := wantType(r, "application/json"); err != nil {
		return err
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	if err := d.Decode(v); err != nil {
		return badJSON(d, err)
	}
	return endOfJSON(d)
}

// badJSON is the answer to a body that could not be decoded, for whatever reason.
func badJSON(d *json.Decoder, err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	if tooSlow(err) {
		return errTooSlow(d.InputOffset())
	}
	return problem.New(http.StatusBadRequest, fmt.Sprintf("body is not the JSON expected: %v (at byte %d)", err, d.InputOffset()))
}

func endOfJSON(d *json.Decoder) error {
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return problem.New(http.StatusBadRequest, fmt.Sprintf("something follows the JSON value at byte %d", d.InputOffset()))
	}
	return nil
}

// tooSlow reports whether a body did not come within the time for reading it.
func tooSlow(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

func errTooSlow(after int64) error {
	return problem.New(http.StatusRequestTimeout, fmt.Sprintf("the body did not come in time: %d bytes of it were read", after)).
		WithHint("the network between agent and node is slow, or the node has too much to do")
}

func wantType(r *http.Request, want string) error {
	if got, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); got != want {
		return problem.New(http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Type is %.100q, this needs %q", r.Header.Get("Content-Type"), want))
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the client is gone: it will ask again
	return nil
}

// readWhole reads a request body of at most limit bytes into buf, which it returns grown.
func readWhole(w http.ResponseWriter, r *http.Request, limit int64, buf []byte) ([]byte, error) {
	body := http.MaxBytesReader(w, r.Body, limit)
	if n := r.ContentLength; n > 0 && n <= limit && int64(cap(buf)) < n {
		buf = make([]byte, 0, n)
	}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				return buf, err
			}
			if tooSlow(err) {
				return buf, errTooSlow(int64(len(buf)))
			}
			return buf, problem.New(http.StatusBadRequest, fmt.Sprintf("body broke off after %d bytes: %v", len(buf), err))
		}
	}
}

// bodyCost is what a route's body may take: its length at most, and how many times that is held once it is decoded.
type bodyCost struct{ most, unfolds int64 }

// jsonUnfolds is that factor for the small JSON bodies.
const jsonUnfolds = 4

// of is what the body of a request takes, as far as its header says.
func (c bodyCost) of(r *http.Request) int64 {
	n := r.ContentLength
	if n < 0 || n > c.most {
		n = c.most
	}
	return n * c.unfolds
}

// take charges bytes to a budget until release is called; the error tells the sender to wait. To refuse costs more than
// to let wait a while, since the sender comes again and a connection ends with what was not read of a body. Who holds of
// bodies may wait for decoded, never the other way round.
func (g *Gateway) take(ctx context.Context, b *byteBudget, n int64) (release func(), err error) {
	held, ok := b.take(ctx, n)
	if !ok {
		g.met.busy.Inc()
		return nil, problem.New(http.StatusTooManyRequests, "this node holds as many bytes in flight as it may").WithRetryAfter(time.Second)
	}
	return func() { b.give(held) }, nil
}

type gatewayMetrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	batches  *prometheus.CounterVec
	samples  *prometheus.CounterVec
	bytes    prometheus.Counter
	busy     prometheus.Counter
}

func newGatewayMetrics(reg prometheus.Registerer) gatewayMetrics {
	m := gatewayMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_gateway_requests_total", Help: "Requests of agents by route and class of status.",
		}, []string{"route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "triward_gateway_request_duration_seconds", Help: "Time to answer an agent's request.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"route"}),
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_gateway_batches_total", Help: "Batches by lane and outcome.",
		}, []string{"lane", "status"}),
		samples: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_gateway_items_total", Help: "Samples and lines by lane and outcome.",
		}, []string{"lane", "outcome"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_gateway_received_bytes_total", Help: "Bytes of batches received, as on the wire.",
		}),
		busy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_gateway_refused_busy_total", Help: "Requests answered 429 because too many bytes were in flight.",
		}),
	}
	reg.MustRegister(m.requests, m.duration, m.batches, m.samples, m.bytes, m.busy)
	return m
}
