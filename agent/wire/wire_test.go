package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var update = flag.Bool("update", false, "write the golden bytes anew (only before format 1)")

// golden compares got with the bytes kept in testdata: a change is a change of the wire format.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	text := hex.EncodeToString(got) + "\n"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s: bytes differ from the golden ones\n got %s want %s", name, text, want)
	}
}

func sampleScrapes() []Scrape {
	return []Scrape{
		{T: 1_700_000_000_000, IDs: []uint64{1, 2, 3, 7, 300, 1 << 40, 1<<40 + 1, 1<<40 + 2}, Values: []float64{
			0, 1.5, -0.25, 12345678901, math.Pi, math.Inf(1), math.Copysign(0, -1), 99.99,
		}},
		{T: 1_700_000_015_000, IDs: []uint64{5}, Values: []float64{-17}},
	}
}

func sampleLogs() *LogBatch {
	return &LogBatch{Streams: []LogStream{
		{Kind: StreamLog, Labels: Labels{{"agent", "a1"}, {"file", "/var/log/syslog"}}, Lines: []LogLine{
			{T: 1_700_000_000_000_000_001, Severity: SeverityError, Text: []byte("disk sda failed: I/O error"), Fields: []Label{{"pid", "12"}}},
			{T: 1_699_999_999_000_000_000, Text: []byte("中文日志 \x00\xff binary")},
		}},
		{Kind: StreamEvent, Labels: Labels{{"agent", "a1"}}, Lines: []LogLine{{T: 5, Severity: SeverityInfo, Text: []byte{}}}},
	}}
}

func TestMetricsBody(t *testing.T) {
	body := AppendMetrics(nil, sampleScrapes())
	golden(t, "metrics_v1", body)
	var m MetricsBody
	for range 2 { // the second time in used memory
		if err := m.Decode(body); err != nil {
			t.Fatal(err)
		}
		want := sampleScrapes()
		if len(m.Scrapes) != len(want) {
			t.Fatalf("%d scrapes, want %d", len(m.Scrapes), len(want))
		}
		for i, s := range m.Scrapes {
			if s.T != want[i].T || !reflect.DeepEqual(s.IDs, want[i].IDs) {
				t.Errorf("scrape %d: %v, want %v", i, s, want[i])
			}
			for j, v := range s.Values {
				if math.Float64bits(v) != math.Float64bits(want[i].Values[j]) {
					t.Errorf("scrape %d value %d: %v, want %v", i, j, v, want[i].Values[j])
				}
			}
		}
	}
	for cut := range body {
		if err := m.Decode(body[:cut]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut at %d: %v, want ErrMalformed", cut, err)
		}
	}
}

func TestValuesKeepEveryBit(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	values := []float64{0.1, 1e-9, 1e300, 5e-324, math.NaN(), math.Float64frombits(0x7ff0000000000002), 1 << 53, 1<<53 - 1, -(1<<53 - 1)}
	for len(values) < MaxBatchSamples {
		switch rng.IntN(3) {
		case 0:
			values = append(values, math.Float64frombits(rng.Uint64()))
		case 1:
			values = append(values, float64(rng.Int64N(1<<50))/pow10[rng.IntN(10)])
		default:
			values = append(values, rng.NormFloat64()*pow10[rng.IntN(10)])
		}
	}
	ids := make([]uint64, len(values))
	for i := range ids {
		ids[i] = uint64(i + 1)
	}
	var m MetricsBody
	if err := m.Decode(AppendMetrics(nil, []Scrape{{IDs: ids, Values: values}})); err != nil {
		t.Fatal(err)
	}
	for i, v := range m.Scrapes[0].Values {
		if math.Float64bits(v) != math.Float64bits(values[i]) {
			t.Fatalf("value %d: %x, want %x", i, math.Float64bits(v), math.Float64bits(values[i]))
		}
	}
}

func TestLogsBody(t *testing.T) {
	body := AppendLogs(nil, sampleLogs())
	golden(t, "logs_v1", body)
	got, err := DecodeLogs(body)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(AppendLogs(nil, got), body) || !reflect.DeepEqual(got.Streams[0].Labels, sampleLogs().Streams[0].Labels) {
		t.Errorf("decoded %+v", got)
	}
	for cut := range body {
		if _, err := DecodeLogs(body[:cut]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut at %d: %v, want ErrMalformed", cut, err)
		}
	}
}

func TestRequest(t *testing.T) {
	epoch := Epoch{1, 2, 3, 15: 0xff}
	batches := []Batch{
		{Identity: Identity{"a1", epoch, LaneMetrics, 9, 0x1122334455667788}, RawLen: 3, Body: []byte("abc")},
		{Identity: Identity{"a1", epoch, LaneEvents, 1 << 40, 1}, Codec: CodecZstd, RawLen: 700, Body: []byte("zzzz")},
	}
	body := AppendRequest(nil, epoch, batches)
	golden(t, "request_v1", body)
	e, got, err := ReadRequest("a1", body)
	if err != nil || e != epoch || !reflect.DeepEqual(got, batches) {
		t.Fatalf("%v %+v %v", e, got, err)
	}
	for cut := range body {
		if _, _, err := ReadRequest("a1", body[:cut]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut at %d: %v, want ErrMalformed", cut, err)
		}
	}
	if p, err := ParseEpoch(epoch.String()); err != nil || p != epoch {
		t.Errorf("ParseEpoch: %v %v", p, err)
	}
}

func TestCoderBounds(t *testing.T) {
	c, err := NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	raw := bytes.Repeat([]byte("the same again "), 1000)
	codec, body := c.Compress(nil, raw)
	if codec != CodecZstd || len(body) > len(raw)/10 {
		t.Fatalf("codec %d, %d bytes", codec, len(body))
	}
	b := Batch{Codec: codec, RawLen: len(raw), Body: body}
	out, err := c.Decompress([]byte("x"), &b)
	if err != nil || !bytes.Equal(out[1:], raw) {
		t.Fatalf("%d bytes, %v", len(out), err)
	}
	bomb, bombBody := c.Compress(nil, make([]byte, 256<<20))
	for _, bad := range []Batch{
		{Codec: bomb, RawLen: MaxBatchRaw, Body: bombBody},
		{Codec: codec, RawLen: len(raw) - 1, Body: body},
		{Codec: codec, RawLen: MaxBatchRaw + 1, Body: body},
		{Codec: CodecZstd, RawLen: 10, Body: []byte("garbage")},
		{Codec: 9, RawLen: 10, Body: body},
	} {
		if out, err := c.Decompress(nil, &bad); err == nil || len(out) > 4*MaxBatchRaw {
			t.Errorf("accepted %d bytes (%v)", len(out), err)
		}
	}
}

// A compressed body is one frame that says its length: what Apply accepts must not hang on the library's release.
func TestOneFrameOnly(t *testing.T) {
	c, err := NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte(strings.Repeat("abcdefgh", 1000))
	codec, body := c.Compress(nil, raw)
	_, half := c.Compress(nil, raw[:4000])
	var streamed bytes.Buffer
	w, err := zstd.NewWriter(&streamed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil { // so that the frame cannot say its length
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	for name, bad := range map[string][]byte{
		"two frames":            append(bytes.Clone(half), half...),
		"bytes behind":          append(bytes.Clone(body), 0),
		"skippable frame":       append(bytes.Clone(skippable), body...),
		"skippable behind":      append(bytes.Clone(body), skippable...),
		"no length":             streamed.Bytes(),
		"a frame that is cut":   body[:len(body)-1],
		"nothing":               nil,
		"only the frame header": body[:6],
	} {
		if out, err := c.Decompress(nil, &Batch{Codec: codec, RawLen: len(raw), Body: bad}); err == nil {
			t.Errorf("%s: accepted %d bytes", name, len(out))
		}
	}
	for _, n := range []int{1, 100, 256, 70_000, MaxBatchRaw} {
		raw := bytes.Repeat([]byte{'x'}, n)
		codec, body := c.Compress(nil, raw)
		if out, err := c.Decompress(nil, &Batch{Codec: codec, RawLen: n, Body: body}); err != nil || !bytes.Equal(out, raw) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// A short body must not unfold to more than its bounds, however small its items are.
func TestBodiesUnfoldBounded(t *testing.T) {
	lines := func(n, fields int) []byte {
		st := LogStream{Kind: StreamLog, Labels: Labels{{"agent", "a"}}, Lines: make([]LogLine, n)}
		for i := range st.Lines {
			st.Lines[i].Fields = make([]Label, fields)
			for k := range st.Lines[i].Fields {
				st.Lines[i].Fields[k].Name = string(rune('a' + k))
			}
		}
		return AppendLogs(nil, &LogBatch{Streams: []LogStream{st}})
	}
	scrapes := func(n, k int) []byte {
		all := make([]Scrape, n)
		for i := range all {
			all[i] = Scrape{T: int64(i), IDs: make([]uint64, k), Values: make([]float64, k)}
			for j := range all[i].IDs {
				all[i].IDs[j] = uint64(j + 1)
			}
		}
		return AppendMetrics(nil, all)
	}
	var m MetricsBody
	for _, c := range []struct {
		name string
		err  error
		ok   bool
	}{
		{"lines at the bound", func() error { _, err := DecodeLogs(lines(MaxBatchLines, 0)); return err }(), true},
		{"one line more", func() error { _, err := DecodeLogs(lines(MaxBatchLines+1, 0)); return err }(), false},
		{"fields at the bound", func() error { _, err := DecodeLogs(lines(MaxBatchFields/8, 8)); return err }(), true},
		{"more fields", func() error { _, err := DecodeLogs(lines(MaxBatchFields/8+1, 8)); return err }(), false},
		{"samples at the bound", m.Decode(scrapes(2, MaxBatchSamples/2)), true},
		{"more samples", m.Decode(scrapes(2, MaxBatchSamples/2+1)), false},
		{"scrapes at the bound", m.Decode(scrapes(MaxBatchScrapes, 1)), true},
		{"more scrapes", m.Decode(scrapes(MaxBatchScrapes+1, 1)), false},
	} {
		if ok := c.err == nil; ok != c.ok || !ok && !errors.Is(c.err, ErrMalformed) {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
}

func TestLabels(t *testing.T) {
	ls := LabelsFromMap(map[string]string{"b": "2", "a": "1", "none": ""})
	if !reflect.DeepEqual(ls, Labels{{"a", "1"}, {"b", "2"}}) {
		t.Fatalf("%v", ls)
	}
	back, rest, err := LabelsFromKey(append(ls.AppendKey(nil), "rest"...))
	if err != nil || !reflect.DeepEqual(back, ls) || string(rest) != "rest" {
		t.Fatalf("%v %q %v", back, rest, err)
	}
	if got := ls.With("aa", "x").With("b", "").With("z", "9"); !reflect.DeepEqual(got, Labels{{"a", "1"}, {"aa", "x"}, {"z", "9"}}) {
		t.Errorf("With: %v", got)
	}
	for _, bad := range []Labels{
		{{"a", "1"}},
		{{"__name__", "up"}, {"a", ""}},
		{{"__name__", "up"}, {"__name__", "up"}},
		{{"b", "up"}, {"__name__", "up"}},
		{{"__name__", strings.Repeat("x", MaxLabelValue+1)}},
		{{"__name__", "a\xff"}},
	} {
		if CheckSeriesLabels(bad) == nil {
			t.Errorf("accepted %v", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(AppendMetrics(nil, sampleScrapes()))
	f.Add(AppendLogs(nil, sampleLogs()))
	f.Add(AppendRequest(nil, Epoch{}, []Batch{{Identity: Identity{Lane: LaneLogs, Seq: 1}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m MetricsBody
		if m.Decode(b) == nil {
			var again MetricsBody
			if err := again.Decode(AppendMetrics(nil, m.Scrapes)); err != nil {
				t.Fatalf("what was decoded cannot be decoded again: %v", err)
			}
		}
		if l, err := DecodeLogs(b); err == nil {
			if _, err := DecodeLogs(AppendLogs(nil, l)); err != nil {
				t.Fatalf("what was decoded cannot be decoded again: %v", err)
			}
		}
		_, _, _ = ReadRequest("a", b)
	})
}

func BenchmarkDecodeMetrics(b *testing.B) {
	s := Scrape{T: 1}
	for i := range 500 {
		s.IDs = append(s.IDs, uint64(i+100_000))
		s.Values = append(s.Values, float64(i*i)*0.01)
	}
	body := AppendMetrics(nil, []Scrape{s})
	var m MetricsBody
	for b.Loop() {
		if err := m.Decode(body); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/sample")
	b.ReportMetric(float64(len(body))/500, "B/sample")
}
