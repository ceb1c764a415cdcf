package sender

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// renewCheck is how often the age of the certificate is looked at.
const renewCheck = time.Minute

// Credentials are the certificate that an agent shows, which changes with each renewal. Safe for concurrent use.
type Credentials struct {
	cert atomic.Pointer[tls.Certificate]
}

// NewCredentials takes certificate and key of an identity.
func NewCredentials(id Identity) (*Credentials, error) {
	c := &Credentials{}
	return c, c.set(id.Cert, id.Key)
}

func (c *Credentials) set(certPEM, keyPEM string) error {
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		return fmt.Errorf("the agent's certificate and key: %w", err)
	}
	c.cert.Store(&pair)
	return nil
}

// Expires is when the certificate ends.
func (c *Credentials) Expires() time.Time { return c.cert.Load().Leaf.NotAfter }

// due reports whether two thirds of the certificate's life are over.
func (c *Credentials) due(now time.Time) bool {
	leaf := c.cert.Load().Leaf
	return !now.Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3))
}

// newRequest makes a key and the request for a certificate with it. The key never leaves this machine; whom the
// certificate is for is set by the cluster.
func newRequest() (csrPEM, keyPEM string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "agent"}}, key)
	if err != nil {
		return "", "", fmt.Errorf("make certificate request: %w", err)
	}
	body, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", fmt.Errorf("encode key: %w", err)
	}
	csrPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return csrPEM, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: body})), nil
}

// Enroll redeems a token for an identity and a certificate, with a key that it makes.
func (c *Client) Enroll(ctx context.Context, node, token string, h Host) (Identity, error) {
	var id Identity
	csr, key, err := newRequest()
	if err != nil {
		return id, err
	}
	in := struct {
		Token string `json:"token"`
		CSR   string `json:"csr_pem"`
		Host
	}{token, csr, h}
	if err := c.post(ctx, node, "/v1/agent/enroll", in, &id); err != nil {
		return id, fmt.Errorf("enroll at %s: %w", node, err)
	}
	id.Key, id.Hostname = key, h.Hostname
	if id.AgentID == "" || id.Cert == "" {
		return id, fmt.Errorf("enroll at %s: the answer lacks agent_id or cert_pem: is this the agents' port?", node)
	}
	if _, err := NewCredentials(id); err != nil {
		return id, fmt.Errorf("enroll at %s: %w", node, err)
	}
	return id, nil
}

// renew gets a certificate for a new key on the strength of the one that the connection shows.
func (c *Client) renew(ctx context.Context, node string) (certPEM, keyPEM string, err error) {
	csr, key, err := newRequest()
	if err != nil {
		return "", "", err
	}
	var out struct {
		Cert string `json:"cert_pem"`
	}
	in := struct {
		CSR string `json:"csr_pem"`
	}{csr}
	if err := c.post(ctx, node, "/v1/agent/renew", in, &out); err != nil {
		return "", "", fmt.Errorf("renew the certificate at %s: %w", node, err)
	}
	return out.Cert, key, nil
}

// renewals renews the certificate when it is due, by the cluster's clock where it is known, until ctx ends.
func (s *Sender) renewals(ctx context.Context) {
	t := time.NewTicker(renewCheck)
	defer t.Stop()
	for {
		offset := time.Duration(s.Counters.ClockOffsetMS.Load()) * time.Millisecond
		if s.expired.Swap(false) || s.cfg.Credentials.due(time.Now().Add(offset)) {
			if err := s.renewNow(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("certificate is not renewed yet", "expires", s.cfg.Credentials.Expires(), "err", err)
				s.cfg.Report("certificate", fmt.Sprintf("the certificate ends at %s and could not be renewed: %v",
					s.cfg.Credentials.Expires().UTC().Format(time.RFC3339), err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-s.renewSoon:
		}
	}
}

func (s *Sender) renewNow(ctx context.Context) error {
	node := s.nodes.currentURL()
	certPEM, keyPEM, err := s.client.renew(ctx, node)
	if err != nil {
		return err
	}
	if _, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM)); err != nil {
		return fmt.Errorf("renewed certificate: %w", err)
	}
	if s.cfg.OnRenewed != nil { // on the disk before it is used: a crash in between goes on with the one before
		if err := s.cfg.OnRenewed(certPEM, keyPEM); err != nil {
			return err
		}
	}
	if err := s.cfg.Credentials.set(certPEM, keyPEM); err != nil {
		return err
	}
	s.dropConnections()
	s.cfg.Log.Info("certificate renewed", "expires", s.cfg.Credentials.Expires())
	return nil
}

// dropConnections has the next request show the newest certificate.
func (s *Sender) dropConnections() {
	if t, ok := s.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// noteExpired has the certificate renewed at once: a gateway said that it is over.
func (s *Sender) noteExpired() {
	if s.cfg.Credentials == nil {
		return
	}
	s.dropConnections()
	s.expired.Store(true)
	select {
	case s.renewSoon <- struct{}{}:
	default: // it is known already
	}
}

var pinForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// TokenPin returns what a token says of the cluster's CA: the SHA-256 of its public key in hexadecimal, or "".
func TokenPin(token string) string {
	_, pin, _ := strings.Cut(token, ".")
	return pin
}

// NewPinnedTransport makes connections to a node of which only the pin of its CA is known. Its names are not checked:
// the address may be any that reaches a node.
func NewPinnedTransport(pin string) (*http.Transport, error) {
	pin = strings.ToLower(strings.TrimSpace(pin))
	if !pinForm.MatchString(pin) {
		return nil, fmt.Errorf("pin of the CA %.80q: want 64 hexadecimal digits, as `triward agents token create` prints them", pin)
	}
	t, err := NewTransport("", "", nil)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // the chain is checked below against the pin instead
		VerifyConnection: func(s tls.ConnectionState) error {
			roots := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				if c.IsCA && pinned(c, pin) {
					roots.AddCert(c)
				}
			}
			if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots}); err != nil {
				return fmt.Errorf("the node does not belong to the cluster that the token is from: %w", err)
			}
			return nil
		},
	}
	return t, nil
}

func pinned(c *x509.Certificate, pin string) bool {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(pin)) == 1
}

// CheckPin reports whether the CA (PEM) is the one that the pin names.
func CheckPin(caPEM, pin string) error {
	block, _ := pem.Decode([]byte(caPEM))
	if block == nil {
		return errors.New("the answer holds no CA")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("CA in the answer: %w", err)
	}
	if !pinned(ca, strings.ToLower(strings.TrimSpace(pin))) {
		return errors.New("the CA in the answer is not the one that the pin names")
	}
	return nil
}

// explained adds to an error of a connection what an operator of the host can do about it.
func explained(err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var alert tls.AlertError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w (this host's clock says %s: if that is wrong, set it; if it is right, the node's certificate has to be renewed)",
			err, time.Now().UTC().Format(time.RFC3339))
	case errors.As(err, &unknown):
		return fmt.Errorf("%w (the node is of another cluster than this agent, or its listener has a certificate of its own: then give its CA with --ca, later as `ca` in agent.yaml)", err)
	case errors.As(err, &alert), strings.Contains(err.Error(), "remote error: tls: bad certificate"):
		return fmt.Errorf("%w (the node refuses this agent's certificate: the agent was revoked, or the cluster is another one; "+
			"see `triward agents show`, and enroll anew with `triward-agent enroll --force`)", err)
	}
	return err
}
