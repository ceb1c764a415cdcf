package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

type ackBody struct {
	Alerts  []string `json:"alerts"` // ids
	Comment string   `json:"comment,omitempty"`
}

type assignBody struct {
	Alerts  []string `json:"alerts"` // ids
	To      string   `json:"to"`     // name of a user; empty takes the assignment back
	Comment string   `json:"comment,omitempty"`
}

type silenceBody struct {
	// Matchers are texts such as `host="web1"`, with =, !=, =~ and !~.
	Matchers  []string `json:"matchers"`
	StartsAt  int64    `json:"starts_at,omitempty"`  // ms since 1970; now when absent
	EndsAt    int64    `json:"ends_at,omitempty"`    // ms since 1970
	DurationS int64    `json:"duration_s,omitempty"` // instead of ends_at
	Comment   string   `json:"comment,omitempty"`
}

type assigneesAnswer struct {
	Users []string `json:"users"` // in order
}

type silencesAnswer struct {
	At       int64                  `json:"at"`
	Silences []alerting.SilenceView `json:"silences"`
}

type rulesAnswer struct {
	Files []alerting.FileView `json:"files"`
}

type fileBody struct {
	Body    *string   `json:"body,omitempty"`    // YAML
	Enabled *bool     `json:"enabled,omitempty"` // of the whole file
	Off     *[]string `json:"off,omitempty"`     // names of rules that are not evaluated
	Version uint64    `json:"version,omitempty"` // that was read; the change is refused when it is another now
}

type fileAnswer struct {
	Name      string             `json:"name"`
	Body      string             `json:"body"`
	Version   uint64             `json:"version"`
	Origin    string             `json:"origin"`
	Enabled   bool               `json:"enabled"`
	Off       []string           `json:"off"`
	UpdatedBy string             `json:"updated_by"`
	UpdatedAt int64              `json:"updated_at"`
	Warnings  []string           `json:"warnings,omitempty"`
	Earlier   []alerting.Version `json:"earlier,omitempty"`
}

type checkBody struct {
	Name string `json:"name"`
	Body string `json:"body"`
}

type checkAnswer struct {
	OK       bool            `json:"ok"`
	Rules    int             `json:"rules"`
	Kinds    map[string]int  `json:"kinds,omitempty"` // rules by kind
	Problems []rules.Problem `json:"problems"`
	Warnings []string        `json:"warnings"`
}

type routesBody struct {
	Body    string `json:"body"` // YAML
	Version uint64 `json:"version,omitempty"`
}

type routesAnswer struct {
	Body      string             `json:"body"` // secrets are shown as <secret>
	Version   uint64             `json:"version"`
	UpdatedBy string             `json:"updated_by"`
	UpdatedAt int64              `json:"updated_at"`
	Receivers []receiverView     `json:"receivers"`
	Earlier   []alerting.Version `json:"earlier,omitempty"`
}

type receiverView struct {
	Name         string   `json:"name"`
	Integrations []string `json:"integrations"`
}

type routeTestBody struct {
	Labels map[string]string `json:"labels"`
}

type routeTestAnswer struct {
	Routes []alerting.RouteHit `json:"routes"`
}

type receiverTestBody struct {
	Receiver string `json:"receiver"`
}

type receiverTestAnswer struct {
	Results []alerting.TestResult `json:"results"`
}

const maxRuleBody = 300 << 10 // a file of rules or routes as JSON text

func alertRoutes() []Route {
	matchParam := Param{Name: "match", Kind: paramText, MaxLen: 4 << 10, Doc: "matchers of labels, such as {host=\"web1\",severity=~\"critical|warning\"}"}
	all := []Route{
		{
			Method: "GET", Path: "/v1/alerts", Permission: auth.Read, Summary: "Alerts, the worst first", Fresh: true,
			Params: []Param{
				{Name: "state", Kind: paramText, Doc: "comma-separated: pending, firing, acknowledged, silenced, inhibited, resolved; all but resolved when absent"},
				matchParam, limitParam(1000, 5000),
			},
			Answer: alerting.AlertList{}, serve: (*API).listAlerts,
		},
		{
			Method: "GET", Path: "/v1/alert/{id}", Permission: auth.Read, Summary: "One alert", Fresh: true,
			Answer: alerting.AlertView{}, serve: (*API).oneAlert,
		},
		{
			Method: "GET", Path: "/v1/alert/{id}/series", Permission: auth.Read, Summary: "What an alert's rule looks at, over time",
			Fresh: true, Params: []Param{
				{Name: "start", Kind: paramTime, Default: "now-3h", Doc: "from this time on"},
				{Name: "end", Kind: paramTime, Default: "now", Doc: "up to this time"},
			},
			Answer: alerting.AlertSeries{}, serve: (*API).alertSeries,
		},
		{
			Method: "POST", Path: "/v1/alerts/ack", Permission: auth.Operate, Summary: "Take alerts in hand: they are not repeated and not escalated",
			Body: ackBody{}, Status: http.StatusNoContent, serve: func(a *API, q *request) error { return a.ack(q, true) },
		},
		{
			Method: "POST", Path: "/v1/alerts/unack", Permission: auth.Operate, Summary: "Give alerts back",
			Body: ackBody{}, Status: http.StatusNoContent, serve: func(a *API, q *request) error { return a.ack(q, false) },
		},
		{
			Method: "POST", Path: "/v1/alerts/assign", Permission: auth.Operate, Summary: "Say who is to look after alerts",
			Body: assignBody{}, Status: http.StatusNoContent, serve: (*API).assign,
		},
		{
			Method: "POST", Path: "/v1/alerts/escalate", Permission: auth.Operate, Summary: "Let the second receiver of alerts be told now",
			Body: ackBody{}, Status: http.StatusNoContent, serve: (*API).escalate,
		},
		{
			Method: "GET", Path: "/v1/alerts/assignees", Permission: auth.Operate, Summary: "Names of users to whom alerts can be assigned", Fresh: true,
			Answer: assigneesAnswer{}, serve: (*API).assignees,
		},
		{
			Method: "GET", Path: "/v1/alerts/history", Permission: auth.Read, Summary: "What happened to alerts and messages, newest first", Fresh: true,
			Params: []Param{
				{Name: "alert", Kind: paramText, MaxLen: 64, Doc: "id of an alert"},
				{Name: "what", Kind: paramText, Doc: "comma-separated: fired, resolved, acknowledged, silenced, escalated, assigned, sent, send_failed, send_lost, ..."},
				matchParam,
				{Name: "start", Kind: paramTime, Default: "now-30d", Doc: "from this time on"},
				{Name: "end", Kind: paramTime, Doc: "before this time"},
				limitParam(200, 1000),
				{Name: "cursor", Kind: paramText, Doc: "`next` of the page before"},
			},
			Answer: alerting.HistoryPage{}, serve: (*API).alertHistory,
		},
	}
	all = append(all, silenceRoutes()...)
	all = append(all, ruleRoutes()...)
	for i := range all {
		if all[i].Permission != auth.Read {
			all[i].serve = current(all[i].serve)
		}
	}
	return all
}

// current lets a change wait until this node holds what was committed before it was asked for: a node that lags must not
// say that there is no such alert.
func current(serve func(*API, *request) error) func(*API, *request) error {
	return func(a *API, q *request) error {
		if !a.catchUp(q.ctx()) {
			return fmt.Errorf("this node has not caught up with the others: %w", ErrNoLeader)
		}
		return serve(a, q)
	}
}

func silenceRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/silences", Permission: auth.Read, Summary: "Silences", Fresh: true, Answer: silencesAnswer{},
			serve: (*API).silences,
		},
		{
			Method: "POST", Path: "/v1/silences", Permission: auth.Operate, Summary: "Add a silence", Body: silenceBody{},
			Answer: route.Silence{}, Status: http.StatusCreated, serve: func(a *API, q *request) error { return a.putSilence(q, "") },
		},
		{
			Method: "PUT", Path: "/v1/silences/{id}", Permission: auth.Operate, Summary: "Change a silence that has not ended",
			Body: silenceBody{}, Answer: route.Silence{}, serve: func(a *API, q *request) error { return a.putSilence(q, q.r.PathValue("id")) },
		},
		{
			Method: "DELETE", Path: "/v1/silences/{id}", Permission: auth.Operate, Summary: "End a silence now",
			Status: http.StatusNoContent, serve: (*API).expireSilence,
		},
	}
}

func ruleRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/rules", Permission: auth.Read, Summary: "Files of rules, and how each rule stands", Fresh: true,
			Answer: rulesAnswer{}, serve: (*API).ruleFiles,
		},
		{
			Method: "POST", Path: "/v1/rules/check", Permission: auth.Read, Summary: "Say what is wrong with a file of rules",
			Body: checkBody{}, MaxBody: maxRuleBody, Answer: checkAnswer{}, serve: (*API).checkRules,
		},
		{
			Method: "POST", Path: "/v1/rules/preview", Permission: auth.Read, Summary: "Say when the rules of a file would have fired",
			Body: alerting.PreviewRequest{}, MaxBody: maxRuleBody, Answer: alerting.Preview{}, serve: (*API).previewRules,
		},
		{
			Method: "GET", Path: "/v1/rules/files/{name}", Permission: auth.Read, Summary: "A file of rules with its text and earlier versions", Fresh: true,
			Answer: fileAnswer{}, serve: (*API).ruleFile,
		},
		{
			Method: "PUT", Path: "/v1/rules/files/{name}", Permission: auth.Administer, Summary: "Add or change a file of rules, or turn it or single rules off and on",
			Body: fileBody{}, MaxBody: maxRuleBody, Answer: fileAnswer{}, serve: (*API).putRuleFile,
		},
		{
			Method: "DELETE", Path: "/v1/rules/files/{name}", Permission: auth.Administer, Summary: "Remove a file of rules; its alerts end",
			Status: http.StatusNoContent, serve: (*API).deleteRuleFile,
		},
		{
			Method: "GET", Path: "/v1/routes", Permission: auth.Read, Summary: "Routes and receivers, without their secrets", Fresh: true,
			Answer: routesAnswer{}, serve: (*API).alertRoutesDoc,
		},
		{
			Method: "PUT", Path: "/v1/routes", Permission: auth.Administer, Summary: "Replace routes and receivers; <secret> keeps a stored secret",
			Body: routesBody{}, MaxBody: maxRuleBody, Answer: routesAnswer{}, serve: (*API).putAlertRoutes,
		},
		{
			Method: "POST", Path: "/v1/routes/test", Permission: auth.Read, Summary: "Say which receivers would get an alert with the labels",
			Body: routeTestBody{}, Answer: routeTestAnswer{}, serve: (*API).testRoute,
		},
		{
			Method: "POST", Path: "/v1/receivers/test", Permission: auth.Administer, Summary: "Send a real message to every way of a receiver",
			Body: receiverTestBody{}, Answer: receiverTestAnswer{}, serve: (*API).testReceiver,
		},
	}
}

// by is who makes the request, for records and the audit log.
func (q *request) by() alerting.By {
	return alerting.By{Actor: q.p.Actor(), Address: q.p.Address}
}

// list splits a comma-separated parameter.
func (v values) list(name string) []string {
	if v.str(name) == "" {
		return nil
	}
	return strings.Split(v.str(name), ",")
}

// matchers reads the parameter match.
func (q *request) matchers() (route.Matchers, error) {
	if q.v.str("match") == "" {
		return nil, nil
	}
	m, err := route.ParseMatchers(q.v.str("match"))
	if err != nil {
		return nil, badParam("match", "%v", err)
	}
	return m, nil
}

func (a *API) listAlerts(q *request) error {
	m, err := q.matchers()
	if err != nil {
		return err
	}
	f := alerting.AlertFilter{Matchers: m, Limit: int(q.v.int("limit"))}
	for _, s := range q.v.list("state") {
		known := []string{"pending", "firing", "acknowledged", "silenced", "inhibited", "resolved"}
		if !slices.Contains(known, s) {
			return badParam("state", "%.40q is none of %s", s, strings.Join(known, ", "))
		}
		f.States = append(f.States, state.Shown(s))
	}
	return q.answer(http.StatusOK, a.cfg.Alerts.Alerts(f))
}

func (a *API) oneAlert(q *request) error {
	v, err := a.cfg.Alerts.Alert(q.r.PathValue("id"))
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, v)
}

func (a *API) alertSeries(q *request) error {
	v, err := a.cfg.Alerts.Series(q.ctx(), q.r.PathValue("id"), q.v.int("start")/1e6, q.v.int("end")/1e6)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, v)
}

func (a *API) ack(q *request, ack bool) error {
	var b ackBody
	if err := q.body(&b); err != nil {
		return err
	}
	return q.done(a.cfg.Alerts.Acknowledge(q.ctx(), b.Alerts, ack, b.Comment, q.by()))
}

// mayBeAssigned are the users who can acknowledge an alert.
func (a *API) mayBeAssigned() []string {
	names := []string{}
	for _, u := range a.cfg.Auth.Users() {
		if u.Role.Allows(auth.Operate) && !u.Disabled {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (a *API) assignees(q *request) error {
	return q.answer(http.StatusOK, assigneesAnswer{a.mayBeAssigned()})
}

func (a *API) assign(q *request) error {
	var b assignBody
	if err := q.body(&b); err != nil {
		return err
	}
	if b.To != "" && !slices.Contains(a.mayBeAssigned(), b.To) {
		return problem.New(http.StatusBadRequest, fmt.Sprintf("to: there is no user %.100q who may operate", b.To)).
			WithHint("GET /v1/alerts/assignees lists those to whom alerts can be assigned")
	}
	return q.done(a.cfg.Alerts.Assign(q.ctx(), b.Alerts, b.To, b.Comment, q.by()))
}

func (a *API) escalate(q *request) error {
	var b ackBody
	if err := q.body(&b); err != nil {
		return err
	}
	return q.done(a.cfg.Alerts.Escalate(q.ctx(), b.Alerts, b.Comment, q.by()))
}

func (a *API) alertHistory(q *request) error {
	m, err := q.matchers()
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, a.cfg.Alerts.History(alerting.HistoryFilter{
		Alert: q.v.str("alert"), What: q.v.list("what"), Matchers: m, Start: q.v.int("start") / 1e6, End: q.v.int("end") / 1e6,
		Before: q.v.str("cursor"), Limit: int(q.v.int("limit")),
	}))
}

func (a *API) silences(q *request) error {
	return q.answer(http.StatusOK, silencesAnswer{At: a.cfg.Alerts.Now(), Silences: a.cfg.Alerts.Silences()})
}

func (a *API) putSilence(q *request, id string) error {
	var b silenceBody
	if err := q.body(&b); err != nil {
		return err
	}
	s := route.Silence{ID: id, StartsAt: b.StartsAt, EndsAt: b.EndsAt, Comment: b.Comment}
	if len(b.Matchers) > route.MaxSilenceMatchers {
		return problem.New(http.StatusBadRequest, fmt.Sprintf("matchers: %d; at most %d", len(b.Matchers), route.MaxSilenceMatchers))
	}
	for i, text := range b.Matchers {
		m, err := route.ParseMatchers(text)
		if err != nil {
			return problem.New(http.StatusBadRequest, fmt.Sprintf("matchers[%d]: %v", i, err))
		}
		s.Matchers = append(s.Matchers, route.FromMatchers(m)...)
	}
	switch {
	case (b.EndsAt == 0) == (b.DurationS == 0):
		return problem.New(http.StatusBadRequest, "want either ends_at or duration_s")
	case b.DurationS < 0 || b.DurationS > route.MaxSilence/1000:
		return problem.New(http.StatusBadRequest, "duration_s: want 1 to a year")
	case b.DurationS > 0:
		s.EndsAt = max(b.StartsAt, a.cfg.Alerts.Now()) + b.DurationS*1000
	}
	made, err := a.cfg.Alerts.PutSilence(q.ctx(), s, q.by())
	if err != nil {
		return err
	}
	status := http.StatusCreated
	if id != "" {
		status = http.StatusOK
	}
	return q.answer(status, made)
}

func (a *API) expireSilence(q *request) error {
	return q.done(a.cfg.Alerts.ExpireSilence(q.ctx(), q.r.PathValue("id"), q.by()))
}

func (a *API) ruleFiles(q *request) error {
	return q.answer(http.StatusOK, rulesAnswer{a.cfg.Alerts.Files()})
}

func (a *API) checkRules(q *request) error {
	var b checkBody
	if err := q.body(&b); err != nil {
		return err
	}
	out := checkAnswer{Problems: []rules.Problem{}, Warnings: []string{}}
	f, err := a.cfg.Alerts.CheckRules(b.Name, []byte(b.Body))
	if bad, ok := asRuleError(err); ok {
		out.Problems = bad.Problems
		return q.answer(http.StatusOK, out)
	}
	if err != nil {
		return err
	}
	out.OK, out.Rules, out.Kinds = true, f.Count(), f.Kinds()
	out.Warnings = append(out.Warnings, f.Warnings...)
	return q.answer(http.StatusOK, out)
}

func (a *API) previewRules(q *request) error {
	var b alerting.PreviewRequest
	if err := q.body(&b); err != nil {
		return err
	}
	out, err := a.cfg.Alerts.Preview(q.ctx(), b)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, out)
}

func fileForm(rec *alerting.FileRecord, warnings []string) fileAnswer {
	return fileAnswer{
		Name: rec.Name, Body: rec.Body, Version: rec.Version, Origin: rec.Origin, Enabled: !rec.Disabled, Off: append([]string{}, rec.Off...),
		UpdatedBy: rec.UpdatedBy, UpdatedAt: rec.UpdatedAt, Warnings: warnings,
	}
}

func (a *API) ruleFile(q *request) error {
	rec, err := a.cfg.Alerts.File(q.r.PathValue("name"))
	if err != nil {
		return err
	}
	out := fileForm(&rec, nil)
	out.Earlier = a.cfg.Alerts.Versions(rec.Name)
	return q.answer(http.StatusOK, out)
}

func (a *API) putRuleFile(q *request) error {
	var b fileBody
	if err := q.body(&b); err != nil {
		return err
	}
	if b.Body == nil && b.Enabled == nil && b.Off == nil {
		return problem.New(http.StatusBadRequest, "want body, enabled, off or several of them")
	}
	ch := alerting.FileChange{Body: b.Body, Off: b.Off, Version: b.Version}
	if b.Enabled != nil {
		disabled := !*b.Enabled
		ch.Disabled = &disabled
	}
	rec, warnings, err := a.cfg.Alerts.PutFile(q.ctx(), q.r.PathValue("name"), ch, q.by())
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, fileForm(&rec, warnings))
}

func (a *API) deleteRuleFile(q *request) error {
	return q.done(a.cfg.Alerts.DeleteFile(q.ctx(), q.r.PathValue("name"), q.by()))
}

func (a *API) routesForm(rec *alerting.RoutesRecord, cfg *route.Config) routesAnswer {
	out := routesAnswer{Body: rec.Body, Version: rec.Version, UpdatedBy: rec.UpdatedBy, UpdatedAt: rec.UpdatedAt, Receivers: []receiverView{}}
	if cfg == nil {
		return out
	}
	for i := range cfg.Receivers {
		r := receiverView{Name: cfg.Receivers[i].Name, Integrations: []string{}}
		for _, in := range cfg.Receivers[i].Integrations() {
			r.Integrations = append(r.Integrations, in.Name)
		}
		out.Receivers = append(out.Receivers, r)
	}
	return out
}

func (a *API) alertRoutesDoc(q *request) error {
	rec, cfg, err := a.cfg.Alerts.Routes()
	if err != nil && rec.Version == 0 {
		return err
	}
	out := a.routesForm(&rec, cfg)
	out.Earlier = a.cfg.Alerts.Versions("")
	return q.answer(http.StatusOK, out)
}

func (a *API) putAlertRoutes(q *request) error {
	var b routesBody
	if err := q.body(&b); err != nil {
		return err
	}
	if _, err := a.cfg.Alerts.PutRoutes(q.ctx(), []byte(b.Body), b.Version, q.by()); err != nil {
		return err
	}
	rec, cfg, err := a.cfg.Alerts.Routes()
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, a.routesForm(&rec, cfg))
}

func (a *API) testRoute(q *request) error {
	var b routeTestBody
	if err := q.body(&b); err != nil {
		return err
	}
	hits, err := a.cfg.Alerts.TestRoute(b.Labels)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, routeTestAnswer{hits})
}

func (a *API) testReceiver(q *request) error {
	var b receiverTestBody
	if err := q.body(&b); err != nil {
		return err
	}
	results, err := a.cfg.Alerts.TestReceiver(q.ctx(), b.Receiver, q.by())
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, receiverTestAnswer{results})
}
