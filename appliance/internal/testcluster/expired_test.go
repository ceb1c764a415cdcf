package testcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
)

// expire gives a stopped node a certificate that ended long ago, and takes the key of the CA away.
func expire(t *testing.T, n *Node) {
	t.Helper()
	dir := n.Config.TLS.Dir
	ca, err := pki.LoadCA(dir)
	must(t, err)
	cert, key, err := ca.Issue(n.Config.NodeID, n.Config.Hosts(), time.Now().Add(-3*pki.NodeLife))
	must(t, err)
	must(t, pki.WriteSecret(filepath.Join(dir, pki.FileCert), slices.Concat(cert, key)))
	must(t, os.Remove(filepath.Join(dir, pki.FileCAKey)))
}

// After a power-off that was longer than certificates are good for, no node can talk to another. Each makes itself a new
// certificate from what lies sealed beside it, and the cluster forms again.
func TestCertificatesAreIssuedWithoutACluster(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	for _, n := range c.Nodes {
		if _, err := n.Config.Reissue(appliance.IssueOptions{Now: time.Now()}); !errors.Is(err, appliance.ErrLocked) {
			t.Fatalf("while the node runs: %v", err)
		}
		Until(t, "the recovery file of "+n.Config.NodeID, func() error {
			_, err := os.Stat(filepath.Join(n.Config.TLS.Dir, "recovery.json"))
			return err
		})
	}
	for _, n := range c.Nodes {
		n.Stop(t)
		expire(t, n)
	}
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	for _, n := range c.Nodes {
		n.Start(t)
	}
	refusesItsPeers(t, n1, n2)
	refusesItsPeers(t, n2, n3)
	for _, n := range c.Nodes {
		if leader := n.App.Node().Status().Leader; leader != "" {
			t.Errorf("%s names the leader %s: certificates that ended were taken", n.Config.NodeID, leader)
		}
	}
	for _, n := range c.Nodes {
		n.Stop(t)
	}

	// n1 has its key ring. n2 lost it, and has the recovery key. n3 lost everything but its certificate.
	must(t, os.Remove(filepath.Join(n2.Config.TLS.Dir, keyring.File)))
	for _, name := range []string{keyring.File, "recovery.json", pki.FileCA} {
		must(t, os.Remove(filepath.Join(n3.Config.TLS.Dir, name)))
	}
	now := time.Now()
	reissue(t, n1, appliance.IssueOptions{Now: now, Hosts: []string{"monitor.site.example"}})
	if _, err := n2.Config.Reissue(appliance.IssueOptions{Now: now}); !errors.Is(err, appliance.ErrNoCAKey) {
		t.Errorf("without ring and key: %v", err)
	}
	other, wrong, err := keyring.New()
	must(t, err)
	_ = other
	if _, err := n2.Config.Reissue(appliance.IssueOptions{Now: now, RecoveryKey: wrong}); !errors.Is(err, keyring.ErrUnwrap) || strings.Contains(err.Error(), wrong) {
		t.Errorf("with the recovery key of another cluster: %v", err)
	}
	if _, err := n2.Config.Reissue(appliance.IssueOptions{Now: time.Unix(0, 0), RecoveryKey: c.Recovery}); !errors.Is(err, pki.ErrNotNow) {
		t.Errorf("with a clock that lost its time: %v", err)
	}
	reissue(t, n2, appliance.IssueOptions{Now: now, RecoveryKey: c.Recovery})
	from := filepath.Join(n1.Config.TLS.Dir, "recovery.json")
	body, err := os.ReadFile(from)
	must(t, err)
	reissue(t, n3, appliance.IssueOptions{Now: now, RecoveryKey: c.Recovery, From: from, Recovery: body})

	for _, n := range c.Nodes {
		n.Start(t)
	}
	for _, n := range c.Nodes {
		n.WaitReady(t)
		if _, err := n.App.Keys().Ring(); err != nil {
			t.Errorf("%s: %v", n.Config.NodeID, err)
		}
	}
	cert, err := pki.ReadCertificate(n1.Config.TLS.Dir)
	must(t, err)
	if err := cert.VerifyHostname("monitor.site.example"); err != nil {
		t.Error(err)
	}
}

// With the CA's key beside it, a node renews a certificate that ended by itself.
func TestCertificatesThatEndedRenewThemselves(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	for _, n := range c.Nodes {
		n.Stop(t)
		key, err := os.ReadFile(filepath.Join(n.Config.TLS.Dir, pki.FileCAKey))
		must(t, err)
		expire(t, n)
		must(t, pki.WriteSecret(filepath.Join(n.Config.TLS.Dir, pki.FileCAKey), key))
	}
	for _, n := range c.Nodes {
		n.Start(t)
	}
	for _, n := range c.Nodes {
		n.WaitReady(t)
	}
}

func reissue(t *testing.T, n *Node, opts appliance.IssueOptions) {
	t.Helper()
	made, err := n.Config.Reissue(opts)
	if err != nil {
		t.Fatalf("%s: %v", n.Config.NodeID, err)
	}
	if made.Node != n.Config.NodeID || !made.Expires.After(opts.Now) {
		t.Errorf("%+v", made)
	}
}

// refusesItsPeers makes sure that one node does not take the other for a member.
func refusesItsPeers(t *testing.T, from, to *Node) {
	t.Helper()
	id, err := pki.Load(from.Config.TLS.Dir)
	must(t, err)
	Until(t, to.Config.NodeID+" answers on its peer port", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		d := tls.Dialer{Config: &tls.Config{RootCAs: id.Pool(), MinVersion: tls.VersionTLS13, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Certificate(nil) }}}
		conn, err := d.DialContext(ctx, "tcp", to.Config.Listen.Peer.Address)
		if err == nil {
			_ = conn.Close()
			return errors.New("it was taken")
		}
		var ended x509.CertificateInvalidError
		if !errors.As(err, &ended) || ended.Reason != x509.Expired {
			return err
		}
		return nil
	})
}
