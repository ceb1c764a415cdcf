package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

// rig is a source over a real spool; each life begins with what the spool kept.
type rig struct {
	t     *testing.T
	sp    *spool.Spool
	coder *wire.Coder
	cfg   Config
	boot  string

	mounts []Mount
	used   map[string]int64 // of 1000
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, boot: "b1", used: map[string]int64{}}
	var err error
	if r.sp, err = spool.Open(filepath.Join(t.TempDir(), "spool"), spool.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.sp.Close() })
	if r.coder, err = wire.NewCoder(); err != nil {
		t.Fatal(err)
	}
	r.cfg = Config{
		Warn: 90, Critical: 95, Log: slog.New(slog.DiscardHandler), BootID: func() string { return r.boot },
		Mounts: func() ([]Mount, error) { return r.mounts, nil },
		Usage: func(p string) (Usage, error) {
			if used, ok := r.used[p]; ok {
				return Usage{Used: used, Free: 1000 - used}, nil
			}
			return Usage{}, errors.New("gone")
		},
	}
	return r
}

// life begins a life of the source; end ends it, in order or by a crash.
func (r *rig) life() (s *Source, end func(orderly bool)) {
	r.t.Helper()
	cfg := r.cfg
	cfg.State = r.sp.State(wire.LaneEvents)[StateKey]
	cfg.Batcher = lines.NewBatcher(wire.LaneEvents, r.sp, r.coder, nil, cfg.Log, nil)
	s, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return s, func(orderly bool) {
		ctx := context.Background()
		if !orderly { // what was not flushed by itself is lost, as in a crash
			gone, cancel := context.WithCancel(ctx)
			cancel()
			ctx = gone
		} else {
			s.Close(ctx)
		}
		if err := cfg.Batcher.Close(ctx); orderly && err != nil {
			r.t.Error(err)
		}
	}
}

// told are all events in the spool: name, key, severity and count.
func (r *rig) told() (out []string) {
	r.t.Helper()
	batches, err := r.sp.Read(wire.LaneEvents, 1, 1000, 1<<22)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range batches {
		raw, err := r.coder.Decompress(nil, &batches[i])
		if err != nil {
			r.t.Fatal(err)
		}
		b, err := wire.DecodeLogs(raw)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, s := range b.Streams {
			if s.Kind != wire.StreamEvent || s.Labels.Get("source") != "agent" {
				r.t.Errorf("stream %v of kind %d", s.Labels, s.Kind)
			}
			for _, l := range s.Lines {
				f := wire.Labels(l.Fields)
				text := s.Labels.Get("name") + " " + f.Get("key") + " " + l.Severity.String()
				if n := f.Get("count"); n != "" {
					text += " x" + n
				}
				out = append(out, text)
			}
		}
	}
	return out
}

func (r *rig) want(list ...string) {
	r.t.Helper()
	if got := r.told(); !slices.Equal(got, list) {
		r.t.Errorf("told %q, want %q", got, list)
	}
}

func TestFilesystemFillsWithHysteresis(t *testing.T) {
	r := newRig(t)
	r.mounts = []Mount{{Point: "/", Device: "/dev/sda1", Type: "ext4"}, {Point: "/data", Device: "/dev/sdb1", Type: "xfs"}}
	r.cfg.Exclude = []string{"/data"}
	r.used["/data"] = 999
	s, end := r.life()
	look := func(s *Source, used int64, rw map[string]bool) {
		t.Helper()
		r.used["/"] = used
		if err := s.lookAtFilesystems(t.Context(), rw); err != nil {
			t.Fatal(err)
		}
	}
	rw := map[string]bool{}
	for _, used := range []int64{500, 899, 901, 889, 905, 951, 940, 951} { // 88.9 % is not yet below 87 %, 94 % not below 92 %
		look(s, used, rw)
	}
	want := []string{"filesystem_full / warning", "filesystem_full / critical"}
	r.want(want...)
	end(false)
	// Another life of the agent does not tell it again.
	s, end = r.life()
	rw = map[string]bool{}
	look(s, 951, rw)
	r.want(want...)
	look(s, 800, rw)
	want = append(want, "filesystem_room / info")
	r.want(want...)
	// It turns read-only while it is watched.
	r.mounts[0].ReadOnly = true
	look(s, 800, rw)
	look(s, 800, rw)
	want = append(want, "filesystem_read_only / critical")
	r.want(want...)
	r.mounts[0].ReadOnly = false
	look(s, 800, rw)
	r.want(append(want, "filesystem_writable / info")...)
	end(true)
}

func TestStartsAreTold(t *testing.T) {
	r := newRig(t)
	life := func(orderly bool) {
		t.Helper()
		s, end := r.life()
		if err := s.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		end(orderly)
	}
	life(true) // the first of all
	life(true)
	r.want()
	life(false)
	life(true)
	want := []string{"agent_crashed  warning"}
	r.want(want...)
	r.boot = "b2"
	life(false)
	want = append(want, "reboot  notice")
	r.want(want...)
	r.boot = "b3"
	life(true)
	want = append(want, "reboot  error")
	r.want(want...)
	r.cfg.Disable = []string{SourceReboot}
	r.boot = "b4"
	life(true)
	r.want(want...)
}

// A unit that flaps is one event, and one with a count each minute, whatever the number of lives of the agent.
func TestRepeatsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		s, end := r.life()
		flap := func(s *Source, n int) {
			for range n {
				if err := s.Emit(t.Context(), Event{Name: UnitFailed, Key: "a.service", Severity: wire.SeverityError, Text: "failed"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		flap(s, 30)
		want := []string{"unit_failed a.service error"}
		r.want(want...)
		end(true)
		s, end = r.life()
		flap(s, 10)
		time.Sleep(window)
		s.summarize(t.Context())
		want = append(want, "unit_failed a.service error x39")
		r.want(want...)
		time.Sleep(window)
		s.summarize(t.Context())
		flap(s, 1) // it was quiet for a while: told at once
		r.want(append(want, "unit_failed a.service error")...)
		end(true)
	})
}

func TestStormIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		s, end := r.life()
		for i := range 5000 {
			if err := s.Emit(t.Context(), Event{Name: ProcessCrashed, Key: fmt.Sprint("p", i), Severity: wire.SeverityError, Text: "crashed"}); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(r.told()); n != burst {
			t.Errorf("%d events told, want %d", n, burst)
		}
		time.Sleep(window)
		s.summarize(t.Context())
		got := r.told()
		if last := got[len(got)-1]; !slices.Contains(got, fmt.Sprintf("events_suppressed  error x%d", 5000-burst)) {
			t.Errorf("the last is %q", last)
		}
		end(true)
	})
}

// What is written with each event stays within what the spool takes, however much happens again with however long words:
// else the event would be given up with it. What is not kept apart for that is counted with the suppressed.
func TestStateFitsTheSpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		s, end := r.life()
		long := strings.Repeat("\x01", tagMax/2)
		for i := range 2 * burst {
			name := fmt.Sprintf("p%d %s", i%burst, long)
			if err := s.Emit(t.Context(), Event{
				Name: ProcessCrashed, Key: name, Severity: wire.SeverityError, Text: "process " + name + " crashed",
				Tags: map[string]string{"process": name, "unit": long, "exe": long},
			}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(window)
		s.summarize(t.Context())
		told, again := r.told(), 0
		if len(told) < burst {
			t.Fatalf("%d of %d events are told, %d lines were given up", len(told), burst, s.cfg.Batcher.Lost.Load())
		}
		for _, text := range told[burst:] {
			n := 1
			if i := strings.LastIndex(text, " x"); i >= 0 {
				n, _ = strconv.Atoi(text[i+2:])
			}
			again += n
		}
		if again != burst || s.cfg.Batcher.Lost.Load() > 0 {
			t.Errorf("of %d events that came again %d are told, %d lines were given up", burst, again, s.cfg.Batcher.Lost.Load())
		}
		for i := range maxMounts { // full file systems with long names as well
			name := fmt.Sprintf("/%s/%d", long, i)
			r.mounts, r.used[name] = append(r.mounts, Mount{Point: name}), 990
		}
		if err := s.lookAtFilesystems(t.Context(), map[string]bool{}); err != nil {
			t.Fatal(err)
		}
		end(true)
		if n := len(r.sp.State(wire.LaneEvents)[StateKey]); n == 0 || n > 64<<10 || s.cfg.Batcher.Lost.Load() > 0 {
			t.Errorf("the state has %d bytes, %d lines were given up", n, s.cfg.Batcher.Lost.Load())
		}
	})
}

// What is counted together while the repeats are told is told with the others, once.
func TestSummaryOfAStateTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		s, end := r.life()
		long := strings.Repeat("\x01", tagMax)
		for i := range maxHeld - 1 {
			name := fmt.Sprint("p", i, long)
			s.st.Held[name] = &repeat{Name: ProcessCrashed, Key: name, Severity: wire.SeverityError, Text: long, Count: 2, Until: time.Now().UnixMilli()}
		}
		for range 3 {
			s.summarize(t.Context())
			time.Sleep(window)
		}
		told := 0
		for _, text := range r.told() {
			n, err := strconv.Atoi(text[strings.LastIndex(text, " x")+2:])
			if err != nil {
				t.Fatal(err)
			}
			told += n
		}
		if told != 2*(maxHeld-1) || s.cfg.Batcher.Lost.Load() > 0 {
			t.Errorf("%d of %d are told, %d lines were given up", told, 2*(maxHeld-1), s.cfg.Batcher.Lost.Load())
		}
		end(true)
	})
}

// journalctl prints the entries behind the cursor and ends.
const journalctl = `#!/bin/sh
after=0
for a in "$@"; do
  case "$a" in --after-cursor=*) after=${a#--after-cursor=};; esac
done
echo "$@" >> "$ENTRIES.args"
awk -v after="$after" '$1 + 0 > after + 0 { sub(/^[0-9]+ /, ""); print }' "$ENTRIES"
`

func TestJournal(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	script, file := filepath.Join(dir, "journalctl"), filepath.Join(dir, "entries")
	t.Setenv("ENTRIES", file)
	if err := os.WriteFile(script, []byte(journalctl), 0o700); err != nil {
		t.Fatal(err)
	}
	entries := []string{
		`"MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c","UNIT":"web.service","UNIT_RESULT":"exit-code","MESSAGE":"web.service: Failed with result 'exit-code'."`,
		`"_TRANSPORT":"kernel","PRIORITY":"3","MESSAGE":"Out of memory: Killed process 4711 (java) total-vm:9kB, anon-rss:8kB"`,
		`"_TRANSPORT":"kernel","PRIORITY":"2","MESSAGE":"something else"`,
		`"_TRANSPORT":"syslog","MESSAGE":"Out of memory: Killed process 1 (forged) by a user"`,
		`"MESSAGE_ID":"fc2e22bc6ee647b6b90729ab34a250b1","COREDUMP_COMM":"nginx","COREDUMP_SIGNAL_NAME":"SIGSEGV","MESSAGE":"dumped core"`,
		`"MESSAGE_ID":"fe6faa94e7774663a0da52717891d8ef","UNIT":"db.service","MESSAGE":"killed by the OOM killer"`,
		`"MESSAGE_ID":["no","text"],"MESSAGE":null`,
	}
	var b strings.Builder
	for i, e := range entries {
		fmt.Fprintf(&b, "%d {\"__CURSOR\":\"%d\",\"__REALTIME_TIMESTAMP\":\"17000000000000%02d\",%s}\n", i+1, i+1, i, e)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.cfg.Journal, r.cfg.Command, r.cfg.Machine = true, []string{"/bin/sh", script}, "m1"
	want := []string{
		"unit_failed web.service error", "oom_kill java critical", "process_crashed nginx error", "oom_kill db.service critical",
	}
	for range 2 { // the second life begins where the first one was
		s, end := r.life()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.follower.Run(ctx) }()
		for s.follower.Restarts.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		end(true)
		r.want(want...)
	}
	args, err := os.ReadFile(file + ".args")
	if err != nil {
		t.Fatal(err)
	}
	lives := strings.Split(strings.TrimSpace(string(args)), "\n")
	if !strings.Contains(lives[0], "--since=@") || !strings.Contains(lives[1], "--after-cursor=7") && !strings.Contains(lives[1], "--after-cursor=6") {
		t.Errorf("journalctl was called with %q", lives)
	}
	// Should the entry of the cursor be gone, what was told is not read again.
	if st := string(r.sp.State(wire.LaneEvents)[StateKey]); !strings.Contains(st, `"since":1700000000001`) {
		t.Errorf("without the cursor it would be read on from %s", st)
	}
	if !strings.Contains(lives[0], "_MACHINE_ID=m1 MESSAGE_ID="+idUnitFailure+" MESSAGE_ID="+idUnitOOM+" MESSAGE_ID="+idCoredump+" + _MACHINE_ID=m1 _TRANSPORT=kernel PRIORITY=0") {
		t.Errorf("matches: %q", lives[0])
	}
}

func TestClockJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var off atomic.Int64
		r.cfg.Wall = func() time.Time { return time.Now().Round(0).Add(time.Duration(off.Load())) }
		s, end := r.life()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		r.want()
		off.Store(-int64(time.Hour))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r.want("clock_jumped  warning")
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		end(true)
	})
}

func TestMountinfo(t *testing.T) {
	list, err := parseMounts(strings.NewReader(`22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
23 22 0:5 / /proc rw - proc proc rw
24 22 8:17 / /srv/my\040data rw,noatime - xfs /dev/sdb1 ro,attr2
25 22 8:1 /var /mnt/var rw - ext4 /dev/sda1 rw
26 22 0:44 / /net rw - nfs4 server:/x rw
broken
`))
	want := []Mount{{Point: "/", Device: "/dev/sda1", Type: "ext4"}, {Point: "/srv/my data", Device: "/dev/sdb1", Type: "xfs", ReadOnly: true}}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%v %v", list, err)
	}
}
