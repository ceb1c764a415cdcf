package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// User is a person as the API shows them.
type User struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
}

// userRecord is a user as stored.
type userRecord struct {
	ID       string `json:"id,omitempty"` // tells this user from an earlier one of the name; absent in old records
	Name     string `json:"name"`
	Role     Role   `json:"role"`
	Password string `json:"argon2id"`
}

func (u *userRecord) principal(session string, expires int64) Principal {
	return Principal{
		Name: u.Name, Role: u.Role, Kind: KindSession, Key: session, Expires: expires, Owner: Owner{u.Name, u.ID},
	}
}

var userName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

func checkUser(name string, role Role) error {
	if !userName.MatchString(name) {
		return fmt.Errorf("user name %.70q: 1 to 64 of letters, digits, . _ @ -, a letter or digit first: %w", name, ErrInvalid)
	}
	if !role.Valid() || role == RoleIngest {
		return fmt.Errorf("role %.30q: want viewer, operator or administrator: %w", string(role), ErrInvalid)
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
func (s *Service) CreateUser(ctx context.Context, name, password string, role Role) error {
	if err := errors.Join(checkUser(name, role), checkPassword(password)); err != nil {
		return err
	}
	if s.count(BucketUsers) >= s.cfg.MaxUsers {
		return fmt.Errorf("create user %s: %d users: %w", name, s.cfg.MaxUsers, ErrLimit)
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("create user %s: %w", name, err)
	}
	rec := userRecord{ID: newSecret(""), Name: name, Role: role, Password: hash}
	_, err = s.meta.Commit(ctx, Txn{
		Compares: []Compare{{Bucket: BucketUsers, Key: name}},
		Ops:      []Op{{Bucket: BucketUsers, Key: name, Value: encode(rec)}},
	})
	if errors.Is(err, ErrConflict) {
		return fmt.Errorf("create user %s: %w", name, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("create user %s: %w", name, err)
	}
	return nil
}

// SetPassword gives the user another password and ends all of the user's sessions.
func (s *Service) SetPassword(ctx context.Context, name, password string) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("set password of %s: %w", name, err)
	}
	err = s.changeUser(ctx, name, func(u *userRecord) { u.Password = hash })
	if err != nil {
		return fmt.Errorf("set password of %s: %w", name, err)
	}
	return s.EndSessions(ctx, name)
}

// SetRole gives the user another role; it holds at once for the user's open sessions and bounds the tokens that the user
// has made.
func (s *Service) SetRole(ctx context.Context, name string, role Role) error {
	if err := checkUser(name, role); err != nil {
		return err
	}
	if err := s.changeUser(ctx, name, func(u *userRecord) { u.Role = role }); err != nil {
		return fmt.Errorf("set role of %s: %w", name, err)
	}
	return nil
}

func (s *Service) changeUser(ctx context.Context, name string, change func(*userRecord)) error {
	for range casRetries {
		u, mod, ok := s.user(name)
		if !ok {
			return fmt.Errorf("user %s: %w", name, ErrNotFound)
		}
		change(&u)
		_, err := s.meta.Commit(ctx, Txn{
			Compares: []Compare{{Bucket: BucketUsers, Key: name, ModIndex: mod}},
			Ops:      []Op{{Bucket: BucketUsers, Key: name, Value: encode(u)}},
		})
		if !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return ErrConflict
}

// DeleteUser removes the user with their sessions and the tokens that they have made; all of these are void from then on,
// because without its user none is good, and another user of the name owns none of them.
func (s *Service) DeleteUser(ctx context.Context, name string) error {
	u, mod, ok := s.user(name)
	if !ok {
		return fmt.Errorf("delete user %s: %w", name, ErrNotFound)
	}
	left := slices.Concat(s.sessionsOf(name), s.ownedBy(Owner{name, u.ID}))
	first := left[:min(len(left), maxOps-1)]
	_, err := s.meta.Commit(ctx, Txn{
		Compares: []Compare{{Bucket: BucketUsers, Key: name, ModIndex: mod}},
		Ops:      append([]Op{{Delete: true, Bucket: BucketUsers, Key: name}}, first...),
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
	if !ok || u.ID != owner.ID {
		return "", false
	}
	role = role.within(u.Role)
	return role, role.Valid()
}

// Users returns all users in the order of their names.
func (s *Service) Users() []User {
	var list []User
	s.meta.Scan(BucketUsers, "", func(_ string, v Value) bool {
		var u userRecord
		if json.Unmarshal(v.Data, &u) == nil {
			list = append(list, User{Name: u.Name, Role: u.Role})
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
