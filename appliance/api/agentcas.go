package api

import (
	"context"
	"net/http"

	"github.com/triward/triward/appliance/auth"
)

// AgentCAs are the CAs that sign the certificates of agents.
type AgentCAs interface {
	// AgentCAs lists those that are accepted; the first signs.
	AgentCAs() ([]AgentCA, error)
	// RotateAgentCA makes a new one that signs from now on and keeps the one before accepted.
	RotateAgentCA(ctx context.Context, by Operator) ([]AgentCA, error)
}

// AgentCA is one of them, without its key.
type AgentCA struct {
	Name      string `json:"name"`
	KeySHA256 string `json:"key_sha256"` // of its public key
	CreatedAt int64  `json:"created_at"` // log time, milliseconds since 1970
	Expires   int64  `json:"expires"`    // milliseconds since 1970
	Signs     bool   `json:"signs"`      // what is signed from now on it signs
}

type agentCAsAnswer struct {
	CAs []AgentCA `json:"cas"`
}

func agentCARoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/tls/agents", Permission: auth.Read, Summary: "The CAs whose certificates agents may show", Fresh: true,
			Answer: agentCAsAnswer{}, serve: func(a *API, q *request) error {
				list, err := a.cfg.AgentCAs.AgentCAs()
				if err != nil {
					return err
				}
				return q.answer(http.StatusOK, agentCAsAnswer{list})
			},
		},
		{
			Method: "POST", Path: "/v1/tls/agents/rotate", Permission: auth.Administer,
			Summary: "Make a new CA for agents; the one before stays accepted until its certificates are over",
			Answer:  agentCAsAnswer{}, serve: func(a *API, q *request) error {
				list, err := a.cfg.AgentCAs.RotateAgentCA(q.ctx(), Operator{Name: q.p.Actor(), Address: q.p.Address})
				if err != nil {
					return err
				}
				return q.answer(http.StatusOK, agentCAsAnswer{list})
			},
		},
	}
}
