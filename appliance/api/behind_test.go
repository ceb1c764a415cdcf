package api

import (
	"net/http"
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
