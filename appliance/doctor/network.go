package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/triward/triward/appliance"
)

// listener is a port of the node.
type listener struct{ key, address, scheme string }

func listeners(cfg *appliance.Config) []listener {
	l := &cfg.Listen
	http := "https"
	if l.HTTP.PlainHTTP {
		http = "http"
	}
	return []listener{
		{"listen.peer", l.Peer.Address, "https"},
		{"listen.agents", l.Agents.Address, "https"},
		{"listen.http", l.HTTP.Address, http},
	}
}

// ports says whether the node's ports are free, or held by the node.
func ports(ctx context.Context, cfg *appliance.Config, running bool) (r Report) {
	for _, l := range listeners(cfg) {
		subject := l.key + " " + l.address
		if running {
			if err := Reach(ctx, dialable(l.address)); err != nil {
				r.Add("ports", subject, Problem, "the node runs and does not answer here: "+err.Error(), "look at its log: journalctl -u triward")
			} else {
				r.Add("ports", subject, OK, "answers", "")
			}
			continue
		}
		var conf net.ListenConfig
		ln, err := conf.Listen(ctx, "tcp", l.address)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			_, port, _ := net.SplitHostPort(l.address)
			r.Add("ports", subject, Problem, "another program has this port", "see which: ss -ltnp 'sport = :"+port+"'; stop it, or set another "+l.key+".address")
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			r.Add("ports", subject, Problem, "this machine has no such address", "set "+l.key+".address")
		case errors.Is(err, syscall.EACCES):
			r.Add("ports", subject, Warning, err.Error(), asRoot+"; the service may use ports below 1024")
		case err != nil:
			r.Add("ports", subject, Problem, err.Error(), "set "+l.key+".address")
		default:
			_ = ln.Close()
			r.Add("ports", subject, OK, "free", "")
		}
	}
	return r
}

// dialable is where a listener of this machine is reached from this machine.
func dialable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip, errIP := netip.ParseAddr(host); err == nil && (host == "" || errIP == nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return address
}

// Reach opens a connection to host:port and closes it.
func Reach(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Member is another node of the cluster, as far as its addresses go.
type Member struct{ ID, Peer, AgentURL, URL string }

// Members judges whether the other nodes are found and reached from here: each name, each port.
func Members(ctx context.Context, members []Member) Report {
	found := make([]Report, len(members))
	var work sync.WaitGroup
	for i, m := range members {
		work.Go(func() { found[i] = m.judge(ctx) })
	}
	work.Wait()
	return slices.Concat(found...)
}

func (m *Member) judge(ctx context.Context) (r Report) {
	named := make(map[string]bool)
	for _, a := range []struct{ what, address string }{{"peers", m.Peer}, {"agents", hostPort(m.AgentURL)}, {"browsers", hostPort(m.URL)}} {
		host, port, err := net.SplitHostPort(a.address)
		if err != nil {
			continue // a node that was never up has not said it
		}
		if !named[host] {
			named[host] = true
			r = append(r, resolve(ctx, host, "of "+m.ID))
		}
		subject := fmt.Sprintf("%s of %s, %s", a.what, m.ID, a.address)
		if err := Reach(ctx, a.address); err != nil {
			r.Add("ports", subject, Problem, err.Error(), "start "+m.ID+"; when it runs, let port "+port+" through the firewalls between the two")
			continue
		}
		r.Add("ports", subject, OK, "reached", "")
	}
	return r
}

// hostPort is host:port of an URL; "" when it is none.
func hostPort(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// advertised are the names under which others reach this node, with the keys that say so.
func advertised(cfg *appliance.Config) map[string][]string {
	names := make(map[string][]string)
	add := func(host, key string) {
		if host != "" && !slices.Contains(names[host], key) {
			names[host] = append(names[host], key)
		}
	}
	if host, _, err := net.SplitHostPort(cfg.Listen.Peer.Advertise); err == nil {
		add(host, "listen.peer.advertise")
	}
	for key, raw := range map[string]string{"listen.agents.advertise": cfg.Listen.Agents.Advertise, "listen.http.url": cfg.Listen.HTTP.URL} {
		if u, err := url.Parse(raw); err == nil {
			add(u.Hostname(), key)
		}
	}
	for _, o := range cfg.Listen.HTTP.Origins {
		if u, err := url.Parse(o); err == nil {
			add(u.Hostname(), "listen.http.origins")
		}
	}
	return names
}

// names says whether the names under which others reach this node can be resolved here.
func names(ctx context.Context, cfg *appliance.Config, _ bool) (r Report) {
	all := advertised(cfg)
	for _, host := range sorted(all) {
		r = append(r, resolve(ctx, host, "of this node, "+strings.Join(all[host], " and ")))
	}
	return r
}

func sorted(m map[string][]string) []string {
	var keys []string
	for k := range m {
		slices.Sort(m[k])
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func resolve(ctx context.Context, host, whose string) Finding {
	f := Finding{Check: "names", Subject: host + " " + whose, Status: OK}
	if _, err := netip.ParseAddr(host); err == nil {
		f.Detail = "an address"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		f.Status, f.Detail = Problem, err.Error()
		f.Remedy = "add " + host + " to the site's DNS, or to /etc/hosts of every node and host"
		return f
	}
	text := make([]string, 0, len(addrs))
	for _, a := range addrs {
		text = append(text, a.Unmap().String())
	}
	slices.Sort(text)
	f.Detail = strings.Join(slices.Compact(text), " ")
	return f
}

// presented is the certificate that a TLS listener of this machine shows.
func presented(ctx context.Context, address string) (*tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} // it is looked at, not trusted
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	return &state, nil
}
