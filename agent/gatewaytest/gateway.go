// Package gatewaytest is a peer for tests of the agent: a gateway that keeps the agent protocol and the rules of
// the cluster's state (exactly last+1 per lane, closed epochs, series ids, one value per series and time) in
// memory, remembers every item it took, and can be told to fail in the ways networks and clusters fail.
//
// Only tests import it. It imports agent/wire and nothing else of Triward.
package gatewaytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/triward/triward/agent/wire"
)

// Agent is the identity that the gateway accepts.
const (
	Agent = "agent-1"
	Token = "join-token"
)

// Line is a line that was taken.
type Line struct {
	Kind     wire.StreamKind
	Labels   map[string]string
	T        int64
	Severity wire.Severity
	Text     string
	Fields   []wire.Label
}

// Cluster is the state that all gateways of a test share.
type Cluster struct {
	mu      sync.Mutex
	coder   *wire.Coder
	epochs  map[wire.Epoch]*epoch
	ids     map[string]uint64
	labels  map[uint64]map[string]string
	samples map[uint64]map[int64]float64

	CA       string        // PEM that enrollment hands out
	CertLife time.Duration // of certificates; 30 days when 0
	Renewed  int           // certificates
	Strange  bool          // whoever comes is refused, as a revoked agent is

	Lines      []Line
	Applied    []wire.Identity // in order
	Duplicates int             // batches answered with duplicate
	DoubleT    int             // samples that came twice for a series and time
	Beats      int
	LastBeat   map[string]any
	Hellos     int
	Registered int
	Nodes      []string // answered to hello

	// Config is the configuration of the agent's group; with Version 0 there is none, nil is a gateway without any.
	Config  *GroupConfig
	Fetched int // how often it was asked for

	RequestBytes int // told in hello as the longest request; 0 tells none
	Takes        int // longer requests with batches are answered 413; 0 is wire.MaxRequestBody
	TooLong      int // how many were

	// Refuse says whether a batch is answered with a status of its own instead of being applied.
	Refuse func(b *wire.Batch) (status string)
	// RefuseSeries makes the registration of a series fail.
	RefuseSeries func(labels map[string]string) bool
}

type epoch struct {
	closed bool
	last   [len(wire.Lanes) + 1]uint64
	hash   [len(wire.Lanes) + 1]uint64
}

// New makes an empty cluster.
func New() *Cluster {
	coder, err := wire.NewCoder()
	if err != nil {
		panic(err)
	}
	return &Cluster{
		coder: coder, epochs: map[wire.Epoch]*epoch{}, ids: map[string]uint64{},
		labels: map[uint64]map[string]string{}, samples: map[uint64]map[int64]float64{},
	}
}

// Do runs fn while nothing else touches the cluster.
func (c *Cluster) Do(fn func(c *Cluster)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(c)
}

// CloseEpoch closes an epoch as an administrator or a clone would. The caller is in Do.
func (c *Cluster) CloseEpoch(e wire.Epoch) {
	if ep := c.epochs[e]; ep != nil {
		ep.closed = true
	}
}

// Forget loses an epoch, as a restored older backup does. The caller is in Do.
func (c *Cluster) Forget(e wire.Epoch) { delete(c.epochs, e) }

// Advance moves a lane on as if another spool of the same epoch had sent. The caller is in Do.
func (c *Cluster) Advance(e wire.Epoch, lane wire.Lane, by uint64) {
	if ep := c.epochs[e]; ep != nil {
		ep.last[lane] += by
		ep.hash[lane] = 1
	}
}

// ForgetSeries loses all series ids. The caller is in Do.
func (c *Cluster) ForgetSeries() {
	clear(c.ids)
	clear(c.labels)
}

// Epochs is how many were opened. The caller is in Do.
func (c *Cluster) Epochs() int { return len(c.epochs) }

// SampleCount is the number of samples held. The caller is in Do.
func (c *Cluster) SampleCount() int {
	n := 0
	for _, s := range c.samples {
		n += len(s)
	}
	return n
}

// Series returns the samples of the first series whose name is given. The caller is in Do.
func (c *Cluster) Series(name string) map[int64]float64 {
	out := map[int64]float64{}
	for id, ls := range c.labels {
		if ls["__name__"] == name {
			for t, v := range c.samples[id] {
				out[t] = v
			}
		}
	}
	return out
}

// Texts returns the lines whose stream has the label. The caller is in Do.
func (c *Cluster) Texts(label, value string) []string {
	var out []string
	for _, l := range c.Lines {
		if l.Labels[label] == value {
			out = append(out, l.Text)
		}
	}
	return out
}

// GroupConfig is the configuration of the agent's group.
type GroupConfig struct {
	Group   string `json:"group"`
	Version uint64 `json:"version"`
	Hash    string `json:"hash"`
	Body    string `json:"body"`
}

// Gateway is one node of the cluster.
type Gateway struct {
	Cluster *Cluster

	mu   sync.Mutex
	fail func(r *http.Request) (before, after *Fault)
}

// Fault is how a request goes wrong: an answer instead of the real one, or none at all when Code is 0.
type Fault struct {
	Code       int
	RetryAfter string
	Type       string // of the problem
}

// Fail sets a function that decides about each request; before keeps it from being handled, after only takes its
// answer away.
func (g *Gateway) Fail(fn func(r *http.Request) (before, after *Fault)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = fn
}

func (g *Gateway) faults(r *http.Request) (before, after *Fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail == nil {
		return nil, nil
	}
	return g.fail(r)
}

// ErrCut is what a cut connection gives.
var ErrCut = errors.New("connection is cut")

// Transport is an http.RoundTripper to gateways by host name, without a network.
type Transport map[string]*Gateway

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	g := t[r.URL.Hostname()]
	if g == nil {
		return nil, ErrCut
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	rec := &recorder{header: http.Header{}, code: http.StatusOK}
	if !g.serve(rec, r) {
		return nil, ErrCut
	}
	return &http.Response{
		StatusCode: rec.code, Header: rec.header, Body: io.NopCloser(&rec.body), Request: r,
		ProtoMajor: 2, Proto: "HTTP/2.0",
	}, nil
}

type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *recorder) WriteHeader(code int)        { r.code = code }

// ServeHTTP implements http.Handler; a cut connection panics with http.ErrAbortHandler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.serve(w, r) {
		panic(http.ErrAbortHandler)
	}
}

// serve answers a request; false means that the connection breaks instead.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) bool {
	before, after := g.faults(r)
	if before != nil {
		return answerFault(w, before)
	}
	if after == nil {
		g.handle(w, r)
		return true
	}
	g.handle(&recorder{header: http.Header{}}, r)
	return answerFault(w, after)
}

func answerFault(w http.ResponseWriter, f *Fault) bool {
	if f.Code == 0 {
		return false
	}
	if f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	typed(w, f.Code, f.Type, "as the test wants")
	return true
}

func problem(w http.ResponseWriter, code int, detail string) { typed(w, code, "about:blank", detail) }

func typed(w http.ResponseWriter, code int, typ, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": typ, "title": http.StatusText(code), "status": code, "detail": detail,
	})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (g *Gateway) handle(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxRequestBody+1))
	switch {
	case err != nil:
		problem(w, http.StatusBadRequest, err.Error())
		return
	case len(body) > wire.MaxRequestBody:
		problem(w, http.StatusRequestEntityTooLarge, "too long")
		return
	}
	c := g.Cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Strange {
		problem(w, http.StatusForbidden, "the agent was revoked")
		return
	}
	switch r.URL.Path {
	case "/v1/agent/enroll":
		c.enroll(w, body)
	case "/v1/agent/renew":
		c.renew(w, body)
	case "/v1/agent/hello":
		c.hello(w, body)
	case "/v1/agent/series":
		c.series(w, body)
	case "/v1/agent/batches":
		c.batches(w, r, body)
	case "/v1/agent/heartbeat":
		c.Beats++
		c.LastBeat = map[string]any{}
		if err := json.Unmarshal(body, &c.LastBeat); err != nil {
			problem(w, http.StatusBadRequest, err.Error())
			return
		}
		said := map[string]any{"server_time_ms": time.Now().UnixMilli(), "config_version": 0}
		if c.Config != nil {
			said["config"], said["config_version"], said["config_hash"], said["config_group"] = true, c.Config.Version, c.Config.Hash, c.Config.Group
		}
		answer(w, said)
	case "/agent/config":
		c.Fetched++
		if c.Config == nil || r.URL.Query().Get("agent_id") != Agent {
			problem(w, http.StatusForbidden, "no configuration of this agent")
			return
		}
		answer(w, c.Config)
	default:
		problem(w, http.StatusNotFound, "no such path")
	}
}

func (c *Cluster) enroll(w http.ResponseWriter, body []byte) {
	var in struct {
		Token    string `json:"token"`
		Hostname string `json:"hostname"`
		CSR      string `json:"csr_pem"`
	}
	if err := json.Unmarshal(body, &in); err != nil || in.Token != Token || in.Hostname == "" {
		problem(w, http.StatusUnauthorized, "the token is not valid")
		return
	}
	cert, err := Certificate(in.CSR, time.Now(), c.CertLife)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	answer(w, map[string]any{"agent_id": Agent, "cert_pem": cert, "cluster_id": "c1", "ca_pem": c.CA, "nodes": c.Nodes})
}

func (c *Cluster) renew(w http.ResponseWriter, body []byte) {
	var in struct {
		CSR string `json:"csr_pem"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	cert, err := Certificate(in.CSR, time.Now(), c.CertLife)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	c.Renewed++
	answer(w, map[string]any{"cert_pem": cert})
}

// Certificate signs a request with a CA made for the moment: nobody checks it here.
func Certificate(csrPEM string, now time.Time, life time.Duration) (string, error) {
	block, _ := pem.Decode([]byte(csrPEM))
	if block == nil {
		return "", errors.New("no certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	if life == 0 {
		life = 30 * 24 * time.Hour
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agents"}, NotBefore: now, NotAfter: now.Add(life)}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: Agent}, NotBefore: now, NotAfter: now.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, csr.PublicKey, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

func (c *Cluster) hello(w http.ResponseWriter, body []byte) {
	var in struct {
		Epoch string `json:"epoch"`
		Open  bool   `json:"open"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	e, err := wire.ParseEpoch(in.Epoch)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	c.Hellos++
	ep := c.epochs[e]
	if ep == nil && in.Open {
		for _, other := range c.epochs {
			other.closed = true
		}
		ep = &epoch{}
		c.epochs[e] = ep
	}
	out := map[string]any{"limits": map[string]int{"request_bytes": c.RequestBytes}, "epoch_state": "new", "server_time_ms": time.Now().UnixMilli(), "nodes": c.Nodes}
	last := map[string]uint64{}
	for _, lane := range wire.Lanes {
		last[lane.String()] = 0
		if ep != nil {
			last[lane.String()] = ep.last[lane]
		}
	}
	out["last"] = last
	if ep != nil {
		out["epoch_state"] = "open"
		if ep.closed {
			out["epoch_state"] = "closed"
		}
	}
	answer(w, out)
}

func (c *Cluster) series(w http.ResponseWriter, body []byte) {
	var in struct {
		Series []map[string]string `json:"series"`
	}
	if err := json.Unmarshal(body, &in); err != nil || len(in.Series) > wire.MaxSeriesPerCall {
		problem(w, http.StatusBadRequest, "series")
		return
	}
	ids := make([]uint64, len(in.Series))
	for i, m := range in.Series {
		ls := wire.LabelsFromMap(m)
		if err := wire.CheckSeriesLabels(ls); err != nil || c.RefuseSeries != nil && c.RefuseSeries(m) {
			problem(w, http.StatusUnprocessableEntity, "series refused")
			return
		}
		key := string(ls.AppendKey(nil))
		if c.ids[key] == 0 {
			c.Registered++
			c.ids[key] = uint64(1_000_000 - c.Registered) // descending: local order is not cluster order
			c.labels[c.ids[key]] = m
			if c.samples[c.ids[key]] == nil {
				c.samples[c.ids[key]] = map[int64]float64{}
			}
		}
		ids[i] = c.ids[key]
	}
	answer(w, map[string]any{"ids": ids})
}

func (c *Cluster) batches(w http.ResponseWriter, r *http.Request, body []byte) {
	if r.Header.Get("Content-Type") != wire.ContentType {
		problem(w, http.StatusUnsupportedMediaType, "content type")
		return
	}
	if c.Takes > 0 && len(body) > c.Takes {
		c.TooLong++
		problem(w, http.StatusRequestEntityTooLarge, "too long")
		return
	}
	e, batches, err := wire.ReadRequest(Agent, body)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	results := make([]map[string]any, len(batches))
	for i := range batches {
		b := &batches[i]
		results[i] = c.apply(e, b)
		results[i]["lane"], results[i]["seq"] = b.Lane.String(), b.Seq
	}
	answer(w, map[string]any{"index": len(c.Applied), "results": results})
}

func (c *Cluster) apply(e wire.Epoch, b *wire.Batch) map[string]any {
	ep := c.epochs[e]
	switch {
	case ep == nil:
		return map[string]any{"status": "unknown_epoch"}
	case ep.closed:
		return map[string]any{"status": "epoch_closed"}
	case b.Seq == ep.last[b.Lane] && b.Hash != ep.hash[b.Lane]:
		ep.closed = true
		return map[string]any{"status": "cloned"}
	case b.Seq <= ep.last[b.Lane]:
		c.Duplicates++
		return map[string]any{"status": "duplicate", "expected": ep.last[b.Lane]}
	case b.Seq != ep.last[b.Lane]+1:
		return map[string]any{"status": "gap", "expected": ep.last[b.Lane] + 1}
	}
	if c.Refuse != nil {
		if status := c.Refuse(b); status != "" {
			return map[string]any{"status": status, "items": []map[string]any{{"item": 0, "reason": "as the test wants"}}}
		}
	}
	raw, err := c.coder.Decompress(nil, b)
	if err != nil {
		return map[string]any{"status": "invalid", "items": []map[string]any{{"item": 0, "reason": err.Error()}}}
	}
	var out map[string]any
	if b.Lane.CarriesMetrics() {
		out = c.applyMetrics(raw)
	} else {
		out = c.applyLogs(raw)
	}
	if out["status"] == "ok" {
		ep.last[b.Lane], ep.hash[b.Lane] = b.Seq, b.Hash
		id := b.Identity
		id.Epoch = e
		c.Applied = append(c.Applied, id)
	}
	return out
}

func (c *Cluster) applyMetrics(raw []byte) map[string]any {
	var m wire.MetricsBody
	if err := m.Decode(raw); err != nil {
		return map[string]any{"status": "invalid", "items": []map[string]any{{"item": 0, "reason": err.Error()}}}
	}
	var unknown []uint64
	for _, s := range m.Scrapes {
		for _, id := range s.IDs {
			if c.labels[id] == nil && len(unknown) < 64 {
				unknown = append(unknown, id)
			}
		}
	}
	if len(unknown) > 0 {
		return map[string]any{"status": "unknown_ids", "unknown_ids": unknown}
	}
	n := 0
	for _, s := range m.Scrapes {
		for i, id := range s.IDs {
			if _, there := c.samples[id][s.T]; there {
				c.DoubleT++
				continue
			}
			c.samples[id][s.T] = s.Values[i]
			n++
		}
	}
	return map[string]any{"status": "ok", "accepted": n}
}

func (c *Cluster) applyLogs(raw []byte) map[string]any {
	b, err := wire.DecodeLogs(raw)
	if err != nil {
		return map[string]any{"status": "invalid", "items": []map[string]any{{"item": 0, "reason": err.Error()}}}
	}
	n, item := 0, 0
	refused := []map[string]any{}
	for _, s := range b.Streams {
		if err := wire.CheckStreamLabels(s.Labels.With("agent", Agent).With("host", "h")); err != nil {
			for range s.Lines {
				refused = append(refused, map[string]any{"item": item, "reason": err.Error()})
				item++
			}
			continue
		}
		item += len(s.Lines)
		for _, l := range s.Lines {
			c.Lines = append(c.Lines, Line{
				Kind: s.Kind, Labels: s.Labels.Map(), T: l.T, Severity: l.Severity,
				Text: strings.Clone(string(l.Text)), Fields: l.Fields,
			})
			n++
		}
	}
	return map[string]any{"status": "ok", "accepted": n, "rejected": len(refused), "items": refused}
}
