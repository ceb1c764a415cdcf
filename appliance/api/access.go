package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

type roleAnswer struct {
	Role        auth.Role `json:"role"`
	Permissions []string  `json:"permissions"`
}

type permissionAnswer struct {
	Permission string   `json:"permission"`
	Routes     []string `json:"routes"`  // method and path
	Sockets    []string `json:"sockets"` // kinds of live subscriptions
}

type rolesAnswer struct {
	Roles       []roleAnswer       `json:"roles"`
	Permissions []permissionAnswer `json:"permissions"`
}

type sessionsAnswer struct {
	Sessions []auth.SessionInfo `json:"sessions"`
}

type endedAnswer struct {
	Ended int `json:"ended"` // how many sessions
}

type inviteBody struct {
	Role  auth.Role `json:"role,omitempty"`   // of a new user; absent for one who exists
	LifeS int64     `json:"life_s,omitempty"` // a day when absent
}

type inviteAnswer struct {
	Link string `json:"link"` // of this node; shown this once
	Path string `json:"path"` // the same at any member
	auth.Invite
}

type setupCheckBody struct {
	Token string `json:"token"`
}

type setupBody struct {
	Token    string `json:"token"`
	Password string `json:"password"`
}

type passwordBody struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// accessRoutes are who may log in, how they came to it, and what roles may do.
func accessRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/roles", Permission: auth.SignedIn, Summary: "What each role may do", Answer: rolesAnswer{},
			serve: (*API).roles,
		},
		{
			Method: "POST", Path: "/v1/users/{name}/invite", Permission: auth.Administer,
			Summary: "Make a set-up link with which the user, who is made when absent, chooses a password once",
			Body:    inviteBody{}, MaxBody: 4 << 10, Answer: inviteAnswer{}, Status: http.StatusCreated, serve: (*API).invite,
		},
		{
			Method: "DELETE", Path: "/v1/users/{name}/sessions", Permission: auth.Administer, Summary: "End all sessions of a user",
			Answer: endedAnswer{}, serve: (*API).endUserSessions,
		},
		{
			Method: "GET", Path: "/v1/sessions", Permission: auth.Audit, Summary: "Open sessions, the newest first", Fresh: true,
			Params: []Param{{Name: "user", Kind: paramText, MaxLen: 64, Doc: "only those of this user"}, limitParam(1000, 10000)},
			Answer: sessionsAnswer{}, serve: (*API).sessions,
		},
		{
			Method: "DELETE", Path: "/v1/sessions/{id}", Permission: auth.Administer, Summary: "End a session", Status: http.StatusNoContent,
			serve: (*API).endSession,
		},
		{
			Method: "GET", Path: "/v1/session/all", Permission: auth.SignedIn, Summary: "One's own open sessions, the newest first",
			Answer: sessionsAnswer{}, serve: (*API).ownSessions,
		},
		{
			Method: "DELETE", Path: "/v1/session/others", Permission: auth.SignedIn, Summary: "End one's own other sessions",
			Answer: endedAnswer{}, serve: (*API).endOthers,
		},
		{
			Method: "POST", Path: "/v1/session/password", Permission: auth.SignedIn,
			Summary: "Change one's own password; other sessions end", Body: passwordBody{}, MaxBody: 4 << 10,
			Status: http.StatusNoContent, serve: (*API).changePassword,
		},
		{
			Method: "POST", Path: "/v1/setup/check", Permission: auth.Public, Summary: "Whose set-up link it is, without using it",
			Body: setupCheckBody{}, MaxBody: 4 << 10, Answer: auth.Invite{}, serve: (*API).checkSetup,
		},
		{
			Method: "POST", Path: "/v1/setup", Permission: auth.Public, Summary: "Use a set-up link: choose the password and be logged in",
			Body: setupBody{}, MaxBody: 4 << 10, Answer: loginAnswer{}, serve: (*API).setup,
		},
	}
}

// roles says it from the tables by which requests are let through.
func (a *API) roles(q *request) error {
	var out rolesAnswer
	for _, p := range auth.Permissions() {
		perm := permissionAnswer{Permission: p.String(), Routes: []string{}, Sockets: []string{}}
		for _, r := range Routes() {
			if r.Permission == p {
				perm.Routes = append(perm.Routes, r.Method+" "+r.Path)
			}
		}
		for kind, needs := range SocketKinds() {
			if needs == p {
				perm.Sockets = append(perm.Sockets, kind)
			}
		}
		slices.Sort(perm.Sockets)
		out.Permissions = append(out.Permissions, perm)
	}
	for _, role := range auth.Roles() {
		one := roleAnswer{Role: role, Permissions: []string{}}
		for _, p := range auth.Permissions() {
			if role.Allows(p) {
				one.Permissions = append(one.Permissions, p.String())
			}
		}
		out.Roles = append(out.Roles, one)
	}
	return q.answer(http.StatusOK, out)
}

// addressOf is the address that the request came from, as text; "" when it cannot be read.
func addressOf(r *http.Request) string {
	if addr := auth.RemoteAddr(r); addr.IsValid() {
		return addr.String()
	}
	return ""
}

// SetupPath is the page of a set-up link. The secret stands behind #, so that it reaches no log of requests.
func SetupPath(secret string) string { return "/setup#" + secret }

func (a *API) invite(q *request) error {
	var b inviteBody
	if err := q.body(&b); err != nil {
		return err
	}
	secret, i, err := a.cfg.Auth.Invite(q.ctx(), q.r.PathValue("name"), b.Role, seconds(b.LifeS), q.p)
	if err != nil {
		return err
	}
	path := SetupPath(secret)
	return q.answer(http.StatusCreated, inviteAnswer{Link: a.ownURL() + path, Path: path, Invite: i})
}

// ownURL is where browsers reach this node; "" when it does not know yet.
func (a *API) ownURL() string {
	own := a.cfg.Cluster.Identity().Node
	for _, m := range a.cfg.Cluster.Members() {
		if m.ID == own {
			return strings.TrimSuffix(m.URL, "/")
		}
	}
	return ""
}

func (a *API) endUserSessions(q *request) error {
	n, err := a.cfg.Auth.EndSessions(q.ctx(), q.r.PathValue("name"), q.p)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, endedAnswer{n})
}

func (a *API) sessions(q *request) error {
	return q.listSessions(a.cfg.Auth.Sessions(q.v.str("user")), int(q.v.int("limit")))
}

func (a *API) ownSessions(q *request) error {
	if q.p.Kind != auth.KindSession {
		return q.listSessions(nil, 0)
	}
	return q.listSessions(a.cfg.Auth.Sessions(q.p.Name), 1000)
}

func (q *request) listSessions(list []auth.SessionInfo, limit int) error {
	list = append([]auth.SessionInfo{}, list[:min(len(list), limit)]...)
	for i := range list {
		list[i].Current = q.p.Kind == auth.KindSession && strings.HasPrefix(q.p.Key, list[i].ID)
	}
	return q.answer(http.StatusOK, sessionsAnswer{list})
}

func (a *API) endSession(q *request) error {
	return q.done(a.cfg.Auth.EndSession(q.ctx(), q.r.PathValue("id"), q.p))
}

func (a *API) endOthers(q *request) error {
	n, err := a.cfg.Auth.EndOthers(q.ctx(), q.p)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, endedAnswer{n})
}

func (a *API) changePassword(q *request) error {
	var b passwordBody
	if err := q.body(&b); err != nil {
		return err
	}
	err := a.cfg.Auth.ChangePassword(q.ctx(), q.p, auth.RemoteAddr(q.r), b.Old, b.New)
	if errors.Is(err, auth.ErrCredentials) { // 401 would say that the session is not good
		return problem.New(http.StatusForbidden, "the old password is wrong").
			WithHint("who has forgotten it asks an administrator for a set-up link")
	}
	return q.done(err)
}

func (a *API) checkSetup(q *request) error {
	var b setupCheckBody
	if err := q.body(&b); err != nil {
		return err
	}
	from := auth.RemoteAddr(q.r)
	i, err := a.cfg.Auth.CheckInvite(from, b.Token)
	if errors.Is(err, auth.ErrToken) && a.catchUp(q.ctx()) { // another node made it a moment ago
		i, err = a.cfg.Auth.CheckInvite(from, b.Token)
	}
	if err != nil {
		return setupProblem(err)
	}
	return q.answer(http.StatusOK, i)
}

func (a *API) setup(q *request) error {
	var b setupBody
	if err := q.body(&b); err != nil {
		return err
	}
	from := auth.RemoteAddr(q.r)
	secret, p, err := a.cfg.Auth.RedeemInvite(q.ctx(), from, b.Token, b.Password)
	if errors.Is(err, auth.ErrToken) && a.catchUp(q.ctx()) {
		secret, p, err = a.cfg.Auth.RedeemInvite(q.ctx(), from, b.Token, b.Password)
	}
	if err != nil {
		return setupProblem(err)
	}
	return q.opened(secret, p)
}

func setupProblem(err error) error {
	if !errors.Is(err, auth.ErrToken) {
		return err
	}
	text := err.Error()
	if text == auth.ErrToken.Error() {
		text = "the set-up link is unknown, or was taken back"
	}
	return problem.New(http.StatusUnauthorized, text).
		WithHint("an administrator makes a new one on the page Access or with `triward user invite NAME`")
}
