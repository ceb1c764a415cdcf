package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/wire"
)

// cluster is a directory and a registry in memory.
type cluster struct {
	mu     sync.Mutex
	labels map[uint64]wire.Labels
	byKey  map[string]uint64
	meta   map[string]map[string]string
}

func newCluster() *cluster {
	return &cluster{
		labels: map[uint64]wire.Labels{}, byKey: map[string]uint64{},
		meta: map[string]map[string]string{BucketAgents: {}, BucketHeartbeats: {}},
	}
}

func (c *cluster) SeriesLabels(id uint64) (wire.Labels, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.labels[id]
	return l, ok
}

// id returns the number of a series given as name{a=b,c=d} of agent a1 unless it names one.
func (c *cluster) id(series string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, ok := c.byKey[series]; ok {
		return id
	}
	name, rest, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	m := map[string]string{"__name__": name, "agent": "a1"}
	for pair := range strings.SplitSeq(rest, ",") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			m[k] = v
		}
	}
	id := uint64(len(c.byKey) + 1)
	c.byKey[series], c.labels[id] = id, wire.LabelsFromMap(m)
	return id
}

func (c *cluster) Scan(bucket, prefix string, fn func(string, []byte, uint64) bool) {
	c.mu.Lock()
	keys := slices.Sorted(func(yield func(string) bool) {
		for k := range c.meta[bucket] {
			if !yield(k) {
				return
			}
		}
	})
	c.mu.Unlock()
	for _, k := range keys {
		if v, mod, ok := c.Get(bucket, k); ok && strings.HasPrefix(k, prefix) && !fn(k, v, mod) {
			return
		}
	}
}

func (c *cluster) Get(bucket, key string) ([]byte, uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.meta[bucket][key]
	return []byte(v), 1, ok
}

func (c *cluster) put(bucket, key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.meta[bucket][key] = value
}

const t0 = int64(1_700_000_100_000) // a multiple of the sparkline's step

// scrape shows the view one scrape at time t: values by series.
func (c *cluster) scrape(v *View, t int64, values map[string]float64) {
	var s wire.Samples
	for series, value := range values {
		s.IDs = append(s.IDs, c.id(series))
		s.T = append(s.T, t)
		s.Values = append(s.Values, value)
	}
	v.Observe(t, &s, nil)
}

func setUp(t *testing.T) (*cluster, *View) {
	t.Helper()
	c := newCluster()
	c.put(BucketAgents, "a1", `{"agent_id":"a1","hostname":"web1","os":"linux","version":"1","created_at":1,"key_hash":"secret"}`)
	v := New(Config{Directory: c, Registry: c})
	t.Cleanup(func() { v.Close() })
	return c, v
}

// base is a whole scrape of a host with two CPUs; n counts 15 s periods.
func base(n float64) map[string]float64 {
	return map[string]float64{
		"node_cpu_seconds_total{cpu=0,mode=idle}":                                1000 + n*15,
		"node_cpu_seconds_total{cpu=1,mode=idle}":                                1000 + n*7.5,
		"node_cpu_seconds_total{cpu=1,mode=user}":                                1000 + n*7.5,
		"node_memory_MemTotal_bytes":                                             8e9,
		"node_memory_MemAvailable_bytes":                                         2e9,
		"node_load1":                                                             1.234,
		"node_filesystem_size_bytes{mountpoint=/,fstype=ext4,device=a}":          100,
		"node_filesystem_avail_bytes{mountpoint=/,fstype=ext4,device=a}":         60,
		"node_filesystem_size_bytes{mountpoint=/data,fstype=xfs,device=b}":       1000,
		"node_filesystem_avail_bytes{mountpoint=/data,fstype=xfs,device=b}":      100,
		"node_filesystem_size_bytes{mountpoint=/snap,fstype=squashfs,device=c}":  10,
		"node_filesystem_avail_bytes{mountpoint=/snap,fstype=squashfs,device=c}": 0,
		"node_network_receive_bytes_total{device=eth0}":                          n * 15000,
		"node_network_transmit_bytes_total{device=eth0}":                         n * 30000,
		"node_network_receive_bytes_total{device=lo}":                            n * 1e12,
		"node_network_transmit_bytes_total{device=eth1}":                         n * 15,
	}
}

func only(t *testing.T, v *View) Host {
	t.Helper()
	_, rows := v.Hosts()
	if len(rows) != 1 {
		t.Fatalf("%d hosts", len(rows))
	}
	return rows[0]
}

func TestFiguresOfAHost(t *testing.T) {
	c, v := setUp(t)
	c.scrape(v, t0, base(0))
	h := only(t, v)
	if h.State != StateUp || h.Mem != 75 || h.Disk != 90 || h.DiskMount != "/data" || h.Load1 != 1.23 || h.Cores != 2 {
		t.Fatalf("%+v", h)
	}
	if !math.IsNaN(float64(h.CPU)) || !math.IsNaN(float64(h.NetRx)) {
		t.Fatal("a rate of one sample")
	}
	c.scrape(v, t0+15_000, base(1))
	h = only(t, v)
	if h.CPU != 25 || h.NetRx != 1000 || h.NetTx != 2001 || h.LastSeen != t0+15_000 {
		t.Fatalf("%+v", h)
	}
	if p := h.Point; p[0] != 25 || p[1] != 75 || p[2] != 3001 || h.PointT != t0+15_000 {
		t.Fatalf("%v", p)
	}
	if n := len(h.Spark[0]); n != SparkPoints || h.Spark[0][n-1] != 25 || !math.IsNaN(h.Spark[0][n-2]) || h.Spark[1][n-2] != 75 {
		t.Fatalf("%v", h.Spark)
	}
}

func TestCounterReset(t *testing.T) {
	c, v := setUp(t)
	for n := range 3 {
		c.scrape(v, t0+int64(n)*15_000, base(float64(n)))
	}
	after := base(0)
	for k := range after {
		if strings.HasPrefix(k, "node_cpu") {
			after[k] = 5
		}
	}
	c.scrape(v, t0+45_000, after)
	if h := only(t, v); !math.IsNaN(float64(h.CPU)) || !math.IsNaN(float64(h.NetRx)) {
		t.Fatalf("figures over a reboot: %v %v", h.CPU, h.NetRx)
	}
	for k := range after {
		if strings.HasPrefix(k, "node_cpu") {
			after[k] = 5 + 15
		}
	}
	c.scrape(v, t0+60_000, after)
	if h := only(t, v); h.CPU != 0 {
		t.Fatalf("%v", h.CPU)
	}
}

func TestMissingIsNullAndNeverZero(t *testing.T) {
	c, v := setUp(t)
	check := func(row string) {
		t.Helper()
		var m map[string]any
		if err := json.Unmarshal([]byte(row), &m); err != nil {
			t.Fatal(err)
		}
		for _, k := range []string{"cpu", "mem", "disk", "disk_mount", "net_rx", "net_tx", "load1", "cores", "log_errors"} {
			if m[k] != nil {
				t.Errorf("%s is %v", k, m[k])
			}
		}
		if strings.Contains(row, "NaN") || strings.Contains(row, "key_hash") || strings.Contains(row, "secret") {
			t.Error(row)
		}
	}
	h := only(t, v)
	if h.State != StateNew || h.LastSeen != 0 {
		t.Fatalf("%+v", h)
	}
	check(string(h.AppendJSON(nil, true)))
	check(string(h.AppendJSON(nil, false)))
	c.scrape(v, t0, base(0))
	c.scrape(v, t0+15_000, base(1))
	v.Observe(t0+15_000+121_000, nil, nil) // log time goes on without it
	h = only(t, v)
	if h.State != StateDown {
		t.Fatal(h.State)
	}
	check(string(h.AppendJSON(nil, true)))
	if h.Spark[0][SparkPoints-1] == 0 || !math.IsNaN(h.Spark[0][SparkPoints-1]) {
		t.Fatal("the sparkline goes on for a host that is down")
	}
}

func TestStateByHeartbeatAndSample(t *testing.T) {
	c, v := setUp(t)
	beat := func(at int64) { c.put(BucketHeartbeats, "a1", fmt.Sprintf(`{"at":%d,"status":{"version":"2"}}`, at)) }
	state := func(want State) {
		t.Helper()
		a, ok := v.Agent("a1")
		if !ok || a.State != want {
			t.Fatalf("%+v, want %s", a, want)
		}
	}
	v.Observe(t0, nil, nil)
	state(StateNew)
	c.scrape(v, t0, base(0))
	state(StateUp)
	v.Observe(t0+46_000, nil, nil)
	state(StateLate)
	beat(t0 + 46_000)
	state(StateUp)
	if a, _ := v.Agent("a1"); a.Version != "2" || a.HeartbeatAt != t0+46_000 || string(a.Heartbeat) != `{"version":"2"}` {
		t.Fatalf("%+v", a)
	}
	v.Observe(t0+46_000+120_001, nil, nil)
	state(StateDown)
	if _, ok := v.Agent("a2"); ok {
		t.Fatal("an agent without a record")
	}
	c.put(BucketAgents, "a1", `{"agent_id":"a1","hostname":"web1","revoked":true}`)
	if _, rows := v.Hosts(); len(rows) != 0 {
		t.Fatal("a revoked agent's host is shown")
	}
}

func TestLateSamplesChangeNothing(t *testing.T) {
	c, v := setUp(t)
	c.scrape(v, t0, base(0))
	c.scrape(v, t0+15_000, base(1))
	before := only(t, v)
	c.scrape(v, t0-60_000, base(100))
	c.scrape(v, t0+15_000, base(100))
	if after := only(t, v); after.CPU != before.CPU || after.Load1 != before.Load1 || after.LastSeen != before.LastSeen {
		t.Fatalf("%+v", after)
	}
}

func TestLogErrorsOfAMinute(t *testing.T) {
	c, v := setUp(t)
	lines := func(at int64, severities ...wire.Severity) {
		s := wire.LogStream{Kind: wire.StreamLog}
		for _, sev := range severities {
			s.Lines = append(s.Lines, wire.LogLine{Severity: sev})
		}
		v.Observe(at, nil, []wire.LogEntry{{Index: 1, Batches: []wire.AcceptedLogs{{
			Agent: "a1",
			Batch: &wire.LogBatch{Streams: []wire.LogStream{s}},
		}}}})
	}
	c.scrape(v, t0, base(0))
	lines(t0, wire.SeverityInfo)
	if h := only(t, v); h.LogErrors != 0 {
		t.Fatalf("%v: lines but no errors is zero", h.LogErrors)
	}
	lines(t0+10_000, wire.SeverityError, wire.SeverityCritical, wire.SeverityWarning)
	c.scrape(v, t0+15_000, base(1))
	lines(t0+20_000, wire.SeverityError)
	if h := only(t, v); h.LogErrors != 3 {
		t.Fatal(h.LogErrors)
	}
	c.scrape(v, t0+60_000, base(4))
	v.Observe(t0+71_000, nil, nil)
	if h := only(t, v); h.LogErrors != 1 {
		t.Fatal(h.LogErrors)
	}
	c.scrape(v, t0+500_000, base(30))
	if h := only(t, v); h.LogErrors != 0 {
		t.Fatal(h.LogErrors)
	}
}

func TestSparklineFillsAHairsBreadth(t *testing.T) {
	var s spark
	s.clear()
	p := func(v float64) sparkPoint { return sparkPoint{v, v, v, v} }
	s.put(t0+14_990, p(1))
	s.put(t0+30_010, p(2)) // the slot between has no sample by 20 ms
	s.put(t0+90_000, p(3)) // a real hole
	line := s.lines((t0 + 90_000) / SparkStep)[0]
	got := fmt.Sprint(line[SparkPoints-7:])
	if got != "[1 2 2 NaN NaN NaN 3]" {
		t.Fatal(got)
	}
	s.put(t0+90_000+int64(SparkPoints)*SparkStep*5, p(4))
	line = s.lines(s.slot)[0]
	if line[SparkPoints-1] != 4 || !math.IsNaN(line[0]) || !math.IsNaN(line[SparkPoints-2]) {
		t.Fatal(line)
	}
}

func TestLatestSamples(t *testing.T) {
	c, v := setUp(t)
	c.scrape(v, t0, base(0))
	c.scrape(v, t0+15_000, map[string]float64{"node_load1": 9})
	samples, more, ok := v.Latest("a1", "node_load", 10)
	if !ok || more || len(samples) != 1 || samples[0].V != 9 || samples[0].T != t0+15_000 || samples[0].Labels["__name__"] != "" {
		t.Fatalf("%+v", samples)
	}
	samples, more, _ = v.Latest("a1", "", 3)
	if len(samples) != 3 || !more || samples[0].Name != "node_cpu_seconds_total" {
		t.Fatalf("%+v", samples)
	}
	if _, _, ok := v.Latest("nobody", "", 3); ok {
		t.Fatal("samples of nobody")
	}
}

func TestViewIsBounded(t *testing.T) {
	c := newCluster()
	v := New(Config{Directory: c, Registry: c, MaxSeries: 2 * pageLen})
	s := wire.Samples{IDs: []uint64{1, pageLen, 2 * pageLen, 1 << 40}, T: []int64{t0, t0, t0, t0}, Values: make([]float64, 4)}
	for _, id := range s.IDs {
		c.labels[id] = wire.LabelsFromMap(map[string]string{"__name__": "x", "agent": "a1"})
	}
	v.Observe(t0, &s, nil)
	if st := v.Stats(); st.Series != 2 || st.Refused != 2 {
		t.Fatalf("%+v", st)
	}
}

func TestSweepForgetsCollectedSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, v := setUp(t)
		v.Start()
		c.scrape(v, t0, base(0))
		c.scrape(v, t0+15_000, base(1))
		all := v.Stats().Series
		gone := c.id("node_filesystem_size_bytes{mountpoint=/data,fstype=xfs,device=b}")
		c.mu.Lock()
		delete(c.labels, gone)
		c.mu.Unlock()
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if st := v.Stats(); st.Series != all-1 {
			t.Fatalf("%+v", st)
		}
		if h := only(t, v); h.Disk != 40 || h.DiskMount != "/" || h.Mem != 75 {
			t.Fatalf("%+v", h)
		}
		v.Close()
	})
}

// stored is a Warmer with what a store would hold.
type stored struct {
	c    *cluster
	fail error
}

func (w stored) LatestSamples(_ context.Context, since int64, fn func(uint64, int64, float64)) error {
	for series, value := range base(1) {
		fn(w.c.id(series), t0, value)
	}
	return w.fail
}

func (w stored) QueryRange(_ context.Context, query string, start, end, step int64) ([]AgentSeries, error) {
	s := AgentSeries{Agent: "a1"}
	for t := start; t <= end; t += step {
		s.T = append(s.T, t)
		s.V = append(s.V, float64(len(query)))
	}
	return []AgentSeries{s}, nil
}

func TestViewIsWarmAfterRestart(t *testing.T) {
	for _, fail := range []error{nil, errors.New("half of it")} {
		synctest.Test(t, func(t *testing.T) {
			c, v := setUp(t)
			v.cfg.Warmer = stored{c, fail}
			v.Observe(t0, nil, nil)
			v.Start()
			synctest.Wait()
			h := only(t, v)
			if h.Mem != 75 || h.State != StateUp || h.Spark[0][0] != float64(len(sparkQueries[0])) || math.IsNaN(h.Spark[3][SparkPoints-1]) {
				t.Fatalf("%+v", h)
			}
			if h.CPU != Number(len(sparkQueries[0])) {
				t.Fatalf("cpu %v: want the newest point until two samples came", h.CPU)
			}
			c.scrape(v, t0+15_000, base(2))
			if h := only(t, v); h.CPU != 25 || h.Spark[0][SparkPoints-1] != 25 {
				t.Fatalf("%+v", h)
			}
			v.Close()
		})
	}
}

func TestUnreadableRecordsAreSurvived(t *testing.T) {
	c, v := setUp(t)
	c.put(BucketAgents, "a0", `{`)
	c.put(BucketHeartbeats, "a0", `[]`)
	c.put(BucketHeartbeats, "a1", `{"at":"x"}`)
	if _, rows := v.Hosts(); len(rows) != 2 || rows[0].ID != "a0" {
		t.Fatalf("%+v", rows)
	}
}

func BenchmarkObserve(b *testing.B) {
	c := newCluster()
	v := New(Config{Directory: c, Registry: c})
	var s wire.Samples
	for series, value := range base(1) {
		s.IDs, s.T, s.Values = append(s.IDs, c.id(series)), append(s.T, 0), append(s.Values, value)
	}
	for i := range 500 {
		s.IDs, s.T, s.Values = append(s.IDs, c.id(fmt.Sprintf("other{n=%d}", i))), append(s.T, 0), append(s.Values, 1)
	}
	at := t0
	for b.Loop() {
		at += 15_000
		for i := range s.T {
			s.T[i] = at
		}
		v.Observe(at, &s, nil)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(s.IDs)), "ns/sample")
}

func BenchmarkHosts2000(b *testing.B) {
	c := newCluster()
	v := New(Config{Directory: c, Registry: c})
	for i := range 2000 {
		id := fmt.Sprintf("a%d", i)
		c.put(BucketAgents, id, fmt.Sprintf(`{"agent_id":%q,"hostname":"web%d","os":"linux","version":"1","created_at":1}`, id, i))
		values := map[string]float64{}
		for k, x := range base(1) {
			name, rest, _ := strings.Cut(strings.TrimSuffix(k, "}"), "{")
			values[name+"{agent="+id+","+rest+"}"] = x
		}
		c.scrape(v, t0, values)
	}
	var dst []byte
	for b.Loop() {
		_, rows := v.Hosts()
		for i := range rows {
			dst = rows[i].AppendJSON(dst[:0], false)
		}
	}
}

func TestViewIsWarmAfterAnInstall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, v := setUp(t)
		v.cfg.Warmer = stored{c, nil}
		v.Start()
		synctest.Wait()
		v.mu.Lock()
		clear(v.pages)
		clear(v.hosts)
		v.mu.Unlock()
		v.Installed(t0)
		synctest.Wait()
		if h := only(t, v); h.Mem != 75 || h.State != StateUp {
			t.Fatalf("%+v", h)
		}
		v.Close()
	})
}
