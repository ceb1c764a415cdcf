package appliance

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/archive"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/events"
	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// readingDir is where rooms lie in the data directory: they are of this node alone.
const readingDir = "reading"

// logArchive archives lines and brings them back.
type logArchive struct {
	*archive.Service
	app   *App
	rooms *archive.Rooms
}

func newLogArchive(a *App) (*logArchive, error) {
	rooms, err := archive.OpenRooms(archive.RoomsConfig{Dir: a.dataPath(readingDir), Node: a.cfg.NodeID, Log: a.part("reading rooms"), Format: a.state.format})
	if err != nil {
		return nil, err
	}
	l := &logArchive{app: a, rooms: rooms}
	l.Service = archive.New(archive.Config{
		Meta: &metadata{app: a}, Node: a.cfg.NodeID, Cluster: a.identity.ClusterID(), Incarnation: a.identity.Incarnation(), Program: a.version,
		Leading: func() bool { _, self := a.node.Leader(); return self },
		Store:   a.logs, Settled: l.settled, Totals: l.totals, Log: a.part("archive"),
		Floor: func(kind wire.StreamKind) int64 {
			if kind == wire.StreamEvent {
				return a.state.wait().Floor(command.KindEvents)
			}
			return a.state.wait().Floor(command.KindLogs)
		},
		Places: schedule.Places{Sealer: a.snapshots.sealer, Folder: a.cfg.Backup.Dir},
	})
	return l, nil
}

func (l *logArchive) close(context.Context) error {
	if err := l.Service.Close(); err != nil {
		return err
	}
	return l.rooms.Close()
}

func totalsOf(sums []meta.Digest) map[int64]archive.Totals {
	out := make(map[int64]archive.Totals)
	for i := range sums {
		d := &sums[i]
		t := out[d.Day]
		switch d.Kind {
		case command.KindLogs:
			t.Logs = archive.Total{Lines: int64(d.Count), Sum: archive.Sum{Sum: d.Sum}}
		case command.KindEvents:
			t.Events = archive.Total{Lines: int64(d.Count), Sum: archive.Sum{Sum: d.Sum}}
		default:
			continue
		}
		out[d.Day] = t
	}
	return out
}

// settled is archive.Config.Settled.
func (l *logArchive) settled(ctx context.Context) (uint64, map[int64]archive.Totals, error) {
	index, sums, err := l.app.node.Settled(ctx)
	return index, totalsOf(sums), err
}

// totals is archive.Config.Totals.
func (l *logArchive) totals() map[int64]archive.Totals {
	_, sums := l.app.node.Digest()
	return totalsOf(sums)
}

// Rooms implements api.LogArchive.
func (l *logArchive) Rooms() []archive.Room { return l.rooms.List() }

// Folder implements api.LogArchive.
func (l *logArchive) Folder() string { return filepath.Join(l.app.cfg.Backup.Dir, "logs") }

// Import implements api.LogArchive.
func (l *logArchive) Import(ctx context.Context, ask archive.Ask, by schedule.Actor) (archive.Room, error) {
	ask.By = by.Name
	room, err := l.Service.Import(ctx, l.rooms, ask)
	if err == nil {
		l.note(ctx, "logs.import", room.ID, by)
	}
	return room, err
}

// RemoveRoom implements api.LogArchive.
func (l *logArchive) RemoveRoom(ctx context.Context, id string, by schedule.Actor) error {
	err := l.rooms.Remove(ctx, id)
	if err == nil {
		l.note(ctx, "logs.import.remove", id, by)
	}
	return err
}

// note writes into the audit log what was done on this node alone. Without a majority it is done nevertheless: what was
// archived may be looked for just then.
func (l *logArchive) note(ctx context.Context, action, target string, by schedule.Actor) {
	_, err := l.app.commit(ctx, command.Txn{Audit: []command.AuditRecord{
		{Actor: by.Name, Address: by.Address, Action: action, Target: target, Detail: []byte(`{"node":"` + l.app.cfg.NodeID + `"}`)},
	}})
	if err != nil {
		l.app.log.Warn("what was done is not noted in the audit log", "action", action, "target", target, "by", by.Name, "err", err)
	}
}

// Lines implements api.LogArchive.
func (l *logArchive) Lines(room string) (api.Logs, error) {
	s, err := l.rooms.Store(room)
	if err != nil {
		return nil, err
	}
	return &logQueries{s}, nil
}

// Cat implements api.LogArchive.
func (l *logArchive) Cat(ctx context.Context, path, of string, asJSON bool, begin func() io.Writer) error {
	return l.Service.Cat(ctx, path, of, asJSON, begin)
}

// held holds cuts by age at days that are not archived, if the policy of the archive says so.
func (l *logArchive) held(cuts []retention.Cut, floor func(command.Kind) int64) (out []retention.Cut) {
	for _, c := range cuts {
		if c.Kind != command.KindMetrics {
			if c.Floor = l.HoldFloor(c.Floor); c.Floor <= floor(c.Kind) {
				continue
			}
		}
		out = append(out, c)
	}
	return out
}

var roomBytesDesc = prometheus.NewDesc("triward_logs_reading_room_bytes", "What days that were brought back from the archive take of the disk of this node.", nil, nil)

// Describe implements prometheus.Collector.
func (l *logArchive) Describe(ch chan<- *prometheus.Desc) {
	l.Service.Describe(ch)
	ch <- roomBytesDesc
}

// Collect implements prometheus.Collector.
func (l *logArchive) Collect(ch chan<- prometheus.Metric) {
	l.Service.Collect(ch)
	ch <- prometheus.MustNewConstMetric(roomBytesDesc, prometheus.GaugeValue, float64(l.rooms.Bytes()))
}

// eventOfArchive tells of attempts that failed, of the first that went well after them, and of days that went unarchived.
func eventOfArchive(key string, data []byte) (e events.Event, ok bool) {
	if l, ok := archive.LostOf(key, data); ok {
		return events.Event{
			T: l.At, Key: l.Date, Kind: "logs_not_archived", Severity: wire.SeverityError, Tags: map[string]string{"date": l.Date, "reason": l.Why},
			Text: "lines of " + l.Date + " went by retention (" + l.Why + ") before they, or those that came late, were archived",
		}, true
	}
	r, ok := archive.RunOf(key, data)
	if !ok {
		return e, false
	}
	e = events.Event{
		T: r.Ended, Host: r.Node, Key: r.Date, Kind: "logs_archived", Severity: wire.SeverityInfo,
		Text: fmt.Sprintf("lines of %s were archived by node %s in %s", r.Date, r.Node, r.Target),
		Tags: map[string]string{"date": r.Date, "target": r.Target, "by": r.By, "lines": fmt.Sprint(r.Lines), "bytes": fmt.Sprint(r.Stored)},
	}
	if !r.OK {
		e.Kind, e.Severity = "logs_archive_failed", wire.SeverityError
		e.Text = fmt.Sprintf("lines of %s were not archived: node %s failed: %s", r.Date, r.Node, r.Error)
		return e, r.Tell || r.Attempt == 1 // the second: of a node of before there was Tell
	}
	return e, true
}
