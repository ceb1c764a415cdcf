package keyring

import (
	"errors"
	"slices"
	"testing"
)

// A key that was added seals only when it is told to; what older ones sealed opens as before.
func TestRotation(t *testing.T) {
	ring, recovery, err := New()
	if err != nil {
		t.Fatal(err)
	}
	old, err := ring.Seal("x", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	more, id, err := ring.WithNewKey()
	if err != nil || ring.Holds(id) || !more.Holds(id) || more.KeyIDs()[0] != ring.KeyIDs()[0] || !more.Current(old) {
		t.Fatalf("%v %v %v", err, ring.KeyIDs(), more.KeyIDs())
	}
	if _, err := ring.Sealing(id); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("a key that it does not hold: %v", err)
	}
	next, err := more.Sealing(id)
	if err != nil || next.Current(old) || next.KeyIDs()[0] != id {
		t.Fatalf("%v %v", err, next.KeyIDs())
	}
	if plain, err := next.Open("x", old); err != nil || string(plain) != "secret" {
		t.Errorf("%q %v", plain, err)
	}
	fresh, err := next.Seal("x", []byte("secret"))
	if err != nil || !next.Current(fresh) {
		t.Errorf("%v", err)
	}
	// A copy that knows nothing of it takes the keys and goes on sealing with its own.
	merged, changed, err := ring.Merged(next)
	if err != nil || !changed || merged.KeyIDs()[0] != ring.KeyIDs()[0] || !merged.Holds(id) {
		t.Errorf("%v %v %v", err, changed, merged.KeyIDs())
	}
	if _, changed, err := merged.Merged(ring); err != nil || changed {
		t.Errorf("nothing was new: %v %v", changed, err)
	}
	stranger, _, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ring.Merged(stranger); err == nil {
		t.Error("the ring of another cluster was taken")
	}
	// The recovery key opens the ring as it is now.
	wrapped, err := next.WrapTo(next.Recovery())
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Unwrap(wrapped, recovery)
	if err != nil || !slices.Equal(opened.KeyIDs(), next.KeyIDs()) {
		t.Errorf("%v", err)
	}
}

func TestRingIsBounded(t *testing.T) {
	ring, _, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for range maxKeys - 1 {
		if ring, _, err = ring.WithNewKey(); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := ring.WithNewKey(); !errors.Is(err, ErrFull) {
		t.Errorf("%d keys: %v", maxKeys+1, err)
	}
}
