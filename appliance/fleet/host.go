package fleet

import (
	"math"
	"strings"

	"github.com/triward/triward/agent/wire"
)

// Sparklines: 60 points of 15 s.
const (
	SparkPoints = 60
	SparkStep   = 15_000 // ms
)

// maxCounterGap is the longest time between two samples of a counter of which a rate is made: over a longer one it
// would be the average of an outage.
const maxCounterGap = 5 * 60_000 // ms

// gauge is the newest value of a gauge.
type gauge struct {
	t int64
	v float64
}

func (g *gauge) at(oldest int64) float64 {
	if g.t == 0 || g.t < oldest {
		return math.NaN()
	}
	return g.v
}

// counter is the newest value of a counter and its rate since the one before.
type counter struct {
	t    int64
	v    float64
	rate float64 // per second; NaN after the first value, a reset or a long gap
}

func (c *counter) take(t int64, v float64) {
	dt := t - c.t
	if c.t == 0 || v < c.v || dt > maxCounterGap || dt <= 0 {
		c.rate = math.NaN()
	} else {
		c.rate = (v - c.v) / float64(dt) * 1000
	}
	c.t, c.v = t, v
}

func (c *counter) at(oldest int64) float64 {
	if c.t == 0 || c.t < oldest {
		return math.NaN()
	}
	return c.rate
}

// track is what a series means to its host: exactly one of the two is set.
type track struct {
	host    *host
	gauge   *gauge
	counter *counter
}

func (tr *track) take(t int64, v float64) {
	tr.host.newest = max(tr.host.newest, t)
	if tr.gauge != nil {
		tr.gauge.t, tr.gauge.v = t, v
		return
	}
	tr.counter.take(t, v)
}

type disk struct{ size, avail gauge }

type nic struct{ rx, tx counter }

// host is what is known of the host of one agent. The view's lock guards it.
type host struct {
	agent   string
	ids     []uint64
	touched bool
	newest  int64 // time of the newest sample that means something here, ms

	idle             map[string]*counter // by CPU
	memTotal, memAvl gauge
	disks            map[string]*disk // by mount point
	nics             map[string]*nic  // by device
	load1            gauge
	errors           minute
	spark            spark
}

func newHost(agent string) *host {
	h := &host{agent: agent}
	h.spark.clear()
	h.reset()
	return h
}

func (h *host) reset() {
	h.idle, h.disks, h.nics = make(map[string]*counter), make(map[string]*disk), make(map[string]*nic)
	h.memTotal, h.memAvl, h.load1 = gauge{}, gauge{}, gauge{}
}

// pseudo are file systems that are no place to store things.
var pseudo = map[string]bool{
	"tmpfs": true, "devtmpfs": true, "overlay": true, "squashfs": true, "ramfs": true,
	"iso9660": true, "autofs": true, "proc": true, "sysfs": true, "cgroup": true, "cgroup2": true, "fuse.lxcfs": true,
	"nsfs": true, "efivarfs": true, "erofs": true,
}

// classify says what a series of the host means here; nil for nothing.
func (h *host) classify(labels wire.Labels) *track {
	name := labels.Get("__name__")
	if !strings.HasPrefix(name, "node_") {
		return nil
	}
	switch name {
	case "node_cpu_seconds_total":
		if labels.Get("mode") == "idle" {
			return &track{host: h, counter: entry(h.idle, labels.Get("cpu"))}
		}
	case "node_memory_MemTotal_bytes":
		return &track{host: h, gauge: &h.memTotal}
	case "node_memory_MemAvailable_bytes":
		return &track{host: h, gauge: &h.memAvl}
	case "node_load1":
		return &track{host: h, gauge: &h.load1}
	case "node_filesystem_size_bytes", "node_filesystem_avail_bytes":
		mount := labels.Get("mountpoint")
		if pseudo[labels.Get("fstype")] || mount == "" || mount == "/run" || strings.HasPrefix(mount, "/run/") {
			return nil
		}
		d := entry(h.disks, mount)
		if name == "node_filesystem_size_bytes" {
			return &track{host: h, gauge: &d.size}
		}
		return &track{host: h, gauge: &d.avail}
	case "node_network_receive_bytes_total", "node_network_transmit_bytes_total":
		device := labels.Get("device")
		if device == "lo" || device == "" {
			return nil
		}
		n := entry(h.nics, device)
		if name == "node_network_receive_bytes_total" {
			return &track{host: h, counter: &n.rx}
		}
		return &track{host: h, counter: &n.tx}
	}
	return nil
}

func entry[T any](m map[string]*T, key string) *T {
	e := m[key]
	if e == nil {
		e = new(T)
		m[key] = e
	}
	return e
}

// rebuild classifies the host's series again after some of them went, keeping the sparklines.
func (h *host) rebuild(v *View) {
	h.reset()
	for _, id := range h.ids {
		p := v.pages[id/pageLen]
		labels, ok := v.cfg.Directory.SeriesLabels(id)
		if p == nil || !ok {
			continue
		}
		s := &p.slots[id%pageLen]
		if s.track = h.classify(labels); s.track != nil && s.t != 0 {
			s.track.take(s.t, s.v)
		}
	}
}

// figures are the derived values of a host; NaN for what is missing.
type figures struct {
	cpu, mem, disk, rx, tx, load1 float64
	cores                         int
	mount                         string
}

// figures returns the values as of samples not older than `oldest`.
func (h *host) figures(oldest int64) figures {
	f := figures{cpu: math.NaN(), mem: math.NaN(), disk: math.NaN(), rx: math.NaN(), tx: math.NaN(), load1: h.load1.at(oldest)}
	idle, n := 0.0, 0
	for _, c := range h.idle {
		if c.t >= oldest && c.t != 0 {
			f.cores++
		}
		if r := c.at(oldest); !math.IsNaN(r) {
			idle += r
			n++
		}
	}
	if n > 0 {
		f.cpu = percent(1 - idle/float64(n))
	}
	if total, avail := h.memTotal.at(oldest), h.memAvl.at(oldest); total > 0 && !math.IsNaN(avail) {
		f.mem = percent(1 - avail/total)
	}
	for mount, d := range h.disks {
		size, avail := d.size.at(oldest), d.avail.at(oldest)
		if !(size > 0) || math.IsNaN(avail) {
			continue
		}
		used := percent(1 - avail/size)
		if math.IsNaN(f.disk) || used > f.disk || used == f.disk && mount < f.mount {
			f.disk, f.mount = used, mount
		}
	}
	for _, d := range h.nics {
		f.rx, f.tx = sum(f.rx, d.rx.at(oldest)), sum(f.tx, d.tx.at(oldest))
	}
	return f
}

// sum adds what is there; NaN when neither is.
func sum(a, b float64) float64 {
	switch {
	case math.IsNaN(a):
		return b
	case math.IsNaN(b):
		return a
	}
	return a + b
}

func percent(share float64) float64 { return 100 * min(1, max(0, share)) }

// point writes the host's figures into the sparklines at the time of its newest sample.
func (h *host) point(now, stale int64) {
	f := h.figures(max(now, h.newest) - stale)
	h.spark.put(h.newest, sparkPoint{f.cpu, f.mem, sum(f.rx, f.tx), f.load1})
}

// minute counts events of the last 60 s in 12 pieces of 5 s.
type minute struct {
	slot   int64 // the newest piece, in units of 5 s since 1970; 0 when nothing was ever counted
	counts [12]int
}

const minutePiece = 5000 // ms

func (m *minute) advance(now int64) {
	slot := now / minutePiece
	if slot <= m.slot {
		return
	}
	for s := max(m.slot+1, slot-11); s <= slot; s++ {
		m.counts[s%12] = 0
	}
	m.slot = slot
}

func (m *minute) add(now int64, n int) {
	m.advance(now)
	m.counts[m.slot%12] += n
}

// total is the count of the last minute; NaN when nothing was ever added.
func (m *minute) total(now int64) float64 {
	if m.slot == 0 {
		return math.NaN()
	}
	slot, n := now/minutePiece, 0
	for s := max(slot, m.slot) - 11; s <= m.slot; s++ {
		n += m.counts[s%12]
	}
	return float64(n)
}

// sparkPoint holds the four sparklines at one time.
type sparkPoint [4]float64

var noPoint = sparkPoint{math.NaN(), math.NaN(), math.NaN(), math.NaN()}

// spark is a ring of the newest points.
type spark struct {
	slot   int64 // of the newest point, in steps since 1970; 0 for none
	seen   int64 // time of the newest sample put, ms
	points [SparkPoints][4]float32
}

func (s *spark) clear() {
	nan := float32(math.NaN())
	for i := range s.points {
		s.points[i] = [4]float32{nan, nan, nan, nan}
	}
}

func (s *spark) set(slot int64, p sparkPoint) {
	dst := &s.points[slot%SparkPoints]
	for i, x := range p {
		if !math.IsNaN(x) {
			dst[i] = float32(x)
		}
	}
}

// put sets the point of the time t. A sample every 15 s or so may leave a slot out by a hair: that one is filled.
func (s *spark) put(t int64, p sparkPoint) {
	slot := t / SparkStep
	if slot < s.slot-SparkPoints+1 || slot <= 0 {
		return
	}
	if slot > s.slot {
		nan := float32(math.NaN())
		for i := max(s.slot+1, slot-SparkPoints+1); i <= slot; i++ {
			s.points[i%SparkPoints] = [4]float32{nan, nan, nan, nan}
		}
		if s.slot == slot-2 && t-s.seen <= SparkStep*3/2 {
			s.set(slot-1, p)
		}
		s.slot = slot
	}
	s.seen = max(s.seen, t)
	s.set(slot, p)
}

// fill sets what is missing in the point of the time t.
func (s *spark) fill(t int64, line int, v float64) {
	slot := t / SparkStep
	if slot > s.slot {
		s.put(t, noPoint)
	}
	if slot <= s.slot-SparkPoints || slot <= 0 {
		return
	}
	if p := &s.points[slot%SparkPoints][line]; math.IsNaN(float64(*p)) {
		*p = float32(v)
	}
}

// lines returns the points up to the slot `end`, oldest first.
func (s *spark) lines(end int64) (out [4][SparkPoints]float64) {
	for i := range SparkPoints {
		slot := end - SparkPoints + 1 + int64(i)
		p := [4]float32{float32(math.NaN()), float32(math.NaN()), float32(math.NaN()), float32(math.NaN())}
		if slot > s.slot-SparkPoints && slot <= s.slot && slot > 0 {
			p = s.points[slot%SparkPoints]
		}
		for l := range p {
			out[l][i] = float64(p[l])
		}
	}
	return out
}
