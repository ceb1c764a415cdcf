package api

import (
	"context"
	"net/http"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/retention"
)

// Retention knows how long data is kept and what was removed.
type Retention interface {
	// Overview asks all voters for their disks, at most a second. history bounds the cuts it lists.
	Overview(ctx context.Context, history int) RetentionView
	// Set makes the policy that of the cluster; nil gives it back to the configuration. A version that is not nil must
	// be that of the policy in effect.
	Set(ctx context.Context, p *retention.Policy, version *uint64, by auth.AuditRecord) error
	Selectors
}

// RetentionView is what is kept, where, and what was removed.
type RetentionView struct {
	Policy   retention.Policy `json:"policy"`
	Version  uint64           `json:"version"` // index at which it was set; 0 while that of the configuration holds
	By       string           `json:"by,omitempty"`
	At       int64            `json:"at,omitempty"` // ms
	Defaults retention.Policy `json:"defaults"`     // of this node's configuration
	Kinds    []RetentionKind  `json:"kinds"`
	Nodes    []RetentionNode  `json:"nodes"`
	History  []RetentionCut   `json:"history"` // the newest first
	// Selectors are the rules for single streams, and those that were taken away and whose cuts are remembered still.
	Selectors []RetentionSelector `json:"selectors"`
}

// RetentionKind is what there is of a kind. Times are milliseconds since 1970.
type RetentionKind struct {
	Kind   string `json:"kind"`
	Items  uint64 `json:"items"`
	Oldest int64  `json:"oldest"` // the day of the oldest; 0 when there is none
	Floor  int64  `json:"floor"`  // all before was removed; 0 when nothing was
}

// RetentionNode is the disk of a voter, in bytes.
type RetentionNode struct {
	Node  string `json:"node"`
	State string `json:"state"` // ok, warning, cutting, stuck or unknown
	Why   string `json:"why,omitempty"`
	Total int64  `json:"total"`
	Free  int64  `json:"free"`
	// Room is what the percentages of the policy are of: Total without what always stays free.
	Room      int64            `json:"room"`
	UsedPct   float64          `json:"used_pct"` // of Room
	Kinds     map[string]int64 `json:"kinds"`
	Queue     int64            `json:"queue"`
	Meta      int64            `json:"meta"`
	Temporary int64            `json:"temporary"`
	Foreign   int64            `json:"foreign"`             // files that are not Triward's
	Pending   bool             `json:"pending,omitempty"`   // what was cut is being deleted
	PerDay    int64            `json:"per_day"`             // what comes in a day, by the last whole days
	DaysLeft  *int             `json:"days_left,omitempty"` // until the limit; absent when it is not reached or not known
}

// RetentionCut is something that retention removed. Times are milliseconds since 1970.
type RetentionCut struct {
	Kind   string `json:"kind"`
	From   int64  `json:"from"` // 0: the beginning, or the cut before it is forgotten
	To     int64  `json:"to"`
	Reason string `json:"reason"` // age, size or operator
	At     int64  `json:"at"`
	Index  uint64 `json:"index"`
}

type retentionBody struct {
	retention.Policy
	// Version is that of the policy which the change is based on: when it is not in effect any more, 409.
	Version *uint64 `json:"version,omitempty"`
}

func retentionRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/retention", Permission: auth.Read, Fresh: true,
			Summary: "How long data is kept, the disks of the nodes, and what was removed",
			Params:  []Param{limitParam(50, 1000)}, Answer: RetentionView{}, serve: (*API).retention,
		},
		{
			Method: "PUT", Path: "/v1/retention", Permission: auth.Administer, Summary: "Set how long data is kept", Body: retentionBody{},
			MaxBody: 4 << 10, Status: http.StatusNoContent, serve: (*API).setRetention,
		},
		{
			Method: "DELETE", Path: "/v1/retention", Permission: auth.Administer,
			Summary: "Give retention back to the configuration of the nodes", Status: http.StatusNoContent, serve: (*API).resetRetention,
		},
	}
}

func (q *request) audit() auth.AuditRecord {
	return auth.AuditRecord{Actor: q.p.Actor(), Address: q.p.Address}
}

func (a *API) retention(q *request) error {
	return q.answer(http.StatusOK, a.cfg.Retention.Overview(q.ctx(), int(q.v.int("limit"))))
}

func (a *API) setRetention(q *request) error {
	var b retentionBody
	if err := q.body(&b); err != nil {
		return err
	}
	return q.done(a.cfg.Retention.Set(q.ctx(), &b.Policy, b.Version, q.audit()))
}

func (a *API) resetRetention(q *request) error {
	return q.done(a.cfg.Retention.Set(q.ctx(), nil, nil, q.audit()))
}
