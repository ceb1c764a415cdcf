package intake

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
)

const (
	// shards is how many sources hold the series of all senders. A source may have as many series as an agent
	// (50,000), so together they may have 3.2 million. The number is part of what the state holds: with another one,
	// series would be asked for under a source that does not own them.
	shards = 64
	// sourceOfLines delivers lines and events: nothing is owned there.
	sourceOfLines = "push:lines"

	samplesPerBody = 8000 // 160 KB at most
	setsPerCommand = 1000
	bytesPerSets   = 100 << 10
)

// shardOf returns which source the series with this key belongs to. It must never change.
func shardOf(key string) uint8 { return uint8(wire.HashContent([]byte(key)) % shards) }

// sourceOf is the name of a shard in the log. The colon keeps it from being an agent's id.
func sourceOf(shard uint8) string { return fmt.Sprintf("push:%02d", shard) }

// sample is one of a series of the request.
type sample struct {
	series int32
	t      int64 // ms
	v      float64
}

// series is a label set of the request.
type series struct {
	key   string
	shard uint8
	id    uint64 // 0: not known, or refused
}

// samplePush collects the samples of one request.
type samplePush struct {
	in      *Intake
	agent   Agent // who sends, when it is one of ours: it owns its series
	series  []series
	samples []sample
	tally
}

// add makes room for a series and returns its place.
func (p *samplePush) add(key string) int32 {
	s := series{key: key}
	if p.agent.ID == "" {
		s.shard = shardOf(key)
	}
	p.series = append(p.series, s)
	return int32(len(p.series) - 1)
}

// source is whose the series of a shard are.
func (p *samplePush) source(shard uint8) string {
	if p.agent.ID != "" {
		return p.agent.ID
	}
	return sourceOf(shard)
}

// push registers what is not known and delivers everything. The error is one of the log; what was refused is in the
// tally.
func (p *samplePush) push(ctx context.Context) error {
	if len(p.samples) == 0 {
		return nil
	}
	all := make([]int32, len(p.series))
	for i := range all {
		all[i] = int32(i)
	}
	if err := p.resolve(ctx, all); err != nil {
		return err
	}
	again, err := p.deliver(ctx, p.samples)
	if err != nil || len(again) == 0 {
		return err
	}
	// Series that were collected since they were cached: their ids are of nobody now.
	var stale []int32
	for _, s := range again {
		if sr := &p.series[s.series]; sr.id != 0 {
			p.in.ids.drop(sr.key)
			sr.id = 0
			stale = append(stale, s.series)
		}
	}
	if err := p.resolve(ctx, stale); err != nil {
		return err
	}
	if again, err = p.deliver(ctx, again); err == nil && len(again) > 0 {
		err = problem.New(http.StatusServiceUnavailable, "series were removed while their samples were on the way").
			WithRetryAfter(time.Second)
	}
	return err
}

// resolve finds the ids of the series at these places, asking the log for those that the cache lacks.
func (p *samplePush) resolve(ctx context.Context, places []int32) error {
	var missing []int32
	for _, i := range places {
		s := &p.series[i]
		if id, ok := p.in.ids.get(s.key); ok {
			s.id = id
			continue
		}
		missing = append(missing, i)
	}
	if len(missing) == 0 {
		return nil
	}
	slices.SortStableFunc(missing, func(a, b int32) int { return cmp.Compare(p.series[a].shard, p.series[b].shard) })
	p.in.met.learnt.Add(float64(len(missing)))
	var cmds []command.Command
	var groups [][]int32
	for from := 0; from < len(missing); {
		shard, to, size := p.series[missing[from]].shard, from, 0
		var sets []wire.Labels
		for to < len(missing) && len(sets) < setsPerCommand && (size == 0 || size < bytesPerSets) && p.series[missing[to]].shard == shard {
			key := p.series[missing[to]].key
			ls, _, err := wire.LabelsFromKey([]byte(key))
			if err != nil {
				return fmt.Errorf("labels of a series: %w", err)
			}
			sets = append(sets, ls)
			size += len(key)
			to++
		}
		cmds = append(cmds, command.NewRegisterSeries(p.source(shard), sets))
		groups = append(groups, missing[from:to])
		from = to
	}
	results, err := p.in.propose(ctx, cmds)
	if err != nil {
		return err
	}
	for g := range results {
		if err := p.registered(groups[g], &results[g]); err != nil {
			return err
		}
	}
	return nil
}

// registered takes the ids of a group, or refuses all samples of its series.
func (p *samplePush) registered(group []int32, r *command.Result) error {
	switch r.Status {
	case command.StatusOK:
		if len(r.IDs) != len(group) {
			return fmt.Errorf("%d ids for %d label sets", len(r.IDs), len(group))
		}
		for k, i := range group {
			p.series[i].id = r.IDs[k]
			p.in.ids.put(p.series[i].key, r.IDs[k])
		}
		return nil
	case command.StatusLimit, command.StatusInvalid:
		reason := r.Detail
		if len(r.Items) > 0 {
			reason = r.Items[0].Reason
		}
		of := make(map[int32]int, len(group))
		for _, i := range group {
			of[i] = 0
		}
		for _, s := range p.samples {
			if n, ok := of[s.series]; ok {
				of[s.series] = n + 1
			}
		}
		for _, i := range group {
			p.refuse(of[i], p.name(i), reason)
		}
		return nil
	}
	return fmt.Errorf("register series: %s %s", r.Status, r.Detail)
}

// deliver delivers those samples whose series have an id and returns those that were not applied because an id is not
// of the source any more.
func (p *samplePush) deliver(ctx context.Context, samples []sample) (again []sample, err error) {
	ready := make([]sample, 0, len(samples))
	for _, s := range samples {
		if p.series[s.series].id != 0 {
			ready = append(ready, s)
		}
	}
	slices.SortStableFunc(ready, func(a, b sample) int {
		x, y := &p.series[a.series], &p.series[b.series]
		return cmp.Or(cmp.Compare(x.shard, y.shard), cmp.Compare(a.t, b.t), cmp.Compare(x.id, y.id))
	})
	// A series holds one sample at a time: of those in one request the first counts.
	n := len(ready)
	ready = slices.CompactFunc(ready, func(a, b sample) bool { return a.t == b.t && p.series[a.series].id == p.series[b.series].id })
	p.duplicates += n - len(ready)
	var cmds []command.Command
	var groups [][]sample
	for from := 0; from < len(ready); {
		shard, to := p.series[ready[from].series].shard, from
		for to < len(ready) && to-from < samplesPerBody && p.series[ready[to].series].shard == shard {
			to++
		}
		cmds = append(cmds, p.command(shard, ready[from:to]))
		groups = append(groups, ready[from:to])
		from = to
	}
	results, err := p.in.propose(ctx, cmds)
	if err != nil {
		return nil, err
	}
	for g := range results {
		switch r := &results[g]; r.Status {
		case command.StatusOK:
			p.accepted += int(r.Accepted)
			p.duplicates += int(r.Duplicates)
			p.delivered(groups[g], r)
		case command.StatusUnknownIDs:
			again = append(again, groups[g]...)
		case command.StatusLimit:
			p.refuse(len(groups[g]), p.name(groups[g][0].series), r.Detail)
		default:
			return nil, fmt.Errorf("deliver samples: %s %s", r.Status, r.Detail)
		}
	}
	return again, nil
}

func (p *samplePush) delivered(group []sample, r *command.Result) {
	for _, it := range r.Items {
		what := "a sample"
		if int(it.Item) < len(group) {
			s := group[it.Item]
			what = fmt.Sprintf("%s at %s", p.name(s.series), time.UnixMilli(s.t).UTC().Format(time.RFC3339))
		}
		p.refuse(1, what, it.Reason)
	}
	p.rejected += int(r.Rejected) - len(r.Items)
}

// command is the delivery of samples of one shard, sorted by time and id.
func (p *samplePush) command(shard uint8, samples []sample) command.Command {
	var scrapes []wire.Scrape
	for _, s := range samples {
		if n := len(scrapes); n == 0 || scrapes[n-1].T != s.t {
			scrapes = append(scrapes, wire.Scrape{T: s.t})
		}
		sc := &scrapes[len(scrapes)-1]
		sc.IDs = append(sc.IDs, p.series[s.series].id)
		sc.Values = append(sc.Values, s.v)
	}
	raw := wire.AppendMetrics(nil, scrapes)
	d := command.Deliver{Source: p.source(shard), Lane: wire.LaneMetrics, RawLen: len(raw)}
	d.Codec, d.Body = p.in.opts.Coder.Compress(nil, raw)
	return command.NewDeliver(d)
}

// name is a series as people write it.
func (p *samplePush) name(i int32) string {
	ls, _, _ := wire.LabelsFromKey([]byte(p.series[i].key))
	return labelText(ls)
}

// labelText writes labels as Prometheus does.
func labelText(ls wire.Labels) string {
	out := ls.Get("__name__") + "{"
	for _, l := range ls {
		if l.Name == "__name__" {
			continue
		}
		if out[len(out)-1] != '{' {
			out += ", "
		}
		out += fmt.Sprintf("%s=%q", l.Name, l.Value)
	}
	return out + "}"
}

// ours takes from foreign labels what would make them say that they are of an agent.
func ours(ls wire.Labels) wire.Labels {
	agent := ls.Get("agent")
	if agent == "" {
		return ls
	}
	name := "exported_agent"
	for ls.Get(name) != "" && len(name) < wire.MaxLabelName {
		name = "exported_" + name
	}
	return ls.With("agent", "").With(name, agent)
}
