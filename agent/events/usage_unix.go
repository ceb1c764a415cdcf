//go:build linux || darwin || freebsd

package events

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func usage(path string) (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Usage{}, fmt.Errorf("usage of %s: %w", path, err)
	}
	block := int64(st.Bsize)
	return Usage{Used: (int64(st.Blocks) - int64(st.Bfree)) * block, Free: int64(st.Bavail) * block}, nil
}
