package lokiapi

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/ui"
)

// t0 is where the lines of tests begin, in nanoseconds: a whole minute.
const t0 = int64(1_700_006_400_000_000_000)

const second = int64(time.Second)

// stand is an API over a store of its own.
type stand struct {
	t     *testing.T
	api   *API
	store *logstore.Store
	feed  *ui.LineFeed
	gate  *gate
	index uint64
}

// gate knows one user by a header.
type gate struct {
	void   chan struct{} // closed: the session has ended
	origin string
}

func (g *gate) Viewer(r *http.Request) (ui.Viewer, bool) {
	return ui.Viewer{User: "u", Role: "viewer", Key: "k"}, r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != ""
}

func (g *gate) Recheck(v ui.Viewer) (ui.Viewer, bool) {
	select {
	case <-g.void:
		return v, false
	default:
		return v, true
	}
}
func (g *gate) May(_ ui.Viewer, kind string) bool { return kind == "logs.tail" }
func (g *gate) Origins() []string                 { return []string{g.origin} }

func newStand(t *testing.T, change func(o *Options)) *stand {
	t.Helper()
	store, err := logstore.New(logstore.Options{Log: slog.New(slog.DiscardHandler), Manual: true})
	if err == nil {
		err = store.Open(t.TempDir())
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{t: t, store: store, feed: ui.NewLineFeed(), gate: &gate{void: make(chan struct{}), origin: "https://n1.example:8443"}}
	opts := Options{Store: store, Feed: s.feed, Gate: s.gate, Version: "v1.2.3"}
	if change != nil {
		change(&opts)
	}
	s.api = New(opts)
	t.Cleanup(func() {
		if err := s.api.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// stream makes a stream of lines a second apart from t0 on.
func stream(labels map[string]string, severity wire.Severity, lines ...string) wire.LogStream {
	st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(labels)}
	for i, text := range lines {
		st.Lines = append(st.Lines, wire.LogLine{T: t0 + int64(i)*second, Severity: severity, Text: []byte(text)})
	}
	return st
}

func (s *stand) apply(streams ...wire.LogStream) {
	s.t.Helper()
	s.index++
	entries := []wire.LogEntry{{Index: s.index, Batches: []wire.AcceptedLogs{{Batch: &wire.LogBatch{Streams: streams}}}}}
	if err := s.store.ApplyLogs(s.index, entries); err != nil {
		s.t.Fatal(err)
	}
	s.feed.Observe(s.index, entries)
}

func (s *stand) fill() {
	web := stream(map[string]string{"app": "web", "host": "a"}, wire.SeverityInfo,
		`{"status":200,"path":"/","took":"3ms"}`, `{"status":500,"path":"/x","took":"12ms"}`, `plain text`)
	web.Lines[1].Fields = []wire.Label{{Name: "trace_id", Value: "abc"}}
	s.apply(web, stream(map[string]string{"app": "web", "host": "b"}, wire.SeverityError, `level=error code=7 msg="no way"`),
		stream(map[string]string{"app": "db"}, wire.SeverityUnknown, "vacuum 1", "vacuum 2"))
}

// ask sends a request and returns status and body.
func (s *stand) ask(method, path string, params url.Values, header ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	target, body := Prefix+path, ""
	if method == http.MethodPost {
		body = params.Encode()
	} else if len(params) > 0 {
		target += "?" + params.Encode()
	}
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.api.ServeHTTP(w, r)
	return w
}

func params(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

func around(pairs ...string) url.Values {
	v := params(pairs...)
	v.Set("start", fmt.Sprint(t0))
	v.Set("end", fmt.Sprint(t0+60*second))
	return v
}

// without takes the member stats out, which differs from run to run.
func without(t *testing.T, body []byte) string {
	t.Helper()
	var v struct {
		Status   string          `json:"status"`
		Data     json.RawMessage `json:"data"`
		Warnings []string        `json:"warnings"`
	}
	if err := json.Unmarshal(body, &v); err != nil || v.Status != "success" {
		t.Fatalf("%v: %s", err, body)
	}
	var data map[string]json.RawMessage
	if json.Unmarshal(v.Data, &data) != nil {
		return string(v.Data)
	}
	if len(data["stats"]) == 0 {
		t.Errorf("no stats in %s", body)
	}
	delete(data, "stats")
	b, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Answers have the form that Loki's documentation shows, for GET and POST, before and after lines are in blocks.
func TestAnswers(t *testing.T) {
	s := newStand(t, nil)
	s.fill()
	cases := []struct {
		path   string
		params url.Values
		want   string
	}{
		{"query_range", around("query", `{app="db"}`), `{"result":[{"stream":{"app":"db"},"values":[["1700006401000000000","vacuum 2"],["1700006400000000000","vacuum 1"]]}],"resultType":"streams"}`},
		{"query_range", around("query", `{app="db"}`, "direction", "FORWARD", "limit", "1"), `{"result":[{"stream":{"app":"db"},"values":[["1700006400000000000","vacuum 1"]]}],"resultType":"streams"}`},
		{"query_range", around("query", `{app="web"} |= "500"`), `{"result":[{"stream":{"app":"web","detected_level":"info","host":"a","trace_id":"abc"},"values":[["1700006401000000000","{\"status\":500,\"path\":\"/x\",\"took\":\"12ms\"}"]]}],"resultType":"streams"}`},
		{"query_range", around("query", `sum by (app) (count_over_time({app=~".+"}[30s]))`, "step", "30"), `{"result":[` +
			`{"metric":{"app":"db"},"values":[[1700006400,"1"],[1700006430,"1"]]},{"metric":{"app":"web"},"values":[[1700006400,"2"],[1700006430,"2"]]}],"resultType":"matrix"}`},
		{"query_range", params("query", `{app="db"}`, "start", "2023-11-15T00:00:00.000Z", "end", "2023-11-15T00:00:01.000Z"), `{"result":[{"stream":{"app":"db"},"values":[["1700006400000000000","vacuum 1"]]}],"resultType":"streams"}`},
		{"query_range", params("query", `{app="db"}`, "start", "1700006400.5", "end", "2023-11-15T02:00:02+02:00"), `{"result":[{"stream":{"app":"db"},"values":[["1700006401000000000","vacuum 2"]]}],"resultType":"streams"}`},
		{"query_range", params("query", `{app="db"}`, "end", "1700006402000000000", "since", "1s"), `{"result":[{"stream":{"app":"db"},"values":[["1700006401000000000","vacuum 2"]]}],"resultType":"streams"}`},
		{"query_range", params("query", `{app="db"}`, "end", "1700006402", "since", "1h", "start", "1700006401"), `{"result":[{"stream":{"app":"db"},"values":[["1700006401000000000","vacuum 2"]]}],"resultType":"streams"}`},
		{"query_range", around("query", `{app="db"}`, "interval", "1.5", "direction", "forward"), `{"result":[{"stream":{"app":"db"},"values":[["1700006400000000000","vacuum 1"]]}],"resultType":"streams"}`},
		{"query_range", around("query", `{nothing="here"}`), `{"result":[],"resultType":"streams"}`},
		{"query", params("query", "vector(1)+vector(1)", "time", "4000000000"), `{"result":[{"metric":{},"value":[4000000000,"2"]}],"resultType":"vector"}`},
		{"query", params("query", `sum(count_over_time({app="db"}[1m]))`, "time", "1700006430"), `{"result":[{"metric":{},"value":[1700006430,"2"]}],"resultType":"vector"}`},
		{"query", params("query", `1+1`, "time", "1700006430.5"), `{"result":[1700006430.5,"2"],"resultType":"scalar"}`},
		{"labels", around(), `["app","host"]`},
		{"labels", around("query", `{app="db"}`), `["app"]`},
		{"label/host/values", around(), `["a","b"]`},
		{"label/host/values", around("query", `{app="web", host!="a"}`), `["b"]`},
		{"label/none/values", around(), `[]`},
		{"series", around("match[]", `{app="db"}`, "match[]", `{host="b"}`), `[{"app":"db"},{"app":"web","host":"b"}]`},
		{"index/volume", around("query", `{app=~".+"}`), `{"result":[{"metric":{"app":"web"},"value":[1700006460,"162"]},{"metric":{"app":"db"},"value":[1700006460,"16"]}],"resultType":"vector"}`},
		{"index/volume", around("query", `{app=~".+"}`, "targetLabels", "host", "limit", "1"), `{"result":[{"metric":{"host":"a"},"value":[1700006460,"131"]}],"resultType":"vector"}`},
		{"index/volume", around("query", `{app="db"}`, "aggregateBy", "labels"), `{"result":[{"metric":{"app":""},"value":[1700006460,"16"]}],"resultType":"vector"}`},
		{"index/volume_range", around("query", `{app="db"}`, "step", "1"), `{"result":[{"metric":{"app":"db"},"values":[[1700006400,"8"],[1700006401,"8"]]}],"resultType":"matrix"}`},
		{"patterns", around("query", `{app=~"db|web"} != "plain"`, "step", "1"), `[{"pattern":"vacuum \u003c_\u003e","samples":[[1700006400,1],[1700006401,1]]},` +
			`{"pattern":"level=\u003c_\u003e code=\u003c_\u003e msg=\"no way\"","samples":[[1700006400,1]]},` +
			`{"pattern":"{\"status\":\u003c_\u003e,\"path\":\"/\",\"took\":\"\u003c_\u003e\"}","samples":[[1700006400,1]]},` +
			`{"pattern":"{\"status\":\u003c_\u003e,\"path\":\"/x\",\"took\":\"\u003c_\u003e\"}","samples":[[1700006401,1]]}]`},
		{"patterns", around("query", `{nothing="here"}`), `[]`},
		{"format_query", params("query", `{app="x"}|="a"|json`), `"{app=\"x\"} |= \"a\" | json"`},
	}
	for _, sealed := range []bool{false, true} {
		if sealed {
			if err := s.store.Work(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range cases {
			for _, method := range []string{"GET", "POST"} {
				w := s.ask(method, c.path, c.params, "X-Scope-OrgID", "tenant")
				if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
					t.Errorf("%s %s %v (sealed %v): %d %s", method, c.path, c.params, sealed, w.Code, w.Body)
					continue
				}
				if got := without(t, w.Body.Bytes()); got != c.want {
					t.Errorf("%s %s %v (sealed %v):\n got %s\nwant %s", method, c.path, c.params, sealed, got, c.want)
				}
			}
		}
	}
}

// What Grafana asks beside queries.
func TestAnswersOfTheirOwnForm(t *testing.T) {
	s := newStand(t, nil)
	s.fill()
	for path, c := range map[string]struct {
		params url.Values
		want   string
	}{
		"index/stats":     {around("query", `{app="web"}`), `{"streams":2,"chunks":0,"entries":4,"bytes":162}`},
		"detected_labels": {around(), `{"detectedLabels":[{"label":"app","cardinality":2},{"label":"host","cardinality":2}]}`},
		"detected_fields": {around("query", `{app="web"}`), `{"fields":[` +
			`{"label":"code","type":"int","cardinality":1,"parsers":["logfmt"]},` +
			`{"label":"detected_level","type":"string","cardinality":2,"parsers":null},` +
			`{"label":"level","type":"string","cardinality":1,"parsers":["logfmt"]},{"label":"msg","type":"string","cardinality":1,"parsers":["logfmt"]},` +
			`{"label":"path","type":"string","cardinality":2,"parsers":["json"]},{"label":"status","type":"int","cardinality":2,"parsers":["json"]},` +
			`{"label":"took","type":"duration","cardinality":2,"parsers":["json"]},{"label":"trace_id","type":"string","cardinality":1,"parsers":null}],"limit":1000}`},
		"detected_field/status/values": {around("query", `{app="web"}`), `{"values":["200","500"],"limit":1000}`},
	} {
		w := s.ask("GET", path, c.params)
		if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != c.want {
			t.Errorf("%s: %d\n got %s\nwant %s", path, w.Code, got, c.want)
		}
	}
	w := s.ask("GET", "status/buildinfo", nil)
	var info map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &info); err != nil || info["version"] != Version || info["revision"] != "v1.2.3" {
		t.Error(err, w.Body)
	}
	// What Logs Drilldown asks: all parsers in a row, without their mistakes.
	w = s.ask("GET", "detected_fields", around("query", `{app="web", host="b"} | json | logfmt | drop __error__, __error_details__`))
	fields := `{"fields":[{"label":"code","type":"int","cardinality":1,"parsers":null},{"label":"detected_level","type":"string","cardinality":1,"parsers":null},` +
		`{"label":"level","type":"string","cardinality":1,"parsers":null},{"label":"msg","type":"string","cardinality":1,"parsers":null}],"limit":1000}`
	if got := strings.TrimSpace(w.Body.String()); got != fields {
		t.Errorf("fields behind parsers:\n got %s\nwant %s", got, fields)
	}
	w = s.ask("GET", "query_range", around("query", `{app="web", host="a"} | json`, "direction", "forward", "limit", "2"), encodingHeader, "x, categorize-labels")
	want := `{"encodingFlags":["categorize-labels"],"result":[{"stream":{"app":"web","host":"a"},"values":[` +
		`["1700006400000000000","{\"status\":200,\"path\":\"/\",\"took\":\"3ms\"}",{"structuredMetadata":{"detected_level":"info"},"parsed":{"path":"/","status":"200","took":"3ms"}}],` +
		`["1700006401000000000","{\"status\":500,\"path\":\"/x\",\"took\":\"12ms\"}",{"structuredMetadata":{"detected_level":"info","trace_id":"abc"},"parsed":{"path":"/x","status":"500","took":"12ms"}}]]}],"resultType":"streams"}`
	if got := without(t, w.Body.Bytes()); got != want {
		t.Errorf("categorised:\n got %s\nwant %s", got, want)
	}
	w = s.ask("GET", "query_range", around("query", `{app="db"}`, "limit", "1"), encodingHeader, categorize)
	if !strings.Contains(w.Body.String(), `["1700006401000000000","vacuum 2",{}]`) {
		t.Errorf("a line without labels of its own has no empty object: %s", w.Body)
	}
	w = s.ask("GET", "format_query", params("query", `{app="x"`))
	if w.Code != 400 || !strings.Contains(w.Body.String(), `"status":"invalid-query"`) || !strings.Contains(w.Body.String(), "line 1, col ") {
		t.Errorf("format_query: %d %s", w.Code, w.Body)
	}
}

// Bad parameters are 4xx with the place and what is wanted, in plain text, and cost nothing.
func TestBadParameters(t *testing.T) {
	s := newStand(t, nil)
	s.fill()
	deep := strings.Repeat("(", 60_000)
	many := url.Values{"match[]": make([]string, MaxSelectors+1)}
	large := url.Values{"match[]": {}} // each of them may be asked for alone
	for i := range 13 {
		large.Add("match[]", fmt.Sprintf(`{a%d=~"%s"}`, i, strings.Repeat("x{1000}", 4)))
	}
	cases := []struct {
		path   string
		params url.Values
		code   int
		want   string
	}{
		{"query_range", around(), 400, "query is missing"},
		{"query_range", around("query", `{app="web"`), 400, "parse error at line 1, col "},
		{"query_range", around("query", "{app=\"web\"} |=\n \"x"), 400, "parse error at line 2, col "},
		{"query_range", around("query", `{}`), 400, "parse error"},
		{"query_range", around("query", deep), 400, "parse error"},
		{"query_range", around("query", `{a="`+strings.Repeat("x", 70_000)+`"}`), 400, "bytes"},
		{"query_range", around("query", `{a=~"`+strings.Repeat("(a*)*", 300)+`"}`), 0, ""},
		{"query_range", around("query", `{a="b"}`, "limit", "5001"), 400, "5001 > 5000"},
		{"query_range", around("query", `{a="b"}`, "limit", "0"), 400, "positive"},
		{"query_range", around("query", `{a="b"}`, "limit", "9999999999999999999999"), 400, "whole number"},
		{"query_range", around("query", `{a="b"}`, "direction", "up"), 400, "neither forward nor backward"},
		{"query_range", around("query", `rate({a="b"}[1m])`, "step", "0"), 400, "step"},
		{"query_range", around("query", `rate({a="b"}[1m])`, "step", "-5s"), 400, "step"},
		{"query_range", around("query", `rate({a="b"}[1m])`, "step", "1e999"), 400, "step"},
		{"query_range", around("query", `rate({a="b"}[1m])`, "step", "NaN"), 400, "step"},
		{"query_range", around("query", `rate({a="b"}[1m])`, "step", "0.001"), 400, "steps"},
		{"query_range", around("query", `{a="b"}`, "interval", "x"), 400, "interval"},
		{"query_range", params("query", `{a="b"}`, "start", "10", "end", "5"), 400, "end timestamp"},
		{"query_range", params("query", `{a="b"}`, "start", "yesterday"), 400, "parameter start"},
		{"query_range", params("query", `{a="b"}`, "start", "-5"), 400, "before 1970"},
		{"query_range", params("query", `{a="b"}`, "end", "NaN"), 400, "parameter end"},
		{"query_range", params("query", `{a="b"}`, "end", "9999999999"), 400, "2262"},
		{"query_range", params("query", `{a="b"}`, "since", "-1h"), 400, "since"},
		{"query", params("query", `{a="b"}`), 400, "range"},
		{"query", params("query", `{a="b"}`, "time", "1e400"), 400, "parameter time"},
		{"labels", params("start", "x"), 400, "parameter start"},
		{"labels", params("query", `{`), 400, "parse error"},
		{"series", many, 400, "101 times"},
		{"series", large, 400, "unfold"},
		{"series", url.Values{"match[]": large["match[]"][:12]}, 200, "[]"},
		{"series", params("match[]", `{a=`), 400, "parse error"},
		{"index/stats", around(), 400, "query is missing"},
		{"index/volume", around("query", `{a="b"}`, "aggregateBy", "x"), 400, "aggregateBy"},
		{"index/volume_range", around("query", `{a="b"}`, "step", "1ms"), 400, "resolution"},
		{"index/volume_range", params("query", `{a="b"}`, "start", "0", "end", "9223372036854775807", "step", "1h"), 400, "resolution"},
		{"query_range", params("query", `rate({a="b"}[1m])`, "start", "0", "end", "9223372036854775807"), 200, "matrix"},
		{"detected_fields", around("query", `{a="b"}`, "line_limit", "100000"), 400, "line_limit"},
		{"detected_fields", around("query", `rate({a="b"}[1m])`), 400, "lines is wanted"},
		{"patterns", around(), 400, "query is missing"},
		{"patterns", around("query", `rate({a="b"}[1m])`), 400, "lines is wanted"},
		{"patterns", around("query", `{a="b"} | json`), 400, "leave out the stages"},
		{"patterns", around("query", `{a="b"}`, "step", "1ms"), 400, "longer"},
		{"tail", params("query", `{a="b"}`), 400, "websocket"},
		{"label//values", nil, 404, "nothing"},
		{"label/{}/other", nil, 404, "nothing"},
		{"label/{}/values/x", nil, 404, "nothing"},
		{"rules", nil, 404, "nothing"},
		{"", nil, 404, "nothing"},
	}
	for _, c := range cases {
		began := time.Now()
		w := s.ask("POST", c.path, c.params)
		if c.code != 0 && w.Code != c.code || w.Code >= 500 || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %.100v: %d %s, want %d with %q", c.path, c.params, w.Code, w.Body, c.code, c.want)
		}
		if w.Code >= 400 && !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %s", c.path, w.Header())
		}
		if d := time.Since(began); d > 20*time.Second { // seconds even on a busy machine would be a query that ran
			t.Errorf("%s %.100v took %v", c.path, c.params, d)
		}
	}
	r := httptest.NewRequest("POST", Prefix+"query", strings.NewReader(`{"query":"1"}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	if s.api.ServeHTTP(w, r); w.Code != http.StatusUnsupportedMediaType {
		t.Errorf("a body of JSON: %d %s", w.Code, w.Body)
	}
	if w := s.ask("POST", "query", params("query", strings.Repeat("x", MaxBody))); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a form of more than %d bytes: %d %s", MaxBody, w.Code, w.Body)
	}
}

func TestTimes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1700006400": t0, "1700006400000": t0, "1700006400000000": t0, "1700006400000000000": t0, "1700006400.5": t0 + second/2,
		"1.7000064e9": t0, "2023-11-15T00:00:00Z": t0, "2023-11-15T01:00:00.25+01:00": t0 + second/4, "00000000001700006400": t0,
		"9223372036854775807": 1<<63 - 1,
	} {
		if got, err := parseTime(text); err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "now", "1e30", "Inf", "-1", "99999999999999999999", "2023-11-15", "2400-01-01T00:00:00Z"} {
		if got, err := parseTime(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
	q := &request{now: time.Unix(0, t0), form: url.Values{}}
	for _, c := range []struct {
		form       url.Values
		start, end int64
	}{
		{params(), t0 - 3600*second, t0},
		{params("end", "1700003000"), 1_700_003_000*second - 3600*second, 1_700_003_000 * second},
		{params("since", "5m"), t0 - 300*second, t0},
		{params("start", "1700006500"), t0 + 100*second, t0 + 100*second}, // a clock that is ahead
		{params("end", "1700009999"), t0 - 3600*second, 1_700_009_999 * second},
	} {
		q.form = c.form
		if start, end, err := q.span(time.Hour); err != nil || start != c.start || end != c.end {
			t.Errorf("%v: %d %d %v, want %d %d", c.form, start, end, err, c.start, c.end)
		}
	}
}

// What the store turns away is told in the way clients wait by.
func TestBusyAndClosed(t *testing.T) {
	store, err := logstore.New(logstore.Options{Log: slog.New(slog.DiscardHandler), Manual: true, Queries: 1, QueriesWaiting: -1})
	if err == nil {
		err = store.Open(t.TempDir())
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{t: t, api: New(Options{Store: store, Feed: ui.NewLineFeed(), Gate: &gate{}, Timeout: time.Minute})}
	_, leave, err := store.Admit(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	w := s.ask("GET", "query_range", around("query", `{a="b"}`))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("busy: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := s.ask("GET", "format_query", params("query", `{a="b"}`)); w.Code != 200 {
		t.Errorf("a question that the store is not asked: %d %s", w.Code, w.Body)
	}
	leave()
	if w := s.ask("GET", "query_range", around("query", `{a="b"}`)); w.Code != 200 {
		t.Errorf("again: %d %s", w.Code, w.Body)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	w = s.ask("GET", "query_range", around("query", `{a="b"}`))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("closed: %d %v %s", w.Code, w.Header(), w.Body)
	}
}
