package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// freeBytes returns what an ordinary user may still write to the file system of path.
func freeBytes(path string) (uint64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(path, &st)
		if err == nil {
			return st.Bavail * uint64(st.Bsize), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("free space of %s: %w", path, err)
		}
	}
}

// dirBytes adds up the files below dir; what vanishes meanwhile counts nothing.
func dirBytes(dir string) (n uint64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += uint64(info.Size())
		}
		return nil
	})
	return n
}

// isCorruption reports whether the library complains of what it read rather than of the system.
func isCorruption(err error) bool {
	for _, system := range [...]unix.Errno{
		unix.ENOSPC, unix.EDQUOT, unix.EACCES, unix.EPERM, unix.EROFS, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN, unix.EIO,
	} {
		if errors.Is(err, system) {
			return false
		}
	}
	return true
}
