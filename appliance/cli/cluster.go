package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
)

func newCluster(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "cluster", Short: "Found a cluster, join it, see how it is", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(membershipCommands(s, &t)...)
	c.AddCommand(
		newClusterRecover(s), newClusterInit(s), newClusterJoin(s, &t), newClusterMembers(s, &t), newClusterStatus(s, &t), newClusterVerify(s, &t), newClusterRepair(s, &t), newClusterScrub(s, &t), newClusterCA(s, &t),
		newTokenGroup(s, &t, "node"),
	)
	return c
}

func loadForSetup(path string) (appliance.Config, error) {
	cfg, err := appliance.LoadConfig(path)
	if err != nil {
		return cfg, err
	}
	if err := cfg.Resolve(); err != nil {
		return cfg, err
	}
	if err := cfg.Removed(); err != nil {
		return cfg, err
	}
	if err := cfg.Initialised(); err == nil {
		return cfg, fmt.Errorf("%s holds a certificate already: this node belongs to a cluster", cfg.TLS.Dir)
	}
	return cfg, owner.Become(cfg.DataDir, serviceUser)
}

// unitDirs are where packages and administrators put units.
var unitDirs = []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// startCommand is how a node with the configuration at path is started: as the package's service, where that is.
func startCommand(path string) string {
	if path == defaultConfig {
		for _, dir := range unitDirs {
			if _, err := os.Stat(filepath.Join(dir, "triward.service")); err == nil {
				return "systemctl start triward"
			}
		}
	}
	return "triward server" + withConfig(path).flag
}

func newClusterInit(s streams) *cobra.Command {
	var path string
	var first firstUser
	c := &cobra.Command{
		Use:   "init",
		Short: "Found a new cluster with this node as its first",
		Long: `Makes the cluster's CA, its key ring and this node's certificate, and prints a set-up link and the recovery key, once.
With the link the first administrator chooses a password in the browser; it is good once and for a day from the first
start on. The recovery key opens backups when no node is left: keep it away from the nodes.
The cluster begins to live when the node is started. Run by root, it acts as the user that owns data_dir.`,
		Example: "  triward cluster init\n  triward cluster init --password-stdin <password-file",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := first.read(s); err != nil {
				return err
			}
			cfg, err := loadForSetup(path)
			if err != nil {
				return err
			}
			id := newClusterID()
			ca, err := pki.NewCA(id, time.Now())
			if err != nil {
				return err
			}
			ring, recovery, err := keyring.New()
			if err != nil {
				return err
			}
			setup := appliance.Setup{ClusterID: id, Members: []raftstate.Server{{ID: cfg.NodeID, Addr: cfg.Listen.Peer.Advertise}}}
			login := first.into(&setup, cfg.Listen.HTTP.URL)
			if err := setup.Write(cfg.DataDir); err != nil {
				return err
			}
			if err := ring.Save(cfg.TLS.Dir); err != nil {
				return err
			}
			if err := cfg.IssueIdentity(ca); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "cluster   %s\nnode      %s\naddress   %s\nuser      %s\n%srecovery  %s\n", id, cfg.NodeID, cfg.Listen.HTTP.URL, first.name, login, recovery)
			sayNext(s.err, &cfg, path, &first)
			return nil
		},
	}
	configFlag(c, &path)
	first.flags(c)
	return c
}

// sayNext tells whoever founded a cluster what to do now, in commands that can be copied.
func sayNext(w io.Writer, cfg *appliance.Config, path string, first *firstUser) {
	with := withConfig(path)
	fmt.Fprintf(w, `
%s shown this once and kept nowhere here. Write the recovery key down and keep it away from
the nodes: with it a backup is opened when no node is left. What comes next:

  start this node
      %s
%s  here, once for each further node
      %striward cluster token create
  on each further node
      TRIWARD_JOIN_TOKEN=... triward cluster join --addr %s
      %s
  here, for each host
      %striward agents token create
  on the host
      TRIWARD_TOKEN=... triward-agent enroll --url %s

While the node runs, commands on this machine find it by themselves for whoever may read %s.
`, first.said(), startCommand(path), first.next(with.env), with.env, cfg.Listen.HTTP.URL, startCommand(configPath()), with.env, cfg.Listen.Agents.Advertise, cfg.TokenPath())
}

// withConfig is how a command is told of a configuration that it would not look for by itself.
func withConfig(path string) (with struct{ flag, env string }) {
	if path != configPath() {
		with.flag, with.env = " --config "+path, "TRIWARD_CONFIG="+path+" "
	}
	return with
}

// newClusterID names a cluster for ever.
func newClusterID() string { return strings.ToLower(rand.Text()[:16]) }

// newPassword has 26 letters and digits, 130 random bits.
func newPassword() string { return rand.Text() }

type joinAnswer struct {
	Cert      string `json:"cert_pem"`
	CA        string `json:"ca_pem"`
	CAKey     string `json:"ca_key_pem"`
	Ring      []byte `json:"key_ring"`
	ClusterID string `json:"cluster_id"`
	Peers     []struct {
		ID       string `json:"id"`
		PeerAddr string `json:"peer_addr"`
	} `json:"peers"`
}

// loadToJoin is loadForSetup for a machine that may have been removed from a cluster. discard is whether what it has of
// then may go.
func loadToJoin(path string, discard bool) (cfg appliance.Config, removed bool, err error) {
	if cfg, err = loadForSetup(path); !errors.Is(err, appliance.ErrRemoved) {
		return cfg, false, err
	}
	if !discard {
		return cfg, true, err
	}
	return cfg, true, owner.Become(cfg.DataDir, serviceUser)
}

func newClusterJoin(s streams, t *target) *cobra.Command {
	var path, token string
	var readOnly, discard bool
	c := &cobra.Command{
		Use:   "join",
		Short: "Let this node join a cluster",
		Long: `Asks a member for this node's certificate with a token of ` + "`triward cluster token create`" + `. The token names the
cluster's CA, so that nothing else need be trusted. The node becomes a member when it is started, at first without a
vote: the leader gives it one when it has caught up and has stayed so for some seconds. With --read-only it never gets
one: it receives everything and answers reads, and no write waits for it. A node that was lost joins again under its
name; a machine that was removed from a cluster joins with --discard-data. Run by root, it acts as the user that owns
data_dir.`,
		Example: "  TRIWARD_JOIN_TOKEN=twn_... triward cluster join --addr https://node1:8443",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if token == "" {
				token = os.Getenv("TRIWARD_JOIN_TOKEN")
			}
			_, pin, ok := strings.Cut(token, ".")
			if !ok || pin == "" {
				return errors.New("--join-token: want a token of `triward cluster token create`")
			}
			if t.addr == "" {
				return errors.New("--addr: name a member of the cluster, https://host:8443")
			}
			cl, err := t.client() // it reads what is the caller's: before this becomes another user
			if err != nil {
				return err
			}
			cfg, removed, err := loadToJoin(path, discard)
			if err != nil {
				return err
			}
			cl.token = ""
			cl.http = &http.Client{Transport: &http.Transport{TLSClientConfig: pki.PinnedTLS(pin)}}
			csr, key, err := pki.NewRequest(cfg.NodeID)
			if err != nil {
				return err
			}
			ringKey, ringTo, err := keyring.NewJoiner()
			if err != nil {
				return err
			}
			var answer joinAnswer
			request := map[string]any{
				"token": token, "id": cfg.NodeID, "csr_pem": string(csr), "peer_addr": cfg.Listen.Peer.Advertise,
				"url": cfg.Listen.HTTP.URL, "agent_url": cfg.Listen.Agents.Advertise, "ring_to": ringTo,
			}
			if readOnly { // members of an older version do not know the word
				request["read_only"] = true
			}
			err = cl.post(c.Context(), "/v1/cluster/join", request, &answer)
			if err != nil {
				return fmt.Errorf("join: %w", err)
			}
			ring, err := keyring.Unwrap(answer.Ring, ringKey)
			if err != nil {
				return fmt.Errorf("join: key ring in the answer: %w", err)
			}
			if removed {
				if err := cfg.DiscardRemoved(); err != nil {
					return err
				}
			}
			setup := appliance.Setup{ClusterID: answer.ClusterID}
			for _, p := range answer.Peers {
				setup.Peers = append(setup.Peers, raftstate.Server{ID: p.ID, Addr: p.PeerAddr})
			}
			if err := setup.Write(cfg.DataDir); err != nil {
				return err
			}
			if err := ring.Save(cfg.TLS.Dir); err != nil {
				return err
			}
			files := pki.Files{CA: []byte(answer.CA), CAKey: []byte(answer.CAKey), Cert: []byte(answer.Cert), Key: key}
			if err := files.Save(cfg.TLS.Dir); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "cluster  %s\nnode     %s\n", answer.ClusterID, cfg.NodeID)
			fmt.Fprintf(s.err, "\nWhat comes next, here:\n\n  %s\n  %striward cluster status\n", startCommand(path), withConfig(path).env)
			return nil
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&readOnly, "read-only", false, "become a member that never votes, to answer reads")
	c.Flags().BoolVar(&discard, "discard-data", false, "on a machine whose node was removed from its cluster: delete what it has of then")
	c.Flags().StringVar(&token, "join-token", "", "token for nodes; better in the environment (TRIWARD_JOIN_TOKEN)")
	return c
}

func newClusterCA(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "ca",
		Short: "Print the certificate of the cluster's CA, which browsers and agents check the nodes by",
		Long:  `Prints the CA of the cluster as this machine holds it: run it on a node, as root. It is no secret. The command line on other machines takes it with TRIWARD_CA, browsers import it.`,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := t.normalize(); err != nil {
				return err
			}
			pem, err := t.clusterCA()
			if err != nil {
				return err
			}
			_, err = s.out.Write(pem)
			return err
		},
	}
}

type clusterAnswer struct {
	ID         string        `json:"id"`
	Leader     string        `json:"leader"`
	Term       uint64        `json:"term"`
	Tolerates  int           `json:"tolerates"`
	NoMajority string        `json:"no_majority"`
	Format     uint32        `json:"format"`
	Nodes      []clusterNode `json:"nodes"`
	Removed    []struct {
		ID string `json:"id"`
		At int64  `json:"at"`
		By string `json:"by"`
	} `json:"removed"`
}

// part is what a node is in the cluster, in a word or two.
func (n *clusterNode) part() string {
	switch {
	case n.Leaving:
		return "leaving"
	case n.Probation:
		return "voter, no vote yet"
	case n.Voter:
		return "voter"
	case n.ReadOnly:
		return "read-only"
	}
	return "joining"
}

type clusterNode struct {
	ID        string `json:"id"`
	URL       string `json:"url"`
	AgentURL  string `json:"agent_url"`
	Peer      string `json:"peer"`
	Role      string `json:"role"`
	Voter     bool   `json:"voter"`
	ReadOnly  bool   `json:"read_only"`
	Leaving   bool   `json:"leaving"`
	Format    uint32 `json:"format"`
	Commit    uint64 `json:"commit_index"`
	Applied   uint64 `json:"applied_index"`
	Mark      uint64 `json:"mark_index"`
	Lag       uint64 `json:"lag"`
	Probation bool   `json:"probation"`
	Version   string `json:"version"`
	Disk      struct {
		Total int64 `json:"total"`
		Free  int64 `json:"free"`
	} `json:"disk"`
	Repair      *nodeRepair `json:"repair"`
	CertExpires int64       `json:"cert_expires"`
	Ring        *ringAnswer `json:"key_ring"`
	ClockMS     int64       `json:"clock_ms"`
	OffsetMS    int64       `json:"clock_offset_ms"`
	WithinMS    int64       `json:"clock_within_ms"`
}

// ringAnswer names the keys that a node holds.
type ringAnswer struct {
	Active   string   `json:"active"`
	Keys     []string `json:"keys"`
	Recovery string   `json:"recovery"`
}

func askCluster(c *cobra.Command, t *target, form *outputForm, s streams) (*clusterAnswer, error) {
	cl, err := t.client()
	if err != nil {
		return nil, err
	}
	var a clusterAnswer
	if shown, err := cl.show(c.Context(), s, form, "/v1/cluster", nil, &a); err != nil || shown {
		return nil, err
	}
	return &a, nil
}

func newClusterMembers(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "members", Short: "List the nodes and their addresses", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := askCluster(c, t, &form, s)
			if err != nil || a == nil {
				return err
			}
			tab := newTable(s.out, "node", "url", "peer", "part", "version", "certificate until")
			for _, n := range a.Nodes {
				until := ""
				if n.CertExpires > 0 {
					until = time.UnixMilli(n.CertExpires).Format("2006-01-02")
				}
				tab.row(n.ID, n.URL, n.Peer, n.part(), n.Version, until)
			}
			if err := tab.flush(); err != nil {
				return err
			}
			for _, gone := range a.Removed {
				fmt.Fprintf(s.out, "removed: %s at %s by %s\n", gone.ID, time.UnixMilli(gone.At).UTC().Format(time.RFC3339), gone.By)
			}
			if a.NoMajority != "" {
				return noLeader(a)
			}
			return nil
		},
	}
	form.flag(c)
	return c
}

// noLeader is the error of a cluster without a leader, with the reason where more than missing nodes is one.
func noLeader(a *clusterAnswer) error {
	switch {
	case a.Leader != "":
		return nil
	case a.NoMajority != "":
		return &apiError{Status: http.StatusServiceUnavailable, Code: codeNoQuorum, Detail: "the cluster has no leader: " + a.NoMajority}
	}
	return &apiError{Status: http.StatusServiceUnavailable, Code: codeNoQuorum, Detail: "the cluster has no leader: too few nodes are up"}
}

func newClusterStatus(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "status", Short: "Show the leader, how far each node is, and what the cluster tolerates", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := askCluster(c, t, &form, s)
			if err != nil || a == nil {
				return err
			}
			leader := a.Leader
			if leader == "" {
				leader = "none"
			}
			fmt.Fprintf(s.out, "cluster %s, leader %s, term %d: tolerates %d more failure(s)\n\n", a.ID, leader, a.Term, a.Tolerates)
			tab := newTable(s.out, "node", "role", "applied", "behind", "mark", "disk free")
			for _, n := range a.Nodes {
				free := ""
				if n.Disk.Total > 0 {
					free = bytesText(n.Disk.Free)
				}
				if part := n.part(); part != "voter" {
					n.Role += ", " + strings.TrimPrefix(part, "voter, ")
				}
				tab.row(n.ID, n.Role, strconv.FormatUint(n.Applied, 10), strconv.FormatUint(n.Lag, 10), strconv.FormatUint(n.Mark, 10), free)
			}
			if err := tab.flush(); err != nil {
				return err
			}
			printRepairs(s.out, a.Nodes)
			return noLeader(a)
		},
	}
	form.flag(c)
	return c
}
