package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Sentinels that the command line turns into exit codes.
var (
	// ErrLocked says that another process uses the data directory.
	ErrLocked = errors.New("data directory is in use")
	// ErrDamaged says that the node's data cannot be used.
	ErrDamaged = errors.New("the node's data is damaged")
	// ErrNewerFormat says that the data is whole but of a format that this version does not know.
	ErrNewerFormat = errors.New("the node's data has a newer format")
)

// lockDir takes the data directory for this process until release is called or the process ends.
func lockDir(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
		}
		return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	return f.Close, nil
}

// Running reports whether a process has the data directory now. It makes nothing. A start at the very same moment may find
// the directory in use, and is repeated by the service. The configuration must be resolved.
func (c *Config) Running() (bool, error) {
	f, err := os.Open(filepath.Join(c.DataDir, "LOCK"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether a node runs: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether a node runs in %s: %w", c.DataDir, err)
	}
	return false, nil
}
