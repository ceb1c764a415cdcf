package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// What init prints as the next step fits how the node was set up.
func TestInitSaysHowToStart(t *testing.T) {
	dir := alone(t)
	config := filepath.Join(dir, "n.yaml")
	write(t, config, fmt.Sprintf("node_id: n1\ndata_dir: %s\n", filepath.Join(dir, "data")))
	if err := run1(t, "server", "--initialised", "--config", config); err != ExitNotInitialised {
		t.Errorf("before: %d", err)
	}
	code, out, errs := run(t, "cluster", "init", "--config", config)
	if code != ExitOK || !strings.Contains(out, "link ") || !strings.Contains(errs, "triward server --config "+config) {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if err := run1(t, "server", "--initialised", "--config", config); err != ExitOK {
		t.Errorf("after: %d", err)
	}
	t.Setenv("TRIWARD_CONFIG", "")
	for _, tt := range []struct{ unit, want string }{{"triward.service", "systemctl start triward"}, {"other.service", "triward server"}} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, tt.unit), "")
		was := unitDirs
		unitDirs = []string{dir}
		if got := startCommand(defaultConfig); got != tt.want {
			t.Errorf("with %s: %q, want %q", tt.unit, got, tt.want)
		}
		unitDirs = was
	}
}

func run1(t *testing.T, args ...string) int {
	t.Helper()
	code, _, _ := run(t, args...)
	return code
}
