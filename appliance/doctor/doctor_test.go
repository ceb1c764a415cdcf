package doctor

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/internal/freeaddr"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
)

// worst is the worst status of the findings whose subject has the text in it, and whether all that are not ok say what
// to do.
func worst(t *testing.T, r Report, check, subject string) Status {
	t.Helper()
	out := Status("none")
	for _, f := range r {
		if f.Check != check || !strings.Contains(f.Subject, subject) {
			continue
		}
		if (f.Remedy == "") != (f.Status == OK) {
			t.Errorf("%+v: what is not ok comes with its remedy, what is ok has none", f)
		}
		if out == "none" || f.Status == Problem || f.Status == Warning && out == OK {
			out = f.Status
		}
	}
	return out
}

func config(t *testing.T) *appliance.Config {
	t.Helper()
	dir := t.TempDir()
	cfg := appliance.DefaultConfig()
	cfg.NodeID, cfg.DataDir = "n1", filepath.Join(dir, "data")
	at, err := freeaddr.Addresses(3)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen.Peer.Address, cfg.Listen.Agents.Address, cfg.Listen.HTTP.Address = at[0], at[1], at[2]
	if err := cfg.Resolve(); err != nil {
		t.Fatal(err)
	}
	return &cfg
}

func initialise(t *testing.T, cfg *appliance.Config) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ring, _, err := keyring.New()
	if err == nil {
		err = ring.Save(cfg.TLS.Dir)
	}
	if err == nil {
		err = cfg.IssueIdentity(ca)
	}
	if err == nil {
		err = os.MkdirAll(cfg.DataDir, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// Before init nothing is there, nothing is made, and nothing of the node is wrong.
func TestBeforeInit(t *testing.T) {
	cfg := config(t)
	r := Local(t.Context(), cfg, false)
	for _, check := range []string{"node", "ports", "names"} {
		if got := worst(t, r, check, ""); got != OK {
			t.Errorf("%s: %s", check, got)
		}
	}
	for _, check := range []string{"certificates", "keys"} {
		if got := worst(t, r, check, ""); got != "none" {
			t.Errorf("%s: %s", check, got)
		}
	}
	if _, err := os.Stat(cfg.DataDir); err == nil {
		t.Error("it made the data directory")
	}
}

func TestSetUpNode(t *testing.T) {
	cfg := config(t)
	initialise(t, cfg)
	r := Local(t.Context(), cfg, false)
	for _, check := range []string{"certificates", "keys", "ports"} {
		if got := worst(t, r, check, ""); got != OK {
			t.Errorf("%s: %s in %+v", check, got, r)
		}
	}
	if got := worst(t, r, "node", ""); got != Warning {
		t.Errorf("a node that is set up and does not run: %s", got)
	}
	if got := worst(t, r, "disk", "fsync"); got == "none" {
		t.Error("the disk was not measured")
	}
	left, err := filepath.Glob(filepath.Join(cfg.DataDir, ".doctor-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		spoil          func(t *testing.T, cfg *appliance.Config)
		check, subject string
		want           Status
		says           string
	}{
		"port taken": {func(t *testing.T, cfg *appliance.Config) {
			l, err := net.Listen("tcp", cfg.Listen.Agents.Address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, "ports", "listen.agents", Problem, "another program"},
		"name unknown": {func(_ *testing.T, cfg *appliance.Config) { cfg.Listen.HTTP.URL = "https://nowhere.invalid:8443" }, "names", "nowhere.invalid", Problem, ""},
		"name missing in the certificate": {func(_ *testing.T, cfg *appliance.Config) {
			cfg.Listen.HTTP.URL = "https://nowhere.invalid:8443"
		}, "certificates", "names", Problem, "nowhere.invalid"},
		"no key ring":  {func(t *testing.T, cfg *appliance.Config) { remove(t, cfg, keyring.File) }, "keys", "key ring", Problem, "missing"},
		"no CA key":    {func(t *testing.T, cfg *appliance.Config) { remove(t, cfg, pki.FileCAKey) }, "certificates", "key of the CA", Warning, "cannot renew"},
		"key readable": {func(t *testing.T, cfg *appliance.Config) { chmod(t, filepath.Join(cfg.TLS.Dir, pki.FileCert)) }, "keys", pki.FileCert, Problem, "others"},
		"damaged": {func(t *testing.T, cfg *appliance.Config) {
			if err := os.WriteFile(filepath.Join(cfg.TLS.Dir, pki.FileCert), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "certificates", "node", Problem, "cannot be used"},
		"of another CA": {func(t *testing.T, cfg *appliance.Config) {
			other, err := pki.NewCA("test", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(cfg.TLS.Dir, pki.FileCA), other.CertPEM(), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "certificates", "chain", Problem, "not of the CA"},
		"other node": {func(_ *testing.T, cfg *appliance.Config) { cfg.NodeID = "n2" }, "certificates", "name", Problem, `"n1"`},
		"no such own certificate": {func(_ *testing.T, cfg *appliance.Config) {
			cfg.Listen.HTTP.TLS.Cert, cfg.Listen.HTTP.TLS.Key = "/nowhere", "/nowhere"
		}, "certificates", "listen.http.tls", Problem, "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t)
			initialise(t, cfg)
			c.spoil(t, cfg)
			r := Local(t.Context(), cfg, false)
			if got := worst(t, r, c.check, c.subject); got != c.want || !strings.Contains(fmt.Sprint(r), c.says) {
				t.Errorf("%s, want %s and %q in %+v", got, c.want, c.says, r)
			}
		})
	}
}

func remove(t *testing.T, cfg *appliance.Config, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(cfg.TLS.Dir, name)); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, body []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(body)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Certificates are judged by the clock that they are judged by.
func TestCertificateTimes(t *testing.T) {
	made := time.Now()
	ca, err := pki.NewCA("test", made)
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := ca.Issue("n1", []string{"n1.site"}, made)
	if err != nil {
		t.Fatal(err)
	}
	cert, root := parse(t, body), parse(t, ca.CertPEM())
	for _, c := range []struct {
		now  time.Time
		want Status
	}{
		{made, OK},
		{made.Add(pki.NodeLife / 2), OK},
		{made.Add(pki.NodeLife * 4 / 5), Warning},
		{made.Add(pki.NodeLife + time.Hour), Problem},
		{made.Add(-2 * time.Hour), Problem},
	} {
		r := judgeNode(cert, root, "n1", []string{"n1.site"}, c.now)
		if got := worst(t, r, "certificates", "node"); got != c.want {
			t.Errorf("%s after it was made: %s, want %s", c.now.Sub(made), got, c.want)
		}
		if got := worst(t, r, "certificates", "chain"); got != OK {
			t.Errorf("the chain has nothing to do with the time: %s", got)
		}
	}
	for now, want := range map[time.Time]Status{made: OK, made.Add(-2 * time.Hour): Problem, made.Add(pki.CALife - 100*day): Warning, made.Add(pki.CALife + day): Problem} {
		if got := judgeCA(root, now); got.Status != want {
			t.Errorf("%+v, want %s", got, want)
		}
	}
}

func TestVolumes(t *testing.T) {
	const gib = 1 << 30
	for name, c := range map[string]struct {
		v    volume
		want Status
	}{
		"good":         {volume{kind: "ext4", total: 100 * gib, free: 50 * gib, inodes: 100, inodesFree: 50}, OK},
		"filling":      {volume{kind: "xfs", total: 100 * gib, free: 15 * gib}, Warning},
		"full":         {volume{kind: "xfs", total: 100 * gib, free: gib}, Problem},
		"no inodes":    {volume{kind: "ext4", total: 100 * gib, free: 50 * gib, inodes: 100, inodesFree: 1}, Problem},
		"memory":       {volume{kind: "tmpfs", total: 100 * gib, free: 50 * gib}, Problem},
		"network":      {volume{kind: "nfs", total: 100 * gib, free: 50 * gib}, Problem},
		"read only":    {volume{kind: "ext4", total: 100 * gib, free: 50 * gib, readOnly: true}, Problem},
		"unknown kind": {volume{kind: "0x12", total: 100 * gib, free: 50 * gib}, Warning},
	} {
		if got := worst(t, c.v.judge("/data"), "disk", ""); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestClocks(t *testing.T) {
	for _, c := range []struct {
		offset, within time.Duration
		want           Status
	}{
		{0, time.Millisecond, OK},
		{-900 * time.Millisecond, time.Millisecond, OK},
		{1200 * time.Millisecond, 500 * time.Millisecond, OK}, // it may be less
		{-2 * time.Second, time.Millisecond, Warning},
		{2 * time.Minute, time.Millisecond, Problem},
		{-time.Hour, time.Millisecond, Problem},
	} {
		if got := Offset("n2", c.offset, c.within); got.Status != c.want || (got.Remedy == "") != (c.want == OK) {
			t.Errorf("%v: %+v, want %s", c.offset, got, c.want)
		}
	}
	if f := step(time.Second, time.Second+time.Millisecond); f != nil {
		t.Errorf("%+v", f)
	}
	if f := step(time.Hour, time.Second); f == nil || f.Status != Warning {
		t.Errorf("%+v", f)
	}
}

// Another node is looked for under each of its names and at each of its ports.
func TestMembers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gone, err := freeaddr.Addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	r := Members(t.Context(), []Member{
		{ID: "n2", Peer: l.Addr().String(), AgentURL: "https://" + gone[0], URL: "https://nowhere.invalid:8443"},
	})
	for subject, want := range map[string]Status{"peers of n2": OK, "agents of n2": Problem, "browsers of n2": Problem} {
		if got := worst(t, r, "ports", subject); got != want {
			t.Errorf("%s: %s, want %s", subject, got, want)
		}
	}
	if got := worst(t, r, "names", "nowhere.invalid"); got != Problem {
		t.Errorf("%s", got)
	}
}
