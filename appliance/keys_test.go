package appliance_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/internal/testcluster"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
)

// What one node seals every other opens, also one that lost its ring and took it from a peer; a node that joins gets
// the ring wrapped to its own key and no other opens it.
func TestKeyRingReachesEveryNode(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	const secret = "a secret of the cluster"
	sealed, err := c.Nodes[0].App.Keys().Seal("test", []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	opens := func(n *testcluster.Node) error {
		plain, err := n.App.Keys().Open("test", sealed)
		if err == nil && string(plain) != secret {
			err = errors.New("it opened to something else")
		}
		return err
	}
	for _, n := range c.Nodes {
		if err := opens(n); err != nil {
			t.Errorf("%s: %v", n.Config.NodeID, err)
		}
	}

	lost := c.Nodes[2]
	lost.Stop(t)
	path := filepath.Join(lost.Config.TLS.Dir, keyring.File)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	lost.Start(t)
	lost.WaitReady(t)
	testcluster.Until(t, "the ring is back", func() error { return opens(lost) })
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the ring taken from a peer: %v %v", st, err)
	}

	identity, recipient, err := keyring.NewJoiner()
	if err != nil {
		t.Fatal(err)
	}
	csr, _, err := pki.NewRequest("n4")
	if err != nil {
		t.Fatal(err)
	}
	join := func(recipient string) (ring []byte, err error) {
		var token struct {
			Token string `json:"token"`
		}
		if err := c.Post(c.Nodes[0], "/v1/tokens/join", map[string]any{"kind": "node"}, &token); err != nil {
			return nil, err
		}
		var answer struct {
			Ring []byte `json:"key_ring"`
		}
		err = c.Post(c.Nodes[0], "/v1/cluster/join", map[string]any{
			"token": token.Token, "id": "n4", "csr_pem": string(csr), "peer_addr": "127.0.0.1:1", "ring_to": recipient,
		}, &answer)
		return answer.Ring, err
	}
	if _, err := join("age1nobody"); err == nil || !strings.Contains(err.Error(), "ring_to") {
		t.Errorf("joining with a bad recipient: %v", err)
	}
	wrapped, err := join(recipient)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Unwrap(wrapped, identity)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := ring.Open("test", sealed); err != nil || string(plain) != secret {
		t.Errorf("the joiner opens %q, %v", plain, err)
	}
	if _, err := keyring.Unwrap(wrapped, c.Recovery); !errors.Is(err, keyring.ErrUnwrap) {
		t.Errorf("somebody else's key opens the joiner's ring: %v", err)
	}
}

// A lone node without its ring serves, and says what is missing and what to do.
func TestNodeWithoutKeyRingSaysSo(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	n.Stop(t)
	if err := os.Remove(filepath.Join(n.Config.TLS.Dir, keyring.File)); err != nil {
		t.Fatal(err)
	}
	n.Start(t)
	n.WaitReady(t)
	_, err := n.App.Keys().Seal("test", []byte("x"))
	if !errors.Is(err, keyring.ErrNoRing) || !strings.Contains(err.Error(), keyring.File) {
		t.Errorf("sealing without a ring: %v", err)
	}
}

// A node that lacks the key that seals takes it before it makes another: afterwards it would never look for it again, and
// could not open what was sealed with it.
func TestRotationOnANodeThatLacksAKey(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	n1, n2 := c.Nodes[0], c.Nodes[1]
	old, err := n1.App.Keys().Ring()
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(n *testcluster.Node) {
		t.Helper()
		testcluster.Until(t, "rotate the key", func() error { return c.Post(n, "/v1/keys/rotate", struct{}{}, nil) })
	}
	rotate(n2)
	sealed, err := n2.App.Keys().Seal("test", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	n1.App.Keys().SetRing(old)
	rotate(n1)
	if _, err := n1.App.Keys().Open("test", sealed); err != nil {
		t.Errorf("what another node sealed before the rotation: %v", err)
	}
}
