package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/state"
	"github.com/triward/triward/appliance/archive"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/events"
	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

// sourceOfEvents delivers the events of the cluster, as an agent does its own.
const sourceOfEvents = "cluster:events"

// eventBuckets are those whose records are told as events.
var eventBuckets = []string{audit.BucketRecords, machine.BucketRetentionCuts, schedule.Bucket, archive.Bucket, alerting.BucketHistory}

// newEvents puts together what tells of the cluster itself. It works once the node is open and Start was called.
func (a *App) newEvents() (*events.Service, error) {
	coder, err := wire.NewCoder()
	if err != nil {
		return nil, err
	}
	r := &eventRecords{app: a}
	return events.New(events.Config{
		Node: a.cfg.NodeID, Meta: &metadata{app: a}, Leading: func() bool { _, self := a.node.Leader(); return self },
		Fresh:   func(ctx context.Context) error { return a.node.Barrier(ctx) },
		Cluster: a.eventCluster, Agents: r.agents, Read: r.read, Recent: r.recent, Buckets: eventBuckets,
		Deliver: func(ctx context.Context, b *wire.LogBatch) error {
			raw := wire.AppendLogs(nil, b)
			d := command.Deliver{Source: sourceOfEvents, Lane: wire.LaneEvents, Flags: command.RepeatsDropped, RawLen: len(raw)}
			d.Codec, d.Body = coder.Compress(nil, raw)
			return a.propose(ctx, command.NewDeliver(d))
		},
		Log: a.part("events"), Registerer: a.registry,
	}), nil
}

// eventCluster is the cluster as this node, which leads, sees it.
func (a *App) eventCluster(ctx context.Context) (events.Cluster, error) {
	st := a.node.Status()
	out := events.Cluster{Leader: st.Leader, Term: st.Term, Suspect: st.ClockSuspect}
	body, err := a.cluster.Status(ctx)
	if err != nil {
		return out, err
	}
	var all clusterStatus
	if err := json.Unmarshal(body, &all); err != nil {
		return out, fmt.Errorf("state of the cluster: %w", err)
	}
	for _, m := range st.Members {
		n := events.Node{ID: m.ID, Lost: m.Lost}
		if m.Lost {
			n.LostMs = time.Since(m.LastContact).Milliseconds()
		}
		for i := range all.Nodes {
			if s := &all.Nodes[i]; s.ID == m.ID && s.Role != "unreachable" {
				n.Known, n.Total, n.Free, n.Full, n.CertEnd = true, s.Disk.Total, s.Disk.Free, s.DiskFull, s.CertExpires
			}
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out, nil
}

// eventRecords makes events of what other parts wrote down.
type eventRecords struct{ app *App }

func (r *eventRecords) agents() []events.Agent {
	now := r.app.state.LogTime()
	var out []events.Agent
	for _, a := range r.app.view.Agents() {
		if !a.Revoked {
			x := alertingAgent(&a, now)
			out = append(out, events.Agent{ID: x.ID, Host: x.Host, LastSeen: x.LastSeen})
		}
	}
	return out
}

// recent lists keys of records that may be younger than since.
func (r *eventRecords) recent(bucket string, since int64) (keys []string) {
	if bucket == audit.BucketRecords { // there may be very many: from the newest back
		v, _ := r.app.state.Get(audit.BucketHead, audit.KeyHead)
		head, err := audit.ParseHead(v.Data)
		if err != nil {
			return nil
		}
		for seq := head.Seq; seq >= max(head.First, 1); seq-- {
			v, ok := r.app.state.Get(bucket, audit.Key(seq))
			rec, err := audit.ParseRecord(v.Data)
			if !ok || err != nil || rec.Time < since {
				break
			}
			keys = append(keys, audit.Key(seq))
		}
		slices.Reverse(keys)
		return keys
	}
	r.app.state.Scan(bucket, "", func(key string, _ meta.Value) bool {
		keys = append(keys, key)
		return true
	})
	return keys
}

func (r *eventRecords) read(bucket, key string, since int64) (e events.Event, ok bool) {
	v, found := r.app.state.Get(bucket, key)
	if !found {
		return e, false
	}
	switch bucket {
	case audit.BucketRecords:
		e, ok = eventOfAudit(v.Data)
	case machine.BucketRetentionCuts:
		e, ok = eventOfCut(v.Data)
	case schedule.Bucket:
		switch {
		case strings.HasPrefix(key, "run/"):
			e, ok = eventOfBackup(v.Data)
		case strings.HasPrefix(key, "gap/"):
			e, ok = eventOfGap(v.Data)
		}
	case archive.Bucket:
		e, ok = eventOfArchive(key, v.Data)
	case alerting.BucketHistory:
		e, ok = eventOfAlert(v.Data)
	}
	e.ID = bucket + "/" + key
	return e, ok && e.T >= since
}

// eventOfAudit tells of agents that were let in and out.
func eventOfAudit(data []byte) (e events.Event, ok bool) {
	rec, err := audit.ParseRecord(data)
	if err != nil {
		return e, false
	}
	var detail struct {
		Hostname string `json:"hostname"`
	}
	_ = json.Unmarshal(rec.Detail, &detail) // none: the agent's id says enough
	e = events.Event{T: rec.Time, Host: detail.Hostname, Agent: rec.Target, Tags: map[string]string{"by": rec.Actor, "address": rec.Address}}
	switch rec.Action {
	case "agent.enroll":
		e.Kind, e.Severity, e.Text = "agent_enrolled", wire.SeverityInfo, "the agent of "+detail.Hostname+" was enrolled by "+rec.Actor
	case "agent.revoke":
		e.Kind, e.Severity, e.Text = "agent_revoked", wire.SeverityNotice, "the agent of "+detail.Hostname+" was revoked by "+rec.Actor
	default:
		return eventOfMembers(e, &rec)
	}
	return e, true
}

// eventOfMembers tells of changes of the members that the log's configuration alone does not show.
func eventOfMembers(e events.Event, rec *audit.Record) (events.Event, bool) {
	e.Host, e.Agent = rec.Target, ""
	switch rec.Action {
	case "node.vote":
		e.Kind, e.Severity, e.Text = "node_promoted", wire.SeverityInfo, "node "+rec.Target+" has caught up and has a vote"
	case "node.demote":
		e.Kind, e.Severity, e.Text = "node_demoted", wire.SeverityNotice, rec.Actor+" took the vote of node "+rec.Target+" away: it is read-only"
	case "cluster.recover":
		var note recoveredFrom
		_ = json.Unmarshal(rec.Detail, &note) // none: that it happened says enough
		e.Host, e.Kind, e.Severity = note.Node, "cluster_recovered", wire.SeverityCritical
		e.Text = fmt.Sprintf("the cluster lost its majority and goes on from node %s alone; given up: %s", note.Node, strings.Join(note.Lost, ", "))
	case "upgrade.finalize":
		e.Host, e.Kind, e.Severity, e.Text = "", "format_raised", wire.SeverityNotice, rec.Actor+" raised the cluster's format to "+rec.Target
	default:
		return e, false
	}
	return e, true
}

// eventOfCut tells of data that went for another reason than its age.
func eventOfCut(data []byte) (e events.Event, ok bool) {
	var cut struct {
		At     int64  `json:"at"`
		Kind   string `json:"kind"`
		Floor  int64  `json:"floor"`
		Reason string `json:"reason"`
	}
	if json.Unmarshal(data, &cut) != nil || cut.Reason == command.CutAge.String() {
		return e, false
	}
	before := time.UnixMilli(cut.Floor).UTC().Format(time.RFC3339)
	e = events.Event{
		T: cut.At, Kind: "data_cut", Key: cut.Kind, Severity: wire.SeverityWarning,
		Text: cut.Kind + " before " + before + " were removed for want of room",
		Tags: map[string]string{"data": cut.Kind, "before": before, "reason": cut.Reason},
	}
	if cut.Reason != command.CutSize.String() {
		e.Severity, e.Text = wire.SeverityNotice, cut.Kind+" before "+before+" were removed: an operator asked for it"
	}
	return e, true
}

// eventOfBackup tells of a backup that has ended.
func eventOfBackup(data []byte) (e events.Event, ok bool) {
	var run schedule.Run
	if json.Unmarshal(data, &run) != nil || run.Ended == 0 {
		return e, false
	}
	what := "a backup"
	if run.Schedule != "" {
		what = "the backup of schedule " + run.Schedule
	}
	e = events.Event{
		T: run.Ended, Host: run.Node, Key: run.Schedule, Kind: "backup_done", Severity: wire.SeverityInfo,
		Text: fmt.Sprintf("%s was made by node %s: %s", what, run.Node, run.Name),
		Tags: map[string]string{"name": run.Name, "schedule": run.Schedule, "by": run.By, "target": run.Target.Kind},
	}
	if run.Bytes > 0 {
		e.Tags["bytes"] = fmt.Sprint(run.Bytes)
	}
	if run.Kind == schedule.KindDrill {
		return eventOfDrill(&run, e), true
	}
	if !run.OK {
		e.Kind, e.Severity, e.Text = "backup_failed", wire.SeverityError, fmt.Sprintf("%s failed on node %s: %s", what, run.Node, run.Error)
	}
	return e, true
}

// eventOfDrill tells how trying a restore went.
func eventOfDrill(run *schedule.Run, e events.Event) events.Event {
	e.Kind, e.Text = "restore_drill_done", fmt.Sprintf("a restore of the newest backup of schedule %s was tried on node %s and went well: %s", run.Schedule, run.Node, run.Name)
	if !run.OK {
		e.Kind, e.Severity = "restore_drill_failed", wire.SeverityError
		e.Text = fmt.Sprintf("a restore of the newest backup of schedule %s was tried on node %s and failed: %s", run.Schedule, run.Node, run.Error)
	}
	if run.Drill != nil {
		e.Tags["digest"], e.Tags["digest_wanted"] = run.Drill.Digest, run.Drill.Want
	}
	return e
}

// eventOfGap tells of entries that no archive has.
func eventOfGap(data []byte) (e events.Event, ok bool) {
	var g schedule.Gap
	if json.Unmarshal(data, &g) != nil || g.From == 0 {
		return e, false
	}
	return events.Event{
		T: g.At, Host: g.Node, Key: g.Schedule, Kind: "log_archive_gap", Severity: wire.SeverityError,
		Text: fmt.Sprintf("entries %d to %d of the log were not archived by schedule %s before they were gone: no restore can end there; the next backup closes the gap", g.From, g.To, g.Schedule),
		Tags: map[string]string{"schedule": g.Schedule, "from": fmt.Sprint(g.From), "to": fmt.Sprint(g.To)},
	}, true
}

// eventOfAlert tells what became of an alert.
func eventOfAlert(data []byte) (e events.Event, ok bool) {
	var h state.History
	if json.Unmarshal(data, &h) != nil || h.Alert == "" {
		return e, false
	}
	name, host := h.Labels["alertname"], h.Labels["host"]
	of := "alert " + name
	if host != "" {
		of += " of " + host
	}
	e = events.Event{
		T: h.T, Source: events.SourceAlerts, Host: host, Agent: h.Labels["agent"], Key: h.Alert,
		Tags: map[string]string{"alert": name, "rule": h.Rule, "level": h.Labels["severity"], "by": h.By},
	}
	if e.Host == "" {
		e.Agent = ""
	}
	switch h.What {
	case state.WhatFired:
		e.Kind, e.Text, e.Severity = "alert_fired", of+" fires", wire.SeverityWarning
		switch h.Labels["severity"] {
		case "critical":
			e.Severity = wire.SeverityCritical
		case "info":
			e.Severity = wire.SeverityNotice
		}
	case state.WhatResolved:
		e.Kind, e.Text, e.Severity = "alert_resolved", of+" is over", wire.SeverityInfo
	case state.WhatAcked:
		e.Kind, e.Text, e.Severity = "alert_acknowledged", of+" was acknowledged by "+h.By, wire.SeverityInfo
	case state.WhatEscalated:
		e.Kind, e.Text, e.Severity = "alert_escalated", of+" was escalated: nobody acknowledged it", wire.SeverityError
	default:
		return e, false
	}
	return e, true
}

// imageInstalled tells that this node took everything anew from another one.
func (a *App) imageInstalled(index uint64) {
	a.events.Tell(events.Event{
		ID: fmt.Sprintf("image/%s/%d", a.cfg.NodeID, index), Kind: "image_installed", Host: a.cfg.NodeID, Severity: wire.SeverityNotice,
		Text: fmt.Sprintf("node %s was too far behind and took the whole state of another node, as of entry %d", a.cfg.NodeID, index),
		Tags: map[string]string{"index": fmt.Sprint(index)},
	})
}

// agentCloned tells that two machines send as one agent, once a day.
func (a *App) agentCloned(agent *auth.Agent) {
	day := a.state.LogTime() / day.Milliseconds()
	a.events.Tell(events.Event{
		ID: fmt.Sprintf("cloned/%s/%d", agent.ID, day), Kind: "agent_cloned", Host: agent.Hostname, Agent: agent.ID, Key: agent.ID,
		Severity: wire.SeverityError, Text: "two machines send as the agent of " + agent.Hostname + ": one is a copy of the other",
	})
}

// agentOverloads tells whose data a node has to refuse others for, once an hour.
func (a *App) agentOverloads(agent *auth.Agent, part float64) {
	hour := a.state.LogTime() / time.Hour.Milliseconds()
	a.events.Tell(events.Event{
		ID: fmt.Sprintf("overload/%s/%s/%d", a.cfg.NodeID, agent.ID, hour), Kind: "agent_overload", Host: agent.Hostname, Agent: agent.ID, Key: agent.ID,
		Severity: wire.SeverityWarning, Tags: map[string]string{"node": a.cfg.NodeID, "percent": fmt.Sprint(int(100 * part))},
		Text: fmt.Sprintf("more comes than node %s takes; %d %% of it is from the agent of %s", a.cfg.NodeID, int(100*part), agent.Hostname),
	})
}
