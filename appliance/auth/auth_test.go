package auth_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
)

const hour = int64(time.Hour / time.Millisecond)

var here = netip.MustParseAddr("192.0.2.1")

func service(t *testing.T) (*auth.Service, *authtest.Meta) {
	t.Helper()
	m := &authtest.Meta{}
	m.Advance(1_000_000 * hour)
	s := auth.New(auth.Config{Meta: m, Password: authtest.Cheap()})
	m.OnChange = s.Changed
	t.Cleanup(func() { s.Close() })
	return s, m
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func addUser(t *testing.T, s *auth.Service, name string, role auth.Role) {
	t.Helper()
	if err := s.CreateUser(t.Context(), name, "correct horse "+name, role, auth.Principal{}); err != nil {
		t.Fatal(err)
	}
}

func login(t *testing.T, s *auth.Service, name string) (string, auth.Principal) {
	t.Helper()
	secret, p, err := s.Login(t.Context(), here, name, "correct horse "+name)
	if err != nil {
		t.Fatal(err)
	}
	return secret, p
}

func TestLoginAndLogout(t *testing.T) {
	s, m := service(t)
	addUser(t, s, "ada", auth.RoleOperator)
	for _, c := range [][2]string{{"ada", "wrong password"}, {"nobody", "correct horse ada"}, {"", ""}, {"ada", ""}} {
		if _, _, err := s.Login(t.Context(), here, c[0], c[1]); !errors.Is(err, auth.ErrCredentials) {
			t.Errorf("login %q: %v", c, err)
		}
	}
	secret, p := login(t, s, "ada")
	if p.Role != auth.RoleOperator || p.Name != "ada" {
		t.Fatalf("principal %+v", p)
	}
	if strings.Contains(m.Dump(), secret) || strings.Contains(m.Dump(), "correct horse") {
		t.Fatal("a secret is stored as it is")
	}
	got, err := s.Session(secret)
	if err != nil || got != p {
		t.Fatalf("session: %+v, %v", got, err)
	}
	if err := s.Logout(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Session(secret); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Fatalf("after logout: %v", err)
	}
	if _, ok := s.Recheck(p); ok {
		t.Fatal("recheck after logout")
	}
}

func TestSessionEnds(t *testing.T) { synctest.Test(t, sessionEnds) }

func sessionEnds(t *testing.T) {
	s, m := service(t)
	addUser(t, s, "ada", auth.RoleViewer)
	secret, p := login(t, s, "ada")
	m.Advance(11 * hour)
	if _, err := s.Session(secret); err != nil {
		t.Fatal("ended too early")
	}
	s.Renew(p)
	synctest.Wait()
	m.Advance(11 * hour)
	if _, err := s.Session(secret); err != nil {
		t.Fatalf("was not renewed: %v", err)
	}
	m.Advance(2 * hour)
	if _, err := s.Session(secret); err == nil {
		t.Fatal("outlived its idle time")
	}
}

func TestSessionHasALongestLife(t *testing.T) { synctest.Test(t, sessionHasALongestLife) }

func sessionHasALongestLife(t *testing.T) {
	m := &authtest.Meta{}
	s := auth.New(auth.Config{Meta: m, Password: authtest.Cheap(), SessionIdle: 10 * time.Hour, SessionMax: 24 * time.Hour})
	defer s.Close()
	addUser(t, s, "ada", auth.RoleViewer)
	secret, _ := login(t, s, "ada")
	for h := 0; ; h++ {
		p, err := s.Session(secret)
		if err != nil {
			if h != 24 {
				t.Fatalf("ended after %d hours", h)
			}
			return
		}
		if h > 24 {
			t.Fatal("does not end")
		}
		s.Renew(p)
		synctest.Wait()
		m.Advance(hour)
	}
}

func TestSessionsOfAUserAreBounded(t *testing.T) {
	m := &authtest.Meta{}
	s := auth.New(auth.Config{Meta: m, Password: authtest.Cheap(), MaxSessions: 3})
	addUser(t, s, "ada", auth.RoleViewer)
	first, _ := login(t, s, "ada")
	for range 5 {
		m.Advance(1)
		login(t, s, "ada")
	}
	if n := len(m.Keys(auth.BucketSessions)); n != 3 {
		t.Fatalf("%d sessions", n)
	}
	if _, err := s.Session(first); err == nil {
		t.Fatal("the oldest is still there")
	}
}

func TestRoleAndPasswordChangesHoldAtOnce(t *testing.T) {
	s, _ := service(t)
	addUser(t, s, "root", auth.RoleAdministrator)
	addUser(t, s, "ada", auth.RoleAdministrator)
	secret, p := login(t, s, "ada")
	changes, stop := s.Watch()
	defer stop()
	if err := s.SetRole(t.Context(), "ada", auth.RoleViewer, auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	<-changes
	if now, ok := s.Recheck(p); !ok || now.Role != auth.RoleViewer {
		t.Fatalf("%+v %v", now, ok)
	}
	if err := s.SetPassword(t.Context(), "ada", "another password", auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Session(secret); err == nil {
		t.Fatal("the session outlived the password")
	}
	if err := s.DeleteUser(t.Context(), "ada", auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetRole(t.Context(), "ada", auth.RoleViewer, auth.Principal{}); !errors.Is(err, auth.ErrNotFound) {
		t.Fatalf("role of a user that is gone: %v", err)
	}
}

func TestGuessingIsLimited(t *testing.T) {
	s, _ := service(t)
	addUser(t, s, "ada", auth.RoleViewer)
	var refused int
	for range 30 {
		if _, _, err := s.Login(t.Context(), here, "ada", "wrong password"); errors.Is(err, auth.ErrTooMany) {
			refused++
		}
	}
	if refused < 15 {
		t.Fatalf("%d of 30 refused", refused)
	}
	// The account is held back for other addresses too.
	if _, _, err := s.Login(t.Context(), netip.MustParseAddr("198.51.100.7"), "ada", "correct horse ada"); !errors.Is(err, auth.ErrTooMany) {
		t.Fatalf("from elsewhere: %v", err)
	}
	// Another account from another address is not.
	addUser(t, s, "bob", auth.RoleViewer)
	if _, _, err := s.Login(t.Context(), netip.MustParseAddr("198.51.100.7"), "bob", "correct horse bob"); err != nil {
		t.Fatal(err)
	}
}

func TestTicketWorksOnce(t *testing.T) {
	s, m := service(t)
	addUser(t, s, "ada", auth.RoleOperator)
	secret, p := login(t, s, "ada")
	old, _, err := s.Ticket(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	ticket, _, err := s.Ticket(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Resume(t.Context(), here, old); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Fatalf("a ticket that was replaced: %v", err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 20 {
		wg.Go(func() {
			got, q, err := s.Resume(context.Background(), here, ticket)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			won++
			if now, err := s.Session(got); err != nil || now.Name != "ada" || q.Role != auth.RoleOperator {
				t.Errorf("resumed as %+v, %v", now, err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Fatalf("the ticket worked %d times", won)
	}
	if _, err := s.Session(secret); err == nil {
		t.Fatal("the old session goes on beside the new one")
	}
	_, p2 := login(t, s, "ada")
	late, _, err := s.Ticket(t.Context(), p2)
	if err != nil {
		t.Fatal(err)
	}
	m.Advance(11 * 60_000)
	if _, _, err := s.Resume(t.Context(), here, late); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Fatalf("an expired ticket: %v", err)
	}
}

func TestTicketEndsWithItsSession(t *testing.T) {
	s, _ := service(t)
	addUser(t, s, "ada", auth.RoleOperator)
	_, p := login(t, s, "ada")
	ticket, _, err := s.Ticket(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Logout(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Resume(t.Context(), here, ticket); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Fatalf("resume after logout: %v", err)
	}
}

func TestJoinTokenIsCounted(t *testing.T) {
	s, m := service(t)
	token, rec, err := s.CreateJoinToken(t.Context(), auth.JoinOptions{Kind: auth.JoinAgent, Uses: 3, Pin: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	if auth.Pin(token) != "abc" || rec.UsesLeft != 3 || strings.Contains(m.Dump(), token) {
		t.Fatalf("%q %+v", token, rec)
	}
	if err := s.Redeem(t.Context(), auth.JoinNode, token, auth.Txn{}); !errors.Is(err, auth.ErrToken) {
		t.Fatalf("as another kind: %v", err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for i := range 40 {
		wg.Go(func() {
			id := string(rune('a'+i%26)) + strings.Repeat("x", i)
			err := s.Redeem(context.Background(), auth.JoinAgent, token, auth.Txn{
				Compares: []auth.Compare{{Bucket: auth.BucketAgents, Key: id}},
				Ops:      []auth.Op{{Bucket: auth.BucketAgents, Key: id, Value: []byte("{}")}},
			})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				good++
			} else if !errors.Is(err, auth.ErrToken) {
				t.Errorf("redeem: %v", err)
			}
		})
	}
	wg.Wait()
	if agents := len(m.Keys(auth.BucketAgents)); good != 3 || agents != 3 {
		t.Fatalf("%d redeemed, %d agents", good, agents)
	}
	if len(s.JoinTokens()) != 0 {
		t.Fatal("the used token is still listed")
	}
}

func TestJoinTokenExpiresAndIsRevoked(t *testing.T) {
	s, m := service(t)
	token, rec, err := s.CreateJoinToken(t.Context(), auth.JoinOptions{Kind: auth.JoinNode})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CheckJoin(auth.JoinNode, token, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if list := s.JoinTokens(); len(list) != 1 || list[0].ID != rec.ID {
		t.Fatalf("%+v", list)
	}
	if err := s.RevokeJoinToken(t.Context(), rec.ID, auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CheckJoin(auth.JoinNode, token, netip.Addr{}); !errors.Is(err, auth.ErrToken) {
		t.Fatalf("revoked: %v", err)
	}
	token, _, err = s.CreateJoinToken(t.Context(), auth.JoinOptions{Kind: auth.JoinNode, Life: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	m.Advance(60_000)
	if _, err := s.CheckJoin(auth.JoinNode, token, netip.Addr{}); !errors.Is(err, auth.ErrToken) {
		t.Fatalf("expired: %v", err)
	}
}

func TestRedeemKeepsTheCallersConditions(t *testing.T) {
	s, _ := service(t)
	token, _, err := s.CreateJoinToken(t.Context(), auth.JoinOptions{Kind: auth.JoinAgent, Uses: 5})
	if err != nil {
		t.Fatal(err)
	}
	with := auth.Txn{
		Compares: []auth.Compare{{Bucket: auth.BucketAgents, Key: "x"}},
		Ops:      []auth.Op{{Bucket: auth.BucketAgents, Key: "x", Value: []byte("{}")}},
	}
	if err := s.Redeem(t.Context(), auth.JoinAgent, token, with); err != nil {
		t.Fatal(err)
	}
	if err := s.Redeem(t.Context(), auth.JoinAgent, token, with); !errors.Is(err, auth.ErrConflict) {
		t.Fatalf("agent there already: %v", err)
	}
	if left := s.JoinTokens()[0].UsesLeft; left != 4 {
		t.Fatalf("%d uses left: a refused one was counted", left)
	}
}

func TestBadArguments(t *testing.T) {
	s, _ := service(t)
	ctx := t.Context()
	for name, err := range map[string]error{
		"user name":     s.CreateUser(ctx, "../etc", "long enough password", auth.RoleViewer, auth.Principal{}),
		"user role":     s.CreateUser(ctx, "ada", "long enough password", "root", auth.Principal{}),
		"ingest person": s.CreateUser(ctx, "ada", "long enough password", auth.RoleIngest, auth.Principal{}),
		"password":      s.CreateUser(ctx, "ada", "short", auth.RoleViewer, auth.Principal{}),
		"long password": s.CreateUser(ctx, "ada", strings.Repeat("x", 600), auth.RoleViewer, auth.Principal{}),
		"revoke":        s.RevokeAPIToken(ctx, "zz", auth.Principal{}),
		"token role":    second(s.CreateAPIToken(ctx, "x", "root", 0, auth.Principal{})),
		"token name":    second(s.CreateAPIToken(ctx, "\n", auth.RoleViewer, 0, auth.Principal{})),
		"token life":    second(s.CreateAPIToken(ctx, "x", auth.RoleViewer, -1, auth.Principal{})),
		"join kind":     secondJoin(s.CreateJoinToken(ctx, auth.JoinOptions{Kind: "root"})),
		"join uses":     secondJoin(s.CreateJoinToken(ctx, auth.JoinOptions{Kind: auth.JoinAgent, Uses: -1})),
		"join life":     secondJoin(s.CreateJoinToken(ctx, auth.JoinOptions{Kind: auth.JoinAgent, Life: 1e18})),
	} {
		if !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ string, _ auth.APIToken, err error) error      { return err }
func secondJoin(_ string, _ auth.JoinToken, err error) error { return err }

func TestAuthenticate(t *testing.T) {
	s, m := service(t)
	addUser(t, s, "ada", auth.RoleOperator)
	session, _ := login(t, s, "ada")
	token, _, err := s.CreateAPIToken(t.Context(), "ci", auth.RoleIngest, time.Hour, auth.Principal{Name: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	secure := func(r *http.Request) { r.TLS = &tls.ConnectionState{} }
	cookie := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: name, Value: value}) }
	}
	header := func(v string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", v) }
	}
	asUser := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("ada", password) }
	}
	from := func(addr string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = addr } }
	cases := []struct {
		name string
		with []func(*http.Request)
		want string
	}{
		{"nothing", nil, ""},
		{"cookie on TLS", []func(*http.Request){secure, cookie(auth.CookieSecure, session)}, "ada"},
		{"plain cookie on TLS", []func(*http.Request){secure, cookie(auth.CookiePlain, session)}, ""},
		{"plain cookie on loopback", []func(*http.Request){from("127.0.0.1:1"), cookie(auth.CookiePlain, session)}, "ada"},
		{"plain cookie from afar", []func(*http.Request){from("192.0.2.1:1"), cookie(auth.CookiePlain, session)}, ""},
		{"wrong cookie", []func(*http.Request){secure, cookie(auth.CookieSecure, session+"x")}, ""},
		{"long cookie", []func(*http.Request){secure, cookie(auth.CookieSecure, strings.Repeat("x", 5000))}, ""},
		{"token", []func(*http.Request){header("Bearer " + token)}, "ci"},
		{"token in lower case scheme", []func(*http.Request){header("bearer " + token)}, "ci"},
		{"session as a token", []func(*http.Request){header("Bearer " + session)}, ""},
		{"a user's password", []func(*http.Request){header("Basic YWRhOmFkYQ==")}, ""},
		{"token as a password", []func(*http.Request){asUser(token)}, "ci"},
		{"token as a password, by a browser", []func(*http.Request){asUser(token), func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }}, ""},
		{"token as a password, by a page", []func(*http.Request){asUser(token), func(r *http.Request) { r.Header.Set("Origin", "https://other.example") }}, ""},
		{"session as a password", []func(*http.Request){asUser(session)}, ""},
		{"bad password beside a good cookie", []func(*http.Request){secure, cookie(auth.CookieSecure, session), asUser("x")}, ""},
		{"bad token beside a good cookie", []func(*http.Request){secure, header("Bearer twt_x"), cookie(auth.CookieSecure, session)}, ""},
	}
	for _, c := range cases {
		r := httptest.NewRequest("GET", "/", nil)
		for _, f := range c.with {
			f(r)
		}
		p, err := s.Authenticate(r)
		if p.Name != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %+v, %v", c.name, p, err)
		}
	}
	m.Advance(hour)
	if _, err := s.Token(token); err == nil {
		t.Error("the token outlived its life")
	}
}

// A token has no more rights than whoever made it has now, and none without them.
func TestTokensAreBoundByTheirMaker(t *testing.T) {
	s, m := service(t)
	ctx := t.Context()
	addUser(t, s, "root", auth.RoleAdministrator)
	addUser(t, s, "ada", auth.RoleAdministrator)
	_, ada := login(t, s, "ada")
	token := func(role auth.Role, by auth.Principal) string {
		t.Helper()
		secret, _, err := s.CreateAPIToken(ctx, string(role), role, 0, by)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	tokens := map[auth.Role]string{}
	for _, role := range auth.Roles() {
		tokens[role] = token(role, ada)
	}
	first, err := s.Token(tokens[auth.RoleAdministrator])
	if err != nil {
		t.Fatal(err)
	}
	second := token(auth.RoleOperator, first) // made with a token of hers
	free := token(auth.RoleOperator, auth.Principal{Name: "node n1", Kind: auth.KindToken})
	join, _, err := s.CreateJoinToken(ctx, auth.JoinOptions{Kind: auth.JoinNode, By: "ada", Owner: ada.Owner})
	if err != nil {
		t.Fatal(err)
	}
	is := func(what, secret string, want auth.Role) {
		t.Helper()
		p, err := s.Token(secret)
		if p.Role != want || (err == nil) != (want != "") {
			t.Errorf("%s: role %q, %v, want %q", what, p.Role, err, want)
		}
		if _, ok := s.Recheck(auth.Principal{Kind: auth.KindToken, Key: first.Key}); what == "administrator" && ok != (want != "") {
			t.Errorf("%s: looked up again %v", what, ok)
		}
	}
	for _, step := range []struct {
		now  auth.Role // of ada
		want map[auth.Role]auth.Role
		join bool
	}{
		{auth.RoleAdministrator, map[auth.Role]auth.Role{auth.RoleAdministrator: "administrator", auth.RoleOperator: "operator", auth.RoleViewer: "viewer", auth.RoleIngest: "ingest"}, true},
		{auth.RoleOperator, map[auth.Role]auth.Role{auth.RoleAdministrator: "operator", auth.RoleOperator: "operator", auth.RoleViewer: "viewer", auth.RoleIngest: ""}, false},
		{auth.RoleViewer, map[auth.Role]auth.Role{auth.RoleAdministrator: "viewer", auth.RoleOperator: "viewer", auth.RoleViewer: "viewer", auth.RoleIngest: ""}, false},
		{auth.RoleAdministrator, map[auth.Role]auth.Role{auth.RoleAdministrator: "administrator", auth.RoleIngest: "ingest"}, true},
	} {
		if err := s.SetRole(ctx, "ada", step.now, auth.Principal{}); err != nil {
			t.Fatal(err)
		}
		for role, want := range step.want {
			is(string(role), tokens[role], want)
		}
		if _, err := s.CheckJoin(auth.JoinNode, join, netip.Addr{}); (err == nil) != step.join {
			t.Errorf("join token while she is %s: %v", step.now, err)
		}
	}
	if err := s.DeleteUser(ctx, "ada", auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	if keys := append(m.Keys(auth.BucketAPITokens), m.Keys(auth.BucketTokens)...); len(keys) != 1 {
		t.Errorf("%d tokens are left, one is nobody's", len(keys))
	}
	addUser(t, s, "ada", auth.RoleAdministrator) // another one
	for role, secret := range tokens {
		is(string(role), secret, "")
	}
	is("made with a token", second, "")
	is("nobody's", free, auth.RoleOperator)
	if _, err := s.CheckJoin(auth.JoinNode, join, netip.Addr{}); !errors.Is(err, auth.ErrToken) {
		t.Errorf("join token of a deleted user: %v", err)
	}
}

// All that a user leaves is void with the same transaction that removes the user, however much it is.
func TestWhatADeletedUserLeavesIsVoidAtOnce(t *testing.T) {
	s, m := service(t)
	ctx := t.Context()
	addUser(t, s, "root", auth.RoleAdministrator)
	addUser(t, s, "ada", auth.RoleAdministrator)
	session, ada := login(t, s, "ada")
	var last string
	for range 450 {
		secret, _, err := s.CreateAPIToken(ctx, "t", auth.RoleViewer, 0, ada)
		if err != nil {
			t.Fatal(err)
		}
		last = secret
	}
	m.OnChange = func(bucket string) {
		if bucket == auth.BucketUsers { // the first transaction is applied: the cluster is lost now
			m.Fail(errors.New("no leader"))
		}
	}
	if err := s.DeleteUser(ctx, "ada", auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	m.OnChange = nil
	m.Fail(nil)
	addUser(t, s, "ada", auth.RoleAdministrator)
	if _, err := s.Token(last); err == nil {
		t.Error("a token of the user who is gone works for the next of the name")
	}
	if _, err := s.Session(session); err == nil {
		t.Error("a session of the user who is gone works for the next of the name")
	}
}

func TestAgentRecord(t *testing.T) {
	s, m := service(t)
	put := func(value string) {
		must[uint64](t)(m.Commit(t.Context(), auth.Txn{Ops: []auth.Op{{Bucket: auth.BucketAgents, Key: "a1", Value: []byte(value)}}}))
	}
	put(`{"agent_id":"a1","cert_serial":"01"}`)
	accepts := func(serial string) bool {
		a, _, err := s.Agent("a1")
		return err == nil && a.Accepts(serial)
	}
	if !accepts("01") || accepts("02") || accepts("") {
		t.Error("a certificate that is not the agent's is accepted, or its own is not")
	}
	for _, id := range []string{"a2", "", strings.Repeat("a", 1000)} {
		if _, _, err := s.Agent(id); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("%.20q: %v", id, err)
		}
	}
	if err := s.RenewAgent(t.Context(), "a1", "01", "02", 5); err != nil || !accepts("01") || !accepts("02") {
		t.Errorf("renewed: %v", err)
	}
	if err := s.RenewAgent(t.Context(), "a1", "02", "03", 6); err != nil || accepts("01") || !accepts("02") || !accepts("03") {
		t.Errorf("renewed again: %v", err)
	}
	if err := s.RenewAgent(t.Context(), "a1", "01", "04", 7); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Errorf("renewed with a certificate that was replaced: %v", err)
	}
	if err := s.RevokeAgent(t.Context(), "a1", "ada", netip.Addr{}); err != nil || accepts("02") || accepts("03") {
		t.Errorf("revoked: %v", err)
	}
	if err := s.RenewAgent(t.Context(), "a1", "03", "05", 8); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Errorf("a revoked agent renews: %v", err)
	}
}

func TestRolesByPermission(t *testing.T) {
	want := map[auth.Role]string{
		"":                     "public",
		auth.RoleViewer:        "public signed-in read",
		auth.RoleOperator:      "public signed-in read operate",
		auth.RoleAdministrator: "public signed-in read operate administer ingest audit",
		auth.RoleAuditor:       "public signed-in read audit",
		auth.RoleIngest:        "public signed-in ingest",
		"root":                 "public",
	}
	for role, list := range want {
		var got []string
		for _, p := range auth.Permissions() {
			if role.Allows(p) {
				got = append(got, p.String())
			}
		}
		if strings.Join(got, " ") != list {
			t.Errorf("%q: %v", role, got)
		}
		if role.Allows(auth.Undeclared) {
			t.Errorf("%q is allowed what nobody declared", role)
		}
	}
}
