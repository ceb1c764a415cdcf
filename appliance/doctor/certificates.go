package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
)

const (
	day = 24 * time.Hour
	// renewedBy is the part of a node certificate's life that is left when it should have been renewed for long: a node
	// renews at two thirds.
	renewedBy = 4
	caWarn    = 365 * day
	ownWarn   = 21 * day // of a listener's own certificate, which people renew
	issue     = "stop the node, then: triward tls issue; start it again"
)

func isNotInitialised(err error) bool { return errors.Is(err, pki.ErrNotInitialised) }

// certificates judges the CA, the node's certificate and those of the listeners.
func certificates(ctx context.Context, cfg *appliance.Config, running bool) (r Report) {
	r = append(r, ownCertificates(cfg, time.Now())...)
	if isNotInitialised(cfg.Initialised()) {
		return r
	}
	dir := cfg.TLS.Dir
	ca, err := readCert(filepath.Join(dir, pki.FileCA))
	if err != nil {
		return append(r, unreadable(filepath.Join(dir, pki.FileCA), err))
	}
	now := time.Now()
	r = append(r, judgeCA(ca, now))
	r = append(r, caKey(dir))
	path := filepath.Join(dir, pki.FileCert)
	body, err := os.ReadFile(path)
	if err != nil {
		return append(r, unreadable(path, err))
	}
	pair, err := tls.X509KeyPair(body, body)
	if err != nil {
		r.Add("certificates", "node", Problem, fmt.Sprintf("%s: the certificate or its key cannot be used: %v", path, err), issue)
		return r
	}
	names := advertised(cfg)
	r = append(r, judgeNode(pair.Leaf, ca, cfg.NodeID, sorted(names), now)...)
	if running && cfg.Listen.Agents.TLS.Cert == "" {
		r = append(r, shown(ctx, dialable(cfg.Listen.Agents.Address), pair.Leaf))
	}
	return r
}

func unreadable(path string, err error) Finding {
	f := Finding{Check: "certificates", Subject: path, Status: Problem, Detail: err.Error(), Remedy: "run `triward cluster join` with a new token, under the same node_id"}
	if errors.Is(err, fs.ErrPermission) {
		f.Status, f.Remedy = Warning, asRoot
	}
	return f
}

func readCert(path string) (*x509.Certificate, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(body)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func until(t time.Time) string { return "until " + t.UTC().Format(time.DateOnly) }

func judgeCA(ca *x509.Certificate, now time.Time) Finding {
	f := Finding{Check: "certificates", Subject: "CA of the nodes", Status: OK, Detail: until(ca.NotAfter)}
	switch {
	case now.Before(ca.NotBefore):
		f.Status, f.Detail = Problem, fmt.Sprintf("it begins at %s, and this machine's clock says %s", ca.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		f.Remedy = setClock
	case now.After(ca.NotAfter):
		f.Status, f.Remedy = Problem, "restore a backup that was made without keys: the cluster gets a new CA (docs: backup)"
	case ca.NotAfter.Sub(now) < caWarn:
		f.Status, f.Remedy = Warning, "plan for a new CA before that day"
	}
	return f
}

// caKey says whether this node can renew its certificate by itself.
func caKey(dir string) Finding {
	f := Finding{Check: "certificates", Subject: "key of the CA", Status: OK, Detail: "is here: the node renews its certificate by itself"}
	_, err := pki.LoadCA(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.Status, f.Detail, f.Remedy = Warning, err.Error(), asRoot
	case err != nil:
		f.Status, f.Detail, f.Remedy = Warning, "the node cannot renew its certificate: "+strings.TrimSuffix(err.Error(), ": "+pki.ErrNotInitialised.Error()), issue
	}
	return f
}

// judgeNode judges a node's certificate against its CA, its name and the names under which it is reached.
func judgeNode(cert, ca *x509.Certificate, id string, hosts []string, now time.Time) (r Report) {
	left := cert.NotAfter.Sub(now)
	life := cert.NotAfter.Sub(cert.NotBefore)
	switch {
	case now.Before(cert.NotBefore):
		r.Add("certificates", "node", Problem, fmt.Sprintf("it begins at %s, and this machine's clock says %s", cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)), setClock)
	case left < 0:
		r.Add("certificates", "node", Problem, "it ended at "+cert.NotAfter.UTC().Format(time.RFC3339), issue)
	case left < life/renewedBy:
		r.Add("certificates", "node", Warning, until(cert.NotAfter)+"; it should have been renewed", "let the node run, it renews by itself; otherwise "+issue)
	default:
		r.Add("certificates", "node", OK, until(cert.NotAfter), "")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	// The chain is judged as of a moment at which both are good, so that it says something of its own.
	at := cert.NotAfter.Add(-time.Minute)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		r.Add("certificates", "chain", Problem, "the node's certificate is not of the CA beside it: "+err.Error(), issue)
	} else {
		r.Add("certificates", "chain", OK, "the node's certificate is of the cluster's CA", "")
	}
	if cert.Subject.CommonName != id {
		r.Add("certificates", "name", Problem, fmt.Sprintf("it is for node %q, this is node %q", cert.Subject.CommonName, id), "set node_id back to "+cert.Subject.CommonName)
	}
	var missing []string
	for _, h := range hosts {
		if cert.VerifyHostname(h) != nil {
			missing = append(missing, h)
		}
	}
	if len(missing) > 0 {
		r.Add("certificates", "names", Problem, "it does not name "+strings.Join(missing, ", ")+", under which the node says that it is reached", issue)
	} else {
		r.Add("certificates", "names", OK, "it names "+strings.Join(hosts, ", "), "")
	}
	return r
}

// shown says whether the running node shows the certificate that lies in its directory.
func shown(ctx context.Context, address string, cert *x509.Certificate) Finding {
	f := Finding{Check: "certificates", Subject: "shown at " + address, Status: OK, Detail: "the one of the file"}
	state, err := presented(ctx, address)
	switch {
	case err != nil:
		f.Status, f.Detail, f.Remedy = Problem, err.Error(), "look at the node's log: journalctl -u triward"
	case !state.PeerCertificates[0].Equal(cert):
		f.Status, f.Detail = Warning, "another than the one of the file: "+until(state.PeerCertificates[0].NotAfter)
		f.Remedy = "start the node again: systemctl restart triward"
	}
	return f
}

// ownCertificates judges the files that the configuration names for listeners.
func ownCertificates(cfg *appliance.Config, now time.Time) (r Report) {
	for _, l := range []struct {
		key string
		tls appliance.ListenTLS
		url string
	}{{"listen.agents.tls", cfg.Listen.Agents.TLS, cfg.Listen.Agents.Advertise}, {"listen.http.tls", cfg.Listen.HTTP.TLS, cfg.Listen.HTTP.URL}} {
		if l.tls.Cert == "" {
			continue
		}
		pair, err := tls.LoadX509KeyPair(l.tls.Cert, l.tls.Key)
		renew := "put a new certificate and its key in place, then: systemctl reload triward"
		switch {
		case errors.Is(err, fs.ErrPermission):
			r.Add("certificates", l.key, Problem, err.Error(), "let the user triward read both files")
		case err != nil:
			r.Add("certificates", l.key, Problem, err.Error(), renew)
		case now.After(pair.Leaf.NotAfter):
			r.Add("certificates", l.key, Problem, "it ended at "+pair.Leaf.NotAfter.UTC().Format(time.RFC3339), renew)
		case now.Before(pair.Leaf.NotBefore):
			r.Add("certificates", l.key, Problem, "it begins at "+pair.Leaf.NotBefore.UTC().Format(time.RFC3339), setClock)
		case pair.Leaf.VerifyHostname(hostOf(l.url)) != nil:
			r.Add("certificates", l.key, Problem, "it does not name "+hostOf(l.url), renew)
		case pair.Leaf.NotAfter.Sub(now) < ownWarn:
			r.Add("certificates", l.key, Warning, until(pair.Leaf.NotAfter), renew)
		default:
			r.Add("certificates", l.key, OK, until(pair.Leaf.NotAfter), "")
		}
	}
	return r
}

func hostOf(raw string) string {
	address := hostPort(raw)
	if i := strings.LastIndexByte(address, ':'); i > 0 {
		return strings.Trim(address[:i], "[]")
	}
	return address
}

// keys judges the key ring, and that nobody else may read what must be read by nobody else.
func keys(_ context.Context, cfg *appliance.Config, _ bool) (r Report) {
	if isNotInitialised(cfg.Initialised()) {
		return nil
	}
	ring, err := keyring.Load(cfg.TLS.Dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		r.Add("keys", "key ring", Warning, err.Error(), asRoot)
	case errors.Is(err, keyring.ErrNoRing):
		r.Add("keys", "key ring", Problem, "it is missing: this node can open no secret", "start another member that has it, this node takes it from there; or, stopped, `triward tls issue --recovery-key-file FILE`")
	case err != nil:
		r.Add("keys", "key ring", Problem, err.Error(), "move the file away and start the node: it takes the ring from another member")
	default:
		r.Add("keys", "key ring", OK, fmt.Sprintf("is here, key %s seals", ring.KeyIDs()[0]), "")
	}
	for _, name := range []string{pki.FileCAKey, pki.FileCert, keyring.File} {
		path := filepath.Join(cfg.TLS.Dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
			r.Add("keys", path, Problem, "others on this machine may read it: mode "+info.Mode().Perm().String(), "chmod 600 "+path)
		}
	}
	return r
}
