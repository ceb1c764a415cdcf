package sender

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/triward/triward/agent/wire"
)

const (
	requestTimeout = 30 * time.Second
	maxAnswer      = 4 << 20
)

// Host describes the machine at enrollment.
type Host struct {
	Hostname  string   `json:"hostname"`
	OS        string   `json:"os"`
	Arch      string   `json:"arch"`
	Version   string   `json:"version"`
	IPs       []string `json:"ips"`
	MachineID string   `json:"machine_id"`
}

// StatusError is an answer of the gateway other than 200.
type StatusError struct {
	Code       int
	Type       string // of the problem, "" or about:blank when the title says it all
	Title      string
	Detail     string
	Hint       string
	RetryAfter time.Duration // 0 when the gateway named none
}

// TypeContent is the type of a problem whose cause is what the one batch sent holds: any node would answer the same.
const TypeContent = "urn:triward:problem:batch-content"

// TypeExpired is the type of a problem of an agent whose certificate is over and may be renewed.
const TypeExpired = "urn:triward:problem:certificate-expired"

// Error says what the gateway said.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("gateway answered %d", e.Code)
	for _, part := range []string{e.Title, e.Detail, e.Hint} {
		if part != "" {
			s += ": " + part
		}
	}
	return s
}

// NewTransport makes the connections to the gateway: TLS with the given roots (PEM, empty for the system's),
// HTTP/2 where the server has it. A server is checked against the name in its address, or against serverName
// when that is not empty. It is shown the certificate of creds, which may be nil for none.
func NewTransport(caPEM, serverName string, creds *Credentials) (*http.Transport, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	if creds != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return creds.cert.Load(), nil }
	}
	if caPEM != "" {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(caPEM)) {
			return nil, errors.New("the CA holds no certificate in PEM form")
		}
	}
	return &http.Transport{
		TLSClientConfig:       cfg,
		ForceAttemptHTTP2:     true,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: requestTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   2,
		WriteBufferSize:       16 << 10,
		ReadBufferSize:        8 << 10,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}, nil
}

// CheckURL reports what keeps u from being the address of a node: it must be https, or http on the loopback.
func CheckURL(u string) error {
	p, err := url.Parse(u)
	if err != nil {
		return fmt.Errorf("address of a node: %w", err)
	}
	if p.Host == "" || (p.Path != "" && p.Path != "/") || p.RawQuery != "" {
		return fmt.Errorf("address of a node %q: want https://host:port", u)
	}
	switch p.Scheme {
	case "https":
		return nil
	case "http":
		if ip := net.ParseIP(p.Hostname()); p.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
			return nil
		}
		return fmt.Errorf("address of a node %q: http is allowed on the loopback only, use https", u)
	}
	return fmt.Errorf("address of a node %q: want https://host:port", u)
}

// Client speaks the agent protocol with one node at a time. It is safe for concurrent use.
type Client struct {
	http *http.Client
	now  func() time.Time
}

// NewClient makes a client. What it proves itself by is the transport's certificate; enrollment needs none.
func NewClient(rt http.RoundTripper) *Client {
	return &Client{http: &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("a gateway does not redirect: check the address")
	}}, now: time.Now}
}

// helloAnswer is what the cluster knows of our epoch.
type helloAnswer struct {
	EpochState   string            `json:"epoch_state"`
	Last         map[string]uint64 `json:"last"`
	ServerTimeMS int64             `json:"server_time_ms"`
	Nodes        []string          `json:"nodes"`
	Limits       helloLimits       `json:"limits"`
}

// helloLimits is what the gateway takes; 0 where it does not say.
type helloLimits struct {
	RequestBytes   int `json:"request_bytes"`
	BatchesPerCall int `json:"batches_per_call"`
	SeriesPerCall  int `json:"series_per_call"`
}

func (c *Client) hello(ctx context.Context, node string, e wire.Epoch, version string, open bool) (helloAnswer, error) {
	var out helloAnswer
	in := struct {
		Epoch   string `json:"epoch"`
		Version string `json:"version"`
		Open    bool   `json:"open,omitempty"`
	}{e.String(), version, open}
	err := c.post(ctx, node, "/v1/agent/hello", in, &out)
	return out, err
}

func (c *Client) series(ctx context.Context, node string, sets []map[string]string) ([]uint64, error) {
	var out struct {
		IDs []uint64 `json:"ids"`
	}
	in := struct {
		Series []map[string]string `json:"series"`
	}{sets}
	if err := c.post(ctx, node, "/v1/agent/series", in, &out); err != nil {
		return nil, err
	}
	if len(out.IDs) != len(sets) {
		return nil, fmt.Errorf("gateway answered %d ids for %d series", len(out.IDs), len(sets))
	}
	return out.IDs, nil
}

// result is the answer for one batch.
type result struct {
	Lane       string      `json:"lane"`
	Seq        uint64      `json:"seq"`
	Status     string      `json:"status"`
	Expected   uint64      `json:"expected"`
	Accepted   uint64      `json:"accepted"`
	Duplicates uint64      `json:"duplicates"`
	Rejected   uint64      `json:"rejected"`
	Items      []itemError `json:"items"`
	UnknownIDs []uint64    `json:"unknown_ids"`
	Detail     string      `json:"detail"`
}

type itemError struct {
	Item   int    `json:"item"`
	Reason string `json:"reason"`
}

func (r *result) reason() string {
	switch {
	case r.Detail != "":
		return r.Status + ": " + r.Detail
	case len(r.Items) > 0:
		return fmt.Sprintf("%s: item %d: %s", r.Status, r.Items[0].Item, r.Items[0].Reason)
	}
	return r.Status
}

func (c *Client) batches(ctx context.Context, node string, body []byte) ([]result, error) {
	var out struct {
		Results []result `json:"results"`
	}
	err := c.do(ctx, node, "/v1/agent/batches", wire.ContentType, body, &out)
	return out.Results, err
}

// heartbeatAnswer is what the gateway says to a sign of life.
type heartbeatAnswer struct {
	ServerTimeMS int64 `json:"server_time_ms"`
	ConfigNotice
}

// ConfigNotice says which configuration the cluster has for the agent's group, as far as the node that answered knows.
type ConfigNotice struct {
	Version uint64 `json:"config_version"` // 0: none
	Hash    string `json:"config_hash"`    // of its text; "" for none
	Group   string `json:"config_group"`   // that it is of: the agent's, or the default group when that has none
	Known   bool   `json:"config"`         // false from such a gateway
}

// GroupConfig is the configuration that the cluster has for the agent's group.
type GroupConfig struct {
	Group   string `json:"group"`
	Version uint64 `json:"version"` // 0: there is none, and Body is empty
	Hash    string `json:"hash"`
	Body    string `json:"body"` // YAML
}

// config asks for the configuration of the agent's group. What is answered holds all that was acknowledged before.
func (c *Client) config(ctx context.Context, node, agent string) (GroupConfig, error) {
	var out GroupConfig
	err := c.send(ctx, http.MethodGet, node, "/agent/config?agent_id="+url.QueryEscape(agent), "", nil, &out)
	return out, err
}

func (c *Client) heartbeat(ctx context.Context, node string, status any) (heartbeatAnswer, error) {
	var out heartbeatAnswer
	err := c.post(ctx, node, "/v1/agent/heartbeat", status, &out)
	return out, err
}

func (c *Client) post(ctx context.Context, node, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.do(ctx, node, path, "application/json", body, out)
}

func (c *Client) do(ctx context.Context, node, path, contentType string, body []byte, out any) error {
	return c.send(ctx, http.MethodPost, node, path, contentType, body, out)
}

func (c *Client) send(ctx context.Context, method, node, path, contentType string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, node+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return explained(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return c.statusError(resp, b)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("answer of %s is longer than %d bytes", path, maxAnswer)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("answer of %s: %w", path, err)
	}
	return nil
}

func (c *Client) statusError(resp *http.Response, body []byte) error {
	e := &StatusError{Code: resp.StatusCode}
	var problem struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
		Hint   string `json:"hint"`
	}
	if json.Unmarshal(body, &problem) == nil {
		e.Type, e.Title, e.Detail, e.Hint = problem.Type, problem.Title, problem.Detail, problem.Hint
	}
	if v := resp.Header.Get("Retry-After"); v != "" {
		if s, err := strconv.Atoi(v); err == nil && s >= 0 {
			e.RetryAfter = time.Duration(s) * time.Second
		} else if t, err := http.ParseTime(v); err == nil {
			e.RetryAfter = max(0, t.Sub(c.now()))
		}
	}
	return e
}
