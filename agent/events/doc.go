// Package events notices what happens to the host and to the agent itself (a unit that failed, a process that the
// kernel killed for want of memory, a file system that fills, a reboot, a clock that jumped) and gives it to the
// batcher of the lane events, one event at a time and at once. It owns the form of an event's line, the bound on how
// often a thing that keeps happening is told, and the record in the spool that says what was told already: the record
// moves in the same write as the event, so that an event comes neither twice nor never over a crash of the agent.
//
// It imports agent/journal, agent/lines and agent/wire and nothing of the server.
package events

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
)

// Names of the events, as their streams carry them in the label name. They are part of what rules match.
const (
	UnitFailed         = "unit_failed"
	OOMKill            = "oom_kill"
	ProcessCrashed     = "process_crashed"
	FilesystemFull     = "filesystem_full"
	FilesystemRoom     = "filesystem_room"
	FilesystemReadOnly = "filesystem_read_only"
	FilesystemWritable = "filesystem_writable"
	Reboot             = "reboot"
	AgentCrashed       = "agent_crashed"
	ClockJumped        = "clock_jumped"
	Suppressed         = "events_suppressed"
)

// textMax bounds the text of an event, tagMax the value of a tag.
const (
	textMax = 8 << 10
	tagMax  = 512
)

// Event is what is told.
type Event struct {
	Name     string // what happened, one of a small set
	Key      string // to what: a unit, a mount point; events of one name and key are the same thing again
	Severity wire.Severity
	Text     string
	Tags     map[string]string
	T        time.Time // zero: now

	grade  string // another grade of the same thing is told even within the window
	always bool   // told however many others there are: its source is bounded by itself
}

// line is the event in the form of a structured line: the text, and as fields the key and the tags.
func (e *Event) line(count int) wire.LogLine {
	t := e.T
	if t.IsZero() {
		t = time.Now()
	}
	tags := maps.Clone(e.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	if e.Key != "" {
		tags["key"] = e.Key
	}
	if count > 1 {
		tags["count"] = strconv.Itoa(count)
	}
	l := wire.LogLine{T: t.UnixNano(), Severity: e.Severity, Text: []byte(lines.Valid(e.Text, textMax))}
	for name, value := range tags {
		if value != "" {
			l.Fields = append(l.Fields, wire.Label{Name: name, Value: lines.Valid(value, tagMax)})
		}
	}
	slices.SortFunc(l.Fields, func(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) })
	return l
}
