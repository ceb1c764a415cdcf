package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a member that does not answer may still hold is not skipped, unless the reader says so.
func TestGapIsSkippedOnceNobodyMayHoldIt(t *testing.T) {
	alone(t)
	silent := `["n2"]`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/read") && r.FormValue("from") == "5.0":
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusGone)
			fmt.Fprintf(w, `{"status":410,"code":"gap","detail":"entries are gone","gap":{"from":"5.0","to":8,"next":"9.0"},"silent":%s}`, silent)
		case strings.HasSuffix(r.URL.Path, "/read"):
			fmt.Fprint(w, `{"items":[{"index":9}],"next":"10.0","more":false}`)
		default:
			fmt.Fprint(w, `{"name":"mirror","position":"5.0","token":1}`)
		}
	}))
	defer s.Close()
	consume := func(more ...string) (int, string, string) {
		return run(t, append([]string{"queue", "consume", "mirror", "--addr", s.URL, "--token", "x"}, more...)...)
	}
	if code, out, errs := consume("--skip-gap"); code == 0 || out != "" || !strings.Contains(errs, "n2") || !strings.Contains(errs, "--skip-silent") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if code, out, errs := consume("--skip-gap", "--skip-silent"); code != 0 || !strings.Contains(out, `"index":9`) || !strings.Contains(errs, "are gone") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	silent = "[]"
	if code, out, errs := consume("--skip-gap"); code != 0 || !strings.Contains(out, `"index":9`) {
		t.Errorf("%d %q %q", code, out, errs)
	}
}
