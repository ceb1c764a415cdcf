package ui

import (
	"embed"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// The page as `make build` leaves it; only .gitkeep before that.
//
//go:embed all:web/dist
var dist embed.FS

// contentSecurityPolicy lets the page load and talk to nothing but its own origin; members are reached by
// navigation. Styles set on elements (charts) need 'unsafe-inline' in style attributes only.
const contentSecurityPolicy = "default-src 'self'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; " +
	"img-src 'self' data:; font-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; " +
	"frame-ancestors 'none'"

// SecurityHeaders sets the headers that every answer to a browser carries.
func SecurityHeaders(h http.Header) {
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()")
}

// hashedName recognises the assets whose name changes with their content.
var hashedName = regexp.MustCompile(`^assets/.+-[A-Za-z0-9_-]{8,}\.[a-z0-9]+$`)

const notBuilt = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Triward</title>
<h1>The page is not part of this binary</h1>
<p>The node is running and its HTTP API answers. To have the page too, build with <code>make build</code>.</p>
`

// Assets serves the embedded page: its files, and the page itself for every path of the application (those without
// an extension), since which view is shown is a matter of the URL.
type Assets struct{ files fs.FS }

// NewAssets serves what was embedded when the binary was built.
func NewAssets() *Assets {
	files, err := fs.Sub(dist, "web/dist")
	if err != nil {
		panic(fmt.Sprintf("ui: embedded page: %v", err)) // the directory is part of the binary
	}
	return &Assets{files: files}
}

// Built reports whether the page is part of the binary.
func (a *Assets) Built() bool {
	_, err := fs.Stat(a.files, "index.html")
	return err == nil
}

// ServeHTTP answers GET and HEAD.
func (a *Assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	SecurityHeaders(w.Header())
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "the page is only read, with GET or HEAD")
		return
	}
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	if !strings.HasPrefix(name, "assets/") && !namesFile(name) {
		name = "index.html" // a page of ours: its router knows what the path means
	}
	hidden := strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
	data, encoding, err := a.read(name, r.Header.Get("Accept-Encoding"))
	if hidden || err != nil {
		if name == "index.html" {
			a.send(w, r, "index.html", "", []byte(notBuilt))
			return
		}
		refuse(w, http.StatusNotFound, "the page has no such file")
		return
	}
	a.send(w, r, name, encoding, data)
}

// namesFile tells a file from a page whose last part has a dot in it, such as the name of a host.
func namesFile(name string) bool {
	switch path.Ext(name) {
	case ".html", ".js", ".css", ".svg", ".woff2", ".png", ".ico", ".map", ".json", ".txt", ".xml", ".php", ".env":
		return true
	}
	return strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
}

// read returns the file, compressed beforehand when the build left such a one and the client takes it.
func (a *Assets) read(name, accept string) (data []byte, encoding string, err error) {
	for _, c := range [...]struct{ encoding, ext string }{{"br", ".br"}, {"gzip", ".gz"}} {
		if !accepts(accept, c.encoding) {
			continue
		}
		if data, err := fs.ReadFile(a.files, name+c.ext); err == nil {
			return data, c.encoding, nil
		}
	}
	data, err = fs.ReadFile(a.files, name)
	return data, "", err
}

// accepts reads the header Accept-Encoding as far as files compressed beforehand need it.
func accepts(header, encoding string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), encoding) {
			q := strings.ReplaceAll(params, " ", "")
			return q != "q=0" && q != "q=0.0"
		}
	}
	return false
}

func (a *Assets) send(w http.ResponseWriter, r *http.Request, name, encoding string, data []byte) {
	h := w.Header()
	kind := mime.TypeByExtension(path.Ext(name))
	switch path.Ext(name) { // not left to the machine's own table
	case ".html":
		kind = "text/html; charset=utf-8"
	case ".js":
		kind = "text/javascript; charset=utf-8"
	case ".css":
		kind = "text/css; charset=utf-8"
	case ".svg":
		kind = "image/svg+xml"
	case ".woff2":
		kind = "font/woff2"
	}
	if kind == "" {
		kind = "application/octet-stream"
	}
	h.Set("Content-Type", kind)
	h.Set("Vary", "Accept-Encoding")
	if encoding != "" {
		h.Set("Content-Encoding", encoding)
	}
	if hashedName.MatchString(name) {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	if r.Method == http.MethodHead {
		return
	}
	_, _ = w.Write(data) // the client is gone: nobody is left to tell
}
