package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
)

// Setup is what the first start of a node needs to know and what is no configuration. It lies in the data
// directory with mode 0600 from `cluster init` or `join` until the node is a member and has done what it says.
type Setup struct {
	ClusterID string `json:"cluster_id"`
	// Members, when set, are the first members of a new cluster that this node founds.
	Members []raftstate.Server `json:"members,omitempty"`
	// Founding says that the node is of a new cluster that another of its first members founds. Without it a node that
	// holds nothing has no vote before it has caught up.
	Founding bool `json:"founding,omitempty"`
	// User is the first administrator of a new cluster. Password is theirs; or Invite the stored form of the set-up link
	// with which they choose one, good for InviteLife from the founding on (auth.NewInvite).
	User       string   `json:"user,omitempty"`
	Password   string   `json:"password,omitempty"`
	Invite     string   `json:"invite,omitempty"`
	InviteLife Duration `json:"invite_life,omitempty"`
	// Peers, when set, are members that take this node into their cluster.
	Peers []raftstate.Server `json:"peers,omitempty"`
	// Restored, when set, is the backup that the node's state was restored from.
	Restored *restoredFrom `json:"restored,omitempty"`
	// Recovered, when set, says how the cluster lost its majority and went on with this node alone.
	Recovered *recoveredFrom `json:"recovered,omitempty"`
}

const setupFile = "setup.json"

// Write stores the setup in the data directory, which is made when absent.
func (s *Setup) Write(dataDir string) error {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	body, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode setup: %w", err)
	}
	return pki.WriteSecret(filepath.Join(dataDir, setupFile), body)
}

// readSetup returns nil when there is none.
func readSetup(dataDir string) (*Setup, error) {
	body, err := os.ReadFile(filepath.Join(dataDir, setupFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var s Setup
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		return nil, fmt.Errorf("read setup of the node: %w", err)
	}
	return &s, nil
}

func removeSetup(dataDir string) error {
	if err := os.Remove(filepath.Join(dataDir, setupFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove setup of the node: %w", err)
	}
	return nil
}

// Hosts are the names and addresses under which the node is reached: what its certificate must carry. The
// configuration must be resolved.
func (c *Config) Hosts() []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	add := func(h string) {
		if ip, err := netip.ParseAddr(h); err == nil && ip.IsUnspecified() {
			return
		}
		if h != "" && !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	if name, err := os.Hostname(); err == nil {
		add(name)
	}
	addHostPort := func(hp string) {
		if h, _, err := net.SplitHostPort(hp); err == nil {
			add(h)
		}
	}
	for _, raw := range append([]string{c.Listen.Agents.Advertise, c.Listen.HTTP.URL}, c.Listen.HTTP.Origins...) {
		if u, err := url.Parse(raw); err == nil {
			add(u.Hostname())
		}
	}
	for _, hp := range []string{c.Listen.Peer.Advertise, c.Listen.Peer.Address, c.Listen.Agents.Address, c.Listen.HTTP.Address} {
		addHostPort(hp)
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				add(p.Addr().String())
			}
		}
	}
	return hosts
}

// Initialised returns pki.ErrNotInitialised until the node has a certificate, which init and join write last. The
// configuration must be resolved.
func (c *Config) Initialised() error {
	_, err := os.Stat(filepath.Join(c.TLS.Dir, pki.FileCert))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", c.TLS.Dir, pki.ErrNotInitialised)
	}
	return err
}

// IssueIdentity makes the node's certificate with the CA and writes both to its TLS directory.
func (c *Config) IssueIdentity(ca *pki.CA) error {
	cert, key, err := ca.Issue(c.NodeID, c.Hosts(), time.Now())
	if err != nil {
		return err
	}
	caKey, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	files := pki.Files{CA: ca.CertPEM(), CAKey: caKey, Cert: cert, Key: key}
	return files.Save(c.TLS.Dir)
}

// loadIdentity reads the node's certificate. One that cannot be used, after a disk was full or files were mixed up, is
// issued anew where the node has the CA's key: it would otherwise keep the node down for no reason.
func (c *Config) loadIdentity(log *slog.Logger) (*pki.Identity, error) {
	id, err := pki.Load(c.TLS.Dir)
	if !errors.Is(err, pki.ErrUnusable) {
		return id, err
	}
	ca, errCA := pki.LoadCA(c.TLS.Dir)
	if errCA != nil {
		return nil, errors.Join(err, errCA)
	}
	log.Warn("the node's certificate cannot be used, a new one is issued", "err", err)
	incarnation, member := c.lastIncarnation(ca)
	if err := c.IssueIdentity(ca.InIncarnation(incarnation).ForMember(member)); err != nil {
		return nil, err
	}
	return pki.Load(c.TLS.Dir)
}

// lastIncarnation is the incarnation of the cluster, and the node's membership, that its damaged certificate names, else its
// recovery file: with a certificate that names another no peer takes the node.
func (c *Config) lastIncarnation(ca *pki.CA) (incarnation string, member uint64) {
	if cert, err := pki.ReadCertificate(c.TLS.Dir); err == nil {
		return pki.Incarnation(cert), pki.MemberNumber(cert)
	}
	if r, err := readRecovery(filepath.Join(c.TLS.Dir, recoveryFile)); err == nil && r.CA == string(ca.CertPEM()) {
		return r.Incarnation, r.Member
	}
	return "", 0
}
