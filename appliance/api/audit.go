package api

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

// auditRoutes read the audit log. It is written with the changes that it tells of.
func auditRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/audit", Permission: auth.Audit, Summary: "Who did what, the newest first", Fresh: true,
			Params: []Param{
				{Name: "actor", Kind: paramText, MaxLen: 200, Doc: "part of the name of who did it"},
				{Name: "action", Kind: paramText, MaxLen: 100, Doc: "action, or its beginning up to a dot: user is user.create, user.role and so on"},
				{Name: "target", Kind: paramText, MaxLen: 200, Doc: "part of what it was done to"},
				{Name: "start", Kind: paramTime, Doc: "from this time on"},
				{Name: "end", Kind: paramTime, Doc: "before this time"},
				{Name: "before", Kind: paramInt, Min: 1, Max: 1<<63 - 1, Doc: "`next` of the page before"},
				limitParam(100, 1000),
			},
			Answer: auditlog.ChainPage{}, serve: (*API).auditQuery,
		},
		{
			Method: "GET", Path: "/v1/audit/verify", Permission: auth.Audit, Fresh: true, Answer: auditlog.ChainVerdict{},
			Summary: "Check that no record of the audit log was edited, lost or moved on this node",
			Params: []Param{{
				Name: "expect", Kind: paramText, MaxLen: 100,
				Doc: "NUMBER:HASH of a record as it was noted elsewhere; says whether it is still the same",
			}},
			serve: (*API).auditVerify,
		},
		{
			Method: "GET", Path: "/v1/audit/export", Permission: auth.Audit, Long: true, Type: "application/x-ndjson", Fresh: true,
			Summary: "The whole audit log as JSON lines, after a line with the head of its chain", serve: (*API).auditExport,
		},
	}
}

func (a *API) auditQuery(q *request) error {
	page, err := a.cfg.Audit.Query(q.ctx(), auditlog.Query{
		Actor: q.v.str("actor"), Action: q.v.str("action"), Target: q.v.str("target"), Limit: int(q.v.int("limit")),
		Start: q.v.int("start") / 1e6, End: q.v.int("end") / 1e6, Before: uint64(q.v.int("before")),
	})
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, page)
}

func (a *API) auditVerify(q *request) error {
	var point *auditlog.Point
	if s := q.v.str("expect"); s != "" {
		p, err := auditlog.ParsePoint(s)
		if err != nil {
			return problem.Wrap(http.StatusBadRequest, err)
		}
		point = &p
	}
	verdict, err := a.cfg.Audit.Verify(q.ctx(), point)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, verdict)
}

func (a *API) auditExport(q *request) error {
	id := a.cfg.Cluster.Identity()
	begun := false
	err := a.cfg.Audit.Export(q.ctx(), auditlog.ExportOrigin{Cluster: id.Cluster, Node: id.Node, LogTime: a.cfg.Auth.LogTime()}, func() io.Writer {
		begun = true
		h := q.w.Header()
		h.Set("Content-Type", "application/x-ndjson")
		h.Set("Content-Disposition", `attachment; filename="triward-audit-`+id.Cluster+"-"+strconv.FormatInt(time.Now().Unix(), 10)+`.jsonl"`)
		return &patientWriter{w: q.w, rc: http.NewResponseController(q.w)}
	})
	if err != nil && begun {
		a.log.Warn("audit export was cut short", "request", q.id, "err", err)
		panic(http.ErrAbortHandler) // the connection must not end as if all was well
	}
	return err
}
