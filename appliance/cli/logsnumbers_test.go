package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// A query for numbers is asked of Loki's API, at one time or with a step over a span, and its answer is a table or what came.
func TestNumbersOfLogs(t *testing.T) {
	alone(t)
	const vector = `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"host":"web-1"},"value":[1700000000,"42"]}],
		"stats":{"summary":{"totalLinesProcessed":9,"totalBytesProcessed":2048,"execTime":0.0015},"triward":{"blocksConsidered":5,"blocksSkipped":3,"blocksOpened":2}}}}`
	const matrix = `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1700000000,"1"],[1700000060,"2.5"]]}],
		"stats":{}},"warnings":["the answer is partial"]}`
	var asked *url.URL
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL
		switch {
		case strings.Contains(r.URL.Query().Get("query"), "oops"):
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintln(w, "parse error at line 1, col 3: \x1b[31mno")
		case strings.HasSuffix(r.URL.Path, "query"):
			w.Header().Set("X-Triward-Node", "n2")
			fmt.Fprint(w, vector)
		default:
			fmt.Fprint(w, matrix)
		}
	}))
	defer srv.Close()
	t.Setenv("TRIWARD_ADDR", srv.URL)
	t.Setenv("TRIWARD_TOKEN", "tok")
	const query = `sum by (host) (count_over_time({a="b"}[1h]))`

	code, out, errs := run(t, "logs", "query", query, "--end", "1700000000", "--stats")
	if code != ExitOK || !strings.Contains(out, `{host="web-1"}`) || !strings.Contains(out, "42") || !strings.HasPrefix(out, "SERIES") ||
		!strings.Contains(errs, "9 lines (2.0 KiB) looked at in 1.5 ms; of 5 blocks 2 opened, 3 passed over") || !strings.Contains(errs, "node n2 answered") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	q := asked.Query()
	if asked.Path != "/loki/api/v1/query" || q.Get("query") != query || q.Get("time") != "1700000000000000000" || q.Has("start") {
		t.Errorf("asked %s", asked)
	}
	code, out, errs = run(t, "logs", "query", query, "--start", "1699990000", "--end", "1700000000", "--step", "90s")
	if code != ExitWarnings || strings.Count(out, "\n") != 3 || !strings.Contains(out, "2.5") || errs != "warning: the answer is partial\n" {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if q = asked.Query(); asked.Path != "/loki/api/v1/query_range" || q.Get("start") != "1699990000000000000" || q.Get("end") != "1700000000000000000" || q.Get("step") != "90" {
		t.Errorf("asked %s", asked)
	}
	if code, out, _ = run(t, "logs", "query", query, "-o", "json"); code != ExitOK || !strings.Contains(out, `"resultType": "vector"`) {
		t.Errorf("%d %s", code, out)
	}
	code, out, errs = run(t, "logs", "query", query, "--start", "1699990000", "--end", "1700000000", "--step", "90s", "-o", "json")
	if code != ExitWarnings || !strings.Contains(out, `"resultType": "matrix"`) || errs != "warning: the answer is partial\n" {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if code, _, errs = run(t, "logs", "query", `rate({oops`); code == ExitOK || !strings.Contains(errs, "parse error at line 1, col 3: \uFFFD[31mno") {
		t.Errorf("%d %q", code, errs)
	}
	asked = nil
	for _, args := range [][]string{
		{query, "--start", "now-1h"},
		{query, "--step", "-1s"},
		{query, "--oldest"},
		{query, "--limit", "5"},
		{query, "--ids"},
		{"error", "--step", "1m"},
	} {
		if code, out, _ = run(t, append([]string{"logs", "query"}, args...)...); code == ExitOK || out != "" || asked != nil {
			t.Errorf("%q: %d %s, asked %v", args, code, out, asked)
		}
	}
}
