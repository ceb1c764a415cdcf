package route

import (
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// durations are the fields that hold a duration. The decoder does not say where one stands that is none.
var durations = []string{"group_wait", "group_interval", "repeat_interval", "after"}

// badDurations names the durations of a document that are none, with their lines.
func badDurations(body []byte) []string {
	var doc yaml.Node
	if yaml.Unmarshal(body, &doc) != nil {
		return nil
	}
	var out []string
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		for i, child := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && child.Kind == yaml.ScalarNode && slices.Contains(durations, n.Content[i-1].Value) {
				if _, err := model.ParseDuration(child.Value); err != nil {
					out = append(out, fmt.Sprintf("line %d: %s: %.60q is no duration; write one such as 30s, 5m or 4h", child.Line, n.Content[i-1].Value, child.Value))
				}
			}
			walk(child)
		}
	}
	walk(&doc)
	return out
}
