package cli

import (
	"errors"
	"fmt"
	"testing"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/pki"
)

// Scripts and the unit go by exit codes; each error has its own however it is wrapped.
func TestErrorsHaveTheirExitCodes(t *testing.T) {
	for err, want := range map[error]int{
		appliance.ErrNewerFormat: 13, appliance.ErrDamaged: 13, errChain: 13, backup.ErrNewer: 13, backup.ErrContent: 13, container.ErrVersion: 13,
		container.ErrDamaged: 13, container.ErrNotBackup: 13, appliance.ErrLocked: 11, pki.ErrNotInitialised: 10, appliance.ErrRemoved: 10,
		&appliance.ConfigError{}: 12, errWarnings: 3, errors.New("anything else"): 1,
	} {
		if got := exitCode(t.Context(), fmt.Errorf("start: %w", err)); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
}
