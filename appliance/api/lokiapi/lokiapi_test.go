package lokiapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
)

const t0 = int64(1_700_000_000)

// node is a store with the API in front of it.
type node struct {
	t     *testing.T
	store *logstore.Store
	api   *Handler
	url   string
	index uint64
}

func newNode(t *testing.T, opts Options) *node {
	t.Helper()
	s, err := logstore.New(logstore.Options{Manual: true, CacheBytes: 1 << 20, MemTableBytes: 1 << 20, Now: func() time.Time { return time.Unix(t0+1e6, 0) }})
	must(t, err)
	must(t, s.Open(t.TempDir()))
	opts.Store = s
	opts.LogTime = func() time.Time { return time.Unix(t0, 0) }
	n := &node{t: t, store: s, api: New(opts)}
	srv := httptest.NewServer(n.api)
	n.url = srv.URL
	t.Cleanup(func() {
		must(t, n.api.Close())
		srv.Close()
		must(t, s.Close())
	})
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// push adds a line `at` seconds behind t0.
func (n *node) push(at int64, labels map[string]string, text string, sev wire.Severity, fields map[string]string) {
	n.t.Helper()
	n.index++
	b := wire.LogBatch{Streams: []wire.LogStream{{
		Kind: wire.StreamLog, Labels: wire.LabelsFromMap(labels),
		Lines: []wire.LogLine{{T: (t0 + at) * 1e9, Severity: sev, Text: []byte(text), Fields: wire.LabelsFromMap(fields)}},
	}}}
	e := wire.LogEntry{Index: n.index, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	must(n.t, n.store.ApplyLogs(e.Index, []wire.LogEntry{e}))
}

func (n *node) fill() {
	web, db := map[string]string{"app": "web", "host": "h1"}, map[string]string{"app": "db", "host": "h2"}
	n.push(1, web, `level=info status=200 dur=12ms msg="hello there"`, wire.SeverityInfo, map[string]string{"trace.id": "t1"})
	n.push(2, web, `level=error status=500 dur=1.5s`, wire.SeverityError, nil)
	n.push(3, db, `{"rows":10,"ok":true,"q":{"ms":1.5}}`, wire.SeverityUnknown, nil)
	must(n.t, n.store.Work(n.t.Context(), true))
	n.push(4, web, `level=warn status=404 dur=3ms`, wire.SeverityWarning, nil)
}

func (n *node) get(path string, params ...string) (int, string) {
	n.t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(params); i += 2 {
		v.Add(params[i], params[i+1])
	}
	r, err := http.Get(n.url + Prefix + path + "?" + v.Encode())
	must(n.t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	must(n.t, err)
	return r.StatusCode, strings.TrimSpace(string(body))
}

var span = []string{"start", fmt.Sprint(t0), "end", fmt.Sprint(t0 + 100)}

func TestAnswers(t *testing.T) {
	n := newNode(t, Options{Version: "abc"})
	n.fill()
	for _, c := range []struct {
		path   string
		params []string
		want   string
	}{
		{"query", []string{"query", "vector(1)+vector(1)", "time", "1700000010"}, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1700000010,"2"]}],"stats":`},
		{"query", []string{"query", `sum by (app) (count_over_time({app=~".+"}[1m]))`, "time", "1700000010"}, `"result":[{"metric":{"app":"db"},"value":[1700000010,"1"]},{"metric":{"app":"web"},"value":[1700000010,"3"]}]`},
		{"query_range", append([]string{"query", `{app="web"} |= "404"`}, span...), `{"status":"success","data":{"resultType":"streams","result":[{"stream":{"app":"web","detected_level":"warn","host":"h1"},"values":[["1700000004000000000","level=warn status=404 dur=3ms"]]}],"stats":`},
		{"query_range", append([]string{"query", `sum(count_over_time({app="web"}[10s]))`, "step", "10"}, "start", "1700000010", "end", "1700000020"), `"result":[{"metric":{},"values":[[1700000010,"3"]]}]`},
		{"query_range", append([]string{"query", `{app="web"} | logfmt | status > 300`, "limit", "1", "direction", "forward"}, span...), `"values":[["1700000002000000000","level=error status=500 dur=1.5s"]]`},
		{"labels", span, `{"status":"success","data":["app","host"]}`},
		{"label", span, `{"status":"success","data":["app","host"]}`},
		{"labels", append([]string{"query", `{app="none"}`}, span...), `{"status":"success","data":[]}`},
		{"label/app/values", span, `{"status":"success","data":["db","web"]}`},
		{"label/host/values", append([]string{"query", `{app="db"}`}, span...), `{"status":"success","data":["h2"]}`},
		{"label/none/values", span, `{"status":"success","data":[]}`},
		{"series", append([]string{"match[]", `{app="web"}`}, span...), `{"status":"success","data":[{"app":"web","host":"h1"}]}`},
		{"series", append([]string{"match[]", `{app="web"}`, "match[]", `{host=~"h."}`}, span...), `{"status":"success","data":[{"app":"web","host":"h1"},{"app":"db","host":"h2"}]}`},
		{"index/stats", append([]string{"query", `{app="web"}`}, span...), `"entries":3,"streams":1}`},
		{"index/volume", append([]string{"query", `{app=~".+"}`}, span...), `"resultType":"vector","result":[{"metric":{"app":"web"},"value":[1700000100,"`},
		{"index/volume", append([]string{"query", `{app=~".+"}`, "aggregateBy", "labels", "targetLabels", "host"}, span...), `"result":[{"metric":{"host":""},"value":[1700000100,"`},
		{"index/volume_range", append([]string{"query", `{app="db"}`, "step", "50s"}, span...), `"resultType":"matrix","result":[{"metric":{"app":"db"},"values":[[1700000050,"`},
		{"detected_labels", span, `{"detectedLabels":[{"label":"app","cardinality":2},{"label":"host","cardinality":2}]}`},
		{"detected_fields", append([]string{"query", `{app="db"}`}, span...), `{"fields":[{"label":"ok","type":"boolean","cardinality":1,"parsers":["json"]},{"label":"q_ms","type":"float","cardinality":1,"parsers":["json"]},{"label":"rows","type":"int","cardinality":1,"parsers":["json"]}],"limit":1000}`},
		{"detected_fields", append([]string{"query", `{app="web"}`}, span...), `{"label":"dur","type":"duration","cardinality":3,"parsers":["logfmt"]}`},
		{"detected_fields", append([]string{"query", `{app="web"}`}, span...), `{"label":"trace_id","type":"string","cardinality":1,"parsers":null}`},
		{"detected_field/status/values", append([]string{"query", `{app="web"}`}, span...), `"values":["200","404","500"]`},
		{"format_query", []string{"query", `{ app = "web" }|= "x"`}, `{"status":"success","data":"{app=\"web\"} |= \"x\""}`},
		{"status/buildinfo", nil, `{"version":"3.4.0","revision":"abc","branch":"triward"`},
	} {
		status, body := n.get(c.path, c.params...)
		if status != 200 || !strings.Contains(body, c.want) {
			t.Errorf("%s %v: %d %s\nexpected %s", c.path, c.params, status, body, c.want)
		}
		if !json.Valid([]byte(body)) {
			t.Errorf("%s %v: no JSON: %s", c.path, c.params, body)
		}
	}
}

// Parameters come as a form too, times in every form, and labels apart when they are asked for.
func TestForms(t *testing.T) {
	n := newNode(t, Options{})
	n.fill()
	for _, start := range []string{"1700000000", "1700000000.5", "1700000000000", "1700000000000000", "1700000000000000000", "2023-11-14T22:13:20Z"} {
		r, err := http.PostForm(n.url+Prefix+"query_range", url.Values{"query": {`{app="db"}`}, "start": {start}, "end": {"1700000100"}})
		must(t, err)
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != 200 || !strings.Contains(string(body), `\"rows\":10`) {
			t.Errorf("start %s: %d %s", start, r.StatusCode, body)
		}
	}
	req, _ := http.NewRequest("GET", n.url+Prefix+"query_range?"+url.Values{"query": {`{app="web"} | logfmt | status="200"`}, "start": {"1700000000"}, "end": {"1700000100"}}.Encode(), nil)
	req.Header.Set("X-Loki-Response-Encoding-Flags", "categorize-labels")
	req.Header.Set("X-Scope-OrgID", "tenant")
	r, err := http.DefaultClient.Do(req)
	must(t, err)
	body, _ := io.ReadAll(r.Body)
	r.Body.Close()
	want := `"encodingFlags":["categorize-labels"],"resultType":"streams","result":[{"stream":{"app":"web","host":"h1"},"values":[["1700000001000000000","level=info status=200 dur=12ms msg=\"hello there\"",{"structuredMetadata":{"detected_level":"info","trace_id":"t1"},"parsed":{"dur":"12ms","level":"info","msg":"hello there","status":"200"}}]]}]`
	if !strings.Contains(string(body), want) {
		t.Errorf("%s\n%s", body, want)
	}
	if status, body := n.get("query_range", "query", `{app="db"}`, "start", "4102444800"); status != 200 || !strings.Contains(body, `"result":[]`) {
		t.Errorf("a start beyond now: %d %s", status, body)
	}
}

// Bad requests are refused quickly, as text with the place of the mistake.
func TestBadRequests(t *testing.T) {
	n := newNode(t, Options{})
	n.fill()
	began := time.Now()
	for _, c := range []struct {
		path   string
		params []string
		status int
		want   string
	}{
		{"query", nil, 400, "missing"},
		{"query", []string{"query", `{app="web"}`}, 400, "query_range"},
		{"query", []string{"query", `{app="web"`}, 400, "parse error at line 1, col 11"},
		{"query", []string{"query", `count_over_time({app="db"} | logfmt --strict | rows > 1 [1m])`, "time", "x"}, 400, "parameter time"},
		{"query", []string{"query", `count_over_time({app="web"} | json [1m])`, "time", "1700000010"}, 400, "JSONParserErr"},
		{"query_range", []string{"query", `{app="web"}`, "limit", "5001"}, 400, "1 to 5000"},
		{"query_range", []string{"query", `{app="web"}`, "limit", "-1"}, 400, "1 to 5000"},
		{"query_range", []string{"query", `{app="web"}`, "direction", "sideways"}, 400, "forward or backward"},
		{"query_range", []string{"query", `{app="web"}`, "start", "2", "end", "1"}, 400, "behind the end"},
		{"query_range", []string{"query", `{app="web"}`, "start", "tomorrow"}, 400, "parameter start"},
		{"query_range", []string{"query", `vector(1)`, "step", "0", "start", "0", "end", "10"}, 400, "step"},
		{"query_range", []string{"query", `vector(1)`, "step", "1", "start", "0", "end", "1700000000"}, 400, "11000"},
		{"query_range", []string{"query", strings.Repeat("(", 5000)}, 400, "nested deeper"},
		{"query_range", []string{"query", `{app=~"(((a{100}){100}){100})"}`}, 400, "regular expression"},
		{"series", []string{"match[]", `{app="web"`}, 400, "parse error"},
		{"series", []string{"match[]", `rate({app="web"}[1m])`}, 400, "log query"},
		{"labels", []string{"since", "long"}, 400, "parameter since"},
		{"index/volume", []string{"query", `{app="web"}`, "aggregateBy", "colour"}, 400, "series or labels"},
		{"index/volume_range", []string{"query", `{app="web"}`, "step", "0"}, 400, "step"},
		{"detected_fields", []string{"query", `vector(1)`}, 400, "lines"},
		{"detected_fields", []string{"query", `{app="web"}`, "line_limit", "1000000"}, 400, "1 to 5000"},
		{"format_query", []string{"query", `{`}, 400, "parse error"},
		{"tail", []string{"query", `{app="web"}`}, 400, "websocket"},
		{"tail", []string{"query", `rate({app="web"}[1m])`}, 400, "lines"},
		{"tail", []string{"query", `{app="web"}`, "delay_for", "60"}, 400, "delay_for"},
		{"push", nil, 404, "nothing at"},
		{"label//values", nil, 404, "nothing at"},
		{"label/a/b/values", nil, 404, "nothing at"},
		{"rules", nil, 404, "nothing at"},
	} {
		status, body := n.get(c.path, c.params...)
		if status != c.status || !strings.Contains(body, c.want) || strings.HasPrefix(body, "{") {
			t.Errorf("%s %.80v: %d %.300s, expected %d %q", c.path, c.params, status, body, c.status, c.want)
		}
	}
	t.Logf("all of them in %v", time.Since(began))
	r, err := http.Post(n.url+Prefix+"query", "application/x-www-form-urlencoded", strings.NewReader("query="+strings.Repeat("x", MaxBody)))
	must(t, err)
	r.Body.Close()
	if r.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error("a large form:", r.StatusCode)
	}
	must(t, n.store.Close())
	if status, _ := n.get("query_range", "query", `{app="web"}`); status != 503 {
		t.Error("a store that is closed:", status)
	}
}

func (n *node) open(header http.Header, params ...string) (*websocket.Conn, *http.Response, error) {
	v := url.Values{}
	for i := 0; i+1 < len(params); i += 2 {
		v.Add(params[i], params[i+1])
	}
	return websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(n.url, "http")+Prefix+"tail?"+v.Encode(), header)
}

// lines reads the next n lines of a tail.
func lines(t *testing.T, c *websocket.Conn, n int) (out []string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	for len(out) < n {
		var m struct {
			Streams []struct {
				Stream map[string]string
				Values [][]string
			}
		}
		must(t, c.ReadJSON(&m))
		for _, s := range m.Streams {
			for _, v := range s.Values {
				out = append(out, s.Stream["app"]+" "+v[1])
			}
		}
	}
	return out
}

// A tail begins with what is there and goes on with all that comes, each line once, whatever the store does with it
// meanwhile.
func TestTail(t *testing.T) {
	n := newNode(t, Options{})
	n.fill()
	c, _, err := n.open(nil, "query", `{app=~"web|db"} != "hello" | logfmt`, "start", fmt.Sprint(t0), "limit", "2")
	must(t, err)
	defer c.Close()
	got := lines(t, c, 2)
	if strings.Join(got, "; ") != `db {"rows":10,"ok":true,"q":{"ms":1.5}}; web level=warn status=404 dur=3ms` {
		t.Error(got)
	}
	var want []string
	for i := range 300 {
		n.push(10-int64(i%5), map[string]string{"app": "web", "host": "h3"}, fmt.Sprint("line ", i), 0, nil)
		n.push(10, map[string]string{"app": "other"}, "not this", 0, nil)
		n.push(10, map[string]string{"app": "web"}, "hello", 0, nil)
		want = append(want, fmt.Sprint("web line ", i))
		if i%100 == 50 {
			must(t, n.store.Work(t.Context(), true))
		}
	}
	if got := lines(t, c, 300); strings.Join(got, ";") != strings.Join(want, ";") {
		t.Errorf("%d lines, %v …", len(got), got[:min(3, len(got))])
	}
}

func TestTailIsGuarded(t *testing.T) {
	for _, origin := range []string{"https://evil.page", "https://our.page", "own", ""} {
		n := newNode(t, Options{Tails: 1, Origins: func() []string { return []string{"https://our.page"} }})
		header := http.Header{}
		switch origin {
		case "own":
			header.Set("Origin", n.url)
		case "":
		default:
			header.Set("Origin", origin)
		}
		c, r, err := n.open(header, "query", `{app="web"}`)
		if origin == "https://evil.page" {
			if err == nil || r.StatusCode != http.StatusForbidden {
				t.Errorf("origin %s: %v", origin, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("origin %s: %v", origin, err)
			continue
		}
		if _, r, err = n.open(nil, "query", `{app="web"}`); err == nil || r.StatusCode != http.StatusTooManyRequests {
			t.Error("a second tail:", err)
		}
		must(t, n.api.Close())
		if _, _, err = c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Error("the end of the node:", err)
		}
		if _, r, err = n.open(nil, "query", `{app="web"}`); err == nil || r.StatusCode != http.StatusTooManyRequests {
			t.Error("a tail of a node that ended:", err)
		}
	}
}
