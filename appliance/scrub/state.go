package scrub

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/raftstate/command"
)

// state is the file: JSON to which fields are only added.
type state struct {
	Began     int64           `json:"began,omitempty"`  // of the pass under way, ms; 0: none
	Done      map[string]bool `json:"done,omitempty"`   // its steps
	Days      map[string]Day  `json:"days,omitempty"`   // what came of its days that are not equal, and of which are
	Rounds    int             `json:"rounds,omitempty"` // in which steps of it failed
	Since     int64           `json:"since,omitempty"`  // when this node began to look, ms
	Tried     int64           `json:"tried,omitempty"`  // when the newest pass began that ended incomplete, ms
	Failed    []Failure       `json:"failed,omitempty"` // its steps that could not be made
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

// Failure is a step of a pass that could not be made.
type Failure struct {
	Step  string `json:"step"` // state, log, files/metrics, files/logs, or day/ with what is stored and the day since 1970
	Error string `json:"error"`
}

// maxFound bounds the findings, maxLeft the days that are remembered.
const (
	maxFound = 100
	maxLeft  = 100
	// maxFailed bounds the steps that are remembered, maxError what is kept of an error.
	maxFailed = 100
	maxError  = 500
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
	s.state.Began, s.state.Done, s.state.Days, s.state.Rounds = s.cfg.Now().UnixMilli(), map[string]bool{}, map[string]Day{}, 0
}

// passes counts the passes that ended since the start.
func (s *Scrubber) passes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
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

func (s *Scrubber) finished(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Done[name] = true
	s.save()
}

// save writes the file. What cannot be written is lost at a restart only. The caller holds mu.
func (s *Scrubber) save() {
	if err := s.state.save(s.cfg.File); err != nil {
		s.cfg.Log.Warn("where the search for damage is, and what it found, is not written down", "err", err)
	}
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

// again counts a round of a pass in which steps failed, and reports whether they are tried once more.
func (s *Scrubber) again() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Rounds++
	defer s.save()
	return s.state.Rounds < stepTries
}

// end ends the pass, in which the steps of failed could not be made. Only a pass without such counts as the last one.
func (s *Scrubber) end(failed []Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.state
	now := s.cfg.Now().UnixMilli()
	began := st.Began
	st.LastEqual, st.LastLeft, st.Failed = 0, nil, failed[:min(len(failed), maxFailed)]
	if len(failed) == 0 {
		st.LastPass, st.LastBegan, st.Tried = now, began, 0
	} else {
		st.Tried = began
	}
	for _, d := range st.Days {
		if d.Verdict == Equal {
			st.LastEqual++
		} else {
			st.LastLeft = append(st.LastLeft, d)
		}
	}
	slices.SortFunc(st.LastLeft, func(a, b Day) int { return int(b.Day - a.Day) })
	st.LastLeft = st.LastLeft[:min(len(st.LastLeft), maxLeft)]
	took := time.Duration(now-began) * time.Millisecond
	if len(failed) == 0 {
		s.cfg.Log.Info("all that this node keeps was looked through", "took", took, "days_equal", st.LastEqual, "days_left", len(st.LastLeft))
	} else {
		s.cfg.Log.Error("the search for damage is incomplete", "took", took, "steps_failed", len(failed), "first", failed[0].Step, "err", failed[0].Error)
	}
	st.Began, st.Done, st.Days, st.Rounds = 0, nil, nil, 0
	s.ended++
	s.save()
}

// proven reports of a span of time whether all its days of metrics were equal in this pass.
func (s *Scrubber) proven() func(minT, maxT int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	equal := map[int64]bool{}
	for _, d := range s.state.Days {
		if d.Kind == command.KindMetrics.String() && d.Verdict == Equal {
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
	f.Error = f.Error[:min(len(f.Error), maxError)]
	s.state.Found = slices.DeleteFunc(s.state.Found, func(o Finding) bool { return o.Part == f.Part && o.Place == f.Place })
	s.state.Found = append(s.state.Found, f)
	s.state.Found = s.state.Found[max(0, len(s.state.Found)-maxFound):]
	s.save()
}

// Repaired takes a place off the list of what was found.
func (s *Scrubber) Repaired(part, place string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.state.Found)
	s.state.Found = slices.DeleteFunc(s.state.Found, func(f Finding) bool { return f.Part == part && f.Place == place })
	if len(s.state.Found) == n {
		return
	}
	s.save()
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
	Failed    []Failure `json:"failed"`     // steps that the newest pass could not make: it is incomplete
	Found     []Finding `json:"found"`      // and not repaired, the newest last
	Bytes     int64     `json:"bytes"`      // read since the node started
}

// Status returns where the scrubber is.
func (s *Scrubber) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		Every: s.cfg.Every.Milliseconds(), Began: s.state.Began, Doing: s.doing, Steps: len(s.state.Done), LastPass: s.state.LastPass,
		LastEqual: s.state.LastEqual, Left: append([]Day{}, s.state.LastLeft...), Failed: append([]Failure{}, s.state.Failed...), Found: append([]Finding{}, s.state.Found...), Bytes: s.read,
	}
	if st.LastPass != 0 {
		st.LastTook = st.LastPass - s.state.LastBegan
	}
	return st
}

var (
	bytesDesc = prometheus.NewDesc("triward_scrub_bytes_total", "Bytes that were read to look for damage.", nil, nil)
	sinceDesc = prometheus.NewDesc("triward_scrub_seconds_since_last_pass", "Time since everything was looked through, or since this node began to look when it never was.", nil, nil)
	everyDesc = prometheus.NewDesc("triward_scrub_every_seconds", "How often everything is to be looked through; 0: never by itself.", nil, nil)
	foundDesc = prometheus.NewDesc("triward_scrub_damage_found_total", "Damage that was found, by whomever.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Scrubber) Describe(ch chan<- *prometheus.Desc) {
	ch <- bytesDesc
	ch <- sinceDesc
	ch <- everyDesc
	ch <- foundDesc
}

// Collect implements prometheus.Collector.
func (s *Scrubber) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	read, found, last := s.read, s.found, cmp.Or(s.state.LastPass, s.state.Since)
	s.mu.Unlock()
	since := max(0, s.cfg.Now().Sub(time.UnixMilli(last)).Seconds())
	ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(read))
	ch <- prometheus.MustNewConstMetric(sinceDesc, prometheus.GaugeValue, since)
	ch <- prometheus.MustNewConstMetric(everyDesc, prometheus.GaugeValue, s.cfg.Every.Seconds())
	ch <- prometheus.MustNewConstMetric(foundDesc, prometheus.CounterValue, float64(found))
}
