package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// restoreRows are those of a cluster that is lost with all its machines.
func restoreRows() []faultRow {
	return []faultRow{{
		name: "restore", fault: "all nodes are lost, and their backup is restored as a fresh cluster; before that with a wrong key, none, cut, altered, foreign and of another format",
		needs: []need{needOwn}, weight: 35 * time.Second, run: func(ctx context.Context, tr *trial) error { return tr.restoreCluster(ctx) },
	}}
}

// damagedBackup is one that must be refused.
type damagedBackup struct {
	what string
	body []byte
	key  string // file of the private key; "" for none
}

// restoreCluster saves what senders sent, loses the cluster, and restores it on machines that have nothing.
func (tr *trial) restoreCluster(ctx context.Context) error {
	quiet := func(_ int, c map[string]any) { c["self_monitoring"] = false } // so that a restored node still has the backup's digests
	p := plan{config: quiet}
	if err := tr.found(ctx, p); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	if err := tr.progress(ctx, 100+tr.rng.IntN(100)); err != nil {
		return err
	}
	tr.traffic.end()
	file, key, err := tr.saveAll(ctx)
	if err != nil {
		return err
	}
	for i := range tr.c.Nodes {
		if err := tr.c.kill(&tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	tr.faulted(1)
	old := len(tr.c.Nodes)
	for i := range old {
		if err := tr.newNode(ctx, old+i, &p); err != nil {
			return err
		}
	}
	tr.c.Nodes = slices.Clone(tr.c.Nodes[old:])
	n := &tr.c.Nodes[0]
	if err := tr.refusedBackups(ctx, n, file, key); err != nil {
		return err
	}
	begin := time.Now()
	if err := tr.restoreOn(ctx, n, file, key); err != nil {
		return err
	}
	tr.recovered(time.Since(begin))
	for i := 1; i < old; i++ {
		if err := tr.join(ctx, &tr.c.Nodes[i]); err != nil {
			return fmt.Errorf("join %s: %w", tr.c.Nodes[i].ID, err)
		}
	}
	if err := until(ctx, 2*time.Minute, func(ctx context.Context) error { return tr.voters(ctx, old) }); err != nil {
		return err
	}
	tr.note("three nodes again %v after the restore began", time.Since(begin).Round(100*time.Millisecond))
	return tr.compare(ctx)
}

// saveAll makes a backup at any node and returns its file and that of the key which opens it.
func (tr *trial) saveAll(ctx context.Context) (file, key string, err error) {
	n := &tr.c.Nodes[tr.rng.IntN(len(tr.c.Nodes))]
	file, key = filepath.Join(tr.dir, "site.triward"), filepath.Join(tr.dir, "backup.key")
	out, err := tr.c.cli(ctx, n, "snapshot", "keygen", key)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w: %s", err, out)
	}
	recipient := strings.TrimSpace(out)
	recipient = recipient[max(0, strings.Index(recipient, "age1")):]
	if out, err = tr.c.cli(ctx, n, "snapshot", "save", file, "--recipient", strings.Fields(recipient)[0]); err != nil {
		return "", "", fmt.Errorf("save: %w: %s", err, out)
	}
	return file, key, nil
}

// refusedBackups tries what must be refused, and finds the machine as it was each time.
func (tr *trial) refusedBackups(ctx context.Context, n *devNode, file, key string) error {
	whole, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	other := filepath.Join(tr.dir, "other.key")
	if out, err := tr.c.cli(ctx, n, "snapshot", "keygen", other); err != nil {
		return fmt.Errorf("make another key: %w: %s", err, out)
	}
	change := func(at int, by byte) []byte {
		b := bytes.Clone(whole)
		b[at] ^= by
		return b
	}
	bad := []damagedBackup{
		{"with the wrong key", whole, other},
		{"without a key", whole, ""},
		{"that was cut", whole[:len(whole)-1-tr.rng.IntN(len(whole)/2)], key},
		{"that ends before its last byte", whole[:len(whole)-1], key},
		{"with a bit flipped", change(len(whole)/4+tr.rng.IntN(len(whole)/2), 1<<tr.rng.IntN(8)), key},
		{"of another format", change(8, 0x7e), key},
		{"that is none", []byte(strings.Repeat("no backup ", 1000)), key},
		{"that is empty", nil, key},
	}
	before, err := filesBelow(filepath.Dir(n.Config))
	if err != nil {
		return err
	}
	at := filepath.Join(tr.dir, "bad.triward")
	for _, b := range bad {
		if err := os.WriteFile(at, b.body, 0o600); err != nil {
			return err
		}
		args := []string{"snapshot", "restore", at}
		if b.key != "" {
			args = append(args, "--identity", b.key)
		}
		err := tr.triward(ctx, n, nil, args...)
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() < 1 {
			return fmt.Errorf("a backup %s was not refused: %w", b.what, err)
		}
		after, err := filesBelow(filepath.Dir(n.Config))
		if err != nil {
			return err
		}
		if !slices.Equal(before, after) {
			return fmt.Errorf("a backup %s was refused and left %v, before there was %v", b.what, after, before)
		}
		tr.faulted(1)
	}
	return nil
}

// filesBelow are the files below a folder and their sizes, but for the one that a command locks while it is there.
func filesBelow(dir string) (list []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			list = append(list, fmt.Sprintf("%s %d", path, info.Size()))
		}
		return err
	})
	return list, err
}

// restoreOn makes a machine the first node of a new cluster, and holds that it has the digests of the backup's manifest.
func (tr *trial) restoreOn(ctx context.Context, n *devNode, file, key string) error {
	out, err := exec.CommandContext(ctx, filepath.Join(tr.bin, "triward"), "snapshot", "restore", file, "--identity", key, "--deep", "-o", "json", "--config", n.Config).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("restore: %w: %s", err, exit.Stderr)
	}
	if err != nil {
		return err
	}
	var report struct{ Manifest struct{ Digests digests } }
	if err := json.Unmarshal(out, &report); err != nil {
		return fmt.Errorf("restore says %s: %w", out, err)
	}
	want := report.Manifest.Digests.text()
	if want == "" {
		return fmt.Errorf("the manifest has no digests: %s", out)
	}
	if err := tr.trustNode(ctx, n); err != nil {
		return err
	}
	return until(ctx, time.Minute, func(ctx context.Context) error {
		var now struct{ Sums digests }
		if err := tr.c.get(ctx, n, "/v1/digest", nil, &now); err != nil {
			return err
		}
		if got := now.Sums.text(); got != want {
			return fmt.Errorf("digests are\n%s\nthe manifest says\n%s", got, want)
		}
		return nil
	})
}
