package appliance

import (
	"context"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/logrules"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/logstore/query"
)

// withoutAlerts is the store as rules in LogQL see it: without events about alerts.
type withoutAlerts struct{ store *logstore.Store }

// Walk implements storesource.Store.
func (w withoutAlerts) Walk(ctx context.Context, req logstore.Request, fn func(*logstore.Row) error) (logstore.Stats, error) {
	req.Filter = query.And(req.Filter, notOfAlerts())
	return w.store.Walk(ctx, req, fn)
}

// CheckLogQL implements alerting.Logs.
func (l *alertLogs) CheckLogQL(text string) (rules.Shape, error) { return logrules.Check(text) }

// rulesOver evaluates rules over this node's store, as one query of the lane of ctx.
func (l *alertLogs) rulesOver(ctx context.Context, ask func(ctx context.Context, logs logrules.Logs) error) error {
	ctx, done, err := l.app.logs.Admit(ctx, logstore.WalkBytes+logrules.Memory)
	if err != nil {
		return err
	}
	defer done()
	return ask(ctx, logrules.Logs{Source: storesource.Source{Store: withoutAlerts{l.app.logs}}})
}

// LogQL implements alerting.Logs. It runs in the lane of rules, so that nobody's queries hold it up.
func (l *alertLogs) LogQL(ctx context.Context, expr string, t int64) (out []alerting.Sample, err error) {
	err = l.rulesOver(logstore.InLane(ctx, logstore.LaneWatch), func(ctx context.Context, logs logrules.Logs) (err error) {
		out, err = logs.Instant(ctx, expr, t)
		return err
	})
	return out, err
}

// LogQLRange implements alerting.Logs: somebody looks, in the lane of people.
func (l *alertLogs) LogQLRange(ctx context.Context, expr string, start, end, step int64) (out []alerting.Series, err error) {
	err = l.rulesOver(ctx, func(ctx context.Context, logs logrules.Logs) (err error) {
		out, err = logs.Range(ctx, expr, start, end, step)
		return err
	})
	return out, err
}
