package events

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/triward/triward/agent/journal"
	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
)

// StateKey is where the spool's state of the lane events keeps what was told.
const StateKey = "events"

const (
	window       = time.Minute // in which a thing that happens again is counted and not told
	maxHeld      = 256         // things counted at a time; others are counted together
	perSecond    = 1           // events told, of all kinds together
	burst        = 100
	tickEvery    = time.Second
	diskEvery    = 15 * time.Second
	hangPatience = 2 * time.Second // for a file system that does not answer when the agent ends
	aliveEvery   = time.Minute     // how exactly the end of a life that was not orderly is known

	// The state goes with each event into one record of the spool, which takes no position of more than 64 KiB and would
	// give up the event with it.
	maxState  = 56 << 10 // bytes of the state
	heldState = 28 << 10 // of what is held, once it was too long
	maxPlaces = 16 << 10 // of the names of file systems
)

// Kinds of sources, as the configuration turns them off.
const (
	SourceUnits       = "units"
	SourceOOM         = "oom"
	SourceCrashes     = "crashes"
	SourceFilesystems = "filesystems"
	SourceReboot      = "reboot"
	SourceClock       = "clock"
)

// Sources lists the kinds of sources.
var Sources = []string{SourceUnits, SourceOOM, SourceCrashes, SourceFilesystems, SourceReboot, SourceClock}

// Config of a Source.
type Config struct {
	Disable  []string // of Sources
	Warn     int      // per cent of a file system in use that are told as a warning
	Critical int      // and as critical
	Exclude  []string // globs over mount points that are not looked at
	Root     string   // where the host's root is mounted; "" is /
	Journal  bool     // whether this machine has a journal
	Command  []string // of the journal; "" is journalctl
	Machine  string   // only entries of the machine with this id; "" for all
	State    []byte   // what the spool keeps under StateKey
	Batcher  *lines.Batcher
	Log      *slog.Logger

	// Replaced in tests.
	BootID func() string
	Mounts func() ([]Mount, error)
	Usage  func(path string) (Usage, error)
	Wall   func() time.Time // without a monotonic reading
}

// Source watches the host. New makes one, Run works until its context ends.
type Source struct {
	cfg      Config
	off      map[string]bool
	follower *journal.Follower
	limit    *rate.Limiter
	streams  map[string]*lines.Stream

	mu sync.Mutex
	st state
}

// state is what the spool keeps: what must not be told again after a restart.
type state struct {
	Cursor  string             `json:"cursor,omitempty"` // of the journal
	Since   int64              `json:"since,omitempty"`  // where the journal is read from without a cursor, ms
	Boot    string             `json:"boot,omitempty"`   // that ran last
	Orderly bool               `json:"orderly,omitempty"`
	Alive   int64              `json:"alive,omitempty"` // when the agent ran last, ms
	Levels  map[string]string  `json:"levels,omitempty"`
	Frozen  map[string]bool    `json:"read_only,omitempty"` // mount points that became read-only
	Held    map[string]*repeat `json:"held,omitempty"`      // by name and key
}

// repeat is a thing that was told and may happen again within the window.
type repeat struct {
	Name     string            `json:"name"`
	Key      string            `json:"key,omitempty"`
	Severity wire.Severity     `json:"severity"`
	Text     string            `json:"text,omitempty"` // of the last one
	Tags     map[string]string `json:"tags,omitempty"`
	Count    int               `json:"count,omitempty"` // since it was told
	Until    int64             `json:"until"`           // ms
}

// New makes a Source of what the spool says was told.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, off: map[string]bool{}, limit: rate.NewLimiter(perSecond, burst), streams: map[string]*lines.Stream{}}
	for _, name := range cfg.Disable {
		s.off[name] = true
	}
	if cfg.BootID == nil {
		s.cfg.BootID = bootID
	}
	if cfg.Mounts == nil {
		s.cfg.Mounts = func() ([]Mount, error) { return readMounts("/proc/self/mountinfo") }
	}
	if cfg.Usage == nil {
		s.cfg.Usage = usage
	}
	if cfg.Wall == nil {
		s.cfg.Wall = func() time.Time { return time.Now().Round(0) }
	}
	if len(cfg.State) > 0 && json.Unmarshal(cfg.State, &s.st) != nil {
		cfg.Log.Warn("what the spool says of events cannot be read: it begins anew", "bytes", len(cfg.State))
		s.st = state{}
	}
	if s.st.Since == 0 {
		s.st.Since = time.Now().UnixMilli()
	}
	if s.st.Levels == nil {
		s.st.Levels = map[string]string{}
	}
	if s.st.Frozen == nil {
		s.st.Frozen = map[string]bool{}
	}
	if s.st.Held == nil {
		s.st.Held = map[string]*repeat{}
	}
	if cfg.Journal && !(s.off[SourceUnits] && s.off[SourceOOM] && s.off[SourceCrashes]) {
		s.follower = journal.New(journal.Config{
			Command: cfg.Command, Machine: cfg.Machine, Cursor: s.st.Cursor, Since: time.UnixMilli(s.st.Since), Batcher: cfg.Batcher, Log: cfg.Log,
			Match: s.matches(), Take: s.entry, Report: func(string, string) {}, // the agent's own follower tells of losses
		})
	}
	return s, nil
}

// Run watches until ctx ends. It returns an error only when events cannot be spooled any more.
func (s *Source) Run(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return s.fatal(ctx, err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	if s.follower != nil {
		work.Go(func() {
			if err := s.follower.Run(ctx); err != nil {
				failed <- err
			}
		})
	}
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		if !s.off[SourceFilesystems] {
			s.watchFilesystems(ctx)
		}
	}()
	defer func() {
		cancel()
		patience := time.NewTimer(hangPatience)
		defer patience.Stop()
		select {
		case <-looked:
		case <-patience.C: // a disk that hangs must not keep the agent from ending
			s.cfg.Log.Warn("a file system does not answer; the agent ends without it")
		}
	}()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	wall, mono, alive := s.cfg.Wall(), time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
		}
		if now := time.Now(); !s.off[SourceClock] {
			w := s.cfg.Wall()
			if jump := w.Sub(wall) - now.Sub(mono); jump.Abs() > clockStep {
				if err := s.Emit(ctx, clockEvent(jump, w)); err != nil && ctx.Err() == nil {
					return s.fatal(ctx, err)
				}
			}
			wall, mono = w, now
		}
		s.summarize(ctx)
		if time.Since(alive) >= aliveEvery {
			alive = time.Now()
			s.note(ctx)
		}
	}
}

// fatal passes over the end of the context.
func (s *Source) fatal(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("take events of the host: %w", err)
}

// Close notes that the agent ends in order. Call it before the batcher is closed and after Run has returned.
func (s *Source) Close(ctx context.Context) {
	s.mu.Lock()
	s.st.Orderly = true
	s.mu.Unlock()
	s.note(ctx)
}

// note has the state written with whatever is written next.
func (s *Source) note(ctx context.Context) {
	s.mu.Lock()
	s.st.Alive = time.Now().UnixMilli()
	mark := s.mark()
	s.mu.Unlock()
	s.cfg.Batcher.Note(ctx, mark)
}

// encoded is a state as it is kept.
type encoded []byte

// EncodePosition implements lines.Position.
func (e encoded) EncodePosition() []byte { return e }

// mark is the state as of now, as long as it may be; the caller holds the lock.
func (s *Source) mark() lines.Mark {
	b := encode(&s.st)
	if len(b) > maxState {
		s.lighten()
		b = encode(&s.st)
	}
	return lines.Mark{Key: StateKey, Position: encoded(b)}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // plain fields: cannot fail
		panic(fmt.Sprintf("events: encode %T: %v", v, err))
	}
	return b
}

// lighten shortens what is held. What was said last of things that happen again is cut; when that is not enough, those
// whose window is over first are counted together with the others that are not told one by one.
func (s *Source) lighten() {
	const textLeft = 100
	size := make(map[string]int, len(s.st.Held))
	total := 0
	for id, r := range s.st.Held {
		r.Tags, r.Text = nil, lines.Valid(r.Text, textLeft)
		size[id] = len(encode(id)) + len(encode(r)) + 2
		total += size[id]
	}
	ids := slices.Sorted(maps.Keys(s.st.Held))
	slices.SortStableFunc(ids, func(a, b string) int { return cmp.Compare(s.st.Held[a].Until, s.st.Held[b].Until) })
	for _, id := range ids {
		if total <= heldState {
			return
		}
		if id == Suppressed {
			continue
		}
		r := s.st.Held[id]
		delete(s.st.Held, id)
		total -= size[id]
		if r.Count > 0 {
			all := s.suppressed()
			all.Count += r.Count
			all.Severity, all.Text = max(all.Severity, r.Severity), r.Text
		}
	}
}

// suppressed is what counts those that are not told one by one.
func (s *Source) suppressed() *repeat {
	r := s.st.Held[Suppressed]
	if r == nil {
		r = &repeat{Name: Suppressed, Severity: wire.SeverityWarning, Until: time.Now().Add(window).UnixMilli()}
		s.st.Held[Suppressed] = r
	}
	return r
}

// Emit tells an event, or counts it when the same was told within the window. It waits while the spool is full. The
// state that changed with the event must be changed by then: they are written together.
func (s *Source) Emit(ctx context.Context, e Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.emit(ctx, e)
}

func (s *Source) emit(ctx context.Context, e Event) error {
	now := time.Now()
	id := e.Name + "\x00" + e.Key + "\x00" + e.grade
	if r := s.st.Held[id]; r != nil {
		r.add(&e)
		s.cfg.Batcher.Note(ctx, s.mark())
		return nil
	}
	if !e.always && (len(s.st.Held) >= maxHeld || !s.limit.Allow()) {
		s.suppressed().add(&e)
		s.cfg.Batcher.Note(ctx, s.mark())
		return nil
	}
	s.st.Held[id] = &repeat{Name: e.Name, Key: e.Key, Severity: e.Severity, Until: now.Add(window).UnixMilli()}
	if err := s.put(ctx, &e, 1); err != nil {
		delete(s.st.Held, id)
		return err
	}
	return nil
}

func (r *repeat) add(e *Event) {
	r.Count++
	r.Severity, r.Text = max(r.Severity, e.Severity), lines.Valid(e.Text, tagMax)
	if r.Name != Suppressed {
		r.Tags = e.Tags
	}
}

// put writes an event and the state behind it into the spool, at once.
func (s *Source) put(ctx context.Context, e *Event, count int) error {
	st, err := s.stream(e.Name)
	if err != nil {
		return err
	}
	if err := s.cfg.Batcher.Add(ctx, st, e.line(count), s.mark()); err != nil {
		return err
	}
	// The line is taken: when this flush does not come about, a later one writes it.
	if err := s.cfg.Batcher.Flush(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// stream is the stream of the events of a name. Names are few: callers take them from a fixed set.
func (s *Source) stream(name string) (*lines.Stream, error) {
	if st := s.streams[name]; st != nil {
		return st, nil
	}
	st, err := NewStream(name)
	if err != nil {
		return nil, err
	}
	s.streams[name] = st
	return st, nil
}

// NewStream is the stream of an agent's events of a name.
func NewStream(name string) (*lines.Stream, error) {
	return lines.NewStream(wire.StreamEvent, wire.LabelsFromMap(map[string]string{"source": "agent", "name": name}))
}

// summarize tells how often happened what was not told, when its window is over.
func (s *Source) summarize(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var due []string
	for id, r := range s.st.Held {
		// A clock that was set back must not hold them for ever.
		if left := r.Until - now.UnixMilli(); left <= 0 || left > 2*window.Milliseconds() {
			due = append(due, id)
		}
	}
	slices.Sort(due)
	for _, id := range due {
		r := s.st.Held[id]
		if r == nil { // counted together with others meanwhile
			continue
		}
		if r.Count == 0 {
			delete(s.st.Held, id)
			continue
		}
		was := *r
		r.Count, r.Until, r.Text, r.Tags = 0, now.Add(window).UnixMilli(), "", nil
		if err := s.put(ctx, was.event(), was.Count); err != nil {
			*r = was
			s.st.Held[id] = r
			if ctx.Err() == nil {
				s.cfg.Log.Warn("repeated events are not spooled yet", "name", r.Name, "count", r.Count, "err", err)
			}
			return
		}
	}
}

// event is what is told of a repeated thing.
func (r *repeat) event() *Event {
	text := fmt.Sprintf("%s (%d more times within %s)", r.Text, r.Count, window)
	if r.Name == Suppressed {
		text = fmt.Sprintf("%d events of this host were not told one by one, there were too many; the last: %s", r.Count, r.Text)
	}
	return &Event{Name: r.Name, Key: r.Key, Severity: r.Severity, Text: text, Tags: maps.Clone(r.Tags)}
}

func (s *Source) matches() []string {
	var groups []string
	and := func(terms ...string) {
		if s.cfg.Machine != "" {
			terms = append([]string{"_MACHINE_ID=" + s.cfg.Machine}, terms...)
		}
		groups = append(groups, strings.Join(terms, "\n"))
	}
	ids := []string{}
	if !s.off[SourceUnits] {
		ids = append(ids, "MESSAGE_ID="+idUnitFailure)
	}
	if !s.off[SourceOOM] {
		ids = append(ids, "MESSAGE_ID="+idUnitOOM)
	}
	if !s.off[SourceCrashes] {
		ids = append(ids, "MESSAGE_ID="+idCoredump)
	}
	if len(ids) > 0 {
		and(ids...)
	}
	if !s.off[SourceOOM] {
		and("_TRANSPORT=kernel", "PRIORITY=0", "PRIORITY=1", "PRIORITY=2", "PRIORITY=3")
	}
	var out []string
	for i, g := range groups {
		if i > 0 {
			out = append(out, "+")
		}
		out = append(out, strings.Split(g, "\n")...)
	}
	return out
}
