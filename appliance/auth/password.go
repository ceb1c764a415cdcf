package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
)

// PasswordCost says how dear one hash of a password is.
type PasswordCost struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// DefaultPasswordCost is the cost that the security bar names: 64 MiB, three passes.
func DefaultPasswordCost() PasswordCost {
	return PasswordCost{MemoryKiB: 64 << 10, Passes: 3, Threads: 1}
}

const (
	passwordSalt = 16
	passwordKey  = 32
	// MinPassword and MaxPassword bound the length of a password in bytes.
	MinPassword = 10
	MaxPassword = 512
	// hashersWaiting bounds how many logins may wait for the two places to hash.
	hashersWaiting = 32
)

// hasher bounds how many passwords are hashed at once, since each takes 64 MiB.
type hasher struct {
	cost    PasswordCost
	places  chan struct{}
	waiting atomic.Int32
}

func newHasher(cost PasswordCost) *hasher {
	return &hasher{cost: cost, places: make(chan struct{}, 2)}
}

// enter takes one of the places; leave gives it back.
func (h *hasher) enter(ctx context.Context) error {
	if h.waiting.Add(1) > hashersWaiting {
		h.waiting.Add(-1)
		return fmt.Errorf("check password: %w", ErrTooMany)
	}
	defer h.waiting.Add(-1)
	select {
	case h.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait to check password: %w", ctx.Err())
	}
}

func (h *hasher) leave() { <-h.places }

// hash returns the stored form of a password: the usual text form that carries its own parameters.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	var salt [passwordSalt]byte
	rand.Read(salt[:])
	key := argon2.IDKey([]byte(password), salt[:], h.cost.Passes, h.cost.MemoryKiB, h.cost.Threads, passwordKey)
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.cost.MemoryKiB, h.cost.Passes,
		h.cost.Threads, enc.EncodeToString(salt[:]), enc.EncodeToString(key)), nil
}

// check reports whether the password belongs to the stored form. With stored == "" it spends the same time and
// says no, so that unknown users cannot be told from known ones.
func (h *hasher) check(ctx context.Context, stored, password string) (bool, error) {
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer h.leave()
	if stored == "" {
		var salt [passwordSalt]byte
		argon2.IDKey([]byte(password), salt[:], h.cost.Passes, h.cost.MemoryKiB, h.cost.Threads, passwordKey)
		return false, nil
	}
	cost, salt, want, err := parseHash(stored)
	if err != nil {
		return false, err
	}
	got := argon2.IDKey([]byte(password), salt, cost.Passes, cost.MemoryKiB, cost.Threads, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// parseHash reads the stored form and refuses parameters that would make this node suffer.
func parseHash(stored string) (cost PasswordCost, salt, key []byte, err error) {
	parts := strings.Split(stored, "$")
	bad := func(what string) (PasswordCost, []byte, []byte, error) {
		return PasswordCost{}, nil, nil, fmt.Errorf("stored password: %s: %w", what, ErrInvalid)
	}
	if len(parts) != 6 || parts[1] != "argon2id" {
		return bad("not argon2id")
	}
	var version int
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return bad("version")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &cost.MemoryKiB, &cost.Passes, &cost.Threads); err != nil {
		return bad("parameters")
	}
	if cost.MemoryKiB < 8 || cost.MemoryKiB > 1<<20 || cost.Passes < 1 || cost.Passes > 16 || cost.Threads < 1 {
		return bad("parameters out of bounds")
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(salt) < 8 {
		return bad("salt")
	}
	if key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(key) < 16 || len(key) > 128 {
		return bad("key")
	}
	return cost, salt, key, nil
}
