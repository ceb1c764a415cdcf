package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// MaxInviteLife bounds how long a set-up link is good for.
const MaxInviteLife = 30 * 24 * time.Hour

// Invite is a set-up link: whoever opens it gives the user a password and is logged in, once.
type Invite struct {
	User    string `json:"user"`
	Role    Role   `json:"role"`
	Expires int64  `json:"expires"` // log time, ms
}

// inviteRecord is an invite as stored under the hash of its secret. One that was used is kept for a while, to say so to
// whoever shows it again.
type inviteRecord struct {
	User    string `json:"user"`
	UserID  string `json:"user_id"` // so that another user of the same name has nothing of it
	Created int64  `json:"created"` // log time, ms
	Expires int64  `json:"expires"` // log time, ms
	Used    int64  `json:"used,omitempty"`
	By      string `json:"by,omitempty"`
	Owner   Owner  `json:"owner,omitzero"` // who must be an administrator still
}

// NewInvite makes the secret of a set-up link and the form in which it is stored. It counts from InviteFirst on.
func NewInvite() (secret, hash string) {
	secret = newSecret(prefixInvite)
	return secret, hashSecret(secret)
}

// InviteFirst makes the first administrator of a new cluster with the set-up link whose stored form is hash. It returns
// ErrExists when there is a user of the name.
func (s *Service) InviteFirst(ctx context.Context, name, hash string, life time.Duration, by Principal) error {
	if err := CheckUser(name, RoleAdministrator); err != nil {
		return err
	}
	if _, _, ok := s.user(name); ok {
		return fmt.Errorf("create user %s: %w", name, ErrExists)
	}
	setDefault(&life, s.cfg.InviteLife)
	_, err := s.invite(ctx, name, RoleAdministrator, hash, life, by)
	return err
}

// Invite makes a set-up link for the user and takes earlier ones back. A user who does not exist is made with the role
// and cannot log in before the link was used; for one who exists the role must be "" or theirs, and the password stays
// good until the link is used. life 0 takes the default.
func (s *Service) Invite(ctx context.Context, name string, role Role, life time.Duration, by Principal) (secret string, i Invite, err error) {
	setDefault(&life, s.cfg.InviteLife)
	if life < time.Minute || life > MaxInviteLife {
		return "", i, fmt.Errorf("life of the link %s: want 1m to %s: %w", life, MaxInviteLife, ErrInvalid)
	}
	secret, hash := NewInvite()
	i, err = s.invite(ctx, name, role, hash, life, by)
	return secret, i, err
}

func (s *Service) invite(ctx context.Context, name string, role Role, hash string, life time.Duration, by Principal) (Invite, error) {
	for range casRetries {
		txn := Txn{}
		u, mod, known := s.user(name)
		if known {
			if role != "" && role != u.Role {
				return Invite{}, fmt.Errorf("user %s is %s already, not %.30s: %w", name, u.Role, string(role), ErrExists)
			}
			if u.Disabled {
				return Invite{}, fmt.Errorf("user %s is disabled; enable them first: %w", name, ErrInvalid)
			}
		} else {
			if err := CheckUser(name, role); err != nil {
				return Invite{}, err
			}
			if s.count(BucketUsers) >= s.cfg.MaxUsers {
				return Invite{}, fmt.Errorf("invite user %s: %d users: %w", name, s.cfg.MaxUsers, ErrLimit)
			}
			u = userRecord{ID: newSecret(""), Name: name, Role: role, Created: s.meta.LogTime()}
			txn.Ops = append(s.sessionsOf(name), Op{Bucket: BucketUsers, Key: name, Value: encode(u)}) // and nothing of an earlier one
		}
		txn.Compares = []Compare{{Bucket: BucketUsers, Key: name, ModIndex: mod}}
		if u.ID == "" { // of before users had one: the link must not outlive them
			u.ID = newSecret("")
			txn.Ops = append(txn.Ops, Op{Bucket: BucketUsers, Key: name, Value: encode(u)})
		}
		now := s.meta.LogTime()
		rec := inviteRecord{User: name, UserID: u.ID, Created: now, Expires: now + life.Milliseconds(), By: by.Actor(), Owner: by.Owner}
		txn.Ops = append(txn.Ops, s.invitesOf(name)...)
		txn.Ops = append(txn.Ops, Op{Bucket: BucketInvites, Key: hash, Value: encode(rec), Expires: rec.Expires + tokenMemory.Milliseconds()})
		txn.Audit = by.did("user.invite", name, change{After: map[string]any{"role": u.Role, "link_expires": rec.Expires, "new": !known}})
		_, err := s.meta.Commit(ctx, txn)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return Invite{}, fmt.Errorf("invite user %s: %w", name, err)
		}
		return Invite{User: name, Role: u.Role, Expires: rec.Expires}, nil
	}
	return Invite{}, fmt.Errorf("invite user %s: %w", name, ErrConflict)
}

// invitesOf returns the removal of the user's set-up links that are not used yet.
func (s *Service) invitesOf(user string) []Op {
	var ops []Op
	s.meta.Scan(BucketInvites, "", func(key string, v Value) bool {
		var rec inviteRecord
		if json.Unmarshal(v.Data, &rec) == nil && rec.User == user && rec.Used == 0 {
			ops = append(ops, Op{Delete: true, Bucket: BucketInvites, Key: key})
		}
		return true
	})
	return ops
}

// openInvites returns when the set-up link of each user who has one expires.
func (s *Service) openInvites() map[string]int64 {
	open := make(map[string]int64)
	s.meta.Scan(BucketInvites, "", func(_ string, v Value) bool {
		var rec inviteRecord
		if json.Unmarshal(v.Data, &rec) == nil && rec.Used == 0 && !s.past(rec.Expires) {
			open[rec.User] = rec.Expires
		}
		return true
	})
	return open
}

// found is a set-up link that is good now, with what it goes by.
type foundInvite struct {
	key     string
	rec     inviteRecord
	mod     uint64
	user    userRecord
	userMod uint64
}

func (s *Service) findInvite(secret string) (f foundInvite, err error) {
	if secret == "" || len(secret) > maxSecretLen {
		return f, ErrToken
	}
	f.key = hashSecret(secret)
	v, ok := s.meta.Get(BucketInvites, f.key)
	if !ok {
		return f, ErrToken
	}
	if err := json.Unmarshal(v.Data, &f.rec); err != nil {
		return f, fmt.Errorf("read set-up link: %w", ErrToken)
	}
	f.mod = v.ModIndex
	switch {
	case f.rec.Used != 0:
		return f, &tokenError{fmt.Sprintf("the set-up link was used already, at %s; if that was not you, tell an administrator", utcText(f.rec.Used))}
	case s.past(f.rec.Expires):
		return f, &tokenError{"the set-up link expired at " + utcText(f.rec.Expires)}
	}
	if role, ok := s.bound(RoleAdministrator, f.rec.Owner); !ok || role != RoleAdministrator {
		return f, ErrToken
	}
	f.user, f.userMod, ok = s.user(f.rec.User)
	if !ok || f.user.ID != f.rec.UserID || f.user.Disabled {
		return f, ErrToken
	}
	return f, nil
}

func utcText(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// AllowSetup counts an attempt to use a set-up link from the address and reports whether it may be looked at.
func (s *Service) AllowSetup(from netip.Addr) bool {
	return s.byResume.allow("setup:" + addressKey(from))
}

// CheckInvite says what a set-up link is for, without using it. It returns ErrToken when it is not good (any more).
func (s *Service) CheckInvite(secret string) (Invite, error) {
	f, err := s.findInvite(secret)
	if err != nil {
		return Invite{}, err
	}
	return Invite{User: f.user.Name, Role: f.user.Role, Expires: f.rec.Expires}, nil
}

// RedeemInvite gives the user of a set-up link the password and opens a session, in one transaction: of any number that
// redeem at once on any nodes one succeeds. Sessions that the user has end.
func (s *Service) RedeemInvite(ctx context.Context, from netip.Addr, secret, password string) (session string, p Principal, err error) {
	if _, err := s.CheckInvite(secret); err != nil {
		return "", Principal{}, err
	}
	if err := checkPassword(password); err != nil {
		return "", Principal{}, err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return "", Principal{}, fmt.Errorf("set password: %w", err)
	}
	for range casRetries {
		f, err := s.findInvite(secret)
		if err != nil {
			return "", Principal{}, err
		}
		now := s.meta.LogTime()
		f.user.Password, f.rec.Used = hash, max(now, 1)
		who := Principal{Name: f.user.Name, Kind: KindSession, Address: addressText(from)}
		session, p, err = s.open(ctx, f.user, now, who.Address, Txn{
			Compares: []Compare{
				{Bucket: BucketInvites, Key: f.key, ModIndex: f.mod},
				{Bucket: BucketUsers, Key: f.user.Name, ModIndex: f.userMod},
			},
			Ops: append(
				s.sessionsOf(f.user.Name),
				Op{Bucket: BucketInvites, Key: f.key, Value: encode(f.rec), Expires: now + tokenMemory.Milliseconds()},
				Op{Bucket: BucketUsers, Key: f.user.Name, Value: encode(f.user)},
			),
			Audit: who.did("user.setup", f.user.Name, map[string]any{"link_by": f.rec.By}),
		})
		if errors.Is(err, ErrConflict) {
			continue // used meanwhile, or the user was changed: look again
		}
		if err == nil {
			s.endBefore(ctx, p)
		}
		return session, p, err
	}
	return "", Principal{}, fmt.Errorf("redeem set-up link: %w", ErrConflict)
}

// endBefore ends the sessions that were opened before this one, which the set-up link opened.
func (s *Service) endBefore(ctx context.Context, p Principal) {
	_, index, ok := s.session(p.Key)
	if !ok {
		return // ended already
	}
	if _, err := s.endMissed(ctx, p.Name, index, p.Key); err != nil {
		s.log.Warn("sessions from before the use of a set-up link may go on", "user", p.Name, "err", err)
	}
}
