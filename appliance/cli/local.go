package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/pki"
)

// defaultConfig is where packages put the configuration.
const defaultConfig = "/etc/triward/triward.yaml"

// configPath is the configuration of the node on this machine.
func configPath() string {
	if path := os.Getenv("TRIWARD_CONFIG"); path != "" {
		return path
	}
	return defaultConfig
}

// localNode is what the command line needs to ask the node whose configuration lies at path: its address, the
// cluster's CA and the token that the node keeps for it. Without such a configuration it is empty; CA and token are
// missing for those who may not read them.
func localNode(path string) (Context, error) {
	var c Context
	f, err := os.Open(path)
	if err != nil {
		return c, nil // no node here, or none of this user's
	}
	f.Close()
	cfg, err := appliance.LoadConfig(path)
	if err != nil {
		return c, err
	}
	if err := cfg.Resolve(); err != nil {
		return c, err
	}
	h := cfg.Listen.HTTP
	for _, u := range []string{localURL(&cfg), h.URL} {
		if !c.knows(u) {
			c.Nodes = append(c.Nodes, ContextNode{cfg.NodeID, u})
		}
	}
	if h.TLS.Cert == "" && !h.PlainHTTP {
		if ca := filepath.Join(cfg.TLS.Dir, pki.FileCA); readable(ca) {
			c.CA = ca
		}
	}
	c.Token, err = cfg.ReadToken()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	return c, err
}

func readable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// localURL is where the node is reached on its own machine: as localhost, which its certificate of the cluster's CA
// names; with another certificate, or on one address only, as everybody reaches it.
func localURL(cfg *appliance.Config) string {
	h := cfg.Listen.HTTP
	host, port, err := net.SplitHostPort(h.Address)
	if err != nil {
		return h.URL
	}
	ip, _ := netip.ParseAddr(host) // the zero Addr for a name
	switch {
	case host == "" || ip.IsUnspecified():
		host = "localhost"
	case host != "localhost" && !ip.IsLoopback():
		return h.URL
	}
	switch {
	case h.PlainHTTP:
		return "http://" + net.JoinHostPort(host, port)
	case h.TLS.Cert != "":
		return h.URL
	}
	return "https://" + net.JoinHostPort(host, port)
}

// clusterCA returns the PEM of the CA of the cluster that the flags mean.
func (t *target) clusterCA() ([]byte, error) {
	path := t.ca
	if path == "" {
		known, err := t.known()
		if err != nil {
			return nil, err
		}
		path = known.CA
	}
	if path == "" && t.addr != "" {
		return nil, fmt.Errorf("this machine does not hold the CA of the cluster at %s; run this on one of its nodes", t.addr)
	}
	if path == "" {
		cfg, err := appliance.LoadConfig(configPath())
		if err == nil {
			err = cfg.Resolve()
		}
		if err != nil {
			return nil, err
		}
		path = filepath.Join(cfg.TLS.Dir, pki.FileCA)
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	return pem, nil
}
