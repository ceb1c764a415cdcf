package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"time"

	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/appliance/problem"
)

type hostsAnswer struct {
	At    int64             `json:"at"` // log time, ms
	Hosts []json.RawMessage `json:"hosts"`
}

type agentsAnswer struct {
	At     int64         `json:"at"`
	Agents []fleet.Agent `json:"agents"`
}

type latestAnswer struct {
	At      int64          `json:"at"`
	Samples []fleet.Sample `json:"samples"`
	More    bool           `json:"more"` // there are others beyond the limit
}

type labelsAnswer struct {
	Labels []string `json:"labels"`
}

type valuesAnswer struct {
	Values []string `json:"values"`
}

type rowsAnswer struct {
	Rows []LogRow `json:"rows"`
}

func (a *API) hosts(q *request) error {
	at, rows := a.cfg.Fleet.Hosts()
	out := hostsAnswer{At: at, Hosts: make([]json.RawMessage, len(rows))}
	for i := range rows {
		out.Hosts[i] = rows[i].AppendJSON(nil, true)
	}
	return q.answer(http.StatusOK, out)
}

func (a *API) agents(q *request) error {
	agents := a.cfg.Fleet.Agents()
	if agents == nil {
		agents = []fleet.Agent{}
	}
	return q.answer(http.StatusOK, agentsAnswer{At: q.now.UnixMilli(), Agents: agents})
}

func (a *API) agent(q *request) error {
	agent, ok := a.cfg.Fleet.Agent(q.r.PathValue("id"))
	if !ok {
		return noAgent(q)
	}
	return q.answer(http.StatusOK, agent)
}

func noAgent(q *request) error {
	return problem.New(http.StatusNotFound, "there is no agent "+clip(q.r.PathValue("id"), 64)).
		WithHint("list them with GET /v1/agents")
}

func (a *API) latest(q *request) error {
	id := q.r.PathValue("id")
	samples, more, ok := a.cfg.Fleet.Latest(id, q.v.str("match"), int(q.v.int("limit")))
	if !ok {
		if _, known := a.cfg.Fleet.Agent(id); !known {
			return noAgent(q)
		}
	}
	if samples == nil {
		samples = []fleet.Sample{}
	}
	return q.answer(http.StatusOK, latestAnswer{At: q.now.UnixMilli(), Samples: samples, More: more})
}

// logRange returns the time range of a question about lines.
func (q *request) logRange() (start, end int64, err error) {
	start, end = q.v.int("start"), q.v.int("end")
	if start >= end {
		return 0, 0, problem.New(http.StatusBadRequest, "parameter start: is not before end").
			WithHint("start=now-1h and end=now are used when absent")
	}
	return start, end, nil
}

func (a *API) logsQuery(q *request) error {
	start, end, err := q.logRange()
	if err != nil {
		return err
	}
	page, err := a.cfg.Logs.Query(q.ctx(), LogQuery{
		Query: q.v.str("query"), Start: start, End: end,
		Limit: int(q.v.int("limit")), Cursor: q.v.str("cursor"),
	})
	if err != nil {
		return err
	}
	if page.Rows == nil {
		page.Rows = []LogRow{}
	}
	return q.answer(http.StatusOK, page)
}

// maxBars bounds how many steps a histogram may have.
const maxBars = 2000

// barSteps are the widths that are chosen from when none is given.
var barSteps = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour,
	6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

func barStep(span time.Duration) time.Duration {
	for _, s := range barSteps {
		if span/s <= 120 {
			return s
		}
	}
	return max(24*time.Hour, span/100/(24*time.Hour)*(24*time.Hour))
}

func (a *API) logsHits(q *request) error {
	start, end, err := q.logRange()
	if err != nil {
		return err
	}
	step := time.Duration(q.v.int("step"))
	if step == 0 {
		step = barStep(time.Duration(end - start))
	}
	start = start / int64(step) * int64(step)
	if (end-start)/int64(step) > maxBars {
		return badParam("step", "%s gives more than %d bars", step, maxBars).WithHint("choose a greater step")
	}
	hits, err := a.cfg.Logs.Hits(q.ctx(), q.v.str("query"), start, end, step)
	if err != nil {
		return err
	}
	if hits.Series == nil {
		hits.Series = []HitsSeries{}
	}
	return q.answer(http.StatusOK, hits)
}

func (a *API) logsFacets(q *request) error {
	start, end, err := q.logRange()
	if err != nil {
		return err
	}
	facet, err := a.cfg.Logs.Facets(q.ctx(), q.v.str("query"), start, end, q.v.str("field"), int(q.v.int("limit")))
	if err != nil {
		return err
	}
	if facet.Values == nil {
		facet.Values = []FacetValue{}
	}
	return q.answer(http.StatusOK, facet)
}

func (a *API) logsLabels(q *request) error {
	labels, err := a.cfg.Logs.Labels(q.ctx())
	if err != nil {
		return err
	}
	if labels == nil {
		labels = []string{}
	}
	return q.answer(http.StatusOK, labelsAnswer{labels})
}

func (a *API) logsLabelValues(q *request) error {
	name := q.r.PathValue("name")
	if len(name) > 128 {
		return problem.New(http.StatusBadRequest, "the name of the label is longer than 128 bytes")
	}
	list, err := a.cfg.Logs.LabelValues(q.ctx(), name, int(q.v.int("limit")))
	if err != nil {
		return err
	}
	if list == nil {
		list = []string{}
	}
	return q.answer(http.StatusOK, valuesAnswer{list})
}

var position = regexp.MustCompile(`^[0-9]{1,20}\.[0-9]{1,10}$`)

func (a *API) logsContext(q *request) error {
	pos := q.v.str("pos")
	if !position.MatchString(pos) {
		return badParam("pos", "%.40q; want <index>.<ordinal> as rows have it", pos)
	}
	rows, err := a.cfg.Logs.Context(q.ctx(), pos, q.v.int("t"), int(q.v.int("before")), int(q.v.int("after")))
	if err != nil {
		return err
	}
	if rows == nil {
		rows = []LogRow{}
	}
	return q.answer(http.StatusOK, rowsAnswer{rows})
}
