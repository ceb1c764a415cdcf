package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

const (
	// roomInterval is how often the leader looks at the disks of all voters.
	roomInterval = 2 * time.Second
	// cutRest is how long after a cut for room the next one waits, so that what the first freed can be seen; urgentRest
	// the same where a disk is about to be full.
	cutRest    = 10 * time.Second
	urgentRest = 3 * time.Second
	// deleteLate is how long a node may take to delete what was cut before somebody should look.
	deleteLate = 10 * time.Minute
)

// retentionKeeper knows the policy and proposes what it makes due while this node leads.
type retentionKeeper struct {
	app  *App
	room makingRoom

	// Of the goroutine of keepHouse.
	cutAt   time.Time
	states  map[string]retention.State // of the disks, as they were last told of
	failed  map[string]bool            // voters whose disks are not known
	slow    map[string]time.Time       // since when voters have deleted what was cut; zero: that was told
	trouble string                     // that was last told of
}

// reset forgets what belongs to a term. A new leader does not know when the last cut was: it waits as after one.
func (k *retentionKeeper) reset() {
	k.cutAt, k.states, k.failed, k.slow, k.trouble = time.Now(), nil, nil, nil, ""
}

// record returns the policy in effect, and the index at which it was set: 0 for that of the configuration, which is also
// shown in place of one that this program cannot read.
func (k *retentionKeeper) record() (r retention.Record, index uint64) {
	r, index, _ = k.policy()
	return r, index
}

// policy is record with the reason why the policy of the cluster cannot be used: a newer program may have set it, which
// may keep data for longer than the configuration does. Nothing may be cut then.
func (k *retentionKeeper) policy() (r retention.Record, index uint64, err error) {
	v, ok := k.app.state.Get(retention.Bucket, retention.KeyPolicy)
	if ok {
		if r, err = retention.Decode(v.Data); err == nil {
			return r, v.ModIndex, nil
		}
	}
	return retention.Record{Policy: k.defaults()}, v.ModIndex, err
}

// defaults is the policy that holds as long as nobody sets one.
func (k *retentionKeeper) defaults() retention.Policy {
	whole := func(d Duration) time.Duration { return (time.Duration(d) + day - 1) / day * day }
	return retention.Default(whole(k.app.cfg.Metrics.Retention), whole(k.app.cfg.Logs.Retention))
}

// metricsAge is how long samples are kept, as text.
func (k *retentionKeeper) metricsAge() string {
	r, _ := k.record()
	return Duration(time.Duration(r.Metrics.AgeMs) * time.Millisecond).String()
}

// keep proposes the cuts that are due.
func (k *retentionKeeper) keep(ctx context.Context) error {
	st := k.app.state.wait()
	now := st.LogTime()
	if now == 0 {
		return nil
	}
	r, _, err := k.policy()
	if err != nil {
		return fmt.Errorf("what the cluster keeps is not known: %w", err)
	}
	var errs []error
	for _, c := range k.app.archive.held(k.byAge(&r.Policy, now, st), st.Floor) { // one by one: they may be held while those by room are not
		if err := k.cut(ctx, &c); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, k.keepRoom(ctx, &r.Policy, now, st))...)
}

// keepRoom proposes the cuts that the disks ask for.
func (k *retentionKeeper) keepRoom(ctx context.Context, p *retention.Policy, now int64, st *meta.Store) error {
	reports, failed := k.reports(ctx)
	k.tell(p, now, reports, failed)
	k.room.note(k.app.cfg.NodeID, reports, k.states)
	rest := cutRest
	if slices.ContainsFunc(reports, func(x retention.Report) bool { return retention.Urgent(p, &x) }) {
		rest = urgentRest
	}
	if time.Since(k.cutAt) < rest {
		return nil
	}
	for _, c := range retention.ByRoom(p, now, reports) {
		if c.Floor <= st.Floor(c.Kind) {
			continue
		}
		if err := k.cut(ctx, &c); err != nil {
			return err
		}
		k.app.log.Warn("the oldest data goes for want of room", "kind", c.Kind, "before", dayText(c.Floor), "why", c.Why)
	}
	return nil
}

// cut proposes one cut. What it frees, whatever it is for, is waited for before room is cut for again.
func (k *retentionKeeper) cut(ctx context.Context, c *retention.Cut) error {
	if c.Kind != command.KindMetrics {
		if err := k.app.archive.Losing(ctx, k.app.state.wait().Floor(c.Kind), c.Floor, c.Reason.String()); err != nil {
			k.app.log.Warn("which days go that are not archived is not written down", "err", err)
		}
	}
	if err := k.app.propose(ctx, command.NewRetentionCut(c.Kind, c.Floor, c.Reason)); err != nil {
		return fmt.Errorf("cut %s by %s: %w", c.Kind, c.Reason, err)
	}
	k.cutAt = time.Now()
	return nil
}

// said logs what is in the way of cuts, once as long as it stays the same.
func (k *retentionKeeper) said(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != k.trouble {
		k.app.log.Warn("retention is not cut", "err", err)
	}
	k.trouble = text
}

// floorLag is how far behind its age a floor may stay when there is nothing to remove: a cut of nothing would be in the
// way in the history of those that removed something. A new cluster has no floor until something is older than it keeps.
const floorLag = 30 * retention.DayMs

// byAge returns the cuts by age that remove something, and those that bring a floor forward which stayed behind.
func (k *retentionKeeper) byAge(p *retention.Policy, now int64, st *meta.Store) []retention.Cut {
	cuts := retention.ByAge(p, now, st.Floor)
	if len(cuts) == 0 {
		return nil
	}
	_, sums := k.app.node.Digest()
	return slices.DeleteFunc(cuts, func(c retention.Cut) bool {
		at := st.Floor(c.Kind)
		return (at <= 0 || c.Floor-at < floorLag) && !slices.ContainsFunc(sums, func(d meta.Digest) bool {
			return d.Kind == c.Kind && d.Day < c.Floor/retention.DayMs
		})
	})
}

func dayText(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.DateOnly) }

// tell logs once when the disk of a node passes a line.
func (k *retentionKeeper) tell(p *retention.Policy, now int64, reports []retention.Report, failed []string) {
	if k.states == nil {
		k.states, k.failed, k.slow = make(map[string]retention.State), make(map[string]bool), make(map[string]time.Time)
	}
	for i := range reports {
		r := &reports[i]
		st, why := retention.Judge(p, now, r)
		was := cmp.Or(k.states[r.Node], retention.StateOK)
		k.states[r.Node] = st
		delete(k.failed, r.Node)
		switch since, known := k.slow[r.Node]; {
		case !r.Pending:
			delete(k.slow, r.Node)
		case !known:
			k.slow[r.Node] = time.Now()
		case !since.IsZero() && time.Since(since) > deleteLate:
			k.slow[r.Node] = time.Time{}
			k.app.log.Error("days that were cut are still on a disk, and until they are gone nothing more is cut for it; its node's log says why",
				"disk_of", r.Node, "used_pct", int(r.Used()))
		}
		full, wasFull := st != retention.StateOK, was != retention.StateOK
		switch {
		case st == retention.StateStuck && was != st:
			k.app.log.Error("a disk is nearly full and no cut helps", "disk_of", r.Node, "why", why, "used_pct", int(r.Used()))
		case full && !wasFull:
			k.app.log.Warn("a disk fills up", "disk_of", r.Node, "used_pct", int(r.Used()), "warn_pct", p.Warn, "limit_pct", p.Limit)
		case !full && wasFull:
			k.app.log.Info("a disk has room again", "disk_of", r.Node, "used_pct", int(r.Used()))
		}
	}
	for _, id := range failed {
		if !k.failed[id] {
			k.failed[id] = true
			k.app.log.Warn("the disk of a voter is not known, so nothing is cut for it", "disk_of", id)
		}
	}
}

// reports asks all voters at once how their disks are; failed are those that did not say.
func (k *retentionKeeper) reports(ctx context.Context) (reports []retention.Report, failed []string) {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range k.app.node.Status().Members {
		if !m.Voter {
			continue
		}
		wg.Go(func() {
			var r retention.Report
			var err error
			if m.ID == k.app.cfg.NodeID {
				r = k.app.disk.report()
			} else {
				err = k.app.askPeer(ctx, m.ID, peerDiskPath, &r)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil || r.Total <= 0 {
				failed = append(failed, m.ID)
				return
			}
			r.Node = m.ID
			reports = append(reports, r)
		})
	}
	wg.Wait()
	slices.SortFunc(reports, func(a, b retention.Report) int { return strings.Compare(a.Node, b.Node) })
	slices.Sort(failed)
	return reports, failed
}

// Overview implements api.Retention.
func (k *retentionKeeper) Overview(ctx context.Context, most int) api.RetentionView {
	st := k.app.state.wait()
	now := st.LogTime()
	r, index := k.record()
	out := api.RetentionView{
		Policy: r.Policy, Version: index, By: r.By, At: r.At, Defaults: k.defaults(),
		Kinds: []api.RetentionKind{}, Nodes: []api.RetentionNode{}, History: k.history(most), Selectors: k.selectors(),
	}
	reports, failed := k.reports(ctx)
	_, sums := k.app.node.Digest()
	for _, kind := range command.Kinds {
		row := api.RetentionKind{Kind: kind.String(), Floor: max(0, st.Floor(kind))}
		for i := range sums {
			if s := &sums[i]; s.Kind == kind && s.Count > 0 {
				row.Items += s.Count
				if from := max(s.Day*retention.DayMs, row.Floor); row.Oldest == 0 || from < row.Oldest {
					row.Oldest = from
				}
			}
		}
		out.Kinds = append(out.Kinds, row)
	}
	for i := range reports {
		r := &reports[i]
		state, why := retention.Judge(&out.Policy, now, r)
		perDay, left := retention.Outlook(&out.Policy, now, r)
		n := api.RetentionNode{
			Node: r.Node, State: string(state), Why: why, Total: r.Total, Free: r.Free, Room: r.Room(), UsedPct: r.Used(),
			Kinds: r.Kinds, Queue: r.Queue, Meta: r.Meta, Temporary: r.Temporary, Foreign: r.Foreign(), Pending: r.Pending, PerDay: perDay,
		}
		if left >= 0 {
			n.DaysLeft = &left
		}
		out.Nodes = append(out.Nodes, n)
	}
	for _, id := range failed {
		out.Nodes = append(out.Nodes, api.RetentionNode{Node: id, State: string(retention.StateUnknown), Kinds: map[string]int64{}})
	}
	slices.SortFunc(out.Nodes, func(a, b api.RetentionNode) int { return strings.Compare(a.Node, b.Node) })
	return out
}

// history lists what was cut, the newest first.
func (k *retentionKeeper) history(most int) []api.RetentionCut {
	out := []api.RetentionCut{}
	from := make(map[string]int64)
	k.app.state.Scan(machine.BucketRetentionCuts, "", func(key string, v meta.Value) bool {
		var c struct {
			At     int64  `json:"at"`
			Kind   string `json:"kind"`
			Floor  int64  `json:"floor"`
			Reason string `json:"reason"`
		}
		if json.Unmarshal(v.Data, &c) != nil {
			return true
		}
		digits, _, _ := strings.Cut(key, ".")
		index, _ := strconv.ParseUint(digits, 10, 64)
		out = append(out, api.RetentionCut{Kind: c.Kind, From: from[c.Kind], To: c.Floor, Reason: c.Reason, At: c.At, Index: index})
		from[c.Kind] = c.Floor
		return true
	})
	slices.Reverse(out)
	return out[:min(most, len(out))]
}

// Set implements api.Retention.
func (k *retentionKeeper) Set(ctx context.Context, p *retention.Policy, version *uint64, by auth.AuditRecord) error {
	if p != nil {
		if err := p.Validate(); err != nil {
			return problem.Wrap(http.StatusBadRequest, err).WithHint("`triward retention show` prints the policy in effect")
		}
	}
	old, _ := k.record()
	v, _ := k.app.state.Get(retention.Bucket, retention.KeyPolicy)
	if version != nil && *version != v.ModIndex {
		return problem.New(http.StatusConflict, "the policy was changed by somebody else meanwhile").
			WithHint("read it again and repeat the change")
	}
	op := command.Op{Bucket: retention.Bucket, Key: retention.KeyPolicy, Delete: p == nil}
	next := k.defaults()
	by.Action = "retention.reset"
	if p != nil {
		next, by.Action = *p, "retention.set"
		rec := retention.Record{Policy: next, By: by.Actor, At: k.app.state.LogTime()}
		op.Value = rec.Encode()
	}
	detail, err := json.Marshal(map[string]any{"from": old.Policy, "to": next})
	if err != nil {
		return fmt.Errorf("encode the audit record: %w", err)
	}
	by.Detail = detail
	_, err = k.app.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: op.Bucket, Key: op.Key, ModIndex: v.ModIndex}},
		Ops:      []command.Op{op}, Audit: []command.AuditRecord{command.AuditRecord(by)},
	})
	return err
}

var (
	diskBytesDesc = prometheus.NewDesc("triward_disk_bytes",
		"What files take of the disk that the data lies on, by what they are.", []string{"of"}, nil)
	diskTotalDesc = prometheus.NewDesc("triward_disk_total_bytes", "Size of the disk that the data lies on.", nil, nil)
	diskFreeDesc  = prometheus.NewDesc("triward_disk_free_bytes", "What is free of it.", nil, nil)
	diskUsedDesc  = prometheus.NewDesc("triward_disk_used_ratio",
		"How much of the room of the disk is used: 1 is when nothing but the reserve is left.", nil, nil)
	diskWarnDesc  = prometheus.NewDesc("triward_disk_warn_ratio", "From where on operators are warned.", nil, nil)
	diskStuckDesc = prometheus.NewDesc("triward_disk_stuck", "1 when the disk is used beyond the limit and no cut helps.", nil, nil)
	certEndDesc   = prometheus.NewDesc("triward_certificate_expiry_timestamp_seconds", "End of the node's certificate.", nil, nil)
	floorDesc     = prometheus.NewDesc("triward_retention_floor_timestamp_seconds",
		"Data of the kind before this time was removed by retention; 0 when none was.", []string{"kind"}, nil)
)

// Describe implements prometheus.Collector.
func (k *retentionKeeper) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{diskBytesDesc, diskTotalDesc, diskFreeDesc, diskUsedDesc, diskWarnDesc, diskStuckDesc, certEndDesc, floorDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (k *retentionKeeper) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	r := k.app.disk.report()
	policy, _ := k.record()
	for kind, n := range r.Kinds {
		gauge(diskBytesDesc, float64(n), kind)
	}
	gauge(diskBytesDesc, float64(r.Queue), "queue")
	gauge(diskBytesDesc, float64(r.Meta), "meta")
	gauge(diskBytesDesc, float64(r.Temporary), "temporary")
	gauge(diskBytesDesc, float64(r.Foreign()), "foreign")
	gauge(diskTotalDesc, float64(r.Total))
	gauge(diskFreeDesc, float64(r.Free))
	gauge(diskUsedDesc, r.Used()/100)
	gauge(diskWarnDesc, float64(policy.Warn)/100)
	stuck := 0.0
	if state, _ := retention.Judge(&policy.Policy, k.app.state.LogTime(), &r); state == retention.StateStuck {
		stuck = 1
	}
	gauge(diskStuckDesc, stuck)
	gauge(certEndDesc, float64(k.app.identity.Expires().Unix()))
	for _, kind := range command.Kinds {
		gauge(floorDesc, float64(max(0, k.app.state.wait().Floor(kind)))/1000, kind.String())
	}
}
