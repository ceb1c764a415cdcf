package sender

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/gatewaytest"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

// rig is a spool, a cluster of two gateways without a network, and a sender between them.
type rig struct {
	t       *testing.T
	dir     string
	cluster *gatewaytest.Cluster
	a, b    *gatewaytest.Gateway
	sp      *spool.Spool
	coder   *wire.Coder
	s       *Sender
	reports []string
	stop    func()
	lines   int
	scrapes int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	coder, err := wire.NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	c := gatewaytest.New()
	r := &rig{
		t: t, dir: filepath.Join(t.TempDir(), "spool"), cluster: c, a: &gatewaytest.Gateway{Cluster: c},
		b: &gatewaytest.Gateway{Cluster: c}, coder: coder,
	}
	r.open()
	return r
}

func (r *rig) open() {
	r.t.Helper()
	sp, err := spool.Open(r.dir, spool.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.sp = sp
}

// run starts a sender; stop it before the spool is closed.
func (r *rig) run(urls ...string) {
	if len(urls) == 0 {
		urls = []string{"https://a"}
	}
	r.s = New(Config{
		Identity: Identity{AgentID: gatewaytest.Agent}, Nodes: urls,
		Transport: gatewaytest.Transport{"a": r.a, "b": r.b}, Spool: r.sp, Coder: r.coder,
		Report: func(kind, text string) { r.reports = append(r.reports, kind+": "+text) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.s.Run(ctx); err != nil {
			r.t.Errorf("run: %v", err)
		}
	})
	r.stop = func() { cancel(); wg.Wait() }
}

// restart is a kill of the process: what is not in the spool is gone.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	if err := r.sp.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
	r.run()
}

func (r *rig) addLines(n int) {
	r.t.Helper()
	for range n {
		r.lines++
		raw := wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{
			Kind:   wire.StreamLog,
			Labels: wire.Labels{{Name: "source", Value: "test"}}, Lines: []wire.LogLine{{
				T:    int64(r.lines),
				Text: fmt.Appendf(nil, "line %d", r.lines),
			}},
		}}})
		r.append(wire.LaneLogs, raw)
	}
}

func (r *rig) append(lane wire.Lane, raw []byte) {
	r.t.Helper()
	c := spool.Content{Hash: wire.HashContent(raw), RawLen: len(raw), Items: 1}
	c.Codec, c.Body = r.coder.Compress(nil, raw)
	if err := r.sp.Append(lane, c); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) addScrape(names ...string) {
	r.t.Helper()
	r.scrapes++
	sc := wire.Scrape{T: int64(r.scrapes) * 15000}
	for _, name := range names {
		n, err := r.sp.Number(wire.Labels{{Name: "__name__", Value: name}}.AppendKey(nil))
		if err != nil {
			r.t.Fatal(err)
		}
		sc.IDs = append(sc.IDs, n)
	}
	slices.Sort(sc.IDs)
	for _, n := range sc.IDs {
		sc.Values = append(sc.Values, float64(n)*1000+float64(r.scrapes))
	}
	r.append(wire.LaneMetrics, wire.AppendMetrics(nil, []wire.Scrape{sc}))
}

// delivered waits (virtual time) until nothing is pending.
func (r *rig) delivered() {
	r.t.Helper()
	for range 600 {
		synctest.Wait()
		if !r.sp.Pending() {
			return
		}
		time.Sleep(time.Second)
	}
	r.t.Fatalf("not delivered in ten minutes, last failure %q, spool %+v", r.s.LastFailure(), r.sp.Stats())
}

// exact checks that the cluster holds every line once and in order, and every sample.
func (r *rig) exact() {
	r.t.Helper()
	r.cluster.Do(func(c *gatewaytest.Cluster) {
		got := c.Texts("source", "test")
		if len(got) != r.lines {
			r.t.Errorf("%d lines delivered, %d spooled", len(got), r.lines)
		}
		for i, text := range got {
			if text != fmt.Sprintf("line %d", i+1) {
				r.t.Fatalf("line %d is %q", i+1, text)
			}
		}
		if c.DoubleT != 0 {
			r.t.Errorf("%d samples came twice", c.DoubleT)
		}
	})
}

func virtual(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		fn(t, r)
		if r.stop != nil {
			r.stop()
		}
		if err := r.sp.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestDelivery(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.addLines(200)
		for range 5 {
			r.addScrape("b", "a", "c")
		}
		r.run()
		r.delivered()
		r.addLines(3) // while connected
		r.delivered()
		r.exact()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			for i, name := range []string{"b", "a", "c"} {
				for k, s := 1, c.Series(name); k <= 5; k++ {
					if s[int64(k)*15000] != float64(i+1)*1000+float64(k) {
						t.Errorf("series %s: %v", name, s)
					}
				}
			}
			if c.Hellos != 2 || c.Registered != 3 || c.Duplicates != 0 {
				t.Errorf("%d hellos, %d series registered, %d duplicates", c.Hellos, c.Registered, c.Duplicates)
			}
		})
	})
}

// TestLostAnswers: each third answer is lost after the batches were applied.
func TestLostAnswers(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		n := 0
		r.a.Fail(func(q *http.Request) (before, after *gatewaytest.Fault) {
			if n++; n%3 == 0 {
				return nil, &gatewaytest.Fault{}
			}
			return nil, nil
		})
		r.run()
		for range 30 {
			r.addLines(7)
			r.addScrape("a", "b")
			time.Sleep(time.Second)
		}
		r.delivered()
		r.exact()
		if r.s.Counters.NewEpochs.Load() != 0 {
			t.Error("a lost answer began a new epoch")
		}
	})
}

// TestKillAndRestart: the process dies again and again, also between an applied request and its answer.
func TestKillAndRestart(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.run()
		for i := range 20 {
			lose := i%2 == 0
			r.a.Fail(func(q *http.Request) (before, after *gatewaytest.Fault) {
				if lose && strings.HasSuffix(q.URL.Path, "/batches") {
					return nil, &gatewaytest.Fault{}
				}
				return nil, nil
			})
			r.addLines(9)
			r.addScrape("a", "b")
			synctest.Wait()
			r.restart()
		}
		r.a.Fail(nil)
		r.delivered()
		r.exact()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if c.Epochs() != 1 {
				t.Errorf("%d epochs", c.Epochs())
			}
			if len(c.Series("a")) != 20 {
				t.Errorf("series a has %d samples", len(c.Series("a")))
			}
		})
	})
}

func TestFailOver(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		down := func(*http.Request) (before, after *gatewaytest.Fault) { return &gatewaytest.Fault{}, nil }
		r.run("https://a", "https://b", "https://nowhere")
		for i := range 6 {
			if i%2 == 0 {
				r.a.Fail(down)
				r.b.Fail(nil)
			} else {
				r.b.Fail(down)
				r.a.Fail(nil)
			}
			r.addLines(5)
			start := time.Now()
			r.delivered()
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("fail-over took %s", d)
			}
		}
		r.exact()
	})
}

func TestRetryAfter(t *testing.T) {
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInsufficientStorage} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			virtual(t, func(t *testing.T, r *rig) {
				var times []time.Time
				r.a.Fail(func(q *http.Request) (before, after *gatewaytest.Fault) {
					if strings.HasSuffix(q.URL.Path, "/batches") && len(times) < 3 {
						times = append(times, time.Now())
						return &gatewaytest.Fault{Code: code, RetryAfter: "7"}, nil
					}
					return nil, nil
				})
				r.addLines(1)
				r.run()
				r.delivered()
				r.exact()
				for i := 1; i < len(times); i++ {
					if d := times[i].Sub(times[i-1]); d < 7*time.Second || d > 10*time.Second {
						t.Errorf("tried again after %s, asked were 7 s", d)
					}
				}
			})
		})
	}
}

func TestBackoffIsBounded(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		n := 0
		r.a.Fail(func(*http.Request) (before, after *gatewaytest.Fault) { n++; return &gatewaytest.Fault{}, nil })
		r.addLines(1)
		r.run()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n < 40 || n > 120 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		r.a.Fail(nil)
		start := time.Now()
		r.delivered()
		if d := time.Since(start); d > 16*time.Second {
			t.Errorf("delivered %s after the node came back", d)
		}
	})
}

func TestUnknownIDsAreRegisteredAgain(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.run()
		r.addScrape("a", "b")
		r.delivered()
		r.cluster.Do(func(c *gatewaytest.Cluster) { c.ForgetSeries() })
		r.addScrape("a", "b")
		r.addLines(2)
		r.delivered()
		r.exact()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if c.Registered != 4 {
				t.Errorf("%d registrations", c.Registered)
			}
		})
	})
}

func TestRefusedSeriesIsLeftOut(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.cluster.RefuseSeries = func(ls map[string]string) bool { return ls["__name__"] == "bad" }
		r.run()
		r.addScrape("a", "bad", "c")
		r.delivered()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if c.SampleCount() != 2 || r.s.Counters.LeftOut.Load() != 1 {
				t.Errorf("%d samples, %d left out", c.SampleCount(), r.s.Counters.LeftOut.Load())
			}
		})
	})
}

// TestRefusedBatchDoesNotStopItsLane: the batch is kept aside, an empty one goes in its place.
func TestRefusedBatchDoesNotStopItsLane(t *testing.T) {
	for _, status := range []string{"invalid", "limit"} {
		t.Run(status, func(t *testing.T) {
			virtual(t, func(t *testing.T, r *rig) {
				r.cluster.Refuse = func(b *wire.Batch) string {
					if b.Lane == wire.LaneLogs && b.Seq == 3 && b.RawLen > 5 {
						return status
					}
					return ""
				}
				r.addLines(5)
				r.run()
				r.delivered()
				r.cluster.Do(func(c *gatewaytest.Cluster) {
					got := strings.Join(c.Texts("source", "test"), ",")
					if got != "line 1,line 2,line 4,line 5" || c.Epochs() != 1 {
						t.Errorf("delivered %s in %d epochs", got, c.Epochs())
					}
				})
				if len(r.reports) != 1 || !strings.HasPrefix(r.reports[0], "set-aside") {
					t.Errorf("reports %q", r.reports)
				}
			})
		})
	}
}

func holds(q *http.Request, text string) bool {
	body, err := q.GetBody()
	if err != nil {
		return false
	}
	b := make([]byte, q.ContentLength)
	n, _ := body.Read(b)
	return strings.Contains(string(b[:n]), text)
}

// TestEpochEnds: whatever ends an epoch, nothing is lost and nothing doubled.
func TestEpochEnds(t *testing.T) {
	ends := map[string]func(c *gatewaytest.Cluster, e wire.Epoch){
		"closed":  func(c *gatewaytest.Cluster, e wire.Epoch) { c.CloseEpoch(e) },
		"unknown": func(c *gatewaytest.Cluster, e wire.Epoch) { c.Forget(e) },
	}
	for name, end := range ends {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s lost=%v", name, lost), func(t *testing.T) {
				if name == "unknown" && lost {
					return // a cluster that forgot an epoch forgot what it took of it too
				}
				virtual(t, func(t *testing.T, r *rig) {
					r.run()
					r.addLines(4)
					r.delivered()
					if lost { // the answer to the last batches before the end is lost
						r.a.Fail(func(q *http.Request) (before, after *gatewaytest.Fault) { return nil, &gatewaytest.Fault{} })
						r.addLines(3)
						time.Sleep(5 * time.Second)
					}
					r.cluster.Do(func(c *gatewaytest.Cluster) { end(c, r.sp.Epoch()) })
					r.a.Fail(nil)
					r.addLines(5)
					r.delivered()
					r.exact()
					if n := r.s.Counters.NewEpochs.Load(); n != 1 {
						t.Errorf("%d new epochs", n)
					}
				})
			})
		}
	}
}

// TestDiskWentBack: the machine was restored from an image taken before batches were sent; what it spools anew must
// not vanish as a repeat of what it sent then.
func TestDiskWentBack(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.run()
		r.addLines(4)
		r.delivered()
		r.stop()
		r.cluster.Do(func(c *gatewaytest.Cluster) { c.Advance(r.sp.Epoch(), wire.LaneLogs, 10) })
		if err := r.sp.Close(); err != nil {
			t.Fatal(err)
		}
		r.open()
		r.addLines(3)
		r.run()
		r.delivered()
		r.exact()
	})
}

// TestCloned: two machines with copies of one spool; the second finds out and goes on under an epoch of its own.
func TestCloned(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.run()
		r.addLines(4)
		r.delivered()
		r.cluster.Do(func(c *gatewaytest.Cluster) { c.Advance(r.sp.Epoch(), wire.LaneLogs, 1) })
		r.addLines(3)
		r.addScrape("a")
		r.delivered()
		r.exact()
		if len(r.reports) == 0 || !strings.Contains(r.reports[0], "cloned") {
			t.Errorf("reports %q", r.reports)
		}
	})
}

// TestEpochsAreNotBurnt: a twin that closes our epoch again and again gets us to slow down, and nothing is lost.
func TestEpochsAreNotBurnt(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.run()
		for range 600 {
			r.addLines(1)
			time.Sleep(time.Second)
			r.cluster.Do(func(c *gatewaytest.Cluster) { c.CloseEpoch(r.sp.Epoch()) })
		}
		r.delivered()
		r.exact()
		if n := r.s.Counters.NewEpochs.Load(); n < 3 || n > 20 {
			t.Errorf("%d new epochs in ten minutes", n)
		}
	})
}

// TestSeriesLimit: a cluster that takes no more series is not asked for each one.
func TestSeriesLimit(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.cluster.RefuseSeries = func(ls map[string]string) bool { return ls["__name__"] != "a" }
		calls := 0
		r.a.Fail(func(q *http.Request) (before, after *gatewaytest.Fault) {
			if strings.HasSuffix(q.URL.Path, "/series") {
				calls++
			}
			return nil, nil
		})
		names := []string{"a"}
		for i := range 1000 {
			names = append(names, fmt.Sprintf("x%d", i))
		}
		r.addScrape(names...)
		r.run()
		r.delivered()
		synctest.Wait()
		if calls > 80 {
			t.Errorf("%d calls", calls)
		}
	})
}

func TestRefusalIsSaid(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.cluster.Strange = true
		s := New(Config{
			Identity: Identity{AgentID: gatewaytest.Agent}, Nodes: []string{"https://a"},
			Transport: gatewaytest.Transport{"a": r.a}, Spool: r.sp, Coder: r.coder,
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
		if !strings.Contains(s.LastFailure(), "revoked") {
			t.Errorf("last failure %q", s.LastFailure())
		}
	})
}

func TestHeartbeat(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.run()
		r.stop()
		s := New(Config{
			Identity: Identity{AgentID: gatewaytest.Agent}, Nodes: []string{"https://a"},
			Transport: gatewaytest.Transport{"a": r.a}, Spool: r.sp, Coder: r.coder,
			Heartbeat: func() any { return map[string]any{"version": "v1"} },
		})
		ctx, cancel := context.WithTimeout(context.Background(), 65*time.Second)
		defer cancel()
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if c.Beats != 7 || c.LastBeat["version"] != "v1" {
				t.Errorf("%d beats, %v", c.Beats, c.LastBeat)
			}
		})
	})
}

func TestNodesAreLearned(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.cluster.Nodes = []string{"https://a", "https://b", "not an address"}
		r.run()
		synctest.Wait()
		if got := r.s.nodes.urls(); !slices.Equal(got, []string{"https://a", "https://b"}) {
			t.Errorf("nodes %q", got)
		}
	})
}

func TestCheckURL(t *testing.T) {
	for u, good := range map[string]bool{
		"https://h:8001": true, "http://127.0.0.1:1": true, "http://[::1]:1": true,
		"http://h:8001": false, "h:8001": false, "https://h/x": false, "ftp://h": false,
	} {
		if err := CheckURL(u); (err == nil) != good {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestEnroll(t *testing.T) {
	g := &gatewaytest.Gateway{Cluster: gatewaytest.New()}
	c := NewClient(gatewaytest.Transport{"a": g})
	id, err := c.Enroll(t.Context(), "https://a", gatewaytest.Token, Host{Hostname: "h"})
	if err != nil || id.AgentID != gatewaytest.Agent || id.Hostname != "h" {
		t.Fatalf("%+v, %v", id, err)
	}
	path := filepath.Join(t.TempDir(), "d", "identity.json")
	if err := id.Save(path); err != nil {
		t.Fatal(err)
	}
	again, err := LoadIdentity(path)
	if err != nil || again.Key != id.Key {
		t.Errorf("%+v, %v", again, err)
	}
	var se *StatusError
	if _, err := c.Enroll(t.Context(), "https://a", "wrong", Host{Hostname: "h"}); !errors.As(err, &se) || se.Code != 401 {
		t.Errorf("wrong token: %v", err)
	}
	if _, err := LoadIdentity(path + "x"); !errors.Is(err, ErrNotRegistered) {
		t.Errorf("no identity: %v", err)
	}
}
