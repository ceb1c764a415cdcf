package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What is not given stays as it is when a silence is changed.
func TestSilenceUpdateAndAssign(t *testing.T) {
	alone(t)
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodGet {
			asked = append(asked, r.Method+" "+r.URL.Path+" "+string(body))
		}
		switch {
		case r.URL.Path == "/v1/silences":
			fmt.Fprint(w, `{"silences":[{"id":"s1","matchers":[{"name":"host","value":"web1","isRegex":false,"isEqual":true}],"starts_at":5,"ends_at":9,"comment":"old"}]}`)
		case r.Method == http.MethodPut:
			fmt.Fprint(w, `{"id":"s1","ends_at":1700000000000}`)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer s.Close()
	t.Setenv("TRIWARD_ADDR", s.URL)
	t.Setenv("TRIWARD_TOKEN", "tok")
	for _, tt := range []struct{ args, want string }{
		{"silence update s1 --comment new", `PUT /v1/silences/s1 {"comment":"new","ends_at":9,"matchers":["host=\"web1\""],"starts_at":5}`},
		{"silence update s1 host=web2 --duration 2h", `PUT /v1/silences/s1 {"comment":"old","duration_s":7200,"matchers":["host=web2"],"starts_at":5}`},
		{"alert assign a1 a2 bob", `POST /v1/alerts/assign {"alerts":["a1","a2"],"comment":"","to":"bob"}`},
		{"alert assign --none a1", `POST /v1/alerts/assign {"alerts":["a1"],"comment":"","to":""}`},
		{"alert escalate a1", `POST /v1/alerts/escalate {"alerts":["a1"],"comment":""}`},
	} {
		asked = nil
		code, _, errs := run(t, strings.Fields(tt.args)...)
		if code != ExitOK || len(asked) != 1 || asked[0] != tt.want {
			t.Errorf("%s: code %d, %q, asked %q", tt.args, code, errs, asked)
		}
	}
	for _, args := range []string{"silence update s1", "silence update s2 --comment x", "alert assign a1"} {
		asked = nil
		if code, _, _ := run(t, strings.Fields(args)...); code == ExitOK || len(asked) != 0 {
			t.Errorf("%s: code %d, asked %q", args, code, asked)
		}
	}
}
