package appliance

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Config is the whole configuration of a node, as triward.yaml holds it. A key that is absent has the default
// of DefaultConfig; packaging/triward.yaml spells all of them out.
type Config struct {
	NodeID   string         `yaml:"node_id"`
	DataDir  string         `yaml:"data_dir"`
	Log      LogConfig      `yaml:"log"`
	Listen   ListenConfig   `yaml:"listen"`
	TLS      TLSConfig      `yaml:"tls"`
	Queue    QueueConfig    `yaml:"queue"`
	Limits   LimitsConfig   `yaml:"limits"`
	Metrics  MetricsConfig  `yaml:"metrics"`
	Logs     LogsConfig     `yaml:"logs"`
	Access   AccessConfig   `yaml:"access"`
	Alerting AlertingConfig `yaml:"alerting"`
	Backup   BackupConfig   `yaml:"backup"`
	Scrub    ScrubConfig    `yaml:"scrub"`
	// SelfMonitoring stores the node's own metrics and log like those of any host, and the events of the cluster.
	SelfMonitoring bool `yaml:"self_monitoring"`

	Redaction RedactionConfig `yaml:"redaction"`
}

// LogConfig says what the node itself logs to standard error.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
}

// ListenConfig holds the listeners.
type ListenConfig struct {
	Peer   PeerListen   `yaml:"peer"`
	Agents AgentsListen `yaml:"agents"`
	HTTP   HTTPListen   `yaml:"http"`
	Syslog SyslogListen `yaml:"syslog"`
}

// PeerListen is where the nodes talk to each other, always with mutual TLS.
type PeerListen struct {
	Address   string `yaml:"address"`
	Advertise string `yaml:"advertise"` // host:port for the other nodes; empty: host name and the port of address
}

// AgentsListen is where agents send.
type AgentsListen struct {
	Address        string    `yaml:"address"`
	Advertise      string    `yaml:"advertise"` // https URL for agents; empty: host name and the port of address
	MaxConnections int       `yaml:"max_connections"`
	Timeout        Duration  `yaml:"timeout"`
	TLS            ListenTLS `yaml:"tls"`
	BytesInFlight  Size      `yaml:"bytes_in_flight"`
	RegisterRate   int       `yaml:"register_rate"`
}

// HTTPListen serves the UI and every API.
type HTTPListen struct {
	Address        string    `yaml:"address"`
	URL            string    `yaml:"url"` // as browsers reach this node; empty: host name and the port of address
	PlainHTTP      bool      `yaml:"plain_http"`
	MaxConnections int       `yaml:"max_connections"`
	Origins        []string  `yaml:"origins"`
	TLS            ListenTLS `yaml:"tls"`
}

// ListenTLS is the certificate of a listener. Empty files mean the node's own certificate of the cluster's CA.
type ListenTLS struct {
	Cert       string `yaml:"cert"`
	Key        string `yaml:"key"`
	MinVersion string `yaml:"min_version"` // "1.2" or "1.3"
}

// TLSConfig says where the cluster's CA and the node's certificate lie.
type TLSConfig struct {
	Dir string `yaml:"dir"` // empty: data_dir/tls
}

// QueueConfig bounds the Raft log, which is the durable queue.
type QueueConfig struct {
	Retention     QueueRetention `yaml:"retention"`
	BytesInFlight Size           `yaml:"bytes_in_flight"`
	CacheBytes    Size           `yaml:"cache_bytes"`
	MarkInterval  Duration       `yaml:"mark_interval"`
}

// QueueRetention says how much of the log is kept behind the mark.
type QueueRetention struct {
	Bytes Size     `yaml:"bytes"`
	Time  Duration `yaml:"time"`
}

// LimitsConfig bounds what one sender or one request may take.
type LimitsConfig struct {
	QueryTimeout Duration `yaml:"query_timeout"`
	QuerySamples int      `yaml:"query_samples"`
	Queries      int      `yaml:"queries"`
	// LogQueries is how many searches for lines run at once, in LogQueryMemory together.
	LogQueries     int  `yaml:"log_queries"`
	LogQueryMemory Size `yaml:"log_query_memory"`
	LiveClients    int  `yaml:"live_clients"`
	// Memory is what the process may take; 0: what its control group or the machine allows.
	Memory Size `yaml:"memory"`
}

// MetricsConfig is the metrics store.
type MetricsConfig struct {
	Retention Duration `yaml:"retention"`
}

// LogsConfig is the log store.
type LogsConfig struct {
	Retention  Duration `yaml:"retention"`
	CacheBytes Size     `yaml:"cache_bytes"`
	// WordIndex is whether the node makes and uses an index of words. Without it answers are the same and searches slower.
	WordIndex bool `yaml:"word_index"`
	// SealAge is how long lines lie as they came before they are sealed into blocks.
	SealAge Duration `yaml:"seal_age"`
}

// AlertingConfig is how rules are evaluated and whom messages may go to.
type AlertingConfig struct {
	Interval Duration `yaml:"interval"`
	// AllowLoopbackReceivers lets messages go to this machine itself, for tests.
	AllowLoopbackReceivers bool `yaml:"allow_loopback_receivers"`
}

// ScrubConfig is how a node looks for damage to what it keeps.
type ScrubConfig struct {
	// Every is how often everything is looked through; 0s: never by itself.
	Every Duration `yaml:"every"`
	// Rate and VerifyRate bound what is read in a second for that, and for `triward cluster verify --deep`.
	Rate       Size `yaml:"rate"`
	VerifyRate Size `yaml:"verify_rate"`
}

// AccessConfig bounds sessions.
type AccessConfig struct {
	SessionIdle Duration `yaml:"session_idle"`
	SessionMax  Duration `yaml:"session_max"`
}

// BackupConfig is about backups that this node makes by schedule.
type BackupConfig struct {
	Dir string `yaml:"dir"` // where those of the kind "folder" go
}

const day = 24 * time.Hour

// DefaultConfig returns the documented defaults. NodeID and the advertised addresses are empty: Resolve fills
// them from the host's name.
func DefaultConfig() Config {
	return Config{
		DataDir: "/var/lib/triward",
		Log:     LogConfig{Level: "info", Format: "text"},
		Listen: ListenConfig{
			Peer: PeerListen{Address: ":8002"},
			Agents: AgentsListen{
				Address: ":8001", MaxConnections: 5000, Timeout: Duration(30 * time.Second),
				BytesInFlight: 64 << 20, RegisterRate: 100, TLS: ListenTLS{MinVersion: "1.3"},
			},
			HTTP: HTTPListen{
				Address: ":8443", MaxConnections: 2000, Origins: []string{},
				TLS: ListenTLS{MinVersion: "1.2"},
			},
			Syslog: defaultSyslog(),
		},
		Queue: QueueConfig{
			Retention:     QueueRetention{Bytes: 4 << 30, Time: Duration(day)},
			BytesInFlight: 64 << 20, CacheBytes: 64 << 20, MarkInterval: Duration(20 * time.Second),
		},
		Limits: LimitsConfig{
			QueryTimeout: Duration(30 * time.Second),
			QuerySamples: 20_000_000, Queries: 16, LogQueries: 4, LogQueryMemory: 320 << 20, LiveClients: 500,
		},
		Metrics:        MetricsConfig{Retention: Duration(90 * day)},
		Scrub:          ScrubConfig{Every: Duration(7 * day), Rate: 16 << 20, VerifyRate: 128 << 20},
		Logs:           LogsConfig{Retention: Duration(30 * day), CacheBytes: 128 << 20, WordIndex: true, SealAge: Duration(time.Minute)},
		Access:         AccessConfig{SessionIdle: Duration(12 * time.Hour), SessionMax: Duration(7 * day)},
		Alerting:       AlertingConfig{Interval: Duration(15 * time.Second)},
		Backup:         BackupConfig{Dir: "/var/backups/triward"},
		SelfMonitoring: true,

		Redaction: RedactionConfig{Cards: true, Passwords: true, Tokens: true, Patterns: []string{}},
	}
}

// LoadConfig reads the file at path over the defaults. Everything that is wrong with it is reported in one
// *ConfigError, each problem with its key and line.
func LoadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, &ConfigError{Source: path, Problems: []ConfigProblem{{Message: err.Error()}}}
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return ParseConfig(path, body)
}

const maxConfigBytes = 1 << 20

// ParseConfig is LoadConfig of the text body; source names it in errors.
func ParseConfig(source string, body []byte) (Config, error) {
	cfg := DefaultConfig()
	if len(body) > maxConfigBytes {
		return cfg, &ConfigError{Source: source, Problems: []ConfigProblem{{Message: fmt.Sprintf("larger than %d bytes", maxConfigBytes)}}}
	}
	d := decodeStrict(body, &cfg)
	cfg.validate(d.add)
	if len(d.problems) > 0 {
		return cfg, &ConfigError{Source: source, Problems: d.sorted()}
	}
	return cfg, nil
}

// Validate reports everything that is wrong with a configuration made in the program.
func (c *Config) Validate() error {
	var d strictDecoder
	c.validate(d.add)
	if len(d.problems) > 0 {
		return &ConfigError{Source: "configuration", Problems: d.sorted()}
	}
	return nil
}

// Resolve fills what the file left empty from the host's name: node_id, the advertised addresses and tls.dir.
func (c *Config) Resolve() error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name (set node_id and the advertised addresses): %w", err)
	}
	if c.NodeID == "" {
		c.NodeID = strings.ToLower(host)
		if !nodeIDForm.MatchString(c.NodeID) {
			return fmt.Errorf("node_id: the host name %q cannot be one; set it", host)
		}
	}
	if c.TLS.Dir == "" {
		c.TLS.Dir = filepath.Join(c.DataDir, "tls")
	}
	own := func(address string) string { return reached(host, address) }
	if c.Listen.Peer.Advertise == "" {
		c.Listen.Peer.Advertise = own(c.Listen.Peer.Address)
	}
	if c.Listen.Agents.Advertise == "" {
		c.Listen.Agents.Advertise = "https://" + own(c.Listen.Agents.Address)
	}
	if c.Listen.HTTP.URL == "" {
		scheme := "https://"
		if c.Listen.HTTP.PlainHTTP {
			scheme = "http://"
		}
		c.Listen.HTTP.URL = scheme + own(c.Listen.HTTP.Address)
	}
	return nil
}

// reached is how a listener's address is reached from elsewhere on the machine with that host name. Names of hosts are
// written in small letters, as browsers write them in the Origin.
func reached(host, address string) string {
	h, port, _ := net.SplitHostPort(address)
	if ip, err := netip.ParseAddr(h); h == "" || err == nil && ip.IsUnspecified() {
		h = host
	}
	return net.JoinHostPort(strings.ToLower(h), port)
}

var nodeIDForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// validate calls bad for each thing that is wrong.
func (c *Config) validate(bad func(path, format string, args ...any)) {
	if c.NodeID != "" && !nodeIDForm.MatchString(c.NodeID) {
		bad("node_id", "%q: want 1 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit", c.NodeID)
	}
	if !filepath.IsAbs(c.DataDir) {
		bad("data_dir", "%q is no absolute path", c.DataDir)
	}
	if c.TLS.Dir != "" && !filepath.IsAbs(c.TLS.Dir) {
		bad("tls.dir", "%q is no absolute path", c.TLS.Dir)
	}
	if !filepath.IsAbs(c.Backup.Dir) {
		bad("backup.dir", "%q is no absolute path", c.Backup.Dir)
	}
	var level slog.Level
	if level.UnmarshalText([]byte(c.Log.Level)) != nil {
		bad("log.level", "%q: want debug, info, warn or error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		bad("log.format", "%q: want text or json", c.Log.Format)
	}
	c.Listen.validate(bad)
	c.Listen.Syslog.validate(bad)
	c.Redaction.validate(bad)
	between := func(path string, v, least, most int64) {
		if v < least || v > most {
			bad(path, "%d is out of range: %d to %d", v, least, most)
		}
	}
	size := func(path string, v, least, most Size) {
		if v < least || v > most {
			bad(path, "%s is out of range: %s to %s", v, least, most)
		}
	}
	span := func(path string, v Duration, least, most time.Duration) {
		if time.Duration(v) < least || time.Duration(v) > most {
			bad(path, "%s is out of range: %s to %s", v, Duration(least), Duration(most))
		}
	}
	between("listen.agents.max_connections", int64(c.Listen.Agents.MaxConnections), 1, 100_000)
	between("listen.agents.register_rate", int64(c.Listen.Agents.RegisterRate), 1, 100_000)
	span("listen.agents.timeout", c.Listen.Agents.Timeout, time.Second, 10*time.Minute)
	size("listen.agents.bytes_in_flight", c.Listen.Agents.BytesInFlight, 8<<20, 4<<30)
	between("listen.http.max_connections", int64(c.Listen.HTTP.MaxConnections), 1, 100_000)
	size("queue.retention.bytes", c.Queue.Retention.Bytes, 1<<20, 1<<50)
	span("queue.retention.time", c.Queue.Retention.Time, time.Second, 3650*day)
	size("queue.bytes_in_flight", c.Queue.BytesInFlight, 1<<20, 4<<30)
	size("queue.cache_bytes", c.Queue.CacheBytes, 1<<20, 4<<30)
	span("queue.mark_interval", c.Queue.MarkInterval, time.Second, 10*time.Minute)
	span("limits.query_timeout", c.Limits.QueryTimeout, time.Second, time.Hour)
	between("limits.query_samples", int64(c.Limits.QuerySamples), 10_000, 1_000_000_000)
	between("limits.queries", int64(c.Limits.Queries), 1, 1000)
	between("limits.log_queries", int64(c.Limits.LogQueries), 1, 100)
	between("limits.log_query_memory", int64(c.Limits.LogQueryMemory), 64<<20, 16<<30)
	if c.Limits.Memory != 0 {
		size("limits.memory", c.Limits.Memory, 256<<20, 1<<42)
	}
	between("limits.live_clients", int64(c.Limits.LiveClients), 1, 100_000)
	span("metrics.retention", c.Metrics.Retention, 7*day, 3650*day)
	span("logs.retention", c.Logs.Retention, day, 3650*day)
	size("logs.cache_bytes", c.Logs.CacheBytes, 1<<20, 64<<30)
	span("logs.seal_age", c.Logs.SealAge, time.Second, 10*time.Minute)
	if c.Scrub.Every != 0 {
		span("scrub.every", c.Scrub.Every, time.Hour, 365*day)
	}
	size("scrub.rate", c.Scrub.Rate, 64<<10, 16<<30)
	size("scrub.verify_rate", c.Scrub.VerifyRate, 64<<10, 16<<30)
	span("access.session_idle", c.Access.SessionIdle, time.Minute, 30*day)
	span("alerting.interval", c.Alerting.Interval, time.Second, time.Hour)
	span("access.session_max", c.Access.SessionMax, time.Minute, 365*day)
}

func (l *ListenConfig) validate(bad func(path, format string, args ...any)) {
	seen := map[string]string{}
	for _, a := range []struct{ path, address string }{
		{"listen.peer.address", l.Peer.Address}, {"listen.agents.address", l.Agents.Address}, {"listen.http.address", l.HTTP.Address},
	} {
		_, port, err := net.SplitHostPort(a.address)
		n, err2 := strconv.ParseUint(port, 10, 16)
		if err != nil || err2 != nil {
			bad(a.path, "%q: want [host]:port with a port from 0 to 65535", a.address)
			continue
		}
		if other, ok := seen[a.address]; ok && n != 0 {
			bad(a.path, "is the same as %s", other)
		}
		seen[a.address] = a.path
	}
	if l.Peer.Advertise != "" {
		if h, p, err := net.SplitHostPort(l.Peer.Advertise); err != nil || h == "" || p == "" {
			bad("listen.peer.advertise", "%q: want host:port", l.Peer.Advertise)
		}
	}
	checkURL := func(path, raw string, schemes ...string) {
		if raw == "" {
			return
		}
		u, err := url.Parse(raw)
		ok := err == nil && u.Host != "" && (u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.User == nil
		for _, s := range schemes {
			if ok && u.Scheme == s {
				return
			}
		}
		bad(path, "%q: want %s://host:port", raw, strings.Join(schemes, ":// or "))
	}
	checkURL("listen.agents.advertise", l.Agents.Advertise, "https")
	checkURL("listen.http.url", l.HTTP.URL, "https", "http")
	for i, o := range l.HTTP.Origins {
		checkURL(fmt.Sprintf("listen.http.origins[%d]", i), o, "https", "http")
	}
	if l.HTTP.PlainHTTP && !isLoopback(l.HTTP.Address) {
		bad("listen.http.plain_http", "is allowed on loopback only, and listen.http.address is %q; use 127.0.0.1 or TLS", l.HTTP.Address)
	}
	for path, t := range map[string]ListenTLS{"listen.agents.tls": l.Agents.TLS, "listen.http.tls": l.HTTP.TLS} {
		if (t.Cert == "") != (t.Key == "") {
			bad(path, "cert and key belong together")
		}
		if t.MinVersion != "1.2" && t.MinVersion != "1.3" {
			bad(path+".min_version", "%q: want \"1.2\" or \"1.3\"", t.MinVersion)
		}
	}
}

// isLoopback reports whether nobody but this machine reaches the address.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
