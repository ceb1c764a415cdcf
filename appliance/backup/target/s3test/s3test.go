// Package s3test runs an S3 service for tests: versitygw, built from its module (packaging/s3.mod), as a process of
// its own over a folder of the test. Tests import it and nothing else does.
package s3test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/triward/triward/appliance/pki"
)

// Bucket is the bucket that a Service has.
const Bucket = "backups"

// Service is a running S3 service.
type Service struct {
	Endpoint             string // https://127.0.0.1:port
	CA                   []byte // PEM
	CAFile               string
	AccessKey, SecretKey string
	Dir                  string // of the objects: Dir/Bucket/key

	cmd *exec.Cmd
}

// patience is how long the service may take to answer on a busy machine.
const patience = time.Minute

// Start runs a service with one empty bucket until the test ends.
func Start(t testing.TB) *Service {
	t.Helper()
	program := binary(t)
	dir := t.TempDir()
	ca, err := pki.NewCA("s3test", time.Now())
	must(t, err)
	cert, key, err := ca.Issue("s3", []string{"127.0.0.1", "localhost"}, time.Now())
	must(t, err)
	s := &Service{
		CA: ca.CertPEM(), CAFile: filepath.Join(dir, "ca.pem"), AccessKey: "testaccess", SecretKey: "testsecretkey", Dir: filepath.Join(dir, "objects"),
	}
	must(t, os.MkdirAll(filepath.Join(s.Dir, Bucket), 0o700))
	must(t, os.WriteFile(s.CAFile, s.CA, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	s.Endpoint = "https://" + address
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	s.cmd = exec.Command(program, "--access", s.AccessKey, "--secret", s.SecretKey, "--port", address, "--quiet",
		"--cert", filepath.Join(dir, "cert.pem"), "--key", filepath.Join(dir, "key.pem"), "--iam-dir", dir,
		"posix", "--sidecar", side(t, dir), s.Dir)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the process would get its signal when the thread that started it ends
	must(t, s.cmd.Start())
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if t.Failed() {
			if said, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("the S3 service said:\n%s", said[max(0, len(said)-2000):])
			}
		}
		_ = log.Close()
		runtime.UnlockOSThread()
	})
	s.wait(t)
	return s
}

// side is where the service keeps attributes: not every file system has extended ones.
func side(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "attributes")
	must(t, os.MkdirAll(path, 0o700))
	return path
}

// Stop ends the service; it answers nobody any more.
func (s *Service) Stop() { _ = s.cmd.Process.Kill() }

func (s *Service) wait(t testing.TB) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/", nil)
		must(t, err)
		resp, err := client.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the S3 service does not answer: %v", err)
		}
	}
}

// binary returns the service's program: TRIWARD_VERSITYGW, which make builds, or built here.
func binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("TRIWARD_VERSITYGW"); path != "" {
		return path
	}
	_, self, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(self), "..", "..", "..", "..")
	out := filepath.Join(t.TempDir(), "versitygw")
	cmd := exec.Command("go", "build", "-modfile=packaging/s3.mod", "-o", out, "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = root
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the S3 service for tests: %v\n%s", err, said)
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Object is the file in which the service keeps an object of the bucket.
func (s *Service) Object(key string) string {
	return filepath.Join(s.Dir, Bucket, filepath.FromSlash(key))
}

// URL is the address of a prefix in the bucket.
func (s *Service) URL(prefix string) string { return fmt.Sprintf("s3://%s/%s", Bucket, prefix) }
