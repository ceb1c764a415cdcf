package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
)

// maxMessage is how long a message may be written.
const maxMessage = 512 << 10

// message is an element of a JSON list.
type message struct {
	Type      string          `json:"type"`
	AgentID   string          `json:"agent_id"`
	Timestamp json.RawMessage `json:"timestamp"`
	Data      struct {
		Name  string                     `json:"name"`
		Value json.RawMessage            `json:"value"`
		Tags  map[string]json.RawMessage `json:"tags"`
	} `json:"data"`
}

// Kinds of messages, as their member `type` says.
const (
	kindMetric = "metric"
	kindLog    = "log"
	kindEvent  = "event"
)

// Agent is one of the cluster's own agents, as its certificate says; the zero value is any other sender.
type Agent struct{ ID, Hostname string }

// own makes labels say of which agent they are; of other senders they must not.
func (a Agent) own(ls wire.Labels) wire.Labels {
	if a.ID == "" {
		return ours(ls)
	}
	return ls.With("agent", a.ID).With("host", a.Hostname)
}

// name checks whom a message says it is of. An agent need not say it, and speaks for nobody else.
func (a Agent) name(m *message) error {
	switch {
	case a.ID == "" && m.AgentID == "":
		return errors.New("agent_id is missing")
	case a.ID != "" && m.AgentID != "" && m.AgentID != a.ID && m.AgentID != a.Hostname:
		return fmt.Errorf("agent_id is %.64q, the certificate is of agent %s (host %s)", m.AgentID, a.ID, a.Hostname)
	case a.ID != "":
		m.AgentID = a.ID
	}
	return nil
}

// Metrics takes a JSON list of metrics.
func (in *Intake) Metrics(w http.ResponseWriter, r *http.Request) error {
	return in.AgentMetrics(w, r, Agent{})
}

// Logs takes a JSON list of lines.
func (in *Intake) Logs(w http.ResponseWriter, r *http.Request) error {
	return in.AgentLogs(w, r, Agent{})
}

// Events takes a JSON list of events.
func (in *Intake) Events(w http.ResponseWriter, r *http.Request) error {
	return in.AgentEvents(w, r, Agent{})
}

// AgentMetrics is Metrics of an agent: the series are its own and carry the labels `agent` and `host`.
func (in *Intake) AgentMetrics(w http.ResponseWriter, r *http.Request, from Agent) error {
	p := &samplePush{in: in, agent: from}
	return in.messages(w, r, kindMetric, from, &p.tally, p.message, p.push)
}

// AgentLogs is Logs of an agent: the streams carry the labels `agent` and `host`.
func (in *Intake) AgentLogs(w http.ResponseWriter, r *http.Request, from Agent) error {
	p := &linePush{in: in, agent: from}
	return in.messages(w, r, kindLog, from, &p.tally, p.message, p.push)
}

// AgentEvents is Events of an agent: the streams carry the labels `agent` and `host`.
func (in *Intake) AgentEvents(w http.ResponseWriter, r *http.Request, from Agent) error {
	p := &linePush{in: in, agent: from}
	return in.messages(w, r, kindEvent, from, &p.tally, p.message, p.push)
}

// messages reads a list, gives take each message of it and pushes what was taken. A message that take refuses is named
// in the answer; the others go on.
func (in *Intake) messages(w http.ResponseWriter, r *http.Request, kind string, from Agent, t *tally,
	take func(kind string, m *message) error, push func(ctx context.Context) error,
) error {
	media, _, encoding, err := kindOf(r, "", "gzip")
	if err != nil {
		return err
	}
	if media != "application/json" {
		return problem.New(http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Type is %.100q, this takes %q", media, "application/json"))
	}
	h := hold{in: in}
	defer h.release()
	body, err := h.read(r, encoding)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	n := 0
	err = eachElement(d, func() error {
		if n == maxMessages {
			return problem.New(http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d messages in one list", maxMessages)).
				WithHint("send shorter lists")
		}
		var m message
		err := decodeShort(d, maxMessage, &m)
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !ok {
			return err
		}
		if err == nil {
			err = m.check(kind)
		}
		if err == nil {
			err = from.name(&m)
		}
		if err == nil {
			err = take(kind, &m)
		}
		if err != nil {
			t.refuse(1, fmt.Sprintf("[%d]", n), err.Error())
		}
		n++
		return nil
	})
	if err == nil {
		err = endOfJSON(d)
	}
	if err != nil {
		return badJSON(d, err)
	}
	if err := push(r.Context()); err != nil {
		return err
	}
	if err := t.done(in, "json", kind+"s"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (m *message) check(kind string) error {
	switch {
	case m.Type != "" && m.Type != kind:
		return fmt.Errorf("type is %.40q, this list takes %q", m.Type, kind)
	case len(m.Data.Value) == 0 || string(m.Data.Value) == "null":
		return errors.New("data.value is missing")
	}
	return nil
}

// time reads the time stamp in nanoseconds since 1970.
func (m *message) time() (int64, error) {
	raw := string(m.Timestamp)
	if strings.HasPrefix(raw, `"`) {
		var text string
		if err := json.Unmarshal(m.Timestamp, &text); err != nil {
			return 0, fmt.Errorf("timestamp: %w", err)
		}
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil || t.Year() < 1970 || t.Year() > 2200 {
			return 0, fmt.Errorf("timestamp %.40q is no time as RFC 3339 writes it", text)
		}
		return t.UnixNano(), nil
	}
	if raw == "" || raw == "null" {
		return 0, errors.New("timestamp is missing")
	}
	// The number of digits before the point tells the unit: 10 of seconds, 13 of milliseconds, and so on.
	whole, fraction, _ := strings.Cut(raw, ".")
	var unit int64
	switch len(whole) {
	case 10:
		unit = 1e9
	case 13:
		unit = 1e6
	case 16:
		unit = 1e3
	case 19:
		unit = 1
	default:
		return 0, fmt.Errorf("timestamp %.40s is none of seconds, milliseconds, microseconds and nanoseconds since 1970", raw)
	}
	var n, part int64
	var f float64
	if err := json.Unmarshal([]byte(whole), &n); err != nil || n < 0 || n > int64(math.MaxInt64)/unit-1 {
		return 0, fmt.Errorf("timestamp %.40s is no time", raw)
	}
	if fraction != "" {
		if err := json.Unmarshal([]byte("0."+fraction), &f); err != nil || f >= 1 {
			return 0, fmt.Errorf("timestamp %.40s is no time", raw)
		}
		part = int64(math.Round(f * float64(unit)))
	}
	return n*unit + part, nil
}

// message takes a metric: the series has the labels of the tags, the name and the label agent_id.
func (p *samplePush) message(_ string, m *message) error {
	var v float64
	if err := json.Unmarshal(m.Data.Value, &v); err != nil {
		return errors.New("data.value is no number")
	}
	t, err := m.time()
	if err != nil {
		return err
	}
	if m.Data.Name == "" {
		return errors.New("data.name is missing")
	}
	for _, name := range [...]string{"__name__", "agent_id"} {
		if _, ok := m.Data.Tags[name]; ok {
			return fmt.Errorf("data.tags must not hold %s", name)
		}
	}
	if len(m.Data.Tags) > wire.MaxLabels {
		return fmt.Errorf("%d tags, at most %d are allowed", len(m.Data.Tags), wire.MaxLabels-2)
	}
	ls := p.agent.own(labelsOf(m.Data.Tags).With("__name__", m.Data.Name).With("agent_id", m.AgentID))
	if err := wire.CheckSeriesLabels(ls); err != nil {
		return err
	}
	p.samples = append(p.samples, sample{series: p.add(string(ls.AppendKey(nil))), t: t / 1e6, v: v})
	return nil
}

// message takes a line or an event: its text is the value, its fields are the tags, its stream has the labels agent_id
// and name. Of two equal lines with one time the second is a repeat when that time is finer than a second.
func (p *linePush) message(kind string, m *message) error {
	t, err := m.time()
	if err != nil {
		return err
	}
	streamKind := wire.StreamLog
	if kind == kindEvent {
		if streamKind = wire.StreamEvent; m.Data.Name == "" {
			return errors.New("data.name is missing: it says what happened")
		}
	}
	s, err := p.newStream(streamKind, wire.LabelsFromMap(map[string]string{"agent_id": m.AgentID, "name": m.Data.Name}), "api")
	if err != nil {
		return err
	}
	l := wire.LogLine{T: t, Text: []byte(textOf(m.Data.Value)), Fields: labelsOf(m.Data.Tags)}
	var flags command.DeliverFlags
	if t%1e9 != 0 {
		flags = command.RepeatsDropped
	}
	p.add(s, l, flags)
	return nil
}
