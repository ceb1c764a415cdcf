//go:build !unix

package tail

import "os"

// fileKey is what the system knows a file by: nothing here, so that the fingerprint decides.
type fileKey struct {
	Dev uint64
	Ino uint64
}

func keyOf(os.FileInfo) fileKey { return fileKey{} }

func unlinked(os.FileInfo) bool { return false }
