package route

import (
	"strconv"
	"strings"
)

// Labelled is an alert as inhibition sees it.
type Labelled struct {
	ID     string
	Labels map[string]string
}

// Inhibition finds by which alert another is muted.
type Inhibition struct {
	rules []*InhibitRule
	by    []map[string][]string // of each rule: ids of sources by their values of Equal
}

// NewInhibition is made of the alerts that fire, in a fixed order.
func NewInhibition(rules []*InhibitRule, firing []Labelled) *Inhibition {
	in := &Inhibition{rules: rules, by: make([]map[string][]string, len(rules))}
	for i, r := range rules {
		in.by[i] = make(map[string][]string)
		for _, a := range firing {
			if r.Source.Match(a.Labels) {
				key := r.values(a.Labels)
				// Two sources suffice: an alert never mutes itself.
				if held := in.by[i][key]; len(held) < 2 {
					in.by[i][key] = append(held, a.ID)
				}
			}
		}
	}
	return in
}

func (r *InhibitRule) values(ls map[string]string) string {
	var b strings.Builder
	for _, name := range r.Equal {
		v := ls[name]
		b.WriteString(strconv.Itoa(len(v)))
		b.WriteByte(':')
		b.WriteString(v)
	}
	return b.String()
}

// By returns the id of an alert that mutes this one, "" for none. An alert that is itself a source of a rule is not
// muted by that rule.
func (in *Inhibition) By(a Labelled) string {
	for i, r := range in.rules {
		if !r.Target.Match(a.Labels) || r.Source.Match(a.Labels) {
			continue
		}
		for _, id := range in.by[i][r.values(a.Labels)] {
			if id != a.ID {
				return id
			}
		}
	}
	return ""
}
