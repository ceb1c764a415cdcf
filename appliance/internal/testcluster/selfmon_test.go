package testcluster

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/triward/triward/appliance"
)

type health struct {
	OK    bool `json:"ok"`
	Parts []struct {
		Part    string `json:"part"`
		OK      bool   `json:"ok"`
		Warned  bool   `json:"warned"`
		Warning string `json:"warning"`
		Error   string `json:"error"`
	} `json:"parts"`
}

// watchesItself has nodes store their own metrics and logs, and events of the cluster.
func watchesItself(cfg *appliance.Config) { cfg.SelfMonitoring = true }

// Every node's own metrics and log are found at every node, as those of a host; a node that is gone is a warning of the
// others and not their failure.
func TestNodesWatchThemselves(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 3, watchesItself)
	for _, n := range c.Nodes {
		Until(t, "metrics of all nodes", func() error {
			var answer struct {
				Data struct {
					Result []struct{ Metric map[string]string }
				}
			}
			q := url.Values{"query": {`triward_part_up{job="triward",part="metrics"} == 1`}}
			if err := c.Get(n, "/api/v1/query?"+q.Encode(), &answer); err != nil {
				return err
			}
			hosts := make(map[string]bool)
			for _, r := range answer.Data.Result {
				hosts[r.Metric["host"]] = true
			}
			if len(hosts) != 3 {
				return fmt.Errorf("of %v", hosts)
			}
			return nil
		})
		for _, of := range c.Nodes {
			Until(t, "lines of "+of.Config.NodeID, func() error {
				var answer struct {
					Rows []struct {
						Text   string            `json:"text"`
						Labels map[string]string `json:"labels"`
					} `json:"rows"`
				}
				q := url.Values{"query": {`job:triward host:` + of.Config.NodeID + ` "this node is a member"`}}
				if err := c.Get(n, "/v1/logs/query?"+q.Encode(), &answer); err != nil {
					return err
				}
				if len(answer.Rows) != 1 {
					return fmt.Errorf("%d rows: %v", len(answer.Rows), answer.Rows)
				}
				return nil
			})
		}
	}
	c.Nodes[2].Stop(t)
	look := func(token string) (h health) {
		req, err := http.NewRequest(http.MethodGet, c.Nodes[0].URL()+"/-/ready", nil)
		must(t, err)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := c.HTTP.Do(req)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		must(t, json.Unmarshal(body, &h))
		return h
	}
	Until(t, "the warning about a lost node", func() error {
		h := look(c.Token)
		for _, p := range h.Parts {
			if p.Part == "peers" && p.OK && p.Warned && p.Warning == "not reached: n3" && h.OK {
				return nil
			}
		}
		return fmt.Errorf("%+v", h)
	})
	for _, p := range look("").Parts {
		if p.Warning != "" || p.Error != "" {
			t.Errorf("a stranger is told %+v", p)
		}
	}
}
