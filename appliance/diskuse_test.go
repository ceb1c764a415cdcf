package appliance

import (
	"os"
	"path/filepath"
	"testing"
)

// What lies on another disk takes nothing of this one.
func TestFileSumIsOfOneDisk(t *testing.T) {
	here := t.TempDir()
	there, err := os.MkdirTemp("/dev/shm", "triward")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(there)
	if diskOf(here) == diskOf(there) {
		t.Skip("there is only one disk")
	}
	for _, dir := range []string{here, there} {
		if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := newFileSum(here)
	if n := files.add(there); n != 0 || files.lies(there) {
		t.Errorf("%d bytes of another disk", n)
	}
	if n := files.add(here); n < 64<<10 || !files.lies(here) {
		t.Errorf("%d bytes here", n)
	}
	if n := files.add(here); n != 0 {
		t.Errorf("%d bytes twice", n)
	}
}
