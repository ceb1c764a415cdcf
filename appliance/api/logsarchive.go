package api

import (
	"context"
	"io"
	"net/http"

	"github.com/triward/triward/appliance/archive"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/problem"
)

// LogArchive keeps days of lines outside of the cluster and brings them back.
type LogArchive interface {
	Overview(most int) archive.Overview
	Put(ctx context.Context, p archive.Policy, by schedule.Actor) error
	Delete(ctx context.Context, by schedule.Actor) error
	// Start returns once this node has begun to archive the day, or with none the first of those that wait.
	Start(ctx context.Context, date string, by schedule.Actor) (archive.Claim, error)
	Check(ctx context.Context, w schedule.Where) error
	Tree(ctx context.Context, path, of string) (archive.Listing, error)
	// Cat calls begin once there is something to write; when it fails after that, what was written is not all.
	Cat(ctx context.Context, path, of string, asJSON bool, begin func() io.Writer) error
	// Rooms are the days that were brought back to this node. Import returns once it is known what will be.
	Rooms() []archive.Room
	Import(ctx context.Context, ask archive.Ask, by schedule.Actor) (archive.Room, error)
	RemoveRoom(ctx context.Context, id string, by schedule.Actor) error
	// Lines answers questions about the lines of a room.
	Lines(room string) (Logs, error)
	// Folder is where lines are archived on this node when that is the place.
	Folder() string
}

type archiveAnswer struct {
	archive.Overview
	Node   string         `json:"node"`   // that answers
	Folder string         `json:"folder"` // of this node
	Rooms  []archive.Room `json:"rooms"`  // of this node
}

type archivePolicyBody struct {
	Enabled  bool           `json:"enabled"`
	Target   schedule.Where `json:"target"`
	Node     string         `json:"node,omitempty"`    // that archives; the leader when absent
	After    int            `json:"after_h,omitempty"` // hours after the end of a day; 24 when absent
	Hold     bool           `json:"hold,omitempty"`    // retention by age waits for the archive
	HoldDays int            `json:"hold_days,omitempty"`
}

type archiveRunBody struct {
	Date string `json:"date,omitempty"` // all days that wait when absent
}

type archiveCheckBody struct {
	Target schedule.Where `json:"target"`
}

type importBody struct {
	From string `json:"from"`           // AGENT/DATE as the tree has them, or DATE for all agents
	Tag  string `json:"tag,omitempty"`  // of the cluster, where several archived the date
	Days int    `json:"days,omitempty"` // how long it stays; 7 when absent
}

type roomsAnswer struct {
	Node  string         `json:"node"`
	Rooms []archive.Room `json:"rooms"`
}

// archiveParam asks a question about lines of a room in place of the store.
var archiveParam = Param{Name: "archive", Kind: paramText, MaxLen: 64, Doc: "id of a day that was brought back to this node; the store when absent"}

var ofParam = Param{
	Name: "of", Kind: paramChoice, Choices: []string{archive.OfStore, archive.OfArchive}, Default: archive.OfStore,
	Doc: "what the cluster keeps, or what is archived",
}

func logArchiveRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/logs/archive", Permission: auth.Read, Fresh: true, Params: []Param{limitParam(100, 2000)},
			Summary: "Where lines are archived, which days are, and what was brought back to this node", Answer: archiveAnswer{},
			serve: (*API).logArchive,
		},
		{
			Method: "PUT", Path: "/v1/logs/archive", Permission: auth.Administer, Summary: "Say where and when lines are archived",
			Body: archivePolicyBody{}, MaxBody: 128 << 10, Status: http.StatusNoContent, serve: (*API).putLogArchive,
		},
		{
			Method: "DELETE", Path: "/v1/logs/archive", Permission: auth.Administer, Summary: "Archive no more; what is archived stays",
			Status: http.StatusNoContent, serve: (*API).deleteLogArchive,
		},
		{
			Method: "POST", Path: "/v1/logs/archive/run", Permission: auth.Administer, Status: http.StatusAccepted,
			Summary: "Archive a day now, on this node", Body: archiveRunBody{}, Answer: archive.Claim{}, serve: (*API).runLogArchive,
		},
		{
			Method: "POST", Path: "/v1/logs/archive/check", Permission: auth.Administer, Status: http.StatusNoContent,
			Summary: "Find out whether this node can archive in a place", Body: archiveCheckBody{}, MaxBody: 128 << 10, serve: (*API).checkLogArchive,
		},
		{
			Method: "GET", Path: "/v1/logs/archive/imports", Permission: auth.Read, Fresh: true,
			Summary: "The days that were brought back to this node", Answer: roomsAnswer{}, serve: (*API).logRooms,
		},
		{
			Method: "POST", Path: "/v1/logs/archive/imports", Permission: auth.Operate, Status: http.StatusAccepted,
			Summary: "Bring a day of the archive back to this node, to be searched", Body: importBody{}, Answer: archive.Room{}, serve: (*API).importLogs,
		},
		{
			Method: "DELETE", Path: "/v1/logs/archive/imports/{id}", Permission: auth.Operate,
			Summary: "Remove a day that was brought back; the archive keeps it", Status: http.StatusNoContent, serve: (*API).removeLogRoom,
		},
		{
			Method: "GET", Path: "/v1/logs/tree", Permission: auth.Read, Fresh: true, Summary: "What lies below a path of the tree of agents, dates, types and files",
			Params: []Param{{Name: "path", Kind: paramText, MaxLen: 1000, Default: "/logs", Doc: "/logs/AGENT/DATE/TYPE, or less of it"}, ofParam},
			Answer: archive.Listing{}, serve: (*API).logTree,
		},
		{
			Method: "GET", Path: "/v1/logs/cat", Permission: auth.Read, Fresh: true, Long: true, Type: "text/plain",
			Summary: "The lines of a file of the tree, in the order of time",
			Params: []Param{
				{Name: "path", Kind: paramText, MaxLen: 1000, Required: true, Doc: "/logs/AGENT/DATE/TYPE/FILE"},
				ofParam,
				{Name: "form", Kind: paramChoice, Choices: []string{"text", "jsonl"}, Default: "text", Doc: "the lines as they are, or rows as JSON, one a line"},
			},
			serve: (*API).logCat,
		},
	}
}

// ofRooms lets questions about lines be asked of a day that was brought back.
func ofRooms(routes []Route) []Route {
	for i := range routes {
		r := &routes[i]
		serve := r.serve
		r.Params = with(r.Params, archiveParam)
		r.serve = func(a *API, q *request) (err error) {
			q.logs = a.cfg.Logs
			if room := q.v.str(archiveParam.Name); room != "" {
				if q.logs, err = a.cfg.LogArchive.Lines(room); err != nil {
					return err
				}
			}
			return serve(a, q)
		}
	}
	return routes
}

func (a *API) logArchive(q *request) error {
	o := a.cfg.LogArchive.Overview(int(q.v.int("limit")))
	if o.Policy != nil && !q.p.Role.Allows(auth.Administer) { // who may not change the place need not know how it is opened
		o.Policy.Target.AccessKey = ""
	}
	return q.answer(http.StatusOK, archiveAnswer{
		Overview: o, Node: a.cfg.Cluster.Identity().Node, Folder: a.cfg.LogArchive.Folder(), Rooms: a.cfg.LogArchive.Rooms(),
	})
}

func (a *API) putLogArchive(q *request) error {
	var b archivePolicyBody
	if err := q.body(&b); err != nil {
		return err
	}
	return q.done(a.cfg.LogArchive.Put(q.ctx(), archive.Policy{
		Enabled: b.Enabled, Target: b.Target, Node: b.Node, After: b.After, Hold: b.Hold, HoldDays: b.HoldDays,
	}, q.actor()))
}

func (a *API) deleteLogArchive(q *request) error {
	return q.done(a.cfg.LogArchive.Delete(q.ctx(), q.actor()))
}

func (a *API) runLogArchive(q *request) error {
	var b archiveRunBody
	if err := q.body(&b); err != nil {
		return err
	}
	c, err := a.cfg.LogArchive.Start(q.ctx(), b.Date, q.actor())
	if err != nil {
		return err
	}
	return q.answer(http.StatusAccepted, c)
}

func (a *API) checkLogArchive(q *request) error {
	var b archiveCheckBody
	if err := q.body(&b); err != nil {
		return err
	}
	err := a.cfg.LogArchive.Check(q.ctx(), b.Target)
	if err != nil && a.problemOf(err).Status == http.StatusInternalServerError {
		err = problem.Wrap(http.StatusConflict, err) // with its text: it is about the operator's own place
	}
	return q.done(err)
}

func (a *API) logRooms(q *request) error {
	return q.answer(http.StatusOK, roomsAnswer{a.cfg.Cluster.Identity().Node, a.cfg.LogArchive.Rooms()})
}

func (a *API) importLogs(q *request) error {
	var b importBody
	if err := q.body(&b); err != nil {
		return err
	}
	ask, err := archive.ParseAsk(b.From)
	if err != nil {
		return err
	}
	ask.Tag, ask.Days = b.Tag, b.Days
	if ask.Days == 0 {
		ask.Days = 7
	}
	room, err := a.cfg.LogArchive.Import(q.ctx(), ask, q.actor())
	if err != nil {
		return ofPlace(a, err)
	}
	return q.answer(http.StatusAccepted, room)
}

// ofPlace tells what a folder or a service said with its text.
func ofPlace(a *API, err error) error {
	if a.problemOf(err).Status == http.StatusInternalServerError {
		return problem.Wrap(http.StatusBadGateway, err).WithHint("look at the place where lines are archived: `triward logs archive show`")
	}
	return err
}

func (a *API) removeLogRoom(q *request) error {
	return q.done(a.cfg.LogArchive.RemoveRoom(q.ctx(), q.r.PathValue("id"), q.actor()))
}

func (a *API) logTree(q *request) error {
	l, err := a.cfg.LogArchive.Tree(q.ctx(), q.v.str("path"), q.v.str("of"))
	if err != nil {
		if q.v.str("of") == archive.OfArchive {
			err = ofPlace(a, err)
		}
		return err
	}
	return q.answer(http.StatusOK, l)
}

func (a *API) logCat(q *request) error {
	begun := false
	err := a.cfg.LogArchive.Cat(q.ctx(), q.v.str("path"), q.v.str("of"), q.v.str("form") == "jsonl", func() io.Writer {
		begun = true
		kind := "text/plain; charset=utf-8"
		if q.v.str("form") == "jsonl" {
			kind = "application/x-ndjson"
		}
		q.w.Header().Set("Content-Type", kind)
		return &patientWriter{w: q.w, rc: http.NewResponseController(q.w)}
	})
	if err != nil && begun {
		a.log.Warn("a file of lines was cut short", "request", q.id, "err", err)
		panic(http.ErrAbortHandler) // the connection must not end as if all was well
	}
	if err != nil && q.v.str("of") == archive.OfArchive {
		err = ofPlace(a, err)
	}
	return err
}

func logArchiveErrors() []problem.Rule {
	return []problem.Rule{
		{Is: archive.ErrInvalid, Status: http.StatusBadRequest},
		{Is: archive.ErrNotFound, Status: http.StatusNotFound, Hint: "`triward logs ls --archive` and `triward logs import list` tell what there is"},
		{Is: archive.ErrRunning, Status: http.StatusConflict, Hint: "wait for it"},
		{Is: archive.ErrExists, Status: http.StatusConflict, Hint: "search it with `triward logs query --archive ID`, or remove it first"},
		{Is: archive.ErrNoRoom, Status: http.StatusInsufficientStorage, Hint: "remove another day that was brought back, or ask another node"},
		{Is: archive.ErrDamaged, Status: http.StatusBadGateway, Hint: "what lies in the archive was changed or damaged there"},
		{Is: archive.ErrBusy, Status: http.StatusTooManyRequests},
	}
}
