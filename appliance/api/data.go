package api

import (
	"encoding/json"
	"net/http"

	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/appliance/problem"
)

type hostsAnswer struct {
	At    int64             `json:"at"` // log time, ms
	Hosts []json.RawMessage `json:"hosts"`
}

type agentsAnswer struct {
	At     int64         `json:"at"`
	Agents []fleet.Agent `json:"agents"`
}

type latestAnswer struct {
	At      int64          `json:"at"`
	Samples []fleet.Sample `json:"samples"`
	More    bool           `json:"more"` // there are others beyond the limit
}

func (a *API) hosts(q *request) error {
	at, rows := a.cfg.Fleet.Hosts()
	out := hostsAnswer{At: at, Hosts: make([]json.RawMessage, len(rows))}
	for i := range rows {
		out.Hosts[i] = rows[i].AppendJSON(nil, true)
	}
	return q.answer(http.StatusOK, out)
}

func (a *API) agents(q *request) error {
	agents := a.cfg.Fleet.Agents()
	if agents == nil {
		agents = []fleet.Agent{}
	}
	return q.answer(http.StatusOK, agentsAnswer{At: q.now.UnixMilli(), Agents: agents})
}

func (a *API) agent(q *request) error {
	agent, ok := a.cfg.Fleet.Agent(q.r.PathValue("id"))
	if !ok {
		return noAgent(q)
	}
	return q.answer(http.StatusOK, agent)
}

func noAgent(q *request) error {
	return problem.New(http.StatusNotFound, "there is no agent "+clip(q.r.PathValue("id"), 64)).
		WithHint("list them with GET /v1/agents")
}

func (a *API) latest(q *request) error {
	id := q.r.PathValue("id")
	samples, more, ok := a.cfg.Fleet.Latest(id, q.v.str("match"), int(q.v.int("limit")))
	if !ok {
		if _, known := a.cfg.Fleet.Agent(id); !known {
			return noAgent(q)
		}
	}
	if samples == nil {
		samples = []fleet.Sample{}
	}
	return q.answer(http.StatusOK, latestAnswer{At: q.now.UnixMilli(), Samples: samples, More: more})
}
