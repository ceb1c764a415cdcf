package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/scrub"
	"github.com/triward/triward/raftstate/command"
)

// Integrity knows whether what the nodes keep is whole and the same.
type Integrity interface {
	// Integrity asks all nodes, at most a second.
	Integrity(ctx context.Context) IntegrityView
	// Verify begins to compare the nodes. It fails while a comparison runs here.
	Verify(ctx context.Context, r VerifyRequest, by auth.AuditRecord) (Verification, error)
	// Verification is the comparison that this node makes or made last; false when it is another one's or there is none.
	Verification(name string) (Verification, bool)
}

// IntegrityView is what is known of all nodes.
type IntegrityView struct {
	Last  *Verification   `json:"last,omitempty"` // the last comparison that ended, made by any node
	Nodes []IntegrityNode `json:"nodes"`
}

// IntegrityNode is what a node says of its own search for damage.
type IntegrityNode struct {
	Node  string `json:"node"`
	Error string `json:"error,omitempty"` // it did not answer
	scrub.Status
}

// VerifyRequest says what is compared. Times are milliseconds since 1970, 0: no bound.
type VerifyRequest struct {
	Deep  bool     `json:"deep,omitempty"`  // every node reads what it stores of the kinds and days, too
	Kinds []string `json:"kinds,omitempty"` // metrics, logs, events; all when absent
	From  int64    `json:"from,omitempty"`
	To    int64    `json:"to,omitempty"`
}

// KindList are the kinds of the request, nil for all.
func (r *VerifyRequest) KindList() ([]command.Kind, error) {
	var out []command.Kind
	for _, name := range r.Kinds {
		found := false
		for _, k := range command.Kinds {
			if k.String() == name {
				out, found = append(out, k), true
			}
		}
		if !found {
			return nil, problem.New(http.StatusBadRequest, fmt.Sprintf("kind %.40q: want metrics, logs or events", name))
		}
	}
	if r.From < 0 || r.To < 0 || r.To != 0 && r.From >= r.To {
		return nil, problem.New(http.StatusBadRequest, "from and to: want a span of time, from before to")
	}
	return out, nil
}

// Verdicts of a comparison.
const (
	VerifyRunning    = "running"
	VerifyEqual      = "equal"
	VerifyDiffers    = "differs"
	VerifyIncomplete = "incomplete" // what could be compared is equal; the rest is named
)

// Verification is a comparison of the nodes at one index of the log.
type Verification struct {
	Name    string        `json:"name"`
	Request VerifyRequest `json:"request"`
	By      string        `json:"by"`
	Node    string        `json:"node"` // that makes it
	Began   int64         `json:"began"`
	Ended   int64         `json:"ended,omitempty"`
	Verdict string        `json:"verdict"`
	Index   uint64        `json:"index,omitempty"` // at which the nodes were compared
	LogTime int64         `json:"log_time,omitempty"`
	// Digest is over the running digests of all kinds and days, State the SHA-256 of the deciding state, where all agree.
	Digest string `json:"digest,omitempty"`
	State  string `json:"state,omitempty"`
	// Days are the kinds and days compared, Items what they hold.
	Days        int                `json:"days"`
	Items       uint64             `json:"items"`
	Nodes       []VerifiedNode     `json:"nodes"`
	Differences []scrub.Difference `json:"differences"`
	Notes       []string           `json:"notes,omitempty"`
}

// VerifiedNode is what a node contributed.
type VerifiedNode struct {
	Node     string      `json:"node"`
	Answered bool        `json:"answered"`
	Error    string      `json:"error,omitempty"`
	Done     int         `json:"done,omitempty"` // days that it has read, of All
	All      int         `json:"all,omitempty"`
	Doing    string      `json:"doing,omitempty"` // what it reads: state, log, files/metrics, files/logs or days
	Read     int64       `json:"read,omitempty"`  // bytes
	Equal    int         `json:"equal,omitempty"` // kinds and days whose store holds what was accepted
	Days     []scrub.Day `json:"days,omitempty"`  // the others
}

func integrityRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/cluster/integrity", Permission: auth.Read,
			Summary: "When the nodes were compared last, and what each node's search for damage found",
			Answer:  IntegrityView{}, serve: (*API).integrity,
		},
		{
			Method: "POST", Path: "/v1/cluster/verify", Permission: auth.Operate, Status: http.StatusAccepted,
			Summary: "Compare what the nodes hold at one index of the log", Body: VerifyRequest{}, MaxBody: 4 << 10, Answer: Verification{},
			serve: (*API).verify,
		},
		{
			Method: "GET", Path: "/v1/cluster/verify/{name}", Permission: auth.Read,
			Summary: "A comparison that this node makes or made", Answer: Verification{}, serve: (*API).verification,
		},
	}
}

func (a *API) integrity(q *request) error {
	return q.answer(http.StatusOK, a.cfg.Integrity.Integrity(q.ctx()))
}

func (a *API) verify(q *request) error {
	var b VerifyRequest
	if err := q.body(&b); err != nil {
		return err
	}
	v, err := a.cfg.Integrity.Verify(q.ctx(), b, q.audit())
	if err != nil {
		return err
	}
	return q.answer(http.StatusAccepted, v)
}

func (a *API) verification(q *request) error {
	v, ok := a.cfg.Integrity.Verification(q.r.PathValue("name"))
	if !ok {
		return problem.New(http.StatusNotFound, "this node makes no comparison of that name").
			WithHint("GET /v1/cluster/integrity has the last one that ended")
	}
	return q.answer(http.StatusOK, v)
}
