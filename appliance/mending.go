package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/events"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/repair"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
)

// bucketRepairs holds who swaps its state now, and what operators have ordered.
const (
	bucketRepairs   = "repairs"
	keyRepairLease  = "lease"
	keyRepairOrders = "order/" // and the node that is to be repaired
)

// repairLease is the record of the node that may swap its state.
type repairLease struct {
	Node  string `json:"node"`
	Until int64  `json:"until"` // log time in ms
}

// newRepairs makes what has damage of this node mended.
func (a *App) newRepairs() (*repair.Service, error) {
	return repair.New(repair.Config{
		Node: a.cfg.NodeID, Dir: a.cfg.DataDir, Tell: a.tellDamage, TellRefused: a.tellRefused,
		Mend: func(ctx context.Context, before func(ctx context.Context) error) error {
			_, err := a.node.Reinstall(ctx, before)
			return err
		},
		MendLog: func(ctx context.Context) error { return a.node.MendLog(ctx) },
		Lease:   a.takeRepairLease, Release: a.releaseRepairLease, Ordered: a.orderedRepair, Whole: a.holdsAll,
		Recheck: a.readAgain, Rechecks: a.recheckOrdered, Rechecked: a.dropRecheck,
		DropAside: func(olderThan time.Duration) error { return a.node.DropAside(olderThan) },
		Log:       a.part("repair"), Registerer: a.registry,
	})
}

// tellDamage makes events of damage that was found and repaired.
func (a *App) tellDamage(node string, r repair.Record) {
	tags := map[string]string{"part": r.Part, "place": r.Place, "error": r.Err}
	e := events.Event{
		ID: "damage/" + r.ID, Kind: "damage_found", Host: node, Key: r.Part + ": " + r.Place, Severity: wire.SeverityCritical, Tags: tags,
		Text: fmt.Sprintf("damage was found in the %s of node %s: %s", partName(r.Part), node, r.Place),
	}
	if r.To != 0 {
		tags["from_time"], tags["to_time"] = time.UnixMilli(r.Damage.From).UTC().Format(time.RFC3339), time.UnixMilli(r.To).UTC().Format(time.RFC3339)
	}
	if r.Part == raftstate.PartIndex || r.Part == raftstate.PartNotes { // it is derived and made again at once
		e.Severity = wire.SeverityWarning
	}
	if !r.Open() {
		if node == a.cfg.NodeID {
			a.integrity.scrubber.Repaired(r.Part, r.Place)
		}
		e.ID, e.Kind, e.Severity = "repaired/"+r.ID, "damage_repaired", wire.SeverityNotice
		took := time.Duration(r.TookMs) * time.Millisecond
		e.Text = fmt.Sprintf("damage in the %s of node %s (%s) was repaired in %s: %s", partName(r.Part), node, r.Place, took.Round(time.Millisecond), howText(&r))
		tags["how"], tags["from"], tags["took_ms"], tags["aside"] = r.How, r.From, fmt.Sprint(r.TookMs), r.Aside
	}
	a.events.Tell(e)
}

func partName(part string) string {
	switch part {
	case raftstate.PartLog:
		return "replicated log"
	case raftstate.PartState:
		return "metadata"
	case raftstate.PartMetrics:
		return "store of metrics"
	case raftstate.PartLogs:
		return "store of logs"
	case raftstate.PartIndex:
		return "word index"
	case raftstate.PartNotes:
		return "small files"
	}
	return part
}

func howText(r *repair.Record) string {
	switch r.How {
	case raftstate.HowImage:
		return fmt.Sprintf("the state was taken from node %s as of entry %d", r.From, r.Index)
	case raftstate.HowLogCut:
		return "the log was cut before it, and the node has caught up"
	case raftstate.HowLogAside:
		return "the log was set aside, and the node has caught up"
	case raftstate.HowLogDrop:
		return "the state holds the entries, which were dropped from the log"
	case raftstate.HowLogFilled:
		return "no entry is missing: the other nodes showed it, and the node kept its vote"
	case raftstate.HowPointer:
		return "there was only one place that it can name"
	case raftstate.HowAnew:
		return "it was written anew"
	case raftstate.HowRecheck:
		return "it was read again and is what was accepted"
	case howRebuilt:
		return "it was built again from the blocks"
	}
	return r.How
}

// howRebuilt is how word indexes are mended.
const howRebuilt = "rebuilt"

// tellRefused tells that a repair is not done now, once for each reason.
func (a *App) tellRefused(node, why string, d repair.Damage) {
	if !strings.Contains(why, raftstate.ErrMajority.Error()) && !strings.Contains(why, "a repair needs") && !strings.Contains(why, repair.ErrNoHelp.Error()+":") {
		return // it is tried again, and told when it is done
	}
	a.events.Tell(events.Event{
		ID: fmt.Sprintf("refused/%s/%016x/%d", node, wire.HashContent([]byte(why)), d.FoundMs), Kind: "repair_refused", Host: node, Key: d.Part + ": " + d.Place,
		Severity: wire.SeverityCritical, Tags: map[string]string{"part": d.Part, "place": d.Place, "why": why},
		Text: fmt.Sprintf("the %s of node %s is damaged and not repaired: %s", partName(d.Part), node, why),
	})
}

var errRepairTurn = errors.New("another node is being repaired")

// takeRepairLease makes this node the one that may swap its state, or extends that.
func (a *App) takeRepairLease(ctx context.Context, span time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := a.node.Barrier(ctx); err != nil {
		return err
	}
	held, _ := a.state.Get(bucketRepairs, keyRepairLease)
	var l repairLease
	if len(held.Data) > 0 {
		if err := json.Unmarshal(held.Data, &l); err != nil {
			return fmt.Errorf("lease of repairs: %w", err)
		}
	}
	now := a.state.LogTime()
	if l.Node != "" && l.Node != a.cfg.NodeID && l.Until > now {
		return fmt.Errorf("%w: node %s, until %s at most", errRepairTurn, l.Node, time.UnixMilli(l.Until).UTC().Format(time.RFC3339))
	}
	body, err := json.Marshal(repairLease{Node: a.cfg.NodeID, Until: now + span.Milliseconds()})
	if err != nil {
		return fmt.Errorf("encode lease: %w", err)
	}
	_, err = a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketRepairs, Key: keyRepairLease, ModIndex: held.ModIndex}},
		Ops:      []command.Op{{Bucket: bucketRepairs, Key: keyRepairLease, Value: body}},
	})
	if errors.Is(err, auth.ErrConflict) {
		return errRepairTurn
	}
	return err
}

// releaseRepairLease gives the lease back, and takes an order that was carried out away. Both end by themselves else.
func (a *App) releaseRepairLease(ctx context.Context, carried bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var t command.Txn
	held, ok := a.state.Get(bucketRepairs, keyRepairLease)
	var l repairLease
	ours := ok && json.Unmarshal(held.Data, &l) == nil && l.Node == a.cfg.NodeID
	if !ours && !carried { // nothing was begun: an order for damage that is not known here yet stays
		return
	}
	if ours {
		t.Compares = append(t.Compares, command.Compare{Bucket: bucketRepairs, Key: keyRepairLease, ModIndex: held.ModIndex})
		t.Ops = append(t.Ops, command.Op{Bucket: bucketRepairs, Key: keyRepairLease, Delete: true})
	}
	key := keyRepairOrders + a.cfg.NodeID
	if v, ok := a.state.Get(bucketRepairs, key); ok && (carried || !slices.ContainsFunc(a.repairs.Known(), func(d repair.Damage) bool { return d.Part != raftstate.PartLog && d.Part != raftstate.PartIndex })) {
		t.Compares = append(t.Compares, command.Compare{Bucket: bucketRepairs, Key: key, ModIndex: v.ModIndex})
		t.Ops = append(t.Ops, command.Op{Bucket: bucketRepairs, Key: key, Delete: true})
	}
	if len(t.Ops) == 0 {
		return
	}
	a.giveUpLease(ctx, t)
}

// giveUpLease tries until it is done: while there is no leader for a moment, and another node waits for its turn.
func (a *App) giveUpLease(ctx context.Context, t command.Txn) {
	for {
		_, err := a.commit(ctx, t)
		if err == nil || errors.Is(err, auth.ErrConflict) { // done, also by a try whose answer was lost
			return
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-a.ctx.Done():
			return
		case <-ctx.Done():
			a.log.Info("the lease of repairs ends by itself", "err", err)
			return
		}
	}
}

// nodeIfOpen is the node, nil while it is not open yet.
func (a *App) nodeIfOpen() *raftstate.Node {
	select {
	case <-a.opened:
		return a.node
	default:
		return nil
	}
}

// orderLasts is for how long, of log time, an order to repair counts: what is damaged later is another matter.
const orderLasts = 24 * time.Hour

// orderedRepair is what an operator has ordered for this node.
func (a *App) orderedRepair() (o repair.Order, ok bool) {
	if a.nodeIfOpen() == nil { // it is still starting: only an order in a file counts
		return o, false
	}
	v, ok := a.state.Get(bucketRepairs, keyRepairOrders+a.cfg.NodeID)
	return o, ok && json.Unmarshal(v.Data, &o) == nil && a.state.LogTime()-o.At < orderLasts.Milliseconds()
}

// holdsAll compares what this node holds with what the cluster accepted.
func (a *App) holdsAll(ctx context.Context, asker []repair.Damage) error {
	if !a.isOpen(ctx) {
		return ctx.Err()
	}
	if err := a.guard.verify(ctx); err != nil {
		return err
	}
	return a.integrity.holds(ctx, asker)
}

// OrderRepair implements api.Repairs: the operator takes it upon himself which node is right.
func (a *App) OrderRepair(ctx context.Context, node, from string, by auth.AuditRecord) error {
	members := a.node.Status().Members
	for _, id := range []string{node, from} {
		if !slices.ContainsFunc(members, func(m raftstate.Member) bool { return m.ID == id }) {
			return problem.New(http.StatusNotFound, fmt.Sprintf("node %.80q is no member", id)).WithHint("`triward cluster status` lists the members")
		}
	}
	if node == from {
		return problem.New(http.StatusBadRequest, "a node cannot be repaired from itself").WithHint("name another node with --from")
	}
	body, err := json.Marshal(repair.Order{From: from, By: by.Actor, At: a.state.LogTime()})
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	by.Action, by.Target = "cluster.repair", node
	if by.Detail, err = json.Marshal(map[string]string{"from": from}); err != nil {
		return fmt.Errorf("encode audit record: %w", err)
	}
	_, err = a.commit(ctx, command.Txn{
		Ops:   []command.Op{{Bucket: bucketRepairs, Key: keyRepairOrders + node, Value: body}},
		Audit: []command.AuditRecord{command.AuditRecord(by)},
	})
	return err
}

// LookForDamage implements api.Repairs.
func (a *App) LookForDamage(ctx context.Context, by auth.AuditRecord) error {
	by.Action, by.Target = "cluster.scrub", a.cfg.NodeID
	if _, err := a.commit(ctx, command.Txn{Audit: []command.AuditRecord{command.AuditRecord(by)}}); err != nil {
		return err
	}
	if a.scrubbing.CompareAndSwap(false, true) {
		a.work.Go(func() {
			defer a.scrubbing.Store(false)
			if err := a.integrity.scrubber.Look(a.ctx); err != nil && a.ctx.Err() == nil {
				a.log.Warn("the search for damage was broken off", "err", err)
			}
		})
	}
	return nil
}

// checkReplay says why this node answers nobody now.
func (a *App) checkReplay() error {
	if a.node.Replaying() {
		return raftstate.ErrReplaying // it would show less than it did a moment ago
	}
	return nil
}

// checkData fails while this node knows of damage, or is going through its log again.
func (a *App) checkData(ctx context.Context) error {
	if a.node.Replaying() {
		return errors.New("the state was taken from another node, and the log is being applied to it")
	}
	return a.repairs.Check(ctx)
}
