package systemtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// restoreCommand is a command of docs/backup.md: the machine's prompt, what is typed, perhaps a comment.
var restoreCommand = regexp.MustCompile(`(?m)^    (node1|spare[123])# +(.+?)(?: +# .*)?$`)

// backupSite is the machines of docs/backup.md: node1 with a host that sends, and three spare ones.
func backupSite(t *testing.T) *site {
	s := newSite(t, binaries(t, ""))
	for _, name := range []string{"spare1", "spare2", "spare3"} {
		s.machines[name] = s.newMachine(name)
	}
	return s
}

// digests are the sums of a node or of a manifest, in one order.
type digests []struct {
	Kind  string
	Day   int64
	Count uint64
	Sum   string
}

func (d digests) text() string {
	var lines []string
	for _, s := range d {
		lines = append(lines, fmt.Sprint(s.Kind, " ", s.Day, " ", s.Count, " ", s.Sum))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// exit runs a command that must end with the given exit code.
func (s *site) exit(ctx context.Context, m *machine, code int, text string) {
	s.t.Helper()
	out, err := s.run(ctx, m, text)
	got := 0
	var e *exec.ExitError
	if errors.As(err, &e) {
		got = e.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
	}
	if got != code {
		s.t.Errorf("%s# %s: exit %d, want %d: %s %v", m.name, text, got, code, out, err)
	}
}

// TestDocumentedBackup does what docs/backup.md says, command by command: a cluster that is written to is backed up and
// restored on other machines, where it ends with the digests of the manifest. Between, it tries what must be refused.
func TestDocumentedBackup(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	s := backupSite(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	s.found(ctx)
	done := map[string]int{}
	for _, c := range restoreCommand.FindAllStringSubmatch(string(doc), -1) {
		m, text := s.machines[c[1]], c[2]
		words := strings.Fields(text)
		done[strings.Join(words[:min(3, len(words))], " ")]++
		switch {
		case strings.HasPrefix(text, "triward snapshot keygen"):
			out, err := s.run(ctx, m, text)
			if err != nil {
				t.Fatal(err)
			}
			s.tokens["age1"] = strings.TrimSpace(out)
		case strings.HasPrefix(text, "triward snapshot restore"):
			s.refusals(ctx, m)
			s.restore(ctx, m, text)
		case text == "triward server":
			s.start(m, text)
			done["servers"]++
			if err := until(ctx, time.Minute, func(ctx context.Context) error { return s.status(ctx, m, done["servers"]) }); err != nil {
				t.Fatal(err)
			}
		default:
			if _, err := s.run(ctx, m, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if done["servers"] != 3 || done["triward snapshot save"] != 1 || done["triward snapshot schedule"] != 2 {
		t.Errorf("the document has %v", done)
	}
	for _, name := range []string{"spare1", "spare2", "spare3"} {
		if err := until(ctx, time.Minute, func(ctx context.Context) error { return s.status(ctx, s.machines[name], 3) }); err != nil {
			t.Error(err)
		}
	}
}

// found makes node1 a cluster that a host sends to.
func (s *site) found(ctx context.Context) {
	s.t.Helper()
	node, host := s.machines["node1"], s.machines["host"]
	step := func(_ string, err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	step(s.run(ctx, node, "triward cluster init"))
	s.start(node, "triward server")
	step("", until(ctx, time.Minute, func(ctx context.Context) error { return s.status(ctx, node, 1) }))
	step(s.run(ctx, node, "triward agents token create"))
	step(s.run(ctx, host, "TRIWARD_TOKEN=twa_... triward-agent enroll --url https://node1:8001"))
	s.start(host, "triward-agent run")
	step("", until(ctx, time.Minute, func(ctx context.Context) error {
		d, err := s.digests(ctx, node)
		if err == nil && len(d) == 0 {
			err = errors.New("nothing was sent yet")
		}
		return err
	}))
}

// digests asks a node for its digests.
func (s *site) digests(ctx context.Context, m *machine) (digests, error) {
	tlsDir := filepath.Join(s.dir, m.name, "data", "tls")
	token, err := os.ReadFile(filepath.Join(tlsDir, "cli-token"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(tlsDir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.http+"/v1/digest", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/v1/digest: %s", resp.Status)
	}
	var answer struct{ Sums digests }
	return answer.Sums, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer)
}

// stopLast ends what was started last.
func (s *site) stopLast() {
	s.t.Helper()
	last := len(s.running) - 1
	cmd := s.running[last]
	s.running = s.running[:last]
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		s.t.Errorf("the node did not end in good order: %v", err)
	}
}

// refusals tries on a machine what must be refused, and finds it as it was each time.
func (s *site) refusals(ctx context.Context, m *machine) {
	s.t.Helper()
	whole, err := os.ReadFile(filepath.Join(s.dir, "site.triward"))
	if err != nil {
		s.t.Fatal(err)
	}
	altered := bytes.Clone(whole)
	altered[len(altered)/2] ^= 0x10
	newer := bytes.Clone(whole)
	newer[8]++
	for name, body := range map[string][]byte{"cut": whole[:len(whole)-10], "altered": altered, "newer": newer, "foreign": []byte(strings.Repeat("no backup ", 100))} {
		if err := os.WriteFile(filepath.Join(s.dir, name), body, 0o600); err != nil {
			s.t.Fatal(err)
		}
		s.exit(ctx, m, 13, "triward snapshot restore "+name+" --identity backup.key")
	}
	if _, err := s.run(ctx, m, "triward snapshot keygen other.key"); err != nil {
		s.t.Fatal(err)
	}
	s.exit(ctx, m, 1, "triward snapshot restore site.triward --identity other.key")
	s.exit(ctx, m, 1, "triward snapshot restore site.triward")
	s.exit(ctx, m, 3, "triward snapshot verify site.triward")
	s.exit(ctx, m, 1, "triward snapshot verify site.triward --identity other.key")
	s.exit(ctx, m, 0, "triward snapshot restore site.triward --identity backup.key --verify-only")
	for _, entry := range []string{"meta/CURRENT", "raft", "setup.json", "RESTORE", "tls/node.pem"} {
		if _, err := os.Stat(filepath.Join(s.dir, m.name, "data", entry)); err == nil {
			s.t.Errorf("a refused restore left %s", entry)
		}
	}
}

// restore restores as documented and compares the digests of the node that is started then with the manifest.
func (s *site) restore(ctx context.Context, m *machine, text string) {
	s.t.Helper()
	out, err := s.run(ctx, m, text+" --deep -o json")
	if err != nil {
		s.t.Fatal(err)
	}
	var report struct {
		Manifest struct{ Digests digests }
		NewCA    bool `json:"new_ca"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		s.t.Fatal(err)
	}
	want := report.Manifest.Digests.text()
	if want == "" || report.NewCA {
		s.t.Errorf("restored %s", out)
	}
	s.start(m, "triward server")
	err = until(ctx, time.Minute, func(ctx context.Context) error {
		if err := s.status(ctx, m, 1); err != nil {
			return err
		}
		got, err := s.digests(ctx, m)
		if err == nil && got.text() != want {
			err = fmt.Errorf("digests are\n%s\nthe manifest says\n%s", got.text(), want)
		}
		return err
	})
	if err != nil {
		s.t.Error(err)
	}
	s.stopLast()
	s.exit(ctx, m, 1, "triward snapshot restore site.triward --identity backup.key") // it has data now
}
