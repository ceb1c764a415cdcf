package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
)

// actions are what was audited so far.
func actions(m *authtest.Meta) []string {
	var list []string
	for _, r := range m.Audited() {
		list = append(list, r.Action)
	}
	return list
}

// A set-up link is used once, whoever else has it, and never after it expired or was taken back.
func TestSetupLinkWorksOnce(t *testing.T) {
	s, m := service(t)
	ctx := t.Context()
	addUser(t, s, "root", auth.RoleAdministrator)
	_, root := login(t, s, "root")
	secret, i, err := s.Invite(ctx, "eve", auth.RoleOperator, time.Hour, root)
	if err != nil || i.User != "eve" || i.Role != auth.RoleOperator || strings.Contains(m.Dump(), secret) {
		t.Fatal(i, err)
	}
	if u := user(t, s, "eve"); !u.NoPassword || u.LinkExpires != i.Expires {
		t.Errorf("%+v", u)
	}
	for _, password := range []string{"", secret, "correct horse eve"} {
		if _, _, err := s.Login(ctx, here, "eve", password); !errors.Is(err, auth.ErrCredentials) {
			t.Errorf("a user without password logs in with %q: %v", password, err)
		}
	}
	if _, _, err := s.RedeemInvite(ctx, here, secret, "short"); !errors.Is(err, auth.ErrInvalid) {
		t.Errorf("a password that is too short: %v", err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			session, p, err := s.RedeemInvite(context.WithoutCancel(ctx), here, secret, fmt.Sprint("correct horse ", n))
			switch {
			case err == nil:
				won.Add(1)
				if got, err := s.Session(session); err != nil || got.Name != "eve" || p.Role != auth.RoleOperator {
					t.Errorf("%+v %v", got, err)
				}
			case !errors.Is(err, auth.ErrToken) || !strings.Contains(err.Error(), "used already"):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d got in", won.Load())
	}
	if u := user(t, s, "eve"); u.NoPassword || u.LinkExpires != 0 || u.Sessions != 1 {
		t.Errorf("%+v", u)
	}

	for name, void := range map[string]func() error{
		"expired":   func() error { m.Advance(hour); return nil },
		"taken":     func() error { _, _, err := s.Invite(ctx, "eve", "", time.Hour, root); return err },
		"password":  func() error { return s.SetPassword(ctx, "eve", "another password", root) },
		"disabled":  func() error { return errors.Join(s.SetDisabled(ctx, "eve", true, root), s.SetDisabled(ctx, "eve", false, root)) },
		"deleted":   func() error { return s.DeleteUser(ctx, "eve", root) },
		"made anew": func() error { return errors.Join(s.DeleteUser(ctx, "eve", root), s.CreateUser(ctx, "eve", "long enough one", auth.RoleAdministrator, root)) },
	} {
		link, _, err := s.Invite(ctx, "eve", role(s, "eve"), time.Hour, root)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := s.CheckInvite(here, link); err != nil {
			t.Errorf("%s: %v before", name, err)
		}
		if err := void(); err != nil {
			t.Fatal(name, err)
		}
		if _, _, err := s.RedeemInvite(ctx, here, link, "correct horse battery"); !errors.Is(err, auth.ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// role is that of the user, or viewer for one who is to be made.
func role(s *auth.Service, name string) auth.Role {
	for _, u := range s.Users() {
		if u.Name == name {
			return u.Role
		}
	}
	return auth.RoleViewer
}

func user(t *testing.T, s *auth.Service, name string) auth.User {
	t.Helper()
	for _, u := range s.Users() {
		if u.Name == name {
			return u
		}
	}
	t.Fatalf("no user %s", name)
	return auth.User{}
}

// The link of somebody who administers no more is worth nothing, and one for a user who has a password resets it.
func TestSetupLinkIsBoundByItsMaker(t *testing.T) {
	s, _ := service(t)
	ctx := t.Context()
	addUser(t, s, "root", auth.RoleAdministrator)
	addUser(t, s, "bob", auth.RoleAdministrator)
	_, bob := login(t, s, "bob")
	link, _, err := s.Invite(ctx, "root", "", 0, bob)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetRole(ctx, "bob", auth.RoleViewer, auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.RedeemInvite(ctx, here, link, "taken over now"); !errors.Is(err, auth.ErrToken) {
		t.Errorf("%v", err)
	}
	session, root := login(t, s, "root")
	if link, _, err = s.Invite(ctx, "root", "", 0, root); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.RedeemInvite(ctx, here, link, "a better password"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Session(session); err == nil {
		t.Error("a session outlived the password")
	}
	if _, _, err := s.Login(ctx, here, "root", "correct horse root"); !errors.Is(err, auth.ErrCredentials) {
		t.Errorf("the old password: %v", err)
	}
	if _, _, err := s.Invite(ctx, "root", auth.RoleViewer, 0, root); !errors.Is(err, auth.ErrExists) {
		t.Errorf("another role for one who exists: %v", err)
	}
}

// However administrators go after each other, one who can log in remains.
func TestOneAdministratorRemains(t *testing.T) {
	for _, how := range []string{"role", "disable", "delete"} {
		for range 30 {
			s, m := service(t)
			ctx := context.WithoutCancel(t.Context())
			addUser(t, s, "ada", auth.RoleAdministrator)
			addUser(t, s, "bob", auth.RoleAdministrator)
			if _, _, err := s.Invite(ctx, "eve", auth.RoleAdministrator, 0, auth.Principal{}); err != nil { // has no password
				t.Fatal(err)
			}
			remove := func(s *auth.Service, name string) error {
				switch how {
				case "role":
					return s.SetRole(ctx, name, auth.RoleOperator, auth.Principal{})
				case "disable":
					return s.SetDisabled(ctx, name, true, auth.Principal{})
				}
				return s.DeleteUser(ctx, name, auth.Principal{})
			}
			other := auth.New(auth.Config{Meta: m, Password: authtest.Cheap()}) // as another node
			var wg sync.WaitGroup
			var gone atomic.Int32
			for name, at := range map[string]*auth.Service{"ada": s, "bob": other} {
				wg.Go(func() {
					switch err := remove(at, name); {
					case err == nil:
						gone.Add(1)
					case !errors.Is(err, auth.ErrLastAdministrator):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			other.Close()
			if gone.Load() != 1 {
				t.Fatalf("%s: %d of 2 administrators are gone", how, gone.Load())
			}
		}
	}
}

func TestDisabledUserIsOut(t *testing.T) {
	s, _ := service(t)
	ctx := t.Context()
	addUser(t, s, "root", auth.RoleAdministrator)
	addUser(t, s, "ada", auth.RoleOperator)
	session, ada := login(t, s, "ada")
	token, _, err := s.CreateAPIToken(ctx, "t", auth.RoleViewer, 0, ada)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetDisabled(ctx, "ada", true, auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	_, bad := s.Session(session)
	_, worse := s.Token(token)
	if _, _, err := s.Login(ctx, here, "ada", "correct horse ada"); !errors.Is(err, auth.ErrCredentials) || bad == nil || worse == nil {
		t.Errorf("login %v, session %v, token %v", err, bad, worse)
	}
	if err := s.SetDisabled(ctx, "ada", false, auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Token(token); err != nil {
		t.Errorf("token after all: %v", err)
	}
	login(t, s, "ada")
}

func TestOwnPassword(t *testing.T) {
	s, _ := service(t)
	ctx := t.Context()
	addUser(t, s, "ada", auth.RoleViewer)
	other, _ := login(t, s, "ada")
	here1, p := login(t, s, "ada")
	if err := s.ChangePassword(ctx, p, here, "wrong password", "a new password"); !errors.Is(err, auth.ErrCredentials) {
		t.Fatal(err)
	}
	if err := s.ChangePassword(ctx, p, here, "correct horse ada", "short"); !errors.Is(err, auth.ErrInvalid) {
		t.Fatal(err)
	}
	if err := s.ChangePassword(ctx, p, here, "correct horse ada", "a new password"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Session(here1); err != nil {
		t.Error("the session that changed it ended")
	}
	if _, err := s.Session(other); err == nil {
		t.Error("another session goes on")
	}
	if _, _, err := s.Login(ctx, here, "ada", "a new password"); err != nil {
		t.Error(err)
	}
	if n, err := s.EndOthers(ctx, p); n != 1 || err != nil {
		t.Error(n, err)
	}
	list := s.Sessions("ada")
	if len(list) != 1 || list[0].Address != here.String() || !strings.HasPrefix(p.Key, list[0].ID) {
		t.Fatalf("%+v", list)
	}
	if err := s.EndSession(ctx, list[0].ID, p); err != nil {
		t.Fatal(err)
	}
	if err := s.EndSession(ctx, list[0].ID, p); !errors.Is(err, auth.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// A token or user cannot be named so that the audit log takes it for somebody else.
func TestActorsAreTold(t *testing.T) {
	s, m := service(t)
	ctx := t.Context()
	addUser(t, s, "ada", auth.RoleAdministrator)
	_, ada := login(t, s, "ada")
	for _, name := range []string{"ada", "node n1", "token x", "bob"} {
		secret, token, err := s.CreateAPIToken(ctx, name, auth.RoleAdministrator, 0, ada)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Token(secret)
		if err != nil || p.Actor() != fmt.Sprintf("ada (token %s %s)", name, token.ID) {
			t.Errorf("%q %v", p.Actor(), err)
		}
	}
	if err := s.SetNodeToken(ctx, "n1", "twt_"+strings.Repeat("x", 43)); err != nil {
		t.Fatal(err)
	}
	if p, _ := s.Token("twt_" + strings.Repeat("x", 43)); p.Actor() != "node n1" {
		t.Errorf("%q", p.Actor())
	}
	for _, name := range []string{"node n1", "token x", "ada (token x)", ""} {
		if err := s.CreateUser(ctx, name, "long enough one", auth.RoleViewer, ada); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("a user named %q: %v", name, err)
		}
	}
	want := []string{"user.create", "session.login", "token.create", "token.create", "token.create", "token.create", "token.node"}
	if got := actions(m); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// Failed logins are noted without what was typed, and cannot fill the log.
func TestRefusalsAreNotedAndBounded(t *testing.T) { synctest.Test(t, refusalsAreNotedAndBounded) }

func refusalsAreNotedAndBounded(t *testing.T) {
	m := &authtest.Meta{}
	s := auth.New(auth.Config{Meta: m, Password: authtest.Cheap()})
	defer s.Close()
	addUser(t, s, "ada", auth.RoleViewer)
	for i := range 500 {
		from := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		name := "ada"
		if i%2 == 0 {
			name = "my-password-typed-here"
		}
		if _, _, err := s.Login(t.Context(), from, name, "wrong password"); err == nil {
			t.Fatal("logged in")
		}
		synctest.Wait()
	}
	if n := len(m.Audited()); n != 21 {
		t.Errorf("%d records of 500 failures", n)
	}
	if strings.Contains(m.Dump(), "typed-here") {
		t.Error("what was typed for a name is in the log")
	}
	time.Sleep(time.Hour)
	p := auth.Principal{Name: "ada", Role: auth.RoleViewer, Kind: auth.KindSession}
	for range 100 {
		s.Refused(p, "DELETE /v1/users/{name}")
		synctest.Wait()
	}
	last := m.Audited()[21:]
	if len(last) != 1 || last[0].Action != "request.refused" || !strings.Contains(string(last[0].Detail), `"unrecorded":480`) {
		t.Errorf("%d: %+v %s", len(last), last[0], last[0].Detail)
	}
	m.Fail(errors.New("no leader"))
	_, _, _ = s.Login(t.Context(), here, "ada", "wrong password")
	synctest.Wait()
	m.Fail(nil)
	_, _, _ = s.Login(t.Context(), here, "ada", "wrong password")
	synctest.Wait()
	if all := m.Audited(); !strings.Contains(string(all[len(all)-1].Detail), `"unrecorded":1`) {
		t.Errorf("%s", all[len(all)-1].Detail)
	}
}
