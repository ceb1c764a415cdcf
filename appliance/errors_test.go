package appliance

import (
	"errors"
	"fmt"
	"testing"

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
