package alerting

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/appliance/alerting/state"
)

// serviceMetrics are what an operator sees of the alerting of a node.
type serviceMetrics struct {
	reg          prometheus.Registerer
	all          []prometheus.Collector
	evaluations  prometheus.Counter
	failures     prometheus.Counter
	recorded     prometheus.Counter
	took         prometheus.Histogram
	sent         *prometheus.CounterVec
	sendFailures *prometheus.CounterVec
	undelivered  prometheus.Counter
}

func newServiceMetrics(reg prometheus.Registerer, s *Service) *serviceMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &serviceMetrics{
		reg:         reg,
		evaluations: counter("triward_alert_evaluations_total", "Evaluations of groups of rules by this node as the leader."),
		failures:    counter("triward_alert_evaluation_failures_total", "Evaluations of rules that gave an error."),
		recorded:    counter("triward_recorded_samples_total", "Samples that recording rules gave on this node as the leader."),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "triward_alert_evaluation_seconds", Help: "Time to evaluate a group of rules.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10},
		}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_notifications_sent_total", Help: "Messages that receivers took from this node.",
		}, []string{"integration"}),
		sendFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_notification_failures_total", Help: "Attempts to send a message that failed.",
		}, []string{"integration"}),
		undelivered: counter("triward_notifications_undelivered_total", "Messages that were given up."),
	}
	shown := func(what state.Shown) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "triward_alerts", Help: "Alerts by state.", ConstLabels: prometheus.Labels{"state": string(what)},
		}, func() float64 { return float64(s.countShown(what)) })
	}
	m.all = []prometheus.Collector{
		m.evaluations, m.failures, m.recorded, m.took, m.sent, m.sendFailures, m.undelivered,
		shown(state.Shown(state.Pending)), shown(state.Shown(state.Firing)), shown(state.Acknowledged), shown(state.Silenced), shown(state.Inhibited),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "triward_notifications_waiting", Help: "Messages that are claimed and whose delivery is not known.",
		}, func() float64 {
			s.board.mu.RLock()
			defer s.board.mu.RUnlock()
			return float64(len(s.board.claims))
		}),
	}
	if reg != nil {
		reg.MustRegister(m.all...)
	}
	return m
}

func (m *serviceMetrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

func (m *serviceMetrics) evaluated(e *evaluation) {
	m.evaluations.Inc()
	m.took.Observe(e.took.Seconds())
}

func (s *Service) countShown(what state.Shown) int {
	s.board.refresh()
	s.board.mu.RLock()
	defer s.board.mu.RUnlock()
	n := 0
	for _, a := range s.board.alerts {
		if a.rec.Shown() == what {
			n++
		}
	}
	return n
}
