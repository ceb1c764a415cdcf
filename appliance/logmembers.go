package appliance

import (
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/members"
)

// textFields returns the fields that the text of a line holds by itself, without those whose name is of something else of
// the line.
func textFields(r *logstore.Row) map[string]string {
	var reader members.Reader
	out := map[string]string{}
	for _, f := range reader.All(r.Text) {
		name := string(f.Name)
		if r.Labels.Get(name) == "" && wire.Labels(r.Fields).Get(name) == "" {
			out[name] = string(f.Value)
		}
	}
	return out
}
