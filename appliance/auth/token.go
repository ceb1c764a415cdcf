package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// APIToken describes an API token; its secret is shown once, when it is made.
type APIToken struct {
	ID      string `json:"id"` // the first 16 digits of its hash
	Name    string `json:"name"`
	Role    Role   `json:"role"`
	Created int64  `json:"created"`           // log time, ms
	Expires int64  `json:"expires,omitempty"` // log time, ms; absent for never
	By      string `json:"by,omitempty"`      // who made it
	Owner   Owner  `json:"owner,omitzero"`    // the user whose present role bounds Role
	// Node is the node whose own command line holds the token; absent for one that somebody made.
	Node string `json:"node,omitempty"`
}

// JoinKind says what a join token lets in.
type JoinKind string

// The kinds of join tokens.
const (
	JoinAgent JoinKind = "agent"
	JoinNode  JoinKind = "node"
)

// JoinToken describes a token with which agents or nodes join.
type JoinToken struct {
	ID       string   `json:"id,omitempty"` // the first 16 digits of its hash
	Kind     JoinKind `json:"kind"`
	UsesLeft int      `json:"uses_left"`
	Name     string   `json:"name,omitempty"` // what it is for
	Created  int64    `json:"created,omitempty"`
	Expires  int64    `json:"expires,omitempty"` // log time, ms
	By       string   `json:"by,omitempty"`
	// CIDRs are the addresses from which it may be used, all when absent; Group is that of the agents it lets in.
	CIDRs []string `json:"cidrs,omitempty"`
	Group string   `json:"group,omitempty"`
	Owner Owner    `json:"owner,omitzero"` // the user who must be an administrator still
}

// Bounds of join tokens.
const (
	MaxJoinUses = 10000
	MaxJoinLife = 30 * 24 * time.Hour
	maxJoinName = 200
	maxCIDRs    = 32
	// tokenMemory is how long it is remembered that a token was used up or expired, to say so to whoever shows it.
	tokenMemory = 24 * time.Hour
	idLen       = 16
)

var groupName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

var tokenName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$`)

// CreateAPIToken makes a token for programs. life 0 means it does not expire. It never has more rights than the user
// behind by has at the moment, and ends with that user.
func (s *Service) CreateAPIToken(ctx context.Context, name string, role Role, life time.Duration, by Principal) (secret string, t APIToken, err error) {
	if !tokenName.MatchString(name) {
		return "", t, fmt.Errorf("token name %.70q: 1 to 64 of letters, digits, space, . _ @ -: %w", name, ErrInvalid)
	}
	if !role.Valid() {
		return "", t, fmt.Errorf("role %.30q: want viewer, operator, administrator, auditor or ingest: %w", string(role), ErrInvalid)
	}
	if life < 0 || life > 10*365*24*time.Hour {
		return "", t, fmt.Errorf("token life %s: want 0 (for ever) to 10 years: %w", life, ErrInvalid)
	}
	if s.count(BucketAPITokens) >= s.cfg.MaxTokens {
		return "", t, fmt.Errorf("create API token: %d tokens: %w", s.cfg.MaxTokens, ErrLimit)
	}
	secret = newSecret(prefixAPIToken)
	key := hashSecret(secret)
	t = APIToken{ID: key[:idLen], Name: name, Role: role, Created: s.meta.LogTime(), By: by.Actor(), Owner: by.Owner}
	if life > 0 {
		t.Expires = t.Created + life.Milliseconds()
	}
	_, err = s.meta.Commit(ctx, Txn{
		Ops:   []Op{{Bucket: BucketAPITokens, Key: key, Value: encode(t), Expires: t.Expires}},
		Audit: by.did("token.create", t.ID, change{After: map[string]any{"name": name, "role": role, "expires": t.Expires}}),
	})
	if err != nil {
		return "", t, fmt.Errorf("create API token %s: %w", name, err)
	}
	return secret, t, nil
}

// NodeTokenGood reports whether the secret is the present token of the node's own command line.
func (s *Service) NodeTokenGood(node, secret string) bool {
	v, ok := s.meta.Get(BucketAPITokens, hashSecret(secret))
	var t APIToken
	return ok && json.Unmarshal(v.Data, &t) == nil && t.Node == node
}

// NewNodeToken makes the secret of a token for a node's own command line. It counts from SetNodeToken on.
func NewNodeToken() string { return newSecret(prefixAPIToken) }

// SetNodeToken makes the secret an administrator's token of the node's own command line, instead of the one that the
// node had: whoever may read the node's files holds the key of the cluster's CA and can do anything already.
func (s *Service) SetNodeToken(ctx context.Context, node, secret string) error {
	key := hashSecret(secret)
	t := APIToken{ID: key[:idLen], Name: "node " + node, Role: RoleAdministrator, Created: s.meta.LogTime(), Node: node}
	var ops []Op
	s.meta.Scan(BucketAPITokens, "", func(held string, v Value) bool {
		var other APIToken
		if held != key && json.Unmarshal(v.Data, &other) == nil && other.Node == node {
			ops = append(ops, Op{Delete: true, Bucket: BucketAPITokens, Key: held})
		}
		return true
	})
	ops = append(ops, Op{Bucket: BucketAPITokens, Key: key, Value: encode(t)})
	by := Principal{Name: node, Kind: KindNode}
	if _, err := s.meta.Commit(ctx, Txn{Ops: ops, Audit: by.did("token.node", t.ID, nil)}); err != nil {
		return fmt.Errorf("set token of node %s: %w", node, err)
	}
	return nil
}

// Token returns who holds the secret of an API token.
func (s *Service) Token(secret string) (Principal, error) {
	if !strings.HasPrefix(secret, prefixAPIToken) || len(secret) > maxSecretLen {
		return Principal{}, ErrUnauthenticated
	}
	return s.apiTokenByKey(hashSecret(secret))
}

func (s *Service) apiTokenByKey(key string) (Principal, error) {
	v, ok := s.meta.Get(BucketAPITokens, key)
	if !ok {
		return Principal{}, ErrUnauthenticated
	}
	var t APIToken
	if err := json.Unmarshal(v.Data, &t); err != nil || !t.Role.Valid() {
		s.log.Error("API token record is not readable", "err", err)
		return Principal{}, ErrUnauthenticated
	}
	if s.past(t.Expires) {
		return Principal{}, ErrUnauthenticated
	}
	role, ok := s.bound(t.Role, t.Owner)
	if !ok {
		return Principal{}, ErrUnauthenticated
	}
	return Principal{Name: t.Name, Role: role, Kind: KindToken, Key: key, Expires: t.Expires, Owner: t.Owner, Node: t.Node}, nil
}

// APITokens returns what is known of all API tokens.
func (s *Service) APITokens() []APIToken {
	var list []APIToken
	s.meta.Scan(BucketAPITokens, "", func(_ string, v Value) bool {
		var t APIToken
		if json.Unmarshal(v.Data, &t) == nil {
			list = append(list, t)
		}
		return len(list) < s.cfg.MaxTokens
	})
	return list
}

// RevokeAPIToken ends a token named by its ID.
func (s *Service) RevokeAPIToken(ctx context.Context, id string, by Principal) error {
	return s.revoke(ctx, BucketAPITokens, id, "token.revoke", by)
}

// RevokeJoinToken ends a join token named by its ID.
func (s *Service) RevokeJoinToken(ctx context.Context, id string, by Principal) error {
	return s.revoke(ctx, BucketTokens, id, "join_token.revoke", by)
}

var hexID = regexp.MustCompile(`^[0-9a-f]{16}$`)

func (s *Service) revoke(ctx context.Context, bucket, id, action string, by Principal) error {
	if !hexID.MatchString(id) {
		return fmt.Errorf("token id %.40q: want 16 hexadecimal digits: %w", id, ErrInvalid)
	}
	var ops []Op
	var before map[string]any
	s.meta.Scan(bucket, id, func(key string, v Value) bool {
		ops = append(ops, Op{Delete: true, Bucket: bucket, Key: key})
		var t struct {
			Name string `json:"name"`
			Kind string `json:"kind"`
			Role string `json:"role"`
		}
		if json.Unmarshal(v.Data, &t) == nil {
			before = map[string]any{"name": t.Name, "role": t.Role}
			if t.Kind != "" {
				before = map[string]any{"name": t.Name, "kind": t.Kind}
			}
		}
		return true
	})
	if len(ops) == 0 {
		return fmt.Errorf("token %s: %w", id, ErrNotFound)
	}
	if _, err := s.meta.Commit(ctx, Txn{Ops: ops, Audit: by.did(action, id, change{Before: before})}); err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	return nil
}

// JoinOptions of a new join token.
type JoinOptions struct {
	Kind JoinKind
	Uses int           // 1 when 0
	Life time.Duration // 1 h when 0
	By   string
	// Address is the maker's, for the audit log.
	Address string
	// Owner, when set, must be an administrator when the token is used.
	Owner Owner
	Name  string
	// CIDRs bound where from an agent may use it; Group is given to the agents it lets in.
	CIDRs []string
	Group string
	Pin   string // hash of the CA's public key; travels in the token so that the joiner knows whom it talks to
}

// CreateJoinToken makes a token with which agents or nodes join. Its text is shown once.
func (s *Service) CreateJoinToken(ctx context.Context, o JoinOptions) (token string, t JoinToken, err error) {
	setDefault(&o.Uses, 1)
	setDefault(&o.Life, time.Hour)
	prefix := prefixAgentJoin
	switch o.Kind {
	case JoinAgent:
	case JoinNode:
		prefix = prefixNodeJoin
	default:
		return "", t, fmt.Errorf("token kind %.30q: want agent or node: %w", string(o.Kind), ErrInvalid)
	}
	if o.Uses < 1 || o.Uses > MaxJoinUses {
		return "", t, fmt.Errorf("token uses %d: want 1 to %d: %w", o.Uses, MaxJoinUses, ErrInvalid)
	}
	if o.Life < time.Second || o.Life > MaxJoinLife {
		return "", t, fmt.Errorf("token life %s: want 1s to %s: %w", o.Life, MaxJoinLife, ErrInvalid)
	}
	if len(o.Name) > maxJoinName || len(o.Pin) > maxSecretLen {
		return "", t, fmt.Errorf("token name of %d bytes, pin of %d: at most %d and %d: %w", len(o.Name), len(o.Pin),
			maxJoinName, maxSecretLen, ErrInvalid)
	}
	if err := o.checkAgents(); err != nil {
		return "", t, err
	}
	if s.count(BucketTokens) >= s.cfg.MaxTokens {
		return "", t, fmt.Errorf("create join token: %d tokens: %w", s.cfg.MaxTokens, ErrLimit)
	}
	token = newSecret(prefix)
	if o.Pin != "" {
		token += "." + o.Pin
	}
	key := hashSecret(token)
	now := s.meta.LogTime()
	t = JoinToken{
		ID: key[:idLen], Kind: o.Kind, UsesLeft: o.Uses, Created: now, Expires: now + o.Life.Milliseconds(),
		By: o.By, Owner: o.Owner, Name: o.Name, CIDRs: o.CIDRs, Group: o.Group,
	}
	_, err = s.meta.Commit(ctx, Txn{
		Compares: []Compare{{Bucket: BucketTokens, Key: key}},
		Ops:      []Op{{Bucket: BucketTokens, Key: key, Value: encode(t), Expires: t.Expires + tokenMemory.Milliseconds()}},
		Audit: []AuditRecord{{
			Actor: o.By, Address: o.Address, Action: "join_token.create", Target: t.ID,
			Detail: encode(change{After: map[string]any{"kind": t.Kind, "uses": t.UsesLeft, "expires": t.Expires, "name": t.Name, "group": t.Group, "cidrs": t.CIDRs}}),
		}},
	})
	if err != nil {
		return "", t, fmt.Errorf("create join token: %w", err)
	}
	return token, t, nil
}

// JoinTokens returns what is known of all tokens with which something may still join.
func (s *Service) JoinTokens() []JoinToken {
	var list []JoinToken
	s.meta.Scan(BucketTokens, "", func(key string, v Value) bool {
		var t JoinToken
		if json.Unmarshal(v.Data, &t) == nil && t.UsesLeft > 0 && !s.past(t.Expires) && len(key) >= idLen {
			t.ID = key[:idLen]
			list = append(list, t)
		}
		return len(list) < s.cfg.MaxTokens
	})
	return list
}

// past reports whether a time of expiry was reached by log time; 0 never is.
func (s *Service) past(expires int64) bool { return expires != 0 && expires <= s.meta.LogTime() }

// checkAgents looks at what is for agents' tokens only.
func (o *JoinOptions) checkAgents() error {
	if o.Kind != JoinAgent && (len(o.CIDRs) > 0 || o.Group != "") {
		return fmt.Errorf("token: cidrs and group are for tokens of agents: %w", ErrInvalid)
	}
	if len(o.CIDRs) > maxCIDRs {
		return fmt.Errorf("token cidrs: %d, at most %d: %w", len(o.CIDRs), maxCIDRs, ErrInvalid)
	}
	for _, c := range o.CIDRs {
		if _, err := netip.ParsePrefix(c); err != nil {
			return fmt.Errorf("token cidr %.60q: want an address range such as 10.1.0.0/16: %w", c, ErrInvalid)
		}
	}
	if o.Group != "" && !groupName.MatchString(o.Group) {
		return fmt.Errorf("token group %.70q: want 1 to 64 of letters, digits, . _ -: %w", o.Group, ErrInvalid)
	}
	return nil
}

// tokenError says why a token is refused to somebody who holds its whole text. It is ErrToken.
type tokenError struct{ text string }

func (e *tokenError) Error() string        { return e.text }
func (e *tokenError) Is(target error) bool { return target == ErrToken }

// CheckJoin returns the token when it could be redeemed now, without using it. from is the sender's address; the zero
// Addr is that of a sender whose address does not matter.
func (s *Service) CheckJoin(kind JoinKind, token string, from netip.Addr) (JoinToken, error) {
	key, t, _, err := s.joinToken(kind, token)
	if err != nil {
		return t, err
	}
	t.ID = key[:idLen]
	if len(t.CIDRs) > 0 && from.IsValid() {
		from = from.Unmap().WithZone("")
		inside := slices.ContainsFunc(t.CIDRs, func(c string) bool {
			p, err := netip.ParsePrefix(c)
			return err == nil && p.Contains(from)
		})
		if !inside {
			return t, &tokenError{fmt.Sprintf("the token may not be used from %s, only from %s", from, strings.Join(t.CIDRs, ", "))}
		}
	}
	return t, nil
}

func (s *Service) joinToken(kind JoinKind, token string) (key string, t JoinToken, mod uint64, err error) {
	if token == "" || len(token) > 2*maxSecretLen {
		return "", t, 0, ErrToken
	}
	key = hashSecret(token)
	v, ok := s.meta.Get(BucketTokens, key)
	if !ok {
		return "", t, 0, ErrToken
	}
	if err := json.Unmarshal(v.Data, &t); err != nil {
		return "", t, 0, fmt.Errorf("read join token: %w", ErrToken)
	}
	switch {
	case t.Kind != kind:
		return "", t, 0, &tokenError{fmt.Sprintf("the token is for a new %s, not for a new %s", t.Kind, kind)}
	case t.UsesLeft < 1:
		return "", t, 0, &tokenError{"the token was used already"}
	case s.past(t.Expires):
		return "", t, 0, &tokenError{fmt.Sprintf("the token expired at %s", time.UnixMilli(t.Expires).UTC().Format(time.RFC3339))}
	}
	if role, ok := s.bound(RoleAdministrator, t.Owner); !ok || role != RoleAdministrator {
		return "", t, 0, ErrToken
	}
	return key, t, v.ModIndex, nil
}

// Redeem counts one use of the token and applies the transaction's changes with it, or neither: of any number that
// redeem at once on any nodes exactly as many succeed as the token has uses. It returns ErrToken when the token is
// not good (any more) and ErrConflict when a condition of the caller's own does not hold. After an error of
// another kind the use may have been counted.
func (s *Service) Redeem(ctx context.Context, kind JoinKind, token string, with Txn) error {
	for range casRetries {
		key, t, mod, err := s.joinToken(kind, token)
		if err != nil {
			return err
		}
		for _, c := range with.Compares {
			if v, ok := s.meta.Get(c.Bucket, c.Key); ok != (c.ModIndex != 0) || ok && v.ModIndex != c.ModIndex {
				return fmt.Errorf("redeem %s token: %s/%s: %w", kind, c.Bucket, c.Key, ErrConflict)
			}
		}
		t.UsesLeft--
		count := Op{Bucket: BucketTokens, Key: key, Value: encode(t), Expires: t.Expires + tokenMemory.Milliseconds()}
		_, err = s.meta.Commit(ctx, Txn{
			Compares: append([]Compare{{Bucket: BucketTokens, Key: key, ModIndex: mod}}, with.Compares...),
			Ops:      append([]Op{count}, with.Ops...),
			Audit:    with.Audit,
		})
		if errors.Is(err, ErrConflict) {
			continue // somebody used it meanwhile: look again
		}
		if err != nil {
			return fmt.Errorf("redeem %s token: %w", kind, err)
		}
		return nil
	}
	return fmt.Errorf("redeem %s token: %w", kind, ErrConflict)
}
