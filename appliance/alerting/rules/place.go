package rules

import (
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// durations are the fields that hold a duration. The decoder does not say where one stands that is none.
var durations = []string{"interval", "query_offset", "for", "keep_firing_for", "window", "hold", "after", "within"}

// badDurations names the durations of a document that are none, with their places.
func badDurations(body []byte) []Problem {
	var doc yaml.Node
	if yaml.Unmarshal(body, &doc) != nil {
		return nil
	}
	var out []Problem
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		for i, child := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && child.Kind == yaml.ScalarNode && slices.Contains(durations, n.Content[i-1].Value) {
				if _, err := model.ParseDuration(child.Value); err != nil {
					out = append(out, Problem{
						Line: child.Line, Column: child.Column,
						Message: fmt.Sprintf("%s: %.60q is no duration; write one such as 30s, 5m or 1h30m", n.Content[i-1].Value, child.Value),
					})
				}
			}
			walk(child) // what an alias names is walked where it stands
		}
	}
	walk(&doc)
	return out
}
