package archive

import "github.com/prometheus/client_golang/prometheus"

var (
	descGood    = prometheus.NewDesc("triward_logs_archive_last_success_timestamp_seconds", "When a day of lines was archived last; 0 for never.", nil, nil)
	descFailing = prometheus.NewDesc("triward_logs_archive_failing", "Days of lines whose last attempt to be archived failed.", nil, nil)
	descWaiting = prometheus.NewDesc("triward_logs_archive_overdue_days", "Days of lines that should have been archived by now.", nil, nil)
	descDays    = prometheus.NewDesc("triward_logs_archive_days", "Days of lines that are archived, as far as is known.", nil, nil)
	descBytes   = prometheus.NewDesc("triward_logs_archive_bytes", "What they take in the archive.", nil, nil)
	descLost    = prometheus.NewDesc("triward_logs_archive_lost_days", "Days that retention took before they were archived, as far as is known.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Service) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descGood, descFailing, descWaiting, descDays, descBytes, descLost} {
		ch <- d
	}
}

// Collect implements prometheus.Collector: every node tells what the cluster knows. Nothing is told where nothing is archived.
func (s *Service) Collect(ch chan<- prometheus.Metric) {
	p, _, ok := s.policy()
	if !ok || !p.active() {
		return
	}
	now := s.cfg.Meta.LogTime()
	var good, failing, days, bytes float64
	for _, r := range list[DayRecord](s.cfg.Meta, prefixDay) {
		if r.Error != "" {
			failing++
		}
		if r.Through > 0 {
			good, days, bytes = max(good, float64(r.At)/1e3), days+1, bytes+float64(r.Stored)
		}
	}
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(descGood, good)
	gauge(descFailing, failing)
	gauge(descWaiting, float64(len(s.unarchived(s.over(now, overdue(&p))))))
	gauge(descDays, days)
	gauge(descBytes, bytes)
	gauge(descLost, float64(len(list[Lost](s.cfg.Meta, prefixLost))))
}
