package auth_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
)

// behind is the metadata of a node that has not applied the newest sessions; once something of its own is committed it
// has, as a node that waits until it has applied its own entry.
type behind struct {
	*authtest.Meta
	mu     sync.Mutex
	hidden map[string]bool
}

func (b *behind) hide(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hidden = map[string]bool{key: true}
}

func (b *behind) Scan(bucket, prefix string, fn func(key string, v auth.Value) bool) {
	b.Meta.Scan(bucket, prefix, func(key string, v auth.Value) bool {
		b.mu.Lock()
		hidden := bucket == auth.BucketSessions && b.hidden[key]
		b.mu.Unlock()
		return hidden || fn(key, v)
	})
}

func (b *behind) Commit(ctx context.Context, txn auth.Txn) (uint64, error) {
	index, err := b.Meta.Commit(ctx, txn)
	b.mu.Lock()
	b.hidden = nil
	b.mu.Unlock()
	return index, err
}

// A session that another node opened a moment ago, with the old password or before the user was kept out, ends with the
// others, although the node that ends them had not heard of it.
func TestSessionsOfAnotherNodeEndToo(t *testing.T) {
	for name, end := range map[string]func(s *auth.Service, own auth.Principal) error{
		"password": func(s *auth.Service, _ auth.Principal) error {
			return s.SetPassword(t.Context(), "ada", "another password", auth.Principal{})
		},
		"own password": func(s *auth.Service, own auth.Principal) error {
			return s.ChangePassword(t.Context(), own, here, "correct horse ada", "another password")
		},
		"disabled and enabled": func(s *auth.Service, _ auth.Principal) error {
			return errors.Join(s.SetDisabled(t.Context(), "ada", true, auth.Principal{}), s.SetDisabled(t.Context(), "ada", false, auth.Principal{}))
		},
		"deleted and made anew": func(s *auth.Service, _ auth.Principal) error {
			return errors.Join(s.DeleteUser(t.Context(), "ada", auth.Principal{}), s.CreateUser(t.Context(), "ada", "another password", auth.RoleAdministrator, auth.Principal{}))
		},
		"ended": func(s *auth.Service, _ auth.Principal) error {
			_, err := s.EndSessions(t.Context(), "ada", auth.Principal{})
			return err
		},
		"others ended": func(s *auth.Service, own auth.Principal) error {
			_, err := s.EndOthers(t.Context(), own)
			return err
		},
	} {
		m := &behind{Meta: &authtest.Meta{}}
		m.Advance(1_000_000 * hour)
		s := auth.New(auth.Config{Meta: m, Password: authtest.Cheap()})
		other := auth.New(auth.Config{Meta: m.Meta, Password: authtest.Cheap()})
		addUser(t, s, "root", auth.RoleAdministrator)
		addUser(t, s, "ada", auth.RoleOperator)
		_, own := login(t, s, "ada")
		if name == "others ended" {
			_, _ = login(t, s, "ada")
		}
		elsewhere, p := login(t, other, "ada")
		m.hide(p.Key)
		if err := end(s, own); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if p, err := other.Session(elsewhere); err == nil {
			t.Errorf("%s: the session goes on as %s", name, p.Role)
		}
		s.Close()
		other.Close()
	}
}

// So does the session of somebody who knew the old password when a set-up link replaces it, and what a deleted user left
// behind is no session of the next one of the name.
func TestSessionsFromBeforeASetupLinkEnd(t *testing.T) {
	m := &behind{Meta: &authtest.Meta{}}
	m.Advance(1_000_000 * hour)
	s := auth.New(auth.Config{Meta: m, Password: authtest.Cheap()})
	defer s.Close()
	other := auth.New(auth.Config{Meta: m.Meta, Password: authtest.Cheap()})
	defer other.Close()
	addUser(t, s, "root", auth.RoleAdministrator)
	addUser(t, s, "ada", auth.RoleOperator)
	link, _, err := s.Invite(t.Context(), "ada", "", 0, auth.Principal{})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, p := login(t, other, "ada")
	m.hide(p.Key)
	fresh, _, err := s.RedeemInvite(t.Context(), here, link, "another password")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Session(elsewhere); err == nil {
		t.Error("a session of the old password goes on")
	}
	if _, err := other.Session(fresh); err != nil {
		t.Errorf("the one that the link opened: %v", err)
	}
}
