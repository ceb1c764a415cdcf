//go:build unix

package tail

import (
	"os"
	"syscall"
)

// fileKey is what the system knows a file by. The zero value is "unknown".
type fileKey struct {
	Dev uint64
	Ino uint64
}

func keyOf(fi os.FileInfo) fileKey {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileKey{}
	}
	return fileKey{Dev: uint64(st.Dev), Ino: uint64(st.Ino)}
}

// unlinked reports whether no name leads to the open file any more.
func unlinked(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 0
}
