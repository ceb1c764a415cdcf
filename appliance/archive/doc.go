// Package archive keeps whole days of lines outside of the cluster: in a folder or in a bucket of an S3 service, as files
// that anybody can read without Triward, and brings them back for searching.
//
// The lines of an agent, a day, a type and a file (see PathOf) lie in logs/{agent}/{date}/{type}/{file}/ as parts: JSON,
// one line each, compressed with zstd. What an agent has of a day is told by logs/{agent}/{date}/day-*.json, and what there is
// of a day by days/{date}-*.json. These are written last, so that what they name is whole; what none names is left over by
// an attempt that ended early, and goes when that was given up (sweep). Nothing that one names is ever changed, replaced or removed.
//
// An archive of a day is of the lines that entries of the Raft log up to one of them brought, and later ones add what came
// late: they form a chain, each from where the one before ended. The names tell cluster, incarnation and entries, so that
// several clusters, or one that was restored from a backup, share a place without touching each other's files. Two nodes that
// write the same at the same time write the same bytes.
//
// The package promises: a day is called archived only when count and sum of its lines were those of the cluster's own digest
// (DESIGN D8); what is read back is compared with checksum, count and sum before anybody sees it. It reads lines through the
// log store and knows nothing of Raft, the API or the command line.
package archive

import "errors"

// Errors of this package.
var (
	// ErrInvalid says that a request or a policy breaks a rule; the text names it.
	ErrInvalid = errors.New("archive")
	// ErrDamaged says that what is in the archive is not what was written.
	ErrDamaged = errors.New("the archive is damaged")
	// ErrNotFound says that the archive, or the node, has no such thing.
	ErrNotFound = errors.New("there is no such thing in the archive")
	// ErrDiffers says that the lines that were read are not those that the cluster accepted.
	ErrDiffers = errors.New("the lines of this node are not those that the cluster accepted")
	// ErrRunning says that a day is being archived already somewhere in the cluster.
	ErrRunning = errors.New("lines are being archived already")
)

// DayMs is the length of a day in milliseconds.
const DayMs = 24 * 3600 * 1000
