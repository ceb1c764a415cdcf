package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/schedule"
)

// backups stands for what makes backups.
type backups struct {
	asked SnapshotRequest
	by    schedule.Actor
	put   schedule.Schedule
	job   schedule.Job
	err   error // of everything
	cut   error // of a stream, after its first bytes
}

func (b *backups) Stream(_ context.Context, req SnapshotRequest, by schedule.Actor, begin func(SnapshotStart) io.Writer) error {
	b.asked, b.by = req, by
	if b.err != nil {
		return b.err
	}
	w := begin(SnapshotStart{Cluster: "c1", Node: "n1", Index: 42, LogTime: 1_700_000_000_000, ImageBytes: 7})
	if _, err := io.WriteString(w, strings.Repeat("backup ", 1000)); err != nil {
		return err
	}
	return b.cut
}

func (b *backups) Overview(int) schedule.Overview {
	return schedule.Overview{Schedules: []schedule.ScheduleStatus{}, Runs: []schedule.Run{}}
}

func (b *backups) Put(_ context.Context, s schedule.Schedule, by schedule.Actor) error {
	b.put, b.by = s, by
	return b.err
}
func (b *backups) Delete(context.Context, string, schedule.Actor) error { return b.err }

func (b *backups) Start(_ context.Context, j schedule.Job, by schedule.Actor) (schedule.Run, error) {
	b.job, b.by = j, by
	return schedule.Run{ID: "r1"}, b.err
}

func (b *backups) StartSchedule(context.Context, string, schedule.Actor) (schedule.Run, error) {
	return schedule.Run{ID: "r1"}, b.err
}

func (b *backups) StartDrill(context.Context, string, schedule.Actor) (schedule.Run, error) {
	return schedule.Run{}, b.err
}
func (b *backups) Cancel(context.Context, string, schedule.Actor) error { return b.err }
func (b *backups) Check(context.Context, schedule.Where, string) error  { return b.err }
func (b *backups) Folder() string                                       { return "/backups" }
func (b *backups) Recovery() string                                     { return "age1x" }

func TestABackupIsStreamed(t *testing.T) {
	made := &backups{}
	s := newStand(t, func(c *Config) { c.Snapshots = made })
	admin := s.tokens[auth.RoleAdministrator]
	w := s.do(call{method: "GET", path: "/v1/snapshot?recipients=age1a,age1b&recovery=true", token: admin})
	if w.Code != 200 || !strings.HasPrefix(w.Body.String(), "backup ") || w.Header().Get(SnapshotIndexHeader) != "42" {
		t.Errorf("%d %s %.40s", w.Code, w.Header(), w.Body)
	}
	if d := w.Header().Get("Content-Disposition"); d != `attachment; filename="triward-c1-20231114T221320Z-42.triward"` {
		t.Errorf("content disposition %s", d)
	}
	if w.Header().Get(WarningHeader) == "" {
		t.Error("nothing says that the backup may lack something")
	}
	if !slices.Equal(made.asked.Recipients, []string{"age1a", "age1b"}) || !made.asked.Recovery || !strings.HasPrefix(made.by.Name, "token administrator ") || made.by.Address != "127.0.0.1" {
		t.Errorf("asked %+v by %+v", made.asked, made.by)
	}
	w = s.do(call{method: "POST", path: "/v1/snapshot", body: `{"passphrase":"correct horse battery"}`, token: admin})
	if w.Code != 200 || made.asked.Passphrase != "correct horse battery" {
		t.Errorf("%d, asked %+v", w.Code, made.asked)
	}
	for _, site := range []string{"cross-site", "same-site"} {
		s.problem(site, s.do(call{method: "GET", path: "/v1/snapshot", token: admin, header: map[string]string{"Sec-Fetch-Site": site}}), 403)
	}
	s.problem("unknown field", s.do(call{method: "POST", path: "/v1/snapshot", body: `{"password":"x"}`, token: admin}), 400)
	s.problem("operator", s.do(call{method: "GET", path: "/v1/snapshot", token: s.tokens[auth.RoleOperator]}), 403)
}

// TestABackupThatFailsDoesNotEndWell cuts the connection of a stream that failed, so that nobody takes what came for a
// whole answer.
func TestABackupThatFailsDoesNotEndWell(t *testing.T) {
	made := &backups{cut: errors.New("the disk is gone")}
	s := newStand(t, func(c *Config) { c.Snapshots = made })
	server := httptest.NewServer(s.api)
	defer server.Close()
	get := func() (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v1/snapshot", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.tokens[auth.RoleAdministrator])
		return server.Client().Do(req)
	}
	resp, err := get()
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("the answer ended as if it was whole")
	}
	made.err = errors.New("before anything was sent")
	resp, err = get()
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestSchedulesThroughTheAPI(t *testing.T) {
	made := &backups{}
	s := newStand(t, func(c *Config) { c.Snapshots = made })
	admin := s.tokens[auth.RoleAdministrator]
	body := `{"enabled":true,"target":{"kind":"folder"},"recovery":true,"at":"02:00","keep_last":3}`
	if w := s.do(call{method: "PUT", path: "/v1/snapshots/schedules/nightly", body: body, token: admin}); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if p := made.put; p.Name != "nightly" || p.Every != 24 || !p.Recovery || p.KeepLast != 3 || !strings.HasPrefix(made.by.Name, "token administrator ") {
		t.Errorf("put %+v by %+v", p, made.by)
	}
	if w := s.do(call{method: "POST", path: "/v1/snapshots", body: `{"target":{"kind":"folder"},"plain":true}`, token: admin}); w.Code != 202 || !made.job.Plain {
		t.Errorf("%d %s, job %+v", w.Code, w.Body, made.job)
	}
	if w := s.do(call{method: "GET", path: "/v1/snapshots", token: s.tokens[auth.RoleViewer]}); w.Code != 200 || !strings.Contains(w.Body.String(), `"folder":"/backups"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	made.err = errors.New("no access: key wrong")
	w := s.do(call{method: "POST", path: "/v1/snapshots/check", body: `{"target":{"kind":"folder"}}`, token: admin})
	if p := s.problem("check", w, 409); !strings.Contains(p.Detail, "key wrong") {
		t.Errorf("the answer does not say why: %+v", p)
	}
}
