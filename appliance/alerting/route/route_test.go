package route

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const doc = `# who is told
route:
  receiver: ops
  group_by: [alertname]
  routes:
    - matchers: ['team="db"']
      receiver: dba
      group_by: ["..."]
      group_wait: 1s
      escalate: {after: 10m, receiver: boss}
      continue: true
    - matchers: ['team=~"db|web"', 'severity="critical"']
      receiver: boss
      routes:
        - matchers: ['night!=""']
          repeat_interval: 1d
receivers:
  - name: ops
    webhook_configs: [{url: "https://ops.example/x", http_config: {basic_auth: {username: u, password: hush1}}}]
  - name: dba # by mail
    email_configs: [{to: "dba@site.example", from: "t@site.example", smarthost: "relay:25", auth_username: u, auth_password: hush2}]
  - name: boss
    dingtalk_configs: [{access_token: hush3, secret: hush4, send_resolved: false}]
    wecom_configs: [{key: hush5}]
    feishu_configs: [{token: hush6}]
inhibit_rules:
  - {source_matchers: ['severity="critical"'], target_matchers: ['severity="warning"'], equal: [host]}
`

func TestTree(t *testing.T) {
	c, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	for labels, want := range map[string]string{
		"team=x":                               "ops",
		"team=db":                              "dba",
		"team=db severity=critical":            "dba boss",
		"team=web severity=critical":           "boss",
		"team=web severity=critical night=yes": "boss",
		"team=web":                             "ops",
	} {
		ls := map[string]string{}
		for _, p := range strings.Fields(labels) {
			k, v, _ := strings.Cut(p, "=")
			ls[k] = v
		}
		var names []string
		for _, r := range c.For(ls) {
			names = append(names, r.Receiver)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s goes to %s, want %s", labels, got, want)
		}
	}
	db := c.For(map[string]string{"team": "db"})[0]
	if g := db.GroupLabels(map[string]string{"team": "db", "x": "y"}); len(g) != 2 || Milliseconds(db.GroupWait) != 1000 || Milliseconds(db.RepeatInterval) != 4*3600_000 {
		t.Errorf("%v %+v", g, db)
	}
	night := c.For(map[string]string{"team": "web", "severity": "critical", "night": "1"})[0]
	if Milliseconds(night.RepeatInterval) != 86400_000 || night.Escalate != nil || night.Key() == db.Key() {
		t.Errorf("%+v", night)
	}
	boss := c.Receiver("boss").Integrations()
	if len(boss) != 3 || boss[0].Resolved || !boss[1].Resolved || boss[0].DingTalk.BaseURL != "https://oapi.dingtalk.com" {
		t.Errorf("%+v", boss)
	}
}

// A route's key depends on what leads to it and not on its neighbours, or receivers would be told again of everything.
func TestKeysOfRoutesAreStable(t *testing.T) {
	a, _ := Parse([]byte(doc))
	b, err := Parse([]byte(strings.Replace(doc, "  routes:\n", "  routes:\n    - {matchers: ['a=\"b\"'], receiver: ops}\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	ls := map[string]string{"team": "db"}
	if a.For(ls)[0].Key() != b.For(ls)[0].Key() {
		t.Error("the key changed")
	}
}

func TestSecretsAreTakenOutAndPutBack(t *testing.T) {
	shown, secrets, err := Split([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(shown), "hush") || len(secrets) != 6 || !strings.Contains(string(shown), "# by mail") {
		t.Fatalf("%d secrets\n%s", len(secrets), shown)
	}
	if secrets["receiver boss.dingtalk_configs[0].secret"] != "hush4" {
		t.Errorf("%v", secrets)
	}
	if _, err := Parse(shown); err != nil {
		t.Error(err)
	}
	again, more, err := Split(shown)
	if err != nil || len(more) != 0 || string(again) != string(shown) {
		t.Errorf("%v %v", more, err)
	}
	if places, err := Places(shown); err != nil || len(places) != 6 {
		t.Errorf("%v %v", places, err)
	}
	back, err := Join(shown, func(place string) (string, error) { return secrets[place], nil })
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(back)
	if err != nil || c.Receiver("boss").Feishu[0].Token != "hush6" || c.Receiver("ops").Webhook[0].HTTP.BasicAuth.Password != "hush1" {
		t.Errorf("%v", err)
	}
	if _, err := Join(shown, func(string) (string, error) { return "", errors.New("sealed otherwise") }); err == nil || !strings.Contains(err.Error(), "receiver ") {
		t.Error(err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	ok := "receivers: [{name: a}]\nroute: "
	for text, want := range map[string]string{
		"":                       "empty",
		"route: {receiver: a}":   "no receiver \"a\"",
		"receivers: [{name: a}]": "route is missing",
		ok + "{}":                "route.receiver is missing",
		ok + "{receiver: a, matchers: ['x=\"y\"']}":                                                     "root takes every alert",
		ok + "{receiver: a, group_wait: 2h}":                                                            "group_wait: 2h0m0s is out of range",
		ok + "{receiver: a, routes: [{matchers: ['x'] }]}":                                              "line 2",
		ok + "{receiver: a, routes: [{receiver: b}]}":                                                   "routes[0].receiver: there is no receiver \"b\"",
		ok + "{receiver: a, escalate: {after: 1s, receiver: b}}":                                        "escalate.after",
		ok + "{receiver: a, colour: red}":                                                               "colour",
		"receivers: [{name: a}, {name: a}]\nroute: {receiver: a}":                                       "taken already",
		"receivers: [{name: a, webhook_configs: [{url: 'ftp://x'}]}]\nroute: {receiver: a}":             "want http:// or https://",
		"receivers: [{name: a, webhook_configs: [{url: 'http://u:p@x/'}]}]\nroute: {receiver: a}":       "basic_auth",
		"receivers: [{name: a, email_configs: [{to: x, from: y, smarthost: z}]}]\nroute: {receiver: a}": "relay.example:25",
		"receivers: [{name: a, dingtalk_configs: [{}]}]\nroute: {receiver: a}":                          "access_token is missing",
		"receivers: [{name: a, wecom_configs: [{key: k, language: fr}]}]\nroute: {receiver: a}":         "want en or zh",
		ok + "{receiver: a}\ninhibit_rules: [{source_matchers: ['a=\"b\"']}]":                           "target_matchers",
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestInhibition(t *testing.T) {
	c, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	alert := func(id, severity, host string) Labelled {
		return Labelled{ID: id, Labels: map[string]string{"severity": severity, "host": host}}
	}
	in := NewInhibition(c.Inhibit, []Labelled{alert("1", "critical", "a"), alert("2", "warning", "b")})
	for _, x := range []struct {
		a    Labelled
		want string
	}{{alert("3", "warning", "a"), "1"}, {alert("4", "warning", "b"), ""}, {alert("1", "critical", "a"), ""}, {alert("5", "info", "a"), ""}} {
		if got := in.By(x.a); got != x.want {
			t.Errorf("%+v is muted by %q", x.a, got)
		}
	}
}

func TestSilences(t *testing.T) {
	for i, m := range []string{`host=""`, `host=~".*"`, `a!="b"`, `a!~"b"`} {
		ms, err := ParseMatchers(m)
		if err != nil {
			t.Fatal(err)
		}
		s := Silence{Matchers: FromMatchers(ms), EndsAt: 5}
		if err := s.Check(); err == nil {
			t.Errorf("%d: a silence of everything was taken", i)
		}
	}
	ms, err := ParseMatchers(`{a="b",c=~"d|e",f!="g"}`)
	if err != nil || len(ms) != 3 {
		t.Fatal(err)
	}
	s := Silence{Matchers: FromMatchers(ms), StartsAt: 10, EndsAt: 20}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	back, err := s.Compile()
	if err != nil || fmt.Sprint(back) != fmt.Sprint(ms) || s.State(9) != "pending" || s.State(10) != "active" || s.State(20) != "expired" {
		t.Errorf("%v %v", back, err)
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(doc))
	f.Add([]byte("route: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Parse(b); err != nil {
			return
		}
		shown, _, err := Split(b)
		if err != nil {
			return
		}
		if _, err := Parse(shown); err != nil {
			t.Fatalf("%q was taken, without its secrets %q is not: %v", b, shown, err)
		}
	})
}

func TestDurationThatIsNoneHasItsLine(t *testing.T) {
	_, err := Parse([]byte("route:\n  receiver: a\n  group_wait: soon\n  escalate: {after: later, receiver: a}\nreceivers: [{name: a}]\n"))
	for _, want := range []string{`line 3: group_wait: "soon" is no duration`, `line 4: after: "later" is no duration`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
