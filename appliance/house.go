package appliance

import (
	"context"
	"fmt"
	"time"

	"github.com/triward/triward/raftstate/command"
)

const (
	houseInterval = 10 * time.Minute
	// seriesIdle is how long a series must be without a sample before its id is collected: longer than the window
	// in which late samples are taken, so that none finds its id gone.
	seriesIdle      = 9 * day
	collectAtOnce   = 5000
	proposalTimeout = 10 * time.Second
)

// lead is told that this node became or ceased to be the leader. It never blocks.
func (a *App) lead(leading bool) {
	a.alerts.Lead(leading)
	for {
		select {
		case a.leading <- leading:
			return
		default:
		}
		select { // only the newest counts
		case <-a.leading:
		default:
		}
	}
}

// keepHouse proposes, while this node leads, what time makes due: retention cuts and the collection of series that
// nobody sends any more. When is a matter of schedule; what holds is what is in the log.
func (a *App) keepHouse(ctx context.Context) {
	tick, look := time.NewTicker(houseInterval), time.NewTicker(roomInterval)
	defer tick.Stop()
	defer look.Stop()
	leading := false
	for {
		select {
		case <-ctx.Done():
			return
		case leading = <-a.leading:
			a.retention.reset()
		case <-look.C:
			if leading {
				if err := a.retention.keep(ctx); ctx.Err() == nil {
					a.retention.said(err)
				}
			}
			continue
		case <-tick.C:
		}
		if !leading {
			continue
		}
		if err := a.collectSeries(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("idle series are not collected", "err", err)
		}
	}
}

func (a *App) collectSeries(ctx context.Context) error {
	st := a.state.wait()
	now := st.LogTime()
	if now == 0 {
		return nil
	}
	ids, err := st.IdleSeries(now-seriesIdle.Milliseconds(), collectAtOnce)
	if err != nil {
		return fmt.Errorf("look for idle series: %w", err)
	}
	if len(ids) == 0 {
		return nil
	}
	return a.propose(ctx, command.NewCollectSeries(ids))
}

func (a *App) propose(ctx context.Context, cmds ...command.Command) error {
	ctx, cancel := context.WithTimeout(ctx, proposalTimeout)
	defer cancel()
	_, results, err := a.node.Propose(ctx, cmds...)
	if err != nil {
		return err
	}
	for i := range results {
		if results[i].Status != command.StatusOK {
			return fmt.Errorf("%s: %s %s", cmds[i].Type, results[i].Status, results[i].Detail)
		}
	}
	return nil
}
