package cli

import (
	"net/url"
	"strings"
	"testing"
)

// Suggestions are printed as the query would be with them, and are what the shell completes with.
func TestSuggestionsCompleteTheQuery(t *testing.T) {
	alone(t)
	s, all := listener(t, `{"items":[
		{"kind":"value","text":"web-1","insert":"web-1","from":11,"to":13,"lines":7},
		{"kind":"value","text":"a\u001b[31m","insert":"\"a\u001b[31m\"","from":11,"to":13,"lines":2},
		{"kind":"value","text":"web","insert":"web*","from":11,"to":13,"lines":0,"lead":true},
		{"kind":"value","text":"x","insert":"x","from":11,"to":999,"lines":1}],"partial":true,"scanned_lines":9,"ms":1}`)
	t.Setenv("TRIWARD_ADDR", s.URL)
	t.Setenv("TRIWARD_TOKEN", "tok")
	code, out, errs := run(t, "logs", "suggest", "error host:we", "--start", "now-2h", "--limit", "5")
	if code != ExitOK || strings.Contains(out, "\x1b") || !strings.Contains(errs, "damaged") {
		t.Fatalf("%d %q %q", code, out, errs)
	}
	for _, want := range []string{"error host:web-1", "error host:web*", "not looked for", "value"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	u, err := url.Parse((*all)[0].path)
	if err != nil || u.Path != "/v1/logs/suggest" || u.Query().Get("query") != "error host:we" || u.Query().Get("limit") != "5" || u.Query().Get("start") == "" {
		t.Errorf("asked %s", (*all)[0].path)
	}
	for _, of := range []string{"query", "tail"} {
		code, out, _ = run(t, "__complete", "logs", of, "error host:we")
		if lines := strings.Split(out, "\n"); code != ExitOK || lines[0] != "error host:web-1" || lines[1] != "error host:web*" || lines[2] != "x" || lines[3] != ":38" {
			t.Errorf("%d %q", code, out)
		}
	}
	if code, out, _ = run(t, "logs", "suggest", "x", "-o", "json"); code != ExitOK || !strings.Contains(out, `"insert": "web-1"`) {
		t.Errorf("%d %q", code, out)
	}
	t.Setenv("TRIWARD_ADDR", "http://127.0.0.1:1")
	if code, out, _ = run(t, "__complete", "logs", "query", "x"); code != ExitOK || out != ":38\n" {
		t.Errorf("without a cluster: %d %q", code, out)
	}
}
