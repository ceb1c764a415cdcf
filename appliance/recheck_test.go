package appliance_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/appliance/internal/testcluster"
)

// TestRecheckLetsGoOfAFalseAlarm: what is called damaged and is not is read again when an operator says so, and is no
// damage any more: the node is ready, its answers are whole, and it can be copied.
func TestRecheckLetsGoOfAFalseAlarm(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	a := c.NewAgent(t, "host-a", map[string]string{"__name__": "temperature"})
	now := time.Now()
	testcluster.Until(t, "acknowledged", func() error {
		_, err := a.Send(n, a.Lines(now.UnixNano(), "the walrus said 1"), a.Metrics(wire.Scrape{T: now.UnixMilli(), IDs: a.Series, Values: []float64{1}}))
		return err
	})
	n.App.FalseAlarm(now)
	var page struct {
		Rows  []struct{} `json:"rows"`
		Stats struct {
			Partial bool `json:"partial"`
		} `json:"stats"`
	}
	if err := c.Get(n, "/v1/logs/query?query=walrus", &page); err != nil || !page.Stats.Partial {
		t.Errorf("%v: %+v", err, page)
	}
	if err := c.Get(n, "/-/ready", nil); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("ready with damage: %v", err)
	}
	order := map[string]any{"node": n.Config.NodeID, "recheck": true, "from": "n2"}
	if err := c.Post(n, "/v1/cluster/repair", order, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprint(http.StatusBadRequest)) {
		t.Errorf("from and recheck: %v", err)
	}
	delete(order, "from")
	if err := c.Post(n, "/v1/cluster/repair", order, nil); err != nil {
		t.Fatal(err)
	}
	testcluster.Until(t, "it is let go", func() error { return c.Get(n, "/-/ready", nil) })
	if err := c.Get(n, "/v1/logs/query?query=walrus", &page); err != nil || page.Stats.Partial || len(page.Rows) != 1 {
		t.Errorf("%v: %+v", err, page)
	}
	var audit auditlog.ChainPage
	if err := c.Get(n, "/v1/audit?limit=20", &audit); err != nil || !slices.ContainsFunc(audit.Records, func(r auditlog.ChainRecord) bool {
		return r.Action == "cluster.recheck" && r.Target == n.Config.NodeID && r.Actor != ""
	}) {
		t.Errorf("the order has no record: %v, %+v", err, audit.Records)
	}
}
