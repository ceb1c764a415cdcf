package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/auth"
)

func TestAgentConfigs(t *testing.T) {
	s := newStand(t, nil)
	const path = "/v1/agent/configs/groups/web"
	ask := func(role auth.Role, method, path, body string) (int, map[string]any) {
		t.Helper()
		w := s.do(call{method: method, path: path, body: body, token: s.tokens[role]})
		var out map[string]any
		_ = json.Unmarshal(w.Body.Bytes(), &out)
		return w.Code, out
	}
	admin := auth.RoleAdministrator
	if code, out := ask(auth.RoleViewer, "GET", path, ""); code != http.StatusOK || out["version"] != 0.0 {
		t.Errorf("a group without a configuration: %d %v", code, out)
	}
	for _, c := range []struct{ method, path, body string }{
		{"PUT", path, `{"body":"{}","version":0}`},
		{"POST", path + "/rollback", `{"to":1,"version":1}`},
		{"DELETE", path + "?version=1", ""},
		{"PUT", "/v1/agents/a1/group", `{"group":"web"}`},
	} {
		if code, _ := ask(auth.RoleOperator, c.method, c.path, c.body); code != http.StatusForbidden {
			t.Errorf("an operator may %s %s: %d", c.method, c.path, code)
		}
	}
	if code, _ := ask(auth.RoleIngest, "GET", path, ""); code != http.StatusForbidden {
		t.Errorf("a token that only writes reads a configuration: %d", code)
	}
	if code, out := ask(admin, "PUT", path, `{"body":"metrics: {period: 5s}\n"}`); code != http.StatusBadRequest || out["hint"] == nil {
		t.Errorf("without the version: %d %v", code, out)
	}
	code, out := ask(admin, "PUT", path, `{"body":"metrics:\n  period: 1ms\nlogs: {files: [{include: [x]}]}\n","version":0}`)
	if code != http.StatusBadRequest || !strings.Contains(out["detail"].(string), "line 2: metrics.period") ||
		!strings.Contains(out["detail"].(string), "logs.files[0].include[0]") {
		t.Errorf("a bad text: %d %v", code, out)
	}
	for i, body := range []string{"metrics: {period: 5s}\\n", "metrics: {period: 6s}\\n"} {
		code, out := ask(admin, "PUT", path, `{"body":"`+body+`","note":"n","version":`+string(rune('0'+i))+`}`)
		if code != http.StatusOK || out["version"] != float64(i+1) || !strings.Contains(out["author"].(string), "administrator") {
			t.Fatalf("version %d: %d %v", i+1, code, out)
		}
	}
	if code, _ := ask(admin, "PUT", path, `{"body":"{}","version":1}`); code != http.StatusConflict {
		t.Errorf("a change of a version that is not the newest: %d", code)
	}
	if code, out := ask(auth.RoleViewer, "GET", path+"/diff", ""); code != http.StatusOK || len(out["diff"].([]any)) != 2 || out["from"] != 1.0 {
		t.Errorf("diff: %d %v", code, out)
	}
	if code, out := ask(admin, "POST", path+"/rollback", `{"to":1,"version":2}`); code != http.StatusOK || out["version"] != 3.0 {
		t.Errorf("rollback: %d %v", code, out)
	}
	if code, _ := ask(admin, "POST", path+"/rollback", `{"to":9,"version":3}`); code != http.StatusNotFound {
		t.Errorf("rollback to what never was: %d", code)
	}
	if code, out := ask(auth.RoleViewer, "GET", path+"/history", ""); code != http.StatusOK || len(out["versions"].([]any)) != 3 {
		t.Errorf("history: %d %v", code, out)
	}
	if code, out := ask(auth.RoleViewer, "GET", path+"?version=1", ""); code != http.StatusOK || out["body"] != "metrics: {period: 5s}\n" {
		t.Errorf("an earlier version: %d %v", code, out)
	}
	code, out = ask(auth.RoleViewer, "POST", "/v1/agent/configs/check", `{"body":"metrics: {period: 7s}\n","group":"web"}`)
	if code != http.StatusOK || out["ok"] != true || len(out["diff"].([]any)) != 2 {
		t.Errorf("check: %d %v", code, out)
	}
	if code, out := ask(auth.RoleViewer, "GET", "/v1/agent/configs", ""); code != http.StatusOK || len(out["groups"].([]any)) != 2 {
		t.Errorf("groups: %d %v", code, out)
	}
	if code, _ := ask(admin, "PUT", "/v1/agents/nobody/group", `{"group":"web"}`); code != http.StatusNotFound {
		t.Errorf("group of an agent that is not there: %d", code)
	}
	if code, _ := ask(admin, "DELETE", path, ""); code != http.StatusBadRequest {
		t.Errorf("remove without the version: %d", code)
	}
	if code, _ := ask(admin, "DELETE", path+"?version=3", ""); code != http.StatusNoContent {
		t.Errorf("remove: %d", code)
	}
	big := `{"version":0,"body":"` + strings.Repeat("#", 70<<10) + `"}`
	if code, _ := ask(admin, "PUT", path, big); code != http.StatusBadRequest {
		t.Errorf("a text that is too long: %d", code)
	}
}

// AgentCAs implements AgentCAs.
func (p *parts) AgentCAs() ([]AgentCA, error) { return []AgentCA{{Name: "one", Signs: true}}, nil }

// RotateAgentCA implements AgentCAs.
func (p *parts) RotateAgentCA(context.Context, Operator) ([]AgentCA, error) { return p.AgentCAs() }
