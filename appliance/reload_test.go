package appliance_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/internal/testcluster"
	"github.com/triward/triward/appliance/pki"
)

// lockedBuffer takes what several goroutines log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// writePair makes a certificate by a CA of its own under the names that a site's listener has.
func writePair(t *testing.T, cert, key, name string) {
	t.Helper()
	ca, err := pki.NewCA(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, k, err := ca.Issue(name, []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string][]byte{cert: c, key: k} {
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func shownBy(t *testing.T, address string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// SIGHUP brings in a renewed certificate and a log level, tells systemd, names what must wait, and changes nothing
// when the new configuration is no good.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	n.Stop(t)
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cfg := n.Config
	cfg.Listen.HTTP.TLS.Cert, cfg.Listen.HTTP.TLS.Key = cert, key
	writePair(t, cert, key, "first")
	var logged lockedBuffer
	level := new(slog.LevelVar)
	app, err := appliance.New(cfg, appliance.Options{Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: level})), Level: level})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := app.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	if got := shownBy(t, cfg.Listen.HTTP.Address); got != "first" {
		t.Fatalf("the listener shows %q", got)
	}

	t.Setenv("NOTIFY_SOCKET", sock.LocalAddr().String())
	reload := func(next appliance.Config, problem error) error {
		err := app.Reload(func() (appliance.Config, error) { return next, problem })
		for _, want := range []string{"RELOADING=1\nMONOTONIC_USEC=", "READY=1"} {
			buf := make([]byte, 256)
			if err := sock.SetReadDeadline(time.Now().Add(testcluster.Patience)); err != nil {
				t.Fatal(err)
			}
			k, err := sock.Read(buf)
			if err != nil || !strings.HasPrefix(string(buf[:k]), want) {
				t.Errorf("systemd is told %q (%v), want %q", buf[:k], err, want)
			}
		}
		return err
	}
	writePair(t, cert, key, "second")
	next := cfg
	next.Log.Level = "debug"
	next.Metrics.Retention++
	next.Listen.HTTP.TLS.MinVersion = "1.3"
	if err := reload(next, nil); err != nil {
		t.Fatal(err)
	}
	if got := shownBy(t, cfg.Listen.HTTP.Address); got != "second" || level.Level() != slog.LevelDebug {
		t.Errorf("after a reload the listener shows %q, the level is %s", got, level)
	}
	if text := logged.String(); !strings.Contains(text, "listen.http.tls.min_version metrics.retention") {
		t.Errorf("what must wait is not named:\n%s", text)
	}

	writePair(t, cert, key, "third")
	if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	next.Log.Level = "error"
	if err := reload(next, nil); err == nil || !strings.Contains(err.Error(), "listen.http.tls") {
		t.Errorf("a broken key: %v", err)
	}
	broken := errors.New("broken file")
	if err := reload(next, broken); !errors.Is(err, broken) {
		t.Errorf("a broken file: %v", err)
	}
	if got := shownBy(t, cfg.Listen.HTTP.Address); got != "second" || level.Level() != slog.LevelDebug {
		t.Errorf("after a failed reload the listener shows %q, the level is %s", got, level)
	}

	next = cfg
	next.Listen.HTTP.TLS.Cert, next.Listen.HTTP.TLS.Key = "", ""
	if err := reload(next, nil); err != nil {
		t.Fatal(err)
	}
	if got := shownBy(t, cfg.Listen.HTTP.Address); got != cfg.NodeID {
		t.Errorf("without files the listener shows %q, want the node's own", got)
	}
}
