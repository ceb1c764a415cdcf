package auth

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimiterForgetsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(time.Second, 2, 10)
		if first, second, third := l.allow("a"), l.allow("a"), l.allow("a"); !first || !second || third {
			t.Fatal("burst of 2 expected")
		}
		time.Sleep(time.Second)
		if !l.allow("a") || l.allow("a") {
			t.Fatal("one a second expected")
		}
		for i := range 1000 {
			l.allow(strconv.Itoa(i))
		}
		if l.len() != 10 || len(l.byKey) != 10 {
			t.Fatalf("%d keys", l.len())
		}
	})
}

func TestAddressKey(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := addressKey(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestPasswordFormIsRead(t *testing.T) {
	h := newHasher(PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1})
	stored, err := h.hash(t.Context(), "pässword")
	if err != nil || !strings.HasPrefix(stored, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatal(stored, err)
	}
	if ok, err := h.check(t.Context(), stored, "pässword"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, _ := h.check(t.Context(), stored, "password"); ok {
		t.Fatal("another password is taken")
	}
	for _, bad := range []string{
		"x", "$argon2id$v=19$m=99999999,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		"$argon2i$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA", "$argon2id$v=19$m=64,t=1,p=1$*$*",
		"$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAA$",
	} {
		if ok, err := h.check(t.Context(), bad, "x"); ok || err == nil {
			t.Errorf("%q: %v %v", bad, ok, err)
		}
	}
}

func TestDefaultCostIsTheBar(t *testing.T) {
	if c := DefaultPasswordCost(); c.MemoryKiB != 64<<10 || c.Passes != 3 {
		t.Fatalf("%+v", c)
	}
}
