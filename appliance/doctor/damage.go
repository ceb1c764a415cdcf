package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/repair"
	"github.com/triward/triward/raftstate/snapshot"
)

// damage tells what this node knows of damage to its data, and what lies aside because of it.
func damage(_ context.Context, cfg *appliance.Config, _ bool) (r Report) {
	records, err := repair.Journal(cfg.DataDir)
	if err != nil {
		r.Add("data", "damage", Warning, err.Error(), "run it as root, or as the user that the node runs as; the node begins a new journal by itself")
	}
	open := 0
	var last *repair.Record
	for i := range records {
		k := &records[i]
		switch {
		case k.Open() && k.Part != "index":
			open++
			if open <= maxDamageShown {
				r.Add("data", k.Part, Problem, fmt.Sprintf("%s is damaged, found %s: %s", k.Place, time.UnixMilli(k.FoundAt).Format(time.DateTime), k.Err),
					"let the node run: it takes its data from another one; `triward cluster status` says why when it does not")
			}
		case !k.Open():
			last = k
		}
	}
	if open > maxDamageShown {
		r.Add("data", "damage", Problem, fmt.Sprintf("%d more places are damaged", open-maxDamageShown), "check the disk of this machine")
	}
	if last != nil && time.Since(time.UnixMilli(last.RepairedAt)) < 30*day {
		r.Add("data", "damage", Warning, fmt.Sprintf("%s (%s) was damaged and repaired %s", last.Place, last.Part, time.UnixMilli(last.RepairedAt).Format(time.DateTime)),
			"check the disk and the memory of this machine: files do not change by themselves")
	}
	asides, err := snapshot.NewLayout(cfg.DataDir).SetAsides()
	if err != nil {
		return r // who may not list it is told elsewhere
	}
	for _, a := range asides {
		r.Add("data", "set aside", Warning, fmt.Sprintf("%s, %d MiB: %s", a.Dir, a.Bytes>>20, a.Reason),
			"nothing: the node removes it a week after the repair, or when its disk is full")
	}
	if len(r) == 0 {
		r.Add("data", "damage", OK, "none is known", "")
	}
	return r
}

// maxDamageShown bounds the places that are listed.
const maxDamageShown = 5
