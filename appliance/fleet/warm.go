package fleet

import (
	"context"
	"math"
	"time"
)

// sparkQueries make the sparklines of all hosts at once, in the order of sparkNames, with the meaning that figures
// has.
var sparkQueries = [4]string{
	`100 * (1 - avg by (agent) (rate(node_cpu_seconds_total{mode="idle"}[1m])))`,
	`100 * (1 - sum by (agent) (node_memory_MemAvailable_bytes) / sum by (agent) (node_memory_MemTotal_bytes))`,
	`sum by (agent) (rate(node_network_receive_bytes_total{device!="lo"}[1m])) + sum by (agent) (rate(node_network_transmit_bytes_total{device!="lo"}[1m]))`,
	`max by (agent) (node_load1)`,
}

const warmTimeout = 30 * time.Second

// warm fills the view from the stores. What Observe has seen meanwhile is newer and stays.
func (v *View) warm(ctx context.Context) {
	if v.cfg.Warmer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	newest := v.now()
	since := newest - SparkPoints*SparkStep
	n := 0
	err := v.cfg.Warmer.LatestSamples(ctx, since, func(id uint64, t int64, value float64) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.put(id, t, value)
		for _, h := range v.touched {
			h.touched = false
		}
		v.touched = v.touched[:0]
		newest = max(newest, t)
		n++
	})
	if err != nil {
		v.cfg.Log.Warn("newest samples were not read; the hosts view fills as samples arrive", "err", err)
	}
	if newest == 0 {
		return
	}
	v.mu.Lock()
	v.logTime = max(v.logTime, newest) // until the first entry tells the log time itself
	v.mu.Unlock()
	end := newest / SparkStep * SparkStep
	for line, query := range sparkQueries {
		result, err := v.cfg.Warmer.QueryRange(ctx, query, end-(SparkPoints-1)*SparkStep, end, SparkStep)
		if err != nil {
			v.cfg.Log.Warn("sparklines were not read; they fill as samples arrive", "line", sparkNames[line], "err", err)
			return
		}
		for i := range result {
			v.fill(line, &result[i])
		}
	}
	v.cfg.Log.Info("hosts view is warm", "series", n)
}

func (v *View) fill(line int, s *AgentSeries) {
	if s.Agent == "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.host(s.Agent)
	for i, t := range s.T {
		if !math.IsNaN(s.V[i]) && !math.IsInf(s.V[i], 0) {
			h.spark.fill(t, line, s.V[i])
		}
	}
}
