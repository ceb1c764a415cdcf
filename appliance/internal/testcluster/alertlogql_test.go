package testcluster

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

const clusterLogQL = `
logql:
  - name: lines
    interval: 1s
    rules:
      - alert: FailedLogins
        expr: sum by (host) (count_over_time({source="file"} |= "Failed password" | regexp "from (?P<addr>[0-9.]+)" | addr="10.1.2.3" [12s])) > 2
        for: 3s
        labels: {severity: warning}
        annotations: {summary: "{{ $labels.host }}: {{ $value }}"}
      - alert: Echo
        expr: sum(count_over_time({source="alerts"}[1m])) > 0
      - record: host:failed_logins:count12s
        expr: sum by (host) (count_over_time({source="file"} |= "Failed password" [12s]))
`

// Lines that a rule in LogQL counts lead to one message and one on recovery while the leader changes within its duration;
// what is recorded of them can be asked as a metric; events about alerts are no lines of rules.
func TestRulesInLogQLOverThreeNodes(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 3, watchesItself)
	sink := &notified{keys: make(map[string]int)}
	srv := httptest.NewServer(sink)
	defer srv.Close()
	must(t, c.put(c.Nodes[1], "/v1/rules/files/lines", map[string]string{"body": clusterLogQL}))
	must(t, c.put(c.Nodes[2], "/v1/routes", map[string]string{"body": `
route: {receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 2s}
receivers: [{name: hook, webhook_configs: [{url: "` + srv.URL + `"}]}]
`}))
	a := c.NewAgent(t, "web1")
	follower := func() *Node {
		l := c.Leader(t)
		for _, n := range c.Nodes {
			if n != l && n.App != nil {
				return n
			}
		}
		return nil
	}
	try := func(addr string) {
		b := a.Lines(time.Now().UnixNano(), "Failed password for root from "+addr+" port 22", "Failed password for ada from "+addr+" port 22", "Accepted password")
		Until(t, "lines are taken", func() error { _, err := a.Send(follower(), b); return err })
	}
	type alert struct {
		Name, State string
		Kind        string
		LogQuery    string `json:"log_query"`
		Annotations map[string]string
	}
	find := func(name string) (alert, error) {
		var answer struct{ Alerts []alert }
		if err := c.Get(follower(), "/v1/alerts?state=pending,firing,acknowledged,resolved&consistency=linearizable", &answer); err != nil {
			return alert{}, err
		}
		for _, x := range answer.Alerts {
			if x.Name == name {
				return x, nil
			}
		}
		return alert{State: "inactive"}, nil
	}
	becomes := func(name, want string, again func()) (got alert) {
		t.Helper()
		Until(t, name+" is "+want, func() (err error) {
			if again != nil {
				again()
			}
			if got, err = find(name); err == nil && got.State != want {
				err = fmt.Errorf("it is %s", got.State)
			}
			return err
		})
		return got
	}
	attack := func() { try("10.1.2.3"); try("10.9.9.9") }
	becomes("FailedLogins", "pending", attack)
	old := c.Leader(t)
	old.Stop(t)
	got := becomes("FailedLogins", "firing", attack)
	old.Start(t)
	old.WaitReady(t)
	if got.Kind != "logql" || got.Annotations["summary"] == "" ||
		got.LogQuery != "{source=\"file\"} |= \"Failed password\" | regexp \"from (?P<addr>[0-9.]+)\" | addr=\"10.1.2.3\" | host=\"web1\"" {
		t.Errorf("%+v", got)
	}
	var lines struct{ Rows []struct{ Text string } }
	must(t, c.Get(follower(), "/v1/logs/query?limit=5&query="+url.QueryEscape(got.LogQuery), &lines))
	if len(lines.Rows) == 0 {
		t.Error("the query for the lines of the alert finds none")
	}
	Until(t, "what is recorded can be asked", func() error {
		var answer struct {
			Data struct {
				Result []struct {
					Metric map[string]string
				}
			}
		}
		err := c.Get(follower(), "/api/v1/query?query="+url.QueryEscape(`max_over_time(host:failed_logins:count12s[5m]) >= 4`), &answer)
		if err == nil && (len(answer.Data.Result) != 1 || answer.Data.Result[0].Metric["host"] != "web1") {
			err = fmt.Errorf("%+v", answer)
		}
		return err
	})
	becomes("FailedLogins", "resolved", func() { try("10.9.9.9") })
	Until(t, "all is told", func() error {
		for _, w := range []string{"FailedLogins/firing", "FailedLogins/resolved"} {
			if n := sink.count(w); n != 1 {
				return fmt.Errorf("%s was told %d times: %s", w, n, sink.all())
			}
		}
		return nil
	})
	Until(t, "an event tells of the alert", func() error {
		if len(c.events(t, follower(), "&source=alerts")) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	becomes("FailedLogins", "firing", attack) // by now a rule that saw the event would have fired
	if got, err := find("Echo"); err != nil || got.State != "inactive" {
		t.Errorf("a rule saw an event about an alert: %+v %v", got, err)
	}
	c.WaitEqual(t)
}
