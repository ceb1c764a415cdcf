package testcluster

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/pki"
)

// busy writes samples and lines until stop is called, and says how many batches were acknowledged.
func busy(t *testing.T, c *Cluster, a *Agent) (acked *atomic.Int64, stop func()) {
	t.Helper()
	acked = new(atomic.Int64)
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			default:
			}
			now := time.Now()
			batches := []wire.Batch{
				a.Metrics(wire.Scrape{T: now.UnixMilli() + int64(i), IDs: a.Series, Values: []float64{float64(i), 1.5 * float64(i)}}),
				a.Lines(now.UnixNano(), fmt.Sprint("line ", i), "and another"),
			}
			if err := sendAgain(a, c.Nodes[i%len(c.Nodes)], batches); err != nil {
				t.Errorf("send %d: %v", i, err)
				return
			}
			acked.Add(1)
		}
	})
	return acked, func() { close(end); wg.Wait() }
}

// sendAgain delivers batches as an agent does: what has no answer, as when a busy machine lost its leader meanwhile, is sent
// once more and may turn out to be there already.
func sendAgain(a *Agent, n *Node, batches []wire.Batch) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for until, repeated := time.Now().Add(leaderPatience), false; ; repeated = true {
		results, err := a.Send(n, batches...)
		if err != nil && strings.Contains(err.Error(), "503 ") && time.Now().Before(until) {
			<-tick.C
			continue
		}
		for _, r := range results {
			if r.Status != "ok" && (!repeated || r.Status != "duplicate") {
				err = errors.Join(err, fmt.Errorf("%+v", r))
			}
		}
		return err
	}
}

func series(n int) map[string]string {
	return map[string]string{"__name__": "restore_test", "n": fmt.Sprint(n)}
}

func digestOf(t *testing.T, m *backup.Manifest) string {
	t.Helper()
	sums := slices.SortedFunc(slices.Values(m.Digests), func(x, y backup.Digest) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Day, y.Day)) // as /v1/digest lists them
	})
	body, err := json.Marshal(sums)
	must(t, err)
	return string(body)
}

// TestRestoreUnderLoadIntoAFreshCluster backs a cluster of three up while it is written to, restores the backup on a
// fresh machine, compares digests, lets two nodes join and agents go on.
func TestRestoreUnderLoadIntoAFreshCluster(t *testing.T) {
	t.Parallel()
	old := Start(t, 3)
	a := old.NewAgent(t, "web1", series(1), series(2))
	acked, stop := busy(t, old, a)
	Until(t, "some load", func() error {
		if acked.Load() < 20 {
			return errors.New("too little")
		}
		return nil
	})
	id, err := age.GenerateX25519Identity()
	must(t, err)
	before := acked.Load()
	b, err := old.Backup(old.Nodes[1], id.Recipient().String())
	must(t, err)
	Until(t, "load after the backup", func() error {
		if acked.Load() < before+20 {
			return errors.New("too little")
		}
		return nil
	})
	stop()

	cfg := NewConfig(t, "r1")
	report, err := appliance.Restore(t.Context(), cfg, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{Identities: []age.Identity{id}, Deep: true})
	must(t, err)
	m := report.Manifest
	if m.Count("metrics") < 40 || m.Count("logs") < 40 || report.NewCA {
		t.Fatalf("restored %d samples, %d lines, new CA %t", m.Count("metrics"), m.Count("logs"), report.NewCA)
	}
	if report.Deep.Counts["metrics"] != m.Count("metrics") || report.Deep.Counts["logs"] != m.Count("logs") {
		t.Errorf("read %v, the manifest says %d and %d", report.Deep.Counts, m.Count("metrics"), m.Count("logs"))
	}
	fresh := Adopt(t, cfg, old.Token)
	if _, sums := fresh.Digests(t, fresh.Nodes[0]); sums != digestOf(t, m) {
		t.Errorf("digests after the restore\n%s\nmanifest\n%s", sums, digestOf(t, m))
	}
	fresh.Join(t, "r2")
	fresh.Join(t, "r3")
	fresh.WaitEqual(t)
	if _, sums := fresh.Digests(t, fresh.Nodes[2]); sums != digestOf(t, m) {
		t.Errorf("digests on a node that joined\n%s\nmanifest\n%s", sums, digestOf(t, m))
	}

	// The agent sent more than the backup knows: the cluster says from where on.
	next := *a
	next.cluster = fresh
	results, err := next.Send(fresh.Nodes[0], next.Lines(time.Now().UnixNano(), "after the restore"))
	must(t, err)
	if r := results[0]; r.Status != "gap" || r.Expected == 0 || r.Expected > uint64(acked.Load())+1 {
		t.Errorf("a batch far ahead: %+v", r)
	}
	// A series that is new now has an id that the old cluster never gave out.
	var ids struct {
		IDs []uint64 `json:"ids"`
	}
	must(t, next.call(fresh.Nodes[0], "/v1/agent/series", map[string]any{"series": []map[string]string{series(3)}}, &ids))
	if ids.IDs[0] < 1<<24 {
		t.Errorf("id %d could be one of the old cluster's", ids.IDs[0])
	}
	// It survives a restart, and its leader may go.
	fresh.Nodes[0].Stop(t)
	fresh.Leader(t)
	fresh.Nodes[0].Start(t)
	fresh.Nodes[0].WaitReady(t)
	fresh.WaitEqual(t)
}

// TestOldAndRestoredClusterStayApart lets a restored node take over the name and address of one of the old cluster
// that still runs: neither side may take the other for a member.
func TestOldAndRestoredClusterStayApart(t *testing.T) {
	t.Parallel()
	old := Start(t, 3)
	id, err := age.GenerateX25519Identity()
	must(t, err)
	b, err := old.Backup(old.Nodes[0], id.Recipient().String())
	must(t, err)
	old.Nodes[0].Stop(t)
	cfg := NewConfig(t, "n1")
	cfg.Listen.Peer = old.Nodes[0].Config.Listen.Peer
	_, err = appliance.Restore(t.Context(), cfg, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{Identities: []age.Identity{id}})
	must(t, err)
	fresh := Adopt(t, cfg, old.Token)
	leader := old.Leader(t)
	for range 5 { // the old leader tries to reach its member all the time
		must(t, old.Post(leader, "/v1/tokens/join", map[string]any{"kind": "agent"}, nil))
		must(t, fresh.Post(fresh.Nodes[0], "/v1/tokens/join", map[string]any{"kind": "agent"}, nil))
	}
	if st := fresh.Nodes[0].App.Node().Status(); st.Role != "leader" || len(st.Members) != 1 {
		t.Errorf("the restored node is %s of %+v", st.Role, st.Members)
	}
	if err := old.Get(leader, "/v1/cluster", nil); err != nil {
		t.Error(err)
	}
	var cluster struct {
		Nodes []struct{ ID, Role string }
	}
	must(t, old.Get(leader, "/v1/cluster", &cluster))
	for _, n := range cluster.Nodes {
		if n.ID == "n1" && n.Role != "unreachable" {
			t.Errorf("the old cluster takes the restored node for its %s %s", n.Role, n.ID)
		}
	}
}

// TestWhatCannotBeRestoredLeavesNothing tries everything that must be refused, on one machine, and then what may not.
func TestWhatCannotBeRestoredLeavesNothing(t *testing.T) {
	t.Parallel()
	old := Start(t, 1)
	a := old.NewAgent(t, "web1", series(1), series(2))
	_, err := a.Send(old.Nodes[0], a.Lines(time.Now().UnixNano(), "a line"))
	must(t, err)
	id, err := age.GenerateX25519Identity()
	must(t, err)
	other, err := age.GenerateX25519Identity()
	must(t, err)
	b, err := old.Backup(old.Nodes[0], id.Recipient().String())
	must(t, err)
	cfg := NewConfig(t, "r1")
	altered := bytes.Clone(b)
	altered[len(altered)/2] ^= 1
	newer := bytes.Clone(b)
	newer[8]++
	restore := func(b []byte, ids ...age.Identity) error {
		_, err := appliance.Restore(t.Context(), cfg, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{Identities: ids})
		return err
	}
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"no key", restore(b), backup.ErrKey},
		{"another key", restore(b, other), backup.ErrKey},
		{"cut", restore(b[:len(b)-1], id), container.ErrDamaged},
		{"half", restore(b[:len(b)/2], id), container.ErrDamaged},
		{"empty", restore(nil, id), container.ErrNotBackup},
		{"altered", restore(altered, id), container.ErrDamaged},
		{"another version", restore(newer, id), container.ErrVersion},
		{"something else", restore([]byte("#!/bin/sh\necho no backup at all\n"), id), container.ErrNotBackup},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v", c.name, c.err)
		}
		if left := filesBelow(t, filepath.Dir(cfg.DataDir)); len(left) > 0 {
			t.Fatalf("%s: left %v", c.name, left)
		}
	}
	if _, err := appliance.Restore(t.Context(), cfg, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{Identities: []age.Identity{id}, VerifyOnly: true}); err != nil {
		t.Error(err)
	}
	if left := filesBelow(t, filepath.Dir(cfg.DataDir)); len(left) > 0 {
		t.Fatalf("a look left %v", left)
	}
	must(t, restore(b, id))
	if err := restore(b, id); !errors.Is(err, appliance.ErrNotEmpty) {
		t.Errorf("over a restored node: %v", err)
	}
	c := Adopt(t, cfg, old.Token)
	if err := restore(b, id); !errors.Is(err, appliance.ErrLocked) {
		t.Errorf("over a running node: %v", err)
	}
	c.Nodes[0].Stop(t)

	// An interrupted restore is no obstacle to the next; a node whose certificate alone is left is.
	again := NewConfig(t, "r2")
	must(t, os.MkdirAll(filepath.Join(again.DataDir, "tsdb", "gen-000001"), 0o700))
	must(t, os.MkdirAll(filepath.Join(again.DataDir, "lost+found"), 0o700))
	must(t, os.WriteFile(filepath.Join(again.DataDir, "RESTORE"), []byte("x"), 0o600))
	if _, err := appliance.Restore(t.Context(), again, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{Identities: []age.Identity{id}}); err != nil {
		t.Error(err)
	}
	must(t, os.RemoveAll(again.DataDir))
	if _, err := appliance.Restore(t.Context(), again, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{Identities: []age.Identity{id}}); !errors.Is(err, appliance.ErrNotEmpty) {
		t.Errorf("beside a certificate: %v", err)
	}
}

func filesBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "LOCK" && d.Name() != "log" {
			names = append(names, path)
		}
		return err
	}))
	return names
}

// TestABackupWithoutKeysMakesANewCA restores a backup that was not encrypted: no private key is in it, so the restored
// cluster has another CA, and sessions and join tokens of the old one do not work.
func TestABackupWithoutKeysMakesANewCA(t *testing.T) {
	t.Parallel()
	old := Start(t, 1)
	var token struct {
		Token string `json:"token"`
	}
	must(t, old.Post(old.Nodes[0], "/v1/tokens/join", map[string]any{"kind": "agent"}, &token))
	must(t, old.Post(old.Nodes[0], "/v1/keys/rotate", struct{}{}, nil))
	b, err := old.Backup(old.Nodes[0])
	must(t, err)
	key, err := os.ReadFile(filepath.Join(old.Nodes[0].Config.TLS.Dir, pki.FileCAKey))
	must(t, err)
	if bytes.Contains(b, key[40:80]) {
		t.Error("the CA's key is in the backup")
	}
	cfg := NewConfig(t, "r1")
	report, err := appliance.Restore(t.Context(), cfg, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{})
	must(t, err)
	if !report.NewCA || len(report.Keys) != 0 {
		t.Errorf("new CA %t, keys %v", report.NewCA, report.Keys)
	}
	before, err := os.ReadFile(filepath.Join(old.Nodes[0].Config.TLS.Dir, pki.FileCA))
	must(t, err)
	after, err := os.ReadFile(filepath.Join(cfg.TLS.Dir, pki.FileCA))
	must(t, err)
	if bytes.Equal(before, after) {
		t.Error("the restored cluster has the old CA's certificate without its key")
	}
	fresh := Adopt(t, cfg, old.Token)
	if err := fresh.Stranger("x").Enroll(t, fresh.Nodes[0], token.Token); err == nil {
		t.Error("a join token of the old cluster still works")
	}
	// It does not look for the key that sealed in the lost cluster, for good.
	if v, ok := fresh.Nodes[0].App.Node().State().Get("settings", "keyring"); ok {
		t.Errorf("the restored cluster, with a ring of its own, is to seal with a key of the lost one: %s", v.Data)
	}
}
