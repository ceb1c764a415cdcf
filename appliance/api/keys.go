package api

import (
	"context"
	"net/http"

	"github.com/triward/triward/appliance/auth"
)

// Keys rotates the key that seals the cluster's secrets.
type Keys interface {
	// RotateKey makes a new key, has every member take it, and seals everything with it.
	RotateKey(ctx context.Context, by Operator) (RotatedKey, error)
}

// Operator is who asks for a change, for the audit log.
type Operator struct{ Name, Address string }

// RotatedKey says what a rotation did.
type RotatedKey struct {
	Key      string `json:"key"`      // name of the key that seals now
	Resealed int    `json:"resealed"` // values that were sealed anew
	Warning  string `json:"warning,omitempty"`
}

func keyRoutes() []Route {
	return []Route{{
		Method: "POST", Path: "/v1/keys/rotate", Permission: auth.Administer, Long: true,
		Summary: "Make a new key that seals the cluster's secrets, and seal them anew; every node must be up",
		Answer:  RotatedKey{}, serve: (*API).rotateKey,
	}}
}

func (a *API) rotateKey(q *request) error {
	done, err := a.cfg.Keys.RotateKey(q.ctx(), Operator{Name: q.p.Name, Address: auth.RemoteAddr(q.r).String()})
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, done)
}
