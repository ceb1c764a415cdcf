package keyring_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/keyring"
)

func newRing(t *testing.T) (*keyring.Ring, string) {
	t.Helper()
	r, recovery, err := keyring.New()
	if err != nil {
		t.Fatal(err)
	}
	return r, recovery
}

func TestSealOpensForItsPurposeOnly(t *testing.T) {
	r, _ := newRing(t)
	const secret = "smtp password 密码"
	sealed, err := r.Seal("receiver/mail", []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.Seal("receiver/mail", []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	if sealed == again || strings.Contains(sealed, secret) || !keyring.IsSealed(sealed) || keyring.IsSealed(secret) {
		t.Errorf("sealed %q and %q", sealed, again)
	}
	if plain, err := r.Open("receiver/mail", sealed); err != nil || string(plain) != secret {
		t.Fatalf("%q %v", plain, err)
	}
	if _, err := r.Open("receiver/other", sealed); !errors.Is(err, keyring.ErrSealed) {
		t.Errorf("another purpose: %v", err)
	}
	other, _ := newRing(t)
	if _, err := other.Open("receiver/mail", sealed); !errors.Is(err, keyring.ErrUnknownKey) {
		t.Errorf("another ring: %v", err)
	}
	for i := range sealed {
		bad := []byte(sealed)
		bad[i] ^= 1
		if plain, err := r.Open("receiver/mail", string(bad)); err == nil {
			t.Errorf("byte %d flipped: opened to %q", i, plain)
		}
	}
}

func TestRingOutlivesItsProcess(t *testing.T) {
	r, _ := newRing(t)
	sealed, err := r.Seal("p", []byte("s"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tls")
	if _, err := keyring.Load(dir); !errors.Is(err, keyring.ErrNoRing) {
		t.Fatalf("before it is saved: %v", err)
	}
	if err := r.Save(dir); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, keyring.File)); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st, err)
	}
	back, err := keyring.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := back.Open("p", sealed); err != nil || string(plain) != "s" {
		t.Errorf("%q %v", plain, err)
	}
	for name, bad := range map[string]string{
		"no json": "{", "another version": `{"version":2}`, "no keys": `{"version":1,"active":"x","keys":{}}`,
		"short key": `{"version":1,"active":"x","keys":{"x":"AAAA"}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, keyring.File), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Load(dir); err == nil || errors.Is(err, keyring.ErrNoRing) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRingTravelsWrapped(t *testing.T) {
	r, recovery := newRing(t)
	sealed, err := r.Seal("p", []byte("s"))
	if err != nil {
		t.Fatal(err)
	}
	identity, recipient, err := keyring.NewJoiner()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct{ to, key string }{{recipient, identity}, {r.Recovery(), recovery}} {
		wrapped, err := r.WrapTo(w.to)
		if err != nil {
			t.Fatal(err)
		}
		back, err := keyring.Unwrap(wrapped, w.key+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := back.Open("p", sealed); err != nil || string(plain) != "s" {
			t.Errorf("%q %v", plain, err)
		}
		stranger, _, err := keyring.NewJoiner()
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{stranger, "", "AGE-SECRET-KEY-1NONE"} {
			if _, err := keyring.Unwrap(wrapped, key); !errors.Is(err, keyring.ErrUnwrap) || strings.Contains(err.Error(), "NONE") {
				t.Errorf("key %.20q: %v", key, err)
			}
		}
		if _, err := keyring.Unwrap(wrapped[:len(wrapped)-1], w.key); !errors.Is(err, keyring.ErrUnwrap) {
			t.Errorf("cut: %v", err)
		}
	}
}
