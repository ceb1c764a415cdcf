package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/repair"
	"github.com/triward/triward/appliance/scrub"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
)

// keyRechecks holds, with the node behind it, the order to read again what is called damaged there.
const keyRechecks = "recheck/"

// OrderRecheck implements api.Repairs.
func (a *App) OrderRecheck(ctx context.Context, node string, by auth.AuditRecord) error {
	if !slices.ContainsFunc(a.node.Status().Members, func(m raftstate.Member) bool { return m.ID == node }) {
		return problem.New(http.StatusNotFound, fmt.Sprintf("node %.80q is no member", node)).WithHint("`triward cluster status` lists the members")
	}
	body, err := json.Marshal(repair.Order{By: by.Actor, At: a.state.LogTime()})
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	by.Action, by.Target = "cluster.recheck", node
	_, err = a.commit(ctx, command.Txn{
		Ops:   []command.Op{{Bucket: bucketRepairs, Key: keyRechecks + node, Value: body}},
		Audit: []command.AuditRecord{command.AuditRecord(by)},
	})
	return err
}

// recheckOrdered reports whether an operator wants this node to read again what it calls damaged.
func (a *App) recheckOrdered() bool {
	if a.nodeIfOpen() == nil {
		return false
	}
	var o repair.Order
	v, ok := a.state.Get(bucketRepairs, keyRechecks+a.cfg.NodeID)
	return ok && json.Unmarshal(v.Data, &o) == nil && a.state.LogTime()-o.At < orderLasts.Milliseconds()
}

// dropRecheck takes the order back; one that stays is carried out again, which shows the same.
func (a *App) dropRecheck(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	key := keyRechecks + a.cfg.NodeID
	v, ok := a.state.Get(bucketRepairs, key)
	if !ok {
		return
	}
	if _, err := a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketRepairs, Key: key, ModIndex: v.ModIndex}},
		Ops:      []command.Op{{Bucket: bucketRepairs, Key: key, Delete: true}},
	}); err != nil {
		a.log.Info("the order to read again stays until it ends by itself", "err", err)
	}
}

// readAgain has the stores forget the damage, and reads the days concerned, the number of lines and all files again. What
// is damaged is told as it was the first time. It fails when something could not be compared.
func (a *App) readAgain(ctx context.Context, list []repair.Damage) error {
	if !a.isOpen(ctx) {
		return ctx.Err()
	}
	places := make([]string, 0, len(list))
	for i := range list {
		places = append(places, list[i].Place)
	}
	a.metrics.Forget(places)
	a.logs.Forget(places)
	if err := a.guard.verify(ctx); err != nil && !errors.Is(err, logstore.ErrDamaged) { // else it is told
		return err
	}
	for i := range list {
		d := &list[i]
		if d.Part != raftstate.PartMetrics && d.Part != raftstate.PartLogs || d.To == 0 {
			continue
		}
		r := scrub.Request{Kinds: []command.Kind{command.KindMetrics}, From: d.From, To: d.To + 1}
		if d.Part == raftstate.PartLogs {
			r.Kinds = []command.Kind{command.KindLogs, command.KindEvents}
		}
		days, _, err := a.integrity.scrubber.Check(ctx, r, nil)
		if err != nil {
			return err
		}
		for k := range days {
			if days[k].Verdict == scrub.Damaged { // should its store not have told
				a.integrity.noted(scrub.Damage{Part: d.Part, Kind: days[k].Kind, From: d.From, To: d.To + 1, Place: days[k].Place(), Err: errors.New(days[k].Error)})
			}
		}
	}
	_, _, err := a.integrity.scrubber.Check(ctx, scrub.Request{Files: true, Kinds: []command.Kind{}}, nil)
	return err
}
