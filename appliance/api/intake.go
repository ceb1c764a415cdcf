package api

import (
	"encoding/json"
	"net/http"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

// Intake takes what senders push that know nothing of Triward. Its methods read the body themselves and answer with
// success only when all of it is committed; their errors are problems or those of the log.
type Intake interface {
	RemoteWrite(w http.ResponseWriter, r *http.Request) error
	LokiPush(w http.ResponseWriter, r *http.Request) error
	Metrics(w http.ResponseWriter, r *http.Request) error
	Logs(w http.ResponseWriter, r *http.Request) error
	Events(w http.ResponseWriter, r *http.Request) error
}

const (
	remoteWritePath = "/api/v1/write"
	maxIntakeBody   = 4 << 20
)

// pushedMessage is an element of the lists of metrics, lines and events.
type pushedMessage struct {
	Type      string          `json:"type,omitempty"` // metric, log or event
	AgentID   string          `json:"agent_id"`
	Timestamp json.RawMessage `json:"timestamp"` // seconds, ms, µs or ns since 1970, or RFC 3339
	Data      pushedData      `json:"data"`
}

type pushedData struct {
	Name  string                     `json:"name"`
	Value json.RawMessage            `json:"value"` // a number for metrics, else a text
	Tags  map[string]json.RawMessage `json:"tags,omitempty"`
}

func intakeRoutes() []Route {
	return []Route{
		{
			Method: "POST", Path: remoteWritePath, Permission: auth.Ingest, Summary: "Prometheus remote write 1.0",
			Takes: "application/x-protobuf", MaxBody: maxIntakeBody, Status: http.StatusNoContent, Never429: true,
			serve: taken(Intake.RemoteWrite),
		},
		{
			Method: "POST", Path: "/loki/api/v1/push", Permission: auth.Ingest, Summary: "Loki push, protobuf or JSON",
			Takes: "application/x-protobuf", MaxBody: maxIntakeBody, Status: http.StatusNoContent, serve: taken(Intake.LokiPush),
		},
		{
			Method: "POST", Path: "/monitor/metrics", Permission: auth.Ingest, Summary: "A list of metrics",
			Body: []pushedMessage{}, MaxBody: maxIntakeBody, Status: http.StatusNoContent, serve: taken(Intake.Metrics),
		},
		{
			Method: "POST", Path: "/monitor/logs", Permission: auth.Ingest, Summary: "A list of lines",
			Body: []pushedMessage{}, MaxBody: maxIntakeBody, Status: http.StatusNoContent, serve: taken(Intake.Logs),
		},
		{
			Method: "POST", Path: "/monitor/events", Permission: auth.Ingest, Summary: "A list of events",
			Body: []pushedMessage{}, MaxBody: maxIntakeBody, Status: http.StatusNoContent, serve: taken(Intake.Events),
		},
	}
}

// taken hands a request to the intake.
func taken(take func(Intake, http.ResponseWriter, *http.Request) error) func(*API, *request) error {
	return func(a *API, q *request) error {
		if a.cfg.Intake == nil {
			return problem.New(http.StatusNotFound, "this node does not serve "+clip(q.r.URL.Path, 200))
		}
		return take(a.cfg.Intake, q.w, q.r)
	}
}

// unavailable turns an error that would be answered 429 into a 503: Prometheus gives up what is answered 429 unless it
// was told otherwise, and repeats what is answered 503.
func (a *API) unavailable(err error) error {
	p := a.problemOf(err)
	if p.Status != http.StatusTooManyRequests {
		return err
	}
	return problem.Wrap(http.StatusServiceUnavailable, err).WithHint(p.Hint).WithRetryAfter(p.RetryAfter)
}
