package api

import (
	"net/http"
	"regexp"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

type labelsAnswer struct {
	Labels []string `json:"labels"`
	Stats  LogStats `json:"stats"`
}

type valuesAnswer struct {
	Values []string `json:"values"`
	Stats  LogStats `json:"stats"`
}

// orderParam chooses the order of lines.
func orderParam(def string) Param {
	return Param{Name: "order", Kind: paramChoice, Choices: []string{"newest", "oldest"}, Default: def, Doc: "which lines come first"}
}

// streamRange bounds questions about streams, which are answered by day; without start everything that is kept counts.
var streamRange = []Param{
	{Name: "start", Kind: paramTime, Default: "0", Doc: "only streams with lines on the days from this time on"},
	{Name: "end", Kind: paramTime, Default: "now+1h", Doc: "up to this time"},
}

func logRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/logs/query", Permission: auth.Read, Summary: "Lines, newest first", Fresh: true,
			Params: with(logRange, limitParam(200, 5000), orderParam("newest"),
				Param{Name: "cursor", Kind: paramText, MaxLen: 512, Doc: "`next` of the page before"}),
			Answer: LogPage{}, serve: (*API).logsQuery,
		},
		{
			Method: "GET", Path: "/v1/logs/hits", Permission: auth.Read, Fresh: true,
			Summary: "How many lines, by time and severity, or by time and the value of a field",
			Params: with(logRange,
				Param{
					Name: "step", Kind: paramDuration, Min: 1000, Max: 30 * 86400_000,
					Doc: "width of a bar; chosen for about 100 bars when absent",
				},
				Param{Name: "field", Kind: paramText, Doc: "name of a label or field to count by, instead of severities"},
				Param{Name: "top", Kind: paramInt, Min: 1, Max: 100, Default: "10", Doc: "how many values of the field are told apart; the most frequent ones"}),
			Answer: LogHits{}, serve: (*API).logsHits,
		},
		{
			Method: "GET", Path: "/v1/logs/facets", Permission: auth.Read, Summary: "The most frequent values of a field", Fresh: true,
			Params: with(logRange, Param{Name: "field", Kind: paramText, Required: true, Doc: "name of a label or field"},
				limitParam(20, 1000)),
			Answer: Facet{}, serve: (*API).logsFacets,
		},
		{
			Method: "GET", Path: "/v1/logs/labels", Permission: auth.Read, Summary: "Names of the labels of streams", Fresh: true,
			Params: streamRange, Answer: labelsAnswer{}, serve: (*API).logsLabels,
		},
		{
			Method: "GET", Path: "/v1/logs/labels/{name}/values", Permission: auth.Read, Summary: "Values of a label", Fresh: true,
			Params: with(streamRange, limitParam(1000, 10000)), Answer: valuesAnswer{}, serve: (*API).logsLabelValues,
		},
		{
			Method: "GET", Path: "/v1/logs/series", Permission: auth.Read, Summary: "Streams and their labels", Fresh: true,
			Params: with(streamRange, limitParam(1000, 50_000),
				Param{Name: "query", Kind: paramText, MaxLen: 16 << 10, Doc: "leaves out what it rules out by kind and labels: host:web-1"}),
			Answer: LogStreams{}, serve: (*API).logsSeries,
		},
		{
			Method: "GET", Path: "/v1/logs/context", Permission: auth.Read, Summary: "Lines of the same stream around a line", Fresh: true,
			Params: []Param{
				{Name: "pos", Kind: paramText, Required: true, MaxLen: 40, Doc: "position of the line"},
				{Name: "t", Kind: paramTime, Required: true, Doc: "time of the line"},
				{Name: "before", Kind: paramInt, Min: 0, Max: 500, Default: "50", Doc: "lines before it"},
				{Name: "after", Kind: paramInt, Min: 0, Max: 500, Default: "50", Doc: "lines after it"},
			},
			Answer: LogAround{}, serve: (*API).logsContext,
		},
		logExportRoute(),
	}
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

// logQuery reads what a question for lines has.
func (q *request) logQuery() (LogQuery, error) {
	start, end, err := q.logRange()
	return LogQuery{
		Query: q.v.str("query"), Start: start, End: end, Limit: int(q.v.int("limit")), Cursor: q.v.str("cursor"),
		Oldest: q.v.str("order") == "oldest",
	}, err
}

func (a *API) logsQuery(q *request) error {
	ask, err := q.logQuery()
	if err != nil {
		return err
	}
	page, err := q.logs.Query(q.ctx(), ask)
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
	if (end-start)/int64(step) > maxBars {
		return badParam("step", "%s gives more than %d bars", step, maxBars).WithHint("choose a greater step")
	}
	var hits LogHits
	if field := q.v.str("field"); field != "" {
		hits, err = q.logs.HitsBy(q.ctx(), q.v.str("query"), start, end, step, field, int(q.v.int("top")))
	} else {
		hits, err = q.logs.Hits(q.ctx(), q.v.str("query"), start, end, step)
	}
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
	facet, err := q.logs.Facets(q.ctx(), q.v.str("query"), start, end, q.v.str("field"), int(q.v.int("limit")))
	if err != nil {
		return err
	}
	if facet.Values == nil {
		facet.Values = []FacetValue{}
	}
	return q.answer(http.StatusOK, facet)
}

func (a *API) logsLabels(q *request) error {
	start, end, err := q.logRange()
	if err != nil {
		return err
	}
	labels, err := q.logs.Labels(q.ctx(), start, end)
	if err != nil {
		return err
	}
	if labels.Names == nil {
		labels.Names = []string{}
	}
	return q.answer(http.StatusOK, labelsAnswer{labels.Names, labels.Stats})
}

func (a *API) logsLabelValues(q *request) error {
	name := q.r.PathValue("name")
	if len(name) > 128 {
		return problem.New(http.StatusBadRequest, "the name of the label is longer than 128 bytes")
	}
	start, end, err := q.logRange()
	if err != nil {
		return err
	}
	list, err := q.logs.LabelValues(q.ctx(), name, start, end, int(q.v.int("limit")))
	if err != nil {
		return err
	}
	if list.Names == nil {
		list.Names = []string{}
	}
	return q.answer(http.StatusOK, valuesAnswer{list.Names, list.Stats})
}

func (a *API) logsSeries(q *request) error {
	start, end, err := q.logRange()
	if err != nil {
		return err
	}
	found, err := q.logs.Series(q.ctx(), q.v.str("query"), start, end, int(q.v.int("limit")))
	if err != nil {
		return err
	}
	if found.Streams == nil {
		found.Streams = []LogStream{}
	}
	return q.answer(http.StatusOK, found)
}

var position = regexp.MustCompile(`^[0-9]{1,20}\.[0-9]{1,10}$`)

func (a *API) logsContext(q *request) error {
	pos := q.v.str("pos")
	if !position.MatchString(pos) {
		return badParam("pos", "%.40q; want <index>.<ordinal> as rows have it", pos)
	}
	around, err := q.logs.Context(q.ctx(), pos, q.v.int("t"), int(q.v.int("before")), int(q.v.int("after")))
	if err != nil {
		return err
	}
	if around.Rows == nil {
		around.Rows = []LogRow{}
	}
	return q.answer(http.StatusOK, around)
}
