package agent

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/agent/gatewaytest"
	"github.com/triward/triward/agent/sender"
	"github.com/triward/triward/agent/wire"
)

// rig is a whole agent, on a real disk, against gateways in memory and virtual time.
type rig struct {
	t       *testing.T
	dir     string
	cluster *gatewaytest.Cluster
	gateway *gatewaytest.Gateway
	stop    func() error
	agent   *Agent
	adjust  func(c *config.Config) // the configuration of the next start; may be nil
	hangs   chan struct{}          // gathering metrics waits until it is closed; may be nil
}

func (r *rig) config() config.Config {
	c := config.Default()
	c.DataDir = filepath.Join(r.dir, "data")
	c.Logs.Files = []config.FileGroup{{Include: []string{filepath.Join(r.dir, "logs", "*.log")}}}
	c.Logs.InitialBacklog = 8 << 20
	c.Journal.Enabled = "false"
	c.Events.Enabled = false
	c.Status.Listen = "0"
	if r.adjust != nil {
		r.adjust(&c)
	}
	return c
}

func (r *rig) start() {
	r.t.Helper()
	reg := prometheus.NewRegistry()
	g := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "test_clock"}, func() float64 {
		if r.hangs != nil {
			<-r.hangs
		}
		return float64(time.Now().Unix())
	})
	reg.MustRegister(g)
	a, err := New(Options{
		Config: r.config(), Version: "v0", Gatherer: reg,
		Identity:  sender.Identity{AgentID: gatewaytest.Agent, Hostname: "enrolled", Nodes: []string{"https://a", "https://b"}},
		Transport: gatewaytest.Transport{"a": r.gateway, "b": r.gateway},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r.agent = a
	r.stop = func() error { cancel(); return <-done }
}

func run(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := gatewaytest.New()
		r := &rig{t: t, dir: t.TempDir(), cluster: c, gateway: &gatewaytest.Gateway{Cluster: c}}
		if err := os.MkdirAll(filepath.Join(r.dir, "logs"), 0o700); err != nil {
			t.Fatal(err)
		}
		fn(t, r)
	})
}

func (r *rig) write(text string) {
	r.t.Helper()
	f, err := os.OpenFile(filepath.Join(r.dir, "logs", "a.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestAgent(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.write("ERROR one\n")
		r.start()
		time.Sleep(46 * time.Second)
		r.write("last words\n")
		time.Sleep(600 * time.Millisecond) // read, not yet spooled
		st := r.agent.Status()
		if !st.Connected || st.Files != 1 || st.LastFailure != "" {
			t.Errorf("status %+v", st)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if got := strings.Join(c.Texts("source", "file"), "|"); got != "ERROR one|last words" {
				t.Errorf("lines %q", got)
			}
			s := c.Series("test_clock")
			if len(s) != 3 {
				t.Errorf("samples %v", s)
			}
			for ts, v := range s {
				if ts%15000 != 0 || ts != int64(v)*1000 {
					t.Errorf("sample at %d has value %v", ts, v)
				}
			}
			if len(c.Series("triward_agent_connected")) != 3 {
				t.Error("the agent's own metrics are missing")
			}
			events := c.Texts("source", "agent")
			if len(events) != 2 || !strings.Contains(events[0], "started") || !strings.Contains(events[1], "stops") {
				t.Errorf("events %q", events)
			}
			for _, l := range c.Lines {
				if (l.Labels["source"] == "agent") != (l.Kind == wire.StreamEvent) {
					t.Errorf("line of kind %d: %v", l.Kind, l.Labels)
				}
				if l.Labels["agent"] != gatewaytest.Agent || l.Labels["host"] != "enrolled" {
					t.Errorf("a node has to write the batch with %v anew", l.Labels)
				}
			}
			if c.Beats < 5 || c.LastBeat["spool_batches"] == nil {
				t.Errorf("%d heartbeats, the last %v", c.Beats, c.LastBeat)
			}
		})
	})
}

// TestFileWhoseNameIsNoText: its lines and those of the other files arrive, once.
func TestFileWhoseNameIsNoText(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		strange := filepath.Join(r.dir, "logs", "\xb2\xe2.log")
		for i := range 2 {
			if err := os.WriteFile(strange, []byte("strange\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			r.write(fmt.Sprintf("plain %d\n", i))
			r.start()
			time.Sleep(time.Minute)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if got := strings.Join(c.Texts("source", "file"), "|"); got != "strange|plain 0|plain 1" && got != "plain 0|strange|plain 1" {
				t.Errorf("lines %q", got)
			}
			if got := c.Texts("file", filepath.Join(r.dir, "logs", `\xb2\xe2.log`)); len(got) != 1 {
				t.Errorf("lines under the label of the file: %q", got)
			}
		})
		if n := r.agent.sender.Counters.Rejected.Load(); n != 0 {
			t.Errorf("%d lines rejected", n)
		}
	})
}

// TestLedger: lines with numbers, a gateway that loses answers, refuses and disappears, restarts of the agent: each
// line arrives exactly once, in order.
func TestLedger(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				odds := rand.New(rand.NewPCG(seed, 2)) // the gateway's own
				var mode atomic.Int64
				r.gateway.Fail(func(*http.Request) (before, after *gatewaytest.Fault) {
					switch {
					case mode.Load() == 1 && odds.IntN(3) == 0:
						return nil, &gatewaytest.Fault{}
					case mode.Load() == 2:
						return &gatewaytest.Fault{}, nil
					case mode.Load() == 3 && odds.IntN(2) == 0:
						return &gatewaytest.Fault{Code: 503, RetryAfter: "1"}, nil
					case mode.Load() == 4 && odds.IntN(2) == 0:
						return nil, &gatewaytest.Fault{Code: 503}
					}
					return nil, nil
				})
				n := 0
				r.start()
				for range 40 {
					mode.Store(rnd.Int64N(5))
					for range rnd.IntN(50) {
						n++
						r.write(fmt.Sprintf("line %d\n", n))
					}
					time.Sleep(time.Duration(rnd.IntN(20)) * time.Second)
					if rnd.IntN(5) == 0 {
						if err := r.stop(); err != nil {
							t.Fatal(err)
						}
						r.start()
					}
				}
				mode.Store(0)
				time.Sleep(2 * time.Minute)
				if err := r.stop(); err != nil {
					t.Fatal(err)
				}
				r.cluster.Do(func(c *gatewaytest.Cluster) {
					got := c.Texts("source", "file")
					var want []string
					for i := range n {
						want = append(want, fmt.Sprintf("line %d", i+1))
					}
					if !slices.Equal(got, want) {
						t.Errorf("%d lines delivered, %d written", len(got), n)
					}
					if c.DoubleT != 0 {
						t.Errorf("%d samples came twice", c.DoubleT)
					}
				})
			})
		})
	}
}

func TestDamagedSpoolIsToldAndAgentStarts(t *testing.T) {
	overwritten := func(dir string) error { return os.WriteFile(filepath.Join(dir, "epoch"), []byte("x"), 0o600) }
	unreadable := func(dir string) error { // as a bad sector is: a folder gives a read error
		return errors.Join(os.Remove(filepath.Join(dir, "series")), os.Mkdir(filepath.Join(dir, "series"), 0o700))
	}
	for _, damage := range []func(string) error{overwritten, unreadable} {
		testDamage(t, damage)
	}
}

func testDamage(t *testing.T, damage func(dir string) error) {
	t.Helper()
	run(t, func(t *testing.T, r *rig) {
		r.write("one\n")
		r.start()
		time.Sleep(time.Minute)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if err := damage(filepath.Join(r.dir, "data", "spool")); err != nil {
			t.Fatal(err)
		}
		r.write("two\n")
		r.start()
		time.Sleep(time.Minute)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.cluster.Do(func(c *gatewaytest.Cluster) {
			if got := strings.Join(c.Texts("source", "file"), "|"); got != "one|two" {
				t.Errorf("lines %q", got)
			}
			if c.LastBeat["spool_damaged"] == nil || c.Epochs() != 2 {
				t.Errorf("heartbeat %v, %d epochs", c.LastBeat, c.Epochs())
			}
			if events := strings.Join(c.Texts("source", "agent"), "|"); !strings.Contains(events, "damaged") {
				t.Errorf("events %q", events)
			}
		})
	})
}

// TestOverTLS registers and sends over a real TLS connection with HTTP/2, and refuses a server of another CA.
func TestOverTLS(t *testing.T) {
	var protos []string
	g := &gatewaytest.Gateway{Cluster: gatewaytest.New()}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		protos = append(protos, q.Proto)
		g.ServeHTTP(w, q)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	rt, err := sender.NewTransport(ca, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.CloseIdleConnections()
	host := DescribeHost("v0")
	id, err := sender.NewClient(rt).Enroll(t.Context(), srv.URL, gatewaytest.Token, host)
	if err != nil || id.AgentID != gatewaytest.Agent {
		t.Fatalf("%+v: %v", id, err)
	}
	if len(protos) != 1 || protos[0] != "HTTP/2.0" {
		t.Errorf("protocols %q", protos)
	}
	for _, bad := range []struct{ ca, name string }{{"", ""}, {ca, "other.example.org"}} {
		rt, err := sender.NewTransport(bad.ca, bad.name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bad.name == "other.example.org" {
			rt.TLSClientConfig.ServerName = "wrong.invalid"
		}
		if _, err := sender.NewClient(rt).Enroll(t.Context(), srv.URL, gatewaytest.Token, host); err == nil ||
			!strings.Contains(err.Error(), "certificate") {
			t.Errorf("a server that cannot be trusted: %v", err)
		}
		rt.CloseIdleConnections()
	}
	if _, err := sender.NewTransport("no PEM", "", nil); err == nil {
		t.Error("a CA without a certificate was taken")
	}
}
