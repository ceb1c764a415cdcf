package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func newNode(t *testing.T, ca *CA, id string, now time.Time) *Identity {
	t.Helper()
	cert, key, err := ca.Issue(id, []string{"127.0.0.1", "localhost"}, now)
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tls")
	files := Files{CA: ca.CertPEM(), CAKey: caKey, Cert: cert, Key: key}
	if err := files.Save(dir); err != nil {
		t.Fatal(err)
	}
	node, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func newTestCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// handshake returns the errors of the dialling and the listening side.
func handshake(t *testing.T, dial, listen *tls.Config) (error, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	served := make(chan error, 1)
	go func() {
		c := tls.Server(b, listen)
		err := c.Handshake()
		if err == nil {
			_, err = c.Write([]byte("x")) // the client learns of a refused certificate when it reads
		}
		b.Close()
		served <- err
	}()
	c := tls.Client(a, dial)
	_, err := c.Read(make([]byte, 1))
	a.Close()
	return err, <-served
}

func TestPinnedClientTalksToItsClusterOnly(t *testing.T) {
	ca := newTestCA(t)
	n := newNode(t, ca, "n1", time.Now())
	listen := &tls.Config{GetCertificate: n.Certificate, MinVersion: tls.VersionTLS13}
	if err1, err2 := handshake(t, PinnedTLS(ca.Fingerprint()), listen); err1 != nil || err2 != nil {
		t.Fatalf("its own cluster: %v, %v", err1, err2)
	}
	if err, _ := handshake(t, PinnedTLS(newTestCA(t).Fingerprint()), listen); err == nil {
		t.Error("another cluster was taken for it")
	}
	// A stranger who sends the right CA along with a certificate that it did not sign.
	fake := newNode(t, newTestCA(t), "n1", time.Now())
	cert := *fake.cert.Load()
	cert.Certificate = [][]byte{cert.Certificate[0], ca.cert.Raw}
	listen = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	if err, _ := handshake(t, PinnedTLS(ca.Fingerprint()), listen); err == nil {
		t.Error("a stranger with the CA's certificate was taken for a node")
	}
}

func TestKeysArePrivate(t *testing.T) {
	n := newNode(t, newTestCA(t), "n1", time.Now())
	for _, name := range []string{FileCAKey, FileCert} {
		st, err := os.Stat(filepath.Join(n.dir, name))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, st.Mode(), err)
		}
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrNotInitialised) {
		t.Errorf("empty directory: %v", err)
	}
}

// A crash at any moment of a renewal leaves the old certificate with its key or the new one with its own.
func TestCertificateAndKeyChangeTogether(t *testing.T) {
	now := time.Now()
	n := newNode(t, newTestCA(t), "n1", now)
	before, err := os.ReadDir(n.dir)
	if err != nil {
		t.Fatal(err)
	}
	old := map[string][]byte{}
	for _, e := range before {
		if old[e.Name()], err = os.ReadFile(filepath.Join(n.dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if done, err := n.RenewIfDue(now.Add(NodeLife * 3 / 4)); !done || err != nil {
		t.Fatal(done, err)
	}
	changed := 0
	for name, was := range old {
		is, err := os.ReadFile(filepath.Join(n.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(was, is) {
			continue
		}
		changed++
		mixed := filepath.Join(t.TempDir(), "tls") // all files of the one moment but this
		if err := os.CopyFS(mixed, os.DirFS(n.dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(mixed, name), was, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(mixed); err != nil {
			t.Errorf("with %s of before the renewal: %v", name, err)
		}
	}
	if changed != 1 {
		t.Errorf("a renewal changed %d files", changed)
	}
}

func TestUnusableCertificateIsTold(t *testing.T) {
	ca := newTestCA(t)
	n, other := newNode(t, ca, "n1", time.Now()), newNode(t, ca, "n1", time.Now())
	read := func(n *Identity) []byte {
		b, err := os.ReadFile(filepath.Join(n.dir, FileCert))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	whole := read(n)
	key := bytes.LastIndex(whole, []byte("-----BEGIN PRIVATE KEY"))
	strange := read(other)
	for name, body := range map[string][]byte{
		"empty": nil, "garbage": []byte("x"), "cut": whole[:len(whole)-100], "without its key": whole[:key],
		"the key of another": append(append([]byte(nil), whole[:key]...), strange[bytes.LastIndex(strange, []byte("-----BEGIN PRIVATE KEY")):]...),
	} {
		if err := os.WriteFile(filepath.Join(n.dir, FileCert), body, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(n.dir); !errors.Is(err, ErrUnusable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRenewedAtTwoThirds(t *testing.T) {
	now := time.Now()
	n := newNode(t, newTestCA(t), "n1", now)
	if done, err := n.RenewIfDue(now.Add(NodeLife / 2)); done || err != nil {
		t.Fatalf("at half its life: %v %v", done, err)
	}
	later := now.Add(NodeLife * 3 / 4)
	if done, err := n.RenewIfDue(later); !done || err != nil {
		t.Fatalf("at three quarters: %v %v", done, err)
	}
	again, err := Load(n.dir)
	if err != nil {
		t.Fatal(err)
	}
	leaf := again.cert.Load().Leaf
	if !leaf.NotAfter.After(later.Add(NodeLife/2)) || leaf.VerifyHostname("127.0.0.1") != nil || leaf.VerifyHostname("localhost") != nil {
		t.Errorf("renewed certificate: %v %v %v", leaf.NotAfter, leaf.DNSNames, leaf.IPAddresses)
	}
}

func TestRequestGetsTheNameThatTheClusterSets(t *testing.T) {
	ca := newTestCA(t)
	csr, _, err := NewRequest("n1")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := ca.SignRequest(csr, "n7", []string{"10.0.0.7"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "n7" || cert.VerifyHostname("n1") == nil || cert.IsCA {
		t.Errorf("certificate for %v, names %v", cert.Subject, cert.DNSNames)
	}
	for _, bad := range [][]byte{nil, []byte("x"), certPEM, append(csr, csr...)} {
		if _, err := ca.SignRequest(bad, "n7", nil, time.Now()); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%.30q: %v", bad, err)
		}
	}
}
