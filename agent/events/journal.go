package events

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/triward/triward/agent/journal"
	"github.com/triward/triward/agent/wire"
)

// Identities of messages of systemd, which do not change with its language or release.
const (
	idUnitFailure = "d9b373ed55a64feb8242e02dbe79a49c" // a unit failed, with its result
	idUnitOOM     = "fe6faa94e7774663a0da52717891d8ef" // a process of a unit was killed for want of memory
	idCoredump    = "fc2e22bc6ee647b6b90729ab34a250b1" // a process ended by a signal and left a core dump
)

// oomKilled is the message of the kernel for a process that it killed.
var oomKilled = regexp.MustCompile(`^(Out of memory|Memory cgroup out of memory): Killed process (\d+) \(([^)]*)\)(.*)$`)

// entry takes an entry of the journal. An entry that is no event moves the position on and nothing else.
func (s *Source) entry(ctx context.Context, e *journal.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, since := s.st.Cursor, s.st.Since
	s.st.Cursor, s.st.Since = e.Cursor, e.Time.UnixMilli()+1
	ev, ok := s.read(e)
	if !ok {
		return nil
	}
	ev.T = e.Time
	if err := s.emit(ctx, ev); err != nil {
		s.st.Cursor, s.st.Since = was, since
		return err
	}
	return nil
}

// read makes an event of an entry.
func (s *Source) read(e *journal.Entry) (Event, bool) {
	message := e.Text("MESSAGE")
	switch e.Text("MESSAGE_ID") {
	case idUnitFailure:
		unit := firstOf(e.Text("UNIT"), e.Text("USER_UNIT"))
		if unit == "" || s.off[SourceUnits] {
			return Event{}, false
		}
		result := e.Text("UNIT_RESULT")
		return Event{
			Name: UnitFailed, Key: unit, Severity: wire.SeverityError, Text: "unit " + unit + " failed" + because(result),
			Tags: map[string]string{"unit": unit, "result": result},
		}, true
	case idUnitOOM:
		unit := firstOf(e.Text("UNIT"), e.Text("USER_UNIT"))
		if unit == "" || s.off[SourceOOM] {
			return Event{}, false
		}
		return Event{
			Name: OOMKill, Key: unit, Severity: wire.SeverityCritical,
			Text: "a process of unit " + unit + " was killed: out of memory", Tags: map[string]string{"unit": unit},
		}, true
	case idCoredump:
		name := e.Text("COREDUMP_COMM")
		if name == "" || s.off[SourceCrashes] {
			return Event{}, false
		}
		unit, signal := e.Text("COREDUMP_UNIT"), e.Text("COREDUMP_SIGNAL_NAME")
		return Event{
			Name: ProcessCrashed, Key: name, Severity: wire.SeverityError, Text: "process " + name + " crashed" + because(signal),
			Tags: map[string]string{"process": name, "pid": e.Text("COREDUMP_PID"), "signal": signal, "unit": unit, "exe": e.Text("COREDUMP_EXE")},
		}, true
	}
	if m := oomKilled.FindStringSubmatch(message); m != nil && e.Text("_TRANSPORT") == "kernel" && !s.off[SourceOOM] {
		scope := "host"
		if strings.HasPrefix(m[1], "Memory cgroup") {
			scope = "cgroup"
		}
		return Event{
			Name: OOMKill, Key: m[3], Severity: wire.SeverityCritical,
			Text: "the kernel killed process " + m[3] + " (pid " + m[2] + "): out of memory",
			Tags: map[string]string{"process": m[3], "pid": m[2], "scope": scope, "detail": strings.TrimSpace(m[4])},
		}, true
	}
	return Event{}, false
}

func because(what string) string {
	if what == "" {
		return ""
	}
	return ": " + what
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// clockStep is by how much the clock must jump to be told.
const clockStep = 5 * time.Second

func clockEvent(jump time.Duration, now time.Time) Event {
	way := "forward"
	if jump < 0 {
		way = "back"
	}
	return Event{
		Name: ClockJumped, Severity: wire.SeverityWarning, T: now, always: true,
		Text: "the clock jumped " + way + " by " + jump.Abs().Round(time.Millisecond).String() + ": it was set, or the machine slept",
		Tags: map[string]string{"jump": jump.Round(time.Millisecond).String()},
	}
}
