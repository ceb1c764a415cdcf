package auth

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Actor is how the audit log names whoever makes the request. Names of users have no spaces, so no token can be named
// as to be taken for one, nor for a node.
func (p Principal) Actor() string {
	switch {
	case p.Kind == KindNode:
		return "node " + p.Name
	case p.Kind == KindToken && p.Node != "":
		return "node " + p.Node
	case p.Kind == KindToken && p.Owner.Name != "":
		return fmt.Sprintf("%s (token %s %s)", p.Owner.Name, p.Name, shortKey(p.Key))
	case p.Kind == KindToken:
		return fmt.Sprintf("token %s %s", p.Name, shortKey(p.Key))
	}
	return p.Name
}

func shortKey(key string) string { return key[:min(len(key), idLen)] }

// did is the audit record of something that p did. detail is nil or a value that encodes to JSON.
func (p Principal) did(action, target string, detail any) []AuditRecord {
	r := AuditRecord{Actor: p.Actor(), Address: p.Address, Action: action, Target: target}
	if detail != nil {
		r.Detail = encode(detail)
	}
	return []AuditRecord{r}
}

// change is the detail of an audit record: what was before and what is after.
type change struct {
	Before map[string]any `json:"before,omitempty"`
	After  map[string]any `json:"after,omitempty"`
}

// refusalEvery is how often the same refusal of the same actor is noted again.
const refusalEvery = 10 * time.Minute

// notesAtOnce is how many notes may wait to be committed.
const notesAtOnce = 8

// notes are the audit records of what strangers can cause as often as they like: failed logins and refused requests.
// They are bounded, so that nobody can push the rest of the log out with them; a record tells how many there were that
// have none of their own.
type notes struct {
	mu      sync.Mutex
	allowed *rate.Limiter
	left    int // how many were passed over since the last record
	waiting int
}

func newNotes(every time.Duration, burst int) *notes {
	return &notes{allowed: rate.NewLimiter(rate.Every(every), burst)}
}

// begin reports whether there may be a record, and how many went without before it.
func (n *notes) begin() (passed int, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiting >= notesAtOnce || !n.allowed.Allow() {
		n.left++
		return 0, false
	}
	passed, n.left = n.left, 0
	n.waiting++
	return passed, true
}

// end gives the place back; what was passed over counts on when the record was not written.
func (n *notes) end(passed int, written bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting--
	if !written {
		n.left += passed + 1
	}
}

// noteDetail is the detail of a bounded record.
type noteDetail struct {
	Reason string `json:"reason"`
	// Unrecorded is how many of its kind this node had since its last record without writing one.
	Unrecorded int `json:"unrecorded,omitempty"`
}

// note writes a bounded audit record in the background. Whoever was refused does not wait for it.
func (s *Service) note(r AuditRecord, reason string) {
	passed, ok := s.bounded.begin()
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.bounded.end(passed, false)
		return
	}
	r.Detail = encode(noteDetail{reason, passed})
	s.renewals.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
		defer cancel()
		_, err := s.meta.Commit(ctx, Txn{Audit: []AuditRecord{r}})
		if err != nil {
			s.log.Warn("a refusal is not in the audit log", "action", r.Action, "err", err)
		}
		s.bounded.end(passed, err == nil)
	})
}

// failed notes a login that was refused. The name of an account that there is not is left out: people type their
// password there.
func (s *Service) failed(name string, from netip.Addr, u userRecord, reason string) {
	if u.Name == "" {
		if u, _, _ = s.user(name); u.Name == "" {
			name = ""
		}
	}
	s.note(AuditRecord{Actor: name, Address: addressText(from), Action: "session.refused", Target: name}, reason)
}

// Refused notes that somebody who is known asked for what their role does not allow. what names the request, such as
// its method and route.
func (s *Service) Refused(p Principal, what string) {
	if !s.refusals.allow(p.Actor() + "\x00" + what) {
		return
	}
	s.note(AuditRecord{Actor: p.Actor(), Address: p.Address, Action: "request.refused", Target: what}, "the role "+string(p.Role)+" does not allow this")
}
