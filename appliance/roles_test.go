package appliance_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/internal/testcluster"
	"github.com/triward/triward/ui"
)

// granted says, written by hand and not by the code under test, who has each permission; "" is a stranger.
var granted = map[string][]auth.Role{
	"public":     {"", "viewer", "operator", "administrator", "auditor", "ingest"},
	"signed-in":  {"viewer", "operator", "administrator", "auditor", "ingest"},
	"read":       {"viewer", "operator", "administrator", "auditor"},
	"operate":    {"operator", "administrator"},
	"administer": {"administrator"},
	"ingest":     {"administrator", "ingest"},
	"audit":      {"administrator", "auditor"},
}

// everybody are the roles of the table, and none.
var everybody = []auth.Role{"", "viewer", "operator", "administrator", "auditor", "ingest"}

// sessionOnly are routes that refuse a token for having no session, whatever its role.
var sessionOnly = []string{"POST /v1/session/ticket"}

// rolesOf starts a node with a token of each role.
func rolesOf(t *testing.T) (*testcluster.Cluster, *testcluster.Node, map[auth.Role]string) {
	t.Helper()
	if want := append([]auth.Role{""}, auth.Roles()...); !sameRoles(want, everybody) {
		t.Fatalf("the roles are %v, the table knows %v", want, everybody)
	}
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	tokens := map[auth.Role]string{"": ""}
	for _, role := range everybody[1:] {
		var made struct {
			Token string `json:"token"`
		}
		if err := c.Post(n, "/v1/tokens/api", map[string]any{"name": string(role), "role": role}, &made); err != nil {
			t.Fatal(err)
		}
		tokens[role] = made.Token
	}
	return c, n, tokens
}

func sameRoles(a, b []auth.Role) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// Every role asks every route of a running node; whether it is let through is what the route's declared permission says
// by the table above. A route that declares none, or one that the table does not know, fails.
func TestEveryRoleOnEveryRoute(t *testing.T) {
	t.Parallel()
	c, n, tokens := rolesOf(t)
	asked := 0
	for _, r := range api.Routes() {
		may, known := granted[r.Permission.String()]
		if !known {
			t.Errorf("%s %s: nothing says who has the permission %q", r.Method, r.Path, r.Permission)
			continue
		}
		for _, role := range everybody {
			path := strings.NewReplacer("{id}", "0123456789abcdef", "{name}", "nobody").Replace(r.Path)
			req, err := http.NewRequestWithContext(t.Context(), r.Method, n.URL()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if role != "" {
				req.Header.Set("Authorization", "Bearer "+tokens[role])
			}
			resp, err := c.HTTP.Do(req)
			if err != nil {
				t.Fatalf("%s %s: %v", r.Method, path, err)
			}
			said, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Errorf("%s %s as %q: %v", r.Method, path, role, err)
			}
			asked++
			name := fmt.Sprintf("%s %s as %q (%s): %s %.200s", r.Method, path, role, r.Permission, resp.Status, said)
			allowed := slices.Contains(may, role)
			switch {
			case !allowed && role == "" && resp.StatusCode != http.StatusUnauthorized:
				t.Errorf("a stranger is not refused: %s", name)
			case !allowed && role != "" && resp.StatusCode != http.StatusForbidden:
				t.Errorf("not refused: %s", name)
			case allowed && resp.StatusCode == http.StatusUnauthorized:
				t.Errorf("refused: %s", name)
			case allowed && resp.StatusCode == http.StatusForbidden && !slices.Contains(sessionOnly, r.Method+" "+r.Path):
				t.Errorf("refused: %s", name)
			}
		}
	}
	if asked < 300 {
		t.Errorf("only %d requests were made", asked)
	}
}

// Every role subscribes to every kind of the live socket.
func TestEveryRoleOnEverySocketKind(t *testing.T) {
	t.Parallel()
	c, n, tokens := rolesOf(t)
	kinds := api.SocketKinds()
	if len(kinds) < 5 || len(kinds) != len(ui.Kinds()) {
		t.Errorf("kinds %v, the socket serves %v", kinds, ui.Kinds())
	}
	conf := c.TLS.Clone()
	conf.NextProtos = []string{"http/1.1"}
	dialer := websocket.Dialer{Subprotocols: []string{ui.Subprotocol}, TLSClientConfig: conf}
	target := "wss" + strings.TrimPrefix(n.URL(), "https") + "/v1/live"
	for _, role := range everybody {
		header := http.Header{"Origin": {n.URL()}}
		if role == "" {
			if _, resp, err := dialer.Dial(target, header); err == nil || resp == nil || resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("a stranger connects: %v %v", resp, err)
			}
			continue
		}
		header.Set("Authorization", "Bearer "+tokens[role])
		ws, resp, err := dialer.Dial(target, header)
		if err != nil {
			t.Errorf("%s does not connect: %v %v", role, resp, err)
			continue
		}
		for kind, p := range kinds {
			code := subscribe(t, ws, kind)
			if allowed := slices.Contains(granted[p.String()], role); allowed == (code == "forbidden") {
				t.Errorf("%s (%s) as %s: answered %q", kind, p, role, code)
			}
		}
		if code := subscribe(t, ws, "secrets"); code == "" {
			t.Errorf("%s has a kind that there is not", role)
		}
		ws.Close()
	}
}

// subscribe asks for the kind with parameters that fit some kinds only, and returns the code of the refusal: "" when there
// was none.
func subscribe(t *testing.T, ws *websocket.Conn, kind string) string {
	t.Helper()
	sub := map[string]any{"op": "sub", "id": kind, "kind": kind, "params": map[string]any{}}
	if err := ws.WriteJSON(sub); err != nil {
		t.Fatal(err)
	}
	_ = ws.SetReadDeadline(time.Now().Add(testcluster.Patience))
	for {
		_, body, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		var m struct {
			Op, ID, Code string
		}
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		if m.ID != kind {
			continue
		}
		switch m.Op {
		case "err":
			return m.Code
		case "snap", "delta":
			if err := ws.WriteJSON(map[string]any{"op": "unsub", "id": kind}); err != nil {
				t.Fatal(err)
			}
			return ""
		}
	}
}
