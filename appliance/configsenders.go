package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/gateway"
	"github.com/triward/triward/appliance/pipeline"
	"github.com/triward/triward/appliance/syslog"
)

// RedactionConfig says what is masked in lines and events before they are stored. It should be the same on all nodes: a
// line that Loki's clients repeat at another node would else not be found to be a repeat.
type RedactionConfig struct {
	Cards     bool     `yaml:"cards"`
	Passwords bool     `yaml:"passwords"`
	Tokens    bool     `yaml:"tokens"`
	Patterns  []string `yaml:"patterns"` // RE2
}

func (c *RedactionConfig) validate(bad func(path, format string, args ...any)) {
	if len(c.Patterns) > pipeline.MaxPatterns {
		bad("redaction.patterns", "%d patterns, at most %d are allowed: join some with '|'", len(c.Patterns), pipeline.MaxPatterns)
		return
	}
	for i, p := range c.Patterns {
		if err := pipeline.CheckPattern(p); err != nil {
			bad("redaction.patterns", "pattern %d (%.60q) %v", i+1, p, err)
		}
	}
}

func (c *RedactionConfig) redactor(reg prometheus.Registerer) (*pipeline.Redactor, error) {
	r, err := pipeline.NewRedactor(pipeline.Options{Cards: c.Cards, Passwords: c.Passwords, Tokens: c.Tokens, Patterns: c.Patterns}, reg)
	if err != nil {
		return nil, fmt.Errorf("redaction: %w", err)
	}
	return r, nil
}

// SyslogListen is where syslog is taken. An address that is empty is not listened on.
type SyslogListen struct {
	UDP            string   `yaml:"udp"`
	TCP            string   `yaml:"tcp"`
	TLS            string   `yaml:"tls"` // with this node's certificate
	Allow          []string `yaml:"allow"`
	TimeZone       string   `yaml:"time_zone"` // of times that name none; empty: this machine's
	MaxConnections int      `yaml:"max_connections"`
	Buffer         Size     `yaml:"buffer"`
}

func defaultSyslog() SyslogListen {
	return SyslogListen{Allow: []string{}, MaxConnections: 200, Buffer: 256 << 20}
}

func (l *SyslogListen) validate(bad func(path, format string, args ...any)) {
	for _, a := range []struct{ key, address string }{{"udp", l.UDP}, {"tcp", l.TCP}, {"tls", l.TLS}} {
		if a.address == "" {
			continue
		}
		_, port, err := net.SplitHostPort(a.address)
		if _, err2 := strconv.ParseUint(port, 10, 16); err != nil || err2 != nil {
			bad("listen.syslog."+a.key, "%q: want [host]:port with a port from 0 to 65535, such as :514", a.address)
		}
	}
	if _, port, _ := net.SplitHostPort(l.TCP); l.TCP != "" && l.TCP == l.TLS && port != "0" {
		bad("listen.syslog.tls", "is the same as listen.syslog.tcp")
	}
	if _, err := l.prefixes(); err != nil {
		bad("listen.syslog.allow", "%v", err)
	}
	if _, err := l.zone(); err != nil {
		bad("listen.syslog.time_zone", "%q: want a name such as Asia/Shanghai or UTC", l.TimeZone)
	}
	if l.MaxConnections < 1 || l.MaxConnections > 10_000 {
		bad("listen.syslog.max_connections", "%d is out of range: 1 to 10000", l.MaxConnections)
	}
	if l.Buffer < 8<<20 || l.Buffer > 1<<40 {
		bad("listen.syslog.buffer", "%s is out of range: 8MiB to 1TiB", l.Buffer)
	}
}

func (l *SyslogListen) prefixes() ([]netip.Prefix, error) {
	var ps []netip.Prefix
	for _, text := range l.Allow {
		p, err := netip.ParsePrefix(text)
		if addr, err2 := netip.ParseAddr(text); err2 == nil {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q is no address and no network such as 10.0.0.0/8", text)
		}
		ps = append(ps, p)
	}
	return ps, nil
}

func (l *SyslogListen) zone() (*time.Location, error) {
	if l.TimeZone == "" {
		return time.Local, nil
	}
	return time.LoadLocation(l.TimeZone)
}

// openSyslog listens for syslog where the configuration says so. Ports 0 become those that were given.
func (a *App) openSyslog(coder *wire.Coder, redactor *pipeline.Redactor) (err error) {
	l := &a.cfg.Listen.Syslog
	if l.UDP == "" && l.TCP == "" && l.TLS == "" {
		return nil
	}
	opts := syslog.Options{
		Node: a.cfg.NodeID, Dir: a.dataPath("syslog"), BufferBytes: int64(l.Buffer), Cluster: a.node, Coder: coder,
		Redactor: redactor, Log: a.part("syslog"), Metrics: a.registry, Fatal: a.fail,
	}
	if opts.Allow, err = l.prefixes(); err != nil {
		return err
	}
	if opts.Zone, err = l.zone(); err != nil {
		return fmt.Errorf("listen.syslog.time_zone: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(&opts))
		}
	}()
	if l.UDP != "" {
		conn, err := net.ListenPacket("udp", l.UDP)
		if err != nil {
			return fmt.Errorf("listen for syslog: %w", err)
		}
		opts.Packets = conn.(*net.UDPConn)
		l.UDP = withPort(l.UDP, conn.LocalAddr())
	}
	for _, s := range []struct {
		address *string
		secure  bool
	}{{&l.TCP, false}, {&l.TLS, true}} {
		if *s.address == "" {
			continue
		}
		ln, err := net.Listen("tcp", *s.address)
		if err != nil {
			return fmt.Errorf("listen for syslog: %w", err)
		}
		*s.address = withPort(*s.address, ln.Addr())
		ln = gateway.Limit(ln, l.MaxConnections)
		if s.secure {
			ln = tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: a.identity.Certificate})
		}
		opts.Streams = append(opts.Streams, ln)
	}
	server, err := syslog.New(opts)
	if err != nil {
		return err
	}
	a.onStop("syslog", func(context.Context) error { return server.Close() })
	a.log.Info("taking syslog", "udp", l.UDP, "tcp", l.TCP, "tls", l.TLS)
	return nil
}

func closeAll(o *syslog.Options) error {
	var errs []error
	if o.Packets != nil {
		errs = append(errs, o.Packets.Close())
	}
	for _, ln := range o.Streams {
		errs = append(errs, ln.Close())
	}
	return errors.Join(errs...)
}
