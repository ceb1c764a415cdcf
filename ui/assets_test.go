package ui

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func get(h http.Handler, method, path, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "https://node1:8443"+path, nil)
	r.Header.Set("Accept-Encoding", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAssets(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	a := &Assets{files: fstest.MapFS{
		"index.html": file("page"), "assets/index-BzX81aQp.js": file("code"),
		"assets/index-BzX81aQp.js.gz": file("gz"), "assets/index-BzX81aQp.js.br": file("br"), "favicon.svg": file("<svg>"),
		".vite/manifest.json": file("secret"), "plain.css": file("css"),
	}}
	if !a.Built() {
		t.Fatal("not built")
	}
	const (
		forever = "public, max-age=31536000, immutable"
		missing = `{"type":"about:blank","title":"Not Found","status":404,"detail":"the page has no such file"}` + "\n"
		unread  = `{"type":"about:blank","title":"Method Not Allowed","status":405,"detail":"the page is only read, with GET or HEAD"}` + "\n"
	)
	for _, c := range []struct {
		method, path, accept      string
		code                      int
		body, kind, cache, coding string
	}{
		{"GET", "/", "", 200, "page", "text/html; charset=utf-8", "no-cache", ""},
		{"GET", "/hosts/a1/logs", "", 200, "page", "text/html; charset=utf-8", "no-cache", ""},
		{"GET", "/index.html", "gzip", 200, "page", "text/html; charset=utf-8", "no-cache", ""},
		{"HEAD", "/", "", 200, "", "text/html; charset=utf-8", "no-cache", ""},
		{"GET", "/assets/index-BzX81aQp.js", "", 200, "code", "text/javascript; charset=utf-8", forever, ""},
		{"GET", "/assets/index-BzX81aQp.js", "gzip", 200, "gz", "text/javascript; charset=utf-8", forever, "gzip"},
		{"GET", "/assets/index-BzX81aQp.js", "gzip, br", 200, "br", "text/javascript; charset=utf-8", forever, "br"},
		{"GET", "/assets/index-BzX81aQp.js", "br;q=0, gzip;q=0.5", 200, "gz", "text/javascript; charset=utf-8", forever, "gzip"},
		{"GET", "/favicon.svg", "", 200, "<svg>", "image/svg+xml", "no-cache", ""},
		{"GET", "/assets/missing-BzX81aQp.js", "", 404, missing, "application/problem+json", "no-store", ""},
		{"GET", "/.vite/manifest.json", "", 404, missing, "application/problem+json", "no-store", ""},
		{"GET", "/../../etc/passwd.js", "", 404, missing, "application/problem+json", "no-store", ""},
		{"POST", "/", "", 405, unread, "application/problem+json", "no-store", ""},
	} {
		w := get(a, c.method, c.path, c.accept)
		h := w.Header()
		if w.Code != c.code || w.Body.String() != c.body || h.Get("Content-Type") != c.kind || h.Get("Cache-Control") != c.cache ||
			h.Get("Content-Encoding") != c.coding {
			t.Errorf("%s %s %q: %d %q %v", c.method, c.path, c.accept, w.Code, w.Body, h)
		}
		if !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") || h.Get("X-Content-Type-Options") != "nosniff" ||
			h.Get("Referrer-Policy") == "" {
			t.Errorf("%s: headers %v", c.path, h)
		}
	}
}

func TestPageThatIsNotBuiltSaysSo(t *testing.T) {
	a := &Assets{files: fstest.MapFS{".gitkeep": &fstest.MapFile{}}}
	if w := get(a, "GET", "/hosts", ""); a.Built() || w.Code != 200 || !strings.Contains(w.Body.String(), "make build") {
		t.Fatal(w.Code, w.Body)
	}
	if w := get(a, "GET", "/.gitkeep", ""); w.Code != 404 {
		t.Fatal(w.Code)
	}
	NewAssets() // whatever was embedded
}
