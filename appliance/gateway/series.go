package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
)

// seriesUnfolds is how many times its length a body of label sets takes once it is decoded: a label of a few bytes
// becomes two strings with their headers.
const seriesUnfolds = 8

// series gives the label sets of an agent their ids. The server says which agent and host they are of.
func (g *Gateway) series(w http.ResponseWriter, r *http.Request, agent *auth.Agent) error {
	if err := wantType(r, "application/json"); err != nil {
		return err
	}
	sets, err := readSeries(http.MaxBytesReader(w, r.Body, wire.MaxRequestBody), agent)
	if err != nil {
		return err
	}
	_, results, err := g.propose(r.Context(), registrations(agent.ID, sets))
	if err != nil {
		return err
	}
	ids := make([]uint64, 0, len(sets))
	for _, res := range results {
		switch res.Status {
		case command.StatusOK:
			ids = append(ids, res.IDs...)
		case command.StatusLimit:
			return problem.New(http.StatusUnprocessableEntity, res.Detail).
				WithHint("drop metrics or labels with many values at the agent (metrics.exclude in agent.yaml)")
		default:
			return fmt.Errorf("register series: %s %s", res.Status, res.Detail)
		}
	}
	return writeJSON(w, map[string]any{"ids": ids})
}

// readSeries reads {"series":[{name: value, ...}, ...]}. Sets and labels are counted as they come, so that nothing much
// larger than what is allowed is ever built; other members are passed over.
func readSeries(body io.Reader, agent *auth.Agent) (sets []wire.Labels, err error) {
	d := json.NewDecoder(body)
	bad := func(err error) error { return badJSON(d, err) }
	if err := wantDelim(d, '{'); err != nil {
		return nil, bad(err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, bad(err)
		}
		if name != "series" {
			if err := skipValue(d); err != nil {
				return nil, bad(err)
			}
			continue
		}
		if err := wantDelim(d, '['); err != nil {
			return nil, bad(err)
		}
		for d.More() {
			if len(sets) == wire.MaxSeriesPerCall {
				return nil, badCount(fmt.Sprintf("more than %d", wire.MaxSeriesPerCall))
			}
			m, err := readLabels(d)
			if err != nil {
				return nil, seriesError(len(sets), err, bad)
			}
			ls, err := labelsOf(m, agent)
			if err != nil {
				return nil, seriesError(len(sets), err, bad)
			}
			sets = append(sets, ls)
		}
		if err := wantDelim(d, ']'); err != nil {
			return nil, bad(err)
		}
	}
	if err := wantDelim(d, '}'); err != nil {
		return nil, bad(err)
	}
	if len(sets) == 0 {
		return nil, badCount("no")
	}
	return sets, endOfJSON(d)
}

func badCount(n string) error {
	return problem.New(http.StatusBadRequest, fmt.Sprintf("%s series, 1 to %d are allowed in one call", n, wire.MaxSeriesPerCall))
}

// errLabels is an error of a label set as such; others are errors of the JSON.
type errLabels struct{ error }

func seriesError(i int, err error, bad func(error) error) error {
	if e, ok := errors.AsType[errLabels](err); ok {
		return problem.New(http.StatusBadRequest, fmt.Sprintf("series[%d]: %v", i, e.error))
	}
	return bad(err)
}

// readLabels reads one label set. Of a name that comes twice the last value counts.
func readLabels(d *json.Decoder) (map[string]string, error) {
	if t, err := d.Token(); err != nil {
		return nil, err
	} else if t != json.Delim('{') {
		return nil, errLabels{errors.New("is no object")}
	}
	m := make(map[string]string, 16)
	for n := 0; d.More(); n++ {
		if n == wire.MaxLabels {
			return nil, errLabels{fmt.Errorf("more than %d labels", wire.MaxLabels)}
		}
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		value, err := d.Token()
		if err != nil {
			return nil, err
		}
		text, ok := value.(string)
		if !ok && value != nil {
			return nil, errLabels{fmt.Errorf("value of label %.40q is no text", name)}
		}
		m[fmt.Sprint(name)] = text
	}
	return m, wantDelim(d, '}')
}

// labelsOf makes the labels say whose they are.
func labelsOf(m map[string]string, agent *auth.Agent) (wire.Labels, error) {
	m["agent"], m["host"] = agent.ID, agent.Hostname
	setDefault(m, "instance", agent.Hostname)
	setDefault(m, "job", "node")
	ls := wire.LabelsFromMap(m)
	if err := wire.CheckSeriesLabels(ls); err != nil {
		return nil, errLabels{err}
	}
	return ls, nil
}

func setDefault(m map[string]string, name, value string) {
	if m[name] == "" {
		m[name] = value
	}
}

func wantDelim(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err == nil && t != want {
		err = fmt.Errorf("%q expected", rune(want))
	}
	return err
}

// skipValue passes over one value without keeping it.
func skipValue(d *json.Decoder) error {
	for depth := 0; ; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// registrations splits label sets into commands that several fit in an entry.
func registrations(agent string, sets []wire.Labels) []command.Command {
	const maxBytes = 200 << 10
	var cmds []command.Command
	from, size := 0, 0
	for i, ls := range sets {
		n := 0
		for _, l := range ls {
			n += len(l.Name) + len(l.Value) + 4
		}
		if size+n > maxBytes && i > from {
			cmds = append(cmds, command.NewRegisterSeries(agent, sets[from:i]))
			from, size = i, 0
		}
		size += n
	}
	return append(cmds, command.NewRegisterSeries(agent, sets[from:]))
}
