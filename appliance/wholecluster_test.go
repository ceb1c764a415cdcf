package appliance_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/internal/testcluster"
)

// Where lines are damaged on a node, and on a second one so that none can be repaired from the others' word, whoever asks the
// first gets what the third one has, also from Loki's API, and is told which node that was.
func TestDamagedNodeHasAnotherAnswer(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3)
	n := c.Nodes[0]
	a := c.NewAgent(t, "host-a")
	now := time.Now()
	testcluster.Until(t, "acknowledged", func() error {
		_, err := a.Send(n, a.Lines(now.UnixNano(), "the walrus said 1", "the walrus said 2"))
		return err
	})
	c.WaitEqual(t)
	whole := c.Nodes[2].Config.NodeID
	alarm := func() {
		c.Nodes[1].App.FalseAlarm(now)
		n.App.FalseAlarm(now)
	}
	testcluster.Until(t, "the other node answers", func() error {
		alarm()
		type answer struct {
			Rows  []struct{} `json:"rows"`
			Stats struct {
				Partial bool   `json:"partial"`
				Node    string `json:"node"`
			} `json:"stats"`
		}
		var page, own answer
		if err := c.Get(n, "/v1/logs/query?query=walrus", &page); err != nil {
			return err
		}
		if page.Stats.Partial || len(page.Rows) != 2 || page.Stats.Node != whole {
			return fmt.Errorf("%+v", page)
		}
		alarm()
		if err := c.Get(n, "/v1/logs/query?query=walrus&consistency=stale", &own); err != nil {
			return err
		}
		if !own.Stats.Partial || own.Stats.Node != "" {
			return fmt.Errorf("what this node has: %+v", own)
		}
		return nil
	})
	for path, want := range map[string]string{
		"query_range": "the walrus said 2", "labels": `"host"`, "label/host/values": `"host-a"`, "series": `"host":"host-a"`,
		"index/stats": `"entries":2`, "index/volume": `"host":"host-a"`, "index/volume_range": `"host":"host-a"`,
		"detected_labels": `"label":"host"`, "detected_fields": `"fields"`, "patterns": "the walrus said",
	} {
		testcluster.Until(t, "the other node answers Loki's "+path, func() error {
			alarm()
			q := url.Values{"query": {`{host="host-a"}`}, "match[]": {`{host="host-a"}`}}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+"/loki/api/v1/"+path+"?"+q.Encode(), http.NoBody)
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+c.Token)
			resp, err := c.HTTP.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Triward-Node") != whole || !json.Valid(text) ||
				!strings.Contains(string(text), want) || strings.Contains(string(text), "warnings") {
				return fmt.Errorf("%s from %q: %s", resp.Status, resp.Header.Get("X-Triward-Node"), text)
			}
			return nil
		})
	}
}
