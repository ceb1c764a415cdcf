package intake

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/prompb"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/pipeline"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

const start = int64(1_700_000_000_000)

// site is a log of one node: the state machine over a store of its own. What is proposed is applied at once.
type site struct {
	t      testing.TB
	coder  *wire.Coder
	state  *meta.Store
	m      *machine.Machine
	index  uint64
	stored map[string]float64 // "name t" of samples
	lines  []string           // labels, time and text of lines and events
	// lose makes the next answer be lost after what was proposed was applied.
	lose     bool
	fail     error // of every proposal, before it is applied
	commands map[command.Type]int
}

func newSite(t testing.TB, lim machine.Limits) *site {
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
	return &site{t: t, coder: coder, state: state, m: machine.New(state, coder, lim), stored: map[string]float64{}, commands: map[command.Type]int{}}
}

var errLost = errors.New("the answer was lost")

// Propose implements Cluster.
func (s *site) Propose(_ context.Context, cmds ...command.Command) (uint64, []command.Result, error) {
	if s.fail != nil {
		return 0, nil, s.fail
	}
	s.index++
	size := command.Overhead
	for _, c := range cmds {
		size += c.Size()
		s.commands[c.Type]++
	}
	if size > command.MaxEntry {
		s.t.Errorf("an entry of %d bytes", size)
	}
	var g machine.Group
	res, err := s.m.Apply(s.index, 1, command.Entry{Stamp: start, Commands: cmds}, &g)
	if err != nil {
		s.t.Fatal(err)
	}
	s.m.Finish(&g)
	for i, id := range g.Samples.IDs {
		ls, ok := s.state.SeriesLabels(id)
		if !ok {
			s.t.Fatalf("no series %d", id)
		}
		s.stored[fmt.Sprintf("%s %d", labelText(ls), g.Samples.T[i])] = g.Samples.Values[i]
	}
	for _, e := range g.Logs {
		for _, b := range e.Batches {
			for _, st := range b.Batch.Streams {
				for _, l := range st.Lines {
					s.lines = append(s.lines, fmt.Sprintf("%d %s %d %s %s %q", st.Kind, labelText(st.Labels), l.T, l.Severity, labelText(l.Fields), l.Text))
				}
			}
		}
	}
	if s.lose {
		s.lose = false
		return 0, nil, errLost
	}
	return s.index, res, nil
}

func newIntake(s *site) *Intake {
	return New(Options{Cluster: s, Coder: s.coder, Metrics: prometheus.NewRegistry()})
}

// request makes a request with headers given as name, value, name, value.
func request(body []byte, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

type handler = func(http.ResponseWriter, *http.Request) error

// status calls a handler and returns what it answered.
func status(h handler, r *http.Request) (int, string) {
	w := httptest.NewRecorder()
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	if err := h(w, r); err != nil {
		if p, ok := errors.AsType[*problem.Problem](err); ok {
			return p.Status, p.Detail
		}
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return http.StatusRequestEntityTooLarge, err.Error()
		}
		return 0, err.Error()
	}
	return w.Code, w.Body.String()
}

func want(t *testing.T, what string, h handler, r *http.Request, code int, text string) {
	t.Helper()
	got, said := status(h, r)
	if got != code || !strings.Contains(said, text) {
		t.Errorf("%s: %d %.300q, want %d and %q", what, got, said, code, text)
	}
}

func labels(pairs ...string) []prompb.Label {
	var ls []prompb.Label
	for i := 0; i+1 < len(pairs); i += 2 {
		ls = append(ls, prompb.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	return ls
}

func oneSeries(v float64, t int64, pairs ...string) prompb.TimeSeries {
	return prompb.TimeSeries{Labels: labels(pairs...), Samples: []prompb.Sample{{Value: v, Timestamp: t}}}
}

func write(t testing.TB, series ...prompb.TimeSeries) *http.Request {
	t.Helper()
	raw, err := (&prompb.WriteRequest{Timeseries: series}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return written(raw)
}

func written(raw []byte) *http.Request {
	return request(snappy.Encode(nil, raw), "Content-Type", "application/x-protobuf", "Content-Encoding", "snappy")
}

func TestRemoteWriteStoresOnce(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	push := func() *http.Request {
		ts := oneSeries(1, start, "__name__", "up", "job", "a")
		ts.Exemplars = []prompb.Exemplar{{Value: 1, Timestamp: start}}
		stale := oneSeries(math.Float64frombits(0x7ff0000000000002), start, "__name__", "gone")
		return write(t, ts, oneSeries(2, start+1, "job", "a", "__name__", "up"), oneSeries(3, start, "__name__", "x", "agent", "me"), stale)
	}
	s.lose = true // of the registration
	want(t, "first", in.RemoteWrite, push(), 0, "lost")
	s.lose = false
	want(t, "second", in.RemoteWrite, push(), 204, "")
	want(t, "repeated through another node", newIntake(s).RemoteWrite, push(), 204, "")
	if len(s.stored) != 4 || s.stored[fmt.Sprintf(`up{job="a"} %d`, start+1)] != 2 || s.stored[fmt.Sprintf(`x{exported_agent="me"} %d`, start)] != 3 {
		t.Errorf("stored %v", s.stored)
	}
	if v := s.stored[fmt.Sprintf("gone{} %d", start)]; math.Float64bits(v) != 0x7ff0000000000002 {
		t.Errorf("the stale marker came as %x", math.Float64bits(v))
	}
	registered := s.commands[command.TypeRegisterSeries]
	want(t, "with a warm cache", in.RemoteWrite, push(), 204, "")
	if s.commands[command.TypeRegisterSeries] != registered {
		t.Error("known series were registered again")
	}
}

func TestRemoteWriteRefusesItems(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	old := start - 8*24*3600_000
	want(t, "mixed", in.RemoteWrite, write(t,
		oneSeries(1, start, "__name__", "good"), oneSeries(1, old, "__name__", "late", "job", "j"), oneSeries(1, start, "job", "nameless"),
		oneSeries(1, start+3600_000, "__name__", "early"), oneSeries(1, -5, "__name__", "never"),
		oneSeries(1, start, "__name__", "twice", "a", "1", "a", "2"), oneSeries(1, start, "__name__", "broken", "a", "\xff"),
	), 400, "6 of 7 samples were refused")
	want(t, "late alone", in.RemoteWrite, write(t, oneSeries(1, old, "__name__", "late", "job", "j")), 400, `late{job="j"} at 2023-11-06`)
	if len(s.stored) != 1 {
		t.Errorf("stored %v", s.stored)
	}
}

func TestSeriesThatWereCollectedAreRegisteredAgain(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	want(t, "first", in.RemoteWrite, write(t, oneSeries(1, start, "__name__", "m")), 204, "")
	for _, e := range in.ids.byKey { // as after a collection: an id that is nobody's
		e.Value.(*cached).id = 12345
	}
	want(t, "second", in.RemoteWrite, write(t, oneSeries(2, start+1, "__name__", "m")), 204, "")
	if len(s.stored) != 2 {
		t.Errorf("stored %v", s.stored)
	}
}

func TestLimitOfSeriesKeepsTheKnown(t *testing.T) {
	lim := machine.DefaultLimits()
	lim.SeriesPerAgent = 1
	s := newSite(t, lim)
	in := newIntake(s)
	want(t, "first", in.RemoteWrite, write(t, oneSeries(1, start, "__name__", "m0")), 204, "")
	var more []prompb.TimeSeries
	for i := range 200 {
		more = append(more, oneSeries(1, start+1, "__name__", fmt.Sprintf("m%d", i)))
	}
	want(t, "beyond", in.RemoteWrite, write(t, more...), 400, "would exceed the limit of 1")
	if _, ok := s.stored[fmt.Sprintf("m0{} %d", start+1)]; !ok {
		t.Error("the known series was not stored")
	}
}

func TestManySamplesAreSplit(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	ts := prompb.TimeSeries{Labels: labels("__name__", "m")}
	for i := range 30_000 {
		ts.Samples = append(ts.Samples, prompb.Sample{Value: math.Sqrt(float64(i)), Timestamp: start - int64(i)})
	}
	want(t, "30,000 samples", in.RemoteWrite, write(t, ts), 204, "")
	if len(s.stored) != 30_000 {
		t.Errorf("%d samples stored", len(s.stored))
	}
}

func TestErrorsOfTheLogComeThrough(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	s.fail = errors.New("no leader")
	want(t, "remote write", in.RemoteWrite, write(t, oneSeries(1, start, "__name__", "m")), 0, "no leader")
	want(t, "loki", in.LokiPush, lokiProto(`{a="b"}`, entry(start*1e6, "x")), 0, "no leader")
}

// field is a field of a protobuf message that has a length.
func field(n protowire.Number, data []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), data)
}

func number(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func entry(ns int64, text string, meta ...string) []byte {
	out := field(1, append(number(1, uint64(ns/1e9)), number(2, uint64(ns%1e9))...))
	out = append(out, field(2, []byte(text))...)
	for i := 0; i+1 < len(meta); i += 2 {
		out = append(out, field(3, append(field(1, []byte(meta[i])), field(2, []byte(meta[i+1]))...))...)
	}
	return field(2, out)
}

func lokiProto(labels string, entries ...[]byte) *http.Request {
	body := field(1, append(field(1, []byte(labels)), bytes.Join(entries, nil)...))
	return request(snappy.Encode(nil, body), "Content-Type", "application/x-protobuf")
}

func lokiJSON(body string) *http.Request {
	return request([]byte(body), "Content-Type", "application/json")
}

func zipped(body string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(body))
	_ = z.Close()
	return b.Bytes()
}

func TestLokiStoresOnce(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	ns := start * 1e6
	push := func() *http.Request {
		return lokiProto(`{job="a\"b", host = "h1",}`, entry(ns+1, "hello", "trace_id", "77", "level", "warn"), entry(ns+2, "level=error no"))
	}
	s.lose = true
	want(t, "first", in.LokiPush, push(), 0, "lost")
	want(t, "second", in.LokiPush, push(), 204, "")
	json := fmt.Sprintf(`{"streams":[{"values":[["%d","hello",{"trace_id":"77","level":"warn"}],["%d","new"]],"stream":{"host":"h1","job":"a\"b"}}]}`, ns+1, ns+3)
	want(t, "JSON, zipped", newIntake(s).LokiPush, request(zipped(json), "Content-Type", "application/json; charset=utf-8", "Content-Encoding", "gzip"), 204, "")
	stream := `1 {host="h1", job="a\"b"} `
	wanted := []string{
		fmt.Sprintf(`%s%d warning {level="warn", trace_id="77"} "hello"`, stream, ns+1),
		fmt.Sprintf(`%s%d error {} "level=error no"`, stream, ns+2),
		fmt.Sprintf(`%s%d unknown {} "new"`, stream, ns+3),
	}
	if got := strings.Join(s.lines, "\n"); got != strings.Join(wanted, "\n") {
		t.Errorf("stored\n%s\nwant\n%s", got, strings.Join(wanted, "\n"))
	}
}

func TestLokiBoundsLines(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	var entries [][]byte
	for i := range 40_000 {
		entries = append(entries, entry(start*1e6+int64(i), "line"))
	}
	entries = append(entries, entry(start*1e6, strings.Repeat("x", wire.MaxLine+5)))
	want(t, "many", in.LokiPush, lokiProto(`{a="b"}`, entries...), 204, "")
	if len(s.lines) != 40_001 || !strings.Contains(s.lines[40_000], `truncated="true"`) {
		t.Errorf("%d lines", len(s.lines))
	}
	var many [][]byte
	for i := range 300 {
		many = append(many, field(1, append(field(1, fmt.Appendf(nil, `{n="%d"}`, i)), entry(start*1e6, "x")...)))
	}
	r := request(snappy.Encode(nil, bytes.Join(many, nil)), "Content-Type", "application/x-protobuf")
	want(t, "300 streams", in.LokiPush, r, 204, "")
	want(t, "bad labels", in.LokiPush, lokiProto(`{a=b}`, entry(start*1e6, "x")), 400, "not in quotes")
	want(t, "no labels", in.LokiPush, lokiProto(`{}`, entry(start*1e6, "x")), 400, "at least one")
}

func TestMessages(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	sec := start / 1000
	list := func(body string, args ...any) *http.Request { return lokiJSON(fmt.Sprintf(body, args...)) }
	want(t, "metrics", in.Metrics, list(`[{"type":"metric","agent_id":"agent-001","timestamp":%d,"data":{"name":"cpu_usage","value":45.2,"tags":{"cpu":0}}}]`, sec), 204, "")
	if s.stored[fmt.Sprintf(`cpu_usage{agent_id="agent-001", cpu="0"} %d`, start)] != 45.2 {
		t.Errorf("stored %v", s.stored)
	}
	want(t, "bad ones", in.Metrics, list(`[{"type":"log","agent_id":"a","timestamp":%d,"data":{"name":"x","value":1}},
		{"agent_id":"a","timestamp":12,"data":{"name":"x","value":1}}, {"agent_id":"a","timestamp":%[1]d,"data":{"name":"x","value":"1"}},
		7, {"agent_id":"a","timestamp":%[1]d,"data":{"name":"good","value":1}}]`, sec), 400, `4 of 5 metrics were refused: [0]: type is "log"`)
	if len(s.stored) != 2 {
		t.Errorf("stored %v", s.stored)
	}
	lines := `[{"agent_id":"a","timestamp":%d.25,"data":{"name":"app","value":"hi","tags":{"level":"error"}}},{"agent_id":"a","timestamp":%[1]d,"data":{"value":"same"}}]`
	for range 2 {
		want(t, "logs", in.Logs, list(lines, sec), 204, "")
	}
	event := `[{"type":"event","agent_id":"a","timestamp":"%s","data":{"name":"reboot","value":{"why":"update"}}}]`
	want(t, "events", in.Events, list(event, time.UnixMilli(start).UTC().Format(time.RFC3339)), 204, "")
	got := strings.Join(s.lines, "\n")
	// The line with a fraction of a second is known when it comes again, the other one is not.
	if strings.Count(got, `error {level="error"} "hi"`) != 1 || strings.Count(got, `"same"`) != 2 ||
		!strings.Contains(got, fmt.Sprintf(`2 {agent_id="a", name="reboot", source="api"} %d unknown {} "{\"why\":\"update\"}"`, start*1e6)) {
		t.Errorf("stored\n%s", got)
	}
}

func TestHostileBodies(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	bomb := binary.AppendUvarint(nil, 1<<31)
	zeros := zipped(strings.Repeat("0", maxDecoded+1))
	many := bytes.Repeat(field(2, number(2, 1)), maxSamples+1)
	proto := []string{"Content-Type", "application/x-protobuf", "Content-Encoding", "snappy"}
	for _, c := range []struct {
		name string
		h    handler
		r    *http.Request
		code int
	}{
		{"empty", in.RemoteWrite, request(nil, proto...), 400},
		{"no snappy", in.RemoteWrite, request([]byte("hello, world"), proto...), 400},
		{"snappy that claims 2 GiB", in.RemoteWrite, request(bomb, proto...), 413},
		{"larger than allowed", in.RemoteWrite, request(make([]byte, MaxBody+1), proto...), 413},
		{"version 2", in.RemoteWrite, request(nil, "Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request", "Content-Encoding", "snappy"), 415},
		{"not compressed", in.RemoteWrite, request(nil, "Content-Type", "application/x-protobuf"), 415},
		{"media type", in.RemoteWrite, request(nil, "Content-Type", "text/plain", "Content-Encoding", "snappy"), 415},
		{"broken media type", in.RemoteWrite, request(nil, "Content-Type", ";;", "Content-Encoding", "snappy"), 415},
		{"random protobuf", in.RemoteWrite, written([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), 400},
		{"length beyond the end", in.RemoteWrite, written([]byte{0x0a, 0x7f, 0x01}), 400},
		{"broken sample", in.RemoteWrite, written(field(1, field(2, []byte{0x09, 1}))), 400},
		{"group without end", in.RemoteWrite, written(bytes.Repeat([]byte{0x0b}, 20000)), 400},
		{"too many samples", in.RemoteWrite, written(field(1, many)), 413},
		{"too many labels", in.RemoteWrite, written(field(1, append(bytes.Repeat(field(1, append(field(1, []byte("a")), field(2, []byte("b"))...)), 100_000), field(2, number(2, uint64(start)))...))), 400},
		{"loki: no snappy", in.LokiPush, request([]byte("x"), "Content-Type", "application/x-protobuf"), 400},
		{"loki: gzip bomb", in.LokiPush, request(zeros, "Content-Type", "application/json", "Content-Encoding", "gzip"), 413},
		{"loki: no gzip", in.LokiPush, request([]byte("{}"), "Content-Type", "application/json", "Content-Encoding", "gzip"), 400},
		{"loki: zstd", in.LokiPush, request(nil, "Content-Type", "application/json", "Content-Encoding", "zstd"), 415},
		{"loki: cut JSON", in.LokiPush, lokiJSON(`{"streams":[{"stream":{"a":"b"}`), 400},
		{"loki: deep JSON", in.LokiPush, lokiJSON(`{"x":` + strings.Repeat("[", 100_000)), 400},
		{"loki: time that is a number", in.LokiPush, lokiJSON(`{"streams":[{"stream":{"a":"b"},"values":[[1,"x"]]}]}`), 400},
		{"loki: negative time", in.LokiPush, lokiJSON(`{"streams":[{"stream":{"a":"b"},"values":[["-1","x"]]}]}`), 400},
		{"loki: labels without end", in.LokiPush, lokiJSON(`{"streams":[{"stream":{` + strings.Repeat(`"a":"b",`, 100_000) + `"a":"b"}}]}`), 400},
		{"loki: too many lines", in.LokiPush, lokiJSON(`{"streams":[{"values":[` + strings.Repeat(`["1",""],`, maxLines) + `["1",""]]}]}`), 413},
		{"loki: text behind", in.LokiPush, lokiJSON(`{"streams":[]} x`), 400},
		{"loki: time out of bounds", in.LokiPush, lokiProto(`{a="b"}`, field(2, field(1, number(1, 1<<62)))), 400},
		{"json: no list", in.Metrics, lokiJSON(`{}`), 400},
		{"json: cut", in.Logs, lokiJSON(`[{"agent_id":"a"`), 400},
		{"json: too many", in.Events, lokiJSON(`[` + strings.Repeat(`{},`, maxMessages) + `{}]`), 413},
		{"json: long message", in.Logs, lokiJSON(`[{"agent_id":"` + strings.Repeat("a", maxMessage) + `"}]`), 400},
		{"json: media type", in.Logs, request([]byte("[]"), "Content-Type", "text/plain"), 415},
	} {
		got, said := status(c.h, c.r)
		if got != c.code || said == "" || len(said) > 1000 {
			t.Errorf("%s: %d %.300q, want %d", c.name, got, said, c.code)
		}
	}
	if len(s.stored)+len(s.lines) != 0 {
		t.Errorf("stored %v %v", s.stored, s.lines)
	}
	if !in.inFlight.TryAcquire(in.total) {
		t.Error("bytes in flight were not given back")
	}
	in.inFlight.Release(in.total)
	want(t, "a good one afterwards", in.RemoteWrite, write(t, oneSeries(1, start, "__name__", "m")), 204, "")
}

func TestBytesInFlightPushBack(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	h := hold{in: in}
	if err := h.take(maxDecoded); err != nil {
		t.Fatal(err)
	}
	if err := h.take(maxDecoded); err != nil { // alone it may have all
		t.Fatal(err)
	}
	want(t, "beside it", in.RemoteWrite, write(t, oneSeries(1, start, "__name__", "m")), 429, "in flight")
	h.release()
	want(t, "after it", in.RemoteWrite, write(t, oneSeries(1, start, "__name__", "m")), 204, "")
}

func TestIDCacheIsBounded(t *testing.T) {
	c := newIDCache(10 * (cachedOverhead + 3))
	for i := range 100 {
		c.put(fmt.Sprintf("k%02d", i), uint64(i))
		c.get("k00")
	}
	if _, ok := c.get("k00"); !ok || len(c.byKey) != 10 || c.order.Len() != 10 || c.bytes != c.most {
		t.Errorf("%d entries of %d bytes", len(c.byKey), c.bytes)
	}
	c.drop("k00")
	if _, ok := c.get("k00"); ok || c.bytes != 9*(cachedOverhead+3) {
		t.Error("dropped and still there")
	}
}

// The share of a series is part of what the state holds.
func TestSharesStayAsTheyAre(t *testing.T) {
	for name, want := range map[string]uint8{"up": 63, "node_load1": 15, "http_requests_total": 43} {
		key := string(wire.Labels{{Name: "__name__", Value: name}, {Name: "job", Value: "a"}}.AppendKey(nil))
		if got := shardOf(key); got != want {
			t.Errorf("%s is in share %d, want %d", name, got, want)
		}
	}
	if sourceOf(7) != "push:07" {
		t.Error(sourceOf(7))
	}
}

func FuzzBodies(f *testing.F) {
	f.Add([]byte(`{"streams":[{"stream":{"a":"b"},"values":[["1","x",{"a":1}]]}]}`))
	f.Add(field(1, append(field(1, append(field(1, []byte("__name__")), field(2, []byte("m"))...)), field(2, number(2, uint64(start)))...)))
	s := newSite(f, machine.DefaultLimits())
	in := newIntake(s)
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, code := range []func() (int, string){
			func() (int, string) { return status(in.RemoteWrite, written(body)) },
			func() (int, string) {
				return status(in.LokiPush, request(snappy.Encode(nil, body), "Content-Type", "application/x-protobuf"))
			},
			func() (int, string) { return status(in.LokiPush, request(body, "Content-Type", "application/json")) },
			func() (int, string) { return status(in.Metrics, request(body, "Content-Type", "application/json")) },
			func() (int, string) { return status(in.Events, request(body, "Content-Type", "application/json")) },
		} {
			if got, said := code(); got != 204 && got/100 != 4 {
				t.Errorf("%d %q", got, said)
			}
		}
	})
}

// Lines that differ in their secrets only are both kept, also when the request comes again; one that is there twice in a
// request is kept once.
func TestMaskedLinesStayApart(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	r, err := pipeline.NewRedactor(pipeline.Options{Passwords: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := New(Options{Cluster: s, Coder: s.coder, Redactor: r})
	at := start * 1e6
	body := fmt.Sprintf(`{"streams":[{"stream":{"job":"password=alpha-alpha"},"values":[["%[1]d","password=alpha-alpha"],["%[1]d","password=bravo-bravo"],["%[1]d","password=alpha-alpha"],["%[1]d","x",{"secret_password":"charlie-charlie"}]]}]}`, at+1)
	for range 2 {
		want(t, "push", in.LokiPush, request([]byte(body), "Content-Type", "application/json"), 204, "")
	}
	all := strings.Join(s.lines, "\n")
	for _, secret := range []string{"alpha", "bravo", "charlie"} {
		if strings.Contains(all, secret) {
			t.Errorf("%s is stored", secret)
		}
	}
	if len(s.lines) != 3 || strings.Count(all, `redacted_nth="2"`) != 1 {
		t.Errorf("%d lines:\n%s", len(s.lines), all)
	}
}

// What an agent sends is its own: its labels, its series, and in no other's name.
func TestListsOfAgents(t *testing.T) {
	s := newSite(t, machine.DefaultLimits())
	in := newIntake(s)
	from := Agent{ID: "a1", Hostname: "h1"}
	list := func(agent string) *http.Request {
		return request(fmt.Appendf(nil, `[{"agent_id":%q,"timestamp":%d,"data":{"name":"n","value":1,"tags":{"agent":"a2","host":"h2"}}}]`, agent, start), "Content-Type", "application/json")
	}
	as := func(take func(http.ResponseWriter, *http.Request, Agent) error) handler {
		return func(w http.ResponseWriter, r *http.Request) error { return take(w, r, from) }
	}
	for _, agent := range []string{"", "a1", "h1"} {
		want(t, "metrics of "+agent, as(in.AgentMetrics), list(agent), 204, "")
		want(t, "logs of "+agent, as(in.AgentLogs), list(agent), 204, "")
		want(t, "events of "+agent, as(in.AgentEvents), list(agent), 204, "")
	}
	want(t, "in another's name", as(in.AgentMetrics), list("a2"), 400, "certificate is of agent a1")
	want(t, "without a name", in.Logs, list(""), 400, "agent_id is missing")
	if len(s.stored) != 1 {
		t.Errorf("%v", s.stored)
	}
	for name := range s.stored {
		if !strings.HasPrefix(name, `n{agent="a1", agent_id="a1", host="h1"}`) {
			t.Errorf("stored as %s", name)
		}
	}
	for _, l := range s.lines {
		if !strings.Contains(l, `agent="a1"`) || !strings.Contains(l, `host="h1"`) {
			t.Errorf("stored as %s", l)
		}
	}
}

// A line that is cut keeps as many of its fields as it may have.
func TestCutLineKeepsItsFields(t *testing.T) {
	p := linePush{in: newIntake(newSite(t, machine.DefaultLimits()))}
	s, err := p.newStream(wire.StreamLog, wire.Labels{{Name: "app", Value: "x"}}, "loki")
	if err != nil {
		t.Fatal(err)
	}
	l := wire.LogLine{T: 1, Text: make([]byte, wire.MaxLine+1)}
	for i := range wire.MaxFields {
		l.Fields = append(l.Fields, wire.Label{Name: fmt.Sprintf("f%03d", i), Value: "v"})
	}
	p.add(s, l, 0)
	for _, b := range p.open {
		if got := b.batch.Streams[0].Lines[0]; len(got.Fields) != wire.MaxFields || wire.Labels(got.Fields).Get("truncated") != "true" || len(got.Text) != wire.MaxLine {
			t.Errorf("%d fields are left", len(got.Fields))
		}
	}
}

// A body that unfolds without end costs what one may have at most and is refused there, not twice as much for growing.
func TestBombIsCheap(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	for range 64 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	in := newIntake(newSite(t, machine.DefaultLimits()))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h := hold{in: in}
	_, err := h.read(httptest.NewRequest(http.MethodPost, "/", &packed), "gzip")
	h.release()
	runtime.ReadMemStats(&after)
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("a bomb is answered %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 5*maxDecoded/2 {
		t.Errorf("a bomb made us allocate %d MiB, %d MiB are allowed decompressed", took>>20, maxDecoded>>20)
	}
}
