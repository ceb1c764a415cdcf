package testcluster

import (
	"strings"
	"testing"
)

// A node that was away when a user was made, and finds nobody to ask, does not say that there is no such user.
func TestNodeThatIsBehindDoesNotRefuse(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	last := c.Nodes[2]
	last.Stop(t)
	must(t, c.Post(c.Nodes[0], "/v1/users", map[string]any{"name": "eve", "password": Password, "role": "viewer"}, nil))
	for _, n := range c.Nodes[:2] {
		n.Stop(t)
	}
	last.Start(t)
	role := map[string]any{"role": "operator"}
	err := c.Call("PATCH", last, "/v1/users/eve", role, nil)
	if err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("without the others: %v", err)
	}
	c.Nodes[0].Start(t)
	Until(t, "the change is made", func() error {
		err := c.Call("PATCH", last, "/v1/users/eve", role, nil)
		if err != nil && !strings.Contains(err.Error(), ": 503 ") {
			t.Fatalf("with another: %v", err)
		}
		return err
	})
}
