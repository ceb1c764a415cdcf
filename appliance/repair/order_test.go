package repair

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An order in a file does not turn up for a damage of weeks later.
func TestOrderInAFileEnds(t *testing.T) {
	dir := t.TempDir()
	if err := WriteOrder(dir, "n3"); err != nil {
		t.Fatal(err)
	}
	if from, err := readOrder(dir); err != nil || from != "n3" {
		t.Errorf("%q, %v", from, err)
	}
	old := time.Now().Add(-orderLasts - time.Minute)
	if err := os.Chtimes(filepath.Join(dir, orderFile), old, old); err != nil {
		t.Fatal(err)
	}
	if from, err := readOrder(dir); err != nil || from != "" {
		t.Errorf("after a day: %q, %v", from, err)
	}
}
