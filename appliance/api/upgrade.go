package api

import (
	"context"
	"net/http"

	"github.com/triward/triward/appliance/auth"
)

// Upgrades knows which formats the members' programs have and raises the cluster's.
type Upgrades interface {
	// UpgradeStatus asks every member.
	UpgradeStatus(ctx context.Context) (UpgradeStatus, error)
	// FinalizeUpgrade raises the cluster's format to the greatest that every member knows. It is refused, naming the node,
	// while one does not answer or knows less than another. There is no way back.
	FinalizeUpgrade(ctx context.Context, by Operator) (UpgradeStatus, error)
}

// UpgradeStatus says how far a rolling upgrade is.
type UpgradeStatus struct {
	Format uint32 `json:"format"` // of the cluster's state: what older programs than this do not read
	Target uint32 `json:"target"` // that finalizing would raise it to; equal to Format when there is nothing to do
	// Blocked says why it cannot be raised now although a member knows a greater one.
	Blocked string        `json:"blocked,omitempty"`
	Nodes   []UpgradeNode `json:"nodes"`
}

// UpgradeNode is a member, with a vote or without.
type UpgradeNode struct {
	ID      string `json:"id"`
	Version string `json:"version"`
	Format  uint32 `json:"format"` // the greatest that its program applies; 0: it does not answer
}

func upgradeRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/upgrade", Permission: auth.Read, Summary: "Versions and formats of the members during a rolling upgrade",
			Answer: UpgradeStatus{}, serve: func(a *API, q *request) error {
				st, err := a.cfg.Upgrades.UpgradeStatus(q.ctx())
				if err != nil {
					return err
				}
				return q.answer(http.StatusOK, st)
			},
		},
		{
			Method: "POST", Path: "/v1/upgrade/finalize", Permission: auth.Administer,
			Summary: "Raise the cluster's format to what every member knows; there is no way back to older versions after it",
			Answer:  UpgradeStatus{}, serve: func(a *API, q *request) error {
				st, err := a.cfg.Upgrades.FinalizeUpgrade(q.ctx(), q.operator())
				if err != nil {
					return err
				}
				return q.answer(http.StatusOK, st)
			},
		},
	}
}
