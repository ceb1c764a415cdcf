// Package doctor looks for what keeps a node from working, now or soon: its clock, disk, ports, names, certificates,
// limits, memory and key ring. It judges the machine it runs on and needs no running node; what only the cluster knows
// is the command line's to ask.
//
// It changes nothing: all it writes is a file of a few KiB in the data directory, to measure the disk, which it removes.
package doctor

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/triward/triward/appliance"
)

// Status is how something stands.
type Status string

// Statuses, from good to bad.
const (
	OK      Status = "ok"
	Warning Status = "warning" // works now; see to it
	Problem Status = "problem" // does not work, or data is in danger
)

// Finding is one line of a report.
type Finding struct {
	Check   string `json:"check"`   // clock, disk, ports, ...
	Subject string `json:"subject"` // what was looked at
	Status  Status `json:"status"`
	Detail  string `json:"detail"`           // what was found
	Remedy  string `json:"remedy,omitempty"` // what to do; empty when it is ok
}

// Report is findings in the order in which they are shown.
type Report []Finding

// Add appends a finding. A finding that is ok keeps no remedy.
func (r *Report) Add(check, subject string, status Status, detail, remedy string) {
	if status == OK {
		remedy = ""
	}
	*r = append(*r, Finding{check, subject, status, detail, remedy})
}

// Count returns how many findings have the status.
func (r Report) Count(status Status) (n int) {
	for _, f := range r {
		if f.Status == status {
			n++
		}
	}
	return n
}

// order is how checks are listed.
var order = []string{"configuration", "node", "clock", "disk", "memory", "limits", "ports", "names", "certificates", "keys", "data", "versions", "cluster", "backup"}

// Sort puts the findings in the order in which they are shown.
func (r Report) Sort() {
	slices.SortStableFunc(r, func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.Check), slices.Index(order, b.Check))
	})
}

// patience is how long one look at the network may take.
const patience = 2 * time.Second

// Local judges this machine as the place of the node that the configuration, which must be resolved, describes.
// running says that its server has the data directory now. It takes about a second.
func Local(ctx context.Context, cfg *appliance.Config, running bool) Report {
	var mu sync.Mutex
	var all Report
	var work sync.WaitGroup
	for _, check := range []func(context.Context, *appliance.Config, bool) Report{
		node, clock, disk, memory, limits, ports, names, certificates, keys, damage,
	} {
		work.Go(func() {
			found := check(ctx, cfg, running)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, found...)
		})
	}
	work.Wait()
	all.Sort()
	return all
}

// Machine judges what needs no configuration, for one that cannot be read.
func Machine(ctx context.Context) Report {
	r := slices.Concat(clock(ctx, nil, false), memory(ctx, nil, false), limits(ctx, nil, false))
	r.Sort()
	return r
}

// node says whether the node was set up and runs.
func node(_ context.Context, cfg *appliance.Config, running bool) (r Report) {
	switch err := cfg.Initialised(); {
	case running:
		r.Add("node", cfg.NodeID, OK, "set up and running", "")
	case err == nil:
		r.Add("node", cfg.NodeID, Warning, "set up, and does not run", "start it: systemctl start triward; when it ends again: journalctl -u triward")
	case isNotInitialised(err):
		r.Add("node", cfg.NodeID, OK, "not set up yet: `triward cluster init` or `triward cluster join` comes next", "")
	default:
		r.Add("node", cfg.NodeID, Warning, err.Error(), asRoot)
	}
	return r
}

// asRoot is the remedy where files may not be read.
const asRoot = "run this as root, or as the user that the node runs as"
