package testcluster

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
)

// Backup asks a node for a backup of itself.
func (c *Cluster) Backup(n *Node, recipients ...string) ([]byte, error) {
	resp, err := c.do(http.MethodPost, n.URL()+"/v1/snapshot", map[string]any{"recipients": recipients}, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// NewConfig is the configuration of a node that does not exist yet.
func NewConfig(t testing.TB, id string) appliance.Config {
	t.Helper()
	return nodeConfig(t, t.TempDir(), id)
}

// Adopt starts a node that lies ready in the directories of its configuration, as a cluster of its own. token is an
// API token that its state knows. Everything ends with the test.
func Adopt(t testing.TB, cfg appliance.Config, token string) *Cluster {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(cfg.TLS.Dir, pki.FileCA))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conf := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	c := &Cluster{TLS: conf, Token: token, running: new(running)}
	c.HTTP = c.client(t, conf)
	t.Cleanup(func() {
		for _, node := range c.Nodes {
			node.Stop(t)
		}
	})
	c.add(t, cfg)
	return c
}

func (c *Cluster) add(t testing.TB, cfg appliance.Config) *Node {
	t.Helper()
	n := &Node{Config: cfg, cluster: c, log: logTo(t, filepath.Dir(cfg.DataDir))}
	c.Nodes = append(c.Nodes, n)
	n.Start(t)
	n.WaitReady(t)
	return n
}

// Join makes a new node with a token, as `triward cluster join` does, and waits until it is a member.
func (c *Cluster) Join(t testing.TB, id string) *Node {
	t.Helper()
	n, err := c.JoinAs(t, NewConfig(t, id), nil)
	must(t, err)
	return n
}

// JoinAs is Join for a node with a configuration that the caller made, with further words in its request. The error is that
// of the request.
func (c *Cluster) JoinAs(t testing.TB, cfg appliance.Config, more map[string]any) (*Node, error) {
	t.Helper()
	id := cfg.NodeID
	var token struct {
		Token string `json:"token"`
	}
	must(t, c.Post(c.Nodes[0], "/v1/tokens/join", map[string]any{"kind": "node"}, &token))
	csr, key, err := pki.NewRequest(id)
	must(t, err)
	identity, recipient, err := keyring.NewJoiner()
	must(t, err)
	var answer struct {
		Ring      []byte `json:"key_ring"`
		Cert      string `json:"cert_pem"`
		CA        string `json:"ca_pem"`
		CAKey     string `json:"ca_key_pem"`
		ClusterID string `json:"cluster_id"`
		Peers     []struct {
			ID       string `json:"id"`
			PeerAddr string `json:"peer_addr"`
		} `json:"peers"`
	}
	request := map[string]any{
		"token": token.Token, "id": id, "csr_pem": string(csr), "peer_addr": cfg.Listen.Peer.Advertise,
		"url": cfg.Listen.HTTP.URL, "agent_url": cfg.Listen.Agents.Advertise,
		"ring_to": recipient,
	}
	maps.Copy(request, more)
	if err := c.Post(c.Nodes[0], "/v1/cluster/join", request, &answer); err != nil {
		return nil, err
	}
	ring, err := keyring.Unwrap(answer.Ring, identity)
	must(t, err)
	must(t, ring.Save(cfg.TLS.Dir))
	setup := appliance.Setup{ClusterID: answer.ClusterID}
	for _, p := range answer.Peers {
		setup.Peers = append(setup.Peers, raftstate.Server{ID: p.ID, Addr: p.PeerAddr})
	}
	must(t, setup.Write(cfg.DataDir))
	files := pki.Files{CA: []byte(answer.CA), CAKey: []byte(answer.CAKey), Cert: []byte(answer.Cert), Key: key}
	must(t, files.Save(cfg.TLS.Dir))
	return c.add(t, cfg), nil
}

// Forget takes a node that is no member out of those that the test looks at. It must be stopped.
func (c *Cluster) Forget(n *Node) {
	c.Nodes = slices.DeleteFunc(c.Nodes, func(o *Node) bool { return o == n })
}

// Digests returns the digests of a node as text, and the index they are of.
func (c *Cluster) Digests(t testing.TB, n *Node) (index uint64, sums string) {
	t.Helper()
	var d digest
	Until(t, fmt.Sprintf("digests of %s", n.Config.NodeID), func() error { return c.Get(n, "/v1/digest", &d) })
	return d.Index, string(d.Sums)
}
