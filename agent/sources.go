package agent

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/collect"
	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/agent/journal"
	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/tail"
	"github.com/triward/triward/agent/wire"
)

// holdPatience is how long a change of what is followed waits for a full spool.
const holdPatience = 5 * time.Second

// sources are what is collected and followed by one configuration. They run between start and stop; a change makes new
// ones.
type sources struct {
	scraper  *collect.Scraper
	tailer   *tail.Tailer
	follower *journal.Follower

	cancel            context.CancelFunc
	reading, scraping sync.WaitGroup
}

// totals are the counters of sources that were replaced.
type totals struct {
	filtered, lostFiles, lostEntries, restarts atomic.Int64
}

// keep adds what a replaced tailer or follower has counted.
func (t *totals) keep(s *sources) {
	if s.tailer != nil {
		t.filtered.Add(s.tailer.Filtered.Load())
		t.lostFiles.Add(s.tailer.Lost.Load())
	}
	if s.follower != nil {
		t.filtered.Add(int64(s.follower.Filtered.Load()))
		t.lostEntries.Add(int64(s.follower.Lost.Load()))
		t.restarts.Add(int64(s.follower.Restarts.Load()))
	}
}

// gathererOf makes what a configuration collects; nil for nothing.
func (a *Agent) gathererOf(m *config.Metrics) (prometheus.Gatherer, error) {
	if !m.Enabled {
		return nil, nil
	}
	if a.opt.Gatherer != nil {
		return prometheus.Gatherers{a.opt.Gatherer, a.registry}, nil
	}
	g, err := NodeGatherer(m, a.log)
	if err != nil {
		return nil, err
	}
	return prometheus.Gatherers{g, a.registry}, nil
}

// makeSources makes the sources of a configuration; positions say where they go on. before is what was followed until
// now, nil at the start.
func (a *Agent) makeSources(c *config.Config, g prometheus.Gatherer, positions map[string][]byte, before *config.Config) *sources {
	s := &sources{cancel: func() {}}
	if g != nil {
		s.scraper = &collect.Scraper{
			Gatherer: g, Sink: &metricSink{sp: a.spool, coder: a.coder},
			Period: c.Metrics.Period, Exclude: c.Metrics.ExcludeMetrics(), Log: a.log,
			Observe: a.figures.scraped,
		}
	}
	if c.Logs.Enabled {
		tc := tail.Config{
			Groups: c.Logs.Groups(), State: positions, Batcher: a.logs,
			Parser: &lines.Parser{Zone: time.Local}, Log: a.log, InitialBacklog: int64(c.Logs.InitialBacklog),
			MaxFiles: c.Logs.MaxFiles, Report: a.Event,
		}
		if before != nil {
			tc.Before = []tail.Group{}
			if before.Logs.Enabled {
				tc.Before = before.Logs.Groups()
			}
		}
		s.tailer = tail.New(tc)
	}
	if e := c.Journal.Enabled; e == "true" || e == "auto" && journal.Present() {
		drop, keep := c.Journal.Filters()
		s.follower = journal.New(journal.Config{
			Machine: machineID(), Units: c.Journal.Units, Priority: c.Journal.Priority, Drop: drop, Keep: keep,
			Backlog: c.Journal.Backlog, Cursor: string(positions[journal.StateKey]), Batcher: a.logs, Log: a.log, Report: a.Event,
		})
	}
	return s
}

// start runs the sources until stop is called or ctx ends. What they cannot go on from is sent to failures. Metrics are
// not gathered before those whose place these take (nil: nobody's) have ended doing so, which may take long.
func (s *sources) start(ctx context.Context, before *sources, failures chan<- error) {
	ctx, s.cancel = context.WithCancel(ctx)
	run := func(work func(context.Context) error) {
		s.reading.Go(func() {
			if err := work(ctx); err != nil {
				select {
				case failures <- err:
				default: // one is enough to end the agent
				}
			}
		})
	}
	s.scraping.Go(func() {
		if before != nil {
			before.scraping.Wait()
		}
		if s.scraper != nil {
			s.scraper.Run(ctx)
		}
	})
	if s.tailer != nil {
		run(s.tailer.Run)
	}
	if s.follower != nil {
		run(s.follower.Run)
	}
}

// stop ends the sources and waits for them.
func (s *sources) stop() {
	s.cancel()
	s.reading.Wait()
	s.scraping.Wait()
}

// errHeld says that what is followed cannot be changed now.
var errHeld = fmt.Errorf("the spool is full, what is read of logs cannot be changed before it has room: %w", errLater)

// replaceSources puts the sources of another configuration in the place of those that run. Every source goes on exactly
// where it stood: nothing is taken while they change places.
func (a *Agent) replaceSources(ctx context.Context, c *config.Config, g prometheus.Gatherer, failures chan<- error) error {
	patience, cancel := context.WithTimeout(ctx, holdPatience)
	defer cancel()
	gathered, release, err := a.logs.Hold(patience)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("the agent stops: %w", ctx.Err())
		}
		return errHeld
	}
	defer release()
	old := a.src.Load()
	old.cancel()
	old.reading.Wait() // not for metrics, which may be held up by a disk that hangs: nothing is read meanwhile
	a.totals.keep(old)
	positions := map[string][]byte{}
	maps.Copy(positions, a.spool.State(wire.LaneLogs))
	maps.Copy(positions, gathered)
	for key, p := range gathered {
		if p == nil {
			delete(positions, key)
		}
	}
	before := a.effective.Load()
	fresh := a.makeSources(c, g, positions, before)
	a.effective.Store(c)
	a.src.Store(fresh)
	fresh.start(ctx, old, failures)
	return nil
}
