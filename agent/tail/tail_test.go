package tail

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

var update = flag.Bool("update", false, "write the golden bytes anew (only before format 1)")

// gate is a spool that a dying process cannot write to any more.
type gate struct {
	sp   *spool.Spool
	dead atomic.Bool
	full atomic.Bool
	slow atomic.Int64 // how long an append takes
}

var errDead = &fs.PathError{Op: "write", Path: "spool", Err: errors.New("the process is dead")}

func (g *gate) Append(lane wire.Lane, c spool.Content) error {
	if g.dead.Load() {
		return errDead
	}
	time.Sleep(time.Duration(g.slow.Load()))
	if g.full.Load() {
		return spool.ErrFull
	}
	return g.sp.Append(lane, c)
}

func (g *gate) AppendState(lane wire.Lane, changes []spool.StateChange) error {
	if g.dead.Load() {
		return errDead
	}
	return g.sp.AppendState(lane, changes)
}

// rig is a folder of log files with a tailer over it.
type rig struct {
	t     *testing.T
	dir   string
	cfg   Config
	coder *wire.Coder
	sp    *spool.Spool
	gate  *gate
	b     *lines.Batcher
	tail  *Tailer
	stop  func()
	told  []string
}

func newRig(t *testing.T, groups ...Group) *rig {
	t.Helper()
	coder, err := wire.NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: t.TempDir(), coder: coder}
	if len(groups) == 0 {
		groups = []Group{{Include: []string{"*.log"}}}
	}
	for i := range groups {
		for j, g := range groups[i].Include {
			groups[i].Include[j] = filepath.Join(r.dir, g)
		}
	}
	r.cfg = Config{Groups: groups, InitialBacklog: 8 << 20, Parser: &lines.Parser{Zone: time.UTC}}
	if r.sp, err = spool.Open(filepath.Join(t.TempDir(), "spool"), spool.Options{}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) start() {
	r.gate = &gate{sp: r.sp}
	log := slog.New(slog.DiscardHandler)
	r.b = lines.NewBatcher(wire.LaneLogs, r.gate, r.coder, nil, log, nil)
	r.cfg.Report = func(kind, text string) { r.told = append(r.told, kind+": "+text) }
	r.cfg.Batcher, r.cfg.State, r.cfg.Log = r.b, r.sp.State(wire.LaneLogs), log
	r.tail = New(r.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.tail.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("tail: %v", err)
		}
	}
}

// end stops cleanly: what was read is spooled.
func (r *rig) end() {
	r.t.Helper()
	r.stop()
	if err := r.b.Close(context.Background()); err != nil {
		r.t.Error(err)
	}
}

// crash stops as kill -9 does: what is not spooled is gone.
func (r *rig) crash() {
	r.gate.dead.Store(true)
	r.stop()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	r.b.Close(gone)
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	f, err := os.OpenFile(r.path(name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(f, text); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// copyTruncate rotates as logrotate's copytruncate does.
func (r *rig) copyTruncate(name, to string) {
	r.t.Helper()
	b, err := os.ReadFile(r.path(name))
	r.must(err)
	r.must(os.WriteFile(r.path(to), b, 0o600))
	r.must(os.Truncate(r.path(name), 0))
}

// streams passes all streams in the spool to fn, in order.
func (r *rig) streams(fn func(*wire.LogStream)) {
	r.t.Helper()
	batches, err := r.sp.Read(wire.LaneLogs, 1, 1<<20, 1<<30)
	r.must(err)
	for i := range batches {
		raw, err := r.coder.Decompress(nil, &batches[i])
		r.must(err)
		b, err := wire.DecodeLogs(raw)
		r.must(err)
		for i := range b.Streams {
			fn(&b.Streams[i])
		}
	}
}

// spooled returns all lines in the spool, in order.
func (r *rig) spooled() []wire.LogLine {
	r.t.Helper()
	var out []wire.LogLine
	r.streams(func(s *wire.LogStream) {
		if err := wire.CheckStreamLabels(s.Labels); err != nil || s.Labels.Get("source") != "file" || s.Labels.Get("file") == "" {
			r.t.Errorf("stream %v: %v", s.Labels, err)
		}
		out = append(out, s.Lines...)
	})
	return out
}

// files returns the labels that name files, of all lines in the spool.
func (r *rig) files() []string {
	r.t.Helper()
	var out []string
	r.streams(func(s *wire.LogStream) {
		if f := s.Labels.Get("file"); !slices.Contains(out, f) {
			out = append(out, f)
		}
	})
	return out
}

func (r *rig) texts() string {
	var out []string
	for _, l := range r.spooled() {
		out = append(out, string(l.Text))
	}
	return strings.Join(out, "|")
}

// settle lets all timers of a short while pass.
func settle() { time.Sleep(30 * time.Second) }

func run(t *testing.T, fn func(t *testing.T, r *rig), groups ...Group) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, groups...)
		defer r.sp.Close()
		fn(t, r)
	})
}

func (r *rig) want(want string) {
	r.t.Helper()
	if got := r.texts(); got != want {
		r.t.Errorf("spooled %q, want %q", got, want)
	}
}

func TestLines(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.write("a.log", "one\r\n\ntwo\npart")
		r.start()
		settle()
		r.want("one|two")
		r.write("a.log", "ly\nthree\n")
		r.write("b.log", "b1\n")
		r.write("c.txt", "not asked for\n")
		settle()
		r.end()
		r.want("one|two|partly|three|b1")
	})
}

func TestTimeAndSeverityAreTaken(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.write("a.log", "2026-11-23T21:00:01.5Z ERROR it broke\nplain\n")
		r.start()
		settle()
		r.end()
		got := r.spooled()
		if got[0].T != time.Date(2026, 11, 23, 21, 0, 1, 5e8, time.UTC).UnixNano() || got[0].Severity != wire.SeverityError {
			t.Errorf("line %+v", got[0])
		}
		if d := time.Since(time.Unix(0, got[1].T)); d < 0 || d > time.Hour {
			t.Errorf("a line without time is %s old", d)
		}
	})
}

// TestOldDateInALiveLine: a line that was written just now keeps its place in time, whatever date it begins with; what
// was written before anybody looked keeps the time that it states.
func TestOldDateInALiveLine(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		at := func(ago time.Duration) string { return time.Now().Add(-ago).UTC().Format(time.RFC3339) }
		const day = 24 * time.Hour
		stated := map[string]string{}
		write := func(text, date string) {
			stated[text] = date
			r.write("a.log", date+" "+text+"\n")
		}
		r.cfg.Poll, r.cfg.Rescan = 5*time.Second, time.Hour
		write("backlog", at(400*day))
		r.start()
		settle()
		live := time.Now()
		write("old", "1970-01-02T00:00:00Z")
		write("late", at(6*day))
		settle()
		r.copyTruncate("a.log", "a.log.1")
		write("truncated", at(8*day))
		settle()
		r.gate.slow.Store(int64(9 * day))
		write("held", at(0))
		settle()
		write("held later", at(0))
		time.Sleep(8 * day)
		write("held old", at(20*day))
		time.Sleep(2 * day)
		r.gate.slow.Store(0)
		settle()
		time.Sleep(9 * day)
		r.end()
		write("down", at(20*day))
		r.start()
		settle()
		r.end()
		moved := map[string]bool{"old": true, "truncated": true, "held old": true}
		got := r.spooled()
		if len(got) != len(stated) {
			t.Fatalf("%d lines", len(got))
		}
		for _, l := range got {
			date, text, _ := strings.Cut(string(l.Text), " ")
			want, err := time.Parse(time.RFC3339, date)
			r.must(err)
			is := time.Unix(0, l.T)
			switch {
			case !moved[text] && (!is.Equal(want) || len(l.Fields) != 0):
				t.Errorf("%s: time %s, stated %s, fields %v", text, is, date, l.Fields)
			case moved[text] && (is.Before(live) || len(l.Fields) != 1 || l.Fields[0] != wire.Label{Name: "time_parsed", Value: date}):
				t.Errorf("%s: time %s, stated %s, fields %v", text, is, date, l.Fields)
			}
		}
	})
}

func TestRenameRotation(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.write("a.log", "1\n2\n")
		settle()
		f, err := os.OpenFile(r.path("a.log"), os.O_APPEND|os.O_WRONLY, 0)
		r.must(err)
		defer f.Close()
		r.must(os.Rename(r.path("a.log"), r.path("a.log.1")))
		r.write("a.log", "4\n")
		_, err = io.WriteString(f, "3\nunfinished") // the writer still holds the old one
		r.must(err)
		settle()
		settle()
		r.write("a.log", "5\n")
		settle()
		r.end()
		got := strings.Split(r.texts(), "|")
		slices.Sort(got)
		if strings.Join(got, "|") != "1|2|3|4|5|unfinished" {
			t.Errorf("spooled %q", got)
		}
		r.start()
		settle()
		r.end()
		if n := len(r.spooled()); n != 6 {
			t.Errorf("%d lines after a restart", n)
		}
	})
}

func TestCopyTruncate(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.write("a.log", "1\n2\n")
		settle()
		r.write("a.log", "3\n4\n") // not read yet when it is truncated
		r.copyTruncate("a.log", "a.log.1")
		r.write("a.log", "5\n")
		settle()
		r.write("a.log", "6\n")
		settle()
		r.end()
		r.want("1|2|3|4|5|6")
	})
}

// TestCopyThatMatches: the copy's name matches the glob too, and must not be read as a new file.
func TestCopyThatMatches(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		first := strings.Repeat("x", 100)
		r.write("a.log", first+"\n2\n")
		settle()
		b, err := os.ReadFile(r.path("a.log"))
		r.must(err)
		r.must(os.WriteFile(r.path("a-1.log"), b, 0o600))
		time.Sleep(15 * time.Second) // a scan sees the copy before the truncation
		r.must(os.Truncate(r.path("a.log"), 0))
		r.write("a.log", "3\n")
		time.Sleep(2 * time.Minute)
		r.end()
		r.want(first + "|2|3")
	})
}

// TestCopySeenWhileItIsMade has scans see the copy when it is made but empty, and when a part of it is written.
func TestCopySeenWhileItIsMade(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		first := strings.Repeat("x", 100)
		r.write("a.log", first+"\n2\n")
		settle()
		b, err := os.ReadFile(r.path("a.log"))
		r.must(err)
		r.must(os.WriteFile(r.path("a-1.log"), nil, 0o600))
		time.Sleep(15 * time.Second)
		r.must(os.WriteFile(r.path("a-1.log"), b[:80], 0o600))
		time.Sleep(15 * time.Second)
		r.must(os.WriteFile(r.path("a-1.log"), b, 0o600))
		time.Sleep(15 * time.Second)
		r.must(os.Truncate(r.path("a.log"), 0))
		r.write("a.log", "3\n")
		r.write("a-2.log", "") // no copy, as its first line will tell
		time.Sleep(15 * time.Second)
		r.write("a-2.log", "4\n")
		time.Sleep(2 * time.Minute)
		r.end()
		r.want(first + "|2|3|4")
	})
}

func TestTruncatedAndWrittenAnew(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.write("a.log", "old 1\nold 2\n")
		settle()
		r.must(os.WriteFile(r.path("a.log"), []byte("new 1\nnew 2\nnew 3\n"), 0o600)) // same inode, longer
		settle()
		r.end()
		r.want("old 1|old 2|new 1|new 2|new 3")
	})
}

func TestDeletedAndMadeAnew(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		for i := range 3 {
			r.write("a.log", fmt.Sprintf("%d\n", i))
			settle()
			r.must(os.Remove(r.path("a.log")))
			settle()
		}
		r.end()
		r.want("0|1|2")
	})
}

func TestBacklogOfTheFirstStart(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.cfg.InitialBacklog = 25
		r.write("a.log", strings.Repeat("0123456789\n", 100)+"last\n")
		r.start()
		settle()
		r.write("b.log", strings.Repeat("new file\n", 10)) // not there at the start: read whole
		settle()
		r.end()
		r.want("0123456789|last" + strings.Repeat("|new file", 10))
	})
}

func TestLeavesOut(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.write("a.log", "keep 1\ndrop this\nkeep 2\nother\n")
		r.write("wtmp.log", "keep 3\n")
		r.write("bin.log", "keep\x00 4\n")
		r.write("x.log.gz", "keep 5\n")
		r.start()
		settle()
		r.crash()
		r.start()
		settle()
		r.end()
		r.want("keep 1|keep 2")
	}, Group{
		Include: []string{"*.log", "*.gz"}, Exclude: []string{"wtmp*"}, Drop: []*regexp.Regexp{regexp.MustCompile("^drop")},
		Keep: []*regexp.Regexp{regexp.MustCompile("^(keep|drop)")},
	})
}

func TestMultiline(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.write("a.log", "E1\n  at x\n  at y\nE2\nE3\n  at z\n")
		r.start()
		settle()
		r.write("a.log", "E4\n")
		settle()
		r.crash()
		r.start()
		settle()
		r.end()
		r.want("E1\n  at x\n  at y|E2|E3\n  at z|E4")
	}, Group{Include: []string{"*.log"}, Multiline: &Multiline{Continue: regexp.MustCompile(`^\s`)}})
	run(t, func(t *testing.T, r *rig) {
		r.write("a.log", "stray\n[1] a\nmore\n[2] b\n")
		r.start()
		settle()
		r.end()
		r.want("stray|[1] a\nmore|[2] b")
	}, Group{Include: []string{"*.log"}, Multiline: &Multiline{Start: regexp.MustCompile(`^\[`)}})
}

func TestLongLines(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		long := strings.Repeat("x", wire.MaxLine)
		r.write("a.log", "a\n"+long+"\nb\n"+long+"tail\nc\n"+strings.Repeat("y", 3*wire.MaxLine))
		r.start()
		settle()
		r.crash()
		r.start()
		r.write("a.log", "yyy\nd\n")
		settle()
		r.end()
		got := r.spooled()
		var shape []string
		for _, l := range got {
			cut := ""
			if len(l.Fields) > 0 {
				cut = "+" + l.Fields[0].Name
			}
			shape = append(shape, fmt.Sprint(len(l.Text))+cut)
		}
		want := "1 262144 1 262144+truncated 1 262144+truncated 1"
		if strings.Join(shape, " ") != want {
			t.Errorf("lengths %v, want %s", shape, want)
		}
	})
}

// TestFullSpoolHoldsReadingBack: nothing is read into memory beyond a batch, nothing is lost.
func TestFullSpoolHoldsReadingBack(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.gate.full.Store(true)
		line := strings.Repeat("z", 1000)
		r.write("a.log", strings.Repeat(line+"\n", 2000))
		settle()
		if n := r.b.Lines.Load(); n > 500 {
			t.Errorf("%d lines were taken while the spool was full", n)
		}
		r.gate.full.Store(false)
		settle()
		r.end()
		if n := len(r.spooled()); n != 2000 {
			t.Errorf("%d lines spooled", n)
		}
	})
}

func TestTooManyFiles(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.cfg.MaxFiles = 3
		for i := range 6 {
			r.write(fmt.Sprintf("%d.log", i), "x\n")
		}
		r.start()
		settle()
		if n := r.tail.Open.Load(); n != 3 {
			t.Errorf("%d files open", n)
		}
		r.end()
	})
}

// TestRotatedTwiceWhileDown: the file that was being read and the one that came after it both left their path.
func TestRotatedTwiceWhileDown(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.write("a.log", "1\n")
		settle()
		r.end()
		r.write("a.log", "2\n")
		past := time.Now().Add(-time.Hour)
		r.must(os.Chtimes(r.path("a.log"), past, past))
		r.must(os.Rename(r.path("a.log"), r.path("a.log.2")))
		r.write("a.log.1", "3\n4\n")
		r.write("a.log", "5\n")
		r.start()
		settle()
		r.end()
		r.want("1|2|3|4|5")
	})
}

// holdUp fills the spool and waits until reading waits for it, then lets fn rotate.
func (r *rig) holdUp(name string, fn func()) {
	r.t.Helper()
	r.gate.full.Store(true)
	r.write(name, "held 1\n")
	settle() // taken into the batch, which cannot be written
	r.write(name, "held 2\n")
	settle() // waits
	fn()
	r.gate.full.Store(false)
	settle()
}

// TestRotatedTwiceWhileHeldUp: the same as while the agent is down, with a full spool instead.
func TestRotatedTwiceWhileHeldUp(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.write("a.log", "1\n")
		settle()
		r.holdUp("a.log", func() {
			r.write("a.log", "2\n")
			past := time.Now().Add(-time.Hour)
			r.must(os.Chtimes(r.path("a.log"), past, past))
			r.must(os.Rename(r.path("a.log"), r.path("a.log.2")))
			r.write("a.log.1", "3\n4\n")
			r.write("a.log", "3\n5\n") // begins like the one before it
		})
		r.end()
		r.want("1|held 1|held 2|2|3|4|3|5")
		if len(r.told) != 0 {
			t.Errorf("told %q", r.told)
		}
	})
}

// TestCopiedTwiceWhileHeldUp: the same for copy-and-truncate.
func TestCopiedTwiceWhileHeldUp(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.write("a.log", "1\n")
		settle()
		r.holdUp("a.log", func() {
			r.write("a.log", "2\n")
			r.copyTruncate("a.log", "a.log.2")
			past := time.Now().Add(-time.Hour)
			r.must(os.Chtimes(r.path("a.log.2"), past, past))
			r.write("a.log", "3\n")
			r.copyTruncate("a.log", "a.log.1")
			r.write("a.log", "4\n")
		})
		r.end()
		got := strings.Split(r.texts(), "|")
		slices.Sort(got)
		if strings.Join(got, "|") != "1|2|3|4|held 1|held 2" {
			t.Errorf("spooled %q", got)
		}
	})
}

func (r *rig) gzip(name, to string) {
	r.t.Helper()
	b, err := os.ReadFile(r.path(name))
	r.must(err)
	f, err := os.Create(r.path(to))
	r.must(err)
	z := gzip.NewWriter(f)
	_, err = z.Write(b)
	r.must(errors.Join(err, z.Close(), f.Close(), os.Remove(r.path(name))))
}

// TestCompressedBeforeItWasRead: what was rotated and compressed while reading was held up, or while the agent was
// down, is told of as lost; files that were read are not, and neither are files of others.
func TestCompressedBeforeItWasRead(t *testing.T) {
	rotate := func(r *rig) {
		r.write("a.log", "2\n")
		past := time.Now().Add(-time.Hour)
		r.must(os.Chtimes(r.path("a.log"), past, past))
		r.must(os.Rename(r.path("a.log"), r.path("a.log.3")))
		r.write("a.log", "lost 1\n")
		r.gzip("a.log", "a.log.2.gz")
		r.write("a.log", "lost 2\n")
		r.must(os.Rename(r.path("a.log"), r.path("a.log.1.xz"))) // cannot be looked into
		r.write("a.log", "5\n")
		r.write("a.log.audit", "of another program\n")
		r.write("a.log.audit.gz", "of another program\n")
	}
	check := func(t *testing.T, r *rig, want string) {
		t.Helper()
		r.want(want)
		told := strings.Join(r.told, "|")
		if len(r.told) != 1 || r.tail.Lost.Load() != 2 || !strings.HasPrefix(told, "lost: ") || !strings.Contains(told, "a.log.2.gz") ||
			!strings.Contains(told, "a.log.1.xz") {
			t.Errorf("%d lost, told %q", r.tail.Lost.Load(), r.told)
		}
	}
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.write("a.log", "1\n")
		settle()
		r.holdUp("a.log", func() { rotate(r) })
		r.end()
		check(t, r, "1|held 1|held 2|2|5")
	})
	run(t, func(t *testing.T, r *rig) {
		r.start()
		r.write("a.log", "1\n")
		settle()
		r.end()
		rotate(r)
		r.start()
		settle()
		r.end()
		check(t, r, "1|2|5")
	})
}

// TestCompressedAfterItWasRead: a program that rotates and compresses its own log gives the new file the present time;
// that is no loss, whatever it compresses with.
func TestCompressedAfterItWasRead(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.start()
		for i := range 5 {
			r.write("a.log", fmt.Sprintf("line %d\n", i))
			settle()
			switch {
			case i%2 == 0:
				r.gzip("a.log", fmt.Sprintf("a.log.%d.gz", i))
			default:
				r.must(os.Rename(r.path("a.log"), r.path(fmt.Sprintf("a.log.%d.zip", i))))
			}
		}
		r.write("a.log", "last\n")
		settle()
		r.end()
		r.want("line 0|line 1|line 2|line 3|line 4|last")
		if r.tail.Lost.Load() != 0 || len(r.told) != 0 {
			t.Errorf("%d lost, told %q", r.tail.Lost.Load(), r.told)
		}
	})
}

// TestNameThatIsNoText: the name of a file may be any bytes (here Chinese in GBK). Its lines arrive beside those of
// others, under labels that the wire takes, and once, whatever happens in between.
func TestNameThatIsNoText(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		long := strings.Repeat(strings.Repeat("d", 200)+"/", 12)
		r.must(os.MkdirAll(r.path(long), 0o700))
		r.start()
		for i, name := range []string{"\xb2\xe2.log", "\xc8\xd5.log", "a.log", long + "a.log"} {
			r.write(name, fmt.Sprintf("%d\n", i))
			settle()
		}
		r.end()
		r.write("\xb2\xe2.log", "4\n")
		r.must(os.Rename(r.path("\xb2\xe2.log"), r.path("\xb2\xe2.log.1")))
		r.write("\xb2\xe2.log", "5\n")
		r.start()
		settle()
		r.crash()
		r.start()
		settle()
		r.end()
		r.want("0|1|2|3|4|5")
		if n := r.tail.Lost.Load(); n != 0 {
			t.Errorf("%d files lost", n)
		}
		if got := r.files(); len(got) != 4 || !slices.Contains(got, r.path(`\xb2\xe2.log`)) || !slices.Contains(got, r.path(`\xc8\xd5.log`)) {
			t.Errorf("labels %.200q", got)
		}
	}, Group{Include: []string{"**/*.log"}})
}

func TestPositionForm(t *testing.T) {
	p := position{identity: &identity{
		Path: "/var/log/\xb2\xe2.log", Stream: "/var/log/\xb2\xe2.log", Key: fileKey{Dev: 2049, Ino: 1 << 40},
		Print: fingerprint{N: 1024, Sum: 0x0102030405060708}, Rotated: true, Seen: 1_700_000_000,
	}, Off: 123456789012, Skip: true}
	q := p
	q.identity = &identity{Path: "/var/log/a.log.1", Stream: "/var/log/a.log", Done: true, Seen: -1}
	for name, p := range map[string]position{"position_v1": p, "position_copy_v1": q} {
		b := p.EncodePosition()
		golden(t, name, b)
		got, err := decodePosition(b)
		if err != nil || *got.identity != *p.identity || got.Off != p.Off || got.Skip != p.Skip {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		for i := range b {
			if _, err := decodePosition(b[:i]); !errors.Is(err, errPosition) {
				t.Errorf("%s cut at %d: %v", name, i, err)
			}
		}
	}
}

// golden compares got with the bytes kept in testdata: a change is a change of the spool's format.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	text := hex.EncodeToString(got) + "\n"
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
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

func FuzzPosition(f *testing.F) {
	f.Add(position{identity: &identity{Path: "/a", Stream: "/b"}, Off: 1}.EncodePosition())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePosition(b)
		if err != nil {
			return
		}
		if q, err := decodePosition(p.EncodePosition()); err != nil || *q.identity != *p.identity || q.Off != p.Off {
			t.Errorf("%+v became %+v, %v", p, q, err)
		}
	})
}

// TestExactlyOnce writes, rotates both ways, crashes and restarts in random order: every line arrives once.
func TestExactlyOnce(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) { r.torture(rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func (r *rig) torture(rnd *rand.Rand) {
	n, old := 0, 0
	up := false
	write := func() {
		var b bytes.Buffer
		for range 1 + rnd.IntN(40) {
			n++
			fmt.Fprintf(&b, "line %d %s\n", n, strings.Repeat("p", rnd.IntN(300)))
		}
		r.write("a.log", b.String())
	}
	write()
	r.start()
	up = true
	settle()
	for range 60 {
		k := rnd.IntN(10)
		switch {
		case k < 5:
			write()
		case k == 5:
			old++
			r.must(os.Rename(r.path("a.log"), r.path(fmt.Sprintf("a.log.%d", old))))
			write()
			if !up {
				r.start() // a second rotation while down needs time stamps that differ: its own test
				up = true
			}
			settle()
		case k == 6:
			old++
			r.copyTruncate("a.log", fmt.Sprintf("a.log.%d", old))
			if !up {
				r.start()
				up = true
			}
			settle()
			write()
		case up && k == 7:
			r.crash()
			up = false
		case up && k == 8:
			r.end()
			up = false
		case !up:
			r.start()
			up = true
		}
		// Two rotations between two polls are more than a poller can see.
		time.Sleep(time.Duration(600+rnd.IntN(3000)) * time.Millisecond)
	}
	if !up {
		r.start()
	}
	settle()
	settle()
	r.end()
	seen := map[int]int{}
	for _, l := range r.spooled() {
		var k int
		if _, err := fmt.Sscanf(string(l.Text), "line %d", &k); err != nil {
			r.t.Fatalf("line %q", l.Text)
		}
		seen[k]++
	}
	for k := 1; k <= n; k++ {
		if seen[k] != 1 {
			r.t.Errorf("line %d of %d arrived %d times", k, n, seen[k])
		}
	}
}

func BenchmarkTail(b *testing.B) {
	line := "2026-11-23T21:00:01.123Z host app[123]: INFO request 4711 from 10.0.0.1 took 12 ms and was answered with 200\n"
	t := New(Config{
		Batcher: lines.NewBatcher(wire.LaneLogs, discard{}, mustCoder(b), nil, slog.New(slog.DiscardHandler), nil),
		Parser:  &lines.Parser{Zone: time.UTC},
	})
	path := filepath.Join(b.TempDir(), "a.log")
	if err := os.WriteFile(path, bytes.Repeat([]byte(line), 10_000), 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(10_000 * len(line)))
	for b.Loop() {
		f, fi, err := openRegular(path)
		if err != nil {
			b.Fatal(err)
		}
		g := &Group{}
		nf := t.track("file/0", g, f, position{identity: &identity{Path: path, Stream: path}}, fi)
		for {
			more, err := t.read(b.Context(), nf, fi.Size(), false, false)
			if err != nil {
				b.Fatal(err)
			}
			if !more {
				break
			}
		}
		t.files = t.files[:0]
		f.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/line")
}

type discard struct{}

func (discard) Append(wire.Lane, spool.Content) error            { return nil }
func (discard) AppendState(wire.Lane, []spool.StateChange) error { return nil }

func mustCoder(b *testing.B) *wire.Coder {
	c, err := wire.NewCoder()
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// A folder on the way to a file may become a link between the look at the file and its opening: nothing outside of the
// place is opened by it.
func TestLinkPutInTheWay(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(name ...string) string { return filepath.Join(append([]string{dir}, name...)...) }
	for _, f := range []string{in("secret", "x.log"), in("logs", "app", "x.log"), in("logs", "one.log"), in("logs", "two.log")} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o700), os.WriteFile(f, []byte(f+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	opens := func(place, name string) bool {
		f, _, err := openBelow(place, name)
		if err == nil {
			f.Close()
		}
		return err == nil
	}
	if !opens(in("logs"), in("logs", "app", "x.log")) || !opens(in("logs", "one.log"), in("logs", "one.log")) || !opens("/", in("logs", "one.log")) {
		t.Error("what may be opened is not")
	}
	for _, target := range []string{in("secret"), "../secret"} {
		if err := errors.Join(os.RemoveAll(in("logs", "app")), os.Symlink(target, in("logs", "app"))); err != nil {
			t.Fatal(err)
		}
		if opens(in("logs"), in("logs", "app", "x.log")) {
			t.Errorf("a file outside was opened by a folder that became a link to %s", target)
		}
	}
	if err := errors.Join(os.Remove(in("logs", "one.log")), os.Symlink("two.log", in("logs", "one.log"))); err != nil {
		t.Fatal(err)
	}
	if opens(in("logs", "one.log"), in("logs", "one.log")) {
		t.Error("another file was opened in the place of the one that is allowed")
	}
}
