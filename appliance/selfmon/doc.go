// Package selfmon stores a node's own metrics and log as those of any host are stored: as series and lines with the
// labels host (the node's name) and job="triward".
//
// It promises that a node which cannot store them is not hurt by it: lines wait in a buffer of bounded length, samples
// are not kept, and what is lost is counted (triward_self_dropped_total). Storing a line makes no other: what this
// package has to say goes to the node's log alone. Lines below info are not stored, nor more than a bounded rate.
//
// It must import no other part of Triward but agent/wire and the intake, through which everything goes.
package selfmon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/intake"
)

// Sink takes what a node says of itself.
type Sink interface {
	// Record stores samples of one time (ms).
	Record(ctx context.Context, t int64, list []intake.Recorded) (accepted, duplicates int, err error)
	// Lines stores lines of one stream and returns how many it took; the others were refused for good. After an error
	// all of them are given again.
	Lines(ctx context.Context, labels map[string]string, lines []wire.LogLine) (stored int, err error)
}

// Config of a Monitor.
type Config struct {
	Node     string // the label host
	Sink     Sink
	Gatherer prometheus.Gatherer
	Buffer   *Buffer // of the node's log
	// Quiet is the node's log without Buffer: what is said to it is not stored.
	Quiet *slog.Logger
	// Registerer of the monitor's own metrics.
	Registerer prometheus.Registerer
	// Ready reports whether the node is a member, so that there is somewhere to store.
	Ready func() bool
	// Every is how often metrics are stored (15 s), shifted by Stagger. LinesEvery is how often lines are (2 s).
	Every, LinesEvery, Stagger time.Duration
}

// Monitor stores what a node says of itself. Make it with New, Start it, and Close it.
type Monitor struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	dropped *prometheus.CounterVec
	series  prometheus.Gauge
	failing map[string]bool // that it was said; each of one goroutine
	mu      sync.Mutex      // guards failing
}

// New makes a monitor. The error is that of the registerer.
func New(cfg Config) (*Monitor, error) {
	if cfg.Every == 0 {
		cfg.Every = 15 * time.Second
	}
	if cfg.LinesEvery == 0 {
		cfg.LinesEvery = 2 * time.Second
	}
	m := &Monitor{
		cfg: cfg, failing: make(map[string]bool),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_self_dropped_total", Help: "The node's own samples and lines that were not stored, by kind.",
		}, []string{"kind"}),
		series: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "triward_self_series", Help: "Series in which the node's own metrics are stored.",
		}),
	}
	m.dropped.WithLabelValues("samples").Add(0)
	m.dropped.WithLabelValues("lines").Add(0)
	m.ctx, m.cancel = context.WithCancel(context.Background())
	for _, c := range []prometheus.Collector{m.dropped, m.series} {
		if err := cfg.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Start begins to store.
func (m *Monitor) Start() {
	m.wg.Go(func() {
		first := time.NewTimer(m.cfg.Stagger % m.cfg.Every)
		defer first.Stop()
		select {
		case <-first.C:
		case <-m.ctx.Done():
			return
		}
		m.every(m.cfg.Every, m.storeMetrics)
	})
	m.wg.Go(func() { m.every(m.cfg.LinesEvery, m.storeLines) })
}

func (m *Monitor) every(d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		if m.cfg.Ready() {
			do()
		}
		select {
		case <-tick.C:
		case <-m.ctx.Done():
			return
		}
	}
}

// Close ends it and waits for it. Lines that were not stored yet are lost: they are in the node's log. It is idempotent.
func (m *Monitor) Close() error {
	m.cancel()
	m.wg.Wait()
	return nil
}

// patience is how long storing may take at once.
const patience = 10 * time.Second

// said tells once that something cannot be stored, and once that it can again.
func (m *Monitor) said(what string, err error) {
	m.mu.Lock()
	was := m.failing[what]
	m.failing[what] = err != nil
	m.mu.Unlock()
	switch {
	case m.ctx.Err() != nil:
	case err != nil && !was:
		m.cfg.Quiet.Warn("the node's own "+what+" are not stored", "err", err)
	case err == nil && was:
		m.cfg.Quiet.Info("the node's own " + what + " are stored again")
	}
}

func (m *Monitor) storeMetrics() {
	families, err := m.cfg.Gatherer.Gather()
	if err != nil { // what could be gathered is there
		m.cfg.Quiet.Debug("gather the node's own metrics", "err", err)
	}
	list, over := Samples(m.cfg.Node, families)
	m.series.Set(float64(len(list)))
	m.dropped.WithLabelValues("samples").Add(float64(over))
	ctx, cancel := context.WithTimeout(m.ctx, min(patience, m.cfg.Every))
	defer cancel()
	accepted, duplicates, err := m.cfg.Sink.Record(ctx, time.Now().UnixMilli(), list)
	if lost := len(list) - accepted - duplicates; lost > 0 {
		m.dropped.WithLabelValues("samples").Add(float64(lost))
	}
	m.said("metrics", err)
}

func (m *Monitor) storeLines() {
	for range maxWaiting/takeAtOnce + 1 { // what comes meanwhile has its turn later
		lines, lost := m.cfg.Buffer.take()
		m.dropped.WithLabelValues("lines").Add(float64(lost))
		if len(lines) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(m.ctx, patience)
		stored, err := m.cfg.Sink.Lines(ctx, map[string]string{"host": m.cfg.Node, "job": Job, "source": "triward"}, lines)
		cancel()
		m.said("lines", err)
		if err != nil {
			m.cfg.Buffer.giveBack(lines)
			return
		}
		m.dropped.WithLabelValues("lines").Add(float64(max(0, len(lines)-stored)))
	}
}
