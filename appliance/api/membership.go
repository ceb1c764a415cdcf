package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

// Membership changes who is a member and who votes. What would endanger the majority is refused with the reason, and
// nothing was changed then. One change is made at a time.
type Membership interface {
	// TransferLeader has the voter named lead, or any when to is "".
	TransferLeader(ctx context.Context, to string, by Operator) (MemberChange, error)
	// RemoveMember takes a node out for good; when it leads another takes over first.
	RemoveMember(ctx context.Context, id string, by Operator) (MemberChange, error)
	// SetReadOnly takes a member's vote away, or lets it have one as soon as it has caught up.
	SetReadOnly(ctx context.Context, id string, readOnly bool, by Operator) (MemberChange, error)
}

// MemberChange says how the cluster is after a change of its members.
type MemberChange struct {
	Node      string `json:"node"`
	Leader    string `json:"leader"`
	Voters    int    `json:"voters"`
	Tolerates int    `json:"tolerates"` // of these may fail at once
	// Note says what this number of voters costs, where an operator might think otherwise.
	Note string `json:"note,omitempty"`
	// Pending says why what was asked for is not done yet; it is done by itself.
	Pending string `json:"pending,omitempty"`
}

// Counted returns the change with what its number of voters means.
func (m MemberChange) Counted() MemberChange {
	m.Tolerates = max(0, (m.Voters-1)/2)
	switch {
	case m.Voters == 1:
		m.Note = "one voter: when it is down nothing is taken, and when its disk is lost so is the data. Add nodes until there are three"
	case m.Voters == 2:
		m.Note = "two voters: both are needed, so that either being down stops the cluster. It is a step on the way to three"
	case m.Voters%2 == 0:
		m.Note = fmt.Sprintf("%d voters bear no more failures than %d: each write waits for %d of them", m.Voters, m.Voters-1, m.Voters/2+1)
	}
	return m
}

type transferBody struct {
	To string `json:"to,omitempty"` // a voter; any when absent
}

func membershipRoutes() []Route {
	change := func(do func(a *API, q *request, id string) (MemberChange, error)) func(*API, *request) error {
		return func(a *API, q *request) error {
			id := q.r.PathValue("id")
			if !nodeID.MatchString(id) {
				return problem.New(http.StatusBadRequest, "the node in the path: want 1 to 63 of letters, digits, . _ -")
			}
			done, err := do(a, q, id)
			if err != nil {
				return err
			}
			return q.answer(http.StatusOK, done)
		}
	}
	setReadOnly := func(readOnly bool) func(*API, *request) error {
		return change(func(a *API, q *request, id string) (MemberChange, error) {
			return a.cfg.Membership.SetReadOnly(q.ctx(), id, readOnly, q.operator())
		})
	}
	return []Route{
		{
			Method: "POST", Path: "/v1/cluster/transfer-leader", Permission: auth.Administer, Long: true,
			Summary: "Have another voter lead", Body: transferBody{}, MaxBody: 4 << 10, Answer: MemberChange{}, serve: (*API).transferLeader,
		},
		{
			Method: "POST", Path: "/v1/cluster/nodes/{id}/remove", Permission: auth.Administer, Long: true,
			Summary: "Take a node out for good; refused with the reason when the rest would be no majority", Answer: MemberChange{},
			serve: change(func(a *API, q *request, id string) (MemberChange, error) {
				return a.cfg.Membership.RemoveMember(q.ctx(), id, q.operator())
			}),
		},
		{
			Method: "POST", Path: "/v1/cluster/nodes/{id}/promote", Permission: auth.Administer, Long: true,
			Summary: "Let a read-only node have a vote as soon as it has caught up", Answer: MemberChange{}, serve: setReadOnly(false),
		},
		{
			Method: "POST", Path: "/v1/cluster/nodes/{id}/demote", Permission: auth.Administer, Long: true,
			Summary: "Take a node's vote away: it goes on receiving everything and answering reads", Answer: MemberChange{}, serve: setReadOnly(true),
		},
	}
}

func (q *request) operator() Operator { return Operator{Name: q.p.Actor(), Address: q.p.Address} }

func (a *API) transferLeader(q *request) error {
	var b transferBody
	if err := q.body(&b); err != nil {
		return err
	}
	if b.To != "" && !nodeID.MatchString(b.To) {
		return problem.New(http.StatusBadRequest, "to: want 1 to 63 of letters, digits, . _ -")
	}
	done, err := a.cfg.Membership.TransferLeader(q.ctx(), b.To, q.operator())
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, done)
}
