package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/appliance/problem"
)

// agentCA is a CA of agents in memory.
type agentCA struct {
	ca   *pki.CA
	pool *x509.CertPool
	skew time.Duration // added to the time of signing
}

func newAgentCA(t *testing.T) *agentCA {
	t.Helper()
	ca, err := pki.NewAgentCA("c1", time.Now().Add(-365*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	c := &agentCA{ca: ca, pool: x509.NewCertPool()}
	c.pool.AppendCertsFromPEM(ca.CertPEM())
	return c
}

func (c *agentCA) Pool() *x509.CertPool { return c.pool }

func (c *agentCA) Sign(csr []byte, id string, now time.Time) ([]byte, *x509.Certificate, error) {
	return c.ca.SignAgent(csr, id, now.Add(c.skew))
}

func newRequest(t *testing.T) (csr string, key []byte) {
	t.Helper()
	c, key, err := pki.NewRequest("whoever I say I am")
	if err != nil {
		t.Fatal(err)
	}
	return string(c), key
}

// server serves h over TLS as the appliance does.
func (r *rig) server(h http.Handler, change ...func(*http.Server)) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	for _, c := range change {
		c(srv.Config)
	}
	srv.Listener = r.gateway.Listen(srv.Listener)
	srv.EnableHTTP2 = true
	// httptest has one certificate for all its servers and gives it to none whose configuration is made by connection.
	plain := httptest.NewTLSServer(h)
	pair := plain.TLS.Certificates
	plain.Close()
	srv.TLS = r.gateway.TLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: pair})
	srv.StartTLS()
	r.t.Cleanup(srv.Close)
	return srv
}

// client shows the certificate of the rig's agent, when it is one.
func (r *rig) client() *http.Client {
	conf := &tls.Config{RootCAs: r.pool, MinVersion: tls.VersionTLS13}
	if r.agent != "" {
		conf.Certificates = []tls.Certificate{r.cert}
	}
	t := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	r.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

func (r *rig) take(certPEM string, key []byte) {
	r.t.Helper()
	pair, err := tls.X509KeyPair([]byte(certPEM), key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.cert = pair
}

// enroll makes the rig an agent.
func (r *rig) enroll(token string) {
	r.t.Helper()
	csr, key := newRequest(r.t)
	var got enrolled
	r.json("/v1/agent/enroll", map[string]any{
		"token": token, "hostname": "h1", "ips": []string{"10.0.0.1", "fe80::1"}, "csr_pem": csr,
	}, &got)
	r.take(got.Cert, key)
	r.agent = got.AgentID
	if cn := r.cert.Leaf.Subject.CommonName; cn != got.AgentID || got.ClusterID != "c1" || got.CA == "" {
		r.t.Fatalf("enrolled as %q: %+v", cn, got)
	}
}

func (r *rig) problem(path string, body any) (int, problem.Problem) {
	r.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		r.t.Fatal(err)
	}
	code, _, said := r.post(path, "application/json", b)
	var p problem.Problem
	_ = json.Unmarshal(said, &p)
	return code, p
}

// Identity is the server's to set, and each refusal says what is wrong.
func TestTokensAreRefusedByName(t *testing.T) {
	r := newRig(t)
	csr, _ := newRequest(t)
	try := func(token string) (int, problem.Problem) {
		return r.problem("/v1/agent/enroll", map[string]any{"token": token, "hostname": "h", "csr_pem": csr})
	}
	make := func(o auth.JoinOptions) string {
		t.Helper()
		token, _, err := r.auth.CreateJoinToken(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	used := make(auth.JoinOptions{Kind: auth.JoinAgent})
	if code, p := try(used); code != http.StatusOK {
		t.Fatalf("a good token: %d %+v", code, p)
	}
	for _, c := range []struct {
		name, token, says string
	}{
		{"wrong", "twa_wrong", "unknown"},
		{"used", used, "used already"},
		{"of a node", make(auth.JoinOptions{Kind: auth.JoinNode}), "new node"},
		{"from elsewhere", make(auth.JoinOptions{Kind: auth.JoinAgent, CIDRs: []string{"10.9.0.0/16"}}), "10.9.0.0/16"},
	} {
		code, p := try(c.token)
		if code != http.StatusUnauthorized || !strings.Contains(p.Detail, c.says) || p.Hint == "" {
			t.Errorf("%s: %d %+v", c.name, code, p)
		}
	}
	if code, _ := try(make(auth.JoinOptions{Kind: auth.JoinAgent, CIDRs: []string{"127.0.0.0/8", "::1/128"}})); code != http.StatusOK {
		t.Errorf("from an address that may: %d", code)
	}
	code, p := r.problem("/v1/agent/enroll", map[string]any{"token": make(auth.JoinOptions{Kind: auth.JoinAgent}), "hostname": "h", "csr_pem": "garbage"})
	if code != http.StatusBadRequest || !strings.Contains(p.Detail, "CERTIFICATE REQUEST") {
		t.Errorf("a bad request: %d %+v", code, p)
	}
}

// A certificate is renewed on the strength of the one before, also when that one is over, and not after the grace.
func TestRenewal(t *testing.T) {
	r := newRig(t)
	r.certs.skew = -pki.AgentLife - time.Hour // what is signed now is over already
	r.enroll(r.token(1))
	epoch := wire.Epoch{7}
	if code, p := r.problem("/v1/agent/hello", map[string]any{"epoch": epoch.String()}); code != http.StatusUnauthorized || p.Type != typeExpired {
		t.Fatalf("with an expired certificate: %d %+v", code, p)
	}
	r.certs.skew = 0
	renew := func() (string, []byte) {
		t.Helper()
		csr, key := newRequest(t)
		var got struct {
			Cert string `json:"cert_pem"`
		}
		r.json("/v1/agent/renew", map[string]any{"csr_pem": csr}, &got)
		return got.Cert, key
	}
	first := r.cert
	renew() // whose answer is lost
	cert, key := renew()
	r.take(cert, key)
	if r.cert.Leaf.Subject.CommonName != r.agent {
		t.Errorf("renewed for %q", r.cert.Leaf.Subject.CommonName)
	}
	r.json("/v1/agent/hello", map[string]any{"epoch": epoch.String()}, &struct{}{})
	cert, key = renew()
	r.take(cert, key)
	second := r.cert
	r.cert = first // replaced twice: nobody has it any more but a thief
	if code, p := r.problem("/v1/agent/renew", map[string]any{"csr_pem": "x"}); code != http.StatusForbidden || p.Type != typeRevoked {
		t.Errorf("with a certificate that was replaced: %d %+v", code, p)
	}
	r.cert = second
	r.certs.skew = -pki.AgentLife - renewGrace - time.Hour
	cert, key = renew()
	r.take(cert, key)
	csr, _ := newRequest(t)
	if code, p := r.problem("/v1/agent/renew", map[string]any{"csr_pem": csr}); code != http.StatusForbidden || !strings.Contains(p.Detail, graceText) {
		t.Errorf("after the grace: %d %+v", code, p)
	}
}

// Whoever shows a certificate of somebody else's CA is not spoken to; who is revoked loses the connection at hand.
func TestForeignAndRevokedCertificates(t *testing.T) {
	r := newRig(t)
	r.enroll(r.token(1))
	client := r.client()
	hello := func() error {
		resp, err := client.Post(r.url+"/v1/agent/heartbeat", "application/json", strings.NewReader(`{}`))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			return errNoLeader
		}
		return err
	}
	if err := hello(); err != nil {
		t.Fatal(err)
	}
	open := func() int {
		r.gateway.sessions.mu.Lock()
		defer r.gateway.sessions.mu.Unlock()
		return len(r.gateway.sessions.open)
	}
	if open() == 0 {
		t.Fatal("no connection is known to be the agent's")
	}
	if err := r.auth.RevokeAgent(t.Context(), r.agent, "ada", netip.MustParseAddr("10.0.0.9")); err != nil {
		t.Fatal(err)
	}
	r.gateway.Changed()
	until(t, "the connection of the revoked agent to be cut", func() bool { return open() == 0 })
	// The connection is refused, not the request. With TLS 1.3 the client has sent already: it sees the alert or a reset.
	if err := hello(); err == nil || errors.Is(err, errNoLeader) {
		t.Errorf("a revoked agent connects anew: %v", err)
	}
	other := newAgentCA(t)
	csr, key := newRequest(t)
	pem, _, err := other.Sign([]byte(csr), r.agent, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.take(string(pem), key)
	client = r.client()
	if err := hello(); err == nil || errors.Is(err, errNoLeader) {
		t.Errorf("a foreign certificate: %v", err)
	}
}

// An id is an argument of commands: one that begins with a hyphen would be read as their flags.
func TestIDsOfAgentsAreArguments(t *testing.T) {
	for range 10_000 {
		if id := newAgentID(); len(id) != 16 || id[0] == '-' {
			t.Fatalf("id %q", id)
		}
	}
}
