package agent

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/triward/triward/agent/events"
	"github.com/triward/triward/agent/journal"
	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
)

// eventMax is how long the text of an event may be; names of files and answers of nodes can be longer.
const eventMax = 8 << 10

// eventPatience is how long an event waits for a full spool before it is only logged.
const eventPatience = 2 * time.Second

// reported are the names of the events of what parts of the agent report; others are agent_ and the kind.
var reported = map[string]string{
	"lost": "data_lost", "spool-damaged": "spool_damaged", "set-aside": "data_set_aside", "epoch": "spool_epoch",
}

// Event sends an event of the agent itself, at once and in its own lane.
func (a *Agent) Event(kind, text string) {
	name, ok := reported[kind]
	if !ok {
		name = "agent_" + strings.ReplaceAll(kind, "-", "_")
	}
	line := wire.LogLine{T: time.Now().UnixNano(), Severity: wire.SeverityInfo, Text: []byte(lines.Valid(text, eventMax))}
	if kind != "started" && kind != "stopped" && kind != "config" {
		line.Severity = wire.SeverityWarning
	}
	ctx, cancel := context.WithTimeout(context.Background(), eventPatience)
	defer cancel()
	stream, err := events.NewStream(name)
	if err == nil {
		err = errors.Join(a.events.Add(ctx, stream, line, lines.Mark{}), a.events.Flush(ctx))
	}
	if err != nil {
		a.log.Warn("event is not spooled", "name", name, "err", err)
	}
}

// makeEvents makes what watches the host.
func (a *Agent) makeEvents() (err error) {
	e := &a.cfg.Events
	if !e.Enabled {
		return nil
	}
	hasJournal := a.cfg.Journal.Enabled != "false" && journal.Present()
	a.watch, err = events.New(events.Config{
		Disable: e.Disable, Warn: e.FilesystemWarn, Critical: e.FilesystemCritical, Exclude: e.FilesystemExclude, Root: a.cfg.Metrics.RootFS,
		Journal: hasJournal, Machine: machineID(), State: a.spool.State(wire.LaneEvents)[events.StateKey], Batcher: a.events, Log: a.log,
	})
	return err
}
