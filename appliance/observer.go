package appliance

import (
	"slices"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/raftstate"
)

// alertBuckets are those whose changes the alerting is told of.
var alertBuckets = func() map[string]bool {
	m := make(map[string]bool)
	for _, b := range alerting.Buckets() {
		m[b] = true
	}
	return m
}()

// observer passes on what Apply brought to the views that are kept beside the stores. It runs in the apply
// goroutine: all it calls copies what it keeps and returns at once.
type observer struct{ app *App }

// agentsChanged has the gateway look whose connections it must cut.
func (o *observer) agentsChanged() {
	if g := o.app.gateway.Load(); g != nil {
		g.Changed()
	}
}

// Observe implements raftstate.Observer.
func (o *observer) Observe(applied *raftstate.Applied) {
	a := o.app
	if applied.Installed { // anything may have changed: the views read it from the stores
		a.view.Installed(applied.LogTime)
		a.lines.Installed(applied.Index)
		a.guard.installed()
		for _, bucket := range accessBuckets {
			a.auth.Changed(bucket)
		}
		a.alerts.Changed("", "")
		a.eventMark.installed(applied.Index)
		a.events.Installed()
		if !applied.Repaired {
			a.queue.Installed(applied.Index, applied.LogTime)
			a.imageInstalled(applied.Index)
		}
		o.agentsChanged()
		return
	}
	a.view.Observe(applied.LogTime, applied.Samples, applied.Logs)
	a.lines.Observe(applied.Index, applied.Logs)
	a.eventMark.observe(applied)
	a.queue.Observe(arrived(applied))
	last := ""
	for _, m := range applied.Meta {
		if alertBuckets[m.Bucket] {
			a.alerts.Changed(m.Bucket, m.Key)
		}
		if m.Bucket == bucketRepairs {
			a.repairs.Ordered()
		}
		if m.Bucket == retention.Bucket {
			a.selectors.poke()
		}
		if slices.Contains(eventBuckets, m.Bucket) {
			a.events.Changed(m.Bucket, m.Key)
		}
		if m.Bucket != last { // neighbours are mostly of one bucket
			a.auth.Changed(m.Bucket)
			if m.Bucket == auth.BucketAgents {
				o.agentsChanged()
			}
			last = m.Bucket
		}
	}
}
