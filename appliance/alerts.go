package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/api/promapi"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/appliance/intake"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/query"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
)

// logqlRules is the format of the cluster from which on every node reads rules in LogQL.
const logqlRules = 2

// newAlerts puts the alerting of this node together. It works once the node is open and Start was called.
func (a *App) newAlerts() *alerting.Service {
	sender := notify.NewSender(notify.Policy{
		AllowLoopback: a.cfg.Alerting.AllowLoopbackReceivers, Cluster: a.clusterListeners,
	}, a.version, nil)
	return alerting.New(alerting.Config{
		Node: a.cfg.NodeID, Meta: &alertMeta{a}, Leadership: &leadership{a}, Metrics: &alertMetrics{a.query},
		Logs: &alertLogs{app: a}, Fleet: &alertFleet{a}, Send: sender.Send, Sealer: a.keys,
		Recorder: &recorder{a}, LogQL: func() bool { return a.state.format() >= logqlRules },
		Interval: time.Duration(a.cfg.Alerting.Interval), ExternalURL: func() string { return a.cfg.Listen.HTTP.URL }, Log: a.part("alerting"), Registerer: a.registry,
	})
}

// clusterListeners are the addresses of all listeners of all nodes, which messages never go to.
func (a *App) clusterListeners() []string {
	l := &a.cfg.Listen
	out := []string{l.Peer.Address, l.Agents.Address, l.HTTP.Address}
	add := func(raw string) {
		if u, err := url.Parse(raw); err == nil && u.Port() != "" {
			out = append(out, u.Host)
		}
	}
	for _, n := range a.cluster.records() {
		out = append(out, n.PeerAddr)
		add(n.URL)
		add(n.AgentURL)
	}
	return out
}

// alertMeta is the replicated metadata as package alerting reads and writes it.
type alertMeta struct{ app *App }

// Get implements alerting.Meta.
func (m *alertMeta) Get(bucket, key string) (alerting.Value, bool) {
	v, ok := m.app.state.Get(bucket, key)
	return alerting.Value{Data: v.Data, ModIndex: v.ModIndex}, ok
}

// Scan implements alerting.Meta.
func (m *alertMeta) Scan(bucket, prefix string, fn func(key string, v alerting.Value) bool) {
	m.app.state.Scan(bucket, prefix, func(key string, v meta.Value) bool {
		return fn(key, alerting.Value{Data: v.Data, ModIndex: v.ModIndex})
	})
}

// LogTime implements alerting.Meta.
func (m *alertMeta) LogTime() int64 { return m.app.state.LogTime() }

// Commit implements alerting.Meta.
func (m *alertMeta) Commit(ctx context.Context, txn alerting.Txn) (uint64, error) {
	var t command.Txn
	for _, c := range txn.Compares {
		t.Compares = append(t.Compares, command.Compare(c))
	}
	for _, o := range txn.Ops {
		t.Ops = append(t.Ops, command.Op(o))
	}
	for _, r := range txn.Audit {
		t.Audit = append(t.Audit, command.AuditRecord(r))
	}
	index, err := m.app.commit(ctx, t)
	if errors.Is(err, auth.ErrConflict) {
		err = alerting.ErrConflict
	}
	return index, err
}

// leadership says whether this node leads.
type leadership struct{ app *App }

// Verify implements alerting.Leadership.
func (l *leadership) Verify(ctx context.Context) error {
	n := l.app.node
	if _, self := n.Leader(); !self {
		return raftstate.ErrNoLeader
	}
	if err := n.Barrier(ctx); err != nil {
		return err
	}
	// The barrier may have been another leader's: then that one takes its lease, which the caller sees, or this node
	// leads again.
	if _, self := n.Leader(); !self {
		return raftstate.ErrNoLeader
	}
	return nil
}

// Term implements alerting.Leadership.
func (l *leadership) Term() uint64 { return l.app.node.Status().Term }

// alertMetrics answers PromQL for rules.
type alertMetrics struct{ query *tsdb.Query }

// Parser implements alerting.Metrics.
func (m *alertMetrics) Parser() parser.Parser { return m.query.Parser() }

// Instant implements alerting.Metrics.
func (m *alertMetrics) Instant(ctx context.Context, q string, t int64) ([]alerting.Sample, error) {
	found, err := m.query.Instant(ctx, q, t)
	if err != nil {
		return nil, err
	}
	out := make([]alerting.Sample, 0, len(found))
	for i := range found {
		s := &found[i]
		if n := len(s.V); n > 0 {
			out = append(out, alerting.Sample{Labels: s.Labels.Map(), T: s.T[n-1], V: s.V[n-1]})
		}
	}
	return out, nil
}

// Range implements alerting.Metrics.
func (m *alertMetrics) Range(ctx context.Context, q string, start, end, step int64) ([]alerting.Series, error) {
	found, err := m.query.Range(ctx, q, start, end, step)
	if err != nil {
		return nil, err
	}
	out := make([]alerting.Series, len(found))
	for i := range found {
		out[i] = alerting.Series{Labels: found[i].Labels.Map(), T: found[i].T, V: found[i].V}
	}
	return out, nil
}

// recorder stores what recording rules give, by the way of senders without a sequence.
type recorder struct{ app *App }

// Record implements alerting.Recorder.
func (r *recorder) Record(ctx context.Context, t int64, values []alerting.Sample) error {
	in := r.app.intake.Load()
	if in == nil {
		return errors.New("this node is still starting")
	}
	list := make([]intake.Recorded, len(values))
	for i := range values {
		list[i] = intake.Recorded{Labels: values[i].Labels, Value: values[i].V}
	}
	_, _, err := in.Record(ctx, t, list)
	return err
}

// alertLogs answers questions of rules about lines and events.
type alertLogs struct {
	app  *App
	page eventPage
}

// CheckQuery implements alerting.Logs.
func (l *alertLogs) CheckQuery(text string) error {
	_, err := ruleQuery(text)
	return err
}

// ruleQuery reads the query of a rule. Its error has the place and the remedy in its text, as there is nothing else to show of it.
func ruleQuery(text string) (*query.Filter, error) {
	f, err := compile(text)
	if bad, ok := errors.AsType[*api.QueryError](err); ok {
		hint := ""
		if bad.Hint != "" {
			hint = ": " + bad.Hint
		}
		return nil, fmt.Errorf("at byte %d: %w%s", bad.Pos, bad, hint)
	}
	return f, err
}

// Count implements alerting.Logs.
func (l *alertLogs) Count(ctx context.Context, text string, start, end int64, by string, limit int) ([]alerting.Count, bool, error) {
	f, err := ruleQuery(text)
	if err != nil {
		return nil, false, err
	}
	ctx = logstore.InLane(ctx, logstore.LaneWatch)
	req := logstore.Request{Filter: query.And(f, notOfAlerts()), Start: start * 1e6, End: end * 1e6, Limit: min(limit, logstore.MaxFacets)}
	if by == "" {
		h, err := l.app.logs.Hits(ctx, req, max(req.End-req.Start, 1))
		if err != nil {
			return nil, false, err
		}
		return []alerting.Count{{Lines: h.Total}}, false, partial(h.Stats.Partial)
	}
	found, err := l.app.logs.Facets(ctx, req, by)
	if err != nil {
		return nil, false, err
	}
	out := make([]alerting.Count, len(found.Values))
	for i, v := range found.Values {
		out[i] = alerting.Count{Value: v.Value, Lines: v.Count}
	}
	return out, found.Capped || len(out) == req.Limit, partial(found.Stats.Partial)
}

// notOfAlerts leaves out events about alerts: an alert whose event made it fire again would never end.
func notOfAlerts() *query.Filter {
	return query.Not(query.And(query.KindIs(wire.StreamEvent), query.StoredField("source", query.Equal, sourceAlerts)))
}

// partial refuses a count of which damaged parts are left out: it could end an alert that holds.
func partial(is bool) error {
	if is {
		return errors.New("parts of the lines are damaged on this node, so they cannot be counted")
	}
	return nil
}

// eventsBack is how old an event may be when it comes.
const eventsBack = 8 * day

// EventsAfter implements alerting.Logs.
func (l *alertLogs) EventsAfter(ctx context.Context, text string, index uint64, limit int) ([]alerting.Line, bool, error) {
	f, err := ruleQuery(text)
	if err != nil {
		return nil, false, err
	}
	if l.app.eventMark.last.Load() <= index {
		return nil, false, nil
	}
	found, err := l.page.read(ctx, l, index, limit)
	if err == nil && found.More { // it is not known what of this rule's lies behind the page
		found, err = l.search(ctx, f, index, limit)
	}
	if err != nil {
		return nil, false, err
	}
	var out []alerting.Line
	for i := range found.Rows {
		r := &found.Rows[i]
		if !logstore.Matches(ctx, f, r.Kind, r.Labels, &wire.LogLine{T: r.T, Severity: r.Severity, Text: r.Text, Fields: r.Fields}) {
			continue
		}
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		out = append(out, alerting.Line{
			Index: r.Index, T: r.T / 1e6, Labels: r.Labels.Map(), Fields: wire.Labels(r.Fields).Map(), Text: validText(r.Text),
		})
	}
	return out, found.More, partial(found.Stats.Partial)
}

// search reads events behind an entry, without those of alerts.
func (l *alertLogs) search(ctx context.Context, f *query.Filter, index uint64, limit int) (*logstore.Tail, error) {
	ctx = logstore.InLane(ctx, logstore.LaneWatch)
	since := l.app.state.LogTime()*1e6 - eventsBack.Nanoseconds()
	behind := logstore.Position{Index: index, Ord: 1<<32 - 1}
	return l.app.logs.ReadAfter(ctx, behind, query.And(query.KindIs(wire.StreamEvent), notOfAlerts(), f), since, limit)
}

// Applied implements alerting.Logs: up to there it is known what came.
func (l *alertLogs) Applied() uint64 { return l.app.eventMark.through.Load() }

// alertFleet lists agents for rules about silence.
type alertFleet struct{ app *App }

// Agents implements alerting.Fleet.
func (f *alertFleet) Agents() []alerting.Agent {
	now := f.app.state.LogTime()
	var out []alerting.Agent
	for _, a := range f.app.view.Agents() {
		if !a.Revoked {
			out = append(out, alertingAgent(&a, now))
		}
	}
	return out
}

// alertingAgent says when something was last heard of an agent. A sample of the future is heard now.
func alertingAgent(a *fleet.Agent, now int64) alerting.Agent {
	return alerting.Agent{ID: a.ID, Host: a.Hostname, Tags: a.Tags, LastSeen: max(a.HeartbeatAt, min(a.LastSample, now))}
}

// promRules are the rules and alerts in the form of Prometheus' API.
func (a *App) promRules() []promapi.RuleGroup {
	alerts := make(map[string][]promapi.Alert)
	list := a.alerts.Alerts(alerting.AlertFilter{Limit: promapi.MaxResults})
	for i := range list.Alerts {
		x := &list.Alerts[i]
		at, value, st := time.UnixMilli(x.ActiveAt).UTC(), "NaN", "firing"
		if x.Value != nil {
			value = strconv.FormatFloat(*x.Value, 'e', -1, 64)
		}
		if x.State == "pending" {
			st = "pending"
		}
		alerts[x.Rule] = append(alerts[x.Rule], promapi.Alert{Labels: x.Labels, Annotations: x.Annotations, State: st, ActiveAt: &at, Value: value})
	}
	var out []promapi.RuleGroup
	for _, f := range a.alerts.Files() {
		if !f.Enabled {
			continue
		}
		for i := range f.Rules {
			r := &f.Rules[i]
			if !r.Enabled {
				continue
			}
			if n := len(out); n == 0 || out[n-1].File != f.Name || out[n-1].Name != r.Group {
				out = append(out, promapi.RuleGroup{Name: r.Group, File: f.Name, Interval: float64(r.IntervalMs) / 1000})
			}
			g := &out[len(out)-1]
			rule := promapi.Rule{
				State: r.State, Name: r.Name, Query: r.Expr, Duration: float64(r.ForMs) / 1000, KeepFiringFor: float64(r.KeepFiringMs) / 1000,
				Labels: r.Labels, Annotations: r.Annotations, Alerts: alerts[r.ID], Health: "ok", LastError: r.Error, Type: "alerting",
			}
			if rule.Alerts == nil {
				rule.Alerts = []promapi.Alert{}
			}
			if r.Error != "" {
				rule.Health = "err"
			}
			if r.Kind == rules.Record {
				rule.Type, rule.State = "recording", ""
			}
			g.Rules = append(g.Rules, rule)
		}
	}
	return out
}
