package syslog

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
)

type metrics struct {
	messages    *prometheus.CounterVec
	dropped     *prometheus.CounterVec
	malformed   prometheus.Counter
	cut         prometheus.Counter
	delivered   prometheus.Counter
	connections prometheus.Gauge
	buffered    prometheus.GaugeFunc
	waiting     prometheus.GaugeFunc
}

// reasons why messages are lost.
var reasons = [...]string{"queue", "kernel", "not_allowed", "rejected", "refused"}

func newMetrics(s *Server) metrics {
	m := metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_syslog_messages_total", Help: "Messages of syslog received, by transport.",
		}, []string{"transport"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_syslog_lost_total", Help: "Messages of syslog lost: no room in the queue or in the socket, from a sender that is not allowed, rejected for their time, or in a batch that the cluster refused.",
		}, []string{"reason"}),
		malformed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_syslog_malformed_total", Help: "Messages that are neither of RFC 5424 nor of RFC 3164 and were kept whole.",
		}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_syslog_cut_total", Help: "Messages that were longer than a line may be and were cut.",
		}),
		delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_syslog_delivered_total", Help: "Messages of syslog that the cluster has committed.",
		}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "triward_syslog_connections", Help: "Connections of senders of syslog.",
		}),
		buffered: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "triward_syslog_buffer_bytes", Help: "Bytes that wait on the disk for the cluster to take them.",
		}, func() float64 { return float64(s.spool.Stats().Bytes) }),
		waiting: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "triward_syslog_buffer_batches", Help: "Batches that wait on the disk for the cluster to take them.",
		}, func() float64 {
			acked, next := s.spool.Position(wire.LaneLogs)
			return float64(next - acked - 1)
		}),
	}
	for _, r := range reasons {
		m.dropped.WithLabelValues(r)
	}
	return m
}

func (m *metrics) register(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.messages, m.dropped, m.malformed, m.cut, m.delivered, m.connections, m.buffered, m.waiting} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics of syslog: %w", err)
		}
	}
	return nil
}
