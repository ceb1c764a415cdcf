package pki

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"
)

// ErrNotNow says that a certificate of the CA would not be good now, by this machine's clock.
var ErrNotNow = errors.New("a certificate of this CA would not be good now")

// Good reports whether the CA may sign now.
func (ca *CA) Good(now time.Time) error {
	switch {
	case now.Before(ca.cert.NotBefore):
		return fmt.Errorf("%w: the CA begins at %s, and this machine's clock says %s; set the clock first",
			ErrNotNow, ca.cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.After(ca.cert.NotAfter):
		return fmt.Errorf("%w: the CA ended at %s, and this machine's clock says %s",
			ErrNotNow, ca.cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// ReadCertificate returns the node's certificate of the directory, whether or not its key is any good. It returns
// ErrNotInitialised for none and ErrUnusable for one that cannot be read.
func ReadCertificate(dir string) (*x509.Certificate, error) {
	body, err := readFile(dir, FileCert)
	if err != nil {
		return nil, err
	}
	cert, err := parseFirst(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", filepath.Join(dir, FileCert), ErrUnusable, err)
	}
	return cert, nil
}

func parseFirst(body []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(body)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it holds no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Hosts are the names and addresses that a certificate is for.
func Hosts(cert *x509.Certificate) []string {
	hosts := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			hosts = append(hosts, a.Unmap().String())
		}
	}
	return hosts
}

// SameCA refuses a CA that is another than the one whose certificate lies in the directory, if one does.
func SameCA(dir string, ca *x509.Certificate) error {
	body, err := readFile(dir, FileCA)
	if errors.Is(err, ErrNotInitialised) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := parseFirst(body)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, FileCA), err)
	}
	if Fingerprint(have) != Fingerprint(ca) {
		return fmt.Errorf("the CA is of another cluster than %s: %s, here is %s", filepath.Join(dir, FileCA), ca.Subject.CommonName, have.Subject.CommonName)
	}
	return nil
}
