package keyring

import (
	"fmt"
	"maps"
)

// copied returns a ring with the same keys. r is not locked by the caller.
func (r *Ring) copied() *Ring {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return &Ring{keys: maps.Clone(r.keys), active: r.active, recovery: r.recovery}
}

// WithNewKey returns the ring with one more key, which does not seal yet, and the key's name. It returns ErrFull when
// there are too many.
func (r *Ring) WithNewKey() (*Ring, string, error) {
	next := r.copied()
	if len(next.keys) >= maxKeys {
		return nil, "", fmt.Errorf("%w: %d keys", ErrFull, len(next.keys))
	}
	return next, next.add(), nil
}

// Merged returns the ring with the keys of another copy of it as well; what seals stays. changed is false when there
// were none to add. Rings of different clusters are refused.
func (r *Ring) Merged(other *Ring) (next *Ring, changed bool, err error) {
	next, more := r.copied(), other.copied()
	if next.recovery != more.recovery {
		return nil, false, fmt.Errorf("the rings have different recovery keys, %s and %s: they are of two clusters", next.recovery, more.recovery)
	}
	for id, key := range more.keys {
		if _, ok := next.keys[id]; !ok {
			next.keys[id], changed = key, true
		}
	}
	if len(next.keys) > maxKeys {
		return nil, false, fmt.Errorf("%w: %d keys", ErrFull, len(next.keys))
	}
	return next, changed, nil
}

// Sealing returns the ring with the key of that name as the one that seals, or ErrUnknownKey.
func (r *Ring) Sealing(id string) (*Ring, error) {
	next := r.copied()
	if _, ok := next.keys[id]; !ok {
		return nil, fmt.Errorf("key %.40q: %w", id, ErrUnknownKey)
	}
	next.active = id
	return next, nil
}

// Holds reports whether the ring has the key of that name.
func (r *Ring) Holds(id string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.keys[id]
	return ok
}

// Current reports whether a sealed value was sealed with the key that seals now.
func (r *Ring) Current(sealed string) bool {
	id, _, err := split(sealed)
	r.mu.RLock()
	defer r.mu.RUnlock()
	return err == nil && id == r.active
}
