//go:build !unix

package spool

import (
	"errors"
	"fmt"
	"os"
)

// ErrLocked says that another process has the spool open.
var ErrLocked = errors.New("spool is in use by another process")

// lockFile opens the lock file so that it cannot be removed while open, and removes what a dead process left.
func lockFile(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s: %w", ErrLocked, path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of the spool: %w", err)
	}
	return f, nil
}

// syncDir does nothing: directories cannot be synced on these systems.
func syncDir(string) error { return nil }
