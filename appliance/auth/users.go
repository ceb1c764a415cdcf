package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// User is a person as the API shows them.
type User struct {
	Name     string `json:"name"`
	Role     Role   `json:"role"`
	Created  int64  `json:"created,omitempty"` // log time, ms; absent in old records
	Disabled bool   `json:"disabled,omitempty"`
	Sessions int    `json:"sessions,omitempty"` // that are open
	// NoPassword says that the user cannot log in before a set-up link was used.
	NoPassword bool `json:"no_password,omitempty"`
	// LinkExpires is when the user's set-up link ends, log time in ms; absent when there is none.
	LinkExpires int64 `json:"link_expires,omitempty"`
}

// userRecord is a user as stored.
type userRecord struct {
	ID       string `json:"id,omitempty"` // tells this user from an earlier one of the name; absent in old records
	Name     string `json:"name"`
	Role     Role   `json:"role"`
	Password string `json:"argon2id"` // "" until a set-up link was used
	Created  int64  `json:"created,omitempty"`
	Disabled bool   `json:"disabled,omitempty"`
}

// administers reports whether the user can log in and administer.
func (u *userRecord) administers() bool {
	return u.Role == RoleAdministrator && u.Password != "" && !u.Disabled
}

func (u *userRecord) principal(session string, expires int64) Principal {
	return Principal{
		Name: u.Name, Role: u.Role, Kind: KindSession, Key: session, Expires: expires, Owner: Owner{u.Name, u.ID},
	}
}

var userName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// CheckUser returns ErrInvalid when nobody can be named so, or no person can have the role.
func CheckUser(name string, role Role) error {
	if !userName.MatchString(name) {
		return fmt.Errorf("user name %.70q: 1 to 64 of letters, digits, . _ @ -, a letter or digit first: %w", name, ErrInvalid)
	}
	if !role.Valid() || role == RoleIngest {
		return fmt.Errorf("role %.30q: want viewer, operator, administrator or auditor: %w", string(role), ErrInvalid)
	}
	return nil
}

func checkPassword(password string) error {
	if len(password) < MinPassword || len(password) > MaxPassword {
		return fmt.Errorf("password of %d bytes: want %d to %d: %w", len(password), MinPassword, MaxPassword, ErrInvalid)
	}
	return nil
}

// user returns the record and the index that wrote it.
func (s *Service) user(name string) (userRecord, uint64, bool) {
	v, ok := s.meta.Get(BucketUsers, name)
	if !ok {
		return userRecord{}, 0, false
	}
	var u userRecord
	if err := json.Unmarshal(v.Data, &u); err != nil || !u.Role.Valid() {
		s.log.Error("user record is not readable", "user", name, "err", err)
		return userRecord{}, 0, false
	}
	return u, v.ModIndex, true
}

// CreateUser adds a user. It returns ErrExists when the name is taken.
func (s *Service) CreateUser(ctx context.Context, name, password string, role Role, by Principal) error {
	if err := errors.Join(CheckUser(name, role), checkPassword(password)); err != nil {
		return err
	}
	if s.count(BucketUsers) >= s.cfg.MaxUsers {
		return fmt.Errorf("create user %s: %d users: %w", name, s.cfg.MaxUsers, ErrLimit)
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("create user %s: %w", name, err)
	}
	rec := userRecord{ID: newSecret(""), Name: name, Role: role, Password: hash, Created: s.meta.LogTime()}
	_, err = s.meta.Commit(ctx, Txn{
		Compares: []Compare{{Bucket: BucketUsers, Key: name}},
		// What an earlier user of the name left behind must not log in as this one.
		Ops:   append(s.sessionsOf(name), Op{Bucket: BucketUsers, Key: name, Value: encode(rec)}),
		Audit: by.did("user.create", name, change{After: map[string]any{"role": role}}),
	})
	if errors.Is(err, ErrConflict) {
		return fmt.Errorf("create user %s: %w", name, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("create user %s: %w", name, err)
	}
	return nil
}

// SetPassword gives the user another password, ends all of the user's sessions and takes set-up links back, at once.
func (s *Service) SetPassword(ctx context.Context, name, password string, by Principal) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("set password of %s: %w", name, err)
	}
	index, err := s.changeUser(ctx, name, func(u *userRecord) (Txn, error) {
		u.Password = hash
		return Txn{Ops: slices.Concat(s.sessionsOf(name), s.invitesOf(name)), Audit: by.did("user.password", name, nil)}, nil
	})
	if err == nil {
		_, err = s.endMissed(ctx, name, index, "")
	}
	if err != nil {
		return fmt.Errorf("set password of %s: %w", name, err)
	}
	return nil
}

// ChangePassword gives the user of the session another password when the old one is right, and ends the user's other
// sessions. It returns ErrCredentials when it is wrong.
func (s *Service) ChangePassword(ctx context.Context, p Principal, from netip.Addr, old, password string) error {
	if p.Kind != KindSession {
		return fmt.Errorf("change password: an API token has none: %w", ErrInvalid)
	}
	if !s.byUser.allow(p.Name) {
		return fmt.Errorf("change password: %w", ErrTooMany)
	}
	if err := checkPassword(password); err != nil {
		return err
	}
	u, _, _ := s.user(p.Name)
	ok, err := s.hasher.check(ctx, u.Password, old)
	if err != nil {
		return fmt.Errorf("change password: %w", err)
	}
	if !ok {
		s.failed(p.Name, from, u, "wrong old password")
		return fmt.Errorf("change password: %w", ErrCredentials)
	}
	s.byUser.forget(p.Name)
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("change password: %w", err)
	}
	was := u.Password
	index, err := s.changeUser(ctx, p.Name, func(u *userRecord) (Txn, error) {
		if u.Password != was { // the right old password is not right any more
			return Txn{}, ErrConflict
		}
		u.Password = hash
		return Txn{Ops: append(s.others(p), s.invitesOf(p.Name)...), Audit: p.did("user.password", p.Name, nil)}, nil
	})
	if err == nil {
		_, err = s.endMissed(ctx, p.Name, index, p.Key)
	}
	if err != nil {
		return fmt.Errorf("change password: %w", err)
	}
	return nil
}

// SetRole gives the user another role; it holds at once for the user's open sessions and bounds the tokens that the user
// has made. It returns ErrLastAdministrator when nobody else could administer.
func (s *Service) SetRole(ctx context.Context, name string, role Role, by Principal) error {
	if err := CheckUser(name, role); err != nil {
		return err
	}
	_, err := s.changeUser(ctx, name, func(u *userRecord) (Txn, error) {
		txn := Txn{Audit: by.did("user.role", name, change{
			Before: map[string]any{"role": u.Role}, After: map[string]any{"role": role},
		})}
		var err error
		if role != RoleAdministrator {
			txn.Compares, err = s.another(u)
		}
		u.Role = role
		return txn, err
	})
	if err != nil {
		return fmt.Errorf("set role of %s: %w", name, err)
	}
	return nil
}

// SetDisabled keeps the user out without forgetting them, or lets them in again. Sessions end and set-up links are taken
// back; tokens that the user has made are void as long as it lasts.
func (s *Service) SetDisabled(ctx context.Context, name string, disabled bool, by Principal) error {
	action := "user.enable"
	if disabled {
		action = "user.disable"
	}
	index, err := s.changeUser(ctx, name, func(u *userRecord) (Txn, error) {
		txn := Txn{Audit: by.did(action, name, change{
			Before: map[string]any{"disabled": u.Disabled}, After: map[string]any{"disabled": disabled},
		})}
		var err error
		if disabled {
			txn.Ops = slices.Concat(s.sessionsOf(name), s.invitesOf(name))
			txn.Compares, err = s.another(u)
		}
		u.Disabled = disabled
		return txn, err
	})
	if err == nil && disabled {
		_, err = s.endMissed(ctx, name, index, "")
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", action, name, err)
	}
	return nil
}

// another returns the condition under which somebody else than u can administer: that the record of one who can stays as
// it is. Of two administrators who remove each other at the same moment one stays.
func (s *Service) another(u *userRecord) ([]Compare, error) {
	if !u.administers() {
		return nil, nil
	}
	var found []Compare
	s.meta.Scan(BucketUsers, "", func(key string, v Value) bool {
		var other userRecord
		if key != u.Name && json.Unmarshal(v.Data, &other) == nil && other.administers() {
			found = []Compare{{Bucket: BucketUsers, Key: key, ModIndex: v.ModIndex}}
		}
		return found == nil
	})
	if found == nil {
		return nil, ErrLastAdministrator
	}
	return found, nil
}

// changeUser reads, changes and writes the record of a user together with what change returns, again when somebody else
// was faster. It returns the index of the entry that changed it.
func (s *Service) changeUser(ctx context.Context, name string, change func(*userRecord) (Txn, error)) (uint64, error) {
	for range casRetries {
		u, mod, ok := s.user(name)
		if !ok {
			return 0, fmt.Errorf("user %.70s: %w", name, ErrNotFound)
		}
		txn, err := change(&u)
		if err != nil {
			return 0, err
		}
		txn.Compares = append(txn.Compares, Compare{Bucket: BucketUsers, Key: name, ModIndex: mod})
		txn.Ops = append(txn.Ops, Op{Bucket: BucketUsers, Key: name, Value: encode(u)})
		index, err := s.meta.Commit(ctx, txn)
		if !errors.Is(err, ErrConflict) {
			return index, err
		}
	}
	return 0, ErrConflict
}

// DeleteUser removes the user with their sessions, set-up links and the tokens that they have made; all of these are void
// from then on, because without its user none is good, and another user of the name owns none of them. It returns
// ErrLastAdministrator when nobody else could administer.
func (s *Service) DeleteUser(ctx context.Context, name string, by Principal) error {
	for range casRetries {
		err := s.deleteUser(ctx, name, by)
		if !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("delete user %s: %w", name, ErrConflict)
}

func (s *Service) deleteUser(ctx context.Context, name string, by Principal) error {
	u, mod, ok := s.user(name)
	if !ok {
		return fmt.Errorf("delete user %.70s: %w", name, ErrNotFound)
	}
	compares, err := s.another(&u)
	if err != nil {
		return fmt.Errorf("delete user %s: %w", name, err)
	}
	left := slices.Concat(s.sessionsOf(name), s.invitesOf(name), s.ownedBy(Owner{name, u.ID}))
	first := left[:min(len(left), maxOps-1)]
	index, err := s.meta.Commit(ctx, Txn{
		Compares: append(compares, Compare{Bucket: BucketUsers, Key: name, ModIndex: mod}),
		Ops:      append([]Op{{Delete: true, Bucket: BucketUsers, Key: name}}, first...),
		Audit:    by.did("user.delete", name, change{Before: map[string]any{"role": u.Role, "tokens_and_sessions": len(left)}}),
	})
	if err != nil {
		return fmt.Errorf("delete user %s: %w", name, err)
	}
	for rest := range slices.Chunk(left[len(first):], maxOps) { // void already; this only clears them away
		if _, err := s.meta.Commit(ctx, Txn{Ops: rest}); err != nil {
			s.log.Warn("tokens of a deleted user are not cleared away", "user", name, "err", err)
			break
		}
	}
	if _, err := s.endMissed(ctx, name, index, ""); err != nil { // they are void without their user
		s.log.Warn("sessions of a deleted user are not cleared away", "user", name, "err", err)
	}
	return nil
}

// maxOps is how many changes one transaction may have.
const maxOps = 200

// ownedBy returns the removal of all tokens that the user has made.
func (s *Service) ownedBy(owner Owner) []Op {
	var ops []Op
	for _, bucket := range []string{BucketAPITokens, BucketTokens} {
		s.meta.Scan(bucket, "", func(key string, v Value) bool {
			var t struct {
				Owner Owner `json:"owner"`
			}
			if json.Unmarshal(v.Data, &t) == nil && t.Owner == owner {
				ops = append(ops, Op{Delete: true, Bucket: bucket, Key: key})
			}
			return true
		})
	}
	return ops
}

// bound returns the role that a token has now which was made with that role by the owner: never more than the owner's own.
// false when the owner is gone or may not do what the token is for any more.
func (s *Service) bound(role Role, owner Owner) (Role, bool) {
	if owner == (Owner{}) {
		return role, true
	}
	u, _, ok := s.user(owner.Name)
	if !ok || u.ID != owner.ID || u.Disabled {
		return "", false
	}
	role = role.within(u.Role)
	return role, role.Valid()
}

// Users returns all users in the order of their names.
func (s *Service) Users() []User {
	var list []User
	links := s.openInvites()
	open := make(map[string]int)
	for _, held := range s.Sessions("") {
		open[held.User]++
	}
	s.meta.Scan(BucketUsers, "", func(_ string, v Value) bool {
		var u userRecord
		if json.Unmarshal(v.Data, &u) == nil {
			list = append(list, User{
				Name: u.Name, Role: u.Role, Created: u.Created, Disabled: u.Disabled, Sessions: open[u.Name],
				NoPassword: u.Password == "", LinkExpires: links[u.Name],
			})
		}
		return len(list) < s.cfg.MaxUsers
	})
	return list
}

// count returns how many keys a bucket has.
func (s *Service) count(bucket string) int {
	n := 0
	s.meta.Scan(bucket, "", func(string, Value) bool { n++; return true })
	return n
}
