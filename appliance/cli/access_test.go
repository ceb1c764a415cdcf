package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// asked is what a command asked of the cluster.
type asked struct{ method, path, body string }

// listener answers every request with the answer and notes it.
func listener(t *testing.T, answer string) (*httptest.Server, *[]asked) {
	t.Helper()
	var all []asked
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		all = append(all, asked{r.Method, r.URL.RequestURI(), string(body)})
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	return s, &all
}

// Passwords come from standard input and stand in no argument; what is asked is what the command says.
func TestUserCommands(t *testing.T) {
	alone(t)
	const link = `{"link":"https://n1/setup#tws_x","user":"ada","role":"viewer","expires":5}`
	for _, c := range []struct {
		args, in, answer string
		want             asked
		out              string
	}{
		{"user create ada --role operator", "secret word\nrest", "", asked{"POST", "/v1/users", `{"name":"ada","password":"secret word","role":"operator"}`}, "ada is operator"},
		{"user password ada", "secret word\r\n", "", asked{"PATCH", "/v1/users/ada", `{"password":"secret word"}`}, "another password"},
		{"user role ada viewer", "", "", asked{"PATCH", "/v1/users/ada", `{"role":"viewer"}`}, "is viewer"},
		{"user disable a/b", "", "", asked{"PATCH", "/v1/users/a%2Fb", `{"disabled":true}`}, "disabled"},
		{"user enable ada", "", "", asked{"PATCH", "/v1/users/ada", `{"disabled":false}`}, "again"},
		{"user delete ada", "", "", asked{"DELETE", "/v1/users/ada", ""}, "gone"},
		{"user invite ada --role viewer --ttl 1h", "", link, asked{"POST", "/v1/users/ada/invite", `{"life_s":3600,"role":"viewer"}`}, "https://n1/setup#tws_x"},
		{"session end --user ada", "", `{"ended":3}`, asked{"DELETE", "/v1/users/ada/sessions", ""}, "3 session(s)"},
		{"session end 0123456789abcdef", "", "", asked{"DELETE", "/v1/sessions/0123456789abcdef", ""}, "1 session(s)"},
		{"session list --user ada", "", `{"sessions":[{"id":"s1","user":"ada","address":"192.0.2.1"}]}`, asked{"GET", "/v1/sessions?user=ada", ""}, "192.0.2.1"},
		{"token create ci --role ingest --ttl 24h", "", `{"token":"twt_x","id":"1","role":"ingest"}`, asked{"POST", "/v1/tokens/api", `{"life_s":86400,"name":"ci","role":"ingest"}`}, "twt_x"},
		{"token revoke 01", "", "", asked{"DELETE", "/v1/tokens/api/01", ""}, "revoked"},
		{"user list", "", `{"users":[{"name":"ada","role":"viewer","no_password":true}]}`, asked{"GET", "/v1/users", ""}, "link expired"},
		{"role list", "", `{"roles":[{"role":"ingest","permissions":["public","ingest"]}]}`, asked{"GET", "/v1/roles", ""}, "send data"},
	} {
		s, all := listener(t, c.answer)
		var out, errs bytes.Buffer
		code := Main(append(strings.Fields(c.args), "--addr", s.URL), strings.NewReader(c.in), &out, &errs)
		if code != ExitOK || len(*all) != 1 || (*all)[0] != c.want || !strings.Contains(out.String(), c.out) {
			t.Errorf("%s: %d asked %+v\n%s%s", c.args, code, *all, out.String(), errs.String())
		}
		if c.in != "" && strings.Contains(out.String()+errs.String(), "secret word") {
			t.Errorf("%s prints the password", c.args)
		}
	}
	for args, want := range map[string]string{
		"user create ada":                               "standard input is empty",
		"session end":                                   "name one session",
		"session end x --user y":                        "name one session",
		"audit query --limit 0":                         "--limit 0",
		"audit verify --expect x":                       "NUMBER:HASH",
		"cluster init --user a/b":                       "user name",
		"cluster init --link-ttl 1s":                    "--link-ttl 1s",
		"cluster init --password --password-stdin":      "none of the others can be",
		"cluster init --password-stdin":                 "standard input is empty",
		"audit verify " + os.DevNull:                    "neither an export",
		"audit verify " + t.TempDir():                   "is a directory",
		"audit verify " + t.TempDir() + "/there-is-not": "no such file",
	} {
		if code, _, errs := run(t, strings.Fields(args)...); code == ExitOK || !strings.Contains(errs, want) {
			t.Errorf("%s: %d %s", args, code, errs)
		}
	}
}

// An init leaves the set-up link's hash for the first start, and the secret nowhere.
func TestInitPrintsALinkOrTakesAPassword(t *testing.T) {
	for name, c := range map[string]struct {
		args       []string
		in         string
		line, none string
	}{
		"link":     {nil, "", "link      https://", "password  "},
		"password": {[]string{"--password"}, "", "password  ", "link  "},
		"given":    {[]string{"--password-stdin"}, "a password that is given\n", "recovery  AGE-SECRET-KEY-", "a password that is given"},
	} {
		dir := alone(t)
		config := filepath.Join(dir, "triward.yaml")
		text := fmt.Sprintf("node_id: n1\ndata_dir: %s/data\ntls: {dir: %s/tls}\n", dir, dir)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		if code := Main(append([]string{"cluster", "init", "--config", config}, c.args...), strings.NewReader(c.in), &out, &errs); code != ExitOK {
			t.Fatalf("%s: %d %s", name, code, errs.String())
		}
		if !strings.Contains(out.String(), c.line) || strings.Contains(out.String()+errs.String(), c.none) {
			t.Errorf("%s: %s", name, out.String())
		}
		body, err := os.ReadFile(filepath.Join(dir, "data", "setup.json"))
		if err != nil {
			t.Fatal(err)
		}
		var setup struct{ User, Password, Invite string }
		if err := json.Unmarshal(body, &setup); err != nil || setup.User != "admin" || (setup.Password == "") != (name == "link") || (setup.Invite == "") == (name == "link") {
			t.Errorf("%s: %s %v", name, body, err)
		}
		if _, secret, ok := strings.Cut(out.String(), "/setup#"); name == "link" && (!ok || strings.Contains(string(body), strings.Fields(secret)[0])) {
			t.Errorf("the set-up link is in %s", body)
		}
		if name == "given" && setup.Password != "a password that is given" {
			t.Errorf("password %q", setup.Password)
		}
	}
}
