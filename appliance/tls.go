package appliance

import (
	"crypto/tls"
	"crypto/x509"

	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate/forward"
)

// staticIdentity is a node's certificate for a client of peers without a state.
func staticIdentity(i *pki.Identity) *forward.Identity {
	return &forward.Identity{
		ID:          i.ID(),
		Certificate: func() (*tls.Certificate, error) { return i.Certificate(nil) },
		Roots:       func() *x509.CertPool { return i.Pool() },
		Verify:      func(_ string, cert *x509.Certificate) error { return i.CheckPeer(cert) },
	}
}

// peerIdentity is the node's certificate as the peer port uses it.
func (a *App) peerIdentity() *forward.Identity {
	return &forward.Identity{
		ID:          a.cfg.NodeID,
		Certificate: func() (*tls.Certificate, error) { return a.identity.Certificate(nil) },
		Roots:       func() *x509.CertPool { return a.identity.Pool() },
		Verify:      a.admit,
	}
}

// listenerTLS is the configuration of a listener: its own certificate when it has one, else the node's.
func (a *App) listenerTLS(c *listenerCert) (*tls.Config, error) {
	pair, err := c.read(&a.cfg.Listen)
	if err != nil {
		return nil, err
	}
	c.loaded.Store(pair)
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.of(&a.cfg.Listen).MinVersion == "1.3" {
		conf.MinVersion = tls.VersionTLS13
	}
	conf.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if pair := c.loaded.Load(); pair != nil {
			return pair, nil
		}
		return a.identity.Certificate(hello)
	}
	return conf, nil
}
