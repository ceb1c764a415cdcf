//go:build unix

package owner

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

const actor = "TRIWARD_TEST_OWNER_DIR"

// TestMain lets this program be the command that becomes somebody: that cannot be undone.
func TestMain(m *testing.M) {
	dir := os.Getenv(actor)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := Become(dir, "nobody"); err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "made"), nil, 0o600); err != nil {
		panic(err)
	}
}

func act(t *testing.T, dir string) (uid uint32) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), actor+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return uidOf(t, filepath.Join(dir, "made"))
}

func uidOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// What a command makes belongs to the owner of the directory, when root runs it too.
func TestFilesBelongToTheOwner(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	own := uint32(os.Geteuid())
	if got := act(t, dir); got != own {
		t.Errorf("in one's own directory it belongs to %d, want %d", got, own)
	}
	missing := filepath.Join(dir, "a", "b")
	if own != 0 { // only root has something to give away
		if err := os.MkdirAll(missing, 0o700); err != nil {
			t.Fatal(err)
		}
		if got := act(t, missing); got != own {
			t.Errorf("it belongs to %d, want %d", got, own)
		}
		return
	}
	other := filepath.Join(dir, "other")
	const uid = 54321 // nobody of this machine
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(other, uid, uid); err != nil {
		t.Fatal(err)
	}
	if got := act(t, other); got != uid {
		t.Errorf("it belongs to %d, want %d", got, uid)
	}
	if got := act(t, missing); got == 0 || got != uidOf(t, missing) {
		t.Errorf("a directory that was missing is for the service: it belongs to %d, the file in it to %d", uidOf(t, missing), got)
	}
}
