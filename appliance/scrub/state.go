package scrub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// state is the file: JSON to which fields are only added.
type state struct {
	Began     int64           `json:"began,omitempty"` // of the pass under way, ms; 0: none
	Done      map[string]bool `json:"done,omitempty"`  // its steps
	Days      map[string]Day  `json:"days,omitempty"`  // what came of its days that are not equal, and of which are
	LastBegan int64           `json:"last_began,omitempty"`
	LastPass  int64           `json:"last_pass,omitempty"` // when the last pass was through, ms
	LastEqual int             `json:"last_equal,omitempty"`
	LastLeft  []Day           `json:"last_left,omitempty"` // its days that are not known to be equal
	Found     []Finding       `json:"found,omitempty"`     // the newest last
}

// Finding is damage as it was found.
type Finding struct {
	At    int64  `json:"at"` // ms
	Part  string `json:"part"`
	Kind  string `json:"kind,omitempty"`
	From  int64  `json:"from,omitempty"` // ms
	To    int64  `json:"to,omitempty"`
	Place string `json:"place"`
	Error string `json:"error"`
}

// maxFound bounds the findings, maxLeft the days that are remembered.
const (
	maxFound = 100
	maxLeft  = 100
)

func readState(path string) (state, error) {
	var s state
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return state{}, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// save replaces the file. It is not synced: a pass that is made again costs time only.
func (s *state) save(path string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (s *Scrubber) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Began != 0 && s.state.Done != nil {
		return
	}
	s.state.Began, s.state.Done, s.state.Days = s.cfg.Now().UnixMilli(), map[string]bool{}, map[string]Day{}
}

func (s *Scrubber) done(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Done[name]
}

func (s *Scrubber) note(doing string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing = doing
}

func (s *Scrubber) finished(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Done[name] = true
	return s.state.save(s.cfg.File)
}

func (s *Scrubber) noteDay(d *Day) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Days == nil {
		return // of a Check beside which there is no pass
	}
	kept := *d
	kept.err = nil
	s.state.Days[d.Place()] = kept
}

func (s *Scrubber) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.state
	st.LastPass, st.LastBegan, st.LastEqual, st.LastLeft = s.cfg.Now().UnixMilli(), st.Began, 0, nil
	for _, d := range st.Days {
		if d.Verdict == Equal {
			st.LastEqual++
		} else {
			st.LastLeft = append(st.LastLeft, d)
		}
	}
	slices.SortFunc(st.LastLeft, func(a, b Day) int { return int(b.Day - a.Day) })
	st.LastLeft = st.LastLeft[:min(len(st.LastLeft), maxLeft)]
	took := time.Duration(st.LastPass-st.LastBegan) * time.Millisecond
	s.cfg.Log.Info("all that this node keeps was looked through", "took", took, "days_equal", st.LastEqual, "days_left", len(st.LastLeft))
	st.Began, st.Done, st.Days = 0, nil, nil
	return st.save(s.cfg.File)
}

// proven reports of a span of time whether all its days of metrics were equal in this pass.
func (s *Scrubber) proven() func(minT, maxT int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	equal := map[int64]bool{}
	for _, d := range s.state.Days {
		if d.Kind == PartMetrics && d.Verdict == Equal {
			equal[d.Day] = true
		}
	}
	return func(minT, maxT int64) bool {
		for day := minT / dayMs; day*dayMs < maxT; day++ {
			if !equal[day] {
				return false
			}
		}
		return true
	}
}

// Found notes damage, whoever found it. What is known already is noted anew only when it is found by somebody else.
func (s *Scrubber) Found(d Damage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found++
	f := Finding{At: s.cfg.Now().UnixMilli(), Part: d.Part, Kind: d.Kind, From: d.From, To: d.To, Place: d.Place}
	if d.Err != nil {
		f.Error = d.Err.Error()
	}
	const longest = 500
	f.Error = f.Error[:min(len(f.Error), longest)]
	s.state.Found = slices.DeleteFunc(s.state.Found, func(o Finding) bool { return o.Part == f.Part && o.Place == f.Place })
	s.state.Found = append(s.state.Found, f)
	s.state.Found = s.state.Found[max(0, len(s.state.Found)-maxFound):]
	if err := s.state.save(s.cfg.File); err != nil {
		s.cfg.Log.Warn("what was found is not written down", "err", err)
	}
}

// Status is where the scrubber is. Times are milliseconds since 1970, 0: never or none.
type Status struct {
	Every     int64     `json:"every_ms"`
	Began     int64     `json:"began"` // of the pass under way
	Doing     string    `json:"doing,omitempty"`
	Steps     int       `json:"steps"` // of it that are done
	LastPass  int64     `json:"last_pass"`
	LastTook  int64     `json:"last_took_ms"`
	LastEqual int       `json:"last_equal"` // kinds and days that were equal
	Left      []Day     `json:"left"`       // those of the last pass that are not known to be
	Found     []Finding `json:"found"`      // the newest last
	Bytes     int64     `json:"bytes"`      // read since the node started
}

// Status returns where the scrubber is.
func (s *Scrubber) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		Every: s.cfg.Every.Milliseconds(), Began: s.state.Began, Doing: s.doing, Steps: len(s.state.Done), LastPass: s.state.LastPass,
		LastEqual: s.state.LastEqual, Left: append([]Day{}, s.state.LastLeft...), Found: append([]Finding{}, s.state.Found...), Bytes: s.read,
	}
	if st.LastPass != 0 {
		st.LastTook = st.LastPass - s.state.LastBegan
	}
	return st
}

var (
	bytesDesc = prometheus.NewDesc("triward_scrub_bytes_total", "Bytes that were read to look for damage.", nil, nil)
	sinceDesc = prometheus.NewDesc("triward_scrub_seconds_since_last_pass", "Time since everything was looked through; -1 when it never was.", nil, nil)
	foundDesc = prometheus.NewDesc("triward_scrub_damage_found_total", "Damage that was found, by whomever.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Scrubber) Describe(ch chan<- *prometheus.Desc) {
	ch <- bytesDesc
	ch <- sinceDesc
	ch <- foundDesc
}

// Collect implements prometheus.Collector.
func (s *Scrubber) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	read, found, last := s.read, s.found, s.state.LastPass
	s.mu.Unlock()
	since := -1.0
	if last != 0 {
		since = s.cfg.Now().Sub(time.UnixMilli(last)).Seconds()
	}
	ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(read))
	ch <- prometheus.MustNewConstMetric(sinceDesc, prometheus.GaugeValue, since)
	ch <- prometheus.MustNewConstMetric(foundDesc, prometheus.CounterValue, float64(found))
}
