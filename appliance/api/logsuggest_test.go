package api

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/auth"
)

func TestSuggestionsAreAskedAsWanted(t *testing.T) {
	s := newStand(t, nil)
	do := func(query string) *httptest.ResponseRecorder {
		return s.do(call{method: "GET", path: "/v1/logs/suggest?" + query, token: s.tokens[auth.RoleViewer]})
	}
	w := do("query=" + url.QueryEscape("磁盘 ho") + "&at=9&start=1000000000000&end=2000000000000&limit=7")
	want := LogSuggestQuery{Query: "磁盘 ho", At: 9, Start: 1000000000000e6, End: 2000000000000e6, Limit: 7}
	if w.Code != 200 || s.parts.lastSuggest != want {
		t.Fatalf("%d %s %+v", w.Code, w.Body, s.parts.lastSuggest)
	}
	if !strings.Contains(w.Body.String(), `"items":[]`) {
		t.Error(w.Body)
	}
	if w = do("query=abc"); w.Code != 200 || s.parts.lastSuggest.At != 3 || s.parts.lastSuggest.Limit != 10 {
		t.Fatalf("%d %+v", w.Code, s.parts.lastSuggest)
	}
	for _, bad := range []string{"query=abc&at=4", "query=abc&at=-1", "query=a&limit=51", "query=a&start=now&end=now-1h", "quer=a", "query=" + strings.Repeat("a", 17<<10)} {
		if w = do(bad); w.Code != 400 {
			t.Errorf("%.40s: %d %s", bad, w.Code, w.Body)
		}
	}
}
