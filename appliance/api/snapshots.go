package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/problem"
)

// SnapshotRequest says for whom a backup is encrypted. With none of it it is not, and then has private keys only as
// the recovery key opens them.
type SnapshotRequest struct {
	Recipients []string `json:"recipients,omitempty"` // public keys of age
	Recovery   bool     `json:"recovery,omitempty"`   // the cluster's recovery key
	Passphrase string   `json:"passphrase,omitempty"`
	Damaged    bool     `json:"damaged,omitempty"` // also of a node that knows that its data is damaged or behind
}

// SnapshotStart is what is known when a backup begins.
type SnapshotStart struct {
	Cluster, Node string
	Index         uint64
	LogTime       int64    // milliseconds since 1970
	ImageBytes    int64    // before compression
	Complete      bool     // the node was known to hold all that was committed
	Damage        []string // that the node knows of in its state
}

// FileName is the name under which a backup is kept when nobody says otherwise.
func (s *SnapshotStart) FileName() string {
	return fmt.Sprintf("triward-%s-%s-%d%s", s.Cluster, time.UnixMilli(s.LogTime).UTC().Format("20060102T150405Z"), s.Index, schedule.Suffix)
}

// Snapshots makes backups of the node's state and knows of those that the cluster makes.
type Snapshots interface {
	// Stream calls begin once the state is cut and writes the backup to what that returns. When it fails after that,
	// what was written is no backup.
	//
	// A state that the node knows to be damaged is refused unless the request says otherwise.
	Stream(ctx context.Context, req SnapshotRequest, by schedule.Actor, begin func(SnapshotStart) io.Writer) error

	Overview(runs int) schedule.Overview
	Put(ctx context.Context, s schedule.Schedule, by schedule.Actor) error
	Delete(ctx context.Context, name string, by schedule.Actor) error
	// Start and StartSchedule return once the backup has begun on this node.
	Start(ctx context.Context, j schedule.Job, by schedule.Actor) (schedule.Run, error)
	StartSchedule(ctx context.Context, name string, by schedule.Actor) (schedule.Run, error)
	// StartDrill returns once this node has begun to try a restore of the newest backup of a schedule.
	StartDrill(ctx context.Context, name string, by schedule.Actor) (schedule.Run, error)
	Cancel(ctx context.Context, run string, by schedule.Actor) error
	// Check stores something small in a place and removes it.
	Check(ctx context.Context, w schedule.Where, name string) error
	// Folder is where backups of the kind folder go on this node, Recovery the public part of the cluster's recovery
	// key, "" when it has none.
	Folder() string
	Recovery() string
}

// Headers of a streamed backup.
const (
	SnapshotIndexHeader = "X-Triward-Snapshot-Index"
	SnapshotBytesHeader = "X-Triward-Snapshot-Image-Bytes"
	WarningHeader       = "X-Triward-Warning"
	snapshotType        = "application/vnd.triward.backup"
)

type snapshotsAnswer struct {
	schedule.Overview
	Node     string `json:"node"`     // that answers
	Folder   string `json:"folder"`   // of this node
	Recovery string `json:"recovery"` // public part of the cluster's recovery key, "" for none
}

type scheduleBody struct {
	Enabled    bool           `json:"enabled"`
	Target     schedule.Where `json:"target"`
	Recipients []string       `json:"recipients,omitempty"`
	Recovery   bool           `json:"recovery,omitempty"`
	Plain      bool           `json:"plain,omitempty"`
	Node       string         `json:"node,omitempty"`
	At         string         `json:"at"`
	Every      int            `json:"every_h,omitempty"` // 24 when absent
	Weekdays   []string       `json:"weekdays,omitempty"`
	Zone       string         `json:"zone,omitempty"`
	KeepLast   int            `json:"keep_last,omitempty"`
	KeepDays   int            `json:"keep_days,omitempty"`
	Form       string         `json:"form,omitempty"`       // file (also when absent) or repository
	Archive    int            `json:"archive_s,omitempty"`  // seconds from one segment of the log to the next; 0: none
	Drill      int            `json:"drill_days,omitempty"` // days from one tried restore to the next; 0: none
}

type checkTargetBody struct {
	Target   schedule.Where `json:"target"`
	Schedule string         `json:"schedule,omitempty"` // whose secret key is used when the target has none
}

func snapshotRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/snapshot", Permission: auth.Administer, Long: true, Type: snapshotType,
			Summary: "A backup of this node's state as a file",
			Params: []Param{
				{
					Name: "recipients", Kind: paramText, MaxLen: 32 << 10,
					Doc: "public keys of age for whom it is encrypted, separated by commas; not encrypted when absent",
				},
				{Name: "recovery", Kind: paramChoice, Choices: []string{"true", "false"}, Doc: "encrypt for the cluster's recovery key"},
			},
			serve: (*API).downloadSnapshot,
		},
		{
			Method: "POST", Path: "/v1/snapshot", Permission: auth.Administer, Long: true, Type: snapshotType,
			Summary: "A backup of this node's state as a file, encrypted for public keys or a passphrase",
			Body:    SnapshotRequest{}, MaxBody: 128 << 10, serve: (*API).makeSnapshot,
		},
		{
			Method: "GET", Path: "/v1/snapshots", Permission: auth.Read, Summary: "Schedules of backups, and what became of their runs",
			Fresh: true, Params: []Param{limitParam(100, 500)}, Answer: snapshotsAnswer{}, serve: (*API).snapshots,
		},
		{
			Method: "POST", Path: "/v1/snapshots", Permission: auth.Administer, Status: http.StatusAccepted,
			Summary: "Make a backup on this node and store it in a folder of the node or in S3", Body: schedule.Job{}, MaxBody: 256 << 10,
			Answer: schedule.Run{}, serve: (*API).startSnapshot,
		},
		{
			Method: "DELETE", Path: "/v1/snapshots/runs/{id}", Permission: auth.Administer, Summary: "Cancel the backup under way",
			Status: http.StatusNoContent, serve: (*API).cancelSnapshot,
		},
		{
			Method: "PUT", Path: "/v1/snapshots/schedules/{name}", Permission: auth.Administer, Summary: "Make or change a schedule",
			Body: scheduleBody{}, MaxBody: 256 << 10, Status: http.StatusNoContent, serve: (*API).putSchedule,
		},
		{
			Method: "DELETE", Path: "/v1/snapshots/schedules/{name}", Permission: auth.Administer,
			Summary: "Remove a schedule; its backups stay", Status: http.StatusNoContent, serve: (*API).deleteSchedule,
		},
		{
			Method: "POST", Path: "/v1/snapshots/schedules/{name}/run", Permission: auth.Administer, Status: http.StatusAccepted,
			Summary: "Make the backup of a schedule now, on this node", Answer: schedule.Run{}, serve: (*API).runSchedule,
		},
		{
			Method: "POST", Path: "/v1/snapshots/schedules/{name}/drill", Permission: auth.Administer, Status: http.StatusAccepted,
			Summary: "Try to restore the newest backup of a schedule now, on this node", Answer: schedule.Run{}, serve: (*API).drillSchedule,
		},
		{
			Method: "POST", Path: "/v1/snapshots/check", Permission: auth.Administer, Status: http.StatusNoContent,
			Summary: "Find out whether this node can store backups in a place", Body: checkTargetBody{}, MaxBody: 128 << 10,
			serve: (*API).checkTarget,
		},
	}
}

func (q *request) actor() schedule.Actor {
	return schedule.Actor{Name: q.p.Actor(), Address: q.p.Address}
}

func (a *API) downloadSnapshot(q *request) error {
	// A page of somebody else's could make a browser ask for this; the answer would not be readable to it, but the
	// node would work for nothing.
	if site := q.r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return problem.New(http.StatusForbidden, "the request comes from a page of another origin")
	}
	req := SnapshotRequest{Recovery: q.v.str("recovery") == "true"}
	if list := q.v.str("recipients"); list != "" {
		req.Recipients = strings.Split(list, ",")
	}
	return a.streamSnapshot(q, req)
}

func (a *API) makeSnapshot(q *request) error {
	var req SnapshotRequest
	if err := q.body(&req); err != nil {
		return err
	}
	// The deadline of the body would end the connection in the middle of the answer.
	if err := http.NewResponseController(q.w).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("lift deadline of the request: %w", err)
	}
	return a.streamSnapshot(q, req)
}

func (a *API) streamSnapshot(q *request, req SnapshotRequest) error {
	begun := false
	err := a.cfg.Snapshots.Stream(q.ctx(), req, q.actor(), func(s SnapshotStart) io.Writer {
		begun = true
		h := q.w.Header()
		h.Set("Content-Type", snapshotType)
		h.Set("Content-Disposition", `attachment; filename="`+s.FileName()+`"`)
		h.Set(SnapshotIndexHeader, strconv.FormatUint(s.Index, 10))
		h.Set(SnapshotBytesHeader, strconv.FormatInt(s.ImageBytes, 10))
		if !s.Complete {
			h.Add(WarningHeader, "no majority answered: the backup is of what this node has, which may lack what others acknowledged")
		}
		if n := len(s.Damage); n > 0 {
			h.Add(WarningHeader, fmt.Sprintf("the state of node %s is not whole, and so is the backup (%d places, named in its manifest): keep older ones", s.Node, n))
		}
		return &patientWriter{w: q.w, rc: http.NewResponseController(q.w)}
	})
	if err != nil && begun {
		// The connection must not end as if all was well.
		a.log.Warn("backup was cut short", "request", q.id, "err", err)
		panic(http.ErrAbortHandler)
	}
	return err
}

// writePatience is how long a client of a long answer may take nothing of it.
const writePatience = time.Minute

// patientWriter lets an answer take as long as it takes, while the client goes on taking it.
type patientWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

// Write implements io.Writer.
func (p *patientWriter) Write(b []byte) (int, error) {
	if err := p.rc.SetWriteDeadline(time.Now().Add(writePatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, fmt.Errorf("set deadline of a long answer: %w", err)
	}
	return p.w.Write(b)
}

func (a *API) snapshots(q *request) error {
	s := a.cfg.Snapshots
	o := s.Overview(int(q.v.int("limit")))
	if !q.p.Role.Allows(auth.Administer) { // who may not change the places need not know how they are opened
		for i := range o.Schedules {
			o.Schedules[i].Target.AccessKey = ""
		}
	}
	return q.answer(http.StatusOK, snapshotsAnswer{
		Overview: o, Node: a.cfg.Cluster.Identity().Node, Folder: s.Folder(), Recovery: s.Recovery(),
	})
}

func (a *API) startSnapshot(q *request) error {
	var j schedule.Job
	if err := q.body(&j); err != nil {
		return err
	}
	run, err := a.cfg.Snapshots.Start(q.ctx(), j, q.actor())
	if err != nil {
		return err
	}
	return q.answer(http.StatusAccepted, run)
}

func (a *API) cancelSnapshot(q *request) error {
	return q.done(a.cfg.Snapshots.Cancel(q.ctx(), q.r.PathValue("id"), q.actor()))
}

func (a *API) putSchedule(q *request) error {
	var b scheduleBody
	if err := q.body(&b); err != nil {
		return err
	}
	if b.Every == 0 {
		b.Every = 24
	}
	return q.done(a.cfg.Snapshots.Put(q.ctx(), schedule.Schedule{
		Name: q.r.PathValue("name"), Enabled: b.Enabled, At: b.At, Every: b.Every, Weekdays: b.Weekdays, Zone: b.Zone,
		KeepLast: b.KeepLast, KeepDays: b.KeepDays, Archive: b.Archive,
		Job: schedule.Job{
			Target: b.Target, Node: b.Node, Form: b.Form, Drill: b.Drill,
			Protection: schedule.Protection{Recipients: b.Recipients, Recovery: b.Recovery, Plain: b.Plain},
		},
	}, q.actor()))
}

func (a *API) deleteSchedule(q *request) error {
	return q.done(a.cfg.Snapshots.Delete(q.ctx(), q.r.PathValue("name"), q.actor()))
}

func (a *API) runSchedule(q *request) error {
	run, err := a.cfg.Snapshots.StartSchedule(q.ctx(), q.r.PathValue("name"), q.actor())
	if err != nil {
		return err
	}
	return q.answer(http.StatusAccepted, run)
}

func (a *API) drillSchedule(q *request) error {
	run, err := a.cfg.Snapshots.StartDrill(q.ctx(), q.r.PathValue("name"), q.actor())
	if err != nil {
		return err
	}
	return q.answer(http.StatusAccepted, run)
}

func (a *API) checkTarget(q *request) error {
	var b checkTargetBody
	if err := q.body(&b); err != nil {
		return err
	}
	err := a.cfg.Snapshots.Check(q.ctx(), b.Target, b.Schedule)
	if err != nil && !errors.Is(err, schedule.ErrInvalid) {
		err = problem.Wrap(http.StatusConflict, err) // with its text: it is about the operator's own place
	}
	return q.done(err)
}
