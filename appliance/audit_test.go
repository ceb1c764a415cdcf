package appliance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/internal/testcluster"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate/meta"
)

// noRecord are routes that take a body and change nothing that an operator answers for, or whose records another test
// holds, each with the reason.
var noRecord = map[string]string{
	"POST /v1/session/ticket":                "a page makes one every few minutes by itself; its use is audited",
	"POST /v1/setup/check":                   "reads",
	"POST /api/v1/":                          "reads",
	"POST /v1/rules/check":                   "reads",
	"POST /v1/rules/preview":                 "reads",
	"POST /v1/routes/test":                   "reads",
	"POST /v1/snapshots/check":               "tries a place and leaves nothing",
	"POST /v1/alerts/ack":                    "needs an alert: appliance/alerting holds it (ops.go audits it in the transaction)",
	"POST /v1/alerts/unack":                  "needs an alert, as ack",
	"POST /v1/alerts/assign":                 "needs an alert, as ack",
	"POST /v1/alerts/escalate":               "needs an alert, as ack",
	"POST /v1/agent/configs/check":           "reads",
	"POST /v1/cluster/transfer-leader":       "needs further members: TestMembershipIsChangedAndAudited of testcluster",
	"POST /v1/cluster/repair":                "needs a second node: appliance/internal/testcluster.TestDamagedNodesMendThemselves",
	"POST /v1/upgrade/finalize":              "needs a newer program: appliance/systemtest.TestFormatGate",
	"POST /v1/cluster/nodes/{id}/remove":     "as transfer-leader",
	"POST /v1/cluster/nodes/{id}/promote":    "as transfer-leader",
	"POST /v1/cluster/nodes/{id}/demote":     "as transfer-leader",
	"DELETE /v1/snapshots/runs/{id}":         "needs a backup under way: appliance/backup/schedule holds it",
	"POST /v1/queue/consumers/{name}/commit": "how far a program has read is told by the consumer's record, many times a minute",
	"POST /v1/logs/archive/run":              "needs a day that is over: appliance/archive writes it into the transaction of the claim",
	"POST /v1/logs/archive/check":            "tries a place and leaves nothing",
	"POST /v1/logs/archive/imports":          "a reading room is no state of the cluster: one node holds it for a while",
	"DELETE /v1/logs/archive/imports/{id}":   "as POST",
	"DELETE /v1/users/{name}/sessions":       "same transaction as DELETE /v1/sessions/{id}, asked below as well",
}

// changes is a person with a list of things to do.
type changes struct {
	t    *testing.T
	c    *testcluster.Cluster
	n    *testcluster.Node
	done map[string]bool // method and pattern
}

func (a *changes) head() auditlog.ChainPage {
	a.t.Helper()
	var page auditlog.ChainPage
	if err := a.c.Get(a.n, "/v1/audit?limit=1000", &page); err != nil {
		a.t.Fatal(err)
	}
	return page
}

// do makes a change on the route and returns the records that it brought, of which there must be the action.
func (a *changes) do(route, path, action string, body, v any, cookies ...*http.Cookie) {
	a.t.Helper()
	before := a.head().Head.Seq
	method, pattern, _ := strings.Cut(route, " ")
	if path == "" {
		path = pattern
	}
	if err := a.c.Call(method, a.n, path, body, v, cookies...); err != nil {
		a.t.Errorf("%s: %v", route, err)
		return
	}
	a.done[route] = true
	var got []string
	testcluster.Until(a.t, route+": the record", func() error { // some bring theirs as the work begins, behind the answer
		got = nil
		for _, r := range a.head().Records {
			if r.Seq <= before {
				continue
			}
			got = append(got, r.Action)
			if r.Action == action && (r.Actor == "" || r.Address == "" || len(r.Detail) > 0 && !json.Valid(r.Detail)) {
				a.t.Errorf("%s: the record %s is of %q at %q with %s", route, action, r.Actor, r.Address, r.Detail)
			}
		}
		if !slices.Contains(got, action) {
			return fmt.Errorf("records %v, want %s", got, action)
		}
		return nil
	})
}

// Every route that changes something brings its record in the audit log. A route that is neither done here nor in
// noRecord fails, so that one more cannot be forgotten.
func TestEveryChangeIsAudited(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	a := &changes{t, c, c.Nodes[0], make(map[string]bool)}
	a.people()
	a.tokens()
	a.alerting()
	a.backups()
	a.settings()
	a.queue()
	a.do("POST /v1/cluster/scrub", "", "cluster.scrub", nil, nil)
	a.do("POST /v1/cluster/verify", "", "cluster.verify", map[string]any{}, nil)
	for _, r := range api.Routes() {
		name := r.Method + " " + r.Path
		loki := strings.HasPrefix(r.Path, "/loki/api/v1/") && r.Permission == auth.Read // a question may be a form
		if r.Method == http.MethodGet || r.Permission == auth.Ingest || loki || a.done[name] || noRecord[name] != "" {
			continue
		}
		t.Errorf("%s: no change is made by this test; add one, or the reason why it has no record to noRecord", name)
	}
	var v auditlog.ChainVerdict
	if err := c.Get(a.n, "/v1/audit/verify", &v); err != nil || !v.OK {
		t.Errorf("%+v %v", v, err)
	}
	a.refused()
}

func (a *changes) people() {
	a.t.Helper()
	user := map[string]string{"name": "ada", "password": "correct horse ada", "role": "viewer"}
	a.do("POST /v1/users", "", "user.create", user, nil)
	a.do("PATCH /v1/users/{name}", "/v1/users/ada", "user.role", map[string]string{"role": "operator"}, nil)
	a.do("PATCH /v1/users/{name}", "/v1/users/ada", "user.password", map[string]string{"password": "a second password"}, nil)
	a.do("PATCH /v1/users/{name}", "/v1/users/ada", "user.disable", map[string]bool{"disabled": true}, nil)
	a.do("PATCH /v1/users/{name}", "/v1/users/ada", "user.enable", map[string]bool{"disabled": false}, nil)
	var link struct {
		Path string `json:"path"`
	}
	a.do("POST /v1/users/{name}/invite", "/v1/users/ada/invite", "user.invite", map[string]string{}, &link)
	_, token, _ := strings.Cut(link.Path, "#")
	a.do("POST /v1/setup", "", "user.setup", map[string]string{"token": token, "password": "correct horse ada"}, nil)
	a.do("POST /v1/login", "", "session.login", map[string]string{"user": "ada", "password": "correct horse ada"}, nil)
	cookie, err := a.c.Login(a.n, "ada", "correct horse ada")
	if err != nil {
		a.t.Fatal(err)
	}
	a.do("DELETE /v1/session/others", "", "session.end", nil, nil, cookie)
	a.do("POST /v1/session/password", "", "user.password", map[string]string{"old": "correct horse ada", "new": "correct horse eve"}, nil, cookie)
	var ticket struct {
		Ticket string `json:"ticket"`
	}
	if err := a.c.Call(http.MethodPost, a.n, "/v1/session/ticket", nil, &ticket, cookie); err != nil {
		a.t.Fatal(err)
	}
	a.do("POST /v1/session/resume", "", "session.resume", map[string]string{"ticket": ticket.Ticket}, nil)
	a.do("DELETE /v1/users/{name}/sessions", "/v1/users/ada/sessions", "session.end", nil, nil)
	if cookie, err = a.c.Login(a.n, "ada", "correct horse eve"); err != nil {
		a.t.Fatal(err)
	}
	a.do("POST /v1/logout", "", "session.logout", nil, nil, cookie)
	if _, err = a.c.Login(a.n, "ada", "correct horse eve"); err != nil {
		a.t.Fatal(err)
	}
	var open struct {
		Sessions []auth.SessionInfo `json:"sessions"`
	}
	if err := a.c.Get(a.n, "/v1/sessions?user=ada", &open); err != nil || len(open.Sessions) != 1 {
		a.t.Fatalf("%+v %v", open, err)
	}
	a.do("DELETE /v1/sessions/{id}", "/v1/sessions/"+open.Sessions[0].ID, "session.end", nil, nil)
	a.do("DELETE /v1/users/{name}", "/v1/users/ada", "user.delete", nil, nil)
}

func (a *changes) tokens() {
	a.t.Helper()
	var made struct {
		Token string `json:"token"`
		ID    string `json:"id"`
	}
	a.do("POST /v1/tokens/api", "", "token.create", map[string]string{"name": "ci", "role": "viewer"}, &made)
	a.do("DELETE /v1/tokens/api/{id}", "/v1/tokens/api/"+made.ID, "token.revoke", nil, nil)
	a.do("POST /v1/tokens/join", "", "join_token.create", map[string]string{"kind": "agent"}, &made)
	a.do("DELETE /v1/tokens/join/{id}", "/v1/tokens/join/"+made.ID, "join_token.revoke", nil, nil)
	if err := a.c.Post(a.n, "/v1/tokens/join", map[string]string{"kind": "node"}, &made); err != nil {
		a.t.Fatal(err)
	}
	csr, _, err := pki.NewRequest("n9")
	if err != nil {
		a.t.Fatal(err)
	}
	_, ringTo, err := keyring.NewJoiner()
	if err != nil {
		a.t.Fatal(err)
	}
	a.do("POST /v1/cluster/join", "", "node.join", map[string]string{
		"token": made.Token, "id": "n9", "csr_pem": string(csr), "peer_addr": "127.0.0.1:1", "url": "https://127.0.0.1:2",
		"agent_url": "https://127.0.0.1:3", "ring_to": ringTo,
	}, nil)
	agent := a.c.NewAgent(a.t, "host-a", map[string]string{"__name__": "x"})
	if _, err := agent.Send(a.n, agent.Metrics(wire.Scrape{T: time.Now().UnixMilli(), IDs: agent.Series, Values: []float64{1}})); err != nil {
		a.t.Fatal(err)
	}
	a.do("POST /v1/agents/{id}/revoke", "/v1/agents/"+agent.ID+"/revoke", "agent.revoke", map[string]string{}, nil)
	if !slices.ContainsFunc(a.head().Records, func(r auditlog.ChainRecord) bool { return r.Action == "agent.enroll" }) {
		a.t.Error("the enrollment of an agent is not in the log")
	}
}

func (a *changes) alerting() {
	a.t.Helper()
	rules := "groups: [{name: g, rules: [{alert: A, expr: up == 0}]}]\n"
	a.do("PUT /v1/rules/files/{name}", "/v1/rules/files/own", "rules.apply", map[string]string{"body": rules}, nil)
	a.do("DELETE /v1/rules/files/{name}", "/v1/rules/files/own", "rules.delete", nil, nil)
	routes := "route: {receiver: ops}\nreceivers:\n  - {name: ops, webhook_configs: [{url: 'http://127.0.0.1:1/'}]}\n"
	a.do("PUT /v1/routes", "", "routes.apply", map[string]string{"body": routes}, nil)
	a.do("POST /v1/receivers/test", "", "receivers.test", map[string]string{"receiver": "ops"}, nil)
	silence := map[string]any{"matchers": []string{`host="web1"`}, "duration_s": 3600, "comment": "works"}
	var made struct {
		ID string `json:"id"`
	}
	a.do("POST /v1/silences", "", "silence.add", silence, &made)
	a.do("PUT /v1/silences/{id}", "/v1/silences/"+made.ID, "silence.update", silence, nil)
	a.do("DELETE /v1/silences/{id}", "/v1/silences/"+made.ID, "silence.expire", nil, nil)
}

func (a *changes) settings() {
	a.t.Helper()
	rule := map[string]any{"age_ms": 30 * 86_400_000, "share_pct": 60}
	policy := map[string]any{"metrics": rule, "logs": rule, "events": rule, "limit_pct": 85, "warn_pct": 80, "keep_ms": 86_400_000}
	a.do("PUT /v1/retention", "", "retention.set", policy, nil)
	a.do("PUT /v1/retention/selectors", "", "retention.select", map[string]any{"kind": "logs", "select": `{unit="nginx"}`, "age_ms": 5 * 86_400_000}, nil)
	a.do("DELETE /v1/retention/selectors", "/v1/retention/selectors?"+url.Values{"select": {`{unit="nginx"}`}}.Encode(), "retention.unselect", nil, nil)
	a.do("DELETE /v1/retention", "", "retention.reset", nil, nil)
	a.do("PUT /v1/logs/archive", "", "logs.archive.set", map[string]any{"enabled": true, "target": map[string]string{"kind": "folder"}, "node": a.n.Config.NodeID}, nil)
	a.do("DELETE /v1/logs/archive", "", "logs.archive.remove", nil, nil)
	const group = "/v1/agent/configs/groups/"
	body := func(period string) string { return "metrics:\n  period: " + period + "\n" }
	a.do("PUT "+group+"{group}", group+"web", "agents.config.set", map[string]any{"body": body("15s"), "version": 0}, nil)
	a.do("PUT "+group+"{group}", group+"web", "agents.config.set", map[string]any{"body": body("30s"), "version": 1}, nil)
	a.do("POST "+group+"{group}/rollback", group+"web/rollback", "agents.config.rollback", map[string]any{"to": 1, "version": 2}, nil)
	agent := a.c.NewAgent(a.t, "host-b")
	a.do("PUT /v1/agents/{id}/group", "/v1/agents/"+agent.ID+"/group", "agent.group", map[string]string{"group": "web"}, nil)
	a.do("PUT /v1/agents/{id}/group", "/v1/agents/"+agent.ID+"/group", "agent.group", map[string]string{"group": ""}, nil)
	a.do("DELETE "+group+"{group}", group+"web?version=3", "agents.config.remove", nil, nil)
	a.do("POST /v1/tls/agents/rotate", "", "pki.agents.rotate", map[string]any{}, nil)
	a.do("POST /v1/keys/rotate", "", "key.rotate", map[string]any{}, nil)
}

func (a *changes) queue() {
	a.t.Helper()
	const of, mirror = "/v1/queue/consumers/{name}", "/v1/queue/consumers/mirror"
	a.do("POST /v1/queue/consumers", "", "queue.consumer.create", map[string]string{"name": "mirror"}, nil)
	// To begin to read is told by the consumer's record; to take it from somebody is not theirs to tell.
	if err := a.c.Post(a.n, mirror+"/open", map[string]string{"owner": "one"}, nil); err != nil {
		a.t.Fatal(err)
	}
	a.do("POST "+of+"/open", mirror+"/open", "queue.consumer.take", map[string]any{"owner": "two", "force": true}, nil)
	a.do("POST "+of+"/replay", mirror+"/replay", "queue.consumer.replay", map[string]string{"from": "beginning"}, nil)
	a.do("DELETE "+of, mirror, "queue.consumer.delete", nil, nil)
}

func (a *changes) backups() {
	a.t.Helper()
	target := map[string]string{"kind": "folder"}
	a.do("POST /v1/snapshot", "", "snapshot.download", map[string]string{"passphrase": "correct horse battery"}, nil)
	a.do("PUT /v1/snapshots/schedules/{name}", "/v1/snapshots/schedules/nightly", "snapshot.schedule.set",
		map[string]any{"enabled": false, "at": "02:00", "plain": true, "target": target}, nil)
	a.idle()
	a.do("POST /v1/snapshots/schedules/{name}/run", "/v1/snapshots/schedules/nightly/run", "snapshot.start", map[string]string{}, nil)
	a.idle()
	a.do("POST /v1/snapshots", "", "snapshot.start", map[string]any{"target": target, "plain": true}, nil)
	a.idle()
	a.do("POST /v1/snapshots/schedules/{name}/drill", "/v1/snapshots/schedules/nightly/drill", "snapshot.drill", nil, nil)
	a.idle()
	a.do("DELETE /v1/snapshots/schedules/{name}", "/v1/snapshots/schedules/nightly", "snapshot.schedule.delete", nil, nil)
}

// idle waits until no backup is under way.
func (a *changes) idle() {
	a.t.Helper()
	testcluster.Until(a.t, "no backup under way", func() error {
		var o struct {
			Running json.RawMessage `json:"running"`
		}
		if err := a.c.Get(a.n, "/v1/snapshots", &o); err != nil {
			return err
		}
		if len(o.Running) > 0 && string(o.Running) != "null" {
			return fmt.Errorf("under way: %s", o.Running)
		}
		return nil
	})
}

// refused is what is noted of those who may not: in the background, so it is waited for.
func (a *changes) refused() {
	a.t.Helper()
	var made struct {
		Token string `json:"token"`
	}
	if err := a.c.Post(a.n, "/v1/tokens/api", map[string]string{"name": "eve", "role": "viewer"}, &made); err != nil {
		a.t.Fatal(err)
	}
	eve := *a.c
	eve.Token = made.Token
	if err := eve.Call(http.MethodDelete, a.n, "/v1/users/admin", nil, nil); err == nil {
		a.t.Error("a viewer deletes the administrator")
	}
	if _, err := a.c.Login(a.n, "admin", "wrong password"); err == nil {
		a.t.Error("a wrong password")
	}
	testcluster.Until(a.t, "both are noted", func() error {
		var got []string
		for _, r := range a.head().Records {
			got = append(got, r.Action+" "+r.Target)
		}
		for _, want := range []string{"request.refused DELETE /v1/users/{name}", "session.refused admin"} {
			if !slices.Contains(got, want) {
				return fmt.Errorf("%s is not among %v", want, got)
			}
		}
		return nil
	})
}

// A set-up link shown a hundred times at once to three nodes lets one in, and one password counts.
func TestHundredRedemptionsOfASetupLinkLetOneIn(t *testing.T) {
	c := testcluster.Start(t, 3)
	var link struct {
		Path string `json:"path"`
	}
	if err := c.Post(c.Nodes[0], "/v1/users/eve/invite", map[string]string{"role": "operator"}, &link); err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(link.Path, "#")
	c.WaitEqual(t)
	var won atomic.Int64
	var refused atomic.Int64
	var password atomic.Value
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			mine := fmt.Sprintf("correct horse %d", i)
			switch err := c.Post(c.Nodes[i%3], "/v1/setup", map[string]string{"token": secret, "password": mine}, nil); {
			case err == nil:
				won.Add(1)
				password.Store(mine)
			case strings.Contains(err.Error(), "used already"), strings.Contains(err.Error(), "429"): // too many hash at once
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || refused.Load() != 99 {
		t.Fatalf("%d got in, %d are refused", won.Load(), refused.Load())
	}
	c.WaitEqual(t)
	for _, n := range c.Nodes {
		if _, err := c.Login(n, "eve", password.Load().(string)); err != nil {
			t.Errorf("%s: %v", n.Config.NodeID, err)
		}
	}
}

// The log of three nodes is one and whole, in an export and in a backup too; what was edited is found in both.
func TestAuditIsVerifiedOnlineAndOffline(t *testing.T) {
	c := testcluster.Start(t, 3)
	for i := range 5 {
		if err := c.Post(c.Nodes[i%3], "/v1/tokens/api", map[string]any{"name": fmt.Sprint("t", i), "role": "viewer"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitEqual(t)
	var heads []string
	var last auditlog.ChainVerdict
	for _, n := range c.Nodes {
		if err := c.Get(n, "/v1/audit/verify?consistency=linearizable", &last); err != nil || !last.OK {
			t.Fatalf("%+v %v", last, err)
		}
		heads = append(heads, last.Head.Hash)
	}
	if heads[0] != heads[1] || heads[1] != heads[2] {
		t.Errorf("heads %v", heads)
	}
	note := fmt.Sprintf("%d:%s", last.Head.Seq, last.Head.Hash)
	if err := c.Get(c.Nodes[0], "/v1/audit/verify?expect="+url.QueryEscape(note), &last); err != nil || last.Expected != auditlog.ExpectedHeld {
		t.Errorf("%+v %v", last, err)
	}

	exported := fetch(t, c, c.Nodes[1], "/v1/audit/export")
	point := &auditlog.Point{Seq: last.Head.Seq, Hash: last.Head.Hash}
	v, err := auditlog.VerifyExport(bytes.NewReader(exported), point)
	if err != nil || !v.OK || v.Expected != auditlog.ExpectedHeld || v.Origin.Node != "n2" {
		t.Fatalf("%+v %v", v, err)
	}
	forged := bytes.Replace(exported, []byte(`"role":"viewer"`), []byte(`"role":"auditx"`), 1)
	if v, err = auditlog.VerifyExport(bytes.NewReader(forged), nil); err != nil || v.OK || !strings.Contains(v.Fault, "edited") {
		t.Errorf("a record that was edited: %+v %v", v, err)
	}

	file := filepath.Join(t.TempDir(), "b.triward")
	if err := os.WriteFile(file, fetch(t, c, c.Nodes[2], "/v1/snapshot"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	err = backup.WithMetadata(t.Context(), backup.Stream(in), backup.VerifyOptions{}, func(m *backup.Manifest, state *meta.Store) error {
		v, err = auditlog.New(state).Verify(t.Context(), point)
		return err
	})
	if err != nil || !v.OK || v.Head.Seq < point.Seq || v.Expected != auditlog.ExpectedHeld {
		t.Errorf("the log in a backup: %+v %v", v, err)
	}
}

// fetch is the whole body of an answer.
func fetch(t *testing.T, c *testcluster.Cluster, n *testcluster.Node, path string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v %.200s", path, resp.Status, err, body.Bytes())
	}
	return body.Bytes()
}
