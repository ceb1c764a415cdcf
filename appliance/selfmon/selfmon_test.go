package selfmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/intake"
)

// sink is a cluster that may be without a leader.
type sink struct {
	mu      sync.Mutex
	down    error
	samples map[string]float64
	scrapes int
	lines   []string
	labels  map[string]string
	calls   int
	refuse  int          // of each call of Lines
	say     *slog.Logger // is told of every call, as a part of the node might
}

func (s *sink) Record(_ context.Context, _ int64, list []intake.Recorded) (int, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return 0, 0, s.down
	}
	s.scrapes++
	s.samples = make(map[string]float64)
	for _, r := range list {
		if r.Labels["host"] != "n1" || r.Labels["job"] != Job {
			return 0, 0, fmt.Errorf("labels %v", r.Labels)
		}
		s.samples[r.Labels["__name__"]] = r.Value
	}
	return len(list), 0, nil
}

func (s *sink) Lines(_ context.Context, labels map[string]string, lines []wire.LogLine) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.say != nil {
		s.say.Debug("stored", "lines", len(lines))
	}
	if s.down != nil {
		return 0, s.down
	}
	s.labels = labels
	for _, l := range lines[s.refuse:] {
		s.lines = append(s.lines, string(l.Text))
	}
	return len(lines) - s.refuse, nil
}

type bench struct {
	sink   *sink
	log    *slog.Logger
	stderr *strings.Builder
	buffer *Buffer
	m      *Monitor
	reg    *prometheus.Registry
}

func newBench(t *testing.T) *bench {
	b := &bench{sink: &sink{}, stderr: &strings.Builder{}, buffer: NewBuffer(), reg: prometheus.NewRegistry()}
	next := slog.NewTextHandler(b.stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
	b.log = slog.New(NewHandler(next, b.buffer))
	b.sink.say = b.log
	var err error
	b.m, err = New(Config{
		Node: "n1", Sink: b.sink, Gatherer: b.reg, Buffer: b.buffer, Quiet: slog.New(next), Registerer: b.reg, Ready: func() bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) dropped(kind string) float64 {
	return testutil.ToFloat64(b.m.dropped.WithLabelValues(kind))
}

func TestLinesAreStoredAsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.m.Start()
		defer b.m.Close()
		b.log.With("part", "raft").WithGroup("peer").Warn("election lost", "id", "n 2", "term", 7, slog.Group("at", "ok", true), "err", errors.New("no"))
		b.log.Debug("not stored")
		b.log.Info("plain")
		time.Sleep(3 * time.Second)
		synctest.Wait()
		want := []string{`election lost peer.id="n 2" peer.term=7 peer.at.ok=true peer.err=no part=raft`, "plain"}
		if fmt.Sprint(b.sink.lines) != fmt.Sprint(want) {
			t.Errorf("%q, want %q", b.sink.lines, want)
		}
		if fmt.Sprint(b.sink.labels) != "map[host:n1 job:triward source:triward]" {
			t.Errorf("labels %v", b.sink.labels)
		}
		if n := strings.Count(b.stderr.String(), "\n"); n < 3 || !strings.Contains(b.stderr.String(), "not stored") {
			t.Errorf("the node's log has\n%s", b.stderr)
		}
	})
}

// A node that cannot store what it says keeps a bounded part of it, says so once, and stores it later: storing makes no
// line by itself.
func TestANodeThatCannotWriteIsNotHurt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.sink.down = errors.New("no leader")
		b.m.Start()
		defer b.m.Close()
		for i := range 100 {
			b.log.Info("line", "n", i)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := strings.Count(b.stderr.String(), "own lines are not stored"); n != 1 {
			t.Errorf("said %d times that it cannot store lines", n)
		}
		for i := range 200_000 { // a flood, 100 lines a second
			b.log.Info("flood", "n", i)
			time.Sleep(10 * time.Millisecond)
		}
		b.buffer.mu.Lock()
		if len(b.buffer.lines) > maxWaiting || b.buffer.bytes > maxWaitingBytes {
			t.Errorf("%d lines of %d bytes wait", len(b.buffer.lines), b.buffer.bytes)
		}
		b.buffer.mu.Unlock()
		b.sink.mu.Lock()
		b.sink.down = nil
		b.sink.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(b.sink.lines) < 100 || len(b.sink.lines) > maxWaiting+10 || b.sink.lines[0] != "line n=0" {
			t.Errorf("%d lines were stored, the first %q", len(b.sink.lines), b.sink.lines[0])
		}
		if !strings.Contains(b.sink.lines[len(b.sink.lines)-1], "were not stored") {
			t.Errorf("nothing tells of what was lost: %q", b.sink.lines[len(b.sink.lines)-1])
		}
		if lost := b.dropped("lines"); lost < 100_000 {
			t.Errorf("%v lines are counted as lost", lost)
		}
		if b.dropped("samples") == 0 {
			t.Error("no samples are counted as lost")
		}
		calls, stored := b.sink.calls, len(b.sink.lines)
		time.Sleep(time.Hour)
		synctest.Wait()
		if b.sink.calls != calls || len(b.sink.lines) != stored {
			t.Errorf("%d calls and %d lines in an hour in which nothing was said", b.sink.calls-calls, len(b.sink.lines)-stored)
		}
	})
}

// What is refused for good is not given again.
func TestRefusedLinesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.sink.refuse = 1
		b.log.Info("refused") // both before it starts, so that they are given together
		b.log.Info("taken")
		b.m.Start()
		defer b.m.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		if fmt.Sprint(b.sink.lines) != "[taken]" || b.sink.calls != 1 || b.dropped("lines") != 1 {
			t.Errorf("%q in %d calls, %v dropped", b.sink.lines, b.sink.calls, b.dropped("lines"))
		}
	})
}

func TestMetricsAreChosenAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		some := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "triward_raft_term", Help: "h"}, []string{"host"})
		some.WithLabelValues("other").Set(7)
		took := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "triward_took_seconds", Help: "h"})
		took.Observe(2)
		foreign := prometheus.NewGauge(prometheus.GaugeOpts{Name: "prometheus_tsdb_odd", Help: "h"})
		b.reg.MustRegister(some, took, foreign)
		b.m.Start()
		defer b.m.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		s := b.sink.samples
		if s["up"] != 1 || s["triward_raft_term"] != 7 || s["triward_took_seconds_sum"] != 2 || s["triward_took_seconds_count"] != 1 {
			t.Errorf("%v", s)
		}
		if _, ok := s["prometheus_tsdb_odd"]; ok || len(s) > 10 {
			t.Errorf("stored %v", s)
		}
		if b.sink.scrapes < 4 || b.sink.scrapes > 5 {
			t.Errorf("%d times in a minute", b.sink.scrapes)
		}
		many := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "triward_many", Help: "h"}, []string{"of"})
		for i := range 2 * MaxSeries {
			many.WithLabelValues(fmt.Sprint(i)).Set(1)
		}
		b.reg.MustRegister(many)
		families, err := b.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		list, over := Samples("n1", families)
		if len(list) != MaxSeries || over < MaxSeries {
			t.Errorf("%d series, %d beyond", len(list), over)
		}
		for _, r := range list {
			if r.Labels["__name__"] == "triward_raft_term" && (r.Labels["host"] != "n1" || r.Labels["exported_host"] != "other") {
				t.Errorf("labels %v", r.Labels)
			}
		}
	})
}

// A clock that was ahead for a while does not date all that comes later.
func TestLinesAfterTheClockWasSetBack(t *testing.T) {
	b := NewBuffer()
	now := time.Now()
	for _, at := range []time.Time{now.AddDate(1, 0, 0), now, now, now.Add(-time.Second)} {
		b.put(at, slog.LevelInfo, "line")
	}
	lines, _ := b.take()
	if len(lines) != 4 || lines[1].T != now.UnixNano() || lines[2].T != lines[1].T+1 || lines[3].T != lines[1].T+2 {
		t.Errorf("%+v, set back to %d", lines, now.UnixNano())
	}
}
