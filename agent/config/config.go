// Package config reads agent.yaml. Unknown keys are errors with their line; all problems are reported at once,
// each with the path of its key and what to do. It imports agent/tail for the shape of multi-line rules and
// agent/sender for the check of addresses, and nothing of the server.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/agent/collect"
	"github.com/triward/triward/agent/sender"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/tail"
	"github.com/triward/triward/agent/wire"
)

const maxFile = 1 << 20

// DefaultPath is where the agent looks for its configuration.
const DefaultPath = "/etc/triward-agent/agent.yaml"

// Config is the content of agent.yaml. Every key has a default; an empty file is a working configuration.
type Config struct {
	DataDir    string   `yaml:"data_dir"`    // spool and identity
	Identity   string   `yaml:"identity"`    // identity file; "" is identity.json in data_dir
	Servers    []string `yaml:"servers"`     // nodes tried besides those that registration named
	CA         string   `yaml:"ca"`          // PEM file; "" is what registration stored
	ServerName string   `yaml:"server_name"` // name to check certificates against; "" is the one in the address
	Spool      Spool    `yaml:"spool"`
	Metrics    Metrics  `yaml:"metrics"`
	Logs       Logs     `yaml:"logs"`
	Journal    Journal  `yaml:"journal"`
	Events     Events   `yaml:"events"`
	Heartbeat  Beat     `yaml:"heartbeat"`
	Remote     Remote   `yaml:"remote"`
	Status     Status   `yaml:"status"`
	Log        Log      `yaml:"log"`
}

// Spool bounds what is kept on disk.
type Spool struct {
	MaxBytes  Size `yaml:"max_bytes"`
	MaxSeries int  `yaml:"max_series"`
}

// Metrics chooses what is collected and how often.
type Metrics struct {
	Enabled    bool          `yaml:"enabled"`
	Period     time.Duration `yaml:"period"`
	Collectors Collectors    `yaml:"collectors"`
	Exclude    []string      `yaml:"exclude"` // regular expressions over whole metric names
	ProcFS     string        `yaml:"procfs"`
	SysFS      string        `yaml:"sysfs"`
	RootFS     string        `yaml:"rootfs"`
}

// Collectors turns collectors of node_exporter on and off.
type Collectors struct {
	Enable  []string `yaml:"enable"`
	Disable []string `yaml:"disable"`
}

// Logs says which files are followed.
type Logs struct {
	Enabled        bool        `yaml:"enabled"`
	InitialBacklog Size        `yaml:"initial_backlog"`
	MaxFiles       int         `yaml:"max_files"`
	Files          []FileGroup `yaml:"files"`
}

// FileGroup is a set of files that are read alike. A file belongs to the first group that matches it.
type FileGroup struct {
	Include   []string          `yaml:"include"`
	Exclude   []string          `yaml:"exclude"`
	Multiline *Multiline        `yaml:"multiline"`
	Drop      []string          `yaml:"drop"`
	Keep      []string          `yaml:"keep"`
	Labels    map[string]string `yaml:"labels"`

	// within, of files that the cluster named, are the only folders that they may really lie in.
	within []string
}

// Multiline joins lines to records: start names lines that begin one, continue lines that go on with one.
type Multiline struct {
	Start    string        `yaml:"start"`
	Continue string        `yaml:"continue"`
	MaxLines int           `yaml:"max_lines"`
	Timeout  time.Duration `yaml:"timeout"`
}

// Journal says what is read of the systemd journal. Enabled is auto, true or false.
type Journal struct {
	Enabled  string   `yaml:"enabled"`
	Units    []string `yaml:"units"`
	Priority string   `yaml:"priority"` // the least important one that is read, as journalctl names it; "" is debug
	Drop     []string `yaml:"drop"`     // entries that match any are left out
	Keep     []string `yaml:"keep"`     // when not empty, entries that match none are left out
	Backlog  int      `yaml:"backlog"`
}

// Beat is how often a sign of life is sent.
type Beat struct {
	Period time.Duration `yaml:"period"`
}

// Status is the agent's own listener; "" or "0" turns it off.
type Status struct {
	Listen string `yaml:"listen"`
}

// Log is how the agent logs itself.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Size is a number of bytes, written as 1048576, 64KiB, 256MiB or 1GiB.
type Size int64

// UnmarshalYAML reads a Size.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	text := strings.TrimSpace(n.Value)
	unit := int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if strings.HasSuffix(text, suffix) {
			text, unit = strings.TrimSpace(strings.TrimSuffix(text, suffix)), u
			break
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 || v > 1<<40/unit {
		return fmt.Errorf("line %d: %q is no size: write bytes, or a number with KiB, MiB or GiB", n.Line, n.Value)
	}
	*s = Size(v * unit)
	return nil
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		DataDir: "/var/lib/triward-agent",
		Spool:   Spool{MaxBytes: spool.DefaultMaxBytes, MaxSeries: spool.DefaultMaxSeries},
		Metrics: Metrics{Enabled: true, Period: 15 * time.Second},
		Logs: Logs{Enabled: true, InitialBacklog: 1 << 20, MaxFiles: 256, Files: []FileGroup{{
			Include: []string{"/var/log/*.log", "/var/log/syslog", "/var/log/messages", "/var/log/**/*.log"},
			Exclude: []string{"/var/log/journal/**", "wtmp*", "btmp*", "lastlog*", "faillog*", "tallylog*"},
		}}},
		Journal:   Journal{Enabled: "auto", Backlog: 1000},
		Events:    defaultEvents(),
		Heartbeat: Beat{Period: 10 * time.Second},
		Remote:    Remote{Enabled: true, Files: []string{"/var/log"}},
		Status:    Status{Listen: "127.0.0.1:9101"},
		Log:       Log{Level: "info", Format: "text"},
	}
}

// Load reads and checks the file. A missing file is the default configuration only when optional is true.
func Load(path string, optional bool) (Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && optional {
		return Default(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if len(b) > maxFile {
		return Config{}, fmt.Errorf("configuration %s is larger than %d bytes", path, maxFile)
	}
	c, err := Parse(b)
	if err != nil {
		return c, fmt.Errorf("configuration %s:\n%w", path, err)
	}
	return c, nil
}

// Parse reads a configuration over the defaults. The error holds every problem, one a line.
func Parse(b []byte) (Config, error) {
	c := Default()
	if err := decode(b, &c); err != nil {
		return c, err
	}
	return c, c.check()
}

// decode reads one document into v, which must know every key in it.
func decode(b []byte, v any) error {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		var te *yaml.TypeError
		if errors.As(err, &te) {
			errs := make([]error, len(te.Errors))
			for i, s := range te.Errors {
				errs[i] = errors.New("  " + s)
			}
			return errors.Join(errs...)
		}
		return fmt.Errorf("  %w", err)
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return errors.New("  more than one document: keep one")
	}
	return nil
}

// problems gathers what is wrong, by key path.
type problems []error

func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, fmt.Errorf("  "+key+": "+format, args...))
}

func (c *Config) check() error {
	var p problems
	if !filepath.IsAbs(c.DataDir) {
		p.add("data_dir", "%q is no absolute path", c.DataDir)
	}
	for i, s := range c.Servers {
		if err := sender.CheckURL(s); err != nil {
			p.add(fmt.Sprintf("servers[%d]", i), "%w", err)
		}
	}
	if c.Spool.MaxBytes < spool.MinMaxBytes {
		p.add("spool.max_bytes", "%d bytes are too few, at least 1MiB is needed", c.Spool.MaxBytes)
	}
	if c.Spool.MaxSeries < 100 || c.Spool.MaxSeries > 1_000_000 {
		p.add("spool.max_series", "%d is not between 100 and 1000000", c.Spool.MaxSeries)
	}
	c.checkMetrics(&p)
	c.checkLogs(&p)
	c.checkEvents(&p)
	c.checkJournal(&p)
	c.checkRemote(&p)
	if c.Heartbeat.Period < time.Second || c.Heartbeat.Period > 30*time.Second {
		p.add("heartbeat.period", "%s is not between 1s and 30s: an agent counts as late after 45s", c.Heartbeat.Period)
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		p.add("log.level", "%q: want debug, info, warn or error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		p.add("log.format", "%q: want text or json", c.Log.Format)
	}
	return errors.Join(p...)
}

func (c *Config) checkMetrics(p *problems) {
	if c.Metrics.Period < time.Second || c.Metrics.Period > time.Hour {
		p.add("metrics.period", "%s is not between 1s and 1h", c.Metrics.Period)
	}
	for key, names := range map[string][]string{"enable": c.Metrics.Collectors.Enable, "disable": c.Metrics.Collectors.Disable} {
		for i, n := range names {
			if !collect.KnownCollector(n) {
				p.add(fmt.Sprintf("metrics.collectors.%s[%d]", key, i), "there is no collector %q", n)
			}
		}
	}
	for i, e := range c.Metrics.Exclude {
		checkRegexp(p, fmt.Sprintf("metrics.exclude[%d]", i), e)
	}
}

// Priorities are the levels of the journal, the most important first.
var priorities = []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

func (c *Config) checkJournal(p *problems) {
	j := &c.Journal
	switch j.Enabled {
	case "auto", "true", "false":
	default:
		p.add("journal.enabled", "%q: want auto, true or false", j.Enabled)
	}
	if j.Backlog < 0 || j.Backlog > 1_000_000 {
		p.add("journal.backlog", "%d is not between 0 and 1000000", j.Backlog)
	}
	if j.Priority != "" && !slices.Contains(priorities, j.Priority) {
		p.add("journal.priority", "%q: want one of %s", j.Priority, strings.Join(priorities, ", "))
	}
	for i, u := range j.Units {
		if u == "" || len(u) > 256 || strings.ContainsFunc(u, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			p.add(fmt.Sprintf("journal.units[%d]", i), "%.100q is no name of a unit", u)
		}
	}
	for i, e := range j.Drop {
		checkRegexp(p, fmt.Sprintf("journal.drop[%d]", i), e)
	}
	for i, e := range j.Keep {
		checkRegexp(p, fmt.Sprintf("journal.keep[%d]", i), e)
	}
}

func checkRegexp(p *problems, key, e string) {
	if len(e) > 256 {
		p.add(key, "expression of %d bytes, at most 256 are allowed", len(e))
	} else if _, err := regexp.Compile(e); err != nil {
		p.add(key, "%w", err)
	}
}

func (c *Config) checkLogs(p *problems) {
	if c.Logs.MaxFiles < 1 || c.Logs.MaxFiles > 10_000 {
		p.add("logs.max_files", "%d is not between 1 and 10000", c.Logs.MaxFiles)
	}
	for i := range c.Logs.Files {
		g := &c.Logs.Files[i]
		key := fmt.Sprintf("logs.files[%d]", i)
		if len(g.Include) == 0 {
			p.add(key+".include", "is empty: name at least one file or glob")
		}
		for j, glob := range g.Include {
			if !filepath.IsAbs(glob) || !doublestar.ValidatePathPattern(glob) {
				p.add(fmt.Sprintf("%s.include[%d]", key, j), "%q is no glob with an absolute path", glob)
			}
		}
		for j, glob := range g.Exclude {
			if !doublestar.ValidatePathPattern(glob) {
				p.add(fmt.Sprintf("%s.exclude[%d]", key, j), "%q is no glob", glob)
			}
		}
		for j, e := range g.Drop {
			checkRegexp(p, fmt.Sprintf("%s.drop[%d]", key, j), e)
		}
		for j, e := range g.Keep {
			checkRegexp(p, fmt.Sprintf("%s.keep[%d]", key, j), e)
		}
		if m := g.Multiline; m != nil {
			if (m.Start == "") == (m.Continue == "") {
				p.add(key+".multiline", "give either start or continue")
			}
			checkRegexp(p, key+".multiline.start", m.Start)
			checkRegexp(p, key+".multiline.continue", m.Continue)
			if m.MaxLines < 0 || m.MaxLines > 10_000 {
				p.add(key+".multiline.max_lines", "%d is not between 1 and 10000", m.MaxLines)
			}
			if m.Timeout < 0 || m.Timeout > time.Minute {
				p.add(key+".multiline.timeout", "%s is not between 0s and 1m", m.Timeout)
			}
		}
		// agent, host, source and file are set by the product.
		if n := wire.MaxStreamLabels - 4; len(g.Labels) > n {
			p.add(key+".labels", "%d labels, at most %d are allowed: leave some out", len(g.Labels), n)
		} else if err := wire.CheckStreamLabels(wire.LabelsFromMap(g.Labels)); err != nil {
			p.add(key+".labels", "%w", err)
		}
		for _, reserved := range []string{"agent", "host", "source", "file"} {
			if _, ok := g.Labels[reserved]; ok {
				p.add(key+".labels."+reserved, "is set by the product: choose another name")
			}
		}
	}
}

// IdentityPath returns where the identity lies.
func (c *Config) IdentityPath() string {
	if c.Identity != "" {
		return c.Identity
	}
	return filepath.Join(c.DataDir, "identity.json")
}

// SpoolDir returns where the spool lies.
func (c *Config) SpoolDir() string { return filepath.Join(c.DataDir, "spool") }

// ExcludeMetrics returns the expression for metric names left out, nil for none.
func (m *Metrics) ExcludeMetrics() *regexp.Regexp {
	if len(m.Exclude) == 0 {
		return nil
	}
	return regexp.MustCompile("^(?:" + strings.Join(m.Exclude, "|") + ")$")
}

// Groups returns the file groups as package tail takes them. The configuration must have passed its check.
func (l *Logs) Groups() []tail.Group {
	out := make([]tail.Group, len(l.Files))
	for i, g := range l.Files {
		out[i] = tail.Group{
			Include: g.Include, Exclude: g.Exclude, Drop: compileAll(g.Drop), Keep: compileAll(g.Keep),
			Labels: wire.LabelsFromMap(g.Labels), Within: g.within,
		}
		if m := g.Multiline; m != nil {
			out[i].Multiline = &tail.Multiline{MaxLines: m.MaxLines, Timeout: m.Timeout}
			if m.Start != "" {
				out[i].Multiline.Start = regexp.MustCompile(m.Start)
			} else {
				out[i].Multiline.Continue = regexp.MustCompile(m.Continue)
			}
		}
	}
	return out
}

// Filters returns the rules for entries of the journal. The configuration must have passed its check.
func (j *Journal) Filters() (drop, keep []*regexp.Regexp) {
	return compileAll(j.Drop), compileAll(j.Keep)
}

func compileAll(exprs []string) []*regexp.Regexp {
	out := make([]*regexp.Regexp, len(exprs))
	for i, e := range exprs {
		out[i] = regexp.MustCompile(e)
	}
	return out
}
