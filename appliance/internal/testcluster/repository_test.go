package testcluster

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/repository"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/backup/target/s3test"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// moment is what a live node held at an index.
type moment struct {
	index   uint64
	digest  string
	state   string // of the metadata; "" when it was not asked
	logTime int64
}

// moments asks nodes for what they hold while they are written to.
func moments(t *testing.T, c *Cluster, n int) (out []moment) {
	t.Helper()
	for i := range n {
		node := c.Nodes[i%len(c.Nodes)].App.Node()
		if i%5 == 0 {
			e, err := node.Export()
			must(t, err)
			out = append(out, moment{e.About.Mark.Index, meta.FoldDigests(e.About.Digests), e.About.Sum, e.About.LogTime})
			must(t, e.Close())
		} else {
			index, sums := node.Digest()
			out = append(out, moment{index: index, digest: meta.FoldDigests(sums)})
		}
		time.Sleep(20 * time.Millisecond) // so that something comes between
	}
	return out
}

// overview asks a node how its backups stand.
func overview(t *testing.T, c *Cluster) schedule.Overview {
	t.Helper()
	var o schedule.Overview
	must(t, c.Get(c.Nodes[0], "/v1/snapshots", &o))
	return o
}

// waitForRuns waits until so many runs have ended and returns the newest.
func waitForRuns(t *testing.T, c *Cluster, n int) (last schedule.Run) {
	t.Helper()
	Until(t, fmt.Sprintf("run %d", n), func() error {
		o := overview(t, c)
		if len(o.Runs) < n || o.Runs[0].Ended == 0 || o.Running != nil {
			return fmt.Errorf("%+v", o)
		}
		last = o.Runs[0]
		return nil
	})
	return last
}

// repositorySite is a cluster that is written to and saves into a repository in S3 whose log is archived.
type repositorySite struct {
	c        *Cluster
	agent    *Agent
	service  *s3test.Service
	identity age.Identity
	bucket   *target.S3
	folder   string
	stop     func()
}

func newRepositorySite(t *testing.T, schedule map[string]any) *repositorySite {
	s := &repositorySite{service: s3test.Start(t), c: Start(t, 3)}
	ring, recovery, err := keyring.New()
	must(t, err)
	for _, n := range s.c.Nodes {
		must(t, ring.Save(n.Config.TLS.Dir))
	}
	s.identity, err = age.ParseX25519Identity(recovery)
	must(t, err)
	s.agent = s.c.NewAgent(t, "web1", series(1), series(2))
	acked, stop := busy(t, s.c, s.agent)
	s.stop = stop
	Until(t, "some load", func() error {
		if acked.Load() < 20 {
			return errors.New("too little")
		}
		return nil
	})
	s.bucket, err = target.NewS3(target.S3Config{
		URL: s.service.URL("site"), Endpoint: s.service.Endpoint, AccessKey: s.service.AccessKey, SecretKey: s.service.SecretKey, CA: s.service.CA,
	})
	must(t, err)
	body := map[string]any{
		"enabled": true, "recovery": true, "at": halfADayAway(), "keep_last": 2, "form": "repository",
		"target": map[string]any{
			"kind": "s3", "url": s.service.URL("site"), "endpoint": s.service.Endpoint, "access_key": s.service.AccessKey,
			"secret_key": s.service.SecretKey, "ca_pem": string(s.service.CA),
		},
	}
	for k, v := range schedule {
		body[k] = v
	}
	_, err = s.c.do(http.MethodPut, s.c.Nodes[0].URL()+"/v1/snapshots/schedules/nightly", body, nil)
	must(t, err)
	return s
}

func (s *repositorySite) look(t *testing.T) *repository.Repository {
	t.Helper()
	r, err := repository.Look(t.Context(), s.bucket.Below(s.folder), []age.Identity{s.identity})
	must(t, err)
	return r
}

// covers waits until a restore can end at an entry.
func (s *repositorySite) covers(t *testing.T, index uint64) {
	t.Helper()
	r := s.look(t)
	Until(t, fmt.Sprintf("the archive of entry %d", index), func() error {
		saves, err := r.Saves(t.Context())
		if err != nil {
			return err
		}
		segments, err := r.Segments(t.Context())
		if err != nil {
			return err
		}
		spans := repository.Covered(saves, segments)
		if spans[len(spans)-1].Until < index {
			return fmt.Errorf("%+v", spans)
		}
		return nil
	})
}

// TestRestoreAtExactlyOneEntry saves into a repository and archives the log of a cluster that is written to and whose
// leader goes, restores at entries and times that live nodes were asked about, and finds just what they held.
func TestRestoreAtExactlyOneEntry(t *testing.T) {
	t.Parallel()
	s := newRepositorySite(t, map[string]any{"archive_s": 5})
	// The archive has nothing to follow: the first backup is made at once, by the schedule itself.
	run := waitForRuns(t, s.c, 1)
	if !run.OK || !run.ReadBack || run.Repository == "" || run.Encryption != "age" || run.Stored == 0 {
		t.Fatalf("run %+v", run)
	}
	s.folder = run.Repository
	seen := moments(t, s.c, 20)
	// Leadership goes on to another node, which archives from then on: some entries twice, none not at all.
	old := s.c.Leader(t)
	s.stop()
	old.Stop(t)
	s.c.Leader(t)
	old.Start(t)
	old.WaitReady(t)
	// Some of what stands in the log was not applied as it stands.
	now := time.Now()
	res, err := s.agent.Send(old, s.agent.Metrics(wire.Scrape{T: now.Add(-30 * 24 * time.Hour).UnixMilli(), IDs: s.agent.Series, Values: []float64{1, 2}}))
	must(t, err)
	if len(res) != 1 || res[0].Accepted != 0 {
		t.Fatalf("%+v", res)
	}
	_, stop := busy(t, s.c, s.agent)
	seen = append(seen, moments(t, s.c, 20)...)
	stop()
	s.c.WaitEqual(t)
	last := seen[len(seen)-1].index
	s.covers(t, last)
	if o := overview(t, s.c); o.Schedules[0].ArchiveStatus == nil || o.Schedules[0].ArchiveStatus.Gap != nil {
		t.Errorf("archive %+v", o.Schedules[0].ArchiveStatus)
	}

	r := s.look(t)
	restore := func(t *testing.T, until appliance.Until, only string) (appliance.Config, *appliance.RestoreReport) {
		t.Helper()
		save, err := r.Choose(t.Context(), until.Index, until.Time)
		must(t, err)
		cfg := NewConfig(t, "r1")
		report, err := appliance.Restore(t.Context(), cfg, r.Source(save.Name), appliance.RestoreOptions{
			Identities: []age.Identity{s.identity}, Archive: r, Until: until, Only: only,
		})
		must(t, err)
		return cfg, report
	}
	tried := 0
	for i, m := range seen {
		if m.index <= run.Index || m.state == "" && i != 3 && i != 31 {
			continue
		}
		tried++
		cfg, report := restore(t, appliance.Until{Index: m.index}, "")
		if report.Index != m.index || report.Digest != m.digest || m.state != "" && report.State != m.state {
			t.Errorf("at entry %d: digest %s and state %s, restored were %d, %s and %s", m.index, m.digest, m.state, report.Index, report.Digest, report.State)
		}
		if m.state == "" {
			continue
		}
		if _, byTime := restore(t, appliance.Until{Time: m.logTime}, ""); byTime.Index < m.index || byTime.LogTime != m.logTime {
			t.Errorf("at time %d, which entry %d had, entry %d of time %d was restored", m.logTime, m.index, byTime.Index, byTime.LogTime)
		}
		if tried == 1 {
			fresh := Adopt(t, cfg, s.c.Token)
			index, sums := fresh.Digests(t, fresh.Nodes[0])
			_, live := fresh.Nodes[0].App.Node().Digest()
			if meta.FoldDigests(live) != m.digest {
				t.Errorf("the node that begins at entry %d holds %s as of %d", m.index, sums, index)
			}
		}
	}
	if tried < 5 {
		t.Errorf("only %d moments were tried: %+v", tried, seen)
	}

	// What cannot be is refused, and leaves nothing.
	refused := func(until appliance.Until, want error) {
		t.Helper()
		save, err := r.Choose(t.Context(), 0, 0)
		must(t, err)
		cfg := NewConfig(t, "r2")
		_, err = appliance.Restore(t.Context(), cfg, r.Source(save.Name), appliance.RestoreOptions{
			Identities: []age.Identity{s.identity}, Archive: r, Until: until,
		})
		if !errors.Is(err, want) {
			t.Errorf("until %+v: %v", until, err)
		}
		if left := filesBelow(t, cfg.DataDir); len(left) > 1 || len(left) == 1 && filepath.Base(left[0]) != "LOCK" {
			t.Errorf("until %+v: left %v", until, left)
		}
	}
	refused(appliance.Until{Index: last + 1_000_000}, repository.ErrGap)
	refused(appliance.Until{Time: time.Now().Add(time.Hour).UnixMilli()}, repository.ErrGap)
	segments, err := r.Segments(t.Context())
	must(t, err)
	for _, g := range segments { // cut off: every reader finds it
		if g.First > run.Index {
			must(t, os.Truncate(s.service.Object("site/"+s.folder+"/"+g.Name), g.Size-1))
			refused(appliance.Until{Index: g.Last}, container.ErrDamaged)
			break
		}
	}
}

// TestRestoreOfOneKind keeps one kind in turn: the others are as if the retention had cut them, and a backup of what
// begins with it is found whole.
func TestRestoreOfOneKind(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	a := c.NewAgent(t, "web1", series(1), series(2))
	acked, stop := busy(t, c, a)
	Until(t, "some load", func() error {
		if acked.Load() < 20 {
			return errors.New("too little")
		}
		return nil
	})
	stop()
	results, err := a.Send(c.Nodes[0], a.Lines(time.Now().UnixNano(), "the last line"))
	must(t, err)
	if results[0].Status != "ok" {
		t.Fatal(results)
	}
	id, err := age.GenerateX25519Identity()
	must(t, err)
	b, err := c.Backup(c.Nodes[0], id.Recipient().String())
	must(t, err)
	for _, only := range []string{"metrics", "logs", "events", "config"} {
		t.Run(only, func(t *testing.T) {
			cfg := NewConfig(t, "r1")
			report, err := appliance.Restore(t.Context(), cfg, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{
				Identities: []age.Identity{id}, Only: only,
			})
			must(t, err)
			if report.Only != only || report.Index != report.Manifest.Index {
				t.Errorf("%+v", report)
			}
			if only != "config" {
				return // nobody is known there who could be asked; the next test starts one
			}
			fresh := Adopt(t, cfg, c.Token)
			again, err := fresh.Backup(fresh.Nodes[0], id.Recipient().String())
			must(t, err)
			got, deep, err := backup.Verify(t.Context(), bytes.NewReader(again), backup.VerifyOptions{Identities: []age.Identity{id}})
			must(t, err)
			if n := deep.Counts["metrics"] + deep.Counts["logs"] + deep.Counts["events"]; n > 0 {
				t.Errorf("%d items are there beside the metadata", n)
			}
			if got.Manifest.State.Keys["users"] != report.Manifest.State.Keys["users"] || got.Manifest.State.Keys["agents"] == 0 {
				t.Errorf("keys %v", got.Manifest.State.Keys)
			}
			for _, f := range got.Manifest.Floors {
				if f.Time <= report.LogTime-1 {
					t.Errorf("floor of %s %d, log time %d", f.Kind, f.Time, report.LogTime)
				}
			}
			// The agent goes on.
			next := *a
			next.cluster = fresh
			results, err := next.Send(fresh.Nodes[0], next.Lines(time.Now().UnixNano(), "after the restore"))
			must(t, err)
			if results[0].Status != "ok" {
				t.Errorf("%+v", results)
			}
		})
	}
	for _, kind := range command.Kinds {
		t.Run("state of "+kind.String(), func(t *testing.T) {
			cfg := NewConfig(t, "r1")
			report, err := appliance.Restore(t.Context(), cfg, backup.Stream(bytes.NewReader(b)), appliance.RestoreOptions{
				Identities: []age.Identity{id}, Only: kind.String(),
			})
			must(t, err)
			app, err := appliance.New(cfg, appliance.Options{})
			must(t, err)
			defer func() { must(t, app.Stop(context.Background())) }()
			e, err := app.Node().Export()
			must(t, err)
			defer func() { must(t, e.Close()) }()
			var image bytes.Buffer
			_, _, err = backup.Write(t.Context(), &image, e, backup.Request{About: backup.About{Cluster: report.Manifest.Cluster, Node: "r1", State: e.About}})
			must(t, err)
			got, deep, err := backup.Verify(t.Context(), &image, backup.VerifyOptions{})
			must(t, err)
			for _, k := range command.Kinds {
				want := uint64(0)
				if k == kind {
					want = report.Manifest.Count(k.String())
				}
				if deep.Counts[k.String()] != want && k == kind || k != kind && deep.Counts[k.String()] > 0 && !strings.Contains("logs events", k.String()) {
					t.Errorf("%d %s are there, want %d", deep.Counts[k.String()], k, want)
				}
			}
			if got.Manifest.State.Keys["users"]+got.Manifest.State.Keys["apitokens"] > 0 {
				t.Errorf("keys %v", got.Manifest.State.Keys)
			}
		})
	}
}

// TestDrill tries a restore of an encrypted repository that lets the cluster do so, and one that is damaged.
func TestDrill(t *testing.T) {
	t.Parallel()
	s := newRepositorySite(t, map[string]any{"drill_days": 1})
	must(t, s.c.Post(s.c.Nodes[1], "/v1/snapshots/schedules/nightly/run", nil, nil))
	run := waitForRuns(t, s.c, 1)
	if !run.OK {
		t.Fatalf("run %+v", run)
	}
	// The schedule itself asks for the first one.
	drill := waitForRuns(t, s.c, 2)
	s.stop()
	if drill.Kind != schedule.KindDrill || !drill.OK || drill.Drill == nil || drill.Drill.Digest != run.Digest || drill.Drill.Counts["metrics"] == 0 {
		body, _ := json.Marshal(drill)
		t.Fatalf("drill %s of %+v", body, run)
	}
	for _, n := range s.c.Nodes {
		for _, file := range filesBelow(t, n.Config.DataDir) {
			if strings.Contains(file, "/drill/") {
				t.Errorf("%s is left", file)
			}
		}
	}
	for _, file := range filesBelow(t, filepath.Join(s.service.Dir, s3test.Bucket)) {
		if strings.Contains(file, "pack-") {
			st, err := os.Stat(file)
			must(t, err)
			must(t, os.Truncate(file, st.Size()-1))
		}
	}
	must(t, s.c.Post(s.c.Nodes[2], "/v1/snapshots/schedules/nightly/drill", nil, nil))
	bad := waitForRuns(t, s.c, 3)
	if bad.OK || bad.Kind != schedule.KindDrill || !strings.Contains(bad.Error, "pack-") {
		t.Errorf("a drill of a damaged backup: %+v", bad)
	}
	o := overview(t, s.c)
	if o.Schedules[0].LastGood == nil || o.Schedules[0].LastGood.ID != run.ID || o.Schedules[0].LastDrill.ID != bad.ID {
		t.Errorf("%+v", o.Schedules[0])
	}
}
