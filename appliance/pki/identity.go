package pki

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// renewCheck is how often the age of the certificate is looked at.
const renewCheck = time.Hour

// Identity is a node's certificate with the CA it belongs to. While Run runs it renews itself at two thirds of
// its life. Safe for concurrent use.
type Identity struct {
	dir string
	id  string
	// clusterID is the part of the CA's name that says which cluster it is of.
	clusterID string
	pool      *x509.CertPool
	caPEM     []byte
	ca        *CA // nil on a node that was not given the CA's key: its certificate is renewed by hand
	cert      atomic.Pointer[tls.Certificate]

	mu sync.Mutex // one renewal at a time
}

// Load reads the identity of the directory. It returns ErrNotInitialised for an empty one, ErrUnusable when the node's
// certificate is damaged or not that of its key.
func Load(dir string) (*Identity, error) {
	caPEM, err := readFile(dir, FileCA)
	if err != nil {
		return nil, err
	}
	certPEM, err := readFile(dir, FileCert)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", filepath.Join(dir, FileCert), ErrUnusable, err)
	}
	id := &Identity{dir: dir, id: pair.Leaf.Subject.CommonName, pool: x509.NewCertPool(), caPEM: caPEM}
	if !id.pool.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(dir, FileCA))
	}
	block, _ := pem.Decode(caPEM)
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, FileCA), err)
	}
	id.clusterID = strings.TrimPrefix(ca.Subject.CommonName, caName)
	id.cert.Store(&pair)
	if ca, err := LoadCA(dir); err == nil {
		id.ca = ca.InIncarnation(Incarnation(pair.Leaf)).ForMember(MemberNumber(pair.Leaf))
	}
	return id, nil
}

// ID is the node that the certificate names.
func (i *Identity) ID() string { return i.id }

// CA returns the cluster's CA, or nil when this node has not its key.
func (i *Identity) CA() *CA { return i.ca }

// CAPEM is the certificate of the cluster's CA.
func (i *Identity) CAPEM() []byte { return i.caPEM }

// Pool holds the cluster's CA alone.
func (i *Identity) Pool() *x509.CertPool { return i.pool }

// Expires returns when the certificate in use ends.
func (i *Identity) Expires() time.Time { return i.cert.Load().Leaf.NotAfter }

// Certificate returns the certificate in use, for tls.Config.GetCertificate.
func (i *Identity) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return i.cert.Load(), nil
}

// PinnedTLS is the configuration of a client that knows of the cluster only the pin of its CA, as a join token
// carries it: the chain presented must lead to a CA with that public key. Names are not checked, for the address
// may be any that reaches a node.
func PinnedTLS(pin string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // the chain is checked below against the pin instead
		VerifyConnection: func(s tls.ConnectionState) error {
			roots := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				if c.IsCA && subtle.ConstantTimeCompare([]byte(Fingerprint(c)), []byte(pin)) == 1 {
					roots.AddCert(c)
				}
			}
			if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots}); err != nil {
				return fmt.Errorf("the node is not of the cluster that the token is for: %w", err)
			}
			return nil
		},
	}
}

// RenewIfDue makes a new certificate with the names of the old one when two thirds of its life are over, and
// reports whether it did.
func (i *Identity) RenewIfDue(now time.Time) (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.cert.Load().Leaf
	life := old.NotAfter.Sub(old.NotBefore)
	if i.ca == nil || now.Before(old.NotBefore.Add(life*2/3)) {
		return false, nil
	}
	certPEM, keyPEM, err := i.ca.Issue(i.id, Hosts(old), now)
	if err != nil {
		return false, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return false, fmt.Errorf("read back certificate: %w", err)
	}
	if err := saveCert(i.dir, certPEM, keyPEM); err != nil {
		return false, err
	}
	i.cert.Store(&pair)
	return true, nil
}

// Run renews the certificate when it is due until ctx ends.
func (i *Identity) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(renewCheck)
	defer tick.Stop()
	for {
		renewed, err := i.RenewIfDue(time.Now())
		switch {
		case err != nil:
			log.Error("certificate not renewed", "expires", i.Expires(), "err", err)
		case renewed:
			log.Info("certificate renewed", "expires", i.Expires())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ClusterID is the id that the CA was made for.
func (i *Identity) ClusterID() string { return i.clusterID }
