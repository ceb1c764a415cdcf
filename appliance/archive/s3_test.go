package archive

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/backup/target/s3test"
)

// gateS3 is an S3 service behind a proxy that lets so many requests through and then cuts each off in its middle, or answers
// them as a service does whose bucket is full.
type gateS3 struct {
	left atomic.Int64
	full atomic.Bool
	*httptest.Server
}

func newGateS3(t *testing.T, service *s3test.Service) *gateS3 {
	t.Helper()
	to, err := url.Parse(service.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(service.CA)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }, // the host is signed
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, ServerName: "127.0.0.1"}},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	g := &gateS3{}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.left.Add(-1) >= 0 {
			proxy.ServeHTTP(w, r)
			return
		}
		if g.full.Load() && r.Method == http.MethodPut {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusInsufficientStorage)
			_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>XMinioStorageFull</Code><Message>Storage backend has reached its minimum free drive threshold.</Message></Error>`)
			return
		}
		if g.full.Load() {
			proxy.ServeHTTP(w, r)
			return
		}
		_, _ = io.CopyN(io.Discard, r.Body, 100)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			if c, ok := conn.(*net.TCPConn); ok {
				_ = c.SetLinger(0)
			}
			_ = conn.Close()
		}
	}))
	g.StartTLS()
	t.Cleanup(g.Close)
	return g
}

// TestArchiveInS3: whatever request the connection breaks at, and when the bucket is full or the keys are wrong, nothing is called
// archived; then the same names make the day whole.
func TestArchiveInS3(t *testing.T) {
	service := s3test.Start(t)
	c := newCorpus(t, 40)
	c.apply(1, testDay)
	want := c.lines(testDay)
	g := newGateS3(t, service)
	place := func(prefix, secret string) *target.S3 {
		t.Helper()
		s, err := target.NewS3(target.S3Config{
			URL: service.URL(prefix), Endpoint: g.URL, AccessKey: service.AccessKey, SecretKey: secret,
			CA: pemOf(g.Certificate()),
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plenty := func() { g.left.Store(1 << 40) }
	plenty()
	_, err := c.writer(place("wrong", "not the key")).Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay])
	if err == nil || !strings.Contains(err.Error(), "access key") {
		t.Fatalf("wrong keys: %v", err)
	}
	ended, failed := 0, 0
	for n := int64(1); n < 400; n += 3 {
		to := place("died", service.SecretKey)
		g.full.Store(n%2 == 0)
		g.left.Store(n)
		_, err := c.writer(to).Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay])
		plenty()
		names, lerr := Names(t.Context(), to, "")
		if lerr != nil {
			t.Fatal(lerr)
		}
		if err == nil {
			ended++
			break
		}
		failed++
		if len(names) != 0 && !errors.Is(err, target.ErrExists) {
			t.Logf("request %d: the day is named although the answer was lost: %v", n, err)
			break
		}
	}
	if t.Logf("%d attempts failed", failed); failed < 3 {
		t.Errorf("only %d attempts failed", failed)
	}
	if ended == 0 {
		if _, err := c.writer(place("died", service.SecretKey)).Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay]); err != nil {
			t.Fatal(err)
		}
	}
	w := c.writer(place("died", service.SecretKey))
	equal(t, "after all that", readDay(t, w.To, testDay, w.Tag), want)
	if _, err := w.Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay]); err != nil && !errors.Is(err, ErrTaken) {
		t.Fatal(err)
	}
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
