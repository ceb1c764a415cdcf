package route

import (
	"errors"
	"fmt"

	"github.com/prometheus/alertmanager/pkg/labels"
)

// Silence keeps receivers from being told of the alerts that it matches, for a time. Times are log times in
// milliseconds.
type Silence struct {
	ID        string    `json:"id"`
	Matchers  []Matcher `json:"matchers"`
	StartsAt  int64     `json:"starts_at"`
	EndsAt    int64     `json:"ends_at"`
	CreatedBy string    `json:"created_by"`
	Comment   string    `json:"comment"`
	CreatedAt int64     `json:"created_at"`
	UpdatedAt int64     `json:"updated_at"`
}

// Matcher is a condition on a label, in Alertmanager's JSON form.
type Matcher struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	IsRegex bool   `json:"isRegex"`
	IsEqual bool   `json:"isEqual"`
}

// Bounds of a silence.
const (
	MaxSilenceMatchers = 20
	MaxComment         = 1024 // bytes
	MaxSilence         = 366 * 24 * 3600 * 1000
)

// Compile returns the matchers ready for use; the error says what is wrong with the silence.
func (s *Silence) Compile() (Matchers, error) {
	if len(s.Matchers) == 0 {
		return nil, errors.New("matchers: at least one is wanted")
	}
	if len(s.Matchers) > MaxSilenceMatchers {
		return nil, fmt.Errorf("matchers: %d; at most %d", len(s.Matchers), MaxSilenceMatchers)
	}
	var out Matchers
	narrow := false
	for i, m := range s.Matchers {
		t := labels.MatchEqual
		switch {
		case m.IsRegex && m.IsEqual:
			t = labels.MatchRegexp
		case m.IsRegex:
			t = labels.MatchNotRegexp
		case !m.IsEqual:
			t = labels.MatchNotEqual
		}
		if m.Name == "" || len(m.Name) > 128 || len(m.Value) > 1024 || m.IsRegex && len(m.Value) > maxRegex {
			return nil, fmt.Errorf("matchers[%d]: a name of 1 to 128 and a value of at most 1024 bytes are wanted, %d of a pattern", i, maxRegex)
		}
		one, err := labels.NewMatcher(t, m.Name, m.Value)
		if err != nil {
			return nil, fmt.Errorf("matchers[%d]: %w", i, err)
		}
		narrow = narrow || !one.Matches("")
		out = append(out, one)
	}
	if !narrow {
		return nil, errors.New("matchers: at least one must not match an absent label, or all alerts would be silenced")
	}
	return out, nil
}

// Check returns what is wrong with a silence that is to be stored.
func (s *Silence) Check() error {
	if _, err := s.Compile(); err != nil {
		return err
	}
	if len(s.Comment) > MaxComment || len(s.CreatedBy) > 256 {
		return fmt.Errorf("comment: at most %d bytes", MaxComment)
	}
	if s.EndsAt <= s.StartsAt {
		return errors.New("the end must be after the start")
	}
	if s.EndsAt-s.StartsAt > MaxSilence {
		return errors.New("a silence lasts a year at most")
	}
	return nil
}

// State says whether the silence holds at the time: pending, active or expired.
func (s *Silence) State(now int64) string {
	switch {
	case now < s.StartsAt:
		return "pending"
	case now < s.EndsAt:
		return "active"
	}
	return "expired"
}

// FromMatchers is the JSON form of parsed matchers.
func FromMatchers(ms Matchers) []Matcher {
	out := make([]Matcher, len(ms))
	for i, m := range ms {
		out[i] = Matcher{
			Name: m.Name, Value: m.Value, IsRegex: m.Type == labels.MatchRegexp || m.Type == labels.MatchNotRegexp,
			IsEqual: m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp,
		}
	}
	return out
}
