package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/triward/triward/appliance/alerting/route"
)

// maxAnswer bounds what is read of a receiver's answer; maxSaid what is shown of it.
const (
	maxAnswer = 64 << 10
	maxSaid   = 200
)

// gated is a body that asks the gate before its first byte goes out. The headers wait for it in the connection's
// buffer, and without a body the receiver has no message.
type gated struct {
	io.Reader
	ctx  context.Context
	gate Gate
	open bool
}

// Read implements io.Reader.
func (g *gated) Read(b []byte) (int, error) {
	if !g.open && g.gate != nil {
		if err := g.gate(g.ctx); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrGate, err)
		}
	}
	g.open = true
	return g.Reader.Read(b)
}

// Close implements io.Closer.
func (g *gated) Close() error { return nil }

// post sends body as JSON and returns the beginning of the answer.
func (s *Sender) post(ctx context.Context, h *route.HTTP, address string, m *Message, body any, gate Gate) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	transport, err := s.transport(h)
	if err != nil {
		return nil, err
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, &gated{Reader: bytes.NewReader(data), ctx: ctx, gate: gate})
	if err != nil {
		return nil, errors.New("the address cannot be used")
	}
	req.ContentLength = int64(len(data))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.agent)
	req.Header.Set(KeyHeader, m.Key)
	if a := h.Authorization; a != nil {
		req.Header.Set("Authorization", a.Type+" "+string(a.Credentials))
	}
	if b := h.BasicAuth; b != nil {
		req.SetBasicAuth(b.Username, string(b.Password))
	}
	if h.Proxy != "" {
		port := req.URL.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
		}
		if err := s.policy.checkName(ctx, req.URL.Hostname(), port); err != nil {
			return nil, err
		}
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		return nil, &StatusError{resp.StatusCode, brief(said)}
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return said, nil
}

// brief is the beginning of an answer as one line of text.
func brief(b []byte) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b[:min(len(b), maxSaid)]), ""))
	return strings.TrimSpace(text)
}

func (s *Sender) transport(h *route.HTTP) (*http.Transport, error) {
	conf, err := tlsConfig(h.TLS)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		DialContext: s.policy.dial, TLSClientConfig: conf, DisableKeepAlives: true, DisableCompression: true,
		MaxResponseHeaderBytes: maxAnswer, TLSHandshakeTimeout: Timeout, ResponseHeaderTimeout: Timeout,
	}
	if h.Proxy != "" {
		proxy, err := url.Parse(h.Proxy)
		if err != nil {
			return nil, errors.New("proxy_url cannot be used")
		}
		t.Proxy = http.ProxyURL(proxy)
	}
	return t, nil
}

func tlsConfig(t *route.TLS) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if t == nil {
		return conf, nil
	}
	conf.ServerName, conf.InsecureSkipVerify = t.ServerName, t.InsecureSkipVerify
	if t.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(t.CA)) {
			return nil, errors.New("tls_config.ca holds no certificate")
		}
	}
	return conf, nil
}
