package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/triward/triward/appliance/agentconfig"
	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/api/answers"
	"github.com/triward/triward/appliance/api/lokiapi"
	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/queue"
)

// Config of an API.
type Config struct {
	Auth    *auth.Service
	Reads   Reads
	Logs    Logs
	Events  Events
	Fleet   Fleet
	Cluster Cluster
	Alerts  *alerting.Service
	// AgentConfigs are the configurations of agents by group.
	AgentConfigs *agentconfig.Service
	// Snapshots makes backups.
	Snapshots Snapshots
	// LogArchive archives lines and brings them back.
	LogArchive LogArchive
	// Audit is the audit log as this node holds it.
	Audit *auditlog.Log
	// Retention knows how long data is kept.
	Retention Retention
	// AgentCAs are the CAs that sign agents' certificates.
	AgentCAs AgentCAs
	// Queue is the log as consumers see it.
	Queue *queue.Service
	// Integrity compares the nodes and knows of damage.
	Integrity Integrity
	// Membership changes who is a member.
	Membership Membership
	// Upgrades raises the cluster's format.
	Upgrades Upgrades
	// Keys rotates the key that seals secrets.
	Keys Keys
	// Repairs takes the orders of operators.
	Repairs Repairs
	// Asking returns the context of what somebody asks, by which the stores tell askers apart; nil: they do not.
	Asking func(ctx context.Context, who auth.Principal) context.Context
	// Unusable says why nothing is answered now, to anybody but strangers; nil, or nil returned: everything is.
	Unusable func() error
	Checks   []Check // parts of the node for /-/healthy and /-/ready

	Prometheus http.Handler // /api/v1/; nil answers 404
	Loki       http.Handler // /loki/api/v1/ but push; nil answers 404
	Live       http.Handler // /v1/live
	Assets     http.Handler // everything else
	Metrics    http.Handler // /metrics
	Intake     Intake       // what senders push; nil answers 404

	// Errors are answers for errors of the parts, looked at before this package's own.
	Errors []problem.Rule
	// Origins are further origins ("https://host:port") whose pages count as ours, beside the members'.
	Origins []string

	BodyBytes int64 // bodies held at once over all requests, decoded; 64 MiB when 0
	// Answers bounds large answers that are being sent; nil makes room for 256 MiB.
	Answers *answers.Room

	Log        *slog.Logger          // default: discards
	Registerer prometheus.Registerer // nil for no metrics
}

const (
	defaultTimeout = 30 * time.Second
	defaultMaxBody = 64 << 10
	defaultBodies  = 64 << 20
	bodyUnfolds    = 4               // times its length that a body is held once it is decoded
	strangersShare = 8               // bodies of routes that anybody may call are held beside, in this part of BodyBytes
	maxStreams     = 100             // requests that one connection may have under way; a page has some twenty
	longestAnswer  = 6 * time.Minute // more than the longest ?timeout=
	// IndexHeader tells how far the node was when it answered: whoever asks another node for at least that index sees
	// all that this answer showed, and what this request wrote.
	IndexHeader = "X-Triward-Index"
	// RequestIDHeader names the request in the node's log.
	RequestIDHeader = "X-Request-Id"
)

// API is the handler of port 8443. It is safe for concurrent use.
type API struct {
	cfg     Config
	log     *slog.Logger
	mux     *http.ServeMux
	rules   []problem.Rule
	methods map[string][]string // by path
	bodies  bodyRoom
	// strangers is the room of routes that need no identity, so that nobody unknown can keep senders and users out by
	// sending slowly.
	strangers bodyRoom
	doc       []byte // the OpenAPI description
	took      *prometheus.HistogramVec
	// caughtUp says that since its start this node has held once all that was committed, so that it knows its users.
	caughtUp atomic.Bool
}

// bodyRoom bounds the bodies that are held at once.
type bodyRoom struct {
	held *semaphore.Weighted
	size int64
}

func newBodyRoom(size int64) bodyRoom { return bodyRoom{semaphore.NewWeighted(size), size} }

// cost is what a body takes while its request is served. One that is larger than all there is has it when it is alone.
func (b *bodyRoom) cost(length, most int64) int64 {
	if length < 0 || length > most {
		length = most
	}
	return min(length*bodyUnfolds, b.size)
}

// New builds the handler from the table of routes.
func New(cfg Config) (*API, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.BodyBytes == 0 {
		cfg.BodyBytes = defaultBodies
	}
	if cfg.Answers == nil {
		cfg.Answers = answers.NewRoom(0)
	}
	a := &API{cfg: cfg, log: cfg.Log, mux: http.NewServeMux(), methods: make(map[string][]string)}
	a.bodies, a.strangers = newBodyRoom(cfg.BodyBytes), newBodyRoom(cfg.BodyBytes/strangersShare)
	a.rules = slices.Concat(cfg.Errors, alertErrorRules(), agentConfigErrors(), queueErrors(), logArchiveErrors(), errorRules())
	a.took = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "triward_http_request_duration_seconds",
		Help:    "Time to answer requests on the API listener.",
		Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60},
	}, []string{"route", "code"})
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(a.took); err != nil {
			return nil, fmt.Errorf("register metrics of the API: %w", err)
		}
	}
	routes := Routes()
	for i := range routes {
		r := &routes[i]
		if r.Permission == auth.Undeclared {
			return nil, fmt.Errorf("route %s %s declares no permission", r.Method, r.Path)
		}
		a.methods[r.Path] = append(a.methods[r.Path], r.Method)
		pattern := r.Method + " " + r.Path
		if r.Path == "/" {
			pattern = r.Path // the page answers for its methods itself
		}
		a.mux.Handle(pattern, a.handler(r))
	}
	for path := range a.methods {
		if path != "/" && path != remoteWritePath { // the last is below another one that answers for all methods
			a.mux.Handle(path, a.wrongMethod(path))
		}
	}
	for _, below := range []string{"/v1/", "/-/", "/loki/"} {
		a.mux.Handle(below, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			problem.New(http.StatusNotFound, "there is nothing at "+clip(r.URL.Path, 200)).
				WithHint("see /v1/openapi.json").Write(w)
		}))
	}
	var err error
	if a.doc, err = describe(routes); err != nil {
		return nil, err
	}
	return a, nil
}

// NewServer returns a server for the handler with the time-outs that every listener of the appliance has.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP names the request, keeps panics inside it, refuses writes from foreign pages and finds the route.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var raw [8]byte
	rand.Read(raw[:])
	id := hex.EncodeToString(raw[:])
	w.Header().Set(RequestIDHeader, id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// A client that does not take its answer must not hold it for ever; the live socket sets its own deadlines.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(longestAnswer))
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if v == http.ErrAbortHandler { //nolint:errorlint // the value that net/http panics with
			panic(v)
		}
		a.log.Error("panic while answering", "request", id, "method", r.Method, "path", clip(r.URL.Path, 200), "panic", v,
			"stack", string(debug.Stack()))
		problem.New(http.StatusInternalServerError, "the node met a defect; its log tells more under the request id "+id).Write(w)
	}()
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if !safe && a.crossOrigin().Check(r) != nil {
		problem.New(http.StatusForbidden, "the request comes from a page of another origin").
			WithHint("open the page by an address of this cluster").Write(w)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// Origins returns the origins whose pages count as ours: those of the members and the configured ones.
func (a *API) Origins() []string {
	var out []string
	add := func(raw string) {
		if o := originOf(raw); o != "" && !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	for _, o := range a.cfg.Origins {
		add(o)
	}
	for _, m := range a.cfg.Cluster.Members() {
		add(m.URL)
	}
	return out
}

// crossOrigin returns the check of writes against the members as they are now.
func (a *API) crossOrigin() *http.CrossOriginProtection {
	p := http.NewCrossOriginProtection()
	for _, o := range a.Origins() {
		if err := p.AddTrustedOrigin(o); err != nil {
			a.log.Warn("origin of a member is not usable", "origin", o, "err", err)
		}
	}
	return p
}

// request is one request on its way through a route.
type request struct {
	w   http.ResponseWriter
	r   *http.Request
	p   auth.Principal
	v   values
	id  string
	now time.Time
	// unsure says that it is not known whether this node holds all that was committed before the request.
	unsure bool
	logs   Logs // that a question about lines is for: the store, or a day that was brought back
	room   *answers.Room
}

func (q *request) ctx() context.Context { return q.r.Context() }

// handler is what every route has around it: identity, permission, parameters, bounds, freshness, time-out, errors.
func (a *API) handler(route *Route) http.Handler {
	params := route.Params
	if route.Fresh {
		params = with(params, freshParams...)
	}
	name := route.Method + " " + route.Path
	maxBody := route.MaxBody
	if maxBody == 0 {
		maxBody = defaultMaxBody
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		start := time.Now()
		defer func() {
			if rec.status == 0 && route.Status == http.StatusSwitchingProtocols {
				return // a socket that lived for hours is no slow answer
			}
			a.took.WithLabelValues(name, strconv.Itoa(rec.code())).Observe(time.Since(start).Seconds())
		}()
		q := &request{w: rec, r: r, id: w.Header().Get(RequestIDHeader), now: start, room: a.cfg.Answers}
		if err := a.serve(route, params, maxBody, q); err != nil {
			if route.Never429 {
				err = a.unavailable(err)
			}
			a.fail(q, name, err)
		}
	})
}

func (a *API) serve(route *Route, params []Param, maxBody int64, q *request) error {
	if err := a.identify(route, q); err != nil {
		return err
	}
	if rec, ok := q.w.(*recorder); ok && route.Permission != auth.Public {
		rec.index = a.cfg.Reads.AppliedIndex
	}
	if q.r.Body != nil && q.r.Body != http.NoBody {
		room := &a.bodies
		if route.Permission == auth.Public {
			room = &a.strangers
		}
		cost := room.cost(q.r.ContentLength, maxBody)
		if !room.held.TryAcquire(cost) {
			return fmt.Errorf("bodies of requests: %w", ErrBusy)
		}
		defer room.held.Release(cost)
		q.r.Body = http.MaxBytesReader(q.w, q.r.Body, maxBody)
		// A body that trickles in must not hold the request for ever.
		_ = http.NewResponseController(q.w).SetReadDeadline(q.now.Add(defaultTimeout))
	}
	if a.cfg.Asking != nil && route.Permission != auth.Public {
		q.r = q.r.WithContext(a.cfg.Asking(q.r.Context(), q.p))
	}
	if route.mount != nil {
		h := route.mount(a)
		if h == nil {
			return problem.New(http.StatusNotFound, "this node does not serve "+clip(q.r.URL.Path, 200))
		}
		if route.Fresh {
			if err := a.freshenMounted(q); err != nil {
				return err
			}
		}
		h.ServeHTTP(q.w, q.r)
		return nil
	}
	var err error
	if q.v, err = readParams(q.r.URL.RawQuery, params, q.now); err != nil {
		return err
	}
	timeout := defaultTimeout
	if t := q.v.int("timeout"); t > 0 {
		timeout = time.Duration(t)
	}
	ctx := q.r.Context()
	if !route.Long {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
		q.r = q.r.WithContext(ctx)
	}
	q.w.Header().Set("Cache-Control", "no-store")
	if route.Fresh {
		if err := a.freshen(ctx, q); err != nil {
			return err
		}
	}
	return a.doubted(q, route.serve(a, q))
}

// doubted turns a change down as not possible now, where what refuses it may be out of date: this node could not find out
// whether others know of what it does not find, or of a later version.
func (a *API) doubted(q *request, err error) error {
	if err == nil || !q.unsure || q.r.Method == http.MethodGet {
		return err
	}
	switch a.problemOf(err).Status {
	case http.StatusNotFound, http.StatusConflict, http.StatusGone:
		return fmt.Errorf("%w, so whether it still holds that %q is not known here", ErrNoLeader, err.Error()) // err itself would say the status
	}
	return err
}

// identify finds out who asks and whether they may.
func (a *API) identify(route *Route, q *request) error {
	if a.cfg.Unusable != nil && route.Permission != auth.Public {
		if err := a.cfg.Unusable(); err != nil {
			return err
		}
	}
	p, err := a.cfg.Auth.Authenticate(q.r)
	shown := q.r.Header.Get("Authorization") != "" || q.r.Header.Get("Cookie") != ""
	if err != nil && shown && route.Permission != auth.Public {
		switch allowed := a.cfg.Auth.AllowStranger(auth.RemoteAddr(q.r)); {
		case allowed && a.catchUp(q.r.Context()):
			p, err = a.cfg.Auth.Authenticate(q.r)
		case allowed || !a.caughtUp.Load():
			// A node that was started a moment ago does not know whom the others know. To say 401 would make a sender
			// throw away what it may send in a second.
			return fmt.Errorf("this node cannot say yet whether the session or token is good: %w", ErrNoLeader)
		}
	}
	if route.Permission == auth.Operate || route.Permission == auth.Administer {
		if err == nil && a.behind(q) {
			return problem.New(http.StatusServiceUnavailable, "this node has not caught up with the others yet and does not know whether you may still do this").
				WithHint("use another node, or wait; `triward cluster status` shows how far each is").WithRetryAfter(time.Second)
		}
		if err == nil {
			p, err = a.cfg.Auth.Authenticate(q.r)
		}
	}
	if err != nil && !errors.Is(err, auth.ErrUnauthenticated) {
		return err
	}
	p.Address = addressOf(q.r)
	q.p = p
	if p.Role.Allows(route.Permission) {
		if p.Kind == auth.KindSession {
			a.cfg.Auth.Renew(p)
		}
		return nil
	}
	if err != nil {
		q.w.Header().Set("WWW-Authenticate", `Bearer realm="triward"`)
		return auth.ErrUnauthenticated
	}
	a.cfg.Auth.Refused(p, route.Method+" "+route.Path)
	return fmt.Errorf("role %s, %s wanted: %w", p.Role, route.Permission, auth.ErrForbidden)
}

// catchUpTimeout is how long somebody unknown waits for this node to learn what others have committed.
const catchUpTimeout = time.Second

// behindTimeout is how long who wants to change something waits for a node that is behind.
const behindTimeout = 10 * time.Second

// behind waits until this node holds all that was committed before, and reports whether it does not: on a node that was
// started a moment ago, or is slow, somebody who was kept out or is no administrator any more must not change anything by
// what it still believes. Where no leader says how far that is, as long as this lasts nothing can be changed: it counts
// what is known here, but nobody is refused for what is not.
func (a *API) behind(q *request) bool {
	ask, cancel := context.WithTimeout(q.ctx(), catchUpTimeout)
	index, err := a.cfg.Reads.ReadIndex(ask)
	cancel()
	if q.unsure = err != nil; q.unsure {
		return false
	}
	ctx, cancel := context.WithTimeout(q.ctx(), behindTimeout)
	defer cancel()
	return a.cfg.Reads.WaitApplied(ctx, index) != nil
}

// catchUp waits until this node holds all that was committed before: a session or ticket that another node made a
// moment ago must not look unknown here. It reports whether it got there.
func (a *API) catchUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	index, err := a.cfg.Reads.ReadIndex(ctx)
	if err != nil || a.cfg.Reads.WaitApplied(ctx, index) != nil {
		return false
	}
	a.caughtUp.Store(true)
	return true
}

// freshenMounted reads consistency and min_index from the URL of a request whose other parameters belong to a handler
// that is not ours. Without them the answer is what this node has, as clients of a foreign API expect.
func (a *API) freshenMounted(q *request) error {
	sent, err := url.ParseQuery(q.r.URL.RawQuery)
	if err != nil {
		return nil // the handler says so in its own form
	}
	ours, params := url.Values{}, freshParams[:2]
	for _, p := range params {
		if v, ok := sent[p.Name]; ok {
			ours[p.Name] = v
		}
	}
	if q.v, err = readParams(ours.Encode(), params, q.now); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), defaultTimeout)
	defer cancel()
	return a.freshen(ctx, q)
}

// freshen waits until this node is as far as the request asks.
func (a *API) freshen(ctx context.Context, q *request) error {
	want := uint64(q.v.int("min_index"))
	switch q.v.str("consistency") {
	case "stale":
		q.r = q.r.WithContext(lokiapi.Alone(q.r.Context()))
		return nil
	case "linearizable":
		index, err := a.cfg.Reads.ReadIndex(ctx)
		if err != nil {
			return fmt.Errorf("ask the leader how far the log is: %w", err)
		}
		want = max(want, index)
	}
	if want == 0 {
		return nil
	}
	if err := a.cfg.Reads.WaitApplied(ctx, want); err != nil {
		if ctx.Err() != nil {
			return &lagError{want: want, reached: a.cfg.Reads.AppliedIndex(), err: context.DeadlineExceeded}
		}
		return fmt.Errorf("wait for index %d: %w", want, err)
	}
	return nil
}

// fail answers with the problem that the tables make of the error.
func (a *API) fail(q *request, route string, err error) {
	if rec, ok := q.w.(*recorder); ok && rec.status != 0 {
		a.log.Debug("answer was cut short", "request", q.id, "route", route, "err", err)
		return
	}
	p := a.problemOf(err)
	if p.Status >= 500 {
		a.log.Warn("request failed", "request", q.id, "route", route, "status", p.Status, "err", err)
	}
	p.Write(q.w)
}

func (a *API) wrongMethod(path string) http.Handler {
	allow := strings.Join(a.methods[path], ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		problem.New(http.StatusMethodNotAllowed, r.Method+" is not possible here").WithHint("possible are " + allow).Write(w)
	})
}

// body reads the request's JSON strictly into v.
func (q *request) body(v any) error {
	kind, _, err := mime.ParseMediaType(q.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return problem.New(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	dec := json.NewDecoder(q.r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if tooBig, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return tooBig
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return problem.New(http.StatusRequestTimeout, "the body did not come in time")
		}
		return problem.New(http.StatusBadRequest, "the body is not the JSON that this route takes: "+clip(err.Error(), 200))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return problem.New(http.StatusBadRequest, "there is something after the JSON value of the body")
	}
	return nil
}

// answer writes v as JSON.
func (q *request) answer(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return q.raw(status, data)
}

// raw sends JSON that was made, once there is room for as much as it is while its client takes it.
func (q *request) raw(status int, data []byte) error {
	release, err := q.room.Hold(q.ctx(), int64(len(data)))
	if errors.Is(err, answers.ErrFull) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return fmt.Errorf("send the answer: %w", err)
	}
	defer release()
	h := q.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	q.w.WriteHeader(status)
	_, err = answers.NewWriter(q.w).Write(data)
	return err
}

// recorder remembers the status that was sent, and says in the header how far the node is then.
type recorder struct {
	http.ResponseWriter
	status int
	index  func() uint64 // nil: not told
}

func (r *recorder) WriteHeader(status int) {
	r.begin(status)
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.begin(http.StatusOK)
	return r.ResponseWriter.Write(b)
}

func (r *recorder) begin(status int) {
	if r.status != 0 {
		return
	}
	r.status = status
	if r.index != nil {
		r.Header().Set(IndexHeader, strconv.FormatUint(r.index(), 10))
	}
}

// Unwrap lets http.ResponseController and the websocket reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

// clip shortens text that a stranger sent before it is repeated.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// originOf returns the origin of a URL as browsers write it, "" when it has none.
func originOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	host := strings.ToLower(u.Host)
	if u.Port() == "443" && u.Scheme == "https" || u.Port() == "80" && u.Scheme == "http" {
		host = host[:len(host)-len(u.Port())-1]
	}
	return u.Scheme + "://" + host
}
