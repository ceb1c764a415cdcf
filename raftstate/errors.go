package raftstate

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	bolterr "go.etcd.io/bbolt/errors"

	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// Errors of proposals and reads. They come wrapped.
var (
	// ErrBusy: the bytes of proposals in flight have reached their bound; try again shortly (HTTP 429).
	ErrBusy = errors.New("too many proposals in flight")
	// ErrNoLeader: no leader could be reached within a second; nothing was applied (HTTP 503).
	ErrNoLeader = errors.New("the cluster has no leader at the moment")
	// ErrReplaying: this node applies its log again after a repair; nothing was applied. It is an ErrNoLeader to those who
	// only want to know whether to try again.
	ErrReplaying error = replayingError{}
	// ErrUnknown: whether the proposal was or will be applied is not known; repeat it with the same identity.
	ErrUnknown = errors.New("outcome of the proposal is unknown")
	// ErrTooLarge: the commands do not fit into one entry of the log.
	ErrTooLarge = errors.New("proposal is too large for one entry")
	// ErrDiskFull: the leader's disk is full; nothing was applied (HTTP 507). It resumes by itself.
	ErrDiskFull = errors.New("disk of the leader is full")
	// ErrMakingRoom: a disk is full, and what fills it is being removed; nothing was applied (HTTP 503). It passes.
	ErrMakingRoom = errors.New("room is being made on a full disk")
	// ErrStopped: the node is closed or has met a fatal error.
	ErrStopped = errors.New("node is stopped")
	// ErrQuorum: the change of membership would leave the cluster without a majority that can be reached.
	ErrQuorum = errors.New("change would endanger the majority")
	// ErrChanging: one change of membership is made at a time; try again (HTTP 409).
	ErrChanging = errors.New("the membership is being changed")
	// ErrNoMember: the node that a change of membership names is no member (HTTP 404).
	ErrNoMember = errors.New("no member of the cluster")
	// ErrClocks: the time is in doubt, so that data would be dated, or cut, wrongly; nothing was applied (HTTP 503).
	ErrClocks = errors.New("the clocks of the nodes do not agree")
	// ErrUnsupported: a member runs a version that could not apply the commands; nothing was applied.
	ErrUnsupported = errors.New("not all nodes know the command")
	// ErrVersion: state or log are whole but of a version that this program does not know. It comes in a
	// FatalError.
	ErrVersion = errors.New("data of another version")

	// errNotLeader: this node certainly did not take the proposal, as it is not the leader.
	errNotLeader  = errors.New("not the leader")
	errNobodyTook = errors.New("no other node took it")
	// errSuperseded: a mark was overtaken by an image or an install; the next one covers it.
	errSuperseded = errors.New("mark was superseded")
	// ErrSuperseded is errSuperseded for those who ask for a Record: they may ask for another one at once.
	ErrSuperseded = errSuperseded
)

type replayingError struct{}

// Error implements error.
func (replayingError) Error() string { return "this node's data is being repaired" }

// Is makes it one that is tried again as without a leader.
func (replayingError) Is(target error) bool { return target == ErrNoLeader }

// Exit codes that a FatalError asks for.
const (
	ExitStorage = 1  // a disk failed or hangs: starting again is worth a try, which the service's unit does
	ExitDamaged = 13 // state or log cannot be used, or needs a newer version: a person must look
)

// FatalError stops a node: going on could lose or corrupt data. Open returns it, Config.OnFatal is given it.
type FatalError struct {
	Part string // what failed: a store, the log, an entry
	Code int    // exit code
	Hint string // what to do
	Err  error
}

// Error implements error.
func (e *FatalError) Error() string {
	if e.Hint == "" {
		return fmt.Sprintf("%s: %v", e.Part, e.Err)
	}
	return fmt.Sprintf("%s: %v (%s)", e.Part, e.Err, e.Hint)
}

// Unwrap returns the cause.
func (e *FatalError) Unwrap() error { return e.Err }

// ExitCode returns the exit code that the process should end with.
func (e *FatalError) ExitCode() int { return e.Code }

const (
	hintReinstall = "where the other nodes hold the data: move its data directory aside and join it again; a node that is the only one left: keep the directory and restore a backup"
	hintMends     = "start the node again: it mends its log from the other nodes"
	hintDisk      = "check the disk, then start the node again"
	hintRestart   = "start the node again; its data is whole"
	hintUpgrade   = "upgrade this node to the version that the rest of the cluster runs"
	hintSpace     = "free space on the disk, then start the node again; its data is whole"
	hintRights    = "let the user that the node runs as own its data directory and write to it; its data is whole"
	hintFiles     = "raise the node's limit of open files and memory; its data is whole"
	hintOther     = "another process uses the node's files: end it first"
)

// obstacle says what to do about an error of the system, which tells nothing of what files hold; "" for others.
func obstacle(err error) (hint string) {
	for _, o := range [...]struct {
		hint string
		errs []error
	}{
		{hintSpace, []error{syscall.ENOSPC, syscall.EDQUOT, logfile.ErrFull}},
		{hintRights, []error{syscall.EACCES, syscall.EPERM, syscall.EROFS}},
		{hintFiles, []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN}},
		{hintOther, []error{bolterr.ErrTimeout, syscall.EBUSY}},
		{hintDisk, []error{syscall.EIO, syscall.ETIMEDOUT, syscall.ESTALE}},
	} {
		for _, e := range o.errs {
			if errors.Is(err, e) {
				return o.hint
			}
		}
	}
	return ""
}

// refused is the error of a part that cannot be opened or read. Only what is known to be damaged is worth giving up;
// an operator who is told so wipes the node.
func refused(part string, err error) error {
	hint := obstacle(err)
	switch {
	case errors.Is(err, meta.ErrVersion), errors.Is(err, logfile.ErrVersion):
		return otherVersion(part, err)
	case interrupted(err):
		return fmt.Errorf("%s: %w", part, err)
	case hint != "":
		return &FatalError{Part: part, Code: ExitStorage, Hint: hint, Err: err}
	case errors.Is(err, meta.ErrDamaged), errors.Is(err, logfile.ErrCorrupt), errors.Is(err, snapshot.ErrCurrent):
		return damaged(part, err)
	}
	return &FatalError{Part: part, Code: ExitStorage, Hint: hintDisk, Err: err}
}

// refusedStore is refused for a store, whose word for damage is not known here: it is what nothing else explains.
func refusedStore(part string, err error) error {
	var other interface{ OtherVersion() }
	switch {
	case interrupted(err) || obstacle(err) != "":
		return refused(part, err)
	case errors.As(err, &other):
		return otherVersion(part, err)
	}
	return damaged(part, err)
}

func interrupted(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrStopped)
}

// damaged stops a node whose data is not what it was.
func damaged(part string, err error) error {
	return &FatalError{Part: part, Code: ExitDamaged, Hint: hintReinstall, Err: err}
}

// otherVersion stops a node whose program does not know what its data holds.
func otherVersion(part string, err error) error {
	return &FatalError{Part: part, Code: ExitDamaged, Hint: hintUpgrade, Err: fmt.Errorf("%w: %w", ErrVersion, err)}
}

// diskFull reports whether err says that there is no room, which passes, as opposed to a broken disk.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, logfile.ErrFull)
}
