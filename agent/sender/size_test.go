package sender

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/gatewaytest"
	"github.com/triward/triward/agent/wire"
)

// addNoise spools n batches of about size bytes that do not compress.
func (r *rig) addNoise(n, size int) {
	r.t.Helper()
	rnd := rand.NewChaCha8([32]byte{1})
	for range n {
		r.lines++
		text := make([]byte, size)
		_, _ = rnd.Read(text) // never fails, says its documentation
		r.append(wire.LaneLogs, wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{
			Kind: wire.StreamLog, Labels: wire.Labels{{Name: "source", Value: "noise"}}, Lines: []wire.LogLine{{T: 1, Text: text}},
		}}}))
	}
}

// TestRequestsKeepToWhatTheGatewayTakes: its hello says how long a request may be, whatever lanes and translation add.
func TestRequestsKeepToWhatTheGatewayTakes(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.cluster.RequestBytes, r.cluster.Takes = 100<<10, 100<<10
		r.addNoise(60, 30<<10)
		names := make([]string, 3000)
		for i := range names {
			names[i] = fmt.Sprintf("series_%d", i)
		}
		for range 60 {
			r.addScrape(names...)
		}
		r.addNoise(1, 90<<10)
		r.run()
		r.delivered()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if c.TooLong != 0 || len(c.Texts("source", "noise")) != 61 || len(c.Series("series_7")) != 60 {
				t.Errorf("%d requests were too long, %d lines, %d samples of a series", c.TooLong, len(c.Texts("source", "noise")), len(c.Series("series_7")))
			}
		})
	})
}

// TestSizeThatWasRefusedIsNotTriedAgain after each success.
func TestSizeThatWasRefusedIsNotTriedAgain(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.cluster.Takes = 200 << 10
		r.addNoise(200, 20<<10)
		r.run()
		r.delivered()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if c.TooLong > 8 || len(c.Texts("source", "noise")) != 200 {
				t.Errorf("%d requests were too long, %d lines", c.TooLong, len(c.Texts("source", "noise")))
			}
		})
		if n := r.s.Counters.Requests.Load(); n > 60 {
			t.Errorf("%d requests for 4 MB, of which each may have 200 KB", n)
		}
	})
}

// TestHelloLimits: what the gateway names is kept to, and never exceeded beyond our own bounds.
func TestHelloLimits(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.run()
		synctest.Wait()
		r.stop()
		s := r.s
		s.obey(&helloLimits{RequestBytes: 500_000, BatchesPerCall: 7, SeriesPerCall: 10})
		got := []int{s.bound(time.Now()), s.budget, s.count, s.ids.perCall}
		s.obey(&helloLimits{RequestBytes: 1 << 30, BatchesPerCall: 1 << 30, SeriesPerCall: 1 << 30})
		s.grow()
		s.grow()
		s.grow()
		s.grow()
		got = append(got, s.bound(time.Now()), s.budget, s.count, s.ids.perCall)
		if want := []int{500_000, 500_000, 7, 10, requestBytes, requestBytes, 64, wire.MaxSeriesPerCall}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}
