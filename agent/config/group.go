package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/agent/tail"
)

// MaxGroup bounds the text of a group's configuration, in bytes.
const MaxGroup = 64 << 10

// maxNames bounds the files, patterns and names of a group's configuration: with aliases a short text names very many,
// and each is looked at again and again on every host.
const maxNames = 2000

// Remote is what the host lets the cluster set.
type Remote struct {
	Enabled bool     `yaml:"enabled"`
	Files   []string `yaml:"files"` // folders and files that the cluster may have read
	Keep    []string `yaml:"keep"`  // keys that stay as agent.yaml has them, also at their defaults
}

// Group is what the cluster may set for the agents of a group: a part of agent.yaml, with the same keys. What is nil is
// left to each agent. Where the agent keeps its data, whom it talks to, how much it spools and what it lets the cluster
// set is the host's business and has no place in it.
type Group struct {
	Heartbeat struct {
		Period *time.Duration `yaml:"period"`
	} `yaml:"heartbeat"`
	Metrics struct {
		Enabled    *bool          `yaml:"enabled"`
		Period     *time.Duration `yaml:"period"`
		Collectors struct {
			Enable  *[]string `yaml:"enable"`
			Disable *[]string `yaml:"disable"`
		} `yaml:"collectors"`
		Exclude *[]string `yaml:"exclude"`
	} `yaml:"metrics"`
	Logs struct {
		Enabled *bool        `yaml:"enabled"`
		Files   *[]FileGroup `yaml:"files"`
	} `yaml:"logs"`
	Journal struct {
		Enabled  *string   `yaml:"enabled"`
		Units    *[]string `yaml:"units"`
		Priority *string   `yaml:"priority"`
		Drop     *[]string `yaml:"drop"`
		Keep     *[]string `yaml:"keep"`
	} `yaml:"journal"`
}

// ParseGroup reads and checks the configuration of a group as every agent does. The error holds every problem, one a
// line, each with the line or the path of its key.
func ParseGroup(b []byte) (*Group, error) {
	if len(b) > MaxGroup {
		return nil, fmt.Errorf("  %d bytes, at most %d are allowed", len(b), MaxGroup)
	}
	var g Group
	if err := decode(b, &g); err != nil {
		return nil, err
	}
	if n := g.names(); n > maxNames {
		return nil, fmt.Errorf("  %d files, patterns and names in all, at most %d are allowed", n, maxNames)
	}
	c := Default()
	for i := range settings {
		settings[i].set(&c, &g)
	}
	var p problems
	p.take(c.check())
	if g.Logs.Files != nil {
		for i, f := range *g.Logs.Files {
			for j, glob := range f.Include {
				if strings.Contains(glob, "..") {
					p.add(fmt.Sprintf("logs.files[%d].include[%d]", i, j), "%q: .. is not allowed, write the folder that is meant", glob)
				}
			}
		}
	}
	return &g, errors.Join(p...)
}

// names counts the files, patterns and names.
func (g *Group) names() (n int) {
	m, j := &g.Metrics, &g.Journal
	for _, list := range []*[]string{m.Collectors.Enable, m.Collectors.Disable, m.Exclude, j.Units, j.Drop, j.Keep} {
		if list != nil {
			n += len(*list)
		}
	}
	if g.Logs.Files != nil {
		for _, f := range *g.Logs.Files {
			n += len(f.Include) + len(f.Exclude) + len(f.Drop) + len(f.Keep) + len(f.Labels)
		}
	}
	return n
}

// take adds the problems of a check.
func (p *problems) take(err error) {
	if err != nil {
		*p = append(*p, err)
	}
}

// HashGroup names the text of a group's configuration, for whoever asks whether it is the same; "" for no text.
func HashGroup(body []byte) string {
	if len(body) == 0 {
		return ""
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:12])
}

// setting is a key that a group may set.
type setting struct {
	key string
	get func(c *Config) any
	set func(c *Config, g *Group) bool // false when the group says nothing
}

func give[T any](to *T, from *T) bool {
	if from != nil {
		*to = *from
	}
	return from != nil
}

var settings = []setting{
	{
		"heartbeat.period", func(c *Config) any { return c.Heartbeat.Period },
		func(c *Config, g *Group) bool { return give(&c.Heartbeat.Period, g.Heartbeat.Period) },
	},
	{
		"metrics.enabled", func(c *Config) any { return c.Metrics.Enabled },
		func(c *Config, g *Group) bool { return give(&c.Metrics.Enabled, g.Metrics.Enabled) },
	},
	{
		"metrics.period", func(c *Config) any { return c.Metrics.Period },
		func(c *Config, g *Group) bool { return give(&c.Metrics.Period, g.Metrics.Period) },
	},
	{
		"metrics.collectors.enable", func(c *Config) any { return c.Metrics.Collectors.Enable },
		func(c *Config, g *Group) bool {
			return give(&c.Metrics.Collectors.Enable, g.Metrics.Collectors.Enable)
		},
	},
	{
		"metrics.collectors.disable", func(c *Config) any { return c.Metrics.Collectors.Disable },
		func(c *Config, g *Group) bool {
			return give(&c.Metrics.Collectors.Disable, g.Metrics.Collectors.Disable)
		},
	},
	{
		"metrics.exclude", func(c *Config) any { return c.Metrics.Exclude },
		func(c *Config, g *Group) bool { return give(&c.Metrics.Exclude, g.Metrics.Exclude) },
	},
	{
		"logs.enabled", func(c *Config) any { return c.Logs.Enabled },
		func(c *Config, g *Group) bool { return give(&c.Logs.Enabled, g.Logs.Enabled) },
	},
	{
		"logs.files", func(c *Config) any { return c.Logs.Files },
		func(c *Config, g *Group) bool { return give(&c.Logs.Files, g.Logs.Files) },
	},
	{
		"journal.enabled", func(c *Config) any { return c.Journal.Enabled },
		func(c *Config, g *Group) bool { return give(&c.Journal.Enabled, g.Journal.Enabled) },
	},
	{
		"journal.units", func(c *Config) any { return c.Journal.Units },
		func(c *Config, g *Group) bool { return give(&c.Journal.Units, g.Journal.Units) },
	},
	{
		"journal.priority", func(c *Config) any { return c.Journal.Priority },
		func(c *Config, g *Group) bool { return give(&c.Journal.Priority, g.Journal.Priority) },
	},
	{
		"journal.drop", func(c *Config) any { return c.Journal.Drop },
		func(c *Config, g *Group) bool { return give(&c.Journal.Drop, g.Journal.Drop) },
	},
	{
		"journal.keep", func(c *Config) any { return c.Journal.Keep },
		func(c *Config, g *Group) bool { return give(&c.Journal.Keep, g.Journal.Keep) },
	},
}

// same compares two values of a setting as they are written: no list is an empty list.
func same(a, b any) bool {
	x, errX := yaml.Marshal(a)
	y, errY := yaml.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// Merge returns the configuration of the host with what its group sets. own lists the keys that the group sets otherwise
// and the host keeps: those that agent.yaml sets to something else than the default, and those in remote.keep. A group
// that names files outside of remote.files is refused as a whole.
func (c *Config) Merge(g *Group) (merged Config, own []string, err error) {
	merged = *c
	standard := Default()
	var p problems
	for i := range settings {
		s := &settings[i]
		wanted := *c
		if !s.set(&wanted, g) || same(s.get(&wanted), s.get(c)) {
			continue
		}
		if c.keeps(s.key) || !same(s.get(c), s.get(&standard)) {
			own = append(own, s.key)
			continue
		}
		s.set(&merged, g)
		if s.key == "logs.files" {
			merged.Logs.Files = slices.Clone(merged.Logs.Files)
			for j := range merged.Logs.Files {
				c.confine(&p, j, &merged.Logs.Files[j])
			}
		}
	}
	return merged, own, errors.Join(p...)
}

// keeps reports whether remote.keep names the key or a part that it belongs to.
func (c *Config) keeps(key string) bool {
	return slices.ContainsFunc(c.Remote.Keep, func(k string) bool { return key == k || strings.HasPrefix(key, k+".") })
}

// confine binds files that the cluster names to the places that the host allows. Here it looks at what the globs say;
// links in the way are judged when a file is opened.
func (c *Config) confine(p *problems, i int, f *FileGroup) {
	f.within = c.Remote.Files
	for j, glob := range f.Include {
		base, _ := doublestar.SplitPattern(glob)
		if !tail.Within(base, c.Remote.Files) && !tail.Within(glob, c.Remote.Files) {
			p.add(fmt.Sprintf("logs.files[%d].include[%d]", i, j), "%q is outside of what remote.files of agent.yaml on this host allows (%s)",
				glob, strings.Join(c.Remote.Files, ", "))
		}
	}
}

func (c *Config) checkRemote(p *problems) {
	for i, f := range c.Remote.Files {
		if !path.IsAbs(f) || strings.ContainsAny(f, "*?[{") {
			p.add(fmt.Sprintf("remote.files[%d]", i), "%q is no absolute path of a folder or file (globs are not allowed here)", f)
		}
	}
	for i, k := range c.Remote.Keep {
		known := func(s setting) bool { return s.key == k || strings.HasPrefix(s.key, k+".") }
		if !slices.ContainsFunc(settings, known) {
			p.add(fmt.Sprintf("remote.keep[%d]", i), "the cluster sets no key %q", k)
		}
	}
}
