package appliance

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/tsdb"
)

// fatalCause marks an error of the node with the sentinel for its exit code.
func fatalCause(err error) error {
	fatal, ok := errors.AsType[*raftstate.FatalError](err)
	switch {
	case !ok || fatal.ExitCode() != raftstate.ExitDamaged || errors.Is(err, ErrDamaged) || errors.Is(err, ErrNewerFormat):
		return err
	case errors.Is(err, raftstate.ErrVersion):
		return fmt.Errorf("%w: %w", ErrNewerFormat, err)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// diskFailed reports whether the node ended because a disk failed or hangs.
func diskFailed(err error) bool {
	fatal, ok := errors.AsType[*raftstate.FatalError](err)
	return ok && fatal.ExitCode() == raftstate.ExitStorage
}

// errorRules is how errors of the log and the stores are answered, to browsers and agents alike.
func errorRules() []problem.Rule {
	const quorum = "too few nodes are up for a majority; what was acknowledged is kept"
	return []problem.Rule{
		{Is: raftstate.ErrBusy, Status: http.StatusTooManyRequests, RetryAfter: time.Second},
		{Is: raftstate.ErrDiskFull, Status: http.StatusInsufficientStorage, RetryAfter: 10 * time.Second, Hint: "free space on the nodes; it resumes by itself"},
		{Is: raftstate.ErrMakingRoom, Status: http.StatusServiceUnavailable, RetryAfter: 2 * time.Second, Hint: "the oldest data is going; repeat the request"},
		{Is: raftstate.ErrTooLarge, Status: http.StatusRequestEntityTooLarge},
		{Is: schedule.ErrInvalid, Status: http.StatusBadRequest},
		{Is: target.ErrInvalid, Status: http.StatusBadRequest},
		{Is: backup.ErrRecipient, Status: http.StatusBadRequest},
		{Is: schedule.ErrRunning, Status: http.StatusConflict, Hint: "wait for it, or cancel it"},
		{Is: schedule.ErrNotFound, Status: http.StatusNotFound},
		{Is: schedule.ErrUnsealed, Status: http.StatusConflict, Hint: "use a folder, or make the key ring first"},
		{Is: raftstate.ErrQuorum, Status: http.StatusConflict, Hint: "bring the other members up first"},
		{Is: raftstate.ErrChanging, Status: http.StatusConflict, RetryAfter: time.Second, Hint: "try again when it is done"},
		{Is: raftstate.ErrNoMember, Status: http.StatusNotFound, Hint: "`triward cluster members` lists them"},
		{Is: raftstate.ErrReplaying, Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Hint: "ask another node"},
		{Is: raftstate.ErrNoLeader, Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Hint: quorum, Code: problem.CodeNoQuorum},
		{Is: raftstate.ErrClocks, Status: http.StatusServiceUnavailable, RetryAfter: 10 * time.Second, Hint: "set the clocks of the nodes"},
		{Is: raftstate.ErrUnsupported, Status: http.StatusServiceUnavailable, RetryAfter: 30 * time.Second, Hint: "bring every node to the same version"},
		{Is: raftstate.ErrUnknown, Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Hint: "repeat the request: what was taken is not taken twice"},
		{Is: raftstate.ErrStopped, Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Hint: "ask another node"},
		{Is: tsdb.ErrSwapped, Status: http.StatusServiceUnavailable, RetryAfter: time.Second},
		{Is: tsdb.ErrClosed, Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Hint: "ask another node"},
		{Is: tsdb.ErrDamaged, Status: http.StatusServiceUnavailable, Hint: "ask another node"},
		{Is: logstore.ErrBusy, Status: http.StatusTooManyRequests, RetryAfter: 2 * time.Second, Hint: "repeat it in a moment, or ask for less; limits.log_queries says how many run"},
		{Is: logstore.ErrClosed, Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Hint: "ask another node"},
		{Is: logstore.ErrDamaged, Status: http.StatusServiceUnavailable, Hint: "ask another node"},
	}
}

// problemOf answers agents by the same table. What it does not know is a failure of ours, told without its text.
func problemOf(err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	if p := problem.ByRules(errorRules(), err); p != nil {
		return p
	}
	return problem.New(http.StatusServiceUnavailable, "the request could not be served now").WithRetryAfter(5 * time.Second)
}
