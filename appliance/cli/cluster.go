package cli

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
)

func newCluster(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "cluster", Short: "Found a cluster, join it, see how it is", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newClusterInit(s), newClusterJoin(s, &t), newClusterMembers(s, &t), newClusterStatus(s, &t), newTokenGroup(s, &t, "node"))
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
	if err := cfg.Initialised(); err == nil {
		return cfg, fmt.Errorf("%s holds a certificate already: this node belongs to a cluster", cfg.TLS.Dir)
	}
	return cfg, owner.Become(cfg.DataDir, serviceUser)
}

// startHint says how a node with the configuration at path is started.
func startHint(path string) string {
	if path == defaultConfig {
		return "Start the node: systemctl start triward"
	}
	return "Start the node: triward server --config " + path
}

func newClusterInit(s streams) *cobra.Command {
	var path, user string
	c := &cobra.Command{
		Use:   "init",
		Short: "Found a new cluster with this node as its first",
		Long: `Makes the cluster's CA and this node's certificate, and prints the first administrator's password, once.
The cluster begins to live when the node is started. Run by root, it acts as the user that owns data_dir.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := loadForSetup(path)
			if err != nil {
				return err
			}
			id := newClusterID()
			ca, err := pki.NewCA(id, time.Now())
			if err != nil {
				return err
			}
			password := newPassword()
			setup := appliance.Setup{
				ClusterID: id, User: user, Password: password,
				Members: []raftstate.Server{{ID: cfg.NodeID, Addr: cfg.Listen.Peer.Advertise}},
			}
			if err := setup.Write(cfg.DataDir); err != nil {
				return err
			}
			if err := cfg.IssueIdentity(ca); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "cluster   %s\nnode      %s\naddress   %s\nuser      %s\npassword  %s\n", id, cfg.NodeID, cfg.Listen.HTTP.URL, user, password)
			fmt.Fprintf(s.err, "The password is shown this once. %s\n", startHint(path))
			return nil
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&user, "user", "admin", "name of the first administrator")
	return c
}

// newClusterID names a cluster for ever.
func newClusterID() string { return strings.ToLower(rand.Text()[:16]) }

// newPassword has 26 letters and digits, 130 random bits.
func newPassword() string { return rand.Text() }

type joinAnswer struct {
	Cert      string `json:"cert_pem"`
	CA        string `json:"ca_pem"`
	CAKey     string `json:"ca_key_pem"`
	ClusterID string `json:"cluster_id"`
	Peers     []struct {
		ID       string `json:"id"`
		PeerAddr string `json:"peer_addr"`
	} `json:"peers"`
}

func newClusterJoin(s streams, t *target) *cobra.Command {
	var path, token string
	c := &cobra.Command{
		Use:   "join",
		Short: "Let this node join a cluster",
		Long: `Asks a member for this node's certificate with a token of ` + "`triward cluster token create`" + `. The token names the
cluster's CA, so that nothing else need be trusted. The node becomes a member when it is started. Run by root, it acts
as the user that owns data_dir.`,
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
			cfg, err := loadForSetup(path)
			if err != nil {
				return err
			}
			cl.token = ""
			cl.http = &http.Client{Transport: &http.Transport{TLSClientConfig: pki.PinnedTLS(pin)}}
			csr, key, err := pki.NewRequest(cfg.NodeID)
			if err != nil {
				return err
			}
			var answer joinAnswer
			err = cl.post(c.Context(), "/v1/cluster/join", map[string]any{
				"token": token, "id": cfg.NodeID, "csr_pem": string(csr), "peer_addr": cfg.Listen.Peer.Advertise,
				"url": cfg.Listen.HTTP.URL, "agent_url": cfg.Listen.Agents.Advertise,
			}, &answer)
			if err != nil {
				return fmt.Errorf("join: %w", err)
			}
			setup := appliance.Setup{ClusterID: answer.ClusterID}
			for _, p := range answer.Peers {
				setup.Peers = append(setup.Peers, raftstate.Server{ID: p.ID, Addr: p.PeerAddr})
			}
			if err := setup.Write(cfg.DataDir); err != nil {
				return err
			}
			files := pki.Files{CA: []byte(answer.CA), CAKey: []byte(answer.CAKey), Cert: []byte(answer.Cert), Key: key}
			if err := files.Save(cfg.TLS.Dir); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "cluster  %s\nnode     %s\n", answer.ClusterID, cfg.NodeID)
			fmt.Fprintln(s.err, startHint(path))
			return nil
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&token, "join-token", "", "token for nodes; better in the environment (TRIWARD_JOIN_TOKEN)")
	return c
}

type clusterAnswer struct {
	ID        string        `json:"id"`
	Leader    string        `json:"leader"`
	Term      uint64        `json:"term"`
	Tolerates int           `json:"tolerates"`
	Nodes     []clusterNode `json:"nodes"`
}

type clusterNode struct {
	ID      string `json:"id"`
	URL     string `json:"url"`
	Peer    string `json:"peer"`
	Role    string `json:"role"`
	Voter   bool   `json:"voter"`
	Commit  uint64 `json:"commit_index"`
	Applied uint64 `json:"applied_index"`
	Mark    uint64 `json:"mark_index"`
	Lag     uint64 `json:"lag"`
	Version string `json:"version"`
	Disk    struct {
		Total int64 `json:"total"`
		Free  int64 `json:"free"`
	} `json:"disk"`
	CertExpires int64 `json:"cert_expires"`
}

func askCluster(c *cobra.Command, t *target, form *outputForm, s streams) (*clusterAnswer, error) {
	cl, err := t.client()
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	if err := cl.get(c.Context(), "/v1/cluster", url.Values{}, &raw); err != nil {
		return nil, err
	}
	if form.json() {
		return nil, writeJSON(s.out, raw)
	}
	var a clusterAnswer
	if err := json.Unmarshal(raw, &a); err != nil {
		return nil, fmt.Errorf("answer of /v1/cluster: %w", err)
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
			tab := newTable(s.out, "node", "url", "peer", "voter", "version", "certificate until")
			for _, n := range a.Nodes {
				until := ""
				if n.CertExpires > 0 {
					until = time.UnixMilli(n.CertExpires).Format("2006-01-02")
				}
				tab.row(n.ID, n.URL, n.Peer, strconv.FormatBool(n.Voter), n.Version, until)
			}
			return tab.flush()
		},
	}
	form.flag(c)
	return c
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
				tab.row(n.ID, n.Role, strconv.FormatUint(n.Applied, 10), strconv.FormatUint(n.Lag, 10), strconv.FormatUint(n.Mark, 10), free)
			}
			if err := tab.flush(); err != nil {
				return err
			}
			if a.Leader == "" {
				return &apiError{Status: http.StatusServiceUnavailable, Detail: "the cluster has no leader: too few nodes are up"}
			}
			return nil
		},
	}
	form.flag(c)
	return c
}
