package promapi

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/prompb"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/tsdb"
)

// The node feeds the store by this interface.
var _ raftstate.MetricSink = (*tsdb.Store)(nil)

type dictionary struct{}

func (dictionary) SeriesLabels(id uint64) (wire.Labels, bool) {
	return wire.Labels{{Name: "__name__", Value: "up"}, {Name: "host", Value: fmt.Sprintf("h%d", id)}}, id < 10
}

const t0 = int64(1_700_006_400_000)

func serve(t *testing.T, change func(o *Options)) http.Handler {
	t.Helper()
	reg := prometheus.NewRegistry()
	store, err := tsdb.New(tsdb.Options{
		Dictionary: dictionary{}, Logger: slog.New(slog.DiscardHandler), Registerer: reg, CompactEvery: -1, StripeSize: 64,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	err = store.ApplySamples(&wire.Samples{
		IDs: []uint64{1, 2, 1, 2}, T: []int64{t0, t0, t0 + 60_000, t0 + 60_000}, Values: []float64{1, 0, 2, 0.5},
	})
	if err != nil {
		t.Fatal(err)
	}
	query := tsdb.NewQuery(store, tsdb.QueryOptions{Logger: slog.New(slog.DiscardHandler), Timeout: 10 * time.Second})
	t.Cleanup(func() {
		if err := query.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	opts := Options{Query: query, Logger: slog.New(slog.DiscardHandler), Registerer: reg, Gatherer: reg, Version: "1.2.3"}
	if change != nil {
		change(&opts)
	}
	return New(opts)
}

func ask(h http.Handler, method, target, body string) (int, string) {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// Answers as Prometheus 3 gives them.
func TestAnswers(t *testing.T) {
	h := serve(t, nil)
	at := fmt.Sprintf("%d", t0/1000)
	span := fmt.Sprintf("start=%d&end=%d", t0/1000, t0/1000+60)
	cases := []struct {
		path string
		code int
		want string
	}{
		{"query?query=up&time=" + at, 200, `{"status":"success","data":{"resultType":"vector","result":[` +
			`{"metric":{"__name__":"up","host":"h1"},"value":[1700006400,"1"]},` +
			`{"metric":{"__name__":"up","host":"h2"},"value":[1700006400,"0"]}]}}`},
		{"query?query=1%2B1&time=" + at, 200, `{"status":"success","data":{"resultType":"scalar","result":[1700006400,"2"]}}`},
		{"query?query=absent_metric&time=" + at, 200, `{"status":"success","data":{"resultType":"vector","result":[]}}`},
		{"query_range?query=sum(up)&step=60&" + span, 200, `{"status":"success","data":{"resultType":"matrix","result":[` +
			`{"metric":{},"values":[[1700006400,"1"],[1700006460,"2.5"]]}]}}`},
		{"query_exemplars?query=up&" + span, 200, `{"status":"success","data":[]}`},
		{"series?match[]=up%7Bhost%3D%22h1%22%7D&" + span, 200, `{"status":"success","data":[{"__name__":"up","host":"h1"}]}`},
		{"labels", 200, `{"status":"success","data":["__name__","host"]}`},
		{"label/host/values", 200, `{"status":"success","data":["h1","h2"]}`},
		{"label/host/values?match[]=up%7Bhost%3D~%22.*2%22%7D", 200, `{"status":"success","data":["h2"]}`},
		{"metadata", 200, `{"status":"success","data":{}}`},
		{"format_query?query=sum(up)by(host)", 200, `{"status":"success","data":"sum by (host) (up)"}`},
		{"rules", 200, `{"status":"success","data":{"groups":[]}}`},
		{"alerts", 200, `{"status":"success","data":{"alerts":[]}}`},
		{"targets", 200, `{"status":"success","data":{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":{}}}`},
		{"scrape_pools", 200, `{"status":"success","data":{"scrapePools":[]}}`},
		{"alertmanagers", 200, `{"status":"success","data":{"activeAlertmanagers":[],"droppedAlertmanagers":[]}}`},
		{"query?query=sum(up", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:7: parse error: unclosed left parenthesis"}`},
		{"series", 400, `{"status":"error","errorType":"bad_data","error":"no match[] parameter provided"}`},
		{"query_range?query=up&step=0&" + span, 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer"}`},
		{"admin/tsdb/delete_series", 404, `{"status":"error","errorType":"not_found","error":"no such path: \"/api/v1/admin/tsdb/delete_series\""}`},
		{"write", 404, `{"status":"error","errorType":"not_found","error":"no such path: \"/api/v1/write\""}`},
		{"label/a/b/values", 404, `{"status":"error","errorType":"not_found","error":"no such path: \"/api/v1/label/a/b/values\""}`},
	}
	for _, c := range cases {
		code, got := ask(h, http.MethodGet, "/api/v1/"+c.path, "")
		if code != c.code || got != c.want {
			t.Errorf("%s: %d\n got %s\nwant %s", c.path, code, got, c.want)
		}
		path, form, _ := strings.Cut(c.path, "?")
		switch path {
		case "query", "query_range", "query_exemplars", "series", "labels", "format_query":
			if code, posted := ask(h, http.MethodPost, "/api/v1/"+path, form); code != c.code || posted != got {
				t.Errorf("POST %s: %d %s", c.path, code, posted)
			}
		}
	}
}

func TestStatus(t *testing.T) {
	h := serve(t, nil)
	for path, want := range map[string]string{
		"status/buildinfo":         `"version":"` + PrometheusVersion + `","revision":"1.2.3"`,
		"status/runtimeinfo":       `"GOMAXPROCS":`,
		"status/tsdb":              `"numSeries":2`,
		"status/flags":             `"data":{}`,
		"status/config":            `"yaml":`,
		"parse_query?query=up%2B1": `"type":"binaryExpr"`,
	} {
		code, got := ask(h, http.MethodGet, "/api/v1/"+path, "")
		if code != http.StatusOK || !strings.Contains(got, want) {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
}

func TestMetadata(t *testing.T) {
	h := serve(t, func(o *Options) {
		o.Metadata = func(context.Context) (map[string][]Metadata, error) {
			return map[string][]Metadata{"up": {{"gauge", "Whether it is up.", ""}}, "x": {{"counter", "", "s"}, {"gauge", "", ""}}}, nil
		}
	})
	for target, want := range map[string]string{
		"metadata":                             `{"data":{"up":[{"type":"gauge","help":"Whether it is up.","unit":""}],"x":[{"type":"counter","help":"","unit":"s"},{"type":"gauge","help":"","unit":""}]},"status":"success"}`,
		"metadata?metric=up":                   `{"data":{"up":[{"type":"gauge","help":"Whether it is up.","unit":""}]},"status":"success"}`,
		"metadata?metric=x&limit_per_metric=1": `{"data":{"x":[{"type":"counter","help":"","unit":"s"}]},"status":"success"}`,
		"metadata?limit=0":                     `{"data":{},"status":"success"}`,
		"metadata?limit=x":                     `{"status":"error","errorType":"bad_data","error":"limit must be a number"}`,
	} {
		if _, got := ask(h, http.MethodGet, "/api/v1/"+target, ""); got != want {
			t.Errorf("%s:\n got %s\nwant %s", target, got, want)
		}
	}
}

func TestHostileRequests(t *testing.T) {
	h := serve(t, nil)
	cases := []struct {
		name, method, target, body string
		code                       int
	}{
		{"long query", "POST", "/api/v1/query", "query=" + strings.Repeat("(", 100_000), 400},
		{"huge body", "POST", "/api/v1/query", "query=" + strings.Repeat("a", MaxBody), 413},
		{"deep query", "POST", "/api/v1/query_range", "query=" + strings.Repeat("sum(", 3000) + "&start=0&end=1&step=1", 400},
		{"deep to format", "POST", "/api/v1/format_query", "query=" + strings.Repeat("(", 5000), 400},
		{"deep to parse", "POST", "/api/v1/parse_query", "query=" + strings.Repeat("-", 5000) + "1", 400},
		{"deep selector", "POST", "/api/v1/series", "match[]=" + strings.Repeat("{", 5000), 400},
		{"many selectors", "POST", "/api/v1/series", strings.Repeat("match[]=up&", 100), 400},
		{"bad form", "POST", "/api/v1/query", "query=%zz", 400},
		{"bad limit", "GET", "/api/v1/labels?limit=x", "", 400},
		{"bad time", "GET", "/api/v1/query?query=up&time=x", "", 400},
		{"too many points", "GET", "/api/v1/query_range?query=up&start=0&end=2000000000&step=1", "", 400},
		{"snappy bomb", "POST", "/api/v1/read", "\xff\xff\xff\xff\x0f\x00", 400},
		{"snappy length", "POST", "/api/v1/read", "\x80\x80\x80\x80\x01\x00", 400},
		{"empty read", "POST", "/api/v1/read", "", 400},
		{"other path", "GET", "/api/v1/../../etc/passwd", "", 404},
	}
	for _, c := range cases {
		start := time.Now()
		code, got := ask(h, c.method, c.target, c.body)
		if code != c.code || !strings.HasPrefix(got, `{"status":"error"`) && c.method+c.target != "POST/api/v1/read" {
			t.Errorf("%s: %d %.300s", c.name, code, got)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s took %v", c.name, took)
		}
	}
}

func TestResultsAreBounded(t *testing.T) {
	h := serve(t, nil)
	code, got := ask(h, http.MethodGet, "/api/v1/label/host/values?limit=1", "")
	if want := `{"status":"success","data":["h1"],"warnings":["results truncated due to limit"]}`; code != 200 || got != want {
		t.Fatalf("%d %s", code, got)
	}
	for in, want := range map[string]string{"": "100000", "limit=0": "100000", "limit=7": "7", "limit=100001": "100000"} {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/series?"+in, nil)
		if err := boundForm(r); err != nil || r.Form.Get("limit") != want {
			t.Errorf("%q becomes %q, %v", in, r.Form.Get("limit"), err)
		}
	}
}

func TestLookupsTakeTurns(t *testing.T) {
	h := serve(t, func(o *Options) { o.Concurrent = 1 }).(*handler)
	h.lookups <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/labels", nil).WithContext(ctx))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	<-h.lookups
}

func TestRemoteRead(t *testing.T) {
	h := serve(t, nil)
	req := prompb.ReadRequest{Queries: []*prompb.Query{{
		StartTimestampMs: t0, EndTimestampMs: t0 + 60_000,
		Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "host", Value: "h1"}},
	}}}
	raw, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	code, body := ask(h, http.MethodPost, "/api/v1/read", string(snappy.Encode(nil, raw)))
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	plain, err := snappy.Decode(nil, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	var resp prompb.ReadResponse
	if err := resp.Unmarshal(plain); err != nil {
		t.Fatal(err)
	}
	if ts := resp.Results[0].Timeseries; len(ts) != 1 || len(ts[0].Samples) != 2 || ts[0].Samples[1].Value != 2 {
		t.Fatalf("got %v", ts)
	}
}

func TestErrorsAreJSON(t *testing.T) {
	h := serve(t, nil)
	_, got := ask(h, http.MethodGet, "/api/v1/"+url.PathEscape(`"<x>`), "")
	var doc map[string]string
	if err := json.Unmarshal([]byte(got), &doc); err != nil || doc["status"] != "error" {
		t.Fatalf("%s: %v", got, err)
	}
}
