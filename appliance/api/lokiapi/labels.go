package lokiapi

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
)

// lookback is how long before now questions about streams begin when they do not say.
const lookback = 6 * time.Hour

// labels answers labels: the names of the labels of streams.
func (a *API) labels(q *request) error {
	start, end, sel, err := q.streamsAsked(false)
	if err != nil {
		return err
	}
	if sel == nil {
		names, st, err := a.opts.Store.Labels(q.ctx(), start, end)
		if err != nil || a.elsewhere(q, st.Partial) {
			return err
		}
		return q.data(orEmpty(names), partial(&st)...)
	}
	return a.namesOf(q, sel, start, end, func(ls wire.Labels, add func(string)) {
		for i := range ls {
			add(ls[i].Name)
		}
	})
}

// labelValues answers label/{name}/values.
func (a *API) labelValues(q *request) error {
	start, end, sel, err := q.streamsAsked(false)
	if err != nil {
		return err
	}
	if len(q.name) > wire.MaxLabelName {
		return badf("the name of the label is longer than %d bytes", wire.MaxLabelName)
	}
	if sel == nil {
		values, st, err := a.opts.Store.LabelValues(q.ctx(), q.name, start, end)
		if err != nil || a.elsewhere(q, st.Partial) {
			return err
		}
		return q.data(orEmpty(values), partial(&st)...)
	}
	return a.namesOf(q, sel, start, end, func(ls wire.Labels, add func(string)) {
		if v := ls.Get(q.name); v != "" {
			add(v)
		}
	})
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// streamsAsked reads the parameters of a question about streams. The filter is nil when all are asked for.
func (q *request) streamsAsked(must bool) (start, end int64, f *query.Filter, err error) {
	if start, end, err = q.span(lookback); err != nil {
		return 0, 0, nil, err
	}
	if end == start {
		end++ // the store takes times before the end, and days at a time
	}
	sel, err := q.selector(must)
	if err != nil || sel == nil {
		return start, end, nil, err
	}
	f, err = filterOf(sel)
	return start, end, f, err
}

// namesOf collects names or values from the streams that a filter leaves.
func (a *API) namesOf(q *request, f *query.Filter, start, end int64, each func(ls wire.Labels, add func(string))) error {
	found, err := a.opts.Store.Series(q.ctx(), f, start, end)
	if err != nil || a.elsewhere(q, found.Stats.Partial) {
		return err
	}
	set := map[string]struct{}{}
	for i := range found.Streams {
		each(found.Streams[i].Labels, func(s string) { set[s] = struct{}{} })
	}
	names := slices.Sorted(maps.Keys(set))
	warnings := partial(&found.Stats)
	if found.More || len(names) > maxNames {
		warnings = append(warnings, fmt.Sprintf("there are more than %d streams or %d names: not all are here", logstore.MaxSeries, maxNames))
	}
	return q.data(orEmpty(names[:min(len(names), maxNames)]), warnings...)
}

// series answers series: the labels of streams that any of the selectors selects.
func (a *API) series(q *request) error {
	start, end, err := q.span(lookback)
	if err != nil {
		return err
	}
	if end == start {
		end++
	}
	asked := append(append([]string{}, q.form["match[]"]...), q.form["match"]...)
	if len(asked) > MaxSelectors {
		return badf("match[] is given %d times, at most %d are allowed", len(asked), MaxSelectors)
	}
	any := make([]*query.Filter, 0, len(asked))
	var read syntax.Reader // of all of them
	for _, text := range asked {
		if text == "{}" {
			any = append(any, query.All())
			continue
		}
		sel, err := selectorOf(&read, text)
		if err != nil {
			return err
		}
		f, err := filterOf(sel)
		if err != nil {
			return err
		}
		any = append(any, f)
	}
	f := query.All()
	if len(any) > 0 {
		f = query.Or(any...)
	}
	found, err := a.opts.Store.Series(q.ctx(), f, start, end)
	if err != nil || a.elsewhere(q, found.Stats.Partial) {
		return err
	}
	w := q.begin()
	w.text(`{"status":"success","data":[`)
	var last wire.Labels
	for i := range found.Streams {
		ls := found.Streams[i].Labels
		if i > 0 && slices.Equal(ls, last) { // a stream of events with the labels of one of lines
			continue
		}
		if i > 0 {
			w.text(`,`)
		}
		last = ls
		w.json(ls.Map())
		w.spill()
	}
	w.text(`]`)
	warnings := partial(&found.Stats)
	if found.More {
		warnings = append(warnings, fmt.Sprintf("there are more than %d streams: not all are here", logstore.MaxSeries))
	}
	w.warnings(warnings)
	w.text("}\n")
	w.flush()
	return nil
}
