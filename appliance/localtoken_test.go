package appliance_test

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/internal/testcluster"
)

// tokens lists the API tokens of a node's own command line, asked with the token that lies in its file.
func ownTokens(t *testing.T, c *testcluster.Cluster, n *testcluster.Node) (secret string, ids []string) {
	t.Helper()
	secret, err := n.Config.ReadToken()
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(n.Config.TokenPath()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v %v", st, err)
	}
	var answer struct {
		Tokens []struct{ ID, Name, Role, Node string }
	}
	as := *c
	as.Token = secret
	if err := as.Get(n, "/v1/tokens/api", &answer); err != nil {
		t.Fatalf("with the node's own token: %v", err)
	}
	for _, tok := range answer.Tokens {
		if tok.Node == n.Config.NodeID {
			ids = append(ids, tok.ID)
		}
	}
	return secret, ids
}

// A node keeps an administrator's token for the command line beside its keys, the same over restarts; one that was
// revoked or lost is made anew, and counts instead of the old one.
func TestNodeHasATokenForItsCommandLine(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	again := func() {
		t.Helper()
		n.Stop(t)
		n.Start(t)
		n.WaitReady(t)
	}
	first, ids := ownTokens(t, c, n)
	if len(ids) != 1 {
		t.Fatalf("%d tokens of the node", len(ids))
	}
	again()
	if same, _ := ownTokens(t, c, n); same != first {
		t.Error("a restart changed the token")
	}

	req, err := http.NewRequest(http.MethodDelete, n.URL()+"/v1/tokens/api/"+ids[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.HTTP.Do(req)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("revoke: %v %v", resp, err)
	}
	resp.Body.Close()
	revoked := *c
	revoked.Token = first
	if err := revoked.Get(n, "/v1/cluster", nil); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("with the revoked token: %v", err)
	}
	again()
	second, ids := ownTokens(t, c, n)
	if second == first || len(ids) != 1 {
		t.Errorf("after the revocation: the same token %v, %d tokens", second == first, len(ids))
	}

	if err := os.Remove(n.Config.TokenPath()); err != nil {
		t.Fatal(err)
	}
	again()
	if third, ids := ownTokens(t, c, n); third == second || len(ids) != 1 {
		t.Errorf("after the file was lost: the same token %v, %d tokens", third == second, len(ids))
	}
}
