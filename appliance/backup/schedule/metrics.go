package schedule

import "github.com/prometheus/client_golang/prometheus"

var (
	descGood    = prometheus.NewDesc("triward_snapshot_last_success_timestamp_seconds", "When the newest good backup of a schedule was begun; 0 for none.", []string{"schedule"}, nil)
	descOK      = prometheus.NewDesc("triward_snapshot_last_run_ok", "1 when the newest run of a schedule made a backup.", []string{"schedule"}, nil)
	descBytes   = prometheus.NewDesc("triward_snapshot_last_bytes", "Size of the newest good backup of a schedule.", []string{"schedule"}, nil)
	descBehind  = prometheus.NewDesc("triward_log_archive_behind_seconds", "How far the archive of the log of a schedule is behind the cluster's time: what the loss of all nodes would cost.", []string{"schedule"}, nil)
	descGap     = prometheus.NewDesc("triward_log_archive_gap", "1 while entries are missing from the archive of the log; the next backup closes the gap.", []string{"schedule"}, nil)
	descDrillOK = prometheus.NewDesc("triward_restore_drill_ok", "1 when the newest tried restore of a schedule's backup went well.", []string{"schedule"}, nil)
	descDrillAt = prometheus.NewDesc("triward_restore_drill_timestamp_seconds", "When a restore of a schedule's backup was tried last.", []string{"schedule"}, nil)
	descNext    = prometheus.NewDesc("triward_snapshot_next_timestamp_seconds", "When the next backup of a schedule is due; 0 when it is off.", []string{"schedule"}, nil)
)

// Describe implements prometheus.Collector.
func (r *Runner) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descGood, descOK, descBytes, descNext, descBehind, descGap, descDrillOK, descDrillAt} {
		ch <- d
	}
}

// Collect implements prometheus.Collector: every node tells what the cluster knows.
func (r *Runner) Collect(ch chan<- prometheus.Metric) {
	for _, s := range r.Overview(0).Schedules {
		var good, ok, size float64
		if s.LastGood != nil {
			good, size = float64(s.LastGood.Started)/1e3, float64(s.LastGood.Bytes)
		}
		if s.Last == nil || s.Last.OK {
			ok = 1
		}
		ch <- prometheus.MustNewConstMetric(descGood, prometheus.GaugeValue, good, s.Name)
		ch <- prometheus.MustNewConstMetric(descOK, prometheus.GaugeValue, ok, s.Name)
		ch <- prometheus.MustNewConstMetric(descBytes, prometheus.GaugeValue, size, s.Name)
		if a := s.ArchiveStatus; a != nil {
			gap := 0.0
			if a.Gap != nil {
				gap = 1
			}
			ch <- prometheus.MustNewConstMetric(descBehind, prometheus.GaugeValue, float64(a.Behind)/1e3, s.Name)
			ch <- prometheus.MustNewConstMetric(descGap, prometheus.GaugeValue, gap, s.Name)
		}
		if d := s.LastDrill; d != nil && d.Ended > 0 {
			good := 0.0
			if d.OK {
				good = 1
			}
			ch <- prometheus.MustNewConstMetric(descDrillOK, prometheus.GaugeValue, good, s.Name)
			ch <- prometheus.MustNewConstMetric(descDrillAt, prometheus.GaugeValue, float64(d.Started)/1e3, s.Name)
		}
		ch <- prometheus.MustNewConstMetric(descNext, prometheus.GaugeValue, float64(s.Next)/1e3, s.Name)
	}
}
