package api

import (
	"encoding/json"
	"net/http"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/fleet"
)

// Route is one row of the table of routes.
type Route struct {
	Method     string
	Path       string // pattern of http.ServeMux without method
	Permission auth.Permission
	Summary    string
	Params     []Param
	Fresh      bool   // takes consistency, min_index and timeout
	Body       any    // a value of the type of the request's body; nil for none
	MaxBody    int64  // bytes; 64 KiB when 0
	Answer     any    // a value of the type of the answer; nil for none
	Status     int    // of success; 200 when 0
	Type       string // media type of the answer; JSON when ""
	Long       bool   // the answer is a stream that takes as long as it takes
	Operation  string // name in the description; made of method and path when ""
	Takes      string // media type of the body when Body is nil and the handler reads it itself; "" for none
	// Never429 answers 503 where others answer 429, which the senders of this route would not repeat.
	Never429 bool

	serve func(a *API, q *request) error
	mount func(a *API) http.Handler // a handler that reads its own parameters, for every path below Path
}

// SocketKinds is the permission of each kind of live subscription: part of the table of routes.
func SocketKinds() map[string]auth.Permission {
	return map[string]auth.Permission{
		"hosts":     auth.Read,
		"promql":    auth.Read,
		"logs.tail": auth.Read,
		"cluster":   auth.Read,
		"alerts":    auth.Read,
		"events":    auth.Read,
		"agents":    auth.Read,
	}
}

// freshParams are the parameters of every route that is Fresh; of a mounted one but the last, which is its own.
var freshParams = []Param{
	{
		Name: "consistency", Kind: paramChoice, Choices: []string{"stale", "session", "linearizable"},
		Doc: "how fresh the answer must be: whatever this node has, without asking others for what is damaged here, at least min_index (the default), or all that was committed before",
	},
	{Name: "min_index", Kind: paramInt, Min: 0, Max: 1<<63 - 1, Doc: "wait until this node has applied this index of the log"},
	{Name: "timeout", Kind: paramDuration, Min: 10, Max: 300_000, Doc: "longest time for the whole answer (30s)"},
}

var (
	logRange = []Param{
		{Name: "query", Kind: paramText, MaxLen: 16 << 10, Doc: "filter of lines; all when absent"},
		{Name: "start", Kind: paramTime, Default: "now-1h", Doc: "from this time on"},
		{Name: "end", Kind: paramTime, Default: "now", Doc: "before this time"},
	}
	limitParam = func(def, most int64) Param {
		return Param{Name: "limit", Kind: paramInt, Min: 1, Max: most, Default: itoa(def), Doc: "how many at most"}
	}
)

// Routes returns the table of routes.
func Routes() []Route {
	var all []Route
	all = append(all, sessionRoutes()...)
	all = append(all, dataRoutes()...)
	all = append(all, ofRooms(append(logRoutes(), patternRoutes()...))...)
	all = append(all, suggestRoutes()...)
	all = append(all, adminRoutes()...)
	all = append(all, eventRoutes()...)
	all = append(all, accessRoutes()...)
	all = append(all, auditRoutes()...)
	all = append(all, alertRoutes()...)
	all = append(all, snapshotRoutes()...)
	all = append(all, logArchiveRoutes()...)
	all = append(all, retentionRoutes()...)
	all = append(all, selectorRoutes()...)
	all = append(all, queueRoutes()...)
	all = append(all, repairRoutes()...)
	all = append(all, intakeRoutes()...)
	all = append(all, enrolRoutes()...)
	all = append(all, agentConfigRoutes()...)
	all = append(all, agentCARoutes()...)
	all = append(all, keyRoutes()...)
	all = append(all, integrityRoutes()...)
	all = append(all, membershipRoutes()...)
	all = append(all, upgradeRoutes()...)
	all = append(all, lokiRoutes()...)
	all = append(all, mountedRoutes()...)
	return all
}

func sessionRoutes() []Route {
	return []Route{
		{
			Method: "POST", Path: "/v1/login", Permission: auth.Public, Summary: "Open a session with user and password",
			Body: loginBody{}, MaxBody: 4 << 10, Answer: loginAnswer{}, serve: (*API).login,
		},
		{
			Method: "POST", Path: "/v1/logout", Permission: auth.SignedIn, Summary: "End the session everywhere",
			Status: http.StatusNoContent, serve: (*API).logout,
		},
		{
			Method: "GET", Path: "/v1/session", Permission: auth.SignedIn, Summary: "Who is logged in, and where",
			Answer: sessionAnswer{}, serve: (*API).session,
		},
		{
			Method: "POST", Path: "/v1/session/ticket", Permission: auth.SignedIn,
			Summary: "Make a ticket that opens a session on another member once within ten minutes",
			Answer:  ticketAnswer{}, serve: (*API).ticket,
		},
		{
			Method: "POST", Path: "/v1/session/resume", Permission: auth.Public, Summary: "Open a session with a ticket",
			Body: resumeBody{}, MaxBody: 4 << 10, Answer: loginAnswer{}, serve: (*API).resume,
		},
	}
}

func dataRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/hosts", Permission: auth.Read, Summary: "All hosts with their newest figures and sparklines",
			Fresh: true, Answer: hostsAnswer{}, serve: (*API).hosts,
		},
		{
			Method: "GET", Path: "/v1/agents", Permission: auth.Read, Summary: "All agents", Fresh: true,
			Answer: agentsAnswer{}, serve: (*API).agents,
		},
		{
			Method: "GET", Path: "/v1/agents/{id}", Permission: auth.Read, Summary: "One agent", Fresh: true,
			Answer: fleet.Agent{}, serve: (*API).agent,
		},
		{
			Method: "GET", Path: "/v1/agents/{id}/latest", Permission: auth.Read, Summary: "The newest values of an agent's series",
			Fresh: true, Params: []Param{{Name: "match", Kind: paramText, Doc: "beginning of the names"}, limitParam(1000, 20000)},
			Answer: latestAnswer{}, serve: (*API).latest,
		},
	}
}

func adminRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/cluster", Permission: auth.Read, Summary: "The nodes and their state",
			Answer: json.RawMessage{}, serve: (*API).cluster,
		},
		{
			Method: "GET", Path: "/v1/queue", Permission: auth.Read, Summary: "The log as a queue", Answer: json.RawMessage{},
			serve: (*API).queue,
		},
		{
			Method: "GET", Path: "/v1/digest", Permission: auth.Read, Summary: "Digests of this node's state", Fresh: true,
			Answer: json.RawMessage{}, serve: (*API).digest,
		},
		{
			Method: "POST", Path: "/v1/cluster/join", Permission: auth.Public,
			Summary: "Become a member with a join token", Body: JoinRequest{}, MaxBody: 64 << 10, Answer: JoinAnswer{},
			serve: (*API).join,
		},
		{
			Method: "GET", Path: "/v1/tokens/join", Permission: auth.Audit, Summary: "Tokens with which agents and nodes join",
			Fresh: true, Answer: joinTokensAnswer{}, serve: (*API).joinTokens,
		},
		{
			Method: "POST", Path: "/v1/tokens/join", Permission: auth.Administer, Summary: "Make a token with which agents or nodes join",
			Body: joinTokenBody{}, Answer: joinTokenAnswer{}, Status: http.StatusCreated, serve: (*API).createJoinToken,
		},
		{
			Method: "DELETE", Path: "/v1/tokens/join/{id}", Permission: auth.Administer, Summary: "End a join token",
			Status: http.StatusNoContent, serve: (*API).revokeJoinToken,
		},
		{
			Method: "GET", Path: "/v1/tokens/api", Permission: auth.Audit, Summary: "API tokens", Fresh: true,
			Answer: apiTokensAnswer{}, serve: (*API).apiTokens,
		},
		{
			Method: "POST", Path: "/v1/tokens/api", Permission: auth.Administer, Summary: "Make an API token",
			Body: apiTokenBody{}, Answer: apiTokenAnswer{}, Status: http.StatusCreated, serve: (*API).createAPIToken,
		},
		{
			Method: "DELETE", Path: "/v1/tokens/api/{id}", Permission: auth.Administer, Summary: "End an API token",
			Status: http.StatusNoContent, serve: (*API).revokeAPIToken,
		},
		{
			Method: "GET", Path: "/v1/users", Permission: auth.Audit, Summary: "Users", Fresh: true, Answer: usersAnswer{},
			serve: (*API).users,
		},
		{
			Method: "POST", Path: "/v1/users", Permission: auth.Administer, Summary: "Add a user", Body: userBody{},
			MaxBody: 4 << 10, Status: http.StatusNoContent, serve: (*API).createUser,
		},
		{
			Method: "PATCH", Path: "/v1/users/{name}", Permission: auth.Administer, Summary: "Change a user's role or password, or keep them out",
			Body: userChange{}, MaxBody: 4 << 10, Status: http.StatusNoContent, serve: (*API).changeUser,
		},
		{
			Method: "DELETE", Path: "/v1/users/{name}", Permission: auth.Administer, Summary: "Remove a user and end their sessions",
			Status: http.StatusNoContent, serve: (*API).deleteUser,
		},
	}
}

func mountedRoutes() []Route {
	prometheus := func(a *API) http.Handler { return a.cfg.Prometheus }
	return []Route{
		{
			Method: "GET", Path: "/v1/openapi.json", Permission: auth.Public, Summary: "This description", Answer: json.RawMessage{},
			serve: (*API).openapi,
		},
		{
			Method: "GET", Path: "/v1/live", Permission: auth.SignedIn, Summary: "The live websocket, subprotocol triward.v1.json",
			Status: http.StatusSwitchingProtocols, mount: func(a *API) http.Handler { return a.cfg.Live },
		},
		{
			Method: "GET", Path: "/api/v1/", Permission: auth.Read, Summary: "The HTTP API of Prometheus", Fresh: true,
			mount: prometheus,
		},
		{
			Method: "POST", Path: "/api/v1/", Permission: auth.Read,
			Summary: "The HTTP API of Prometheus, parameters as a form; consistency and min_index in the URL", Fresh: true,
			MaxBody: 1 << 20, mount: prometheus,
		},
		{
			Method: "GET", Path: "/metrics", Permission: auth.Read, Summary: "Metrics of this node", Type: "text/plain",
			mount: func(a *API) http.Handler { return a.cfg.Metrics },
		},
		{
			Method: "GET", Path: "/-/healthy", Permission: auth.Public, Summary: "Whether the process works",
			Answer: healthAnswer{}, serve: (*API).healthy,
		},
		{
			Method: "GET", Path: "/-/ready", Permission: auth.Public, Summary: "Whether this node can answer and take data",
			Answer: healthAnswer{}, serve: (*API).ready,
		},
		{
			Method: "GET", Path: "/ready", Permission: auth.Public, Summary: "The same for clients of Loki",
			Operation: "getLokiReady",
			Answer:    healthAnswer{}, serve: (*API).ready,
		},
		{
			Method: "GET", Path: "/", Permission: auth.Public, Summary: "The page", Type: "text/html",
			mount: func(a *API) http.Handler { return a.cfg.Assets },
		},
	}
}

func with(params []Param, more ...Param) []Param {
	return append(append([]Param(nil), params...), more...)
}
