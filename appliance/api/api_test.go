package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/triward/triward/appliance/agentconfig"
	"github.com/triward/triward/appliance/api/answers"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/ui"
)

// parts stands for the rest of the node.
type parts struct {
	applied      atomic.Uint64
	readErr      error
	index        uint64 // of the cluster, when this node is behind it
	waiting      func() // called when somebody waits for it
	logErr       error
	text         string // of the line that Query finds; "x" when empty
	joinErr      error
	exported     []LogRow
	exportErr    error
	exportWait   func(context.Context) error
	lastLogs     LogQuery
	lastSuggest  LogSuggestQuery
	lastPatterns LogPatternsQuery
	step         time.Duration
}

func (p *parts) AppliedIndex() uint64 { return p.applied.Load() }
func (p *parts) WaitApplied(ctx context.Context, index uint64) error {
	if p.waiting != nil {
		p.waiting()
	}
	if index <= p.AppliedIndex() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (p *parts) ReadIndex(context.Context) (uint64, error) {
	return max(p.applied.Load(), p.index), p.readErr
}

func (p *parts) Query(_ context.Context, q LogQuery) (LogPage, error) {
	p.lastLogs = q
	return LogPage{Rows: []LogRow{{T: "1700000000000000000", Pos: "5.1", Severity: "error", Text: cmp.Or(p.text, "x"), Labels: map[string]string{"host": "a"}}}, Next: "n"}, p.logErr
}

func (p *parts) Hits(_ context.Context, _ string, start, _ int64, step time.Duration) (LogHits, error) {
	p.step = step
	return LogHits{T0: start / 1e6, Step: step.Milliseconds()}, p.logErr
}

func (p *parts) Facets(_ context.Context, _ string, _, _ int64, field string, _ int) (Facet, error) {
	return Facet{Field: field}, p.logErr
}

func (p *parts) Suggest(_ context.Context, q LogSuggestQuery) (LogSuggestions, error) {
	p.lastSuggest = q
	return LogSuggestions{}, p.logErr
}

func (p *parts) Patterns(_ context.Context, q LogPatternsQuery) (LogPatterns, error) {
	p.lastPatterns = q
	return LogPatterns{}, p.logErr
}

func (p *parts) HitsBy(_ context.Context, _ string, start, _ int64, step time.Duration, field string, top int) (LogHits, error) {
	p.step = step
	return LogHits{T0: start / 1e6, Step: step.Milliseconds(), Field: field, Total: int64(top)}, p.logErr
}

func (p *parts) Labels(context.Context, int64, int64) (LogNames, error) { return LogNames{}, p.logErr }

func (p *parts) LabelValues(context.Context, string, int64, int64, int) (LogNames, error) {
	return LogNames{}, p.logErr
}

func (p *parts) Series(context.Context, string, int64, int64, int) (LogStreams, error) {
	return LogStreams{}, p.logErr
}

func (p *parts) Context(context.Context, string, int64, int, int) (LogAround, error) {
	return LogAround{}, p.logErr
}

func (p *parts) Export(ctx context.Context, q LogQuery, begin func() func(*LogRow) error) (LogStats, error) {
	p.lastLogs = q
	if p.logErr != nil {
		return LogStats{}, p.logErr
	}
	line := begin()
	for i := range p.exported {
		if err := line(&p.exported[i]); err != nil {
			return LogStats{}, err
		}
	}
	if p.exportWait != nil {
		return LogStats{}, p.exportWait(ctx)
	}
	return LogStats{Lines: int64(len(p.exported))}, p.exportErr
}

func (p *parts) Hosts() (int64, []fleet.Host) {
	nan := fleet.Number(math.NaN())
	return 5, []fleet.Host{{ID: "a1", Name: "web1", State: fleet.StateUp, LastSeen: 7, CPU: 12.5, Mem: nan, Disk: nan}}
}
func (p *parts) Agents() []fleet.Agent { return []fleet.Agent{{ID: "a1"}} }
func (p *parts) Agent(id string) (fleet.Agent, bool) {
	return fleet.Agent{ID: id}, id == "a1"
}

func (p *parts) Latest(agent, _ string, _ int) ([]fleet.Sample, bool, bool) {
	return nil, false, agent == "a1"
}

func (p *parts) Identity() Identity { return Identity{"n1", "c1", "v0"} }
func (p *parts) Members() []Member {
	return []Member{{"n1", "https://n1.example:8443"}, {"n2", "https://n2.example"}, {"n3", "not a url"}}
}

func (p *parts) Status(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"id":"c1"}`), p.readErr
}

func (p *parts) Queue(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{}`), p.readErr
}

func (p *parts) Digest(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{}`), p.readErr
}

func (p *parts) Join(context.Context, JoinRequest) (JoinAnswer, error) {
	return JoinAnswer{ClusterID: "c1"}, p.joinErr
}
func (p *parts) Pin() string { return "pin" }

type stand struct {
	t      *testing.T
	parts  *parts
	auth   *auth.Service
	meta   *authtest.Meta
	api    *API
	tokens map[auth.Role]string
}

func newStand(t *testing.T, change func(*Config)) *stand {
	t.Helper()
	s := &stand{t: t, parts: &parts{}, meta: &authtest.Meta{}, tokens: map[auth.Role]string{}}
	s.parts.applied.Store(117)
	s.auth = auth.New(auth.Config{Meta: s.meta, Password: authtest.Cheap(), LoginBurst: 1000})
	t.Cleanup(func() { s.auth.Close() })
	if err := s.auth.CreateUser(t.Context(), "ada", "correct horse", auth.RoleAdministrator, auth.Principal{}); err != nil {
		t.Fatal(err)
	}
	for _, role := range auth.Roles() {
		secret, _, err := s.auth.CreateAPIToken(t.Context(), string(role), role, 0, auth.Principal{})
		if err != nil {
			t.Fatal(err)
		}
		s.tokens[role] = secret
	}
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		fmt.Fprint(w, "mounted")
	})
	cfg := Config{
		Auth: s.auth, Reads: s.parts, Logs: s.parts, Fleet: s.parts, Cluster: s.parts, Alerts: testAlerts(t, s.meta), Prometheus: echo, Live: echo,
		Assets: echo, Metrics: echo, Snapshots: &backups{}, AgentConfigs: agentconfig.New(s.meta), AgentCAs: s.parts,
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.api, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

type call struct {
	method, path, body string
	token              string
	header             map[string]string
}

func (s *stand) do(c call) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
	r.RemoteAddr = "127.0.0.1:5"
	if c.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for k, v := range c.header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	s.api.ServeHTTP(w, r)
	return w
}

// problem checks that the answer is a problem document of the status and returns it.
func (s *stand) problem(name string, w *httptest.ResponseRecorder, status int) problem.Problem {
	s.t.Helper()
	var p problem.Problem
	if w.Code != status || w.Header().Get("Content-Type") != "application/problem+json" {
		s.t.Errorf("%s: %d %s %.200s, want a problem with %d", name, w.Code, w.Header().Get("Content-Type"), w.Body, status)
		return p
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != status || p.Title == "" {
		s.t.Errorf("%s: %v %s", name, err, w.Body)
	}
	return p
}

func TestEveryRouteDeclaresAPermission(t *testing.T) {
	for _, r := range Routes() {
		if r.Permission == auth.Undeclared || r.Permission.String() == "undeclared" {
			t.Errorf("%s %s declares no permission", r.Method, r.Path)
		}
		if (r.serve == nil) == (r.mount == nil) {
			t.Errorf("%s %s: want exactly one of serve and mount", r.Method, r.Path)
		}
		if r.Summary == "" {
			t.Errorf("%s %s has no summary", r.Method, r.Path)
		}
		if r.Permission == auth.Public && r.Method != "GET" && !slices.Contains([]string{"/v1/login", "/v1/session/resume", "/v1/cluster/join", "/v1/setup", "/v1/setup/check"}, r.Path) {
			t.Errorf("%s %s changes something for anybody", r.Method, r.Path)
		}
	}
	for kind, p := range SocketKinds() {
		if p == auth.Undeclared || p == auth.Public {
			t.Errorf("subscription %s declares %s", kind, p)
		}
	}
}

// filled puts names into the placeholders of a path.
func filled(path string) string {
	return strings.NewReplacer("{id}", "a1", "{name}", "ada").Replace(path)
}

func TestRolesByRoute(t *testing.T) {
	s := newStand(t, nil)
	for _, r := range Routes() {
		for _, role := range append([]auth.Role{""}, auth.Roles()...) {
			w := s.do(call{method: r.Method, path: filled(r.Path), token: s.tokens[role]})
			refused := w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden
			name := fmt.Sprintf("%s %s as %q", r.Method, r.Path, role)
			switch {
			case role.Allows(r.Permission):
				// Tokens have no session, so these two refuse them for that.
				if refused && r.Path != "/v1/session/ticket" {
					t.Errorf("%s: %d %s", name, w.Code, w.Body)
				}
			case role == "":
				s.problem(name, w, http.StatusUnauthorized)
				if w.Header().Get("WWW-Authenticate") == "" {
					t.Errorf("%s: without challenge", name)
				}
			default:
				s.problem(name, w, http.StatusForbidden)
			}
		}
	}
}

func TestLoginSessionLogout(t *testing.T) {
	s := newStand(t, nil)
	s.problem("wrong", s.do(call{method: "POST", path: "/v1/login", body: `{"user":"ada","password":"wrong horse!"}`}), 401)
	w := s.do(call{method: "POST", path: "/v1/login", body: `{"user":"ada","password":"correct horse"}`})
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"role":"administrator"`) {
		t.Fatal(w.Code, w.Body)
	}
	cookie := w.Result().Cookies()[0]
	if cookie.Name != auth.CookiePlain || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" {
		t.Fatalf("%+v", cookie)
	}
	with := map[string]string{"Cookie": cookie.Name + "=" + cookie.Value}
	w = s.do(call{method: "GET", path: "/v1/session", header: with})
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"user":"ada"`) || !strings.Contains(w.Body.String(), `"node":"n1"`) {
		t.Fatal(w.Code, w.Body)
	}
	w = s.do(call{method: "POST", path: "/v1/session/ticket", header: with})
	var tk ticketAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &tk); err != nil || tk.Ticket == "" {
		t.Fatal(w.Code, w.Body)
	}
	w = s.do(call{method: "POST", path: "/v1/session/resume", body: `{"ticket":"` + tk.Ticket + `"}`})
	if w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	s.problem("again", s.do(call{method: "POST", path: "/v1/session/resume", body: `{"ticket":"` + tk.Ticket + `"}`}), 401)
	s.problem("old session", s.do(call{method: "GET", path: "/v1/session", header: with}), 401)
	cookie = w.Result().Cookies()[0]
	with = map[string]string{"Cookie": cookie.Name + "=" + cookie.Value}
	if w = s.do(call{method: "POST", path: "/v1/logout", header: with}); w.Code != 204 || w.Result().Cookies()[0].MaxAge >= 0 {
		t.Fatal(w.Code, w.Header())
	}
	s.problem("logged out", s.do(call{method: "GET", path: "/v1/session", header: with}), 401)
}

func TestWritesFromForeignPagesAreRefused(t *testing.T) {
	s := newStand(t, nil)
	body := `{"user":"ada","password":"correct horse"}`
	for name, c := range map[string]struct {
		header map[string]string
		want   int
	}{
		"foreign page":    {map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403},
		"foreign origin":  {map[string]string{"Origin": "https://evil.example"}, 403},
		"same site":       {map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "https://other.example.com"}, 403},
		"same origin":     {map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "https://example.com"}, 200},
		"member":          {map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://n1.example:8443"}, 200},
		"member on 443":   {map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://n2.example"}, 200},
		"no page at all":  {nil, 200},
		"form of a page":  {map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415},
		"text of a page":  {map[string]string{"Content-Type": "text/plain"}, 415},
		"odd media types": {map[string]string{"Content-Type": ";;;"}, 415},
	} {
		w := s.do(call{method: "POST", path: "/v1/login", body: body, header: c.header})
		if w.Code != c.want {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// Bodies that are on their way hold their share; what comes beyond it is told to wait. What strangers send slowly keeps
// nobody out whom the node knows, nor the other way round.
func TestBodiesUnderWayPushBack(t *testing.T) {
	login := call{method: "POST", path: "/v1/login", body: `{"user":"ada","password":"correct horse"}`}
	t.Run("strangers", func(t *testing.T) {
		s := newStand(t, func(c *Config) { c.BodyBytes = 4096 })
		known := []call{
			{method: "POST", path: "/v1/users", body: `{"name":"eve","password":"correct horse","role":"viewer"}`, token: s.tokens[auth.RoleAdministrator]},
			{method: "POST", path: "/api/v1/query", body: `query=up`, token: s.tokens[auth.RoleViewer]},
		}
		s.slowBody("/v1/login", "", `"user":"ada","password":"correct horse"}`, []call{login, {method: "POST", path: "/v1/cluster/join", body: `{}`}}, known)
	})
	t.Run("known", func(t *testing.T) {
		s := newStand(t, func(c *Config) { c.BodyBytes = 4096 })
		admin := s.tokens[auth.RoleAdministrator]
		s.slowBody("/v1/tokens/api", admin, `"name":"x","role":"viewer"}`, []call{
			{method: "POST", path: "/v1/users", body: `{}`, token: admin}, {method: "POST", path: "/api/v1/query", body: `query=up`, token: admin},
		}, []call{login, {method: "GET", path: "/v1/hosts", token: admin}})
	})
}

// slowBody sends a request whose body ends with rest once those beside it were answered: refused, or done.
func (s *stand) slowBody(path, token, rest string, refused, done []call) {
	t := s.t
	t.Helper()
	body, feed := io.Pipe()
	r := httptest.NewRequest("POST", path, body)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = 2000 // decoded it may be more than all there is
	first, reading := httptest.NewRecorder(), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.api.ServeHTTP(first, r)
	}()
	go func() {
		_, _ = io.WriteString(feed, `{`) // returns when the handler reads
		close(reading)
	}()
	<-reading
	for _, c := range done {
		if w := s.do(c); w.Code >= 300 {
			t.Errorf("%s beside it: %d %s", c.path, w.Code, w.Body)
		}
	}
	for _, c := range refused {
		w := s.do(c)
		s.problem(c.path, w, http.StatusTooManyRequests)
		if w.Header().Get("Retry-After") != "1" {
			t.Errorf("%s: Retry-After %q", c.path, w.Header().Get("Retry-After"))
		}
	}
	if _, err := io.WriteString(feed, rest); err != nil {
		t.Error(err)
	}
	feed.Close()
	<-ended
	if first.Code >= 300 {
		t.Errorf("the slow body: %d %s", first.Code, first.Body)
	}
	for _, c := range refused {
		if w := s.do(c); w.Code == http.StatusTooManyRequests {
			t.Errorf("%s after it: %d", c.path, w.Code)
		}
	}
}

// Joining is limited by address before a body is looked at.
func TestJoinsAreLimitedUnread(t *testing.T) {
	s := newStand(t, nil)
	for range 100 {
		if w := s.do(call{method: "POST", path: "/v1/cluster/join", body: `garbage`}); w.Code == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("100 joins that are garbage were all read")
}

// openGate lets everybody in who comes from no page.
type openGate struct{}

func (openGate) Viewer(*http.Request) (ui.Viewer, bool)        { return ui.Viewer{User: "ada"}, true }
func (openGate) Recheck(v ui.Viewer) (ui.Viewer, bool)         { return v, true }
func (openGate) May(ui.Viewer, string) bool                    { return true }
func (openGate) Watch() (changes <-chan struct{}, stop func()) { return nil, func() {} }
func (openGate) Origins() []string                             { return nil }

func TestHostileRequests(t *testing.T) {
	hub := ui.NewHub(ui.Config{Gate: openGate{}})
	t.Cleanup(func() { hub.Close() })
	s := newStand(t, func(c *Config) { c.Live, c.Assets = hub, ui.NewAssets() })
	admin := s.tokens[auth.RoleAdministrator]
	long := strings.Repeat("x", 1<<20)
	deep := strings.Repeat("[", 5000)
	get := func(path string) call { return call{method: "GET", path: path} }
	send := func(method, path, body string) call { return call{method: method, path: path, body: body} }
	cases := []struct {
		call
		want int
	}{
		{get("/v1/hosts?x=1"), 400},
		{get("/v1/hosts?timeout=1h"), 400},
		{get("/v1/hosts?timeout=-1"), 400},
		{get("/v1/hosts?consistency=maybe"), 400},
		{get("/v1/hosts?min_index=-5"), 400},
		{get("/v1/hosts?min_index=x"), 400},
		{get("/v1/hosts?min_index=1&min_index=2"), 400},
		{get("/v1/hosts?%zz"), 400},
		{get("/v1/agents/nobody"), 404},
		{get("/v1/agents/" + strings.Repeat("n", 3000)), 404},
		{get("/v1/agents/nobody/latest"), 404},
		{get("/v1/agents/a1/latest?limit=0"), 400},
		{get("/v1/agents/a1/latest?limit=99999999"), 400},
		{get("/v1/agents/a1/latest?limit=1e3"), 400},
		{get("/v1/agents/a1/latest?match=" + strings.Repeat("n", 300)), 400},
		{get("/v1/logs/query?limit=5001"), 400},
		{get("/v1/logs/query?start=now&end=now-1h"), 400},
		{get("/v1/logs/query?start=yesterday"), 400},
		{get("/v1/logs/query?start=-1"), 400},
		{get("/v1/logs/query?start=now-"), 400},
		{get("/v1/logs/query?start=99999999999999999999"), 400},
		{get("/v1/logs/query?start=0001-01-01T00:00:00Z"), 400},
		{get("/v1/logs/query?query=" + strings.Repeat("x", 17<<10)), 400},
		{get("/v1/logs/query?query=" + strings.Repeat("x", 70<<10)), 414},
		{get("/v1/logs/query?cursor=" + strings.Repeat("x", 600)), 400},
		{get("/v1/logs/hits?step=1"), 400},
		{get("/v1/logs/hits?step=x"), 400},
		{get("/v1/logs/hits?step=1s&start=now-7d"), 400},
		{get("/v1/logs/facets"), 400},
		{get("/v1/logs/patterns?limit=1001"), 400},
		{get("/v1/logs/patterns?step=1s&start=now-7d"), 400},
		{get("/v1/logs/patterns?new=yes"), 400},
		{get("/v1/logs/patterns?since=now%2B1h"), 400},
		{get("/v1/logs/facets?field=host&limit=-1"), 400},
		{get("/v1/logs/labels?x"), 400},
		{get("/v1/logs/labels/" + strings.Repeat("x", 200) + "/values"), 400},
		{get("/v1/logs/labels/host/values?limit=x"), 400},
		{get("/v1/logs/context"), 400},
		{get("/v1/logs/context?pos=1&t=5"), 400},
		{get("/v1/logs/context?pos=1.1"), 400},
		{get("/v1/logs/context?pos=1.1&t=5&before=501"), 400},
		{get("/v1/cluster?x=1"), 400},
		{get("/v1/queue?x=1"), 400},
		{get("/v1/digest?consistency="), 200},
		{get("/v1/nothing"), 404},
		{get("/v1/"), 404},
		{get("/-/nothing"), 404},
		{get("/v1/live"), 400},
		{call{method: "GET", path: "/v1/live", header: map[string]string{"Origin": "https://evil.example"}}, 403},
		{call{method: "GET", path: "/v1/live", header: map[string]string{"Cookie": "a=b"}}, 403},
		{call{method: "GET", path: "/v1/live", header: map[string]string{"Sec-Websocket-Protocol": ui.Subprotocol}}, 400},
		{call{method: "GET", path: "/v1/live", header: map[string]string{
			"Sec-Websocket-Protocol": ui.Subprotocol, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "1",
		}}, 400},
		{send("POST", "/v1/live", "{}"), 405},
		{get("/assets/none.js"), 404},
		{get("/.env"), 404},
		{send("DELETE", "/", ""), 405},
		{send("POST", "/hosts/a1", "{}"), 405},
		{send("POST", "/v1/hosts", "{}"), 405},
		{send("DELETE", "/v1/login", "{}"), 405},
		{send("PUT", "/api/v1/query", "{}"), 405},
		{send("POST", "/api/v1/query", strings.Repeat("x", 2<<20)), 413},
		{send("POST", "/v1/login", long), 400},
		{send("POST", "/v1/login", `{"user":"`+long+`"}`), 413},
		{send("POST", "/v1/login", `{`), 400},
		{send("POST", "/v1/login", `[]`), 400},
		{send("POST", "/v1/login", `null`), 401},
		{send("POST", "/v1/login", `{"user":5}`), 400},
		{send("POST", "/v1/login", `{"user":"a","admin":true}`), 400},
		{send("POST", "/v1/login", `{} {}`), 400},
		{send("POST", "/v1/login", deep), 413},
		{send("POST", "/v1/login", `{"user":"`+strings.Repeat("u", 100)+`","password":"x"}`), 401},
		{send("POST", "/v1/session/resume", `{"ticket":""}`), 401},
		{send("POST", "/v1/session/resume", `{"ticket":"`+strings.Repeat("t", 3000)+`"}`), 401},
		{send("POST", "/v1/session/ticket", ""), 403},
		{send("POST", "/v1/logout", ""), 400},
		{send("POST", "/v1/cluster/join", `{}`), 400},
		{send("POST", "/v1/cluster/join", `{"id":"../x","csr_pem":"x","peer_addr":"x"}`), 400},
		{send("POST", "/v1/cluster/join", `{"id":"n4","csr_pem":"`+strings.Repeat("x", 17<<10)+`","peer_addr":"x"}`), 400},
		{send("POST", "/v1/cluster/join", `{"id":"`+long+`"}`), 413},
		{send("POST", "/v1/tokens/join", `{"kind":"root"}`), 400},
		{send("POST", "/v1/tokens/join", `{"kind":"agent","uses":-1}`), 400},
		{send("POST", "/v1/tokens/join", `{"kind":"agent","uses":1000000}`), 400},
		{send("POST", "/v1/tokens/join", `{"kind":"agent","life_s":-5}`), 400},
		{send("POST", "/v1/tokens/join", `{"kind":"agent","life_s":99999999999999}`), 400},
		{send("POST", "/v1/tokens/join", `{"kind":"agent","note":"`+strings.Repeat("x", 300)+`"}`), 400},
		{send("DELETE", "/v1/tokens/join/xyz", ""), 400},
		{send("DELETE", "/v1/tokens/join/0123456789abcdef", ""), 404},
		{send("POST", "/v1/tokens/api", `{"name":"","role":"viewer"}`), 400},
		{send("POST", "/v1/tokens/api", `{"name":"x","role":"root"}`), 400},
		{send("POST", "/v1/tokens/api", `{"name":"x","role":"viewer","life_s":-1}`), 400},
		{send("DELETE", "/v1/tokens/api/xyz", ""), 400},
		{send("POST", "/v1/users", `{"name":"ada","password":"long enough one","role":"viewer"}`), 409},
		{send("POST", "/v1/users", `{"name":"a/b","password":"long enough one","role":"viewer"}`), 400},
		{send("POST", "/v1/users", `{"name":"bob","password":"short","role":"viewer"}`), 400},
		{send("PATCH", "/v1/users/nobody", `{"role":"viewer"}`), 404},
		{send("PATCH", "/v1/users/ada", `{}`), 400},
		{send("DELETE", "/v1/users/nobody", ""), 404},
	}
	for _, c := range cases {
		c.token = admin
		start := time.Now()
		w := s.do(c.call)
		name := fmt.Sprintf("%s %.80s %.60s", c.method, c.path, c.body)
		if c.want >= 400 && !strings.HasPrefix(c.path, "/api/") {
			s.problem(name, w, c.want)
		} else if w.Code != c.want {
			t.Errorf("%s: %d, want %d", name, w.Code, c.want)
		}
		if w.Body.Len() > 2000 {
			t.Errorf("%s: answers %d bytes", name, w.Body.Len())
		}
		if took := time.Since(start); took > 20*time.Second { // seconds even on a busy machine would be work that somebody can make us do
			t.Errorf("%s took %s", name, took)
		}
		if w.Header().Get(RequestIDHeader) == "" {
			t.Errorf("%s: without request id", name)
		}
	}
}

func TestReadsAreAsFreshAsAsked(t *testing.T) {
	s := newStand(t, nil)
	viewer := s.tokens[auth.RoleViewer]
	w := s.do(call{method: "GET", path: "/v1/hosts?min_index=117", token: viewer})
	if w.Code != 200 || w.Header().Get(IndexHeader) != "117" {
		t.Fatal(w.Code, w.Header())
	}
	w = s.do(call{method: "GET", path: "/v1/hosts?min_index=118&timeout=20", token: viewer})
	if p := s.problem("ahead", w, 504); !strings.Contains(p.Detail, "reached 117") || w.Header().Get(IndexHeader) != "117" {
		t.Fatalf("%+v", p)
	}
	if w = s.do(call{method: "GET", path: "/v1/hosts?consistency=stale&min_index=118", token: viewer}); w.Code != 200 {
		t.Fatal(w.Code)
	}
	s.parts.readErr = ErrNoLeader
	w = s.do(call{method: "GET", path: "/v1/hosts?consistency=linearizable", token: viewer})
	if p := s.problem("no leader", w, 503); p.Code != problem.CodeNoQuorum {
		t.Errorf("%+v", p)
	}
	if w.Header().Get("Retry-After") != "1" {
		t.Fatal(w.Header())
	}
}

// A mounted API takes from the URL how fresh its answer must be, by form as well; asked nothing, it answers at once.
func TestMountedReadsAreAsFreshAsAsked(t *testing.T) {
	s := newStand(t, nil)
	viewer := s.tokens[auth.RoleViewer]
	ask := func(query string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/api/v1/query?"+query, strings.NewReader("query=up&timeout=5s"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Authorization", "Bearer "+viewer)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // as if the client waited no longer
		defer cancel()
		w := httptest.NewRecorder()
		s.api.ServeHTTP(w, r.WithContext(ctx))
		return w
	}
	for _, query := range []string{"", "x=1&timeout=3s", "min_index=117", "min_index=118&consistency=stale", "consistency=linearizable"} {
		if w := ask(query); w.Code != 200 || w.Body.String() != "mounted" || w.Header().Get(IndexHeader) != "117" {
			t.Errorf("%q: %d %s %v", query, w.Code, w.Body, w.Header())
		}
	}
	if p := s.problem("ahead", ask("min_index=118"), 504); !strings.Contains(p.Detail, "reached 117") {
		t.Errorf("%+v", p)
	}
	s.problem("no number", ask("min_index=x"), 400)
	s.parts.readErr = ErrNoLeader
	s.problem("no leader", ask("consistency=linearizable"), 503)
}

// Every answer to somebody who is known tells the index, a write that of a node which has applied it.
func TestAnswersTellTheIndex(t *testing.T) {
	s := newStand(t, nil)
	admin := s.tokens[auth.RoleAdministrator]
	for _, c := range []call{
		{method: "GET", path: "/v1/session"},
		{method: "GET", path: "/v1/cluster"},
		{method: "POST", path: "/v1/users", body: `{"name":"bob","password":"long enough one","role":"viewer"}`},
		{method: "POST", path: "/v1/tokens/join", body: `{"kind":"agent"}`},
		{method: "GET", path: "/v1/agents/nobody"},
	} {
		if got := s.do(c).Header().Get(IndexHeader); got != "" {
			t.Errorf("%s tells a stranger %s", c.path, got)
		}
		c.token = admin
		if got := s.do(c).Header().Get(IndexHeader); got != "117" {
			t.Errorf("%s tells %q", c.path, got)
		}
	}
}

func TestErrorsHaveTheirAnswers(t *testing.T) {
	own := errors.New("own")
	s := newStand(t, func(c *Config) { c.Errors = []problem.Rule{{Is: own, Status: 418}} })
	for _, c := range []struct {
		err    error
		status int
		retry  bool
	}{
		{&QueryError{Pos: 4, Message: "unexpected )", Hint: "close it"}, 400, false},
		{fmt.Errorf("scan: %w", ErrBusy), 429, true},
		{ErrNoLeader, 503, true},
		{fmt.Errorf("write: %w", syscall.ENOSPC), 507, true},
		{ErrDiskFull, 507, true},
		{context.DeadlineExceeded, 504, false},
		{fmt.Errorf("x: %w", own), 418, false},
		{errors.New("secret path /x"), 500, false},
		{problem.New(451, "no"), 451, false},
	} {
		s.parts.logErr = c.err
		w := s.do(call{method: "GET", path: "/v1/logs/query", token: s.tokens[auth.RoleViewer]})
		p := s.problem(c.err.Error(), w, c.status)
		if (w.Header().Get("Retry-After") != "") != c.retry {
			t.Errorf("%v: Retry-After %q", c.err, w.Header().Get("Retry-After"))
		}
		if c.status == 400 && (p.Pos == nil || *p.Pos != 4 || p.Hint != "close it") {
			t.Errorf("%+v", p)
		}
		if strings.Contains(p.Detail, "secret") {
			t.Errorf("%+v", p)
		}
	}
}

func TestPanicsAreKeptInside(t *testing.T) {
	s := newStand(t, func(c *Config) {
		c.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("x") })
	})
	s.problem("panic", s.do(call{method: "GET", path: "/metrics", token: s.tokens[auth.RoleViewer]}), 500)
}

func TestLogsAreAskedAsWanted(t *testing.T) {
	s := newStand(t, nil)
	viewer := s.tokens[auth.RoleViewer]
	w := s.do(call{method: "GET", path: "/v1/logs/query?query=a%20b&start=1700000000000&end=2023-11-14T23:13:20Z&limit=7&cursor=q", token: viewer})
	want := LogQuery{Query: "a b", Start: 1700000000_000_000_000, End: 1700003600_000_000_000, Limit: 7, Cursor: "q"}
	if w.Code != 200 || s.parts.lastLogs != want {
		t.Fatalf("%d %+v", w.Code, s.parts.lastLogs)
	}
	if got := w.Body.String(); !strings.HasPrefix(got, `{"rows":[{"t":"1700000000000000000","pos":"5.1","severity":"error","text":"x","labels":{"host":"a"}}],"next":"n","stats":{"considered":0`) {
		t.Fatal(got)
	}
	w = s.do(call{method: "GET", path: "/v1/logs/hits?start=1700000000001&end=1700003600001", token: viewer})
	// The start is passed on as it is: lines before it do not count, however wide the bars are.
	if w.Code != 200 || s.parts.step != 30*time.Second || !strings.Contains(w.Body.String(), `"t0":1700000000001`) {
		t.Fatal(s.parts.step, w.Body)
	}
	for _, path := range []string{"/v1/logs/labels", "/v1/logs/labels/host/values", "/v1/logs/series", "/v1/logs/hits?field=host", "/v1/logs/context?pos=1.2&t=1", "/v1/logs/facets?field=host", "/v1/logs/patterns"} {
		if w := s.do(call{method: "GET", path: path, token: viewer}); w.Code != 200 || strings.Contains(w.Body.String(), "null") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestTokensAndUsers(t *testing.T) {
	s := newStand(t, nil)
	admin := s.tokens[auth.RoleAdministrator]
	w := s.do(call{method: "POST", path: "/v1/tokens/join", token: admin, body: `{"kind":"agent","uses":3,"life_s":60,"note":"rack 4"}`})
	var tok joinTokenAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &tok); err != nil || w.Code != 201 || auth.Pin(tok.Token) != "pin" || tok.UsesLeft != 3 {
		t.Fatal(w.Code, w.Body)
	}
	if _, err := s.auth.CheckJoin(auth.JoinAgent, tok.Token, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	w = s.do(call{method: "GET", path: "/v1/tokens/join", token: admin})
	if !strings.Contains(w.Body.String(), tok.ID) || !strings.Contains(w.Body.String(), "rack 4") || strings.Contains(w.Body.String(), tok.Token) {
		t.Fatal(w.Body)
	}
	if w = s.do(call{method: "DELETE", path: "/v1/tokens/join/" + tok.ID, token: admin}); w.Code != 204 {
		t.Fatal(w.Code, w.Body)
	}
	w = s.do(call{method: "POST", path: "/v1/users", token: admin, body: `{"name":"bob","password":"long enough one","role":"viewer"}`})
	if w.Code != 204 {
		t.Fatal(w.Code, w.Body)
	}
	w = s.do(call{method: "GET", path: "/v1/users", token: admin})
	if w.Body.String() != `{"users":[{"name":"ada","role":"administrator"},{"name":"bob","role":"viewer"}]}` {
		t.Fatal(w.Body)
	}
	if w = s.do(call{method: "PATCH", path: "/v1/users/bob", token: admin, body: `{"role":"operator"}`}); w.Code != 204 {
		t.Fatal(w.Code, w.Body)
	}
	if w = s.do(call{method: "POST", path: "/v1/tokens/api", token: admin, body: `{"name":"ci","role":"ingest","life_s":60}`}); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	s.parts.joinErr = auth.ErrToken
	s.problem("join", s.do(call{method: "POST", path: "/v1/cluster/join", body: `{"id":"n4","csr_pem":"x","peer_addr":"x:1"}`}), 401)
}

func TestHealthByPart(t *testing.T) {
	sick := errors.New("disk on /secret is gone")
	s := newStand(t, func(c *Config) {
		c.Checks = []Check{
			{Part: "raft", Live: true, Check: func(context.Context) error { return nil }},
			{Part: "logs", Check: func(context.Context) error { return sick }},
		}
	})
	if w := s.do(call{method: "GET", path: "/-/healthy"}); w.Code != 200 || w.Body.String() != `{"ok":true,"parts":[{"part":"raft","ok":true}]}` {
		t.Fatal(w.Code, w.Body)
	}
	w := s.do(call{method: "GET", path: "/-/ready"})
	if w.Code != 503 || strings.Contains(w.Body.String(), "secret") || !strings.Contains(w.Body.String(), `{"part":"logs","ok":false}`) {
		t.Fatal(w.Code, w.Body)
	}
	if w = s.do(call{method: "GET", path: "/-/ready", token: s.tokens[auth.RoleViewer]}); !strings.Contains(w.Body.String(), "secret") {
		t.Fatal(w.Body)
	}
}

func TestOriginOfMembers(t *testing.T) {
	for in, want := range map[string]string{
		"https://a:8443/x": "https://a:8443", "https://a:443": "https://a", "http://a:80": "http://a",
		"https://Node1.Example:8443/": "https://node1.example:8443", "HTTPS://NODE1:443": "https://node1", "https://[2001:DB8::1]:8443": "https://[2001:db8::1]:8443",
		"https://[2001:db8::1]:443": "https://[2001:db8::1]", "ftp://a": "", "a:8443": "", "": "", "%": "",
	} {
		if got := originOf(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// Large answers that clients have not taken yet have room together; beyond it they are refused, and small ones are not.
func TestLargeAnswersAreBounded(t *testing.T) {
	room := answers.NewRoom(1 << 20)
	s := newStand(t, func(c *Config) { c.Answers = room })
	viewer := s.tokens[auth.RoleViewer]
	large := call{method: "GET", path: "/v1/logs/query?limit=1000", token: viewer}
	s.parts.text = strings.Repeat("x", 400<<10)
	if w := s.do(large); w.Code != 200 || w.Body.Len() < 400<<10 {
		t.Fatal(w.Code, w.Body.Len())
	}
	release, err := room.Hold(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if w := s.do(large); w.Code != 429 || w.Header().Get("Retry-After") == "" {
		t.Errorf("beyond the room: %d %.200s", w.Code, w.Body)
	}
	s.parts.text = "x"
	if w := s.do(large); w.Code != 200 {
		t.Errorf("a small one: %d %.200s", w.Code, w.Body)
	}
	release()
	s.parts.text = strings.Repeat("x", 400<<10)
	if w := s.do(large); w.Code != 200 {
		t.Errorf("with room again: %d %.200s", w.Code, w.Body)
	}
}
