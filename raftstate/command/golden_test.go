package command_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

var update = flag.Bool("update", false, "write testdata anew")

var epoch = wire.Epoch{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

func testBatch() wire.Batch {
	return wire.Batch{
		Identity: wire.Identity{Agent: "a1", Epoch: epoch, Lane: wire.LaneLogs, Seq: 300, Hash: 0x1122334455667788},
		Codec:    wire.CodecZstd, RawLen: 1000, Body: []byte("body"),
	}
}

func testDeliver() command.Deliver {
	return command.Deliver{
		Source: "loki:t1", Lane: wire.LaneLogs, Flags: command.RepeatsDropped, ConfigVersion: 7,
		Codec: wire.CodecZstd, RawLen: 1000, Body: []byte("body"),
	}
}

func testSeries() []wire.Labels {
	return []wire.Labels{
		{{Name: "__name__", Value: "up"}, {Name: "agent", Value: "a1"}},
		{{Name: "__name__", Value: "load1"}, {Name: "agent", Value: "a1"}},
	}
}

func testTxn() command.Txn {
	return command.Txn{
		Compares: []command.Compare{{Bucket: "users", Key: "eve", ModIndex: 0}, {Bucket: "users", Key: "adam", ModIndex: 77}},
		Ops: []command.Op{
			{Bucket: "users", Key: "eve", Value: []byte(`{"role":"admin"}`)},
			{Bucket: "sessions", Key: "s", Value: []byte("x"), Expires: 1_700_000_000_000},
			{Delete: true, Bucket: "users", Key: "adam"},
		},
		Audit: []command.AuditRecord{
			{Actor: "root", Address: "192.0.2.7", Action: "user.create", Target: "users/eve", Detail: []byte(`{"role":"admin"}`)},
			{Action: "user.delete"},
		},
	}
}

// commands are all commands of the format, each with a function that decodes it to what it was made from.
func commands() []struct {
	name   string
	cmd    command.Command
	want   any
	decode func(command.Command) (any, error)
} {
	return []struct {
		name   string
		cmd    command.Command
		want   any
		decode func(command.Command) (any, error)
	}{
		{"set_format", command.NewSetFormat(1), uint32(1), func(c command.Command) (any, error) { return command.DecodeSetFormat(c) }},
		{"tick", command.NewTick("n1"), "n1", func(c command.Command) (any, error) { return command.DecodeTick(c) }},
		{
			"batch", command.NewBatch(testBatch(), 7),
			command.Batch{Batch: testBatch(), ConfigVersion: 7},
			func(c command.Command) (any, error) { return command.DecodeBatch(c) },
		},
		{
			"deliver", command.NewDeliver(testDeliver()), testDeliver(),
			func(c command.Command) (any, error) { return command.DecodeDeliver(c) },
		},
		{"forget_agent", command.NewForgetAgent("a1"), "a1", func(c command.Command) (any, error) { return command.DecodeForgetAgent(c) }},
		{
			"open_epoch", command.NewOpenEpoch("a1", epoch),
			command.OpenEpoch{Agent: "a1", Epoch: epoch},
			func(c command.Command) (any, error) { return command.DecodeOpenEpoch(c) },
		},
		{
			"register_series", command.NewRegisterSeries("a1", testSeries()),
			command.RegisterSeries{Agent: "a1", Series: testSeries()},
			func(c command.Command) (any, error) { return command.DecodeRegisterSeries(c) },
		},
		{
			"collect_series", command.NewCollectSeries([]uint64{900, 3, 4, 3}),
			[]uint64{3, 4, 900},
			func(c command.Command) (any, error) { return command.DecodeCollectSeries(c) },
		},
		{
			"heartbeats", command.NewHeartbeats([]command.Heartbeat{{Agent: "a1", Status: json.RawMessage(`{"v":1}`)}}),
			[]command.Heartbeat{{Agent: "a1", Status: json.RawMessage(`{"v":1}`)}},
			func(c command.Command) (any, error) { return command.DecodeHeartbeats(c) },
		},
		{"meta_txn", command.NewMetaTxn(testTxn()), testTxn(), func(c command.Command) (any, error) { return command.DecodeMetaTxn(c) }},
		{
			"retention_cut", command.NewRetentionCut(command.KindLogs, 1_700_000_000_000, command.CutSize),
			command.RetentionCut{Kind: command.KindLogs, Floor: 1_700_000_000_000, Reason: command.CutSize},
			func(c command.Command) (any, error) { return command.DecodeRetentionCut(c) },
		},
		{
			"selector_cut", command.NewSelectorCut(testSelectorCut()), testSelectorCut(),
			func(c command.Command) (any, error) { return command.DecodeSelectorCut(c) },
		},
	}
}

func testSelectorCut() command.SelectorCut {
	return command.SelectorCut{Kind: command.KindEvents, Day: 20_419, Through: 70_000, After: 300, Cuts: []command.CutLines{
		{
			Selector: wire.Selector{{Name: "host", Op: wire.MatchNotRegex, Value: "web.*"}, {Name: "unit", Op: wire.MatchEqual, Value: "nginx"}},
			Count:    900, Hi: 0x1122334455667788, Lo: 0x99aabbccddeeff00,
		},
		{Count: 1, Hi: 2, Lo: 3},
	}}
}

func TestSelectorCutRefuses(t *testing.T) {
	matcher := func(m wire.Matcher) func(*command.SelectorCut) {
		return func(c *command.SelectorCut) { c.Cuts[1].Selector = wire.Selector{m} }
	}
	for name, change := range map[string]func(*command.SelectorCut){
		"no streams":         func(c *command.SelectorCut) { c.Kind = command.KindMetrics },
		"day out of bounds":  func(c *command.SelectorCut) { c.Day = 1 << 40 },
		"without a selector": func(c *command.SelectorCut) { c.Cuts = nil },
		"count of selectors": func(c *command.SelectorCut) { c.Cuts = make([]command.CutLines, command.MaxCutSelectors+1) },
		"unknown operator":   matcher(wire.Matcher{Name: "a", Op: 5}),
		"name of a label":    matcher(wire.Matcher{Op: wire.MatchEqual}),
		"not valid UTF-8":    matcher(wire.Matcher{Name: "a", Op: wire.MatchEqual, Value: "\xff"}),
		"value of a matcher": matcher(wire.Matcher{Name: "a", Op: wire.MatchEqual, Value: strings.Repeat("x", wire.MaxSelectorValue+1)}),
		"out of order": func(c *command.SelectorCut) {
			c.Cuts[1].Selector = wire.Selector{{Name: "b", Op: wire.MatchEqual}, {Name: "a", Op: wire.MatchEqual}}
		},
		"bytes": func(c *command.SelectorCut) {
			c.Cuts[1].Selector = nil
			for i := range 3 {
				c.Cuts[1].Selector = append(c.Cuts[1].Selector, wire.Matcher{Name: string('a' + rune(i)), Op: wire.MatchEqual, Value: strings.Repeat("x", 500)})
			}
		},
	} {
		c := testSelectorCut()
		change(&c)
		if got, err := command.DecodeSelectorCut(command.NewSelectorCut(c)); !errors.Is(err, command.ErrMalformed) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: decoded as %+v, %v", name, got, err)
		}
	}
}

// What Apply remembers of cuts is part of the format.
func TestGoldenCutRecord(t *testing.T) {
	var rec command.CutRecord
	cut := testSelectorCut()
	if err := rec.Add(&cut, 1_700_000_000_000); err != nil {
		t.Fatal(err)
	}
	cut.Through, cut.Cuts = 80_000, cut.Cuts[:1] // the same selector again, of lines that came late
	if err := rec.Add(&cut, 1_700_000_060_000); err != nil {
		t.Fatal(err)
	}
	b := rec.Append(nil)
	golden(t, "cut_record", b)
	got, err := command.DecodeCutRecord(b)
	if err != nil || !reflect.DeepEqual(got, rec) || len(rec.Cuts) != 2 || rec.Cuts[0].Lines != 1800 || rec.Cuts[0].Through != 80_000 || rec.Cuts[1].Through != 70_000 ||
		rec.Cuts[0].At != 1_700_000_060_000 || rec.Cuts[1].At != 1_700_000_000_000 {
		t.Fatalf("%+v became %+v, %v", rec, got, err)
	}
	for n := range len(b) {
		if _, err := command.DecodeCutRecord(b[:n]); !errors.Is(err, command.ErrMalformed) {
			t.Errorf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
	many := testSelectorCut()
	many.Cuts = nil
	for i := range command.MaxCutSelectors - 1 {
		many.Cuts = append(many.Cuts, command.CutLines{Selector: wire.Selector{{Name: "n", Op: wire.MatchEqual, Value: fmt.Sprint(i)}}})
	}
	if err := rec.Add(&many, 5); err == nil || len(rec.Cuts) != 2 {
		t.Errorf("%d selectors are remembered: %v", len(rec.Cuts), err)
	}
	for _, kind := range []command.Kind{command.KindLogs, command.KindEvents} {
		key := command.CutKey(kind, 20_419)
		if k, day, err := command.ParseCutKey(key); k != kind || day != 20_419 || err != nil {
			t.Errorf("%s is of %s %d: %v", key, k, day, err)
		}
	}
	for _, key := range []string{"", "logs", "logs/", "logs/1", "metrics/020419", "logs/020419 ", "logs/0020419", "logs/-20419"} {
		if k, day, err := command.ParseCutKey(key); err == nil {
			t.Errorf("%q is of %s %d", key, k, day)
		}
	}
}

func testResults() []command.Result {
	return []command.Result{
		{Status: command.StatusOK, Index: 12, Accepted: 500},
		{Status: command.StatusGap, Expected: 9, Index: 12},
		{
			Status: command.StatusOK, Index: 12, Accepted: 1, Duplicates: 2, Rejected: 300,
			Items: []command.ItemError{{Item: 4, Reason: "older than the retention"}},
		},
		{Status: command.StatusUnknownIDs, Index: 12, IDs: []uint64{4, 900, 3}},
		{Status: command.StatusConflict, Detail: "users/eve"},
	}
}

// golden compares got with the file testdata/name, written as hexadecimal lines.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var b strings.Builder
		for len(got) > 0 {
			n := min(32, len(got))
			fmt.Fprintf(&b, "%x\n", got[:n])
			got = got[n:]
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the bytes of the format changed\n got %x\nwant %x", name, got, want)
	}
}

func TestGoldenCommands(t *testing.T) {
	covered := make(map[command.Type]bool)
	for _, c := range commands() {
		t.Run(c.name, func(t *testing.T) {
			e := command.Entry{Stamp: 1_700_000_000_123, Commands: []command.Command{c.cmd}}
			b := e.Append(nil)
			golden(t, c.name, b)
			if len(b) > command.Overhead+c.cmd.Size() {
				t.Errorf("entry has %d bytes, Size said %d", len(b), command.Overhead+c.cmd.Size())
			}
			d, err := command.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if d.Stamp != e.Stamp || len(d.Commands) != 1 || d.Commands[0].Type.String() != c.name {
				t.Fatalf("decoded as %+v", d)
			}
			got, err := c.decode(d.Commands[0])
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("decoded as %+v\nwant %+v", got, c.want)
			}
			for n := range len(c.cmd.Body) {
				short := c.cmd
				short.Body = short.Body[:n]
				if _, err := c.decode(short); err == nil && c.name != "batch" && c.name != "deliver" {
					t.Errorf("the first %d of %d bytes were decoded without an error", n, len(c.cmd.Body))
				}
			}
		})
		covered[c.cmd.Type] = true
	}
	for typ := command.TypeSetFormat; command.Known(typ, 1); typ++ {
		if !covered[typ] {
			t.Errorf("%s has no golden bytes", typ)
		}
	}
}

func TestGoldenResults(t *testing.T) {
	b := command.AppendResults(nil, testResults())
	golden(t, "results", b)
	got, err := command.DecodeResults(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, testResults()) {
		t.Errorf("decoded as %+v", got)
	}
	for n := range len(b) {
		if _, err := command.DecodeResults(b[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were decoded without an error", n, len(b))
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":               {},
		"other envelope":      {2, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"many commands":       {1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"type beyond 16 bits": {1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0x80, 0x04, 1, 0},
		"long body":           {1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 0xff, 0xff, 0x03, 0},
		"bytes left over":     {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if e, err := command.Decode(b); err == nil {
			t.Errorf("%s: decoded as %+v", name, e)
		}
	}
}

func TestDeliverRefuses(t *testing.T) {
	for name, change := range map[string]func(d *command.Deliver){
		"empty source":  func(d *command.Deliver) { d.Source = "" },
		"source":        func(d *command.Deliver) { d.Source = strings.Repeat("s", wire.MaxAgentID+1) },
		"lane":          func(d *command.Deliver) { d.Lane = wire.LaneBackfill },
		"lane that":     func(d *command.Deliver) { d.Lane = 0 },
		"unknown flags": func(d *command.Deliver) { d.Flags |= 2 },
		"unknown codec": func(d *command.Deliver) { d.Codec = 9 },
		"length":        func(d *command.Deliver) { d.RawLen = wire.MaxBatchRaw + 1 },
	} {
		d := testDeliver()
		change(&d)
		if got, err := command.DecodeDeliver(command.NewDeliver(d)); !errors.Is(err, command.ErrMalformed) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: decoded as %+v, %v", name, got, err)
		}
	}
}

// One long value that many label sets refer to must not be written out without bound.
func TestRegisterSeriesIsBounded(t *testing.T) {
	long := strings.Repeat("x", wire.MaxLabelValue)
	series := make([]wire.Labels, wire.MaxSeriesPerCall)
	for i := range series {
		series[i] = wire.Labels{{Name: "__name__", Value: long}}
	}
	c := command.NewRegisterSeries("a1", series)
	if len(c.Body) > 16<<10 {
		t.Errorf("body of %d bytes: values are to be written once", len(c.Body))
	}
	if _, err := command.DecodeRegisterSeries(c); err == nil {
		t.Error("4 MB of labels were decoded from a small body")
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range commands() {
		e := command.Entry{Stamp: 1, Commands: []command.Command{c.cmd}}
		f.Add(e.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := command.Decode(b)
		if err != nil {
			return
		}
		again, err := command.Decode(e.Append(nil))
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v became %+v, %v", e, again, err)
		}
		for _, c := range e.Commands {
			for _, known := range commands() {
				if _, err := known.decode(c); err == nil && c.Type&^command.Ignorable != known.cmd.Type {
					t.Fatalf("%s decoded as %s", c.Type, known.name)
				}
			}
		}
	})
}

func FuzzDecodeResults(f *testing.F) {
	f.Add(command.AppendResults(nil, testResults()))
	f.Fuzz(func(t *testing.T, b []byte) {
		rs, err := command.DecodeResults(b)
		if err != nil {
			return
		}
		again, err := command.DecodeResults(command.AppendResults(nil, rs))
		if err != nil || !reflect.DeepEqual(again, rs) {
			t.Fatalf("%+v became %+v, %v", rs, again, err)
		}
	})
}
