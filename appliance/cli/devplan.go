package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance"
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

const devHost = "127.0.0.1"

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
	ports, err := devPorts(o)
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
		cfg := devConfig(dir, i, o, ports)
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

// devPortSet are the ports of a node.
type devPortSet struct{ http, agents, peer int }

func devConfig(dir string, i int, o devOptions, ports []devPortSet) appliance.Config {
	cfg := appliance.DefaultConfig()
	cfg.NodeID = fmt.Sprintf("n%d", i+1)
	cfg.DataDir = filepath.Join(dir, cfg.NodeID, "data")
	cfg.Backup.Dir = filepath.Join(dir, cfg.NodeID, "backups")
	cfg.TLS.Dir = filepath.Join(dir, cfg.NodeID, "tls")
	cfg.Logs.Retention = appliance.Duration(devLogRetention) // the files of this machine may be old
	cfg.Alerting.AllowLoopbackReceivers = o.receivers
	at := func(port int) string { return net.JoinHostPort(devHost, portText(port)) }
	l := &cfg.Listen
	l.Peer.Address, l.Peer.Advertise = at(ports[i].peer), at(ports[i].peer)
	l.Agents.Address, l.Agents.Advertise = at(ports[i].agents), "https://"+at(ports[i].agents)
	l.HTTP.Address, l.HTTP.PlainHTTP = at(ports[i].http), o.plainHTTP
	scheme := "https"
	if o.plainHTTP {
		scheme = "http"
	}
	l.HTTP.URL = scheme + "://localhost:" + portText(ports[i].http)
	for j := range ports { // a page of one node may go on with another, by either name of this machine
		for _, host := range []string{"localhost", devHost} {
			if u := scheme + "://" + net.JoinHostPort(host, portText(ports[j].http)); u != l.HTTP.URL {
				l.HTTP.Origins = append(l.HTTP.Origins, u)
			}
		}
	}
	return cfg
}

// A port that is to be free again when its node was stopped and starts lies below those that systems give to outgoing
// connections (Linux from 32768 on).
const lowestFreePort, highestFreePort = 20000, 32000

// devPorts picks the ports of all nodes: the HTTP ports from the one asked for, the others free ones. All are
// held until the last is picked, so that none is picked twice.
func devPorts(o devOptions) ([]devPortSet, error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	listen := func(port int) (int, error) {
		l, err := net.Listen("tcp", net.JoinHostPort(devHost, portText(port)))
		if err != nil {
			return 0, err
		}
		held = append(held, l)
		return port, nil
	}
	pick := func(port int) (got int, err error) {
		if port != 0 {
			return listen(port)
		}
		for range 100 {
			if got, err = listen(lowestFreePort + rand.IntN(highestFreePort-lowestFreePort)); err == nil {
				return got, nil
			}
		}
		return 0, err
	}
	ports := make([]devPortSet, o.nodes)
	for i := range ports {
		want := 0
		if o.httpPort != 0 {
			want = o.httpPort + i
		}
		var err error
		if ports[i].http, err = pick(want); err != nil {
			return nil, fmt.Errorf("port %d is not free, choose others with --http-port: %w", want, err)
		}
	}
	for i := range ports {
		for _, p := range []*int{&ports[i].agents, &ports[i].peer} {
			var err error
			if *p, err = pick(0); err != nil {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
		}
	}
	return ports, nil
}
