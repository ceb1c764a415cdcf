package events

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
)

// bootID names the run of the kernel; "" when it is not known.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// begin compares this start with the last one. What is told and that it was told is one write.
func (s *Source) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	boot := s.cfg.BootID()
	was := s.st
	s.st.Boot, s.st.Orderly, s.st.Alive = boot, false, time.Now().UnixMilli()
	var e Event
	switch {
	case s.off[SourceReboot] || was.Boot == "" || boot == "" || was.Boot == boot && was.Orderly:
	case was.Boot == boot:
		e = Event{
			Name: AgentCrashed, Severity: wire.SeverityWarning,
			Text: "the agent was not stopped in order before this start; it ran last at " + stamp(was.Alive),
			Tags: map[string]string{"last_alive": stamp(was.Alive)},
		}
	case was.Orderly:
		e = Event{
			Name: Reboot, Severity: wire.SeverityNotice, Text: "the host was rebooted in order; the agent was stopped at " + stamp(was.Alive),
			Tags: map[string]string{"orderly": "true", "last_alive": stamp(was.Alive), "boot": boot},
		}
	default:
		e = Event{
			Name: Reboot, Severity: wire.SeverityError,
			Text: "the host was rebooted without being shut down: power, reset or panic; the agent ran last at " + stamp(was.Alive),
			Tags: map[string]string{"orderly": "false", "last_alive": stamp(was.Alive), "boot": boot},
		}
	}
	if e.Name == "" {
		s.cfg.Batcher.Note(ctx, s.mark())
		return s.cfg.Batcher.Flush(ctx)
	}
	e.always, e.grade = true, boot
	if err := s.emit(ctx, e); err != nil {
		s.st = was
		return fmt.Errorf("tell of the start: %w", err)
	}
	return nil
}

func stamp(ms int64) string {
	if ms == 0 {
		return "an unknown time"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}
