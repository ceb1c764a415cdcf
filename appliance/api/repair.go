package api

import (
	"context"
	"net/http"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

// Repairs takes the orders of operators about damaged nodes.
type Repairs interface {
	// OrderRepair has node take its state from another one that is whole, also while the same data is damaged on a
	// majority. It is carried out when node is damaged and comes to it, and audited when it is given.
	OrderRepair(ctx context.Context, node, from string, by auth.AuditRecord) error
	// OrderRecheck has node read again what it calls damaged, and let go of what is not. It is audited when it is given.
	OrderRecheck(ctx context.Context, node string, by auth.AuditRecord) error
	// LookForDamage has the node that is asked read all it keeps, as it does by itself from time to time. It returns at
	// once; the state of the search is in the answer of /v1/cluster/integrity.
	LookForDamage(ctx context.Context, by auth.AuditRecord) error
}

type repairBody struct {
	Node string `json:"node"`
	From string `json:"from,omitempty"`
	// Recheck has the node read again what it calls damaged, in place of From.
	Recheck bool `json:"recheck,omitempty"`
}

func repairRoutes() []Route {
	return []Route{
		{
			Method: "POST", Path: "/v1/cluster/repair", Permission: auth.Administer,
			Summary: "Have a damaged node take its data from a node that an operator names, or read again what it calls damaged", Body: repairBody{},
			MaxBody: 4 << 10, Status: http.StatusNoContent, serve: (*API).orderRepair,
		},
		{
			Method: "POST", Path: "/v1/cluster/scrub", Permission: auth.Operate, Status: http.StatusAccepted,
			Summary: "Have this node look for damage in all that it keeps, now", serve: (*API).lookForDamage,
		},
	}
}

func (a *API) lookForDamage(q *request) error {
	if err := a.cfg.Repairs.LookForDamage(q.ctx(), q.audit()); err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

func (a *API) orderRepair(q *request) error {
	var b repairBody
	if err := q.body(&b); err != nil {
		return err
	}
	if b.Recheck {
		if b.From != "" {
			return problem.New(http.StatusBadRequest, "from and recheck exclude one another").WithHint("read again first; name a node when it is still damaged")
		}
		return q.done(a.cfg.Repairs.OrderRecheck(q.ctx(), b.Node, q.audit()))
	}
	return q.done(a.cfg.Repairs.OrderRepair(q.ctx(), b.Node, b.From, q.audit()))
}
