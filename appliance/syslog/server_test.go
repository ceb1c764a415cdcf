package syslog

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/pipeline"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

const patience = 30 * time.Second

// site is a log of one node: the state machine over a store of its own.
type site struct {
	t     testing.TB
	coder *wire.Coder
	state *meta.Store

	mu    sync.Mutex
	m     *machine.Machine
	index uint64
	lines []string
	down  bool // nothing is taken
	lose  int  // answers that are lost after what was proposed was applied
}

func newSite(t testing.TB) *site {
	t.Helper()
	coder, err := wire.NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	state, err := meta.Open(filepath.Join(t.TempDir(), "meta.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	return &site{t: t, coder: coder, state: state, m: machine.New(state, coder, machine.DefaultLimits())}
}

var errDown = errors.New("no leader")

// Propose implements Cluster.
func (s *site) Propose(_ context.Context, cmds ...command.Command) (uint64, []command.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return 0, nil, errDown
	}
	s.index++
	var g machine.Group
	res, err := s.m.Apply(s.index, 1, command.Entry{Stamp: time.Now().UnixMilli(), Commands: cmds}, &g)
	if err != nil {
		s.t.Error(err)
		return 0, nil, err
	}
	s.m.Finish(&g)
	for _, e := range g.Logs {
		for _, b := range e.Batches {
			for _, st := range b.Batch.Streams {
				for _, l := range st.Lines {
					s.lines = append(s.lines, fmt.Sprintf("%s %s %s|%s", st.Labels.Get("host"), st.Labels.Get("unit"), l.Text, fieldText(l.Fields)))
				}
			}
		}
	}
	if s.lose > 0 {
		s.lose--
		return 0, nil, errors.New("the answer was lost")
	}
	return s.index, res, nil
}

func fieldText(fs []wire.Label) string {
	var out []string
	for _, f := range fs {
		if f.Name != "from" {
			out = append(out, f.Name+"="+f.Value)
		}
	}
	return strings.Join(out, ",")
}

func (s *site) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// wait returns the lines once n are there.
func (s *site) wait(n int) []string {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s.mu.Lock()
		got := slices.Clone(s.lines)
		s.mu.Unlock()
		if len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d lines, want %d:\n%s", len(got), n, strings.Join(got[max(0, len(got)-20):], "\n"))
		}
		time.Sleep(time.Millisecond)
	}
}

type rig struct {
	*Server
	udp, tcp string
}

func open(t testing.TB, s *site, dir string, change func(*Options)) *rig {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	redactor, err := pipeline.NewRedactor(pipeline.Options{Passwords: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Packets: conn.(*net.UDPConn), Streams: []net.Listener{ln}, Zone: time.UTC, Node: "n1", Dir: dir, BufferBytes: 8 << 20,
		Cluster: s, Coder: s.coder, Redactor: redactor, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&o)
	}
	server, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return &rig{server, conn.LocalAddr().String(), ln.Addr().String()}
}

func send(t testing.TB, network, address string, texts ...string) {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, text := range texts {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMessagesBecomeLines(t *testing.T) {
	s := newSite(t)
	r := open(t, s, t.TempDir(), nil)
	now := time.Now().UTC()
	send(t, "udp", r.udp, "<34>1 "+now.Format(time.RFC3339)+` h su 7 ID [x@1 a="b" password="hunter2hunter2"] password=hunter2hunter2`)
	send(t, "udp", r.udp, "no syslog at all")
	send(t, "tcp", r.tcp, "<13>"+now.Format(time.Stamp)+" h app: one\n<13>"+now.Format(time.Stamp)+" h app: two\n", "<8>h: with", "out an end")
	send(t, "tcp", r.tcp, "17 <13>counted: one\n", "16 <13>counted: two")
	send(t, "tcp", r.tcp, "<13>app: old "+strings.Repeat("x", 400<<10)+"\n<13>app: next\n")
	got := s.wait(9)
	for i := range got {
		if strings.Contains(got[i], "xxxx") {
			got[i] = got[i][:30] + got[i][len(got[i])-20:]
		}
	}
	slices.Sort(got)
	if want := []string{
		"127.0.0.1  no syslog at all|malformed=no priority",
		"127.0.0.1 app next|facility=user",
		"127.0.0.1 app old xxxxxxxxxxxx=user,truncated=true",
		"127.0.0.1 counted one|facility=user",
		"127.0.0.1 counted two|facility=user",
		"127.0.0.1 h without an end|facility=user,severity=emergency",
		"h app one|facility=user", "h app two|facility=user",
		"h su password=[redacted]|facility=auth,msgid=ID,pid=7,x@1.a=b,x@1.password=[redacted]",
	}; !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := testutil.ToFloat64(r.met.malformed); n != 1 {
		t.Errorf("%v malformed", n)
	}
}

// What came while the cluster took nothing is on the disk, survives the process and comes once, whatever answers are
// lost.
func TestBufferOutlivesClusterAndProcess(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	s.set(true)
	r := open(t, s, dir, nil)
	const n = 500
	for i := range n {
		send(t, "udp", r.udp, fmt.Sprintf("<13>app: datagram %d", i))
		until(t, func() bool { return r.batcher.Lines.Load()+50 > uint64(i) }) // the kernel drops what is too much for its buffer
	}
	send(t, "tcp", r.tcp, "<13>app: by connection\n")
	until(t, func() bool { return r.batcher.Lines.Load() == n+1 })
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s.set(false)
	s.lose = 3
	r = open(t, s, dir, nil)
	send(t, "tcp", r.tcp, "<13>app: after\n")
	s.wait(n + 2)
	until(t, func() bool { return !r.spool.Pending() })
	seen := map[string]int{}
	for _, l := range s.wait(n + 2) {
		seen[l]++
	}
	if len(seen) != n+2 {
		t.Errorf("%d different lines, want %d", len(seen), n+2)
	}
	for l, k := range seen {
		if k != 1 {
			t.Errorf("%q came %d times", l, k)
		}
	}
}

func until(t testing.TB, fn func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !fn(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
	}
}

// A full buffer holds connections back and lets datagrams go, counted; nothing of what was taken is lost.
func TestFullBuffer(t *testing.T) {
	s := newSite(t)
	s.set(true)
	r := open(t, s, t.TempDir(), nil)
	text := func(kind string, i int) string {
		junk := make([]byte, 9<<10)
		_, _ = rand.Read(junk) // never fails
		return fmt.Sprintf("<13>app: %s %d %s\n", kind, i, base64.StdEncoding.EncodeToString(junk))
	}
	done := make(chan struct{})
	const n = 1500
	go func() {
		defer close(done)
		c, err := net.Dial("tcp", r.tcp)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for i := range n {
			if _, err := c.Write([]byte(text("tcp", i))); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	c, err := net.Dial("udp", r.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	until(t, func() bool {
		_, _ = c.Write([]byte(text("udp", 1)))
		return testutil.ToFloat64(r.met.dropped.WithLabelValues("queue"))+testutil.ToFloat64(r.met.dropped.WithLabelValues("kernel")) > 0 && r.batcher.Waits.Load() > 0
	})
	s.set(false)
	<-done
	until(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		k := 0
		for _, l := range s.lines {
			if strings.Contains(l, " tcp ") {
				k++
			}
		}
		return k == n
	})
}

// A disk that went back in time does not take new batches for old ones.
func TestDiskThatWentBack(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	r := open(t, s, dir, nil)
	send(t, "tcp", r.tcp, "<13>app: zero\n")
	s.wait(1)
	until(t, func() bool { return !r.spool.Pending() })
	// The cluster has batches of this epoch that the buffer does not know of.
	raw := wire.AppendLogs(nil, &wire.LogBatch{})
	acked, _ := r.spool.Position(wire.LaneLogs)
	for k := range uint64(3) {
		b := wire.Batch{Identity: wire.Identity{Agent: identityOf("n1"), Epoch: r.spool.Epoch(), Lane: wire.LaneLogs, Seq: acked + 1 + k, Hash: 77}, RawLen: len(raw), Body: raw}
		if _, res, err := s.Propose(t.Context(), command.NewBatch(b, 0)); err != nil || res[0].Status != command.StatusOK {
			t.Fatal(res, err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, s, dir, nil)
	send(t, "tcp", r.tcp, "<13>app: one\n")
	s.wait(2)
	send(t, "tcp", r.tcp, "<13>app: two\n")
	s.wait(3)
}

func TestWhoMaySendAndBadFrames(t *testing.T) {
	s := newSite(t)
	r := open(t, s, t.TempDir(), func(o *Options) { o.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	send(t, "udp", r.udp, "<13>app: x")
	c, err := net.Dial("tcp", r.tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection from elsewhere is served")
	}
	until(t, func() bool { return testutil.ToFloat64(r.met.dropped.WithLabelValues("not_allowed")) == 2 })

	r = open(t, s, t.TempDir(), nil)
	for _, bad := range []string{"99999999 x", "12a", "2000000 x"} {
		c, err := net.Dial("tcp", r.tcp)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(bad)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%q is answered", bad)
		}
		_ = c.Close()
	}
	send(t, "tcp", r.tcp, "<13>app: still there\n")
	s.wait(1)
}

func TestStreamsAreBounded(t *testing.T) {
	s := newStreams()
	for i := range maxHosts + 10 {
		if _, _, err := s.of(fmt.Sprint("h", i), "a", nil); err != nil {
			t.Fatal(err)
		}
	}
	st, fields, err := s.of("one more", "a", nil)
	if err != nil || st.Labels.Get("host") != "other" || len(fields) != 1 || fields[0].Value != "one more" {
		t.Errorf("%v %v %v", st, fields, err)
	}
	for i := range maxStreams {
		if _, _, err := s.of("h1", fmt.Sprint("a", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if st, fields, err = s.of("h1", "one more", nil); err != nil || st.Labels.Get("unit") != "" || len(fields) != 1 {
		t.Errorf("%v %v %v", st, fields, err)
	}
	if n := len(s.byName); n > maxStreams+maxHosts+1 {
		t.Errorf("%d streams", n)
	}
}
