package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/doctor"
)

// backupOld is when a cluster that has no schedule has gone too long without a backup.
const backupOld = 7 * 24 * time.Hour

// judgeBackups says when the cluster last made a backup by itself, and whether the newest attempt went well.
func judgeBackups(ctx context.Context, cl *client) doctor.Report {
	var o schedule.Overview
	if err := cl.get(ctx, "/v1/snapshots", nil, &o); err != nil {
		return doctor.Report{{Check: "backup", Subject: "backups", Status: doctor.Warning, Detail: err.Error(), Remedy: remedyOf(err)}}
	}
	return backupFindings(&o)
}

func backupFindings(o *schedule.Overview) (r doctor.Report) {
	const make = "triward snapshot schedule set nightly --at 02:00 --to folder --recovery"
	active := 0
	for i := range o.Schedules {
		s := &o.Schedules[i]
		switch {
		case s.Paused != "":
			r.Add("backup", "schedule "+s.Name, doctor.Warning, "paused: "+s.Paused, "look at its target and save the schedule again")
		case s.Enabled:
			active++
		}
	}
	var good, newest, drill *schedule.Run
	for i := range o.Runs { // newest first
		run := &o.Runs[i]
		if run.Ended == 0 {
			continue
		}
		if run.Kind == schedule.KindDrill {
			if drill == nil {
				drill = run
			}
			continue
		}
		if newest == nil {
			newest = run
		}
		if run.OK && good == nil {
			good = run
		}
	}
	if active == 0 {
		r.Add("backup", "schedule", doctor.Warning, "no schedule makes backups", make)
	}
	switch {
	case good == nil && active > 0 && newest == nil:
		r.Add("backup", "last good one", doctor.OK, "none yet; the schedule has not come to its time", "")
	case good == nil:
		r.Add("backup", "last good one", doctor.Warning, "none that the cluster made by itself", "triward snapshot schedule run NAME, or triward snapshot save FILE --recovery")
	default:
		age := time.Duration(o.LogTime-good.Ended) * time.Millisecond
		status := doctor.OK
		if age > backupOld {
			status = doctor.Warning
		}
		r.Add("backup", "last good one", status, fmt.Sprintf("%s ago, on %s", age.Round(time.Minute), good.Node), "triward snapshot list says what became of the others")
	}
	if newest != nil && !newest.OK {
		r.Add("backup", "newest attempt", doctor.Problem, newest.Error, "mend that, then: triward snapshot schedule run "+newest.Schedule)
	}
	if drill != nil && !drill.OK {
		r.Add("backup", "restore drill", doctor.Problem, drill.Error,
			"look at the place, make another backup, then: triward snapshot drill "+drill.Schedule)
	}
	return r
}

// text asks for something that is no JSON.
func (c *client) text(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.reach(ctx, http.MethodGet, path, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("read answer of %s: %w", resp.Request.URL.Host, err)
	}
	if resp.StatusCode/100 != 2 {
		return "", newAPIError(resp, body)
	}
	return string(body), nil
}
