package gateway

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/triward/triward/appliance/pki"
)

// What is remembered of a certificate holds for the CAs that it was checked with, and nothing is remembered of one that none of them signed.
func TestCheckedCertificatesAreThoseOfTheCAs(t *testing.T) {
	ca, other := newAgentCA(t), newAgentCA(t)
	var c checkedCerts
	leaf := func(of *agentCA, id string) *x509.Certificate {
		csr, _ := newRequest(t)
		_, cert, err := of.Sign([]byte(csr), id, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ours, theirs := leaf(ca, "a1"), leaf(other, "a2")
	for range 3 {
		if id, serial, err := c.check(ours, ca.pool); err != nil || id != "a1" || serial != pki.Serial(ours) {
			t.Errorf("a certificate of the CA: %q %q %v", id, serial, err)
		}
		if id, _, err := c.check(theirs, ca.pool); !errors.Is(err, pki.ErrNotAgent) || id != "" {
			t.Errorf("a certificate of another CA: %q %v", id, err)
		}
	}
	if len(c.names) != 1 {
		t.Errorf("%d certificates are remembered", len(c.names))
	}
	if _, _, err := c.check(ours, other.pool); !errors.Is(err, pki.ErrNotAgent) {
		t.Errorf("the CA was replaced: %v", err)
	}
	if id, _, err := c.check(theirs, other.pool); err != nil || id != "a2" || len(c.names) != 1 {
		t.Errorf("a certificate of the new CA: %q %v, %d are remembered", id, err, len(c.names))
	}
	for i := range maxChecked {
		c.names[[32]byte{byte(i), byte(i >> 8)}] = certName{}
	}
	if _, _, err := c.check(leaf(other, "a3"), other.pool); err != nil || len(c.names) > maxChecked {
		t.Errorf("%v, %d certificates are remembered", err, len(c.names))
	}
	// One that is remembered is not checked again: nobody can tell but by what it takes.
	c.names = map[[32]byte]certName{}
	if _, _, err := c.check(theirs, other.pool); err != nil {
		t.Fatal(err)
	}
	for key := range c.names {
		c.names[key] = certName{"remembered", "1"}
	}
	if id, _, err := c.check(theirs, other.pool); err != nil || id != "remembered" {
		t.Errorf("%q %v", id, err)
	}
}
