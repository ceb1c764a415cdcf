package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/internal/testcluster"
)

// output is what a command that runs on has printed so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Logs are followed at an address that is none of the node's own, such as the default https://localhost, with the
// token and the CA that the node keeps for the command line.
func TestLogsAreFollowedAtTheDefaultAddress(t *testing.T) {
	dir := alone(t)
	c := testcluster.StartWith(t, 1, func(cfg *appliance.Config) {
		_, port, err := net.SplitHostPort(cfg.Listen.HTTP.Address)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Listen.HTTP.Address = ":" + port
	})
	n := c.Nodes[0]
	agent := c.NewAgent(t, "host-a")
	if _, err := agent.Send(n, agent.Lines(time.Now().UnixNano(), "the walrus came")); err != nil {
		t.Fatal(err)
	}
	body, err := yaml.Marshal(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "node.yaml")
	write(t, config, string(body))
	t.Setenv("TRIWARD_CONFIG", config)
	u, err := url.Parse(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(n.Config.TLS.Dir, "ca.pem")
	for _, args := range [][]string{
		nil, // by the node's own address
		{"--addr", "https://localhost:" + u.Port(), "--ca", ca, "--token", c.Token},
		{`{host="host-a"} | regexp "the (?P<animal>\\w+)" | animal="walrus" | line_format "a {{.animal}} of {{.host}}"`},
	} {
		var out, errs output
		root := newRoot(streams{strings.NewReader(""), &out, &errs})
		root.SetArgs(append([]string{"logs", "tail"}, args...))
		ended := make(chan error, 1)
		go func() { ended <- root.ExecuteContext(t.Context()) }()
		want := "the walrus came"
		if len(args) == 1 {
			want = "a walrus of host-a"
		}
		shown := func() bool { return strings.Contains(out.String(), want) }
		for deadline, tick := time.After(testcluster.Patience), time.NewTicker(20*time.Millisecond); !shown(); {
			select {
			case err := <-ended:
				t.Fatalf("%v: %v\n%s%s", args, err, &out, &errs)
			case <-deadline:
				t.Fatalf("%v: nothing came\n%s%s", args, &out, &errs)
			case <-tick.C:
			}
		}
	}
	code, table, errs := run(t, "logs", "query", `sum by (host) (count_over_time({host="host-a"} |= "walrus" [1h]))`)
	if rows := strings.Split(table, "\n"); code != ExitOK || len(rows) != 3 || !strings.HasPrefix(rows[1], `{host="host-a"}`) || !strings.HasSuffix(rows[1], " 1") {
		t.Errorf("%d lines counted: %s%s", code, table, errs)
	}
	pushed := fmt.Sprintf(`{"streams":[{"stream":{"app":"shop"},"values":[["%d",%q]]}]}`, time.Now().UnixNano(), `{"msg":"GET / INFO","level":"error"}`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL()+"/loki/api/v1/push", strings.NewReader(pushed))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.HTTP.Do(req)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
	if code, out, errs := run(t, "logs", "query", "level:error app:shop"); code != ExitOK || !strings.Contains(out, "GET / INFO") {
		t.Errorf("level of a pushed line: %d %q %s", code, out, errs)
	}
	if _, err := os.Stat(n.Config.TokenPath()); err != nil {
		t.Error(err)
	}
}

// A node that cannot answer now (it starts, it stops, its store is slow) does not end a tail: it goes on at the next.
func TestTailGoesOnWhenANodeIsUnavailable(t *testing.T) {
	upgrader := websocket.Upgrader{Subprotocols: []string{liveProtocol}}
	asked := 0
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		answer := `{"op":"err","id":"t","code":"unavailable","message":"the store is slow"}`
		if asked++; asked > 1 {
			answer = `{"op":"snap","id":"t","v":[{"n":1}],"cursor":"1.0"}`
		}
		_ = ws.WriteMessage(websocket.TextMessage, []byte(answer))
		_, _, _ = ws.ReadMessage()
		_, _, _ = ws.ReadMessage()
		_, _, _ = ws.ReadMessage() // until the client has gone
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs output
	rows := 0
	f := &follower{client: &client{urls: []string{srv.URL}, http: srv.Client()}, kind: "events", s: streams{nil, &out, &errs}, print: func(r []json.RawMessage) error {
		rows += len(r)
		cancel()
		return nil
	}}
	if err := f.run(ctx); err != nil || rows != 1 {
		t.Errorf("%d events: %v\n%s", rows, err, &errs)
	}
}

// A tail of a host shows what a query of it does: also what a sender without an agent tells, which names itself otherwise.
func TestTailOfAHost(t *testing.T) {
	f := eventFilter{hosts: []string{"web1", `b"x`}}
	const want = `(host:"web1" OR (agent_id:"web1" -host:*) OR host:"b\"x" OR (agent_id:"b\"x" -host:*))`
	if got, err := f.query(""); err != nil || got != want {
		t.Errorf("asks for %s: %v", got, err)
	}
}
