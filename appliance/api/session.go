package api

import (
	"errors"
	"net/http"

	"github.com/triward/triward/appliance/auth"
)

type loginBody struct {
	User     string `json:"user"`
	Password string `json:"password"`
}

type loginAnswer struct {
	User    string    `json:"user"`
	Role    auth.Role `json:"role"`
	Expires int64     `json:"expires"` // ms
}

type resumeBody struct {
	Ticket string `json:"ticket"`
}

type ticketAnswer struct {
	Ticket  string `json:"ticket"`
	Expires int64  `json:"expires"` // ms
}

type sessionAnswer struct {
	User    string    `json:"user"`
	Role    auth.Role `json:"role"`
	Expires int64     `json:"expires"` // ms; 0 for never
	Node    string    `json:"node"`
	Cluster string    `json:"cluster"`
	Version string    `json:"version"`
	Members []Member  `json:"members"`
}

func (a *API) login(q *request) error {
	var b loginBody
	if err := q.body(&b); err != nil {
		return err
	}
	secret, p, err := a.cfg.Auth.Login(q.ctx(), auth.RemoteAddr(q.r), b.User, b.Password)
	if err != nil {
		return err
	}
	return q.opened(secret, p)
}

func (a *API) resume(q *request) error {
	var b resumeBody
	if err := q.body(&b); err != nil {
		return err
	}
	secret, p, err := a.cfg.Auth.Resume(q.ctx(), auth.RemoteAddr(q.r), b.Ticket)
	if errors.Is(err, auth.ErrUnauthenticated) && a.catchUp(q.ctx()) {
		secret, p, err = a.cfg.Auth.Resume(q.ctx(), auth.RemoteAddr(q.r), b.Ticket)
	}
	if err != nil {
		return err
	}
	return q.opened(secret, p)
}

func (q *request) opened(secret string, p auth.Principal) error {
	auth.SetCookie(q.w, q.r, secret)
	return q.answer(http.StatusOK, loginAnswer{User: p.Name, Role: p.Role, Expires: p.Expires})
}

func (a *API) logout(q *request) error {
	if err := a.cfg.Auth.Logout(q.ctx(), q.p); err != nil {
		return err
	}
	auth.ClearCookie(q.w, q.r)
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) ticket(q *request) error {
	ticket, expires, err := a.cfg.Auth.Ticket(q.ctx(), q.p)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, ticketAnswer{Ticket: ticket, Expires: expires})
}

func (a *API) session(q *request) error {
	id := a.cfg.Cluster.Identity()
	members := a.cfg.Cluster.Members()
	if members == nil {
		members = []Member{}
	}
	return q.answer(http.StatusOK, sessionAnswer{
		User: q.p.Name, Role: q.p.Role, Expires: q.p.Expires, Node: id.Node,
		Cluster: id.Cluster, Version: id.Version, Members: members,
	})
}
