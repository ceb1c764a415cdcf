package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

type joinTokenBody struct {
	Kind  auth.JoinKind `json:"kind"`
	Uses  int           `json:"uses,omitempty"`   // 1 when absent
	LifeS int64         `json:"life_s,omitempty"` // an hour when absent
	Note  string        `json:"note,omitempty"`
	CIDRs []string      `json:"cidrs,omitempty"` // where from agents may use it; anywhere when absent
	Group string        `json:"group,omitempty"` // of the agents that it lets in
}

type joinTokenAnswer struct {
	Token string `json:"token"` // shown this once
	auth.JoinToken
}

type joinTokensAnswer struct {
	Tokens []auth.JoinToken `json:"tokens"`
}

type apiTokenBody struct {
	Name  string    `json:"name"`
	Role  auth.Role `json:"role"`
	LifeS int64     `json:"life_s,omitempty"` // for ever when absent
}

type apiTokenAnswer struct {
	Token string `json:"token"` // shown this once
	auth.APIToken
}

type apiTokensAnswer struct {
	Tokens []auth.APIToken `json:"tokens"`
}

type userBody struct {
	Name     string    `json:"name"`
	Password string    `json:"password"`
	Role     auth.Role `json:"role"`
}

type userChange struct {
	Password string    `json:"password,omitempty"`
	Role     auth.Role `json:"role,omitempty"`
	Disabled *bool     `json:"disabled,omitempty"` // true keeps the user out and ends their sessions
}

type usersAnswer struct {
	Users []auth.User `json:"users"`
}

type healthAnswer struct {
	OK    bool         `json:"ok"`
	Parts []partHealth `json:"parts"`
}

type partHealth struct {
	Part string `json:"part"`
	OK   bool   `json:"ok"`
	// Warning says that somebody should look although the part works; Error why it does not. What they say is told only
	// to those who may read.
	Warned  bool   `json:"warned,omitempty"`
	Warning string `json:"warning,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (a *API) cluster(q *request) error { return q.relay(a.cfg.Cluster.Status) }
func (a *API) queue(q *request) error   { return q.relay(a.cfg.Cluster.Queue) }
func (a *API) digest(q *request) error  { return q.relay(a.cfg.Cluster.Digest) }

func (q *request) relay(read func(context.Context) (json.RawMessage, error)) error {
	body, err := read(q.ctx())
	if err != nil {
		return err
	}
	return q.raw(http.StatusOK, body)
}

var nodeID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (a *API) join(q *request) error {
	if !a.cfg.Auth.AllowJoin(auth.RemoteAddr(q.r)) { // before anything of a stranger is read
		return auth.ErrTooMany
	}
	var b JoinRequest
	if err := q.body(&b); err != nil {
		return err
	}
	switch {
	case !nodeID.MatchString(b.ID):
		return problem.New(http.StatusBadRequest, "id: want 1 to 63 of letters, digits, . _ -")
	case len(b.CSR) > 16<<10, b.CSR == "":
		return problem.New(http.StatusBadRequest, "csr_pem: want a certificate request of at most 16 KiB")
	case b.PeerAddr == "" || len(b.PeerAddr) > 300 || len(b.URL) > 300 || len(b.AgentURL) > 300 || len(b.RingTo) > 300:
		return problem.New(http.StatusBadRequest, "peer_addr, url and agent_url: want addresses of at most 300 bytes")
	}
	b.From = q.p.Address
	answer, err := a.cfg.Cluster.Join(q.ctx(), b)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, answer)
}

func (a *API) joinTokens(q *request) error {
	list := a.cfg.Auth.JoinTokens()
	if list == nil {
		list = []auth.JoinToken{}
	}
	return q.answer(http.StatusOK, joinTokensAnswer{list})
}

// seconds turns a life in seconds into a duration, out of bounds when it would overflow.
func seconds(s int64) time.Duration {
	if s > 1<<33 || s < 0 {
		return -1
	}
	return time.Duration(s) * time.Second
}

func (a *API) createJoinToken(q *request) error {
	var b joinTokenBody
	if err := q.body(&b); err != nil {
		return err
	}
	text, t, err := a.cfg.Auth.CreateJoinToken(q.ctx(), auth.JoinOptions{
		Kind: b.Kind, Uses: b.Uses, Life: seconds(b.LifeS),
		By: q.p.Actor(), Address: q.p.Address, Owner: q.p.Owner, Name: b.Note, CIDRs: b.CIDRs, Group: b.Group, Pin: a.cfg.Cluster.Pin(),
	})
	if err != nil {
		return err
	}
	return q.answer(http.StatusCreated, joinTokenAnswer{text, t})
}

func (a *API) revokeJoinToken(q *request) error {
	return q.done(a.cfg.Auth.RevokeJoinToken(q.ctx(), q.r.PathValue("id"), q.p))
}

func (q *request) done(err error) error {
	if err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) apiTokens(q *request) error {
	list := a.cfg.Auth.APITokens()
	if list == nil {
		list = []auth.APIToken{}
	}
	return q.answer(http.StatusOK, apiTokensAnswer{list})
}

func (a *API) createAPIToken(q *request) error {
	var b apiTokenBody
	if err := q.body(&b); err != nil {
		return err
	}
	secret, t, err := a.cfg.Auth.CreateAPIToken(q.ctx(), b.Name, b.Role, seconds(b.LifeS), q.p)
	if err != nil {
		return err
	}
	return q.answer(http.StatusCreated, apiTokenAnswer{secret, t})
}

func (a *API) revokeAPIToken(q *request) error {
	return q.done(a.cfg.Auth.RevokeAPIToken(q.ctx(), q.r.PathValue("id"), q.p))
}

func (a *API) users(q *request) error {
	list := a.cfg.Auth.Users()
	if list == nil {
		list = []auth.User{}
	}
	return q.answer(http.StatusOK, usersAnswer{list})
}

func (a *API) createUser(q *request) error {
	var b userBody
	if err := q.body(&b); err != nil {
		return err
	}
	return q.done(a.cfg.Auth.CreateUser(q.ctx(), b.Name, b.Password, b.Role, q.p))
}

func (a *API) changeUser(q *request) error {
	var b userChange
	if err := q.body(&b); err != nil {
		return err
	}
	name := q.r.PathValue("name")
	if b.Role == "" && b.Password == "" && b.Disabled == nil {
		return problem.New(http.StatusBadRequest, "want role, password or disabled")
	}
	self := name == q.p.Name && q.p.Kind == auth.KindSession
	if self && b.Disabled != nil && *b.Disabled {
		return problem.New(http.StatusConflict, "you cannot disable yourself").
			WithHint("ask another administrator, so that one always remains")
	}
	if b.Role != "" {
		if self && b.Role != q.p.Role {
			return problem.New(http.StatusConflict, "you cannot change your own role").
				WithHint("ask another administrator, so that one always remains")
		}
		if err := a.cfg.Auth.SetRole(q.ctx(), name, b.Role, q.p); err != nil {
			return err
		}
	}
	if b.Password != "" {
		if err := a.cfg.Auth.SetPassword(q.ctx(), name, b.Password, q.p); err != nil {
			return err
		}
	}
	if b.Disabled != nil {
		if err := a.cfg.Auth.SetDisabled(q.ctx(), name, *b.Disabled, q.p); err != nil {
			return err
		}
	}
	return q.done(nil)
}

func (a *API) deleteUser(q *request) error {
	name := q.r.PathValue("name")
	if name == q.p.Name && q.p.Kind == auth.KindSession {
		return problem.New(http.StatusConflict, "you cannot remove yourself").
			WithHint("ask another administrator, so that one always remains")
	}
	return q.done(a.cfg.Auth.DeleteUser(q.ctx(), name, q.p))
}

func (a *API) healthy(q *request) error { return a.health(q, true) }
func (a *API) ready(q *request) error   { return a.health(q, false) }

const checkTimeout = 2 * time.Second

// health asks all parts at once. Why a part is not well is told only to those who may read.
func (a *API) health(q *request, liveOnly bool) error {
	ctx, cancel := context.WithTimeout(q.ctx(), checkTimeout)
	defer cancel()
	var parts []Check
	for _, c := range a.cfg.Checks {
		if c.Live || !liveOnly {
			parts = append(parts, c)
		}
	}
	out := healthAnswer{OK: true, Parts: make([]partHealth, len(parts))}
	var wg sync.WaitGroup
	for i, c := range parts {
		wg.Go(func() {
			err := c.Check(ctx)
			warning, warned := errors.AsType[*Warning](err)
			p := partHealth{Part: c.Part, OK: err == nil || warned, Warned: warned}
			switch {
			case !q.p.Role.Allows(auth.Read):
			case warned:
				p.Warning = warning.Error()
			case err != nil:
				p.Error = err.Error()
			}
			out.Parts[i] = p
		})
	}
	wg.Wait()
	status := http.StatusOK
	for _, p := range out.Parts {
		if !p.OK {
			out.OK, status = false, http.StatusServiceUnavailable
		}
	}
	return q.answer(status, out)
}

func (a *API) openapi(q *request) error { return q.raw(http.StatusOK, a.doc) }
