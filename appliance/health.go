package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/intake"
	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/appliance/selfmon"
	"github.com/triward/triward/raftstate"
)

const (
	// certWarning is how long before its end a certificate should have been renewed long ago.
	certWarning = 14 * day
	// markLate is how many intervals may pass without a mark, and at least how much time.
	markLate      = 10
	markLateLeast = 5 * time.Minute
	// peersEvery is how often the other nodes are asked whether they are there, however often this one is asked.
	peersEvery = 5 * time.Second
)

// newSelfMonitor makes what stores the node's own metrics and log.
func (a *App) newSelfMonitor(taken *intake.Intake) (*selfmon.Monitor, error) {
	a.parts = a.checks()
	if err := a.registry.Register(&partsCollector{a.parts}); err != nil {
		return nil, fmt.Errorf("register metrics of health: %w", err)
	}
	m, err := selfmon.New(selfmon.Config{
		Node: a.cfg.NodeID, Sink: taken, Gatherer: a.registry, Buffer: a.ownLines, Quiet: a.quiet.With("part", "self"),
		Registerer: a.registry, Ready: a.settled.Load, Stagger: a.stagger(15 * time.Second),
	})
	if err != nil {
		return nil, fmt.Errorf("monitor the node itself: %w", err)
	}
	return m, nil
}

// checks are the parts of a node. A failure makes it unready; what is only to be looked at is a warning.
func (a *App) checks() []api.Check {
	says := func(text string) error {
		if text == "" {
			return nil
		}
		return errors.New(text)
	}
	return []api.Check{
		{Part: "log", Live: true, Check: func(context.Context) error { return says(a.node.Status().Fatal) }},
		{Part: "leader", Check: (&leaderCheck{app: a}).check},
		{Part: "setup", Check: func(context.Context) error {
			if !a.settled.Load() {
				return errors.New("this node is still becoming a member")
			}
			return nil
		}},
		{Part: "vote", Check: func(context.Context) error {
			if a.node.Status().Probation {
				return errors.New("this node lost its data and has not caught up: the others cannot do without each other yet")
			}
			if m, ok := a.memberOf(a.cfg.NodeID); ok && !m.Voter {
				if rec, _ := a.membershipOf(m.ID); !rec.ReadOnly {
					return errors.New("this node has no vote yet: the leader gives it one when it has caught up")
				}
			}
			return nil
		}},
		{Part: "disk", Check: a.checkDisk},
		{Part: "data", Check: a.checkData},
		{Part: "metrics", Check: func(context.Context) error { return a.metrics.Check() }},
		{Part: "logs", Check: a.guard.check},
		{Part: "metadata", Check: (&marksCheck{app: a}).check},
		{Part: "clock", Check: func(context.Context) error { return warning(says(a.node.Status().ClockSuspect)) }},
		{Part: "peers", Check: (&peersCheck{app: a}).check},
		{Part: "certificate", Check: a.checkCertificate},
	}
}

// leaderCheck fails without a leader, and says why when there can be none.
type leaderCheck struct {
	app *App

	mu    sync.Mutex
	at    time.Time
	stuck string
}

func (c *leaderCheck) check(ctx context.Context) error {
	if id, _ := c.app.node.Leader(); id != "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) >= peersEvery {
		b := c.app.ballot(context.WithoutCancel(ctx)) // told to others too
		c.at, c.stuck = time.Now(), b.stuck()
	}
	if c.stuck != "" {
		return fmt.Errorf("%w: %s", raftstate.ErrNoLeader, c.stuck)
	}
	return raftstate.ErrNoLeader
}

func warning(err error) error {
	if err == nil {
		return nil
	}
	return &api.Warning{Err: err}
}

// checkDisk fails while the node takes no data for want of room, and warns as the policy says.
func (a *App) checkDisk(context.Context) error {
	if full := a.node.Status().DiskFull; full != "" {
		return errors.New(full)
	}
	r, now := a.disk.report(), a.state.LogTime()
	policy, _ := a.retention.record()
	switch state, why := retention.Judge(&policy.Policy, now, &r); state {
	case retention.StateStuck:
		return warning(fmt.Errorf("%.0f %% of its room is used, and no cut helps: %s", r.Used(), why))
	case retention.StateWarning, retention.StateCutting:
		return warning(fmt.Errorf("%.0f %% of its room is used, %d is the line of the warning", r.Used(), policy.Warn))
	}
	return nil
}

// marksCheck fails when the state is not made durable any more.
type marksCheck struct {
	app *App

	mu    sync.Mutex
	mark  uint64
	since time.Time // when it was first seen that entries came after the mark
}

func (c *marksCheck) check(context.Context) error {
	st := c.app.node.Status()
	late := max(markLateLeast, markLate*time.Duration(c.app.cfg.Queue.MarkInterval))
	if age := c.late(st.MarkIndex, st.AppliedIndex, time.Now()); age > late && !st.Installing {
		return fmt.Errorf("the state was last made durable %s ago, at entry %d of %d",
			time.Since(st.MarkedAt).Round(time.Second), st.MarkIndex, st.AppliedIndex)
	}
	return nil
}

// late is for how long there have been entries after the mark. How old the mark is says nothing: a node to which nothing
// came for an hour has nothing to mark, and is not ill when something comes.
func (c *marksCheck) late(mark, applied uint64, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case applied <= mark:
		c.since = time.Time{}
		return 0
	case mark != c.mark || c.since.IsZero():
		c.mark, c.since = mark, now
	}
	return now.Sub(c.since)
}

// checkCertificate fails when the node's certificate has ended, and warns when it was not renewed in time.
func (a *App) checkCertificate(context.Context) error {
	expires := a.identity.Expires()
	switch left := time.Until(expires); {
	case left <= 0:
		return fmt.Errorf("the certificate of this node ended at %s: run `triward cluster join` with a new token", expires.UTC().Format(time.RFC3339))
	case left < certWarning:
		return warning(fmt.Errorf("the certificate of this node ends at %s and is not renewed; the log says why", expires.UTC().Format(time.RFC3339)))
	}
	return nil
}

// peersCheck asks the other members whether they are there.
type peersCheck struct {
	app *App

	mu   sync.Mutex
	at   time.Time
	last error
}

func (c *peersCheck) check(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < peersEvery {
		return c.last
	}
	// What is found is told to others too: it must not depend on whether this one goes away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), peerPatience)
	defer cancel()
	var mu sync.Mutex
	var gone []string
	var wg sync.WaitGroup
	for _, m := range c.app.node.Status().Members {
		if m.ID == c.app.cfg.NodeID {
			continue
		}
		wg.Go(func() {
			if _, err := c.app.node.PeerStatus(ctx, m.ID); err != nil {
				mu.Lock()
				defer mu.Unlock()
				gone = append(gone, m.ID)
			}
		})
	}
	wg.Wait()
	slices.Sort(gone)
	c.at, c.last = time.Now(), nil
	if len(gone) > 0 {
		c.last = warning(fmt.Errorf("not reached: %s", strings.Join(gone, ", ")))
	}
	return c.last
}

var (
	partUpDesc   = prometheus.NewDesc("triward_part_up", "1 when the part of the node works.", []string{"part"}, nil)
	partWarnDesc = prometheus.NewDesc("triward_part_warning", "1 when somebody should look at the part although it works.", []string{"part"}, nil)
)

// partsCollector tells the health of the parts as metrics.
type partsCollector struct{ checks []api.Check }

// Describe implements prometheus.Collector.
func (c *partsCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- partUpDesc
	ch <- partWarnDesc
}

// Collect implements prometheus.Collector.
func (c *partsCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*peerPatience)
	defer cancel()
	as := map[bool]float64{true: 1}
	for _, k := range c.checks {
		err := k.Check(ctx)
		_, warned := errors.AsType[*api.Warning](err)
		ch <- prometheus.MustNewConstMetric(partUpDesc, prometheus.GaugeValue, as[err == nil || warned], k.Part)
		ch <- prometheus.MustNewConstMetric(partWarnDesc, prometheus.GaugeValue, as[warned], k.Part)
	}
}
