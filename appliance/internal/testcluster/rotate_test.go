package testcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/keyring"
)

// rings are what each node says of its key ring.
func (c *Cluster) rings(t *testing.T) map[string][]string {
	t.Helper()
	var answer struct {
		Nodes []struct {
			ID   string `json:"id"`
			Ring *struct {
				Keys []string `json:"keys"`
			} `json:"key_ring"`
		} `json:"nodes"`
	}
	must(t, c.Get(c.Nodes[0], "/v1/cluster", &answer))
	out := make(map[string][]string)
	for _, n := range answer.Nodes {
		if n.Ring != nil {
			out[n.ID] = n.Ring.Keys
		}
	}
	return out
}

// sealed are the sealed values in a node's metadata, by their place.
func sealed(n *Node, bucket, key string) (out []string) {
	v, ok := n.App.Node().State().Get(bucket, key)
	if !ok {
		return nil
	}
	var walk func(any)
	walk = func(x any) {
		switch x := x.(type) {
		case map[string]any:
			for _, e := range x {
				walk(e)
			}
		case []any:
			for _, e := range x {
				walk(e)
			}
		case string:
			if keyring.IsSealed(x) {
				out = append(out, x)
			}
		}
	}
	var x any
	if json.Unmarshal(v.Data, &x) == nil {
		walk(x)
	}
	return out
}

// A new key seals on every node, what older ones sealed is sealed anew and still opens; a member that is away stops it
// before anything has changed; one that was stopped right after comes back with the new key.
func TestKeyIsRotated(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	const secret = "sesame-of-the-relay"
	must(t, c.put(c.Nodes[0], "/v1/routes", map[string]string{"body": `
route: {receiver: desk}
receivers:
  - name: desk
    webhook_configs:
      - url: http://192.0.2.1/x
        http_config: {basic_auth: {username: u, password: ` + secret + `}}
`}))
	places := [][2]string{{"pki", "agents"}, {"alert_routes", "routes"}}
	before := c.rings(t)["n1"]
	Until(t, "everything is sealed", func() error {
		for _, p := range places {
			if len(sealed(c.Nodes[0], p[0], p[1])) == 0 {
				return fmt.Errorf("%s/%s holds nothing that is sealed", p[0], p[1])
			}
		}
		return nil
	})

	c.Nodes[2].Stop(t)
	var done struct {
		Key, Warning string
		Resealed     int
	}
	if err := c.Post(c.Nodes[0], "/v1/keys/rotate", struct{}{}, &done); err == nil || !strings.Contains(err.Error(), "n3") {
		t.Errorf("with a node away: %v", err)
	}
	if now := c.rings(t)["n1"]; now[0] != before[0] {
		t.Errorf("the key was changed: %v, was %v", now, before)
	}
	c.Nodes[2].Start(t)
	c.Nodes[2].WaitReady(t)

	Until(t, "rotate the key", func() error { return c.Post(c.Nodes[0], "/v1/keys/rotate", struct{}{}, &done) })
	if done.Key == "" || done.Key == before[0] || done.Warning != "" || done.Resealed != 2 {
		t.Fatalf("%+v, before %v", done, before)
	}
	Until(t, "all nodes seal with the new key", func() error {
		for id, keys := range c.rings(t) {
			if keys[0] != done.Key || !slices.Contains(keys, before[0]) || len(keys) != 2 {
				return fmt.Errorf("%s: %v", id, keys)
			}
		}
		return nil
	})
	for _, n := range c.Nodes {
		for _, p := range places {
			Until(t, "sealed anew on "+n.Config.NodeID, func() error {
				for _, v := range sealed(n, p[0], p[1]) {
					if !n.App.Keys().Current(v) {
						return fmt.Errorf("%s/%s is sealed with an old key", p[0], p[1])
					}
				}
				return nil
			})
		}
	}
	// The agents' CA opens with it, on a node that was started again too.
	c.Nodes[1].Stop(t)
	c.Nodes[1].Start(t)
	c.Nodes[1].WaitReady(t)
	ring, err := c.Nodes[1].App.Keys().Ring()
	must(t, err)
	if ring.KeyIDs()[0] != done.Key {
		t.Errorf("after a restart %s seals", ring.KeyIDs()[0])
	}
	for _, v := range sealed(c.Nodes[1], "pki", "agents") {
		if _, err := ring.Open("pki/agents", v); err != nil {
			t.Error(err)
		}
	}
	// The recovery file holds the new key.
	Until(t, "recovery file", func() error {
		body, err := os.ReadFile(c.Nodes[0].Config.TLS.Dir + "/recovery.json")
		if err == nil && !strings.Contains(string(body), done.Key) {
			err = errors.New("it is that of the old ring")
		}
		return err
	})
}
