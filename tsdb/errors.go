package tsdb

import (
	"errors"
	"fmt"
)

// ErrDamaged is matched by errors that name a file of the store which does not hold what it held: the store must be
// set aside and installed again from a peer. No sample of it was served or repaired away.
var ErrDamaged = errors.New("metrics store is damaged")

// ErrBroken is matched by errors of a store that failed to write and does not know how much reached the disk. It
// answers queries but takes no samples and no marks until Open is called again (with the same directory); all samples
// since the last Flush must be applied again then.
var ErrBroken = errors.New("metrics store stopped after a failed write")

// ErrClosed is matched by errors of a store that is not open.
var ErrClosed = errors.New("metrics store is not open")

// ErrSwapped ends queries that ran too long on a store that was replaced. The query may be asked again at once.
var ErrSwapped = errors.New("the metrics store was replaced while the query ran; ask again")

// DamageError names the file that is damaged. It matches ErrDamaged.
type DamageError struct {
	File string // path of the file or block, or what differs
	Err  error
	// From and To bound the times of the samples that it is about, in milliseconds, To exclusive; both 0 when unknown.
	From, To int64
	// Hides says that answers over these times may be wrong without anybody noticing: queries that touch them fail.
	// Otherwise a query fails by itself when it comes to the place.
	Hides bool
}

// Error says which file is damaged and how.
func (e *DamageError) Error() string { return fmt.Sprintf("%v: %s: %v", ErrDamaged, e.File, e.Err) }

// Unwrap returns ErrDamaged and the cause.
func (e *DamageError) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// VersionError names a file that is whole but of a version that this program does not know.
type VersionError struct {
	File    string
	Version uint8
}

// Error says which version the file has and which is known.
func (e *VersionError) Error() string {
	return fmt.Sprintf("metrics store: %s is of version %d, this program knows %d", e.File, e.Version, sealVersion)
}

// OtherVersion tells the error from damage, for those who know it by this only.
func (e *VersionError) OtherVersion() {}

// damaged names the file, as damaged unless it is the system that did not let it be read.
func damaged(file string, err error) error {
	if !isCorruption(err) {
		return fmt.Errorf("%s: %w", file, err)
	}
	return &DamageError{File: file, Err: err}
}

// Hint tells the operator what to do.
func (e *DamageError) Hint() string {
	return "the node sets the store aside and installs it again from a peer; check the disk"
}
