package api

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/triward/triward/appliance/auth"
)

// A node that is behind does not know yet that an administrator is none any more: nobody changes anything by what it still
// believes. Once it has caught up it goes by what it knows then; without a majority, by what it has.
func TestNodeThatIsBehindChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t, nil)
		secret, token, err := s.auth.CreateAPIToken(t.Context(), "former", auth.RoleAdministrator, 0, auth.Principal{})
		if err != nil {
			t.Fatal(err)
		}
		change := call{method: "POST", path: "/v1/tokens/api", body: `{"name":"mine","role":"administrator"}`, token: secret}
		s.parts.index = s.parts.applied.Load() + 1
		if w := s.do(change); w.Code != http.StatusServiceUnavailable {
			t.Errorf("on a node that stays behind: %d %s", w.Code, w.Body)
		}
		if w := s.do(call{method: "GET", path: "/v1/snapshot", token: secret}); w.Code != http.StatusServiceUnavailable {
			t.Errorf("a backup from a node that stays behind: %d %.200s", w.Code, w.Body)
		}
		if w := s.do(call{method: "GET", path: "/v1/hosts", token: secret}); w.Code != http.StatusOK {
			t.Errorf("what only reads: %d %s", w.Code, w.Body)
		}
		s.parts.waiting = func() { // what it had not applied yet
			s.parts.waiting = nil
			if err := s.auth.RevokeAPIToken(t.Context(), token.ID, auth.Principal{}); err != nil {
				t.Error(err)
			}
			s.parts.applied.Store(s.parts.index)
		}
		if w := s.do(change); w.Code != http.StatusUnauthorized {
			t.Errorf("with a token that was revoked: %d %s", w.Code, w.Body)
		}
		s.parts.index, s.parts.readErr = s.parts.applied.Load()+1, ErrNoLeader
		change.token = s.tokens[auth.RoleAdministrator]
		if w := s.do(change); w.Code != http.StatusCreated {
			t.Errorf("without a majority: %d %s", w.Code, w.Body)
		}
	})
}

// Where no leader says how far the cluster is, a change is not refused for what this node does not find: another may have
// made it a moment ago.
func TestNodeThatCannotAskRefusesNothing(t *testing.T) {
	s := newStand(t, nil)
	admin := s.tokens[auth.RoleAdministrator]
	for _, c := range []call{
		{method: "PATCH", path: "/v1/users/eve", body: `{"role":"viewer"}`, token: admin},
		{method: "DELETE", path: "/v1/users/eve", token: admin},
		{method: "POST", path: "/v1/users", body: `{"name":"ada","password":"correct horse","role":"viewer"}`, token: admin},
		{method: "DELETE", path: "/v1/tokens/api/0123456789abcdef", token: admin},
	} {
		s.parts.readErr = nil
		if w := s.do(c); w.Code != http.StatusNotFound && w.Code != http.StatusConflict {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
		s.parts.readErr = context.DeadlineExceeded
		w := s.do(c)
		s.problem(c.method+" "+c.path, w, http.StatusServiceUnavailable)
		if w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "no leader") {
			t.Errorf("%s %s: %v %s", c.method, c.path, w.Header(), w.Body)
		}
	}
	if w := s.do(call{method: "PATCH", path: "/v1/users/ada", body: `{"role":"king"}`, token: admin}); w.Code != http.StatusBadRequest {
		t.Errorf("what is wrong whatever others know: %d %s", w.Code, w.Body)
	}
}
