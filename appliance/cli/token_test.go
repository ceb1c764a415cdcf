package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// The first token of a new cluster is made with the first administrator's password, given in whatever way.
func TestTokenCreate(t *testing.T) {
	alone(t)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/login", func(w http.ResponseWriter, r *http.Request) {
		var b struct{ User, Password string }
		if json.NewDecoder(r.Body).Decode(&b) != nil || b.User != "admin" || b.Password != "open sesame" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "s", Value: "1"})
	})
	mux.HandleFunc("POST /v1/tokens/api", func(w http.ResponseWriter, r *http.Request) {
		var b struct {
			Name, Role string
			Life       int64 `json:"life_s"`
		}
		if k, err := r.Cookie("s"); err != nil || k.Value != "1" || json.NewDecoder(r.Body).Decode(&b) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":"%s/%s/%d"}`, b.Name, b.Role, b.Life)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	for _, tt := range []struct {
		env, in, more string
		code          int
		out, errs     string
	}{
		{in: "open sesame\nmore", code: ExitOK, out: "first/administrator/0\n"},
		{in: "open sesame", more: "--role=viewer --life=1h", code: ExitOK, out: "first/viewer/3600\n"},
		{env: "open sesame", code: ExitOK, out: "first/administrator/0\n"},
		{in: "wrong\n", code: ExitFailed, errs: "log in"},
		{code: ExitFailed, errs: "no password"},
	} {
		t.Setenv("TRIWARD_PASSWORD", tt.env)
		args := append([]string{"token", "create", "first", "--addr", s.URL, "--user", "admin"}, strings.Fields(tt.more)...)
		var o, e bytes.Buffer
		code := Main(args, strings.NewReader(tt.in), &o, &e)
		if code != tt.code || o.String() != tt.out || !strings.Contains(e.String(), tt.errs) || strings.Contains(e.String(), "sesame") {
			t.Errorf("%+v: code %d, %q, %q", tt, code, o.String(), e.String())
		}
	}
}

// What init prints as the next step fits how the node was set up.
func TestInitSaysHowToStart(t *testing.T) {
	dir := alone(t)
	config := filepath.Join(dir, "n.yaml")
	write(t, config, fmt.Sprintf("node_id: n1\ndata_dir: %s\n", filepath.Join(dir, "data")))
	if err := run1(t, "server", "--initialised", "--config", config); err != ExitNotInitialised {
		t.Errorf("before: %d", err)
	}
	code, out, errs := run(t, "cluster", "init", "--config", config)
	if code != ExitOK || !strings.Contains(out, "password") || !strings.Contains(errs, "triward server --config "+config) {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if err := run1(t, "server", "--initialised", "--config", config); err != ExitOK {
		t.Errorf("after: %d", err)
	}
	if !strings.Contains(startHint(defaultConfig), "systemctl start triward") {
		t.Error("the package's node is not started by systemd")
	}
}

func run1(t *testing.T, args ...string) int {
	t.Helper()
	code, _, _ := run(t, args...)
	return code
}
