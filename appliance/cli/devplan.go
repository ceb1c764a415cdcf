package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/internal/freeaddr"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
)

// devPlan is what the nodes of a `triward dev` are; it lies in the data directory, so that one that was kept is
// started again as it was.
type devPlan struct {
	path string

	User     string    `json:"user"`
	Password string    `json:"password"`
	Recovery string    `json:"recovery_key"`
	Token    string    `json:"token,omitempty"`
	CA       string    `json:"ca"`
	Nodes    []devNode `json:"nodes"`
}

// devLogRetention is long enough for whatever lies in /var/log.
const devLogRetention = 730 * 24 * time.Hour

// planDev reads the plan of a directory that was used before, or makes one with certificates and configurations.
func planDev(dir string, o devOptions) (*devPlan, error) {
	p := &devPlan{path: filepath.Join(dir, "dev.json")}
	body, err := os.ReadFile(p.path)
	if err == nil {
		if err := json.Unmarshal(body, p); err != nil {
			return nil, fmt.Errorf("read %s: %w", p.path, err)
		}
		if len(p.Nodes) != o.nodes {
			return nil, fmt.Errorf("%s holds a cluster of %d nodes; start it with --nodes %d or choose another --data-dir", dir, len(p.Nodes), len(p.Nodes))
		}
		return p, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	if err := p.make(dir, o); err != nil {
		return nil, err
	}
	return p, p.save()
}

func (p *devPlan) save() error {
	body, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	return pki.WriteSecret(p.path, body)
}

func (p *devPlan) make(dir string, o devOptions) error {
	host, ports, err := devPorts(o)
	if err != nil {
		return err
	}
	clusterID := newClusterID()
	ca, err := pki.NewCA(clusterID, time.Now())
	if err != nil {
		return err
	}
	ring, recovery, err := keyring.New()
	if err != nil {
		return err
	}
	p.Recovery = recovery
	p.User, p.Password, p.CA = "admin", newPassword(), filepath.Join(dir, "ca.pem")
	if err := pki.WriteSecret(p.CA, ca.CertPEM()); err != nil {
		return err
	}
	setup := appliance.Setup{ClusterID: clusterID, User: p.User, Password: p.Password}
	var configs []appliance.Config
	for i := range o.nodes {
		cfg := devConfig(dir, i, o, host, ports)
		setup.Members = append(setup.Members, raftstate.Server{ID: cfg.NodeID, Addr: cfg.Listen.Peer.Advertise})
		configs = append(configs, cfg)
	}
	for i := range configs {
		cfg := &configs[i]
		first := appliance.Setup{ClusterID: clusterID, Founding: true} // one founds the cluster, the others are told by it
		if i == 0 {
			first = setup
		}
		if err := first.Write(cfg.DataDir); err != nil {
			return err
		}
		if err := ring.Save(cfg.TLS.Dir); err != nil {
			return err
		}
		if err := cfg.IssueIdentity(ca); err != nil {
			return err
		}
		path := filepath.Join(dir, cfg.NodeID, "triward.yaml")
		body, err := yaml.Marshal(cfg)
		if err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
		if err := pki.WriteSecret(path, body); err != nil {
			return err
		}
		p.Nodes = append(p.Nodes, devNode{
			ID: cfg.NodeID, URL: cfg.Listen.HTTP.URL, AgentURL: cfg.Listen.Agents.Advertise, Config: path, DataDir: cfg.DataDir,
		})
	}
	return nil
}

// devHosts are the addresses of this machine that the nodes listen at: for browsers, and for agents and one another.
type devHosts struct{ http, nodes string }

// names are those under which browsers reach the nodes.
func (h devHosts) names() []string {
	if h.http == freeaddr.Common {
		return []string{"localhost", h.http}
	}
	return []string{h.http}
}

// devPortSet are the ports of a node.
type devPortSet struct{ http, agents, peer int }

func devConfig(dir string, i int, o devOptions, host devHosts, ports []devPortSet) appliance.Config {
	cfg := appliance.DefaultConfig()
	cfg.NodeID = fmt.Sprintf("n%d", i+1)
	cfg.DataDir = filepath.Join(dir, cfg.NodeID, "data")
	cfg.Backup.Dir = filepath.Join(dir, cfg.NodeID, "backups")
	cfg.TLS.Dir = filepath.Join(dir, cfg.NodeID, "tls")
	cfg.Logs.Retention = appliance.Duration(devLogRetention) // the files of this machine may be old
	cfg.Alerting.AllowLoopbackReceivers = o.receivers
	l := &cfg.Listen
	l.Peer.Address = freeaddr.Join(host.nodes, ports[i].peer)
	l.Peer.Advertise = l.Peer.Address
	l.Agents.Address = freeaddr.Join(host.nodes, ports[i].agents)
	l.Agents.Advertise = "https://" + l.Agents.Address
	l.HTTP.Address, l.HTTP.PlainHTTP = freeaddr.Join(host.http, ports[i].http), o.plainHTTP
	scheme := "https://"
	if o.plainHTTP {
		scheme = "http://"
	}
	l.HTTP.URL = scheme + freeaddr.Join(host.names()[0], ports[i].http)
	for j := range ports { // a page of one node may go on with another, by either name of this machine
		for _, name := range host.names() {
			if u := scheme + freeaddr.Join(name, ports[j].http); u != l.HTTP.URL {
				l.HTTP.Origins = append(l.HTTP.Origins, u)
			}
		}
	}
	return cfg
}

// devPorts picks where all nodes listen: browsers at the HTTP ports from the one asked for, everything else at free ports
// of an address that no other `triward dev` has.
func devPorts(o devOptions) (host devHosts, ports []devPortSet, err error) {
	host.nodes = freeaddr.Own()
	host.http = host.nodes
	free, err := freeaddr.Free(host.nodes, 3*o.nodes)
	if err != nil {
		return host, nil, err
	}
	if o.httpPort != 0 {
		host.http = freeaddr.Common
	}
	ports = make([]devPortSet, o.nodes)
	for i := range ports {
		ports[i] = devPortSet{http: free[3*i], agents: free[3*i+1], peer: free[3*i+2]}
		if o.httpPort == 0 {
			continue
		}
		ports[i].http = o.httpPort + i
		l, err := net.Listen("tcp", freeaddr.Join(host.http, ports[i].http))
		if err != nil {
			return host, nil, fmt.Errorf("port %d is not free, choose others with --http-port: %w", ports[i].http, err)
		}
		_ = l.Close()
	}
	return host, ports, nil
}
