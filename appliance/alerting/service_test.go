package alerting

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/state"
)

func room(name string, v float64) Sample {
	return Sample{Labels: map[string]string{"__name__": "temperature", "room": name}, V: v}
}

func (c *fakeCluster) shown(name string) state.Shown {
	c.t.Helper()
	for _, a := range c.nodes[0].service.Alerts(AlertFilter{States: []state.Shown{"pending", "firing", "acknowledged", "silenced", "inhibited", "resolved"}}).Alerts {
		if a.Name == name {
			return a.State
		}
	}
	return "inactive"
}

func (c *fakeCluster) want(name string, want state.Shown) {
	c.t.Helper()
	if got := c.shown(name); got != want {
		c.t.Fatalf("%s is %s, want %s", name, got, want)
	}
}

func TestOneMessageAndOneOnRecovery(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.step()
	c.put("own", testRules)
	c.route(testRoutes)
	c.world.set("temperature > 30", room("attic", 35))
	c.run(10 * time.Second)
	c.want("Hot", "pending")
	c.run(27 * time.Second)
	c.want("Hot", "firing")
	c.run(10 * time.Second)
	got := c.messages()
	if len(got) != 1 || !got[0].has("Hot", true) || got[0].alerts[0].Annotations["summary"] != "attic has 35" || got[0].alerts[0].Labels["severity"] != "warning" {
		t.Fatalf("%+v", got)
	}
	c.run(5 * time.Minute)
	if n := len(c.messages()); n != 1 {
		t.Fatalf("%d messages while nothing changed", n)
	}
	c.world.set("temperature > 30")
	c.run(20 * time.Second)
	c.want("Hot", "resolved")
	got = c.messages()
	if len(got) != 2 || !got[1].has("Hot", false) || got[1].alerts[0].EndsAt == 0 {
		t.Fatalf("%+v", got)
	}
	c.run(30 * time.Minute)
	c.want("Hot", "inactive")
	if n := len(c.meta.keysOf(BucketGroups)) + len(c.meta.keysOf(BucketSends)) + len(c.meta.keysOf(BucketAlerts)); n != 0 {
		t.Errorf("%d records are left", n)
	}
	what := ""
	for _, h := range c.nodes[1].service.History(HistoryFilter{Limit: 100}).Records {
		what = h.What + " " + what
	}
	if what != "fired sent resolved sent " {
		t.Errorf("history: %s", what)
	}
}

func (m *fakeMeta) keysOf(bucket string) []string {
	var keys []string
	nodeMeta{m, ""}.Scan(bucket, "", func(k string, _ Value) bool { keys = append(keys, k); return true })
	return keys
}

// `for` goes on where it was when the leader changes: the alert fires at the second at which it would have.
func TestForSurvivesTheLeader(t *testing.T) {
	fires := func(change bool) int64 {
		c := newFakeCluster(t, 3)
		c.step()
		c.put("own", testRules)
		c.route(testRoutes)
		c.world.set("temperature > 30", room("attic", 35))
		start := c.meta.now
		for i := range 60 {
			if change && i%10 == 7 {
				c.kill(i / 10 % 3)
				c.elect((i/10 + 1) % 3)
				c.restart(i / 10 % 3)
			}
			c.run(time.Second)
			if c.nodes[(i/10+2)%3].service.Alerts(AlertFilter{}).Counts["firing"] > 0 {
				return c.meta.now - start
			}
		}
		t.Fatal("it never fired")
		return 0
	}
	if calm, wild := fires(false), fires(true); calm != wild {
		t.Errorf("fired after %d ms, with other leaders after %d ms", calm, wild)
	}
}

func TestAcknowledgeSilenceInhibit(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.step()
	c.put("own", testRules)
	c.route(strings.Replace(testRoutes, "repeat_interval: 1h", "repeat_interval: 2m", 1) + `
inhibit_rules:
  - {source_matchers: ['alertname="Down"'], target_matchers: ['alertname="Hot"'], equal: [room]}
`)
	c.world.set("temperature > 30", room("attic", 35))
	c.run(50 * time.Second)
	if n := len(c.messages()); n != 1 {
		t.Fatalf("%d messages", n)
	}
	id := c.nodes[0].service.Alerts(AlertFilter{}).Alerts[0].ID
	ctx := context.Background()
	if err := c.nodes[2].service.Acknowledge(ctx, []string{id}, true, "on my way", By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	c.want("Hot", "acknowledged")
	c.run(5 * time.Minute)
	if n := len(c.messages()); n != 1 {
		t.Fatalf("%d messages: an acknowledged alert is not repeated", n)
	}
	if err := c.nodes[2].service.Acknowledge(ctx, []string{id}, false, "", By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	c.run(2 * time.Minute)
	if n := len(c.messages()); n != 2 {
		t.Fatalf("%d messages: it is repeated again", n)
	}
	sil, err := c.nodes[1].service.PutSilence(ctx, route.Silence{
		Matchers: []route.Matcher{{Name: "room", Value: "attic", IsEqual: true}}, EndsAt: c.meta.now + 600_000, Comment: "works",
	}, By{Actor: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	c.run(2 * time.Second)
	c.want("Hot", "silenced")
	c.run(5 * time.Minute)
	if n := len(c.messages()); n != 2 {
		t.Fatalf("%d messages: a silenced alert is not repeated", n)
	}
	if err := c.nodes[1].service.ExpireSilence(ctx, sil.ID, By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	c.run(15 * time.Second)
	if n := len(c.messages()); n != 3 {
		t.Fatalf("%d messages: the end of a silence reminds", n)
	}
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "attic"}})
	c.run(10 * time.Second)
	c.want("Hot", "inhibited")
	c.world.set("temperature > 30")
	c.run(30 * time.Second)
	c.want("Hot", "resolved")
	got := c.messages()
	hot := 0
	for _, m := range got[3:] {
		if m.has("Hot", false) {
			hot++
		}
		if m.has("Hot", true) {
			t.Errorf("an inhibited alert was told: %+v", m)
		}
	}
	if hot != 1 {
		t.Errorf("%d messages of the end of an alert that had been told before it was inhibited: %+v", hot, got[3:])
	}
	if err := c.nodes[0].service.Acknowledge(ctx, []string{id}, true, "", By{}); !errors.Is(err, ErrState) {
		t.Errorf("a resolved alert was acknowledged: %v", err)
	}
	if len(c.meta.audit) < 6 {
		t.Errorf("%d audit records: %+v", len(c.meta.audit), c.meta.audit)
	}
}

// An alert that was silenced before anybody was told of it is never told.
func TestSilencedFromTheStart(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	c.put("own", testRules)
	c.route(testRoutes)
	if _, err := c.nodes[0].service.PutSilence(context.Background(), route.Silence{
		Matchers: []route.Matcher{{Name: "alertname", Value: "Ho.*", IsRegex: true, IsEqual: true}}, EndsAt: c.meta.now + 3600_000,
	}, By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	c.world.set("temperature > 30", room("attic", 35))
	c.run(time.Minute)
	c.want("Hot", "silenced")
	c.world.set("temperature > 30")
	c.run(time.Minute)
	if got := c.messages(); len(got) != 0 {
		t.Fatalf("%+v", got)
	}
}

func TestEscalation(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.step()
	c.put("own", testRules)
	c.route(strings.Replace(testRoutes, "repeat_interval: 1h", "repeat_interval: 1h, escalate: {after: 2m, receiver: boss}", 1))
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}}, Sample{Labels: map[string]string{"room": "b"}})
	c.run(20 * time.Second)
	for _, a := range c.nodes[0].service.Alerts(AlertFilter{}).Alerts {
		if a.Labels["room"] == "a" {
			if err := c.nodes[0].service.Acknowledge(context.Background(), []string{a.ID}, true, "", By{Actor: "ada"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.kill(0)
	c.elect(1)
	c.run(2 * time.Minute)
	c.restart(0)
	boss := 0
	for _, m := range c.messages() {
		if m.receiver == "boss" {
			boss++
			if len(m.alerts) != 1 || m.alerts[0].Labels["room"] != "b" || !m.escalate {
				t.Errorf("%+v", m)
			}
		}
	}
	if boss != 1 {
		t.Fatalf("%d messages to the second receiver: %+v", boss, c.messages())
	}
	c.world.set("up == 0")
	c.run(30 * time.Second)
	last := c.messages()
	ends := 0
	for _, m := range last {
		if m.receiver == "boss" && m.has("Down", false) {
			ends++
		}
	}
	if ends != 1 {
		t.Errorf("the second receiver heard %d times of the end", ends)
	}
}

// Somebody who looks after an alert is named in its messages and changes nothing else; an escalation that is asked for is
// made once, even of an alert that is acknowledged.
func TestAssignAndEscalateByHand(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.step()
	c.put("own", testRules)
	c.route(strings.Replace(testRoutes, "repeat_interval: 1h", "repeat_interval: 1h, escalate: {after: 30m, receiver: boss}", 1))
	ctx, ada := context.Background(), By{Actor: "ada"}
	c.world.set("temperature > 30", room("attic", 35))
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}})
	c.run(10 * time.Second)
	ids := map[string]string{}
	for _, a := range c.nodes[0].service.Alerts(AlertFilter{}).Alerts {
		ids[a.Name] = a.ID
	}
	if err := c.nodes[0].service.Assign(ctx, []string{ids["Hot"]}, "bob", "", ada); !errors.Is(err, ErrState) {
		t.Errorf("a pending alert was assigned: %v", err)
	}
	if err := c.nodes[2].service.Assign(ctx, []string{ids["Down"]}, "bob", "his rack", ada); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes[2].service.Acknowledge(ctx, []string{ids["Down"]}, true, "", By{Actor: "bob"}); err != nil {
		t.Fatal(err)
	}
	if v, err := c.nodes[1].service.Alert(ids["Down"]); err != nil || v.Assigned == nil || v.Assigned.To != "bob" || v.Assigned.By != "ada" || !v.Escalates {
		t.Fatalf("%+v %v", v, err)
	}
	c.run(time.Minute)
	for range 2 { // the second changes nothing
		if err := c.nodes[1].service.Escalate(ctx, []string{ids["Down"]}, "", By{Actor: "bob"}); err != nil {
			t.Fatal(err)
		}
	}
	c.kill(0)
	c.elect(1)
	c.run(time.Minute)
	c.restart(0)
	boss := 0
	for _, m := range c.messages() {
		if m.receiver == "boss" {
			boss++
			if !m.escalate || len(m.alerts) != 1 || m.alerts[0].AssignedTo != "bob" {
				t.Errorf("%+v", m)
			}
		}
	}
	if boss != 1 {
		t.Errorf("%d messages to the second receiver", boss)
	}
	var told []string
	for _, h := range c.nodes[1].service.History(HistoryFilter{Alert: ids["Down"], Limit: 100}).Records {
		if h.What == "assigned" || h.What == "escalated" {
			told = append(told, h.What+" by "+h.By+" "+h.To)
		}
	}
	if fmt.Sprint(told) != "[escalated by bob  assigned by ada bob]" {
		t.Errorf("history: %v", told)
	}
	if err := c.nodes[1].service.Assign(ctx, []string{ids["Down"]}, "", "", ada); err != nil {
		t.Fatal(err)
	}
	if v, err := c.nodes[1].service.Alert(ids["Down"]); err != nil || v.Assigned != nil || v.Escalates {
		t.Errorf("%+v %v", v, err)
	}
	c.route(testRoutes)
	if err := c.nodes[1].service.Escalate(ctx, []string{ids["Hot"]}, "", ada); !errors.Is(err, ErrState) {
		t.Errorf("escalated without a second step: %v", err)
	}
	actions := ""
	for _, a := range c.meta.audit {
		if strings.HasPrefix(a.Action, "alert.") {
			actions += a.Action + " "
		}
	}
	if actions != "alert.assign alert.acknowledge alert.escalate alert.assign " {
		t.Errorf("audit: %s", actions)
	}
}

// A receiver that fails is tried again under the same key, and holds no other up.
func TestReceiverThatFails(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	c.put("own", testRules)
	c.route(testRoutes + `
  - name: both
    webhook_configs: [{url: "http://a.example/"}, {url: "http://b.example/"}]
`)
	c.route(strings.Replace(testRoutes, "receiver: ops", "receiver: both", 1) + `
  - name: both
    webhook_configs: [{url: "http://a.example/"}, {url: "http://b.example/"}]
`)
	broken := true
	tried := map[string]int{}
	var mu sync.Mutex // messages to several receivers are under way at once
	c.answer = func(_ string, in *route.Integration, m *notify.Message) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		tried[m.Key]++
		if broken && in.Name == "webhook/0" {
			return false, errors.New("connection refused")
		}
		return true, nil
	}
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}})
	c.run(30 * time.Second)
	if got := c.messages(); len(got) != 1 {
		t.Fatalf("%+v", got)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	c.run(2 * time.Minute)
	got := c.messages()
	if len(got) != 2 || got[0].key == got[1].key || tried[got[1].key] < 3 {
		t.Fatalf("%v %+v", tried, got)
	}
}

func TestEventsAgentsAndCounts(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.world.agents = []Agent{{ID: "a1", Host: "web1", LastSeen: c.meta.now}, {ID: "a2", Host: "web2", LastSeen: c.meta.now, Tags: map[string]string{"site": "b"}}}
	c.world.events = []Line{{Index: 10, Text: "oom long ago", Labels: map[string]string{"host": "web1"}}}
	c.step()
	c.put("own", `
triward:
  - name: g
    interval: 5s
    rules:
      - {alert: Oom, event: {query: oom, by: host, hold: 1m}, annotations: {summary: "{{ $labels.event }}"}}
      - {alert: Silent, silent_agent: {after: 40s, match: {site: b}}}
      - {alert: Errors, logs: {query: "level:error", window: 5m, by: host, above: 10}}
      - {alert: Quiet, logs: {query: "heartbeat", window: 5m, below: 1}}
`)
	c.route(testRoutes)
	c.world.counts["heartbeat"] = []Count{{Lines: 3}}
	c.run(10 * time.Second)
	if got := c.messages(); len(got) != 0 {
		t.Fatalf("%+v", got)
	}
	c.world.mu.Lock()
	c.world.events = append(c.world.events, Line{Index: 11, Text: "oom: java killed", Labels: map[string]string{"host": "web2"}})
	c.world.counts["level:error"] = []Count{{"web1", 11}, {"web2", 10}}
	c.world.mu.Unlock()
	c.run(10 * time.Second)
	c.want("Oom", "firing")
	c.want("Errors", "firing")
	c.kill(0)
	c.elect(1)
	c.run(20 * time.Second)
	c.restart(0)
	c.want("Silent", "firing")
	c.world.mu.Lock()
	c.world.counts["heartbeat"] = nil
	c.world.agents[1].LastSeen = c.meta.now
	c.world.mu.Unlock()
	c.run(10 * time.Second)
	c.want("Silent", "resolved")
	c.want("Quiet", "firing")
	c.run(90 * time.Second)
	c.want("Oom", "resolved")
	count := map[string]int{}
	for _, m := range c.messages() {
		for _, a := range m.alerts {
			name := a.Labels["alertname"]
			if a.Firing {
				count[name]++
			}
			if name == "Oom" && (a.Labels["host"] != "web2" || a.Annotations["summary"] != "oom: java killed") {
				t.Errorf("%+v", a)
			}
		}
	}
	for _, name := range []string{"Oom", "Silent", "Errors", "Quiet"} {
		if name != "Silent" && count[name] != 1 { // a2 falls silent a second time
			t.Errorf("%s was told %d times", name, count[name])
		}
	}
}

// What nobody could send while the cluster was down is nobody's silence, and what is missing ends no alert.
func TestOutageOfTheCluster(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.world.agents = []Agent{{ID: "a1", Host: "web1", LastSeen: c.meta.now}}
	c.step()
	c.put("own", testRules+"triward: [{name: s, interval: 5s, rules: [{alert: Silent, silent_agent: {after: 1m}}]}]\n")
	c.route(testRoutes)
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}})
	c.run(20 * time.Second)
	c.world.agents[0].LastSeen = c.meta.now
	c.kill(0)
	c.meta.advance(2 * time.Hour)
	c.world.set("up == 0") // its samples are older than the lookback now
	c.restart(0)
	c.elect(0)
	c.run(30 * time.Second)
	c.want("Down", "firing")
	c.want("Silent", "inactive")
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}})
	c.world.mu.Lock()
	c.world.agents[0].LastSeen = c.meta.now
	c.world.mu.Unlock()
	c.run(25 * time.Second)
	if got := c.messages(); len(got) != 2 { // the second is the repetition that was due
		t.Fatalf("%+v", got)
	}
	c.run(5 * time.Minute)
	c.want("Silent", "firing")
}

func TestRulesThatAreGoneEndTheirAlerts(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	c.put("own", testRules)
	c.route(testRoutes)
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}})
	c.run(10 * time.Second)
	c.want("Down", "firing")
	off := []string{"Down"}
	if _, _, err := c.nodes[0].service.PutFile(context.Background(), "own", FileChange{Off: &off}, By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	c.run(20 * time.Second)
	c.want("Down", "resolved")
	if got := c.messages(); len(got) != 2 || !got[1].has("Down", false) {
		t.Fatalf("%+v", got)
	}
}

func TestErrorsOfRulesAreShown(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.step()
	c.put("own", testRules)
	c.world.err = errors.New("query: too many samples")
	c.run(10 * time.Second)
	seen := ""
	for _, f := range c.nodes[2].service.Files() {
		for _, r := range f.Rules {
			if f.Name == "own" {
				seen += r.Error + ";"
			}
		}
	}
	if seen != "query: too many samples;query: too many samples;" {
		t.Error(seen)
	}
	c.world.err = nil
	c.run(35 * time.Second)
	if n := len(c.meta.keysOf(BucketHealth)); n != 0 {
		t.Errorf("%d rules are not well", n)
	}
}

func TestShippedRulesStayAsTheOperatorWantsThem(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.step()
	s := c.nodes[0].service
	hosts, err := s.File("hosts")
	if err != nil || hosts.Origin != OriginShipped {
		t.Fatalf("%+v %v", hosts.Origin, err)
	}
	if err := s.DeleteFile(context.Background(), "triward", By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	body := "groups: []\n"
	if _, _, err := s.PutFile(context.Background(), "hosts", FileChange{Body: &body, Version: hosts.Version}, By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.PutFile(context.Background(), "hosts", FileChange{Body: &body, Version: hosts.Version}, By{Actor: "ada"}); !errors.Is(err, ErrConflictNow) {
		t.Fatalf("an old version was changed: %v", err)
	}
	c.kill(0)
	c.elect(1)
	c.run(2 * time.Second)
	c.restart(0)
	files := c.nodes[1].service.Files()
	files = slices.DeleteFunc(files, func(f FileView) bool { return f.Name == "events" || f.Name == "logs" })
	if len(files) != 1 || files[0].Origin != OriginOperator || len(files[0].Rules) != 0 {
		t.Fatalf("%+v", files)
	}
	if v := s.Versions("hosts"); len(v) != 1 || v[0].Body != hosts.Body {
		t.Errorf("%d earlier versions", len(v))
	}
}

// Routes that change while the leader tidies put alerts into groups that it has not gathered.
func TestTidyWhileRoutesChange(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	c.put("own", testRules)
	c.route(testRoutes)
	c.answer = func(string, *route.Integration, *notify.Message) (bool, error) {
		return false, errors.New("it is away")
	}
	c.world.set("temperature > 30", room("attic", 35))
	c.run(time.Minute)
	c.world.set("temperature > 30")
	c.run(20 * time.Minute)
	c.want("Hot", "resolved") // what nobody was told of is kept
	l := c.nodes[0].leader
	groups := l.gather()
	c.route(strings.ReplaceAll(testRoutes, "group_by: [alertname]", "group_by: [alertname, room]"))
	if err := l.tidyGroups(t.Context(), groups); err != nil {
		t.Error(err)
	}
	c.want("Hot", "resolved")
}

// xorSealer stands for the key ring.
type xorSealer struct{}

func flip(purpose string, b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ 0x5a ^ byte(len(purpose))
	}
	return out
}

func (xorSealer) Seal(purpose string, plain []byte) (string, error) {
	return hex.EncodeToString(flip(purpose, plain)), nil
}

func (xorSealer) Open(purpose, sealed string) ([]byte, error) {
	b, err := hex.DecodeString(sealed)
	return flip(purpose, b), err
}

func TestSecretsOfReceiversAreSealed(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	s := c.nodes[0].service
	doc := "route: {receiver: ops}\nreceivers:\n  - name: ops\n    dingtalk_configs: [{access_token: canary-1, secret: canary-2}]\n"
	ctx, by := t.Context(), By{Actor: "ada"}
	if _, err := s.PutRoutes(ctx, []byte(doc), 0, by); !errors.Is(err, ErrNoSealer) {
		t.Fatalf("without a key ring: %v", err)
	}
	s.cfg.Sealer = xorSealer{}
	rec, err := s.PutRoutes(ctx, []byte(doc), 0, by)
	if err != nil || strings.Contains(rec.Body, "canary") || rec.Sealed != nil {
		t.Fatalf("%+v %v", rec, err)
	}
	// What was shown can be put again: the secrets stay.
	changed := strings.Replace(rec.Body, "receiver: ops", "receiver: ops, group_wait: 1s", 1)
	if _, err := s.PutRoutes(ctx, []byte(changed), rec.Version, by); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutRoutes(ctx, []byte(strings.ReplaceAll(changed, "name: ops", "name: other")+"  - name: ops\n"), 0, by); !errors.Is(err, ErrInvalid) {
		t.Errorf("a secret was taken over by another receiver: %v", err)
	}
	for k, e := range c.meta.keys {
		if strings.Contains(string(e.v.Data), "canary") {
			t.Errorf("%v holds a secret in clear", k)
		}
	}
	for _, a := range c.meta.audit {
		if strings.Contains(string(a.Detail), "canary") {
			t.Errorf("the audit record of %s holds a secret in clear", a.Action)
		}
	}
	var sent *route.DingTalk
	c.answer = func(_ string, in *route.Integration, _ *notify.Message) (bool, error) {
		sent = in.DingTalk
		return true, nil
	}
	c.put("own", testRules)
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}})
	c.run(10 * time.Second)
	if sent == nil || sent.AccessToken != "canary-1" || sent.Secret != "canary-2" {
		t.Errorf("%+v", sent)
	}
}
