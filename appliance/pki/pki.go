// Package pki makes and keeps the certificates of a cluster: one CA made when the cluster is (ECDSA P-256) and
// for each node a certificate that names its id and addresses, used for peers, agents and browsers alike.
//
// It promises that private keys are written with mode 0600 by rename, so that a file is whole or absent, and
// that what a node presents to its peers is checked against this CA alone, never the system's. It imports
// nothing of Triward.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// Lives of certificates. A node renews its own at two thirds.
const (
	CALife   = 10 * 365 * 24 * time.Hour
	NodeLife = 90 * 24 * time.Hour
)

// Files in a node's TLS directory.
const (
	FileCA    = "ca.pem"
	FileCAKey = "ca-key.pem"
	FileCert  = "node.pem" // the node's certificate with its key, so that one is never without the other
)

// Sentinels of this package.
var (
	// ErrNotInitialised says that the directory holds no certificate yet.
	ErrNotInitialised = errors.New("this node has no certificate: neither `triward cluster init` nor `triward cluster join` was run")
	// ErrUnusable says that the directory holds a certificate with which the node cannot start.
	ErrUnusable = errors.New("the node's certificate cannot be used")
	// ErrBadRequest says that a certificate request is not one that the CA signs.
	ErrBadRequest = errors.New("certificate request refused")
)

// caName begins the name of every CA; the cluster's id follows.
const caName = "Triward cluster "

// CA signs the certificates of nodes.
type CA struct {
	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
	incarnation string // carried by every certificate that it signs; see InIncarnation
	member      uint64 // likewise; see ForMember
}

// NewCA makes the CA of a new cluster.
func NewCA(cluster string, now time.Time) (*CA, error) { return newCA(caName+cluster, now) }

func newCA(name string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(CALife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back CA: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// CertPEM returns the CA's certificate.
func (ca *CA) CertPEM() []byte { return encodeCert(ca.cert.Raw) }

// KeyPEM returns the CA's private key.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// Fingerprint is the SHA-256 of the CA's public key in hexadecimal: the pin carried by tokens.
func (ca *CA) Fingerprint() string { return Fingerprint(ca.cert) }

// Fingerprint is the SHA-256 of the public key of a certificate in hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Issue makes a key and a certificate for the node id, reachable under hosts (names and addresses). The CA's own
// certificate follows it, so that whoever holds only the CA's pin can check the chain (PinnedTLS).
func (ca *CA) Issue(id string, hosts []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make node key: %w", err)
	}
	if certPEM, err = ca.sign(key.Public(), id, hosts, now); err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return certPEM, keyPEM, err
}

// SignRequest signs a node's request. Its name is id, whatever the request says: identity is set by the cluster.
func (ca *CA) SignRequest(csrPEM []byte, id string, hosts []string, now time.Time) ([]byte, error) {
	pub, err := requestKey(csrPEM)
	if err != nil {
		return nil, err
	}
	return ca.sign(pub, id, hosts, now)
}

// requestKey returns the public key of a request whose sender holds the private one.
func requestKey(csrPEM []byte) (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: not one PEM block CERTIFICATE REQUEST", ErrBadRequest)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return p256(csr.PublicKey)
}

func (ca *CA) sign(pub crypto.PublicKey, id string, hosts []string, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	units := []string{"node"}
	if ca.incarnation != "" {
		units = append(units, incarnationUnit+ca.incarnation)
	}
	if ca.member > 0 {
		units = append(units, memberUnit+strconv.FormatUint(ca.member, 10))
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id, OrganizationalUnit: units},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(NodeLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{id},
	}
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip.Unmap().AsSlice())
		} else if h != "" && !slices.Contains(tmpl.DNSNames, h) {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", id, err)
	}
	return append(encodeCert(der), ca.CertPEM()...), nil
}

// NewRequest makes a key and the request for a certificate with it.
func NewRequest(id string) (csrPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make node key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id}}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	keyPEM, err = encodeKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), keyPEM, err
}

// ParseCA reads a CA from its certificate and key.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("CA certificate and key: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("CA certificate and key: not an ECDSA CA")
	}
	return &CA{cert: pair.Leaf, key: key}, nil
}

// LoadCA reads the CA of the directory.
func LoadCA(dir string) (*CA, error) {
	cert, err := readFile(dir, FileCA)
	if err != nil {
		return nil, err
	}
	key, err := readFile(dir, FileCAKey)
	if err != nil {
		return nil, err
	}
	return ParseCA(cert, key)
}

// Files is what a node's TLS directory holds.
type Files struct{ CA, CAKey, Cert, Key []byte }

// Save writes the files; the certificate comes last, so that a directory with it is complete.
func (f *Files) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make TLS directory: %w", err)
	}
	if err := WriteSecret(filepath.Join(dir, FileCA), f.CA); err != nil {
		return err
	}
	if err := WriteSecret(filepath.Join(dir, FileCAKey), f.CAKey); err != nil {
		return err
	}
	return saveCert(dir, f.Cert, f.Key)
}

// saveCert replaces the node's certificate and its key, both or neither.
func saveCert(dir string, cert, key []byte) error {
	return WriteSecret(filepath.Join(dir, FileCert), slices.Concat(cert, key))
}

// WriteSecret writes a file with mode 0600 and fsync, whole or not at all.
func WriteSecret(path string, body []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // CreateTemp gives mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(body); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func readFile(dir, name string) ([]byte, error) {
	body, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotInitialised)
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate file: %w", err)
	}
	return body, nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
