package index

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"
)

// Segments that go while they are read are looked for again, and a system that is short of something says nothing of an index.
func TestVerdictOnAnIndex(t *testing.T) {
	gone := &fs.PathError{Op: "open", Path: "000000000012.zap", Err: syscall.ENOENT}
	for name, k := range map[string]struct {
		errs     []error // of the tries, then nil
		unusable bool
		failed   bool
	}{
		"whole":                    {},
		"merged":                   {errs: []error{gone, fmt.Errorf("open: %w", gone)}},
		"lost":                     {errs: []error{gone, gone, gone, gone}, unusable: true, failed: true},
		"checksum":                 {errs: []error{errors.New("checksum of x is wrong")}, unusable: true, failed: true},
		"sector that is not read":  {errs: []error{&os.PathError{Op: "read", Path: "x", Err: syscall.EIO}}, unusable: true, failed: true},
		"too many files are open":  {errs: []error{&os.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}}, failed: true},
		"merged, then no memory":   {errs: []error{gone, syscall.ENOMEM}, failed: true},
		"merged, and then damaged": {errs: []error{gone, errors.New("checksum")}, unusable: true, failed: true},
	} {
		n := 0
		err := verdict("index", func() error {
			if n++; n <= len(k.errs) {
				return k.errs[n-1]
			}
			return nil
		})
		if errors.Is(err, ErrUnusable) != k.unusable || (err != nil) != k.failed {
			t.Errorf("%s: %v", name, err)
		}
	}
}
