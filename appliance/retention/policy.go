// Package retention says how long data is kept: the policy of a cluster, and which days go when time or a disk asks
// for it.
//
// It decides nothing by itself and touches no disk: Plan is a pure function of a policy, of what the nodes report
// about their disks, and of log time. Whoever leads the cluster proposes what it returns; the log makes it hold on
// all nodes at once, and each node frees its own disk in its own time. The package must not import stores or the API.
package retention

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/triward/triward/raftstate/command"
)

// Bucket of the metadata holds the policy under KeyPolicy; without it that of the configuration holds.
const (
	Bucket    = "retention"
	KeyPolicy = "policy"
)

const day = 24 * time.Hour

// DayMs is the grain of retention in milliseconds: cuts are made between days in UTC.
const DayMs = int64(day / time.Millisecond)

// Rule is what holds for one kind of data.
type Rule struct {
	AgeMs int64 `json:"age_ms"`    // data older than this goes, whole days at a time
	Share int   `json:"share_pct"` // of the room on a disk: what the kind takes beyond it goes, the oldest day first
}

// Policy is what is kept. Percentages are of the room of a disk: what it has less Reserve.
type Policy struct {
	Metrics Rule `json:"metrics"`
	Logs    Rule `json:"logs"`
	Events  Rule `json:"events"`
	// Limit is from where on days go because a disk is full, the oldest first, of the kind that takes most for its
	// share. 0: none goes for want of room.
	Limit int `json:"limit_pct"`
	Warn  int `json:"warn_pct"` // from where on operators are warned
	// KeepMs is the newest data, as a time, that never goes for want of room.
	KeepMs int64 `json:"keep_ms"`
}

// Default returns the policy of a cluster whose operators set none, with the ages of the configuration.
func Default(metrics, logs time.Duration) Policy {
	return Policy{
		Metrics: Rule{metrics.Milliseconds(), 70}, Logs: Rule{logs.Milliseconds(), 70}, Events: Rule{logs.Milliseconds(), 30},
		Limit: 85, Warn: 80, KeepMs: DayMs,
	}
}

// Of returns the rule of a kind.
func (p *Policy) Of(k command.Kind) Rule {
	switch k {
	case command.KindMetrics:
		return p.Metrics
	case command.KindLogs:
		return p.Logs
	}
	return p.Events
}

// Validate names the first thing that is wrong, and its place.
func (p *Policy) Validate() error {
	between := func(place string, v, least, most int64, unit string) error {
		if v < least || v > most {
			return fmt.Errorf("%s: %d is out of range: %d to %d %s", place, v, least, most, unit)
		}
		return nil
	}
	const longest = int64(3650)
	for _, k := range command.Kinds {
		r := p.Of(k)
		least := int64(1)
		if k == command.KindMetrics {
			least = 7 // late samples are taken for so long
		}
		if r.AgeMs%DayMs != 0 {
			return fmt.Errorf("%s.age_ms: %d is no whole number of days", k, r.AgeMs)
		}
		if err := between(k.String()+".age_ms", r.AgeMs/DayMs, least, longest, "days"); err != nil {
			return err
		}
		if err := between(k.String()+".share_pct", int64(r.Share), 1, 100, "percent"); err != nil {
			return err
		}
		if p.KeepMs > r.AgeMs {
			return fmt.Errorf("keep_ms: %d is more than %s.age_ms", p.KeepMs, k)
		}
	}
	if p.Limit != 0 {
		if err := between("limit_pct", int64(p.Limit), 10, 95, "percent, or 0 for no cuts by room"); err != nil {
			return err
		}
	}
	if err := between("warn_pct", int64(p.Warn), 10, 95, "percent"); err != nil {
		return err
	}
	if p.Limit != 0 && p.Warn > p.Limit {
		return fmt.Errorf("warn_pct: %d is above limit_pct %d, so nobody would be warned in time", p.Warn, p.Limit)
	}
	if p.KeepMs%DayMs != 0 {
		return fmt.Errorf("keep_ms: %d is no whole number of days", p.KeepMs)
	}
	return between("keep_ms", p.KeepMs/DayMs, 1, longest, "days")
}

// Record is the policy as the metadata holds it.
type Record struct {
	Policy
	By string `json:"by"`
	At int64  `json:"at"` // log time in milliseconds since 1970
}

// Encode returns the record as it is kept.
func (r *Record) Encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // numbers and a text
	}
	return b
}

// Decode reads what Encode wrote. A policy that is not valid, which a newer program may have written, is an error.
func Decode(b []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("retention policy: %w", err)
	}
	if err := r.Validate(); err != nil {
		return r, fmt.Errorf("retention policy: %w", err)
	}
	return r, nil
}
