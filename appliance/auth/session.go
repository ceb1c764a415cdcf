package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Kind says how somebody proved who they are.
type Kind string

// The kinds of identity.
const (
	KindNone    Kind = ""
	KindSession Kind = "session" // a browser's cookie
	KindToken   Kind = "token"   // an API token
	KindNode    Kind = "node"    // a node itself, which Name names
)

// Principal is whoever makes a request. The zero value is nobody.
type Principal struct {
	Name    string // user, or name of the API token
	Role    Role
	Kind    Kind
	Key     string // the hash under which the session or token is stored; tells two of one user apart
	Expires int64  // log time in ms at which the session ends unless renewed; 0 for never
	Owner   Owner  // the user behind it
	Node    string // whose own command line the token is of; "" for all others
	Address string // where the request came from, for the audit log; "" when unknown
}

// Owner is the user whose rights bound those of what was made with them. The zero value is nobody: a node's own command
// line.
type Owner struct {
	Name string `json:"name,omitempty"`
	ID   string `json:"id,omitempty"` // of the user record, so that another user of the same name owns nothing
}

// sessionRecord is a session as stored under the hash of its secret.
type sessionRecord struct {
	User    string `json:"user"`
	Created int64  `json:"created"` // log time, ms
	Expires int64  `json:"expires"` // log time, ms
	Address string `json:"address,omitempty"`
}

// ticketRecord is a resume ticket as stored under the hash of its secret.
type ticketRecord struct {
	User    string `json:"user"`
	Session string `json:"session"` // the session it continues, by hash
	Created int64  `json:"created"` // that of the session: a ticket does not prolong the longest life
}

// Login checks the password and opens a session. The secret goes into the cookie and is not kept here. It returns
// ErrCredentials or ErrTooMany when it refuses. from may be the zero Addr when unknown.
func (s *Service) Login(ctx context.Context, from netip.Addr, name, password string) (secret string, p Principal, err error) {
	addr := addressKey(from)
	if !s.byAddr.allow(addr) {
		s.failed(name, from, userRecord{}, "too many attempts from this address")
		return "", Principal{}, fmt.Errorf("login from this address: %w", ErrTooMany)
	}
	if len(name) > 64 || len(password) > MaxPassword {
		return "", Principal{}, ErrCredentials
	}
	if !s.byUser.allow(name) {
		s.failed(name, from, userRecord{}, "too many attempts to this account")
		return "", Principal{}, fmt.Errorf("login to this account: %w", ErrTooMany)
	}
	for range casRetries {
		u, mod, known := s.user(name)
		known = known && !u.Disabled
		ok, err := s.hasher.check(ctx, u.Password, password)
		if err != nil {
			return "", Principal{}, fmt.Errorf("login: %w", err)
		}
		if !known || !ok {
			s.failed(name, from, u, "wrong user name or password")
			return "", Principal{}, ErrCredentials
		}
		who := Principal{Name: name, Kind: KindSession, Address: addressText(from)}
		secret, p, err = s.open(ctx, u, s.meta.LogTime(), who.Address, Txn{
			// Password and role are those that were looked at: a login races no change of them.
			Compares: []Compare{{Bucket: BucketUsers, Key: name, ModIndex: mod}},
			Audit:    who.did("session.login", name, nil),
		})
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return "", Principal{}, fmt.Errorf("login: %w", err)
		}
		s.byAddr.forget(addr)
		s.byUser.forget(name)
		return secret, p, nil
	}
	return "", Principal{}, fmt.Errorf("login: %w", ErrConflict)
}

// open puts a new session into the transaction and commits it. created is when the login was.
func (s *Service) open(ctx context.Context, u userRecord, created int64, from string, txn Txn) (string, Principal, error) {
	secret := newSecret("")
	key := hashSecret(secret)
	rec := sessionRecord{User: u.Name, Created: created, Expires: s.expiry(created), Address: from}
	txn.Ops = append(txn.Ops, s.surplus(u.Name)...)
	txn.Ops = append(txn.Ops, Op{Bucket: BucketSessions, Key: key, Value: encode(rec), Expires: rec.Expires})
	if _, err := s.meta.Commit(ctx, txn); err != nil {
		return "", Principal{}, fmt.Errorf("open session of %s: %w", u.Name, err)
	}
	return secret, u.principal(key, rec.Expires), nil
}

// expiry is when a session that is used now ends: idle time from now, but not beyond the longest life.
func (s *Service) expiry(created int64) int64 {
	return min(s.meta.LogTime()+s.cfg.SessionIdle.Milliseconds(), created+s.cfg.SessionMax.Milliseconds())
}

// surplus returns the removal of the user's oldest sessions beyond the bound, making room for one.
func (s *Service) surplus(user string) []Op {
	type held struct {
		key     string
		created int64
	}
	var all []held
	s.meta.Scan(BucketSessions, "", func(key string, v Value) bool {
		var rec sessionRecord
		if json.Unmarshal(v.Data, &rec) == nil && rec.User == user {
			all = append(all, held{key, rec.Created})
		}
		return true
	})
	if len(all) < s.cfg.MaxSessions {
		return nil
	}
	slices.SortFunc(all, func(a, b held) int { return cmp.Compare(a.created, b.created) })
	var ops []Op
	for _, h := range all[:len(all)-s.cfg.MaxSessions+1] {
		ops = append(ops, Op{Delete: true, Bucket: BucketSessions, Key: h.key})
	}
	return ops
}

// Session returns who holds the secret of a session.
func (s *Service) Session(secret string) (Principal, error) {
	if secret == "" || len(secret) > maxSecretLen {
		return Principal{}, ErrUnauthenticated
	}
	return s.sessionByKey(hashSecret(secret))
}

func (s *Service) sessionByKey(key string) (Principal, error) {
	rec, _, ok := s.session(key)
	if !ok {
		return Principal{}, ErrUnauthenticated
	}
	u, _, ok := s.user(rec.User)
	if !ok || u.Disabled {
		return Principal{}, ErrUnauthenticated
	}
	return u.principal(key, rec.Expires), nil
}

func (s *Service) session(key string) (sessionRecord, uint64, bool) {
	v, ok := s.meta.Get(BucketSessions, key)
	if !ok {
		return sessionRecord{}, 0, false
	}
	var rec sessionRecord
	if err := json.Unmarshal(v.Data, &rec); err != nil {
		s.log.Error("session record is not readable", "err", err)
		return sessionRecord{}, 0, false
	}
	if rec.Expires <= s.meta.LogTime() {
		return sessionRecord{}, 0, false
	}
	return rec, v.ModIndex, true
}

// Recheck looks the identity up again and returns it with the role that it has now; false when it is void.
func (s *Service) Recheck(p Principal) (Principal, bool) {
	var now Principal
	var err error
	switch p.Kind {
	case KindSession:
		now, err = s.sessionByKey(p.Key)
	case KindToken:
		now, err = s.apiTokenByKey(p.Key)
	default:
		return Principal{}, false
	}
	return now, err == nil
}

// Renew prolongs a session in the background when more than half of its idle time has passed. A renewal that
// fails is tried again at the next request.
func (s *Service) Renew(p Principal) {
	if p.Kind != KindSession || p.Expires-s.meta.LogTime() > s.cfg.SessionIdle.Milliseconds()/2 {
		return
	}
	rec, mod, ok := s.session(p.Key)
	if !ok || s.expiry(rec.Created) <= rec.Expires {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.renewing[p.Key] || len(s.renewing) >= 64 {
		return
	}
	s.renewing[p.Key] = true
	rec.Expires = s.expiry(rec.Created)
	s.renewals.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.renewing, p.Key)
			s.mu.Unlock()
		}()
		ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
		defer cancel()
		_, err := s.meta.Commit(ctx, Txn{
			Compares: []Compare{{Bucket: BucketSessions, Key: p.Key, ModIndex: mod}},
			Ops:      []Op{{Bucket: BucketSessions, Key: p.Key, Value: encode(rec), Expires: rec.Expires}},
		})
		if err != nil && !errors.Is(err, ErrConflict) {
			s.log.Warn("session was not renewed", "user", p.Name, "err", err)
		}
	})
}

// Logout ends the session everywhere. Ending one that is gone already is no error.
func (s *Service) Logout(ctx context.Context, p Principal) error {
	if p.Kind != KindSession {
		return fmt.Errorf("log out: an API token has no session: %w", ErrInvalid)
	}
	_, err := s.meta.Commit(ctx, Txn{
		Ops:   []Op{{Delete: true, Bucket: BucketSessions, Key: p.Key}},
		Audit: p.did("session.logout", p.Name, nil),
	})
	if err != nil {
		return fmt.Errorf("log out %s: %w", p.Name, err)
	}
	return nil
}

// sessionsOf returns the removal of all sessions of the user.
func (s *Service) sessionsOf(user string) []Op {
	var ops []Op
	s.meta.Scan(BucketSessions, "", func(key string, v Value) bool {
		var rec sessionRecord
		if json.Unmarshal(v.Data, &rec) == nil && rec.User == user {
			ops = append(ops, Op{Delete: true, Bucket: BucketSessions, Key: key})
		}
		return true
	})
	return ops
}

// Ticket makes a ticket with which the page can open a session on another member within ten minutes, once.
func (s *Service) Ticket(ctx context.Context, p Principal) (ticket string, expires int64, err error) {
	if p.Kind != KindSession {
		return "", 0, fmt.Errorf("resume ticket: only for a browser's session: %w", ErrForbidden)
	}
	if !s.byResume.allow(p.Key) {
		return "", 0, fmt.Errorf("resume ticket: %w", ErrTooMany)
	}
	rec, mod, ok := s.session(p.Key)
	if !ok {
		return "", 0, ErrUnauthenticated
	}
	ticket = newSecret("")
	expires = s.meta.LogTime() + s.cfg.TicketLife.Milliseconds()
	// One ticket a session: its key is derived from the session, so that another replaces it and their number
	// is bounded by that of the sessions.
	old := s.ticketOf(p.Key)
	txn := Txn{
		Compares: []Compare{{Bucket: BucketSessions, Key: p.Key, ModIndex: mod}},
		Ops:      old,
	}
	t := ticketRecord{User: p.Name, Session: p.Key, Created: rec.Created}
	txn.Ops = append(txn.Ops, Op{Bucket: BucketTickets, Key: hashSecret(ticket), Value: encode(t), Expires: expires})
	if _, err := s.meta.Commit(ctx, txn); err != nil {
		return "", 0, fmt.Errorf("make resume ticket: %w", err)
	}
	return ticket, expires, nil
}

// ticketOf returns the removal of the tickets that the session has.
func (s *Service) ticketOf(session string) []Op {
	var ops []Op
	s.meta.Scan(BucketTickets, "", func(key string, v Value) bool {
		var t ticketRecord
		if json.Unmarshal(v.Data, &t) == nil && t.Session == session {
			ops = append(ops, Op{Delete: true, Bucket: BucketTickets, Key: key})
		}
		return true
	})
	return ops
}

// Resume exchanges a ticket for a session. A ticket works once in the whole cluster: of two that come at the same
// moment one is refused. The session that the ticket came from ends, so that the number of sessions stays.
func (s *Service) Resume(ctx context.Context, from netip.Addr, ticket string) (secret string, p Principal, err error) {
	if !s.byResume.allow("addr:" + addressKey(from)) {
		return "", Principal{}, fmt.Errorf("resume from this address: %w", ErrTooMany)
	}
	if ticket == "" || len(ticket) > maxSecretLen {
		return "", Principal{}, ErrUnauthenticated
	}
	key := hashSecret(ticket)
	for range casRetries {
		secret, p, err = s.exchange(ctx, addressText(from), key)
		if !errors.Is(err, ErrConflict) {
			return secret, p, err
		}
	}
	return "", Principal{}, ErrUnauthenticated
}

// exchange opens a session for the ticket, or returns ErrConflict when one of the records that it goes by was changed
// meanwhile.
func (s *Service) exchange(ctx context.Context, from, key string) (secret string, p Principal, err error) {
	v, ok := s.meta.Get(BucketTickets, key)
	if !ok {
		return "", Principal{}, ErrUnauthenticated
	}
	var t ticketRecord
	if err := json.Unmarshal(v.Data, &t); err != nil {
		return "", Principal{}, fmt.Errorf("read resume ticket: %w", ErrUnauthenticated)
	}
	_, held, ok := s.session(t.Session)
	if !ok {
		return "", Principal{}, ErrUnauthenticated // logged out meanwhile
	}
	u, mod, ok := s.user(t.User)
	if !ok || u.Disabled {
		return "", Principal{}, ErrUnauthenticated
	}
	who := Principal{Name: u.Name, Kind: KindSession, Address: from}
	return s.open(ctx, u, t.Created, from, Txn{
		Compares: []Compare{
			{Bucket: BucketTickets, Key: key, ModIndex: v.ModIndex},
			{Bucket: BucketSessions, Key: t.Session, ModIndex: held},
			{Bucket: BucketUsers, Key: u.Name, ModIndex: mod},
		},
		Ops: []Op{
			{Delete: true, Bucket: BucketTickets, Key: key},
			{Delete: true, Bucket: BucketSessions, Key: t.Session},
		},
		Audit: who.did("session.resume", u.Name, nil),
	})
}

// AllowJoin counts an attempt to join from the address and reports whether it may be looked at.
func (s *Service) AllowJoin(from netip.Addr) bool {
	return s.byResume.allow("join:" + addressKey(from))
}

// AllowStranger counts a request from the address that shows an identity nobody here knows, and reports whether it is
// worth asking the rest of the cluster.
func (s *Service) AllowStranger(from netip.Addr) bool {
	return s.byResume.allow("stranger:" + addressKey(from))
}
