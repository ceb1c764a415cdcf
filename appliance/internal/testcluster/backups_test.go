package testcluster

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/backup/target/s3test"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/meta"
)

// halfADayAway is the time of day (UTC) of a schedule that makes no backup by itself while a test asks for its own.
func halfADayAway() string { return time.Now().UTC().Add(12 * time.Hour).Format("15:04") }

// TestScheduledBackupsInS3 lets a cluster store its backups in an S3 service by a schedule, under load, and restores
// one from there with the recovery key alone.
func TestScheduledBackupsInS3(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t)
	c := Start(t, 3)
	ring, recovery, err := keyring.New()
	must(t, err)
	for _, n := range c.Nodes {
		must(t, ring.Save(n.Config.TLS.Dir))
	}
	a := c.NewAgent(t, "web1", series(1), series(2))
	acked, stop := busy(t, c, a)
	Until(t, "some load", func() error {
		if acked.Load() < 10 {
			return errors.New("too little")
		}
		return nil
	})
	put := func(n *Node, name string, body map[string]any) error {
		_, err := c.do(http.MethodPut, n.URL()+"/v1/snapshots/schedules/"+name, body, nil)
		return err
	}
	where := map[string]any{
		"kind": "s3", "url": service.URL("site"), "endpoint": service.Endpoint, "access_key": service.AccessKey,
		"secret_key": service.SecretKey, "ca_pem": string(service.CA),
	}
	must(t, put(c.Nodes[0], "nightly", map[string]any{"enabled": true, "target": where, "recovery": true, "at": halfADayAway(), "keep_last": 1}))
	if err := put(c.Nodes[1], "bad", map[string]any{"enabled": true, "target": where, "at": halfADayAway()}); err == nil || !strings.Contains(err.Error(), "recipients") {
		t.Errorf("a schedule that does not say for whom: %v", err)
	}
	Until(t, "the schedule on another node", func() error {
		var o schedule.Overview
		if err := c.Get(c.Nodes[2], "/v1/snapshots", &o); err != nil {
			return err
		}
		if len(o.Schedules) != 1 {
			return fmt.Errorf("%d schedules", len(o.Schedules))
		}
		return nil
	})
	must(t, c.Post(c.Nodes[2], "/v1/snapshots/check", map[string]any{"target": map[string]any{
		"kind": "s3", "url": service.URL("site"), "endpoint": service.Endpoint, "access_key": service.AccessKey, "ca_pem": string(service.CA),
	}, "schedule": "nightly"}, nil))

	var runs []schedule.Run
	for i := range 2 {
		must(t, c.Post(c.Nodes[i], "/v1/snapshots/schedules/nightly/run", nil, nil))
		Until(t, "a backup", func() error {
			var o schedule.Overview
			if err := c.Get(c.Nodes[2], "/v1/snapshots", &o); err != nil {
				return err
			}
			runs = o.Runs
			if len(runs) != i+1 || runs[0].Ended == 0 || o.Running != nil {
				return fmt.Errorf("%+v", o)
			}
			if !runs[0].OK || !runs[0].ReadBack || runs[0].Encryption != "age" || runs[0].Target.SecretKey != "" {
				t.Fatalf("run: %+v", runs[0])
			}
			return nil
		})
	}
	Until(t, "the older one is removed", func() error {
		if left := filesBelow(t, filepath.Join(service.Dir, s3test.Bucket)); len(left) != 1 || !strings.HasSuffix(left[0], runs[0].Name) {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	stop()
	for _, n := range c.Nodes {
		for _, file := range filesBelow(t, n.Config.DataDir) {
			if body, err := os.ReadFile(file); err == nil && bytes.Contains(body, []byte(service.SecretKey)) {
				t.Errorf("the secret key stands in %s", file)
			}
		}
	}

	bucket, err := target.NewS3(target.S3Config{
		URL: service.URL("site"), Endpoint: service.Endpoint, AccessKey: service.AccessKey, SecretKey: service.SecretKey, CA: service.CA,
	})
	must(t, err)
	in, _, err := bucket.Open(t.Context(), runs[0].Name)
	must(t, err)
	defer in.Close()
	id, err := age.ParseX25519Identity(recovery)
	must(t, err)
	cfg := NewConfig(t, "r1")
	report, err := appliance.Restore(t.Context(), cfg, backup.Stream(in), appliance.RestoreOptions{Identities: []age.Identity{id}, Deep: true})
	must(t, err)
	fresh := Adopt(t, cfg, c.Token)
	if _, sums := fresh.Digests(t, fresh.Nodes[0]); sums != digestOf(t, report.Manifest) {
		t.Errorf("digests after the restore\n%s\nmanifest\n%s", sums, digestOf(t, report.Manifest))
	}
	var o schedule.Overview
	must(t, fresh.Get(fresh.Nodes[0], "/v1/snapshots", &o))
	if len(o.Schedules) != 1 || o.Schedules[0].Paused == "" || o.Schedules[0].Next != 0 || !o.Schedules[0].SecretSet {
		t.Errorf("schedules: %+v", o.Schedules)
	}
	// The ring came along: what was sealed before opens.
	must(t, fresh.Post(fresh.Nodes[0], "/v1/snapshots/check", map[string]any{"target": map[string]any{
		"kind": "s3", "url": service.URL("site"), "endpoint": service.Endpoint, "access_key": service.AccessKey, "ca_pem": string(service.CA),
	}, "schedule": "nightly"}, nil))
	chain := auditText(t, fresh.Nodes[0])
	for _, action := range []string{"snapshot.schedule.set", "snapshot.start", "snapshot.restore"} {
		if !strings.Contains(chain, `"`+action+`"`) {
			t.Errorf("the audit log does not tell of %s:\n%s", action, chain)
		}
	}
}

// auditText returns the audit log of a node once its chain was found whole.
func auditText(t *testing.T, n *Node) string {
	t.Helper()
	st := n.App.Node().State()
	held, ok := st.Get(audit.BucketHead, audit.KeyHead)
	if !ok {
		t.Fatal("there is no audit log")
	}
	head, err := audit.ParseHead(held.Data)
	must(t, err)
	var text strings.Builder
	must(t, audit.Verify(head, func(yield func([]byte) bool) {
		st.Scan(audit.BucketRecords, "", func(_ string, v meta.Value) bool {
			text.Write(v.Data)
			text.WriteByte('\n')
			return yield(v.Data)
		})
	}))
	return text.String()
}

// TestBackupsInAFolderOfTheNode stores a backup on the node that is asked, and says why one cannot be.
func TestBackupsInAFolderOfTheNode(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	n := c.Nodes[0]
	a := c.NewAgent(t, "web1", series(1))
	_, err := a.Send(n, a.Metrics(wire.Scrape{T: time.Now().UnixMilli(), IDs: a.Series, Values: []float64{1}}))
	must(t, err)
	must(t, c.Post(n, "/v1/snapshots", map[string]any{"target": map[string]any{"kind": "folder"}, "plain": true}, nil))
	wait := func(runs int) schedule.Run {
		var last schedule.Run
		Until(t, "the run", func() error {
			var o schedule.Overview
			must(t, c.Get(n, "/v1/snapshots", &o))
			if len(o.Runs) != runs || o.Runs[0].Ended == 0 {
				return fmt.Errorf("%+v", o)
			}
			last = o.Runs[0]
			return nil
		})
		return last
	}
	run := wait(1)
	if left := filesBelow(t, n.Config.Backup.Dir); len(left) != 1 || !run.OK || filepath.Base(left[0]) != run.Name {
		t.Errorf("run %+v, files %v", run, left)
	}
	// A folder that cannot be written: the run fails and says so, and the node goes on.
	must(t, os.RemoveAll(n.Config.Backup.Dir))
	must(t, os.WriteFile(n.Config.Backup.Dir, nil, 0o600))
	must(t, c.Post(n, "/v1/snapshots", map[string]any{"target": map[string]any{"kind": "folder"}, "plain": true}, nil))
	if run := wait(2); run.OK || run.Error == "" {
		t.Errorf("run %+v", run)
	}
	if err := c.Post(n, "/v1/snapshots/check", map[string]any{"target": map[string]any{"kind": "folder"}}, nil); err == nil {
		t.Error("a folder that cannot be written was found good")
	}
}
