package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
	"github.com/triward/triward/appliance/logrules"
)

// alertMeta is the metadata of a test as alerting reaches it.
type alertMeta struct{ *authtest.Meta }

func (m alertMeta) Get(bucket, key string) (alerting.Value, bool) {
	v, ok := m.Meta.Get(bucket, key)
	return alerting.Value(v), ok
}

func (m alertMeta) Scan(bucket, prefix string, fn func(string, alerting.Value) bool) {
	m.Meta.Scan(bucket, prefix, func(k string, v auth.Value) bool { return fn(k, alerting.Value(v)) })
}

func (m alertMeta) Commit(ctx context.Context, t alerting.Txn) (uint64, error) {
	var out auth.Txn
	for _, c := range t.Compares {
		out.Compares = append(out.Compares, auth.Compare(c))
	}
	for _, o := range t.Ops {
		out.Ops = append(out.Ops, auth.Op(o))
	}
	for _, a := range t.Audit {
		out.Audit = append(out.Audit, auth.AuditRecord(a))
	}
	index, err := m.Meta.Commit(ctx, out)
	if errors.Is(err, auth.ErrConflict) {
		err = alerting.ErrConflict
	}
	return index, err
}

// alertParts are the stores of a test: empty ones.
type alertParts struct{}

func (alertParts) Verify(context.Context) error { return errors.New("no leader") }
func (alertParts) Term() uint64                 { return 1 }
func (alertParts) Instant(context.Context, string, int64) ([]alerting.Sample, error) {
	return nil, nil
}

func (alertParts) Range(context.Context, string, int64, int64, int64) ([]alerting.Series, error) {
	return nil, nil
}

func (alertParts) Parser() parser.Parser                       { return parser.NewParser(parser.Options{}) }
func (alertParts) Agents() []alerting.Agent                    { return nil }
func (alertParts) Applied() uint64                             { return 1 }
func (alertParts) CheckLogQL(text string) (rules.Shape, error) { return logrules.Check(text) }

func (alertParts) LogQL(context.Context, string, int64) ([]alerting.Sample, error) { return nil, nil }

func (alertParts) LogQLRange(context.Context, string, int64, int64, int64) ([]alerting.Series, error) {
	return nil, nil
}

func (alertParts) CheckQuery(q string) error {
	if strings.Contains(q, "(") {
		return errors.New("a bracket is not closed at byte 0")
	}
	return nil
}

func (alertParts) Count(context.Context, string, int64, int64, string, int) ([]alerting.Count, bool, error) {
	return nil, false, nil
}

func (alertParts) EventsAfter(context.Context, string, uint64, int) ([]alerting.Line, bool, error) {
	return nil, false, nil
}

func testAlerts(t *testing.T, meta *authtest.Meta) *alerting.Service {
	t.Helper()
	s := alerting.New(alerting.Config{
		Node: "n1", Meta: alertMeta{meta}, Leadership: alertParts{}, Metrics: alertParts{}, Logs: alertParts{}, Fleet: alertParts{},
		Send: func(context.Context, *route.Integration, *notify.Message, notify.Gate) error { return nil },
	})
	change := meta.OnChange
	meta.OnChange = func(bucket string) {
		if change != nil {
			change(bucket)
		}
		s.Changed("", "")
	}
	t.Cleanup(func() { s.Close() })
	return s
}

const apiRoutes = `
route: {receiver: ops, routes: [{matchers: ['team="db"'], receiver: dba, escalate: {after: 10m, receiver: ops}}]}
receivers:
  - {name: ops, webhook_configs: [{url: "http://ops.example/"}]}
  - {name: dba}
`

func quoted(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func TestAlertingByTheAPI(t *testing.T) {
	s := newStand(t, nil)
	admin, operator := s.tokens[auth.RoleAdministrator], s.tokens[auth.RoleOperator]
	s.meta.Advance(1_700_000_000_000)
	ask := func(method, path, token string, body any, status int, want string) string {
		t.Helper()
		c := call{method: method, path: path, token: token}
		if body != nil {
			c.body = quoted(body)
		}
		w := s.do(c)
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	rule := "groups: [{name: g, rules: [{alert: A, expr: up == 0}]}]\ntriward: [{name: h, rules: [{alert: B, event: {query: oom}}]}]\n"
	ask("PUT", "/v1/rules/files/own", operator, fileBody{Body: &rule}, 403, "")
	ask("PUT", "/v1/rules/files/own", admin, fileBody{Body: &rule}, 200, `"version":1`)
	off, no := []string{"A"}, false
	ask("PUT", "/v1/rules/files/own", admin, fileBody{Off: &off}, 200, `"off":["A"]`)
	ask("PUT", "/v1/rules/files/own", admin, fileBody{Enabled: &no, Version: 1}, 409, "version 2")
	ask("GET", "/v1/rules", operator, nil, 200, `"id":"own/g/A","kind":"metrics"`)
	ask("GET", "/v1/rules/files/own", operator, nil, 200, `"earlier":[{"version":1`)
	ask("POST", "/v1/rules/check", operator, checkBody{"x", "groups: [{name: g, rules: [{alert: A, expr: 'up =='}]}]"}, 200, `"ok":false`)
	ask("POST", "/v1/rules/check", operator, checkBody{"x", "triward: [{name: g, rules: [{alert: A, event: {query: '('}}]}]"}, 200, "bracket")
	const inLogQL = `logql: [{name: l, rules: [{alert: M, expr: 'sum by (host) (count_over_time({app="a"} |= "x" [5m])) > 3'}, {record: r, expr: 'rate({app="a"}[1m])'}]}]`
	ask("POST", "/v1/rules/check", operator, checkBody{"x", inLogQL}, 200, `"kinds":{"logql":1,"record_logql":1}`)
	ask("POST", "/v1/rules/check", operator, checkBody{"x", "logql: [{name: l, rules: [{alert: M, expr: '{app=\"a\"}'}]}]"}, 200, `"line":1,"column":44,"message":"rule \"M\": expr: it gives lines`)
	logql := inLogQL
	ask("PUT", "/v1/rules/files/lines", admin, fileBody{Body: &logql}, 200, `query_offset: 30s`)
	ask("GET", "/v1/rules", operator, nil, 200, `"kind":"logql","name":"M","language":"logql"`)
	ask("GET", "/v1/rules", operator, nil, 200, `"log_query":"{app=\"a\"} |= \"x\""`)
	ask("PUT", "/v1/rules/files/Bad%20Name", admin, fileBody{Body: &rule}, 400, "name")
	ask("POST", "/v1/rules/preview", operator, map[string]any{"name": "own", "body": rule, "hours": 1}, 200, `"rules":[`)

	ask("PUT", "/v1/routes", admin, routesBody{Body: "route: {receiver: nobody}\nreceivers: []\n"}, 400, "there is no receiver")
	ask("PUT", "/v1/routes", admin, routesBody{Body: apiRoutes}, 200, `"integrations":["webhook/0"]`)
	ask("PUT", "/v1/routes", admin, routesBody{Body: apiRoutes + "  - {name: bot, dingtalk_configs: [{access_token: canary-of-a-secret}]}\n"}, 409, "key ring")
	if strings.Contains(s.meta.Dump(), "canary-of-a-secret") {
		t.Error("a secret was stored")
	}
	ask("POST", "/v1/routes/test", operator, routeTestBody{map[string]string{"team": "db"}}, 200, `"receiver":"dba"`)
	ask("POST", "/v1/receivers/test", operator, receiverTestBody{"ops"}, 403, "")
	ask("POST", "/v1/receivers/test", admin, receiverTestBody{"ops"}, 200, `"ok":true`)
	ask("POST", "/v1/receivers/test", admin, receiverTestBody{"dba"}, 409, "no way")
	ask("POST", "/v1/receivers/test", admin, receiverTestBody{"none"}, 404, "none")

	body := ask("POST", "/v1/silences", operator, silenceBody{Matchers: []string{`host="web1"`, `x!~"a|b"`}, DurationS: 3600, Comment: "works"}, 201, `"created_by":"token operator `)
	var sil route.Silence
	if err := json.Unmarshal([]byte(body), &sil); err != nil {
		t.Fatal(err)
	}
	ask("PUT", "/v1/silences/"+sil.ID, operator, silenceBody{Matchers: []string{`host="web2"`}, DurationS: 60}, 200, `web2`)
	ask("GET", "/v1/silences", operator, nil, 200, `"state":"active"`)
	ask("DELETE", "/v1/silences/"+sil.ID, operator, nil, 204, "")
	ask("GET", "/v1/silences", operator, nil, 200, `"state":"expired"`)
	for i, b := range []silenceBody{
		{DurationS: 60},
		{Matchers: []string{`a=~".*"`}, DurationS: 60},
		{Matchers: []string{`a="b"`}},
		{Matchers: []string{"("}, DurationS: 60},
		{Matchers: []string{`a="b"`}, EndsAt: 5},
		{Matchers: []string{`a="b"`}, DurationS: 1e12},
		{Matchers: []string{`a=~"("`}, DurationS: 60},
	} {
		if w := s.do(call{method: "POST", path: "/v1/silences", token: operator, body: quoted(b)}); w.Code != 400 {
			t.Errorf("silence %d: %d %s", i, w.Code, w.Body)
		}
	}
	ask("GET", "/v1/alerts?match=%7Bhost%3D%22a%22%7D&state=firing,pending", operator, nil, 200, `"alerts":[]`)
	ask("GET", "/v1/alerts?state=loud", operator, nil, 400, "loud")
	ask("GET", "/v1/alerts?match=%7B", operator, nil, 400, "match")
	ask("GET", "/v1/alert/none", operator, nil, 404, "none")
	ask("POST", "/v1/alerts/ack", operator, ackBody{Alerts: []string{"none"}}, 404, "none")
	ask("POST", "/v1/alerts/ack", operator, ackBody{}, 400, "alerts")
	ask("POST", "/v1/alerts/assign", operator, assignBody{Alerts: []string{"none"}, To: "nobody-here"}, 400, "no user")
	ask("POST", "/v1/alerts/assign", operator, assignBody{Alerts: []string{"none"}}, 404, "none")
	ask("POST", "/v1/alerts/escalate", operator, ackBody{Alerts: []string{"none"}}, 404, "none")
	ask("GET", "/v1/alerts/assignees", operator, nil, 200, `"users":[`)
	ask("POST", "/v1/alerts/assign", s.tokens[auth.RoleViewer], assignBody{Alerts: []string{"none"}}, 403, "")
	ask("GET", "/v1/alerts/history", operator, nil, 200, `"records":[]`)
	ask("DELETE", "/v1/rules/files/own", admin, nil, 204, "")
	audited := ""
	for _, a := range s.meta.Audited() {
		if group, _, _ := strings.Cut(a.Action, "."); !slices.Contains([]string{"user", "token", "request"}, group) {
			audited += a.Action + " "
		}
	}
	want := "rules.apply rules.apply rules.apply routes.apply receivers.test silence.add silence.update silence.expire rules.delete "
	if audited != want {
		t.Errorf("audit: %s", audited)
	}
}

// Hostile documents get a clear answer and cost little.
func TestHostileRulesAndRoutes(t *testing.T) {
	s := newStand(t, nil)
	admin := s.tokens[auth.RoleAdministrator]
	deep := strings.Repeat("[", 20_000)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		bomb += fmt.Sprintf("b%d: &b%d [*%s,*%s,*%s,*%s,*%s,*%s,*%s,*%s]\n", i, i, ref(i), ref(i), ref(i), ref(i), ref(i), ref(i), ref(i), ref(i))
	}
	for name, text := range map[string]string{
		"nothing": "", "deep": deep, "bomb": bomb, "number": "1", "list": "[]", "tab": "\t", "zero": "groups: \x00", "long": strings.Repeat("a: b\n", 40_000),
		"many rules": "groups: [{name: g, rules: [" + strings.Repeat("{alert: A, expr: up},", 4000) + "]}]",
		"deep expr":  "groups: [{name: g, rules: [{alert: A, expr: '" + strings.Repeat("(", 5000) + "'}]}]",
		"unknown":    "groups: [{name: g, colour: red}]", "own unknown": "triward: [{name: g, rules: [{alert: A, event: {query: x, colour: red}}]}]",
		"two kinds": "triward: [{name: g, rules: [{alert: A, event: {query: x}, silent_agent: {after: 1m}}]}]",
		"twice":     "groups: [{name: g}, {name: g}]", "no name": "triward: [{rules: []}]", "second": "groups: []\n---\ngroups: []\n",
		"regex": `{route: {receiver: a, routes: [{matchers: ['x=~"` + strings.Repeat("(a|b)*", 100) + `"']}]}, receivers: [{name: a}]}`,
	} {
		for _, path := range []string{"/v1/rules/files/own", "/v1/routes"} {
			w := s.do(call{method: "PUT", path: path, token: admin, body: quoted(map[string]string{"body": text})})
			empty := path != "/v1/routes" && name == "nothing"
			if w.Code != http.StatusBadRequest && w.Code != http.StatusRequestEntityTooLarge && !empty {
				t.Errorf("%s %s: %d %.300s", path, name, w.Code, w.Body)
			}
		}
	}
}

func ref(i int) string {
	if i == 0 {
		return "a"
	}
	return fmt.Sprintf("b%d", i-1)
}

// A node that has not caught up since its start cannot say who is a stranger: it asks to be tried again.
func TestNodeThatStartsRefusesNobodyForGood(t *testing.T) {
	s := newStand(t, nil)
	s.parts.readErr = ErrNoLeader
	ask := call{method: "POST", path: "/v1/alerts/ack", token: "twt_known_to_the_others", body: `{"alerts":["a"]}`}
	s.problem("starting", s.do(ask), http.StatusServiceUnavailable)
	s.parts.readErr = nil
	s.problem("caught up", s.do(ask), http.StatusUnauthorized)
	ask.token = s.tokens[auth.RoleOperator]
	s.problem("no such alert", s.do(ask), http.StatusNotFound)
	s.parts.readErr = ErrNoLeader
	s.problem("lagging", s.do(ask), http.StatusServiceUnavailable)
	s.problem("nobody", s.do(call{method: "POST", path: "/v1/alerts/ack", body: `{"alerts":["a"]}`}), http.StatusUnauthorized)
}
