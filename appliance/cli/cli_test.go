package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance"
)

// run is the command line with nothing of the machine's own state.
func run(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// alone hides the context and the variables of whoever runs the test.
func alone(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", dir)
	for _, name := range []string{"TRIWARD_ADDR", "TRIWARD_TOKEN", "TRIWARD_CA", "TRIWARD_JOIN_TOKEN", "NOTIFY_SOCKET"} {
		t.Setenv(name, "")
	}
	t.Setenv("TRIWARD_CONFIG", filepath.Join(dir, "no-node-here.yaml"))
	return dir
}

// node answers like a node of the cluster.
func node(t *testing.T, token string, answers map[string]string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"title":"Unauthorized","status":401,"detail":"no valid session or token"}`)
			return
		}
		answer, ok := answers[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if status, body, ok := strings.Cut(answer, "!"); ok && len(status) == 3 {
			var code int
			fmt.Sscan(status, &code)
			w.WriteHeader(code)
			answer = body
		}
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestQueryIsPrinted(t *testing.T) {
	alone(t)
	s := node(t, "tok", map[string]string{
		"/api/v1/query":       `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"node_load1","host":"a\u001b[31m"},"value":[1700000000,"0.5"]}]}}`,
		"/api/v1/query_range": `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"x"},"values":[[1700000000,"1"],[1700000015,"2"]]}]}}`,
	})
	t.Setenv("TRIWARD_ADDR", s.URL)
	t.Setenv("TRIWARD_TOKEN", "tok")
	code, out, errs := run(t, "query", "instant", "node_load1")
	if code != ExitOK || !strings.Contains(out, "node_load1{host=") || !strings.Contains(out, "0.5") || strings.Contains(out, "\x1b") {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	code, out, _ = run(t, "query", "range", "x", "--start", "now-1m", "--step", "15s")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != ExitOK || len(lines) != 3 || !strings.HasPrefix(lines[2], "x ") {
		t.Errorf("code %d, %q", code, out)
	}
	code, out, _ = run(t, "query", "instant", "x", "-o", "json")
	if code != ExitOK || !json.Valid([]byte(out)) {
		t.Errorf("code %d, %q", code, out)
	}
}

func TestExitCodes(t *testing.T) {
	dir := alone(t)
	s := node(t, "tok", map[string]string{
		"/api/v1/query": `400!{"status":"error","errorType":"bad_data","error":"1:3: parse error: unclosed"}`,
		"/v1/cluster":   `503!{"title":"Service Unavailable","status":503,"detail":"the cluster has no leader at the moment","hint":"start a node","code":"no_quorum"}`,
		"/v1/queue":     `503!{"title":"Service Unavailable","status":503,"detail":"the store is being exchanged","hint":"ask another node"}`,
	})
	bad := filepath.Join(dir, "bad.yaml")
	fresh := filepath.Join(dir, "fresh.yaml")
	write(t, bad, "colour: red\nlisten: {http: {address: x}}\n")
	write(t, fresh, fmt.Sprintf("node_id: n1\ndata_dir: %s\nlisten: {peer: {address: \"127.0.0.1:0\"}, agents: {address: \"127.0.0.1:0\"}, http: {address: \"127.0.0.1:0\"}}\n", filepath.Join(dir, "data")))
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"bad configuration", []string{"server", "--config", bad}, ExitConfig, "colour: unknown key"},
		{"no configuration", []string{"config", "check", filepath.Join(dir, "none.yaml")}, ExitConfig, "none.yaml"},
		{"not initialised", []string{"server", "--config", fresh}, ExitNotInitialised, "triward cluster init"},
		{"asked whether initialised", []string{"server", "--initialised", "--config", fresh}, ExitNotInitialised, "triward cluster init"},
		{"asked with a bad configuration", []string{"server", "--initialised", "--config", bad}, ExitOK, ""},
		{"no quorum", []string{"cluster", "status", "--addr", s.URL, "--token", "tok"}, ExitNoQuorum, "hint: start a node"},
		{"another 503", []string{"queue", "status", "--addr", s.URL, "--token", "tok"}, ExitFailed, "hint: ask another node"},
		{"bad query", []string{"query", "instant", "(", "--addr", s.URL, "--token", "tok"}, ExitFailed, "parse error"},
		{"no token", []string{"query", "instant", "x", "--addr", s.URL}, ExitFailed, "TRIWARD_TOKEN"},
		{"nobody there", []string{"queue", "status", "--addr", "http://127.0.0.1:1"}, ExitFailed, "no node can be reached"},
		{"unknown command", []string{"fly"}, ExitFailed, "unknown command"},
		{"an argument that begins with a hyphen", []string{"logs", "query", "-debug"}, ExitFailed, "comes after `--`"},
		{"unknown form", []string{"version", "-o", "xml"}, ExitFailed, "want table or json"},
		{"too many nodes", []string{"dev", "--nodes", "99"}, ExitFailed, "--nodes 99"},
		{"bad time", []string{"query", "range", "x", "--start", "yesterday", "--addr", s.URL}, ExitFailed, "want RFC 3339"},
		{"version", []string{"version"}, ExitOK, ""},
		{"completion", []string{"completion", "bash"}, ExitOK, ""},
	} {
		code, _, errs := run(t, tt.args...)
		if code != tt.code || !strings.Contains(errs, tt.says) {
			t.Errorf("%s: code %d, want %d: %s", tt.name, code, tt.code, errs)
		}
	}
}

func write(t *testing.T, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The context's token goes to the nodes that it was made for and to nobody else.
func TestContextIsUsedForItsNodesOnly(t *testing.T) {
	alone(t)
	answers := map[string]string{"/v1/queue": `{"last_index":7}`}
	ours, other := node(t, "secret", answers), node(t, "secret", answers)
	c := Context{Token: "secret", PID: os.Getpid(), Nodes: []ContextNode{{"n1", "http://127.0.0.1:1"}, {"n2", ours.URL}}}
	if err := c.write(); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := run(t, "queue", "status"); code != ExitOK || !strings.Contains(out, "to 7") {
		t.Errorf("the first node is down, the second was not asked: %d %q %q", code, out, errs)
	}
	if code, _, errs := run(t, "queue", "status", "--node", "2"); code != ExitOK {
		t.Errorf("--node 2: %d %q", code, errs)
	}
	if code, _, _ := run(t, "queue", "status", "--node", "n1"); code != ExitFailed {
		t.Errorf("--node n1, which is down: %d", code)
	}
	if code, _, _ := run(t, "queue", "status", "--addr", other.URL); code != ExitFailed {
		t.Error("the token went to a stranger")
	}
	if err := removeContext(os.Getpid() + 1); err != nil {
		t.Error(err)
	}
	if got, _ := readContext(); len(got.Nodes) != 2 {
		t.Error("the context of another process was removed")
	}
	if err := removeContext(os.Getpid()); err != nil {
		t.Error(err)
	}
	if got, err := readContext(); err != nil || len(got.Nodes) != 0 {
		t.Errorf("after removal: %v %v", got, err)
	}
}

// On a node the command line finds the node, its token and the cluster's CA by itself, and uses them for it alone.
func TestNodeHereIsFound(t *testing.T) {
	dir := alone(t)
	answers := map[string]string{"/v1/queue": `{"last_index":7}`}
	here, other := node(t, "secret", answers), node(t, "secret", answers)
	cfg := filepath.Join(dir, "t.yaml")
	write(t, cfg, fmt.Sprintf("node_id: n1\ndata_dir: %s\nlisten: {http: {address: %q, plain_http: true, url: \"http://localhost:1\"}}\n",
		filepath.Join(dir, "data"), strings.TrimPrefix(here.URL, "http://")))
	t.Setenv("TRIWARD_CONFIG", cfg)
	if code, _, errs := run(t, "queue", "status"); code != ExitFailed || !strings.Contains(errs, "as root") {
		t.Errorf("before the node made its token: %d %q", code, errs)
	}
	if err := os.MkdirAll(filepath.Join(dir, "data", "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "data", "tls", "cli-token"), "secret\n")
	for _, args := range [][]string{{}, {"--addr", here.URL}, {"--addr", here.URL + "/"}} {
		code, out, errs := run(t, append([]string{"queue", "status"}, args...)...)
		if code != ExitOK || !strings.Contains(out, "to 7") {
			t.Errorf("%v: %d %q %q", args, code, out, errs)
		}
	}
	if code, _, _ := run(t, "queue", "status", "--addr", other.URL); code != ExitFailed {
		t.Error("the token went to a stranger")
	}
	if code, _, _ := run(t, "queue", "status", "--token", "wrong"); code != ExitFailed {
		t.Error("the node's token went before the one that was given")
	}
	saved := Context{Token: "secret", PID: os.Getpid(), Nodes: []ContextNode{{"n1", other.URL}}}
	if err := saved.write(); err != nil {
		t.Fatal(err)
	}
	here.Close()
	if code, _, errs := run(t, "queue", "status"); code != ExitOK {
		t.Errorf("the cluster started here last does not go before the node: %d %q", code, errs)
	}
	if err := removeContext(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	write(t, cfg, "colour: red\n")
	if code, _, errs := run(t, "queue", "status"); code != ExitConfig || !strings.Contains(errs, "colour") {
		t.Errorf("a configuration that is no good: %d %q", code, errs)
	}
	if code, _, _ := run(t, "queue", "status", "--addr", other.URL, "--token", "secret"); code != ExitOK {
		t.Error("a configuration that is no good kept another cluster from being asked")
	}
}

func TestAddressOfTheNodeHere(t *testing.T) {
	for _, c := range []struct {
		address, cert string
		plain         bool
		want          string
	}{
		{":8443", "", false, "https://localhost:8443"},
		{"0.0.0.0:9", "", false, "https://localhost:9"},
		{"[::]:9", "", false, "https://localhost:9"},
		{"127.0.0.1:9", "", false, "https://127.0.0.1:9"},
		{"[::1]:9", "", true, "http://[::1]:9"},
		{"localhost:9", "", true, "http://localhost:9"},
		{":8443", "/c.pem", false, "https://site.example"},
		{"10.0.0.7:8443", "", false, "https://site.example"},
		{"node1:8443", "", false, "https://site.example"},
	} {
		cfg := appliance.DefaultConfig()
		cfg.Listen.HTTP.Address, cfg.Listen.HTTP.URL, cfg.Listen.HTTP.PlainHTTP = c.address, "https://site.example", c.plain
		cfg.Listen.HTTP.TLS.Cert = c.cert
		if got := localURL(&cfg); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestClusterCAIsPrinted(t *testing.T) {
	dir := alone(t)
	cfg := filepath.Join(dir, "t.yaml")
	write(t, cfg, fmt.Sprintf("node_id: n1\ndata_dir: %s\n", filepath.Join(dir, "data")))
	t.Setenv("TRIWARD_CONFIG", cfg)
	if code, _, errs := run(t, "cluster", "ca"); code != ExitFailed || !strings.Contains(errs, "ca.pem") {
		t.Errorf("before init: %d %q", code, errs)
	}
	if code, _, errs := run(t, "cluster", "init"); code != ExitOK || !strings.Contains(errs, "      triward server\n") ||
		!strings.Contains(errs, "triward cluster join --addr https://") || !strings.Contains(errs, filepath.Join(dir, "data", "tls", "cli-token")) {
		t.Fatalf("init: %d %q", code, errs)
	}
	held, err := os.ReadFile(filepath.Join(dir, "data", "tls", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if code, out, errs := run(t, "cluster", "ca"); code != ExitOK || out != string(held) {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if code, out, _ := run(t, "cluster", "ca", "--addr", "elsewhere:8443"); code != ExitFailed || out != "" {
		t.Errorf("the CA of another cluster: %d %q", code, out)
	}
}

// A node that cannot serve a question now is not the last that is asked; writes go to no second node.
func TestNextNodeIsAskedAfter503(t *testing.T) {
	alone(t)
	const away = `503!{"title":"Service Unavailable","status":503,"detail":"this node is stopping"}`
	const minority = `503!{"title":"Service Unavailable","status":503,"detail":"no leader","code":"no_quorum"}`
	first := node(t, "secret", map[string]string{"/v1/queue": away, "/v1/cluster": minority, "/v1/tokens/join": away})
	second := node(t, "secret", map[string]string{
		"/v1/queue": `{"last_index":7}`, "/v1/cluster": minority, "/v1/tokens/join": `{"token":"twa_x"}`,
	})
	c := Context{Token: "secret", PID: os.Getpid()}
	use := func(urls ...string) {
		t.Helper()
		c.Nodes = nil
		for i, u := range urls {
			c.Nodes = append(c.Nodes, ContextNode{fmt.Sprint("n", i), u})
		}
		if err := c.write(); err != nil {
			t.Fatal(err)
		}
	}
	use(first.URL, second.URL)
	if code, out, errs := run(t, "queue", "status"); code != ExitOK || !strings.Contains(out, "to 7") {
		t.Errorf("the second node was not asked: %d %q %q", code, out, errs)
	}
	if code, _, errs := run(t, "cluster", "status"); code != ExitNoQuorum {
		t.Errorf("no node has a majority: %d %q", code, errs)
	}
	if code, out, _ := run(t, "agents", "token", "create"); code != ExitFailed || out != "" {
		t.Errorf("a write went to another node: %d %q", code, out)
	}
	use(first.URL, "http://127.0.0.1:1") // what the first said is worth more than that the second is down
	if code, _, errs := run(t, "queue", "status"); code != ExitFailed || !strings.Contains(errs, "this node is stopping") {
		t.Errorf("%d %q", code, errs)
	}
}

func TestLogsArePagedAndMadeHarmless(t *testing.T) {
	alone(t)
	page := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page++
		next := ""
		if r.URL.Query().Get("cursor") == "" {
			next = "c1"
		} else if r.URL.Query().Get("min_index") != "42" {
			http.Error(w, "another node might show less on the second page", http.StatusTeapot)
			return
		}
		w.Header().Set("X-Triward-Index", "42")
		fmt.Fprintf(w, `{"rows":[{"t":"1700000000000000000","severity":"error","text":"line %d \u001b]0;x\u0007\nnext","labels":{"host":"h","file":"/f"},"fields":{"k":"v"}}],"next":%q}`, page, next)
	}))
	defer s.Close()
	code, out, errs := run(t, "logs", "query", "line", "--addr", s.URL, "--limit", "10000")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != ExitOK || len(lines) != 2 || !strings.HasSuffix(lines[1], "next  [k=v]") || strings.ContainsAny(out, "\x1b\x07") {
		t.Errorf("code %d\n%q\n%s", code, out, errs)
	}
	page = 0
	code, out, _ = run(t, "logs", "query", "line", "--addr", s.URL, "--limit", "1", "-o", "json")
	if code != ExitOK || !json.Valid([]byte(strings.TrimSpace(out))) || page != 2 && page != 1 {
		t.Errorf("code %d, %d pages, %q", code, page, out)
	}
}

func TestClusterInitMakesANodeThatCanStart(t *testing.T) {
	dir := alone(t)
	cfg := filepath.Join(dir, "t.yaml")
	write(t, cfg, fmt.Sprintf("node_id: n1\ndata_dir: %s\nlisten: {http: {url: \"https://node1:8443\"}}\n", filepath.Join(dir, "data")))
	code, out, errs := run(t, "cluster", "init", "--config", cfg)
	if code != ExitOK || !strings.Contains(out, "link      https://node1:8443/setup#tws_") {
		t.Fatalf("code %d %q %q", code, out, errs)
	}
	for _, name := range []string{"setup.json", "tls/ca-key.pem", "tls/node.pem"} {
		st, err := os.Stat(filepath.Join(dir, "data", name))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if code, _, _ := run(t, "cluster", "init", "--config", cfg); code != ExitFailed {
		t.Errorf("a second init: %d", code)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"now": now, "now-1h": now.Add(-time.Hour), "now+5m": now.Add(5 * time.Minute), "now-7d": now.AddDate(0, 0, -7),
		"1767323045": now, "2026-01-02T03:04:05Z": now,
	} {
		if got, err := parseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "1h", "now-", "nowish", "-5", "2026"} {
		if got, err := parseTime(bad, now); bad != "2026" && err == nil {
			t.Errorf("%q became %v", bad, got)
		}
	}
}

func TestHelpShowsNoSecret(t *testing.T) {
	t.Setenv("TRIWARD_TOKEN", "twt_secret-of-the-environment")
	if _, out, errs := run(t, "cluster", "status", "--help"); !strings.Contains(out, "--token") || strings.Contains(out+errs, "twt_") {
		t.Errorf("help:\n%s%s", out, errs)
	}
}
