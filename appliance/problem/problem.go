// Package problem writes the error answers of every HTTP listener of the appliance as problem documents
// (RFC 9457). It owns the form and the table from error to status; it knows no route. It imports nothing of
// Triward but the errors it translates.
package problem

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Problem is an error with all that an HTTP client and its operator need to know. It is an error itself, so
// that it can be returned up to the one place that writes it.
type Problem struct {
	Type   string `json:"type"` // always about:blank: the title says it all
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"` // what is wrong, and where
	Hint   string `json:"hint,omitempty"`   // what to do about it
	Code   string `json:"code,omitempty"`   // tells apart, for programs, what has one status
	// Pos is the byte offset in a query at which it went wrong.
	Pos *int `json:"pos,omitempty"`
	// RetryAfter, when positive, is sent as the header of that name in whole seconds, rounded up.
	RetryAfter time.Duration `json:"-"`

	err error
}

// CodeNoQuorum says that too few nodes are up to decide anything.
const CodeNoQuorum = "no_quorum"

// New makes a problem with the given status; title is the text of the status.
func New(status int, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// Wrap makes a problem of err, keeping it for errors.Is.
func Wrap(status int, err error) *Problem {
	p := New(status, err.Error())
	p.err = err
	return p
}

// WithHint sets the remedy and returns p.
func (p *Problem) WithHint(hint string) *Problem {
	p.Hint = hint
	return p
}

// WithPos sets the byte offset in a query and returns p.
func (p *Problem) WithPos(pos int) *Problem {
	p.Pos = &pos
	return p
}

// WithRetryAfter sets when to try again and returns p.
func (p *Problem) WithRetryAfter(d time.Duration) *Problem {
	p.RetryAfter = d
	return p
}

// Error returns title and detail.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// Unwrap returns the error that Wrap was given.
func (p *Problem) Unwrap() error { return p.err }

// Write sends the problem. It must come before anything else of the answer.
func (p *Problem) Write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone: nobody is left to tell
}

// From returns err as a problem: the one in its chain, else an internal error that names it.
func From(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	return Wrap(http.StatusInternalServerError, err)
}

// Rule says how an error is answered.
type Rule struct {
	Is         error
	Status     int
	Hint       string
	Code       string
	RetryAfter time.Duration
	// Hide keeps the error's text from the client.
	Hide bool
}

// ByRules returns err as the first rule that fits answers it, nil when none does.
func ByRules(rules []Rule, err error) *Problem {
	for _, rule := range rules {
		if !errors.Is(err, rule.Is) {
			continue
		}
		p := Wrap(rule.Status, err).WithHint(rule.Hint).WithRetryAfter(rule.RetryAfter)
		p.Code = rule.Code
		if rule.Hide {
			p.Detail = ""
		}
		return p
	}
	return nil
}
