package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/agent/gatewaytest"
	"github.com/triward/triward/agent/sender"
)

// set has the cluster want a configuration.
func (r *rig) set(version uint64, body string) {
	r.cluster.Do(func(c *gatewaytest.Cluster) {
		c.Config = &gatewaytest.GroupConfig{Group: "web", Version: version, Body: body, Hash: config.HashGroup([]byte(body))}
		if version == 0 {
			c.Config = &gatewaytest.GroupConfig{Group: "web"}
		}
	})
}

// open is an agent.yaml that leaves the files to the cluster.
func (r *rig) open(c *config.Config) {
	c.Logs.Files = config.Default().Logs.Files
	c.Logs.InitialBacklog = 64 << 10 // of this machine's own logs, which are followed until the configuration comes
	c.Remote.Files = []string{filepath.Join(r.dir, "logs")}
}

func (r *rig) files(rest string) string {
	return fmt.Sprintf("logs: {files: [{include: ['%s']%s}]}\n", filepath.Join(r.dir, "logs", "*.log"), rest)
}

func (r *rig) reports(t *testing.T, state string, version uint64) ConfigReport {
	t.Helper()
	now := r.agent.remote.report()
	if now.State != state || now.Version != version {
		t.Errorf("the agent reports %+v, want %s %d", now, state, version)
	}
	return now
}

// A configuration that changes again and again while lines are written loses and doubles none of them, and is in effect
// after a start without any node.
func TestConfigurationChangesWithoutLoss(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.adjust = r.open
		r.set(1, r.files(""))
		r.start()
		n := 0
		for v := range uint64(12) {
			for range 30 {
				n++
				r.write(fmt.Sprintf("line %d\n", n))
				time.Sleep(170 * time.Millisecond)
			}
			r.set(v+2, r.files(fmt.Sprintf(", labels: {round: r%d}", v+2))+"metrics: {period: 5s}\nheartbeat: {period: 1s}\n")
		}
		time.Sleep(30 * time.Second)
		r.reports(t, configApplied, 13)
		if got := r.agent.effective.Load(); got.Metrics.Period != 5*time.Second {
			t.Errorf("in effect is %+v", got.Metrics)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			var want []string
			for i := range n {
				want = append(want, fmt.Sprintf("line %d", i+1))
			}
			if got := c.Texts("file", filepath.Join(r.dir, "logs", "a.log")); !slices.Equal(got, want) {
				t.Errorf("%d lines delivered, %d written", len(got), n)
			}
			if got := c.Texts("round", "r7"); len(got) == 0 {
				t.Error("no line has the label of a version in between")
			}
			if beat, ok := c.LastBeat["config"].(map[string]any); !ok || beat["version"] != 13.0 || beat["state"] != configApplied {
				t.Errorf("the last heartbeat says %v", c.LastBeat["config"])
			}
			c.Strange = true // no node answers any more
		})
		r.write("one more\n")
		r.start()
		time.Sleep(20 * time.Second)
		r.reports(t, configApplied, 13)
		if st := r.agent.Status(); st.Files != 1 || r.agent.effective.Load().Metrics.Period != 5*time.Second {
			t.Errorf("after a start without a node: %+v", st)
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) { c.Strange = false })
		r.set(0, "")
		time.Sleep(time.Minute)
		r.reports(t, configNone, 0)
		if _, err := os.Stat(filepath.Join(r.dir, "data", remoteFile)); err == nil {
			t.Error("what the cluster does not want any more lies on the disk")
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// What is not good here changes nothing, is said once with its place, and is not fetched again and again.
func TestBadConfigurationIsRefused(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.adjust = r.open
		good := r.files(", labels: {app: shop}")
		r.set(1, good)
		r.write("one\n")
		r.start()
		time.Sleep(25 * time.Second)
		r.reports(t, configApplied, 1)
		outside := filepath.Join(r.dir, "secret")
		if err := os.WriteFile(outside, []byte("root:x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(r.dir, "logs", "link.log")
		if err := os.Symlink(outside, link); err != nil {
			t.Fatal(err)
		}
		for i, bad := range []struct{ body, says string }{
			{"logs: {files: [{include: [/etc/shadow]}]}\n", "logs.files[0].include[0]"},
			{"logs: {files: [{include: ['" + r.dir + "/logs/{a,b}*'], multiline: {}}]}\n", "logs.files[0].multiline"},
			{"logs: {files: [{include: ['" + r.dir + "/logs/../secret']}]}\n", ".. is not allowed"},
			{"metrics: {period: 1ms}\n", "metrics.period"},
			{"data_dir: /tmp\n", "data_dir"},
			{"remote: {files: [/]}\n", "remote"},
			{"a: [", "yaml"},
		} {
			v := uint64(i + 2)
			r.set(v, bad.body)
			var fetched int
			r.cluster.Do(func(c *gatewaytest.Cluster) { fetched = c.Fetched })
			time.Sleep(time.Minute)
			now := r.reports(t, configRefused, 1)
			if !strings.Contains(now.Error, bad.says) || now.WantedVersion != v {
				t.Errorf("%s is refused with %q of version %d", bad.body, now.Error, now.WantedVersion)
			}
			r.cluster.Do(func(c *gatewaytest.Cluster) {
				if c.Fetched != fetched+1 {
					t.Errorf("%s was fetched %d times", bad.body, c.Fetched-fetched)
				}
			})
			r.write(fmt.Sprintf("still %d\n", v))
		}
		r.set(100, good)
		time.Sleep(30 * time.Second)
		r.reports(t, configApplied, 100)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			got := strings.Join(c.Texts("app", "shop"), "|")
			if got != "one|still 2|still 3|still 4|still 5|still 6|still 7|still 8" {
				t.Errorf("lines %q", got)
			}
			if events := strings.Join(c.Texts("source", "agent"), "|"); !strings.Contains(events, "configuration 2 of group web is not taken") {
				t.Errorf("events %q", events)
			}
		})
	})
}

// What agent.yaml sets stays, and is told; an agent.yaml that lets nothing be set is left alone.
func TestHostKeepsItsOwn(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.adjust = func(c *config.Config) {
			c.Metrics.Period = 20 * time.Second
			c.Remote.Keep = []string{"metrics.exclude"}
		}
		r.set(5, "metrics: {period: 5s, exclude: [go_.*], enabled: true}\nlogs: {files: [{include: [/var/log/x]}]}\njournal: {enabled: \"false\"}\nheartbeat: {period: 2s}\n")
		r.start()
		time.Sleep(30 * time.Second)
		now := r.reports(t, configApplied, 5)
		if want := []string{"metrics.period", "metrics.exclude", "logs.files"}; !slices.Equal(now.Own, want) {
			t.Errorf("own keys %q, want %q", now.Own, want)
		}
		if got := r.agent.effective.Load(); got.Metrics.Period != 20*time.Second || got.Heartbeat.Period != 2*time.Second || len(got.Metrics.Exclude) > 0 {
			t.Errorf("in effect is %+v", got)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.adjust = func(c *config.Config) { c.Remote.Enabled = false }
		r.start()
		time.Sleep(30 * time.Second)
		r.reports(t, configOff, 0)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// A spool that is full of lines does not let the sources be changed; once it has room they are.
func TestConfigurationWaitsForAFullSpool(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.adjust = func(c *config.Config) { r.open(c); c.Spool.MaxBytes = 1 << 20 }
		r.set(1, r.files(""))
		r.start()
		time.Sleep(15 * time.Second)
		r.reports(t, configApplied, 1)
		r.gateway.Fail(func(q *http.Request) (before, after *gatewaytest.Fault) {
			if strings.HasSuffix(q.URL.Path, "/batches") {
				return &gatewaytest.Fault{Code: 503}, nil
			}
			return nil, nil
		})
		for i := range 40_000 {
			sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
			r.write(fmt.Sprintf("%d %x\n", i, sum))
		}
		time.Sleep(time.Minute)
		r.set(2, r.files(", labels: {app: shop}"))
		time.Sleep(time.Minute)
		r.reports(t, configWaiting, 1)
		r.gateway.Fail(nil)
		time.Sleep(2 * time.Minute)
		r.reports(t, configApplied, 2)
		r.write("last\n")
		time.Sleep(10 * time.Second)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if got := c.Texts("file", filepath.Join(r.dir, "logs", "a.log")); len(got) != 40_001 || got[40_000] != "last" {
				t.Errorf("%d lines", len(got))
			}
		})
	})
}

// What keeps a good configuration from being taken for a while (a disk that is full, a byte that changed on the disk) does
// not keep it from being taken for ever, and is not told again and again.
func TestConfigurationIsTakenLater(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.adjust = r.open
		r.set(1, r.files(""))
		r.start()
		time.Sleep(15 * time.Second)
		r.reports(t, configApplied, 1)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		// As if a byte of the text had changed.
		path := filepath.Join(r.dir, "data", remoteFile)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(strings.Replace(string(b), "include", "exclude", 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.start()
		time.Sleep(15 * time.Second)
		r.reports(t, configApplied, 1)
		// As if nothing could be written: a folder in the place of the file.
		if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o700)); err != nil {
			t.Fatal(err)
		}
		r.set(2, r.files(", labels: {app: shop}"))
		var fetched int
		time.Sleep(time.Minute)
		r.cluster.Do(func(c *gatewaytest.Cluster) { fetched = c.Fetched })
		time.Sleep(time.Minute)
		now := r.reports(t, configWaiting, 1)
		if !strings.Contains(now.Error, remoteFile) || now.WantedVersion != 2 {
			t.Errorf("it waits for %+v", now)
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if n := c.Fetched - fetched; n < 5 || n > 7 {
				t.Errorf("it was fetched %d times in a minute", n)
			}
			if n := strings.Count(strings.Join(c.Texts("source", "agent"), "|"), "configuration 2 of group web is not taken"); n != 1 {
				t.Errorf("it was told %d times", n)
			}
		})
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		r.reports(t, configApplied, 2)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// Metrics whose gathering hangs, as it does on a disk that gives no answer, do not keep the lines from being read when
// the configuration changes.
func TestConfigurationChangesWhileMetricsHang(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.adjust = r.open
		r.hangs = make(chan struct{})
		r.set(1, r.files(""))
		r.write("one\n")
		r.start()
		time.Sleep(35 * time.Second)
		r.set(2, r.files(", labels: {app: shop}"))
		time.Sleep(15 * time.Second)
		r.write("two\n")
		time.Sleep(15 * time.Second)
		r.reports(t, configApplied, 2)
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if got := c.Texts("app", "shop"); !slices.Equal(got, []string{"two"}) {
				t.Errorf("lines %q", got)
			}
		})
		close(r.hangs)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// A host that was enrolled anew does not begin with what the cluster before wanted to be read.
func TestConfigurationOfAnotherEnrolment(t *testing.T) {
	path := filepath.Join(t.TempDir(), remoteFile)
	want := sender.GroupConfig{Group: "web", Version: 3, Hash: "h", Body: "{}\n"}
	if err := writeRemote(path, "a1", &want); err != nil {
		t.Fatal(err)
	}
	if got, err := readRemote(path, "a1"); err != nil || got == nil || *got != want {
		t.Errorf("the same agent reads %+v: %v", got, err)
	}
	if got, err := readRemote(path, "a2"); err != nil || got != nil {
		t.Errorf("another agent reads %+v: %v", got, err)
	}
}
