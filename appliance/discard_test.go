package appliance

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What a removed node leaves of itself when its data is discarded: nothing but what is not its own.
func TestDiscardLeavesNothingOfARemovedNode(t *testing.T) {
	dir := t.TempDir()
	cfg := DefaultConfig()
	cfg.DataDir, cfg.TLS.Dir, cfg.Backup.Dir = dir, filepath.Join(dir, "tls"), filepath.Join(dir, "kept", "backups")
	for _, name := range []string{
		removedMark, "MEMBERS", "damage.json", "REPAIR_FROM", "scrub.json", "raft/0001.wal", "raft/lost+found/x", "raft-aside/old.wal", "queue/syslog/1",
		"tls/recovery.json", "tls/web.pem", "kept/backups/a", "lost+found/y", "meta/CURRENT",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := cfg.DiscardRemoved(); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			left = append(left, rel)
		}
		return err
	})
	want := []string{"LOCK", "kept/backups/a", "lost+found/y", "raft/lost+found/x", "tls/web.pem"}
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left is %v, want %v; %v", left, want, err)
	}
}
