package sender

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/gatewaytest"
	"github.com/triward/triward/agent/wire"
)

// isBatches reports whether the request carries batches.
func isBatches(q *http.Request) bool { return strings.HasSuffix(q.URL.Path, "/batches") }

// refusing is a gateway that answers requests for which when holds with the fault.
func refusing(f gatewaytest.Fault, when func(q *http.Request) bool) func(*http.Request) (before, after *gatewaytest.Fault) {
	return func(q *http.Request) (before, after *gatewaytest.Fault) {
		if when(q) {
			return &f, nil
		}
		return nil, nil
	}
}

func poisoned(q *http.Request) bool { return isBatches(q) && holds(q, "line 4") }

// wantPoisonFound checks that line 4, and nothing else, was given up.
func (r *rig) wantPoisonFound() {
	r.t.Helper()
	r.cluster.Do(func(c *gatewaytest.Cluster) {
		if got := strings.Join(c.Texts("source", "test"), ","); got != "line 1,line 2,line 3,line 5,line 6" {
			r.t.Errorf("delivered %s", got)
		}
		if len(c.Series("a")) != r.scrapes {
			r.t.Errorf("%d scrapes of %d delivered", len(c.Series("a")), r.scrapes)
		}
	})
	if n := r.s.Counters.SetAside.Load(); n != 1 {
		r.t.Errorf("%d batches set aside", n)
	}
}

// TestPoisonedRequest: a whole request is refused for one batch, which is found and set aside once two nodes refused it.
func TestPoisonedRequest(t *testing.T) {
	for _, code := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity} {
		virtual(t, func(t *testing.T, r *rig) {
			r.a.Fail(refusing(gatewaytest.Fault{Code: code}, poisoned))
			r.b.Fail(refusing(gatewaytest.Fault{Code: code}, poisoned))
			r.addLines(6)
			for range 20 {
				r.addScrape("a")
			}
			start := time.Now()
			r.run("https://a", "https://b")
			r.delivered()
			r.wantPoisonFound()
			if d := time.Since(start); d < proofPause || d > 2*time.Minute {
				t.Errorf("%d: found after %s", code, d)
			}
		})
	}
}

// TestPoisonedRequestAtTheOnlyNode: one node is believed after it refused the same for minutes; other lanes go on.
func TestPoisonedRequestAtTheOnlyNode(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.a.Fail(refusing(gatewaytest.Fault{Code: http.StatusBadRequest}, poisoned))
		r.addLines(6)
		start := time.Now()
		r.run()
		for range 16 {
			time.Sleep(15 * time.Second)
			r.addScrape("a")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := r.s.Counters.SetAside.Load(); n != 0 {
			t.Errorf("%d batches set aside after four minutes", n)
		}
		if !strings.Contains(r.s.LastFailure(), "400") {
			t.Errorf("last failure %q", r.s.LastFailure())
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if len(c.Series("a")) != 16 {
				t.Errorf("%d scrapes delivered beside the suspect", len(c.Series("a")))
			}
		})
		r.delivered()
		r.wantPoisonFound()
		if d := time.Since(start); d < proofSpan {
			t.Errorf("found after %s", d)
		}
	})
}

// TestProblemThatNamesTheContent needs no second opinion.
func TestProblemThatNamesTheContent(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.a.Fail(refusing(gatewaytest.Fault{Code: http.StatusBadRequest, Type: TypeContent}, poisoned))
		r.addLines(6)
		start := time.Now()
		r.run()
		r.delivered()
		r.wantPoisonFound()
		if d := time.Since(start); d > time.Second {
			t.Errorf("found after %s", d)
		}
	})
}

// TestRefusalsOfANodeDestroyNothing: a node, or what stands before it, refuses every request for a while.
func TestRefusalsOfANodeDestroyNothing(t *testing.T) {
	for _, code := range []int{400, 408, 413, 422, 429, 500} {
		for _, nodes := range [][]string{{"https://a"}, {"https://a", "https://b"}} {
			if len(nodes) > 1 && !refusesContent(code) {
				continue
			}
			t.Run(fmt.Sprint(code, len(nodes)), func(t *testing.T) {
				virtual(t, func(t *testing.T, r *rig) {
					r.a.Fail(refusing(gatewaytest.Fault{Code: code}, isBatches))
					r.addLines(20)
					r.addScrape("a")
					r.run(nodes...)
					for range 4 {
						time.Sleep(time.Minute)
						r.addLines(5)
					}
					if len(nodes) == 1 {
						r.a.Fail(nil)
					}
					r.delivered()
					r.exact()
					if n := r.s.Counters.SetAside.Load() + r.s.Counters.LeftOut.Load(); n != 0 {
						t.Errorf("%d given up", n)
					}
				})
			})
		}
	}
}

// TestSettingAsideIsBounded: should all nodes refuse everything for an hour, little is given up. Whole requests are not
// believed any more once an empty batch is refused too.
func TestSettingAsideIsBounded(t *testing.T) {
	for how, most := range map[string]uint64{"whole": 1, "invalid": asideBurst + uint64(time.Hour/asideEvery) + 1} {
		t.Run(how, func(t *testing.T) {
			virtual(t, func(t *testing.T, r *rig) {
				switch how {
				case "whole":
					r.a.Fail(refusing(gatewaytest.Fault{Code: 400}, isBatches))
					r.b.Fail(refusing(gatewaytest.Fault{Code: 400}, isBatches))
				default:
					r.cluster.Refuse = func(b *wire.Batch) string {
						if b.RawLen > 5 {
							return how
						}
						return ""
					}
				}
				r.addLines(120)
				r.run("https://a", "https://b")
				time.Sleep(time.Hour)
				synctest.Wait()
				given := r.s.Counters.SetAside.Load()
				if given > most || given == 0 {
					t.Errorf("%d batches set aside in an hour, at most %d are allowed", given, most)
				}
				r.a.Fail(nil)
				r.b.Fail(nil)
				r.cluster.Do(func(c *gatewaytest.Cluster) { c.Refuse = nil })
				r.delivered()
				r.cluster.Do(func(c *gatewaytest.Cluster) {
					if got := uint64(len(c.Texts("source", "test"))); got != 120-r.s.Counters.SetAside.Load() {
						t.Errorf("%d lines delivered, %d set aside", got, r.s.Counters.SetAside.Load())
					}
				})
			})
		})
	}
}

// TestRegistrationRefusedByMistake: metrics wait, lines go on, and no sample is left out.
func TestRegistrationRefusedByMistake(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.a.Fail(refusing(gatewaytest.Fault{Code: 400}, func(q *http.Request) bool { return strings.HasSuffix(q.URL.Path, "/series") }))
		r.run()
		for range 8 {
			r.addScrape("a", "b", "c")
			r.addLines(3)
			time.Sleep(15 * time.Second)
		}
		synctest.Wait()
		r.exact()
		r.a.Fail(nil)
		r.delivered()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if c.SampleCount() != 24 || r.s.Counters.LeftOut.Load() != 0 {
				t.Errorf("%d samples, %d left out", c.SampleCount(), r.s.Counters.LeftOut.Load())
			}
		})
	})
}

// TestOnlySeriesIsBad: nothing else is registered beside it that would show whose fault it is.
func TestOnlySeriesIsBad(t *testing.T) {
	virtual(t, func(t *testing.T, r *rig) {
		r.a.Fail(refusing(gatewaytest.Fault{Code: 400}, func(q *http.Request) bool {
			return strings.HasSuffix(q.URL.Path, "/series") && holds(q, "bad")
		}))
		r.run()
		r.addScrape("a")
		r.delivered()
		r.addScrape("a", "bad")
		r.delivered()
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if len(c.Series("a")) != 2 || r.s.Counters.LeftOut.Load() != 1 {
				t.Errorf("series a has %d samples, %d left out", len(c.Series("a")), r.s.Counters.LeftOut.Load())
			}
		})
	})
}
