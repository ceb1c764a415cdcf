package retention

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// KeySelectors has the rules for single streams in Bucket.
const KeySelectors = "selectors"

// MaxSelectors bounds the rules.
const MaxSelectors = 32

// SelectorRule is how long lines of some streams are kept. It can only shorten what the rule of their kind says, and of
// several that pick a stream the shortest counts.
type SelectorRule struct {
	Kind   string `json:"kind"`   // logs or events
	Select string `json:"select"` // as wire.ParseSelector reads it, and String writes it
	AgeMs  int64  `json:"age_ms"` // whole days
}

// KindOf is the kind of a rule, 0 for none that has streams.
func (r *SelectorRule) KindOf() command.Kind {
	switch r.Kind {
	case command.KindLogs.String():
		return command.KindLogs
	case command.KindEvents.String():
		return command.KindEvents
	}
	return 0
}

// Picker checks the rule and returns its selector. The error names the place.
func (r *SelectorRule) Picker() (*wire.Picker, error) {
	if r.KindOf() == 0 {
		return nil, fmt.Errorf("kind: %.40q has no streams: logs or events", r.Kind)
	}
	if r.AgeMs%DayMs != 0 || r.AgeMs < DayMs || r.AgeMs > 3650*DayMs {
		return nil, fmt.Errorf("age_ms: %d is no number of days from 1 to 3650", r.AgeMs)
	}
	sel, err := wire.ParseSelector(r.Select)
	if err != nil {
		return nil, fmt.Errorf("select: %w", err)
	}
	return wire.NewPicker(sel)
}

// Everything reports whether a selector picks streams without looking at them: each of its matchers takes any value.
func Everything(p *wire.Picker) bool {
	return p.Picks(func(string) string { return "" }) && p.Picks(func(string) string { return "any value \x00" })
}

// SelectorRecord is the rules as the metadata holds them.
type SelectorRecord struct {
	Rules []SelectorSet `json:"rules"`
}

// SelectorSet is a rule with who set it.
type SelectorSet struct {
	SelectorRule
	By string `json:"by"`
	At int64  `json:"at"` // log time in milliseconds since 1970
}

// Encode returns the record as it is kept.
func (r *SelectorRecord) Encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // numbers and texts
	}
	return b
}

// DecodeSelectors reads what Encode wrote. Rules that are not valid, which a newer program may have written, are an error.
func DecodeSelectors(b []byte) (SelectorRecord, error) {
	var r SelectorRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("retention by selectors: %w", err)
	}
	for i := range r.Rules {
		if _, err := r.Rules[i].Picker(); err != nil {
			return r, fmt.Errorf("retention by selectors: rule %d: %w", i, err)
		}
	}
	return r, nil
}

// Find returns the place of the rule of a kind and selector, -1 when there is none.
func (r *SelectorRecord) Find(kind, sel string) int {
	return slices.IndexFunc(r.Rules, func(x SelectorSet) bool { return x.Kind == kind && x.Select == sel })
}

// SelectorFloor is the time before which, by whole days, a rule wants nothing kept, in milliseconds since 1970.
func SelectorFloor(now, ageMs int64) int64 { return max(0, startOfDay(now-ageMs)) }
