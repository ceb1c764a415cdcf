package appliance

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/triward/triward/raftstate/forward"
)

// peerIdentity is the node's certificate as the peer port uses it.
func (a *App) peerIdentity() *forward.Identity {
	return &forward.Identity{
		ID:          a.cfg.NodeID,
		Certificate: func() (*tls.Certificate, error) { return a.identity.Certificate(nil) },
		Roots:       func() *x509.CertPool { return a.identity.Pool() },
		Verify:      func(_ string, cert *x509.Certificate) error { return a.identity.CheckPeer(cert) },
	}
}

// listenerTLS is the configuration of a listener: its own certificate when it has one, else the node's.
func (a *App) listenerTLS(t ListenTLS) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: a.identity.Certificate}
	if t.MinVersion == "1.3" {
		conf.MinVersion = tls.VersionTLS13
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("load certificate: %w", err)
		}
		conf.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return conf, nil
}
