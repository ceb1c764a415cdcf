package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
)

// logGuard knows how damage to the log store is told: it is counted and makes the node unready, as other nodes hold
// what this one lost. Answers that lack something say so themselves, and the store writes to the log.
type logGuard struct {
	app    *App
	found  prometheus.Counter
	backed prometheus.Counter
	again  chan struct{} // the store was replaced
}

// verifyRetry is how long after a failure the lines are counted again.
const verifyRetry = time.Second

func newLogGuard(a *App) *logGuard {
	g := &logGuard{app: a, again: make(chan struct{}, 1), found: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "triward_logstore_damage_total", Help: "Places of the log store that were found to be damaged.",
	})}
	g.backed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "triward_logstore_block_fallback_total",
		Help: "Blocks of lines kept in the older form because the newer one would have changed their lines: a fault of the program, nothing is lost.",
	})
	a.registry.MustRegister(g.found, g.backed)
	return g
}

// damaged is logstore.Options.OnDamage.
func (g *logGuard) damaged(d *logstore.DamageError) {
	if n := g.app.nodeIfOpen(); n != nil && !n.InUse(d.Dir) {
		return // of a store that was replaced
	}
	g.found.Inc()
	g.app.integrity.logsDamaged(d)
}

// fellBack is logstore.Options.OnFallback.
func (g *logGuard) fellBack(error) { g.backed.Inc() }

// installed is told that another store was put in place. It never blocks.
func (g *logGuard) installed() {
	select {
	case g.again <- struct{}{}:
	default: // it will be looked at
	}
}

// check is the node's check of that name.
func (g *logGuard) check(context.Context) error {
	places := g.app.logs.Damaged()
	switch len(places) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("damaged: %s (%s)", places[0], hintReplace)
	}
	return fmt.Errorf("damaged: %s and %d more places (%s)", places[0], len(places)-1, hintReplace)
}

const hintReplace = "the node takes its data from another one by itself; `triward cluster status` shows how far it is"

// run compares, at the start and after every install, the lines in the store with those that were accepted.
func (g *logGuard) run(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.again:
		case <-retry.C:
		}
		err := g.verify(ctx)
		if err != nil && !errors.Is(err, logstore.ErrDamaged) && ctx.Err() == nil {
			if !errors.Is(err, logstore.ErrBehind) && !errors.Is(err, logstore.ErrCutMeanwhile) { // as it is while an image is put in place
				g.app.log.Warn("the lines of the log store are not counted", "err", err)
			}
			retry.Reset(verifyRetry)
		}
	}
}

func (g *logGuard) verify(ctx context.Context) error {
	kinds := map[command.Kind]wire.StreamKind{command.KindLogs: wire.StreamLog, command.KindEvents: wire.StreamEvent}
	through, sums, cut, err := g.app.node.Accepted()
	if err != nil {
		return err
	}
	want := map[logstore.KindDay]int64{}
	for _, d := range sums {
		if kind, ok := kinds[d.Kind]; ok {
			want[logstore.KindDay{Kind: kind, Day: d.Day}] = int64(d.Count)
		}
	}
	st := g.app.state.wait()
	return g.app.logs.Verify(ctx, through, want, cut, func(kind wire.StreamKind) int64 {
		if kind == wire.StreamEvent {
			return st.Floor(command.KindEvents) * 1e6
		}
		return st.Floor(command.KindLogs) * 1e6
	})
}
