package api

import (
	"net/http"

	"github.com/triward/triward/appliance/auth"
)

// enrolRoutes are what an operator does with the identity of agents.
func enrolRoutes() []Route {
	return []Route{{
		Method: "POST", Path: "/v1/agents/{id}/revoke", Permission: auth.Administer,
		Summary: "Take an agent's access away for good; its connections end within five seconds",
		Status:  http.StatusNoContent, serve: (*API).revokeAgent,
	}}
}

func (a *API) revokeAgent(q *request) error {
	id := q.r.PathValue("id")
	if _, known := a.cfg.Fleet.Agent(id); !known {
		return noAgent(q)
	}
	return q.done(a.cfg.Auth.RevokeAgent(q.ctx(), id, q.p.Actor(), auth.RemoteAddr(q.r)))
}
