package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/triward/triward/agent/events"
)

// Events says which events of the host are told.
type Events struct {
	Enabled bool     `yaml:"enabled"`
	Disable []string `yaml:"disable"` // names of events.Sources
	// Per cent of a file system in use from which on it is told, as a warning and as critical.
	FilesystemWarn     int      `yaml:"filesystem_warn"`
	FilesystemCritical int      `yaml:"filesystem_critical"`
	FilesystemExclude  []string `yaml:"filesystem_exclude"` // globs over mount points
}

func defaultEvents() Events { return Events{Enabled: true, FilesystemWarn: 90, FilesystemCritical: 95} }

func (c *Config) checkEvents(p *problems) {
	e := &c.Events
	for i, name := range e.Disable {
		if !slices.Contains(events.Sources, name) {
			p.add(fmt.Sprintf("events.disable[%d]", i), "there is no source %q: %s", name, strings.Join(events.Sources, ", "))
		}
	}
	if e.FilesystemWarn < 10 || e.FilesystemWarn > 99 {
		p.add("events.filesystem_warn", "%d is not between 10 and 99", e.FilesystemWarn)
	}
	if e.FilesystemCritical <= e.FilesystemWarn || e.FilesystemCritical > 100 {
		p.add("events.filesystem_critical", "%d is not above filesystem_warn and at most 100", e.FilesystemCritical)
	}
	if len(e.FilesystemExclude) > 256 {
		p.add("events.filesystem_exclude", "%d globs, at most 256 are allowed", len(e.FilesystemExclude))
	}
	for i, glob := range e.FilesystemExclude {
		if !doublestar.ValidatePathPattern(glob) {
			p.add(fmt.Sprintf("events.filesystem_exclude[%d]", i), "%q is no glob", glob)
		}
	}
}
