package agent

import (
	"encoding/json"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/triward/triward/agent/collect"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

// Heartbeat is the sign of life sent every ten seconds.
type Heartbeat struct {
	Version      string `json:"version"`
	UptimeS      int64  `json:"uptime_s"`
	SpoolBytes   int64  `json:"spool_bytes"`
	SpoolBatches uint64 `json:"spool_batches"`
	ClockMS      int64  `json:"clock_ms"`
	SpoolDamaged string `json:"spool_damaged,omitempty"` // folder of a spool set aside at this start
	LostItems    uint64 `json:"lost_items,omitempty"`
	SpoolLimit   int64  `json:"spool_limit"` // bytes that all lanes may take
	// ClockOffsetMS is the cluster's clock minus the host's, in milliseconds; nil before a node has answered.
	ClockOffsetMS *int64 `json:"clock_offset_ms,omitempty"`
	// LagMS is how old the oldest thing is that waits for the cluster, 0 when nothing waits.
	LagMS     int64        `json:"lag_ms"`
	Config    ConfigReport `json:"config"`
	Inventory Inventory    `json:"inventory"`
}

// Heartbeat describes the agent now.
func (a *Agent) Heartbeat() Heartbeat {
	st := a.spool.Stats()
	h := Heartbeat{
		Version: a.opt.Version, UptimeS: int64(time.Since(a.started).Seconds()), SpoolBytes: st.Bytes,
		SpoolBatches: st.Batches, ClockMS: time.Now().UnixMilli(), Inventory: Inventory{
			Hostname: a.host.Hostname,
			OS:       a.host.OS, Arch: a.host.Arch, Kernel: kernel(), Cores: runtime.NumCPU(), IPs: hostIPs(),
		},
	}
	for _, l := range st.Lanes {
		h.LostItems += l.Lost
	}
	h.LostItems += a.lostLines()
	for _, l := range st.Lanes {
		h.SpoolLimit += l.Limit
	}
	if a.sender.Counters.Heard.Load() {
		offset := a.sender.Counters.ClockOffsetMS.Load()
		h.ClockOffsetMS = &offset
	}
	h.LagMS, h.Config = a.lag(), a.remote.report()
	if a.damage != nil {
		h.SpoolDamaged = a.damage.SetAside
	}
	return h
}

// lostLines counts lines that never came into the spool.
func (a *Agent) lostLines() uint64 {
	n := a.logs.Lost.Load() + uint64(a.totals.lostEntries.Load())
	if f := a.src.Load().follower; f != nil {
		n += f.Lost.Load()
	}
	return n
}

// lag is the age of the oldest scrape that waits for the cluster, in milliseconds; when only lines wait, how long some
// have.
func (a *Agent) lag() int64 {
	now := time.Now().UnixMilli()
	if t, ok := a.oldestScrape(); ok {
		return max(0, now-t)
	}
	if !a.spool.Pending() {
		return 0
	}
	return max(0, now-max(a.sender.Counters.Since.Load(), a.started.UnixMilli()))
}

// oldestScrape is the time of the oldest scrape that waits, in milliseconds.
func (a *Agent) oldestScrape() (t int64, ok bool) {
	acked, next := a.spool.Position(wire.LaneMetrics)
	if acked+1 >= next {
		return 0, false
	}
	batches, err := a.spool.Read(wire.LaneMetrics, acked+1, 1, 0)
	if err != nil || len(batches) == 0 {
		return 0, false
	}
	raw, err := a.coder.Decompress(nil, &batches[0])
	if err != nil {
		return 0, false
	}
	var m wire.MetricsBody
	if m.Decode(raw) != nil || len(m.Scrapes) == 0 {
		return 0, false
	}
	return m.Scrapes[0].T, true
}

// Status is what `triward-agent status` shows.
type Status struct {
	Version     string `json:"version"`
	AgentID     string `json:"agent_id"`
	Node        string `json:"node"`
	Connected   bool   `json:"connected"`
	LastFailure string `json:"last_failure,omitempty"`
	LastAckMS   int64  `json:"last_ack_ms"`
	// CertExpiresMS is when the agent's certificate ends, in milliseconds since 1970.
	CertExpiresMS int64 `json:"cert_expires_ms,omitempty"`
	UptimeS       int64 `json:"uptime_s"`
	Files         int64 `json:"files"`
	// Config is what of the cluster's configuration is in effect.
	Config  ConfigReport `json:"config"`
	Journal bool         `json:"journal"`
	Spool   spool.Stats  `json:"spool"`
}

// Status describes the agent now.
func (a *Agent) Status() Status {
	s := Status{
		Version: a.opt.Version, AgentID: a.opt.Identity.AgentID, Node: a.sender.Node(),
		Connected: a.sender.Counters.Connected.Load(), LastFailure: a.sender.LastFailure(),
		LastAckMS: a.sender.Counters.LastAck.Load(), UptimeS: int64(time.Since(a.started).Seconds()),
		Journal: a.src.Load().follower != nil, Spool: a.spool.Stats(), Config: a.remote.report(),
	}
	if a.creds != nil {
		s.CertExpiresMS = a.creds.Expires().UnixMilli()
	}
	if t := a.src.Load().tailer; t != nil {
		s.Files = t.Open.Load()
	}
	return s
}

func (a *Agent) statusHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.Status())
	})
	return mux
}

// figures are the agent's own metrics.
type figures struct {
	dropped *prometheus.CounterVec
	samples prometheus.Gauge
	refused prometheus.Counter
	scrape  prometheus.Gauge
}

func newFigures(reg prometheus.Registerer, a *Agent) *figures {
	f := &figures{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_agent_lost_items_total",
			Help: "Samples and lines given up, by lane.",
		}, []string{"lane"}),
		samples: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "triward_agent_scrape_samples",
			Help: "Samples of the newest scrape.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_agent_scrape_refused_total",
			Help: "Samples left out of scrapes.",
		}),
		scrape: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "triward_agent_scrape_duration_seconds",
			Help: "Time the newest scrape took, with its writing.",
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "triward_agent_info", Help: "Always 1; the version.",
		ConstLabels: prometheus.Labels{"version": a.opt.Version},
	})
	info.Set(1)
	reg.MustRegister(f.dropped, f.samples, f.refused, f.scrape, info,
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{Namespace: "triward_agent"}), newOwn(a))
	return f
}

func (f *figures) scraped(s collect.ScrapeStats) {
	f.samples.Set(float64(s.Samples))
	f.refused.Add(float64(s.Refused))
	f.scrape.Set(s.Took.Seconds())
}

// own reads the counters of the parts when it is gathered.
type own struct {
	a     *Agent
	descs map[string]*prometheus.Desc
}

func newOwn(a *Agent) *own {
	o := &own{a: a, descs: map[string]*prometheus.Desc{}}
	for name, help := range map[string]string{
		"connected":                  "1 while the agent has a session with a node.",
		"requests_total":             "Requests with batches.",
		"request_failures_total":     "Attempts to send that failed.",
		"sent_batches_total":         "Batches sent and answered.",
		"sent_bytes_total":           "Bytes of answered requests.",
		"accepted_total":             "Items the cluster accepted.",
		"duplicates_total":           "Items the cluster held already.",
		"rejected_total":             "Items the cluster rejected.",
		"set_aside_total":            "Batches set aside because they were refused.",
		"new_epochs_total":           "Epochs begun because the cluster's view differed.",
		"series_left_out_total":      "Samples left out because the cluster refused their series.",
		"clock_offset_seconds":       "Clock of the cluster minus that of this machine.",
		"log_lines_total":            "Lines taken from files and journal.",
		"log_lines_lost_total":       "Lines given up because they are too long to be read or spooled.",
		"log_waits_total":            "Times the reading of logs had to wait for the spool.",
		"log_files":                  "Log files followed.",
		"log_filtered_total":         "Records left out by drop and keep rules.",
		"log_files_lost_total":       "Rotated files that could not be found again.",
		"journal_restarts_total":     "Times the journal was read anew.",
		"spool_series":               "Series in the dictionary of the spool.",
		"config_version":             "Version of the group's configuration that is in effect; 0 when agent.yaml alone is.",
		"last_ack_timestamp_seconds": "When the cluster acknowledged last.",
	} {
		o.descs[name] = prometheus.NewDesc("triward_agent_"+name, help, nil, nil)
	}
	o.descs["spool_bytes"] = prometheus.NewDesc("triward_agent_spool_bytes", "Bytes on disk.", []string{"lane"}, nil)
	o.descs["spool_limit_bytes"] = prometheus.NewDesc("triward_agent_spool_limit_bytes", "Bytes allowed.", []string{"lane"}, nil)
	o.descs["spool_batches"] = prometheus.NewDesc("triward_agent_spool_batches", "Batches waiting.", []string{"lane"}, nil)
	return o
}

// Describe implements prometheus.Collector.
func (o *own) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range o.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (o *own) Collect(ch chan<- prometheus.Metric) {
	put := func(name string, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(o.descs[name], kind, v, labels...)
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	a := o.a
	st := a.spool.Stats()
	put("spool_series", gauge, float64(st.Series))
	for lane, l := range st.Lanes {
		put("spool_bytes", gauge, float64(l.Bytes), lane)
		put("spool_limit_bytes", gauge, float64(l.Limit), lane)
		put("spool_batches", gauge, float64(l.Waiting), lane)
	}
	c := &a.sender.Counters
	connected := 0.0
	if c.Connected.Load() {
		connected = 1
	}
	put("connected", gauge, connected)
	put("requests_total", counter, float64(c.Requests.Load()))
	put("request_failures_total", counter, float64(c.Failures.Load()))
	put("sent_batches_total", counter, float64(c.Batches.Load()))
	put("sent_bytes_total", counter, float64(c.Bytes.Load()))
	put("accepted_total", counter, float64(c.Accepted.Load()))
	put("duplicates_total", counter, float64(c.Duplicates.Load()))
	put("rejected_total", counter, float64(c.Rejected.Load()))
	put("set_aside_total", counter, float64(c.SetAside.Load()))
	put("new_epochs_total", counter, float64(c.NewEpochs.Load()))
	put("series_left_out_total", counter, float64(c.LeftOut.Load()))
	put("clock_offset_seconds", gauge, float64(c.ClockOffsetMS.Load())/1000)
	put("last_ack_timestamp_seconds", gauge, float64(c.LastAck.Load())/1000)
	put("log_lines_total", counter, float64(a.logs.Lines.Load()))
	put("log_lines_lost_total", counter, float64(a.lostLines()))
	put("log_waits_total", counter, float64(a.logs.Waits.Load()))
	src, past := a.src.Load(), &a.totals
	filtered, lost, restarts := past.filtered.Load(), past.lostFiles.Load(), past.restarts.Load()
	open := int64(0)
	if t := src.tailer; t != nil {
		open = t.Open.Load()
		filtered += t.Filtered.Load()
		lost += t.Lost.Load()
	}
	if f := src.follower; f != nil {
		filtered += int64(f.Filtered.Load())
		restarts += int64(f.Restarts.Load())
	}
	put("log_files", gauge, float64(open))
	put("log_filtered_total", counter, float64(filtered))
	put("log_files_lost_total", counter, float64(lost))
	put("journal_restarts_total", counter, float64(restarts))
	put("config_version", gauge, float64(a.remote.report().Version))
}
