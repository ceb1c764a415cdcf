package fleet

import (
	"encoding/json"
	"math"
	"strconv"
)

// State of a host.
type State string

// The states. A host is new until its first sample; then late and down say how long nothing was heard of it.
const (
	StateUp   State = "up"
	StateLate State = "late"
	StateDown State = "down"
	StateNew  State = "new"
)

// Number is a value that may be missing: NaN and infinities are null in JSON.
type Number float64

// MarshalJSON writes the number or null.
func (n Number) MarshalJSON() ([]byte, error) { return n.append(nil), nil }

func (n Number) append(dst []byte) []byte {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return append(dst, "null"...)
	}
	format := byte('f')
	if abs := math.Abs(float64(n)); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, float64(n), format, -1, 64)
}

// round keeps the decimals that are shown, so that rows change only when what is shown does.
func round(v float64, decimals int) Number {
	p := math.Pow10(decimals)
	return Number(math.Round(v*p) / p)
}

// Host is a row of the hosts view. NaN marks what is missing.
type Host struct {
	ID, Name         string
	State            State
	LastSeen         int64 // ms; 0 for never
	OS, Version      string
	Tags             map[string]string
	CPU, Mem         Number // percent
	Disk             Number // percent of the fullest file system
	DiskMount        string
	NetRx, NetTx     Number // bytes a second
	Load1, Cores     Number
	LogErrors        Number // of the last minute
	Spark            [4][SparkPoints]float64
	Point            sparkPoint
	PointT, SparkEnd int64 // ms
}

// sparkNames are the lines of a sparkline in their order.
var sparkNames = [4]string{"cpu", "mem", "net", "load"}

// sparkDecimals is how exactly each line is shown.
var sparkDecimals = [4]int{1, 1, 0, 2}

// AppendJSON writes the row: with its sparklines when full, else with their newest point.
func (h *Host) AppendJSON(dst []byte, full bool) []byte {
	text := func(key, v string) {
		dst = append(dst, key...)
		b, _ := json.Marshal(v) // a string: cannot fail
		dst = append(dst, b...)
	}
	text(`{"id":`, h.ID)
	text(`,"host":`, h.Name)
	text(`,"state":`, string(h.State))
	dst = append(dst, `,"last_seen":`...)
	if h.LastSeen > 0 {
		dst = strconv.AppendInt(dst, h.LastSeen, 10)
	} else {
		dst = append(dst, "null"...)
	}
	text(`,"os":`, h.OS)
	text(`,"version":`, h.Version)
	dst = append(dst, `,"tags":`...)
	if len(h.Tags) == 0 {
		dst = append(dst, "{}"...)
	} else {
		b, _ := json.Marshal(h.Tags) // a map of strings: cannot fail
		dst = append(dst, b...)
	}
	number := func(key string, n Number) {
		dst = append(dst, key...)
		dst = n.append(dst)
	}
	number(`,"cpu":`, h.CPU)
	number(`,"mem":`, h.Mem)
	number(`,"disk":`, h.Disk)
	if h.DiskMount == "" {
		dst = append(dst, `,"disk_mount":null`...)
	} else {
		text(`,"disk_mount":`, h.DiskMount)
	}
	number(`,"net_rx":`, h.NetRx)
	number(`,"net_tx":`, h.NetTx)
	number(`,"load1":`, h.Load1)
	number(`,"cores":`, h.Cores)
	number(`,"log_errors":`, h.LogErrors)
	if full {
		return h.appendSpark(dst)
	}
	return h.appendPoint(dst)
}

func (h *Host) appendSpark(dst []byte) []byte {
	dst = append(dst, `,"spark_step_ms":`...)
	dst = strconv.AppendInt(dst, SparkStep, 10)
	dst = append(dst, `,"spark_end":`...)
	dst = strconv.AppendInt(dst, h.SparkEnd, 10)
	dst = append(dst, `,"spark":{`...)
	for l, name := range sparkNames {
		if l > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), name...), `":[`...)
		for i, v := range h.Spark[l] {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = round(v, sparkDecimals[l]).append(dst)
		}
		dst = append(dst, ']')
	}
	return append(dst, "}}"...)
}

func (h *Host) appendPoint(dst []byte) []byte {
	dst = append(dst, `,"point":{"t":`...)
	dst = strconv.AppendInt(dst, h.PointT, 10)
	for l, name := range sparkNames {
		dst = append(append(append(dst, `,"`...), name...), `":`...)
		dst = round(h.Point[l], sparkDecimals[l]).append(dst)
	}
	return append(dst, "}}"...)
}

// MarshalJSON writes the row with its sparklines.
func (h *Host) MarshalJSON() ([]byte, error) { return h.AppendJSON(nil, true), nil }

// Hosts returns a row for every agent that has a record, in ascending order of id, and the log time (ms) that the
// states are as of.
func (v *View) Hosts() (at int64, rows []Host) {
	agents := v.Agents()
	at = v.now()
	rows = make([]Host, 0, len(agents))
	for i := range agents {
		if !agents[i].Revoked {
			rows = append(rows, v.row(&agents[i], at))
		}
	}
	return at, rows
}

func (v *View) now() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logTime
}

// row makes one row. It holds the view's lock for this host only.
func (v *View) row(a *Agent, now int64) Host {
	nan := Number(math.NaN())
	r := Host{
		ID: a.ID, Name: a.Hostname, State: a.State, OS: a.OS, Version: a.Version, Tags: a.Tags,
		LastSeen: max(a.HeartbeatAt, min(a.LastSample, now)), SparkEnd: now / SparkStep * SparkStep,
		CPU: nan, Mem: nan, Disk: nan, NetRx: nan, NetTx: nan, Load1: nan, Cores: nan, LogErrors: nan, Point: noPoint,
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.hosts[a.ID]
	if h == nil {
		r.Spark = new(spark).empty()
		return r
	}
	f := h.figures(now - v.cfg.DownAfter.Milliseconds())
	r.CPU, r.Mem, r.Disk, r.DiskMount = round(f.cpu, 1), round(f.mem, 1), round(f.disk, 1), f.mount
	r.NetRx, r.NetTx, r.Load1 = round(f.rx, 0), round(f.tx, 0), round(f.load1, 2)
	if f.cores > 0 {
		r.Cores = Number(f.cores)
	}
	if r.State != StateDown {
		r.LogErrors = Number(h.errors.total(now))
	}
	// The newest slot may still be waiting for its sample: end the line where the samples are, so that it does
	// not flicker, unless the host is silent.
	end := now / SparkStep
	if h.spark.slot == end-1 {
		end--
	}
	r.SparkEnd = end * SparkStep
	r.Spark = h.spark.lines(end)
	if last := r.Spark[0][SparkPoints-1]; math.IsNaN(f.cpu) && r.State != StateDown && !math.IsNaN(last) {
		r.CPU = round(last, 1) // just started: the stores know more than two samples would
	}
	if h.spark.slot > 0 {
		r.PointT = h.spark.slot * SparkStep
		for l, x := range h.spark.points[h.spark.slot%SparkPoints] {
			r.Point[l] = float64(x)
		}
	}
	return r
}

func (s *spark) empty() [4][SparkPoints]float64 {
	s.clear()
	return s.lines(0)
}

// Agents returns every agent that has a record, in ascending order of id.
func (v *View) Agents() []Agent {
	beats := make(map[string]json.RawMessage)
	v.cfg.Registry.Scan(BucketHeartbeats, "", func(key string, value []byte, _ uint64) bool {
		beats[key] = value
		return true
	})
	var agents []Agent
	v.cfg.Registry.Scan(BucketAgents, "", func(key string, value []byte, _ uint64) bool {
		agents = append(agents, v.decode(key, value, beats[key]))
		return true
	})
	for i := range agents {
		v.judge(&agents[i])
	}
	return agents
}

// Agent returns one agent.
func (v *View) Agent(id string) (Agent, bool) {
	value, _, ok := v.cfg.Registry.Get(BucketAgents, id)
	if !ok {
		return Agent{}, false
	}
	beat, _, _ := v.cfg.Registry.Get(BucketHeartbeats, id)
	a := v.decode(id, value, beat)
	v.judge(&a)
	return a, true
}

func (v *View) decode(id string, value, beat []byte) Agent {
	var a Agent
	if err := json.Unmarshal(value, &a); err != nil {
		v.cfg.Log.Error("record of agent is not readable", "agent", id, "err", err)
	}
	a.ID, a.Heartbeat, a.HeartbeatAt, a.Condition = id, nil, 0, Condition{}
	said := heartbeat{Condition: &a.Condition}
	if len(beat) > 0 {
		var hb struct {
			At     int64           `json:"at"`
			Status json.RawMessage `json:"status"`
		}
		if err := json.Unmarshal(beat, &hb); err != nil {
			v.cfg.Log.Error("heartbeat of agent is not readable", "agent", id, "err", err)
		}
		a.HeartbeatAt, a.Heartbeat = hb.At, hb.Status
		if json.Unmarshal(hb.Status, &said) == nil && said.Version != "" {
			a.Version = said.Version
		}
	}
	v.compare(&a, &said)
	return a
}

// judge fills in what the view knows of the agent.
func (v *View) judge(a *Agent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h := v.hosts[a.ID]; h != nil {
		a.LastSample, a.Series = h.newest, len(h.ids)
	}
	age := v.logTime - max(a.HeartbeatAt, min(a.LastSample, v.logTime))
	switch {
	case a.LastSample == 0 && (a.HeartbeatAt == 0 || v.logTime-a.CreatedAt < v.cfg.DownAfter.Milliseconds()):
		a.State = StateNew
	case age > v.cfg.DownAfter.Milliseconds():
		a.State = StateDown
	case age > v.cfg.LateAfter.Milliseconds():
		a.State = StateLate
	default:
		a.State = StateUp
	}
}
