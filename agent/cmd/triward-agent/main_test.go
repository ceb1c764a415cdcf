package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/triward/triward/agent/spool"
)

// call runs a command as main does and returns its exit code and output.
func call(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	cmd := command(&out, &out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	if err != nil {
		out.WriteString(err.Error())
	}
	return exitCode(err, false), out.String()
}

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	for path, text := range map[string]string{good: "data_dir: " + dir + "\nmetrics: {exclude: ['node_scrape_.*']}\n", bad: "perod: 1\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sp, err := spool.Open(filepath.Join(dir, "spool"), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"version", exitOK, "triward-agent dev"},
		{"check-config -c " + good, exitOK, "is good"},
		{"check-config -c " + bad, exitConfig, "line 1"},
		{"check-config -c " + bad + "x", exitConfig, "no such file"},
		{"run -c " + good, exitNotRegistered, "enroll"},
		{"run --registered -c " + good, exitNotRegistered, "enroll"},
		{"run --registered -c " + bad, exitOK, ""},
		{"enroll -c " + good + " --url http://far:1 --token x", exitConfig, "https"},
		{"enroll -c " + good + " --url https://127.0.0.1:1", exitConfig, "--token"},
		{"enroll -c " + good + " --url https://127.0.0.1:1 --token x", exitConfig, "--ca-sha256"},
		{"enroll -c " + good + " --url https://127.0.0.1:1 --token x.y", exitConfig, "64 hexadecimal"},
		{"enroll -c " + good + " --url https://127.0.0.1:1 --token x --ca-sha256 " + strings.Repeat("a", 64), exitFailed, "127.0.0.1:1"},
		{"spool -c " + good, exitLocked, "triward-agent status"},
		{"test -c " + good, exitOK, "node_cpu_seconds_total"},
		{"nonsense", exitFailed, "unknown command"},
	} {
		code, out := call(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit %d, says %.300q; want %d, %q", c.args, code, out, c.code, c.says)
		}
	}
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	if code, out := call(t, "spool", "-c", good); code != exitOK || !strings.Contains(out, "metrics") {
		t.Errorf("spool: exit %d, %q", code, out)
	}
}
