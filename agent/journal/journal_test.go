package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

// fake is a journalctl that prints the entries behind the cursor and ends.
const fake = `#!/bin/sh
after=0
for a in "$@"; do
  case "$a" in
    --output-fields=*) if [ -n "$OLD" ]; then echo "journalctl: unrecognized option '$a'" >&2; exit 1; fi;;
    --after-cursor=gone) echo "Failed to seek to cursor: Invalid argument" >&2; exit 1;;
    --after-cursor=*) after=${a#--after-cursor=};;
  esac
done
awk -v after="$after" '$1 + 0 > after + 0 { sub(/^[0-9]+ /, ""); print }' "$ENTRIES"
`

type rig struct {
	sp     *spool.Spool
	coder  *wire.Coder
	b      *lines.Batcher
	cmd    []string
	file   string
	whole  bool
	told   []string
	adjust func(c *Config) // may be nil
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{cmd: []string{"/bin/sh", filepath.Join(dir, "journalctl")}, file: filepath.Join(dir, "entries")}
	if err := os.WriteFile(r.cmd[1], []byte(fake), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ENTRIES", r.file)
	var err error
	if r.sp, err = spool.Open(filepath.Join(dir, "spool"), spool.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.sp.Close() })
	if r.coder, err = wire.NewCoder(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) entries(t *testing.T, list ...string) {
	t.Helper()
	var b strings.Builder
	for i, e := range list {
		fmt.Fprintf(&b, "%d %s\n", i+1, strings.Replace(e, "{", fmt.Sprintf(`{"__CURSOR":"%d","__REALTIME_TIMESTAMP":"17000000000000%02d",`, i+1, i+1), 1))
	}
	if err := os.WriteFile(r.file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// follow lives once: it reads what there is, from where the spool stands.
func (r *rig) follow(t *testing.T, flush bool) *Follower {
	t.Helper()
	b := lines.NewBatcher(wire.LaneLogs, r.sp, r.coder, nil, slog.New(slog.DiscardHandler), nil)
	conf := Config{
		Command: r.cmd, Batcher: b, Log: slog.New(slog.DiscardHandler),
		Cursor: string(r.sp.State(wire.LaneLogs)[StateKey]), Report: func(kind, text string) { r.told = append(r.told, kind+": "+text) },
	}
	if r.adjust != nil {
		r.adjust(&conf)
	}
	f := New(conf)
	f.whole = r.whole
	if err := f.follow(t.Context()); err == nil {
		t.Error("the end of journalctl is no error")
	}
	if flush {
		if err := b.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (r *rig) got(t *testing.T) []wire.LogStream {
	t.Helper()
	batches, err := r.sp.Read(wire.LaneLogs, 1, 100, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var out []wire.LogStream
	for i := range batches {
		raw, err := r.coder.Decompress(nil, &batches[i])
		if err != nil {
			t.Fatal(err)
		}
		b, err := wire.DecodeLogs(raw)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b.Streams...)
	}
	return out
}

// What the boot before wrote at last is not passed over, and other machines' journals are left alone.
func TestEveryBootOfThisMachineIsRead(t *testing.T) {
	args := New(Config{Machine: "0123", Units: []string{"a.service"}}).args()
	for _, want := range []string{"--merge", "_MACHINE_ID=0123", "--unit=a.service"} {
		if !slices.Contains(args, want) {
			t.Errorf("journalctl is not given %s: %q", want, args)
		}
	}
	if args := New(Config{}).args(); slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "_MACHINE_ID") }) {
		t.Errorf("a machine without an id: %q", args)
	}
}

func TestEntries(t *testing.T) {
	r := newRig(t)
	all := []string{
		`{"MESSAGE":"hello","PRIORITY":"3","_SYSTEMD_UNIT":"a.service","SYSLOG_IDENTIFIER":"a","_PID":"7"}`,
		`{"MESSAGE":[104,105,255],"PRIORITY":"6","SYSLOG_IDENTIFIER":"kernel"}`,
		`{"MESSAGE":null}`,
		`{"MESSAGE":["first","second"],"_SYSTEMD_UNIT":"a.service"}`,
	}
	r.entries(t, all[:2]...)
	r.follow(t, true)
	r.entries(t, all...)
	r.follow(t, true)
	r.follow(t, true) // nothing new
	streams := r.got(t)
	var texts []string
	for _, s := range streams {
		for _, l := range s.Lines {
			texts = append(texts, s.Labels.Get("source")+"/"+s.Labels.Get("unit")+" "+string(l.Text)+" "+l.Severity.String())
		}
	}
	want := "journal/a.service hello error|journal/kernel hi\xff info|journal/a.service first unknown"
	if got := strings.Join(texts, "|"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	first := streams[0].Lines[0]
	if first.T != 1700000000000001000 || len(first.Fields) != 2 || first.Fields[1].Value != "7" {
		t.Errorf("line %+v", first)
	}
	if c := string(r.sp.State(wire.LaneLogs)[StateKey]); c != "4" {
		t.Errorf("cursor %q", c)
	}
}

// What rules leave out is counted, moves the position, and is not sent.
func TestFilters(t *testing.T) {
	r := newRig(t)
	r.adjust = func(c *Config) {
		c.Drop, c.Keep = []*regexp.Regexp{regexp.MustCompile("health")}, []*regexp.Regexp{regexp.MustCompile("shop|health")}
	}
	r.entries(t, `{"MESSAGE":"shop opens"}`, `{"MESSAGE":"health of shop"}`, `{"MESSAGE":"something else"}`)
	f := r.follow(t, true)
	var texts []string
	for _, s := range r.got(t) {
		for _, l := range s.Lines {
			texts = append(texts, string(l.Text))
		}
	}
	if got := strings.Join(texts, "|"); got != "shop opens" || f.Filtered.Load() != 2 {
		t.Errorf("%q came, %d were left out", got, f.Filtered.Load())
	}
	if c := string(r.sp.State(wire.LaneLogs)[StateKey]); c != "3" {
		t.Errorf("cursor %q", c)
	}
	if args := New(Config{Priority: "warning"}).args(); !slices.Contains(args, "--priority=warning") {
		t.Errorf("journalctl is not given the priority: %q", args)
	}
}

func TestLostCursor(t *testing.T) {
	r := newRig(t)
	r.entries(t, `{"MESSAGE":"x"}`)
	if err := r.sp.AppendState(wire.LaneLogs, []spool.StateChange{{Key: StateKey, Value: []byte("gone")}}); err != nil {
		t.Fatal(err)
	}
	if f := r.follow(t, true); f.cursor != "" {
		t.Errorf("the lost cursor %q is kept", f.cursor)
	}
}

// TestAnyName: whoever writes to the journal chooses the identifier and other names; lines go on.
func TestAnyName(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("x", 600<<10)
	r.entries(t, `{"MESSAGE":"a","SYSLOG_IDENTIFIER":"`+long+`","_PID":"`+long+`","_SYSTEMD_UNIT":"u"}`,
		`{"MESSAGE":"b","SYSLOG_IDENTIFIER":[178,226]}`, `{"MESSAGE":"c","_SYSTEMD_UNIT":"`+long+`"}`)
	r.follow(t, true)
	streams := r.got(t)
	if len(streams) != 3 {
		t.Fatalf("%d streams", len(streams))
	}
	for _, s := range streams {
		if err := wire.CheckStreamLabels(s.Labels); err != nil {
			t.Error(err)
		}
		for _, f := range s.Lines[0].Fields {
			if len(f.Value) > lines.NameMax || !utf8.ValidString(f.Value) {
				t.Errorf("field %s of %d bytes", f.Name, len(f.Value))
			}
		}
	}
	if unit := streams[1].Labels.Get("unit"); unit != `\xb2\xe2` {
		t.Errorf("unit %q", unit)
	}
}

// TestLargeEntry: an entry that is too large for us is lost, told of, and passed; its cursor may stand anywhere in it.
func TestLargeEntry(t *testing.T) {
	r := newRig(t)
	large := strings.Repeat(`large \\\" `, maxEntry/8)
	for _, at := range []string{`{"__CURSOR":"2","MESSAGE":"%s"}`, `{"MESSAGE":"%s","x":{"__CURSOR":"9"},"y":["__CURSOR","8"],"__CURSOR":"2","SYSLOG_IDENTIFIER":"app"}`} {
		text := `1 {"__CURSOR":"1","MESSAGE":"one"}` + "\n2 " + fmt.Sprintf(at, large) + "\n" + `3 {"__CURSOR":"3","MESSAGE":"three"}` + "\n"
		if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.sp.AppendState(wire.LaneLogs, []spool.StateChange{{Key: StateKey}}); err != nil {
			t.Fatal(err)
		}
		f := r.follow(t, true)
		if f.cursor != "3" || f.Lost.Load() != 1 || f.Entries.Load() != 2 {
			t.Errorf("cursor %q, %d lost, %d taken", f.cursor, f.Lost.Load(), f.Entries.Load())
		}
	}
	if len(r.told) != 2 || !strings.Contains(r.told[1], `of "app" has`) {
		t.Errorf("told %.200q", r.told)
	}
	// The journal ends with it.
	if err := os.WriteFile(r.file, []byte(`4 {"MESSAGE":"`+large+`","__CURSOR":"4"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := r.follow(t, true); f.cursor != "4" || string(r.sp.State(wire.LaneLogs)[StateKey]) != "4" {
		t.Errorf("cursor %q, spooled %q", f.cursor, r.sp.State(wire.LaneLogs)[StateKey])
	}
}

// TestManyLargeEntriesAreToldOnce: reports are bounded by time, and none is forgotten.
func TestManyLargeEntriesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		coder, err := wire.NewCoder()
		if err != nil {
			t.Fatal(err)
		}
		b := lines.NewBatcher(wire.LaneLogs, nowhere{}, coder, nil, slog.New(slog.DiscardHandler), nil)
		f := New(Config{
			Batcher: b, Log: slog.New(slog.DiscardHandler),
			Report: func(_, text string) { told = append(told, text) },
		})
		for range 100 {
			f.lost(t.Context(), "1", "it is large")
			f.tell()
		}
		if len(told) != 1 {
			t.Errorf("told %q", told)
		}
		time.Sleep(tellAgain)
		if err := f.entries(t.Context(), strings.NewReader(`{"__CURSOR":"2","MESSAGE":"x"}`+"\n")); err != nil {
			t.Fatal(err)
		}
		if len(told) != 2 || !strings.HasPrefix(told[1], "99 more") {
			t.Errorf("told %q", told)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

type nowhere struct{}

func (nowhere) Append(wire.Lane, spool.Content) error            { return nil }
func (nowhere) AppendState(wire.Lane, []spool.StateChange) error { return nil }

// TestOldEntryOfALiveJournal: an entry written just now under a clock that was wrong gets the time of its reading;
// entries read before the end of the journal was reached keep theirs.
func TestOldEntryOfALiveJournal(t *testing.T) {
	r := newRig(t)
	at := func(ago time.Duration) int64 { return time.Now().Add(-ago).UnixMicro() }
	const day = 24 * time.Hour
	want := []struct {
		us    int64
		moved bool
	}{{at(400 * day), false}, {at(0), false}, {at(6 * day), false}, {at(8 * day), true}, {1, true}, {at(0), false}}
	var text strings.Builder
	for i, w := range want {
		fmt.Fprintf(&text, `%d {"__CURSOR":"%d","__REALTIME_TIMESTAMP":"%d","MESSAGE":"1970-01-01T00:00:00Z x","_PID":"7"}`+"\n", i+1, i+1, w.us)
	}
	if err := os.WriteFile(r.file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	r.follow(t, true)
	got := r.got(t)[0].Lines
	for i, w := range want {
		l := got[i]
		moved := slices.ContainsFunc(l.Fields, func(f wire.Label) bool {
			return f.Name == "time_parsed" && f.Value == time.UnixMicro(w.us).UTC().Format(time.RFC3339Nano)
		})
		if moved != w.moved || !moved && l.T != w.us*1000 || moved && l.T < start.UnixNano() {
			t.Errorf("entry %d: time %s, fields %v", i+1, time.Unix(0, l.T), l.Fields)
		}
	}
}

// TestOldJournalctl: one that cannot leave fields out is asked for all of them.
func TestOldJournalctl(t *testing.T) {
	r := newRig(t)
	t.Setenv("OLD", "1")
	r.entries(t, `{"MESSAGE":"x"}`)
	f := r.follow(t, true)
	if !f.whole || f.Entries.Load() != 0 {
		t.Fatalf("whole %v, %d entries", f.whole, f.Entries.Load())
	}
	r.whole = true
	if f := r.follow(t, true); f.Entries.Load() != 1 {
		t.Errorf("%d entries", f.Entries.Load())
	}
}

// TestWhatIsUsedIsAskedFor: a field that the record takes and journalctl does not print would always be empty.
func TestWhatIsUsedIsAskedFor(t *testing.T) {
	for f := range reflect.TypeFor[record]().Fields() {
		name := f.Tag.Get("json")
		if !strings.HasPrefix(name, "__") && !slices.Contains(strings.Split(fields, ","), name) {
			t.Errorf("%s is not asked for", name)
		}
	}
}

func FuzzSkimmed(f *testing.F) {
	f.Add([]byte(`{"a":["__CURSOR","x",{"__CURSOR":"y"}],"__CURSOR":"z\"\u0041"}`), 3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		s := newSkimmed()
		k := min(len(b), max(0, n))
		s.take(b[:k])
		s.take(b[k:])
		var want struct {
			Cursor string `json:"__CURSOR"`
		}
		var keys map[string]json.RawMessage
		if json.Unmarshal(b, &keys) != nil || len(b) > skimmedMax || json.Unmarshal(b, &want) != nil || bytes.Count(b, []byte("_")) != 2 {
			return
		}
		if s.values[keyCursor] != want.Cursor {
			t.Errorf("%q: %q, want %q", b, s.values[keyCursor], want.Cursor)
		}
	})
}

// Who takes entries himself goes on behind the last one by its time when the cursor is gone, not where he began months ago.
func TestTakenGoesOnByTimeWithoutCursor(t *testing.T) {
	r := newRig(t)
	r.entries(t, `{"MESSAGE":"one"}`, `{"MESSAGE":"two"}`)
	taken := 0
	f := New(Config{
		Command: r.cmd, Log: slog.New(slog.DiscardHandler), Since: time.Unix(1_600_000_000, 0),
		Take: func(context.Context, *Entry) error { taken++; return nil },
	})
	if args := f.args(); !slices.Contains(args, "--since=@1600000000.000000") {
		t.Errorf("at first journalctl is called with %q", args)
	}
	if err := f.follow(t.Context()); err == nil || taken != 2 {
		t.Fatalf("%d entries taken: %v", taken, err)
	}
	f.cursor = "gone"
	if err := f.follow(t.Context()); err == nil || f.cursor != "" {
		t.Fatalf("the cursor is %q: %v", f.cursor, err)
	}
	if args := f.args(); !slices.Contains(args, "--since=@1700000000.000003") {
		t.Errorf("without its cursor journalctl is called with %q", args)
	}
}
