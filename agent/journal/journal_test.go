package journal

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
    --after-cursor=gone) echo "Failed to seek to cursor: Invalid argument" >&2; exit 1;;
    --after-cursor=*) after=${a#--after-cursor=};;
  esac
done
while read -r n entry; do
  if [ "$n" -gt "$after" ]; then echo "$entry"; fi
done < "$ENTRIES"
`

type rig struct {
	sp    *spool.Spool
	coder *wire.Coder
	b     *lines.Batcher
	cmd   []string
	file  string
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
	b := lines.NewBatcher(wire.LaneLogs, r.sp, r.coder, slog.New(slog.DiscardHandler), nil)
	f := New(Config{
		Command: r.cmd, Batcher: b, Log: slog.New(slog.DiscardHandler),
		Cursor: string(r.sp.State(wire.LaneLogs)[StateKey]),
	})
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
