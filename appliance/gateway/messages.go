package gateway

import (
	"net/http"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/intake"
	"github.com/triward/triward/appliance/problem"
)

// Intake takes lists of messages in JSON. Its methods read the body themselves and answer with success only when all
// of it is committed.
type Intake interface {
	AgentMetrics(w http.ResponseWriter, r *http.Request, from intake.Agent) error
	AgentLogs(w http.ResponseWriter, r *http.Request, from intake.Agent) error
	AgentEvents(w http.ResponseWriter, r *http.Request, from intake.Agent) error
}

// messageRoutes adds the lists of metrics, lines and events that programs send with the certificate of the agent on
// their host.
func (g *Gateway) messageRoutes(mux *http.ServeMux) {
	for path, take := range map[string]func(Intake, http.ResponseWriter, *http.Request, intake.Agent) error{
		"/monitor/metrics": Intake.AgentMetrics,
		"/monitor/logs":    Intake.AgentLogs,
		"/monitor/events":  Intake.AgentEvents,
	} {
		mux.HandleFunc("POST "+path, g.handle("messages", g.asAgent(bodyCost{intake.MaxBody, 1}, func(w http.ResponseWriter, r *http.Request, agent *auth.Agent) error {
			if g.opts.Intake == nil {
				return problem.New(http.StatusNotFound, "this node does not serve "+path)
			}
			r.Body = http.MaxBytesReader(w, r.Body, intake.MaxBody)
			return take(g.opts.Intake, w, r, intake.Agent{ID: agent.ID, Hostname: agent.Hostname})
		})))
	}
}
