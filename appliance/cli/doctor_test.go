package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/doctor"
	"github.com/triward/triward/appliance/pki"
)

func worstOf(r doctor.Report, check, subject string) doctor.Status {
	out := doctor.Status("none")
	for _, f := range r {
		if f.Check == check && strings.Contains(f.Subject, subject) && (out == "none" || f.Status == doctor.Problem || f.Status == doctor.Warning && out == doctor.OK) {
			out = f.Status
		}
	}
	return out
}

// The doctor runs before anything is set up, says every mistake of the configuration, and never makes anything.
func TestDoctorBeforeInit(t *testing.T) {
	dir := alone(t)
	path := filepath.Join(dir, "n.yaml")
	data := filepath.Join(dir, "data")
	write(t, path, fmt.Sprintf("node_id: n1\ndata_dir: %s\nlisten:\n  peer: {address: '127.0.0.1:0'}\n  agents: {address: '127.0.0.1:0'}\n  http: {address: '127.0.0.1:0'}\n", data))
	code, out, errs := run(t, "doctor", "--config", path, "-o", "json")
	var answer struct {
		Checks             doctor.Report
		Problems, Warnings int
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("%d %v %q %q", code, err, out, errs)
	}
	for _, check := range []string{"configuration", "node", "clock", "disk", "memory", "limits", "ports", "names"} {
		if worstOf(answer.Checks, check, "") == "none" {
			t.Errorf("nothing is said of %s", check)
		}
	}
	want := ExitOK
	switch {
	case answer.Problems > 0:
		want = ExitFailed
	case answer.Warnings > 0:
		want = ExitWarnings
	}
	if code != want {
		t.Errorf("code %d with %d problems and %d warnings", code, answer.Problems, answer.Warnings)
	}
	if files, _ := filepath.Glob(data); len(files) > 0 {
		t.Error("it made the data directory")
	}

	write(t, path, "colour: red\nqueue:\n  bytes_in_flight: 1\n")
	code, out, _ = run(t, "doctor", "--config", path)
	if code != ExitFailed || !strings.Contains(out, "n.yaml:1") || !strings.Contains(out, "n.yaml:3") || !strings.Contains(out, "triward config check") {
		t.Errorf("a configuration with two mistakes: %d %q", code, out)
	}
}

// What the running node says of the cluster is judged.
func TestDoctorAsksTheCluster(t *testing.T) {
	alone(t)
	now := time.Now().UnixMilli()
	cluster := fmt.Sprintf(`{"leader":"n1","tolerates":0,"nodes":[
		{"id":"n1","role":"leader","version":%q,"clock_ms":%d,"key_ring":{"active":"a","keys":["a"],"recovery":"r"}},
		{"id":"n2","role":"follower","version":"0.0.1","clock_ms":%d,"clock_offset_ms":90000,"clock_within_ms":2,"disk":{"total":100,"free":3}},
		{"id":"n3","role":"unreachable"}]}`, Version(), now, now)
	s := node(t, "tok", map[string]string{
		"/v1/cluster":   cluster,
		"/v1/snapshots": `{"schedules":[],"runs":[],"log_time":1}`,
		"/metrics":      "process_open_fds 990\nprocess_max_fds 1000\ntriward_raft_clock_suspect 1\n",
	})
	known := Context{Nodes: []ContextNode{{"n1", s.URL}}, Token: "tok"}
	cl, err := (&target{timeout: 5 * time.Second}).clientOf(&known)
	if err != nil {
		t.Fatal(err)
	}
	r := examineCluster(t.Context(), cl, "n1")
	for what, want := range map[[2]string]doctor.Status{
		{"cluster", "leader"}:           doctor.Warning, // no further node may fail
		{"cluster", "n2"}:               doctor.OK,
		{"cluster", "n3"}:               doctor.Problem,
		{"clock", "against n2"}:         doctor.Problem,
		{"clock", "this node"}:          doctor.Problem,
		{"disk", "of n2"}:               doctor.Problem,
		{"versions", "of the nodes"}:    doctor.Warning,
		{"keys", "key ring"}:            doctor.Warning, // n2 has none
		{"limits", "open files"}:        doctor.Problem,
		{"backup", "schedule"}:          doctor.Warning,
		{"certificates", "of n2"}:       "none",
		{"cluster", "nobody's finding"}: "none",
	} {
		if got := worstOf(r, what[0], what[1]); got != want {
			t.Errorf("%v: %s, want %s", what, got, want)
		}
	}
	for _, f := range r {
		if (f.Remedy == "") != (f.Status == doctor.OK) {
			t.Errorf("%+v", f)
		}
	}
}

func TestDoctorJudgesBackups(t *testing.T) {
	nightly := schedule.ScheduleStatus{Schedule: schedule.Schedule{Name: "nightly", Enabled: true}}
	paused := nightly
	paused.Paused = "restored"
	const now = int64(100 * 24 * 3600_000)
	hour := int64(3600_000)
	for name, c := range map[string]struct {
		o                       schedule.Overview
		schedule, good, attempt doctor.Status
	}{
		"nothing":    {schedule.Overview{LogTime: now}, doctor.Warning, doctor.Warning, "none"},
		"not yet":    {schedule.Overview{LogTime: now, Schedules: []schedule.ScheduleStatus{nightly}}, "none", doctor.OK, "none"},
		"good":       {schedule.Overview{LogTime: now, Schedules: []schedule.ScheduleStatus{nightly}, Runs: []schedule.Run{{Ended: 0}, {Ended: now - hour, OK: true}}}, "none", doctor.OK, "none"},
		"old":        {schedule.Overview{LogTime: now, Schedules: []schedule.ScheduleStatus{nightly}, Runs: []schedule.Run{{Ended: now - 9*24*hour, OK: true}}}, "none", doctor.Warning, "none"},
		"failed now": {schedule.Overview{LogTime: now, Schedules: []schedule.ScheduleStatus{nightly}, Runs: []schedule.Run{{Ended: now - hour, Error: "disk"}, {Ended: now - 25*hour, OK: true}}}, "none", doctor.OK, doctor.Problem},
		"paused":     {schedule.Overview{LogTime: now, Schedules: []schedule.ScheduleStatus{paused}}, doctor.Warning, doctor.Warning, "none"},
		"a drill is no backup": {schedule.Overview{LogTime: now, Schedules: []schedule.ScheduleStatus{nightly}, Runs: []schedule.Run{
			{Kind: schedule.KindDrill, Ended: now - hour, OK: true},
			{Kind: schedule.KindDrill, Ended: now - 2*hour, Error: "pack"},
			{Ended: now - 9*24*hour, OK: true},
		}}, "none", doctor.Warning, "none"},
	} {
		r := backupFindings(&c.o)
		for subject, want := range map[string]doctor.Status{"schedule": c.schedule, "last good": c.good, "newest": c.attempt} {
			if got := worstOf(r, "backup", subject); got != want {
				t.Errorf("%s, %s: %s, want %s", name, subject, got, want)
			}
		}
	}
}

// A certificate is issued on the command line while the node does not run; what is wrong is told with its remedy.
func TestTLSIssue(t *testing.T) {
	dir := alone(t)
	path := filepath.Join(dir, "n.yaml")
	data := filepath.Join(dir, "data")
	write(t, path, fmt.Sprintf("node_id: n1\ndata_dir: %s\n", data))
	code, _, errs := run(t, "tls", "issue", "--config", path)
	if code != ExitNotInitialised {
		t.Errorf("before init: %d %q", code, errs)
	}
	if code, _, errs := run(t, "cluster", "init", "--config", path); code != ExitOK {
		t.Fatal(errs)
	}
	before, err := pki.ReadCertificate(filepath.Join(data, "tls"))
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := run(t, "tls", "issue", "--config", path, "--host", "monitor.site")
	if code != ExitOK || !strings.Contains(out, "monitor.site") || !strings.Contains(errs, "triward server") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	after, err := pki.ReadCertificate(filepath.Join(data, "tls"))
	if err != nil || after.Equal(before) || after.VerifyHostname("monitor.site") != nil {
		t.Errorf("%v", err)
	}
	code, _, errs = run(t, "tls", "issue", "--config", path, "--host", "https://monitor.site:8443")
	if code != ExitFailed || !strings.Contains(errs, "--host") {
		t.Errorf("a URL as a host: %d %q", code, errs)
	}
	for _, name := range []string{pki.FileCAKey, "recovery.json"} {
		if err := os.Remove(filepath.Join(data, "tls", name)); err != nil {
			t.Fatal(err)
		}
	}
	code, _, errs = run(t, "tls", "issue", "--config", path)
	if code != ExitFailed || !strings.Contains(errs, "--recovery-key-file") || !strings.Contains(errs, "--from") {
		t.Errorf("without the CA's key: %d %q", code, errs)
	}
	write(t, filepath.Join(dir, "key"), "nothing of the kind\n")
	code, _, errs = run(t, "tls", "issue", "--config", path, "--recovery-key-file", filepath.Join(dir, "key"))
	if code != ExitFailed || !strings.Contains(errs, "AGE-SECRET-KEY-1") {
		t.Errorf("no key in the file: %d %q", code, errs)
	}
}
