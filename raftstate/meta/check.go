package meta

import (
	"errors"
	"fmt"

	"github.com/triward/triward/raftstate/boltcheck"
)

// Check reads the whole file path without mapping it and reports whether it is what was written: its size, the
// tree of pages, the list of free pages, and the checksum of every record. A truncated file, once mapped, would
// kill the process. Errors wrap ErrDamaged and name the file, unless it cannot be read at all.
func Check(path string) error {
	err := boltcheck.Check(path, func(bucket string, key, value []byte) error {
		if _, err := unsealed(key, value); err != nil {
			return fmt.Errorf("bucket %s: %w", bucket, err)
		}
		return nil
	})
	if errors.Is(err, boltcheck.ErrDamaged) {
		return fmt.Errorf("%w: state %w", ErrDamaged, err)
	}
	if err != nil {
		return fmt.Errorf("state %w", err)
	}
	return nil
}
