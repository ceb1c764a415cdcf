package appliance

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate"
)

// What stops a node is told apart for the operator: damage, data of another version, a failing disk.
func TestFatalCauses(t *testing.T) {
	cause := errors.New("cause")
	fatal := func(code int, err error) error {
		return fmt.Errorf("open: %w", &raftstate.FatalError{Part: "metadata", Code: code, Err: err})
	}
	for name, c := range map[string]struct{ err, is, not error }{
		"damage":          {fatal(raftstate.ExitDamaged, cause), ErrDamaged, ErrNewerFormat},
		"another version": {fatal(raftstate.ExitDamaged, fmt.Errorf("%w: 9", raftstate.ErrVersion)), ErrNewerFormat, ErrDamaged},
		"disk":            {fatal(raftstate.ExitStorage, cause), cause, ErrDamaged},
		"anything":        {cause, cause, ErrDamaged},
	} {
		got := fatalCause(c.err)
		if !errors.Is(got, c.is) || errors.Is(got, c.not) || !errors.Is(got, c.err) {
			t.Errorf("%s: %v", name, got)
		}
		if again := fatalCause(got); again.Error() != got.Error() {
			t.Errorf("%s: marked twice: %v", name, again)
		}
	}
}

// A problem that was made where the error was met is the answer, to nodes as to agents; what nobody knows is not told.
func TestProblemsStayWhatTheyAre(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{fmt.Errorf("join: %w", problem.New(403, "no")), 403},
		{fmt.Errorf("x: %w", raftstate.ErrBusy), 429},
		{errors.New("secret path"), 503},
		{fmt.Errorf("x: %w", raftstate.ErrNoLeader), 503},
		{fmt.Errorf("x: %w", raftstate.ErrReplaying), 503},
	} {
		p := problemOf(c.err)
		if p.Status != c.status || strings.Contains(p.Detail, "secret") {
			t.Errorf("%v: %+v", c.err, p)
		}
		if few := errors.Is(c.err, raftstate.ErrNoLeader) && !errors.Is(c.err, raftstate.ErrReplaying); few != (p.Code == problem.CodeNoQuorum) {
			t.Errorf("%v: code %q", c.err, p.Code)
		}
	}
}
