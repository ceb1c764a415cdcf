package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// AgentLife is how long an agent's certificate is good for. The agent renews it at two thirds.
const AgentLife = 30 * 24 * time.Hour

// agentUnit is in the name of every agent's certificate.
const agentUnit = "agent"

// agentCAName begins the name of the agents' CA; the cluster's id follows.
const agentCAName = "Triward agents "

// ErrNotAgent says that a certificate is none that the cluster gave to an agent.
var ErrNotAgent = errors.New("not a certificate of an agent of this cluster")

// NewAgentCA makes a CA for the agents of a cluster. It has nothing to do with that of the nodes: what it signs is no
// node's and not accepted between nodes.
func NewAgentCA(cluster string, now time.Time) (*CA, error) { return newCA(agentCAName+cluster, now) }

// SignAgent signs an agent's request. The certificate is for a client alone and names id, whatever the request says:
// identity is set by the cluster.
func (ca *CA) SignAgent(csrPEM []byte, id string, now time.Time) (certPEM []byte, leaf *x509.Certificate, err error) {
	pub, err := requestKey(csrPEM)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id, OrganizationalUnit: []string{agentUnit}},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(AgentLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate of agent %s: %w", id, err)
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, fmt.Errorf("read back certificate of agent %s: %w", id, err)
	}
	return encodeCert(der), leaf, nil
}

// CheckAgent returns whom a certificate names that one of the CAs signed for an agent, and its serial number. Whether
// it is still good at this time is for the caller to judge: an expired one may be renewed.
func CheckAgent(cert *x509.Certificate, cas *x509.CertPool) (id, serial string, err error) {
	if cert.Subject.CommonName == "" || !slices.Equal(cert.Subject.OrganizationalUnit, []string{agentUnit}) {
		return "", "", ErrNotAgent
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: cas, CurrentTime: cert.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrNotAgent, err)
	}
	return cert.Subject.CommonName, Serial(cert), nil
}

// Serial is a certificate's serial number in hexadecimal.
func Serial(cert *x509.Certificate) string { return hex.EncodeToString(cert.SerialNumber.Bytes()) }

// ParseCertificate reads the first certificate of a PEM text.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM block CERTIFICATE")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return cert, nil
}

// p256 returns the key when it is of the only kind that is signed here.
func p256(key any) (*ecdsa.PublicKey, error) {
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the key must be ECDSA P-256", ErrBadRequest)
	}
	return pub, nil
}
