package appliance

import (
	"os"
	"path/filepath"
	"testing"
)

// What lies on another disk takes nothing of this one.
func TestFileSumIsOfOneDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	files := newFileSum(dir)
	if n := files.add(dir); n < 64<<10 || !files.lies(dir) {
		t.Errorf("%d bytes here", n)
	}
	if n := files.add(dir); n != 0 {
		t.Errorf("%d bytes twice", n)
	}
	other := newFileSum(dir)
	other.disk++
	if n := other.add(dir); n != 0 || other.lies(dir) {
		t.Errorf("%d bytes of another disk", n)
	}
}
