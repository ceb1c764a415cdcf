package tsdb

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The ballast takes real room of the disk, goes when there is less than it, and comes back when there is plenty.
func TestBallast(t *testing.T) {
	root := t.TempDir()
	b := newBallast(filepath.Join(root, "gen-000001"), 4<<20)
	there := func() bool {
		var st unix.Stat_t
		err := unix.Stat(filepath.Join(root, ballastName), &st)
		if err == nil && st.Blocks*512 < 1<<20 {
			t.Errorf("it takes %d bytes of the disk", st.Blocks*512)
		}
		return err == nil
	}
	for _, step := range []struct {
		free uint64
		want bool
	}{{6 << 20, false}, {64 << 20, true}, {2 << 20, true}, {1<<20 - 1, false}, {0, false}, {4 << 20, false}, {64 << 20, true}} {
		if err := b.adjust(step.free); err != nil {
			t.Fatal(err)
		}
		if got := there(); got != step.want {
			t.Errorf("with %d bytes free it is there: %v", step.free, got)
		}
	}
	if err := os.Chmod(root, 0o500); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Chmod(root, 0o700) }()
	if err := b.adjust(0); err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}
