package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

// errorRules is the table from error to answer; the first that fits counts. Config.Errors comes before it.
func errorRules() []problem.Rule {
	return []problem.Rule{
		{Is: auth.ErrCredentials, Status: http.StatusUnauthorized},
		{
			Is: auth.ErrUnauthenticated, Status: http.StatusUnauthorized,
			Hint: "log in, or send the header Authorization: Bearer <API token>",
		},
		{Is: auth.ErrToken, Status: http.StatusUnauthorized, Hint: "create a new token and use it once before it expires"},
		{Is: auth.ErrForbidden, Status: http.StatusForbidden, Hint: "ask an administrator for a role that may do this"},
		{Is: auth.ErrTooMany, Status: http.StatusTooManyRequests, RetryAfter: 10 * time.Second},
		{Is: auth.ErrNotFound, Status: http.StatusNotFound},
		{Is: auth.ErrExists, Status: http.StatusConflict},
		{Is: auth.ErrConflict, Status: http.StatusConflict, Hint: "read the record again and repeat the change"},
		{Is: auth.ErrInvalid, Status: http.StatusBadRequest},
		{
			Is: auth.ErrLastAdministrator, Status: http.StatusConflict,
			Hint: "make another user administrator first; on a node, root can always: `triward user create NAME --role administrator`",
		},
		{Is: auth.ErrLimit, Status: http.StatusUnprocessableEntity, Hint: "remove some that are no longer needed"},
		{Is: ErrBusy, Status: http.StatusTooManyRequests, RetryAfter: time.Second},
		{
			Is: ErrNoLeader, Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Code: problem.CodeNoQuorum,
			Hint: "the cluster has no majority at the moment; look at the nodes with `triward cluster status`",
		},
		{
			Is: ErrDiskFull, Status: http.StatusInsufficientStorage, RetryAfter: 30 * time.Second,
			Hint: "free space or add a disk; writing goes on by itself then",
		},
		{
			Is: syscall.ENOSPC, Status: http.StatusInsufficientStorage, RetryAfter: 30 * time.Second,
			Hint: "free space or add a disk; writing goes on by itself then",
		},
		{
			Is: context.DeadlineExceeded, Status: http.StatusGatewayTimeout,
			Hint: "ask for less, or for more time with ?timeout=",
		},
		{Is: context.Canceled, Status: http.StatusServiceUnavailable, RetryAfter: time.Second},
	}
}

// Sentinels for those who implement the interfaces of this package and have none of their own in Config.Errors.
var (
	// ErrBusy says that a queue is full.
	ErrBusy = errors.New("too much is in flight")
	// ErrNoLeader says that nothing can be committed at the moment.
	ErrNoLeader = errors.New("the cluster has no leader at the moment")
	// ErrDiskFull says that the disk is full.
	ErrDiskFull = errors.New("the disk is full")
)

// lagError says that a node did not reach the index in time.
type lagError struct {
	want, reached uint64
	err           error
}

func (e *lagError) Error() string {
	return fmt.Sprintf("this node did not reach index %d in time; it reached %d", e.want, e.reached)
}

func (e *lagError) Unwrap() error { return e.err }

// problemOf turns an error into its answer by the tables.
func (a *API) problemOf(err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	if q, ok := errors.AsType[*QueryError](err); ok {
		p := problem.Wrap(http.StatusBadRequest, err).WithHint(q.Hint)
		if q.Pos >= 0 {
			p = p.WithPos(q.Pos)
		}
		return p
	}
	if p := alertProblem(err); p != nil {
		return p
	}
	if p := agentConfigProblem(err); p != nil {
		return p
	}
	if tooBig, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem.New(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", tooBig.Limit))
	}
	if p := problem.ByRules(a.rules, err); p != nil {
		return p
	}
	p := problem.Wrap(http.StatusInternalServerError, err)
	p.Detail = "the node met an error that it has no name for; its log tells more under the request id"
	return p
}
