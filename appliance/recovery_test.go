package appliance

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
)

// bareNode is a configuration with the files that a stopped node has in tls.dir, and the recovery key of its cluster.
func bareNode(t *testing.T, cluster, incarnation string) (cfg Config, recoveryKey string) {
	t.Helper()
	dir := t.TempDir()
	cfg = DefaultConfig()
	cfg.NodeID, cfg.DataDir, cfg.TLS.Dir = "n1", filepath.Join(dir, "data"), filepath.Join(dir, "tls")
	ring, recoveryKey, err := keyring.New()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(cfg.DataDir, 0o700), cfg.Resolve(), ring.Save(cfg.TLS.Dir), cfg.IssueIdentity(ca.InIncarnation(incarnation)), cfg.SaveRecovery(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return cfg, recoveryKey
}

// A node that was given the recovery file and the recovery key of another cluster takes nothing of them: with that
// cluster's ring it would seal what none of its own members can open.
func TestRecoveryFileOfAnotherClusterIsRefused(t *testing.T) {
	other, otherKey := bareNode(t, "b", "")
	from := filepath.Join(other.TLS.Dir, recoveryFile)
	body, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	for name, lost := range map[string][]string{
		"the ring": {keyring.File}, "ring and key of the CA": {keyring.File, pki.FileCAKey}, "all but the CA": {keyring.File, pki.FileCAKey, pki.FileCert, recoveryFile},
	} {
		cfg, _ := bareNode(t, "a", "")
		for _, file := range lost {
			if err := os.Remove(filepath.Join(cfg.TLS.Dir, file)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := cfg.Reissue(IssueOptions{From: from, Recovery: body, RecoveryKey: otherKey, Now: time.Now()})
		if err == nil || !strings.Contains(err.Error(), "another cluster") {
			t.Errorf("%s is lost: %v", name, err)
		}
		if _, err := keyring.Load(cfg.TLS.Dir); !errors.Is(err, keyring.ErrNoRing) {
			t.Errorf("%s is lost: the ring of the other cluster was taken: %v", name, err)
		}
	}
}

// In a cluster that was restored, a node whose certificate is damaged makes itself one with which its peers take it: it
// names the incarnation.
func TestDamagedCertificateKeepsTheIncarnation(t *testing.T) {
	for name, text := range map[string]func([]byte) []byte{
		"cut off": func(b []byte) []byte { return b[:len(b)/2] }, "lost": func([]byte) []byte { return []byte("garbage") },
	} {
		cfg, _ := bareNode(t, "a", "second")
		path := filepath.Join(cfg.TLS.Dir, pki.FileCert)
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text(body), 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := cfg.loadIdentity(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := id.Incarnation(); got != "second" {
			t.Errorf("%s: the new certificate names the incarnation %q", name, got)
		}
	}
}

// A certificate that is made anew from another node's recovery file is of the membership that this node's own file names: one
// of no membership would be taken for that of a machine that had the name before, and end the node.
func TestCertificateFromAnotherNodesFileKeepsTheMembership(t *testing.T) {
	cfg, recoveryKey := bareNode(t, "a", "second")
	from := filepath.Join(t.TempDir(), "n2.json")
	body, err := os.ReadFile(filepath.Join(cfg.TLS.Dir, recoveryFile)) // of a member of another number
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.LoadCA(cfg.TLS.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(from, body, 0o600),
		cfg.IssueIdentity(ca.InIncarnation("second").ForMember(7)), cfg.SaveRecovery(), os.WriteFile(filepath.Join(cfg.TLS.Dir, pki.FileCert), []byte("garbage"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cfg.Reissue(IssueOptions{From: from, Recovery: body, RecoveryKey: recoveryKey, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ReadCertificate(cfg.TLS.Dir)
	if err != nil || pki.MemberNumber(cert) != 7 || pki.Incarnation(cert) != "second" {
		t.Errorf("it is of membership %d, %v", pki.MemberNumber(cert), err)
	}
}
