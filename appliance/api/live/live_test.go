package live

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/ui"
)

// node is the little of a node that the hosts view and the sessions need.
type node struct {
	api.Cluster
	meta authtest.Meta
	url  string
}

func (n *node) Members() []api.Member { return []api.Member{{ID: "n1", URL: n.url}} }
func (n *node) Status(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"id":"c"}`), nil
}
func (n *node) AppliedIndex() uint64                      { return 1 }
func (n *node) WaitApplied(context.Context, uint64) error { return nil }
func (n *node) ReadIndex(context.Context) (uint64, error) { return 1, nil }

func (n *node) Scan(bucket, prefix string, fn func(string, []byte, uint64) bool) {
	n.meta.Scan(bucket, prefix, func(k string, v auth.Value) bool { return fn(k, v.Data, v.ModIndex) })
}

func (n *node) Get(bucket, key string) ([]byte, uint64, bool) {
	v, ok := n.meta.Get(bucket, key)
	return v.Data, v.ModIndex, ok
}

// TestSessionOpensAndEndsTheSocket goes the way of a browser: log in, connect with the cookie, see a host, log out.
func TestSessionOpensAndEndsTheSocket(t *testing.T) {
	n := &node{}
	svc := auth.New(auth.Config{Meta: &n.meta, Password: authtest.Cheap()})
	n.meta.OnChange = svc.Changed
	defer svc.Close()
	if err := svc.CreateUser(t.Context(), "ada", "correct horse", auth.RoleViewer, auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.meta.Commit(t.Context(), auth.Txn{Ops: []auth.Op{{
		Bucket: fleet.BucketAgents, Key: "a1",
		Value: []byte(`{"agent_id":"a1","hostname":"web1"}`),
	}}}); err != nil {
		t.Fatal(err)
	}
	view := fleet.New(fleet.Config{Registry: n})
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	defer srv.Close()
	n.url = srv.URL
	var a *api.API
	hub := ui.NewHub(ui.Config{
		Gate: NewGate(svc, func() []string { return a.Origins() }), Hosts: Hosts{view},
		Cluster: Cluster{n}, Node: "n1", Sweep: time.Hour,
	})
	defer hub.Close()
	var err error
	if a, err = api.New(api.Config{Auth: svc, Reads: n, Fleet: view, Cluster: n, Live: hub, Assets: ui.NewAssets()}); err != nil {
		t.Fatal(err)
	}
	handler = a

	resp, err := http.Post(srv.URL+"/v1/login", "application/json", strings.NewReader(`{"user":"ada","password":"correct horse"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	cookie := resp.Cookies()[0]
	header := http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}, "Origin": {srv.URL}}
	dialer := websocket.Dialer{Subprotocols: []string{ui.Subprotocol}}
	target := "ws" + strings.TrimPrefix(srv.URL, "http") + "/v1/live"
	foreign := header.Clone()
	foreign.Set("Origin", "https://evil.example")
	if _, resp, err := dialer.Dial(target, foreign); err == nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("foreign origin: %v", resp)
	}
	if _, resp, err := dialer.Dial(target, http.Header{"Origin": {srv.URL}}); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("without cookie: %v", resp)
	}
	ws, _, err := dialer.Dial(target, header)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"op":"sub","id":"h","kind":"hosts"}`)); err != nil {
		t.Fatal(err)
	}
	_ = ws.SetReadDeadline(time.Now().Add(2 * time.Minute)) // only what hangs ends by it; the next sweep that nobody asks for is in an hour
	for {
		_, data, err := ws.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), `"op":"snap"`) {
			if !strings.Contains(string(data), `"host":"web1","state":"new","last_seen":null`) {
				t.Fatalf("%s", data)
			}
			break
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL+"/v1/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(cookie)
	if resp, err = http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	for {
		if _, _, err = ws.ReadMessage(); err != nil {
			break
		}
	}
	if !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Fatalf("ended with %v", err)
	}
}

func TestKindsOfTheHubAreInTheTable(t *testing.T) {
	kinds := api.SocketKinds()
	for _, k := range ui.Kinds() {
		if kinds[k] == auth.Undeclared {
			t.Errorf("kind %s declares no permission", k)
		}
		delete(kinds, k)
	}
	for k := range kinds {
		t.Errorf("kind %s is in the table and not served", k)
	}
}

func TestAnUndeclaredKindIsForNobody(t *testing.T) {
	g := NewGate(nil, nil)
	for _, role := range auth.Roles() {
		if g.May(ui.Viewer{Role: string(role)}, "secrets") {
			t.Errorf("%s may", role)
		}
	}
	if _, ok := g.Recheck(ui.Viewer{Key: "other:x"}); ok {
		t.Error("a key of no kind")
	}
}
