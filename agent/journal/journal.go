// Package journal follows the systemd journal through journalctl, which every systemd machine has, and gives its
// entries to the batcher with the journal's own cursor as position: an entry is in the spool exactly when the
// cursor is behind it.
//
// It starts and ends one child process and imports agent/lines and agent/wire and nothing else of Triward.
package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
)

// StateKey is where the spool's state keeps the cursor.
const StateKey = "journal"

const (
	maxEntry     = 4 << 20 // a longer entry, in the form of journalctl, is passed over
	maxCursor    = 4 << 10
	restartAfter = 5 * time.Second
	freshFor     = time.Minute // an entry that is younger shows that the end of the journal is reached
	tellAgain    = time.Minute // entries passed over are told of at most so often
)

// fields is all that is used of an entry, besides what journalctl always prints. An entry may carry anything else,
// a core dump of gigabytes too.
const fields = "MESSAGE,PRIORITY,_SYSTEMD_UNIT,_SYSTEMD_USER_UNIT,SYSLOG_IDENTIFIER,_TRANSPORT,_PID"

// Config of a Follower.
type Config struct {
	Command []string // "" is journalctl
	Units   []string // only these units; empty for all
	// Priority is the least important level that is read, as journalctl names it; "" for all. Drop and Keep are rules
	// for messages: what matches any of Drop is left out, and so is, when Keep is not empty, what matches none of it.
	Priority   string
	Drop, Keep []*regexp.Regexp
	Machine    string // only entries of the machine with this id; "" for all
	Backlog    int    // entries read at the first start of all
	Cursor     string // where to go on; "" at the first start
	// Match are matches of journalctl besides the machine, those of several groups parted by "+"; Units and Machine
	// are not used with them. Take is then given the entries instead of the batcher, and keeps the position itself; an
	// error of it ends Run. Without a cursor, or when its entry is gone, the journal is read from Since on, or from behind
	// the time of the last entry that was taken.
	Match   []string
	Take    func(ctx context.Context, e *Entry) error
	Since   time.Time
	Batcher *lines.Batcher
	Log     *slog.Logger
	Report  func(kind, text string) // may be nil
}

// Follower follows the journal.
type Follower struct {
	cfg     Config
	cursor  string
	streams map[string]*lines.Stream
	caught  time.Time // when an entry was fresh last: those behind it were written later; zero before
	whole   bool      // journalctl does not know --output-fields (before systemd 236)
	untold  int       // entries lost since Report was called last
	told    time.Time // when that was

	Entries, Restarts, Lost, Filtered atomic.Uint64
}

// position is a cursor of the journal.
type position string

// EncodePosition implements lines.Position.
func (p position) EncodePosition() []byte { return []byte(p) }

// Present reports whether this machine has a journal and the program to read it.
func Present() bool {
	if _, err := exec.LookPath("journalctl"); err != nil {
		return false
	}
	for _, dir := range []string{"/run/log/journal", "/var/log/journal"} {
		if m, err := filepath.Glob(filepath.Join(dir, "*", "*.journal")); err == nil && len(m) > 0 {
			return true
		}
	}
	return false
}

// New makes a Follower.
func New(cfg Config) *Follower {
	if len(cfg.Command) == 0 {
		cfg.Command = []string{"journalctl"}
	}
	if cfg.Report == nil {
		cfg.Report = func(string, string) {}
	}
	return &Follower{cfg: cfg, cursor: cfg.Cursor, streams: map[string]*lines.Stream{}}
}

// Run follows the journal until ctx ends. It returns an error only when lines cannot be spooled any more.
func (f *Follower) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var fatal *spoolError
		if errors.As(err, &fatal) {
			return fatal.err
		}
		f.Restarts.Add(1)
		f.cfg.Log.Warn("journal is read anew", "err", err)
		t := time.NewTimer(restartAfter)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
	return nil
}

type spoolError struct{ err error }

func (e *spoolError) Error() string { return e.err.Error() }

func (f *Follower) args() []string {
	args := append(slices.Clone(f.cfg.Command[1:]), "--output=json", "--all", "--follow", "--no-pager", "--quiet")
	switch {
	case f.cursor != "":
		args = append(args, "--after-cursor="+f.cursor)
	case f.cfg.Take != nil:
		since := f.cfg.Since.UnixMicro()
		args = append(args, fmt.Sprintf("--since=@%d.%06d", since/1e6, since%1e6), "--no-tail")
	default:
		args = append(args, "--lines="+strconv.Itoa(f.cfg.Backlog))
	}
	if f.cursor != "" {
		args = append(args, "--no-tail")
	}
	if !f.whole {
		used := fields
		if f.cfg.Take != nil {
			used = takenFields
		}
		args = append(args, "--output-fields="+used)
	}
	if f.cfg.Take != nil {
		return append(append(args, "--merge"), f.cfg.Match...)
	}
	for _, u := range f.cfg.Units {
		args = append(args, "--unit="+u)
	}
	if f.cfg.Priority != "" {
		args = append(args, "--priority="+f.cfg.Priority)
	}
	// --follow keeps to the boot that runs now, and would pass over what the boots before it wrote behind the cursor:
	// the last lines before a crash. --merge lifts that, and brings in other machines' journals, which are left out again.
	args = append(args, "--merge")
	if f.cfg.Machine != "" {
		args = append(args, "_MACHINE_ID="+f.cfg.Machine)
	}
	return args
}

func (f *Follower) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.cfg.Command[0], f.args()...)
	var complaint bytes.Buffer
	cmd.Stderr = &limited{w: &complaint, left: 4 << 10}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run journalctl: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run journalctl: %w", err)
	}
	f.caught = time.Time{}
	rerr := f.entries(ctx, out)
	cancel()
	werr := cmd.Wait()
	if said := strings.TrimSpace(complaint.String()); said != "" {
		switch {
		case strings.Contains(said, "output-fields"):
			f.whole = true
		case strings.Contains(said, "cursor") && f.cursor != "":
			// The entry is gone (rotated away): go on with what there is, behind the time of the last start.
			f.cfg.Log.Warn("position in the journal is gone: entries may be lost", "said", said)
			f.cfg.Report("lost", "the position in the journal is gone, entries may be lost: journalctl says "+said)
			f.cursor = ""
		}
		return errors.Join(rerr, fmt.Errorf("journalctl says: %s", said))
	}
	return errors.Join(rerr, werr, errors.New("journalctl ended"))
}

// entries reads until the child ends. What lacks its line feed is the rest of an entry that will come again.
func (f *Follower) entries(ctx context.Context, out io.Reader) error {
	r := newEntryReader(out, maxEntry)
	for {
		line, long, err := r.next()
		switch {
		case errors.Is(err, io.EOF) || err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read journalctl: %w", err)
		case long != nil:
			f.lost(ctx, long.values[keyCursor], fmt.Sprintf("an entry of %q has %d bytes, at most %d are read", long.source(), long.size, maxEntry))
		default:
			take := f.entry
			if f.cfg.Take != nil {
				take = f.taken
			}
			if err := take(ctx, line); err != nil {
				return err
			}
		}
		f.tell()
	}
}

// lost counts an entry that cannot be taken and goes on behind it.
func (f *Follower) lost(ctx context.Context, cursor, why string) {
	f.Lost.Add(1)
	f.cfg.Log.Warn("entry of the journal is lost", "cursor", cursor, "because", why)
	if f.untold++; f.untold == 1 && time.Since(f.told) >= tellAgain {
		f.untold, f.told = 0, time.Now()
		f.cfg.Report("lost", "an entry of the journal is lost: "+why)
	}
	if cursor != "" && len(cursor) <= maxCursor {
		f.cursor = cursor
		if f.cfg.Take != nil { // the position moves with the next entry
			return
		}
		f.cfg.Batcher.Note(ctx, lines.Mark{Key: StateKey, Position: position(cursor)})
	}
}

// tell reports entries that were lost since the last report.
func (f *Follower) tell() {
	if f.untold == 0 || time.Since(f.told) < tellAgain {
		return
	}
	f.cfg.Report("lost", fmt.Sprintf("%d more entries of the journal are lost; the agent's log says which", f.untold))
	f.untold, f.told = 0, time.Now()
}

// record is what is used of an entry. Values are strings, or lists of bytes when they are no UTF-8.
type record struct {
	Cursor     string          `json:"__CURSOR"`
	Realtime   string          `json:"__REALTIME_TIMESTAMP"`
	Message    json.RawMessage `json:"MESSAGE"`
	Priority   json.RawMessage `json:"PRIORITY"`
	Unit       json.RawMessage `json:"_SYSTEMD_UNIT"`
	UserUnit   json.RawMessage `json:"_SYSTEMD_USER_UNIT"`
	Identifier json.RawMessage `json:"SYSLOG_IDENTIFIER"`
	Transport  json.RawMessage `json:"_TRANSPORT"`
	PID        json.RawMessage `json:"_PID"`
}

// text returns a value of the journal, which is a string, null, a list of bytes, or a list of values (the first
// one counts).
func text(raw json.RawMessage) []byte {
	if len(raw) == 0 {
		return nil
	}
	switch raw[0] {
	case '"':
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return []byte(s)
		}
	case '[':
		var n []uint8
		var codes []int
		if json.Unmarshal(raw, &codes) == nil {
			for _, c := range codes {
				n = append(n, byte(c))
			}
			return n
		}
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) == nil && len(list) > 0 && len(list[0]) > 0 && list[0][0] != '[' {
			return text(list[0])
		}
	}
	return nil
}

// name returns a value that becomes a label or a field: anybody may write anything into it.
func name(raw json.RawMessage) string { return lines.Valid(string(text(raw)), lines.NameMax) }

func (f *Follower) entry(ctx context.Context, b []byte) error {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		f.lost(ctx, "", fmt.Sprintf("it is not the JSON expected: %v", err))
		return nil
	}
	if r.Cursor == "" {
		return nil
	}
	if len(r.Cursor) > maxCursor {
		f.lost(ctx, "", fmt.Sprintf("its cursor has %d bytes", len(r.Cursor)))
		return nil
	}
	mark := lines.Mark{Key: StateKey, Position: position(r.Cursor)}
	message := bytes.TrimRight(text(r.Message), "\n")
	left := f.leftOut(message)
	if left {
		f.Filtered.Add(1)
	}
	if len(message) == 0 || left {
		f.cursor = r.Cursor
		f.cfg.Batcher.Note(ctx, mark)
		return nil
	}
	now := time.Now()
	line := wire.LogLine{T: now.UnixNano(), Text: message}
	if us, err := strconv.ParseInt(r.Realtime, 10, 64); err == nil && us > 0 && us < math.MaxInt64/1000 {
		lines.SetTime(&line, us*1000, f.caught, now)
		if now.Sub(time.UnixMicro(us)).Abs() < freshFor {
			f.caught = now
		}
	}
	if p, err := strconv.Atoi(string(text(r.Priority))); err == nil {
		line.Severity = lines.SyslogSeverity(p)
	}
	ident := name(r.Identifier)
	unit := firstOf(name(r.Unit), name(r.UserUnit), ident, name(r.Transport), "unknown")
	if ident != "" {
		line.Fields = append(line.Fields, wire.Label{Name: "identifier", Value: ident})
	}
	if pid := name(r.PID); pid != "" {
		line.Fields = append(line.Fields, wire.Label{Name: "pid", Value: pid})
	}
	slices.SortFunc(line.Fields, func(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) })
	s, err := f.stream(unit)
	if err != nil {
		return &spoolError{fmt.Errorf("unit %q of the journal: %w", unit, err)}
	}
	if err := f.cfg.Batcher.Add(ctx, s, line, mark); err != nil {
		return &spoolError{fmt.Errorf("take entries of the journal: %w", err)}
	}
	f.cursor = r.Cursor
	f.Entries.Add(1)
	return nil
}

// leftOut reports whether the rules leave a message out.
func (f *Follower) leftOut(message []byte) bool {
	matches := func(re *regexp.Regexp) bool { return re.Match(message) }
	return slices.ContainsFunc(f.cfg.Drop, matches) || len(f.cfg.Keep) > 0 && !slices.ContainsFunc(f.cfg.Keep, matches)
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// stream returns the stream of a unit. Names of one-time units are bounded by forgetting all of them.
func (f *Follower) stream(unit string) (*lines.Stream, error) {
	if s, ok := f.streams[unit]; ok {
		return s, nil
	}
	if len(f.streams) >= 1024 {
		clear(f.streams)
	}
	s, err := lines.NewStream(wire.StreamLog, wire.LabelsFromMap(map[string]string{"source": "journal", "unit": unit}))
	if err == nil {
		f.streams[unit] = s
	}
	return s, err
}

// limited keeps the first bytes and drops the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
