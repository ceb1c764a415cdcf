package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/logstore"
)

// Room is one day of an agent that was brought back to a node to be searched. It is on that node alone: no part of the state,
// of digests or of backups.
type Room struct {
	ID    string `json:"id"`
	Node  string `json:"node"`
	Agent string `json:"agent"` // "" also for lines that name none
	All   bool   `json:"all"`   // the lines of all agents
	Host  string `json:"host,omitempty"`
	Date  string `json:"date"`
	Tag   string `json:"tag"`
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	By    string `json:"by,omitempty"`
	// Lines are those of the archive, Done how many of them are here; Bytes is what the room takes of the disk.
	Lines int64 `json:"lines"`
	Done  int64 `json:"done"`
	Bytes int64 `json:"bytes"`
	// Created and Expires are by the clock of the node, milliseconds since 1970.
	Created int64 `json:"created"`
	Expires int64 `json:"expires"`
}

// States of a room.
const (
	RoomImporting = "importing"
	RoomReady     = "ready"
	RoomFailed    = "failed" // it holds nothing
)

// RoomsConfig of Rooms.
type RoomsConfig struct {
	Dir  string // own folder; what is not ours in it is removed
	Node string
	// Disk tells size and free bytes of the disk that Dir lies on; nil asks the file system.
	Disk func() (total, free int64, err error)
	// Format is that of the cluster's state, by which blocks are written; nil: the oldest.
	Format func() uint32
	Log    *slog.Logger
	Now    func() time.Time // nil: the clock
}

// Bounds of the reading rooms of a node.
const (
	MaxRooms = 8
	// roomShare is the part of the disk that all rooms together may take, roomLeft the part that stays free while one is filled,
	// roomDrop the part below which rooms are given up for what is collected.
	roomShare = 10
	roomLeft  = 8
	roomDrop  = 12
	// MaxRoomDays is how long a room stays at most.
	MaxRoomDays  = 90
	roomLook     = 30 * time.Second
	loadBytes    = 4 << 20
	workBytes    = 32 << 20
	roomFile     = "room.json"
	roomStoreDir = "store"
)

// Errors of rooms.
var (
	// ErrExists says that a day is here already.
	ErrExists = errors.New("it is here already")
	// ErrNoRoom says that the disk, or the number of rooms, does not allow another one.
	ErrNoRoom = errors.New("there is no room to bring it back")
)

// Rooms are the reading rooms of a node. Make them with OpenRooms, run Run, and Close them.
type Rooms struct {
	cfg    RoomsConfig
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	rooms map[string]*openRoom
}

type openRoom struct {
	about  Room
	store  *logstore.Store // nil until it is ready
	done   atomic.Int64
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing fills it any more
}

// OpenRooms opens the rooms that are there, and removes what an import left that did not come to its end.
func OpenRooms(cfg RoomsConfig) (*Rooms, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Disk == nil {
		cfg.Disk = func() (total, free int64, err error) {
			var st unix.Statfs_t
			err = unix.Statfs(cfg.Dir, &st)
			return int64(st.Blocks-(st.Bfree-st.Bavail)) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize), err
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("reading rooms: %w", err)
	}
	r := &Rooms{cfg: cfg, rooms: map[string]*openRoom{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("reading rooms: %w", err)
	}
	for _, e := range entries {
		if err := r.reopen(e.Name()); err != nil {
			cfg.Log.Warn("a reading room is given up; import the day again", "room", e.Name(), "err", err)
			if err := os.RemoveAll(filepath.Join(cfg.Dir, e.Name())); err != nil {
				cfg.Log.Warn("remove a reading room", "room", e.Name(), "err", err)
			}
		}
	}
	return r, nil
}

func (r *Rooms) reopen(id string) error {
	body, err := os.ReadFile(filepath.Join(r.cfg.Dir, id, roomFile))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("its import did not come to its end")
	}
	var about Room
	if err == nil {
		err = json.Unmarshal(body, &about)
	}
	if err == nil && (about.ID != id || len(r.rooms) >= MaxRooms) {
		err = errors.New("it is not one of ours")
	}
	if err != nil {
		return err
	}
	s, err := r.open(id)
	if err != nil {
		return err
	}
	o := &openRoom{about: about, store: s, cancel: func() {}, ended: make(chan struct{})}
	close(o.ended)
	o.done.Store(about.Lines)
	r.rooms[id] = o
	return nil
}

func (r *Rooms) open(id string) (*logstore.Store, error) {
	s, err := logstore.New(logstore.Options{
		Log: r.cfg.Log.With("room", id), CacheBytes: 16 << 20, MemTableBytes: 4 << 20, SealBytes: workBytes, OpenIndexes: 2, Manual: true, Now: r.cfg.Now,
		Queries: 2, QueryBytes: 128 << 20,
		OnDamage: func(d *logstore.DamageError) {
			r.cfg.Log.Error("a reading room is damaged; remove it and import the day again", "room", id, "err", d)
		},
	})
	if err != nil {
		return nil, err
	}
	if r.cfg.Format != nil {
		s.SetFormat(r.cfg.Format())
	}
	if err := s.Open(filepath.Join(r.cfg.Dir, id, roomStoreDir)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends imports under way and closes the rooms.
func (r *Rooms) Close() error {
	r.cancel()
	r.work.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, o := range r.rooms {
		if o.store != nil {
			errs = append(errs, o.store.Close())
		}
	}
	r.rooms = map[string]*openRoom{}
	return errors.Join(errs...)
}

// Run removes rooms whose time is over, and those that are in the way of what is collected, until ctx ends.
func (r *Rooms) Run(ctx context.Context) {
	tick := time.NewTicker(roomLook)
	defer tick.Stop()
	for {
		r.look()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look removes what must go.
func (r *Rooms) look() {
	now := r.cfg.Now().UnixMilli()
	all := r.List()
	for _, a := range all {
		if a.Expires <= now && a.State != RoomImporting {
			r.cfg.Log.Info("the time of a reading room is over", "room", a.ID)
			r.give(a.ID)
		}
	}
	total, free, err := r.cfg.Disk()
	if err != nil || free >= total/roomDrop {
		return
	}
	slices.SortFunc(all, func(a, b Room) int { return cmp.Compare(a.Created, b.Created) })
	for _, a := range all {
		if a.State == RoomReady {
			r.cfg.Log.Warn("a reading room is given up: the disk fills up", "room", a.ID, "bytes", a.Bytes)
			r.give(a.ID)
			return // and the next one later, if this did not help
		}
	}
}

func (r *Rooms) give(id string) {
	if err := r.Remove(r.ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
		r.cfg.Log.Warn("remove a reading room", "room", id, "err", err)
	}
}

// List tells of all rooms, the newest first.
func (r *Rooms) List() []Room {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Room, 0, len(r.rooms))
	for _, o := range r.rooms {
		a := o.about
		a.Done = o.done.Load()
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Room) int { return cmp.Or(cmp.Compare(b.Created, a.Created), strings.Compare(a.ID, b.ID)) })
	return out
}

// Get tells of a room.
func (r *Rooms) Get(id string) (Room, error) {
	for _, a := range r.List() {
		if a.ID == id {
			return a, nil
		}
	}
	return Room{}, fmt.Errorf("%w: this node has no room %.80q", ErrNotFound, id)
}

// Bytes is what all rooms take of the disk, about.
func (r *Rooms) Bytes() (n int64) {
	for _, a := range r.List() {
		n += a.Bytes
	}
	return n
}

// Store returns the store of a room that is ready. It is closed when the room is removed.
func (r *Rooms) Store(id string) (*logstore.Store, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.rooms[id]
	switch {
	case o == nil:
		return nil, fmt.Errorf("%w: this node has no room %.80q", ErrNotFound, id)
	case o.store == nil && o.about.State == RoomFailed:
		return nil, fmt.Errorf("%w: the import of room %s failed: %s", ErrNotFound, id, o.about.Error)
	case o.store == nil:
		return nil, fmt.Errorf("%w: room %s is still being filled", ErrRunning, id)
	}
	return o.store, nil
}

// Remove ends a room. Whoever reads in it is given five seconds.
func (r *Rooms) Remove(ctx context.Context, id string) error {
	r.mu.Lock()
	o := r.rooms[id]
	if o == nil {
		r.mu.Unlock()
		return fmt.Errorf("%w: this node has no room %.80q", ErrNotFound, id)
	}
	r.mu.Unlock()
	o.cancel()
	select {
	case <-o.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	if r.rooms[id] != o {
		r.mu.Unlock()
		return fmt.Errorf("%w: room %s is gone", ErrNotFound, id)
	}
	delete(r.rooms, id)
	r.mu.Unlock()
	dir := filepath.Join(r.cfg.Dir, id)
	err := os.Remove(filepath.Join(dir, roomFile)) // without it the rest is nothing
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if o.store != nil {
		err = errors.Join(err, o.store.Close())
	}
	if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
		return fmt.Errorf("remove room %s: %w", id, err)
	}
	return nil
}

// Ask says what is to be brought back.
type Ask struct {
	Date  string
	Tag   string // "": the only one, or that of this cluster
	Agent string // its id, also as the tree has it
	All   bool   // all agents
	Days  int    // how long it stays
	By    string
}

// Import makes a room and fills it in the background. own is the tag of this cluster. Import returns once it is known what
// will be brought back; it fails when that is here already.
func (r *Rooms) Import(ctx context.Context, from target.Target, own string, ask Ask) (Room, error) {
	if ask.Days < 1 || ask.Days > MaxRoomDays {
		return Room{}, fmt.Errorf("%w: days %d: want 1 to %d", ErrInvalid, ask.Days, MaxRoomDays)
	}
	chain, err := find(ctx, from, ask.Date, ask.Tag, own)
	if err != nil {
		return Room{}, err
	}
	all, err := agents(ctx, from, chain, &ask)
	if err != nil {
		return Room{}, err
	}
	if !ask.All {
		ask.Agent = all[0].Agent
	}
	now := r.cfg.Now()
	about := Room{
		Node: r.cfg.Node, Agent: ask.Agent, All: ask.All, Date: ask.Date, Tag: chain[0].Tag, State: RoomImporting, By: ask.By,
		Created: now.UnixMilli(), Expires: now.AddDate(0, 0, ask.Days).UnixMilli(),
	}
	about.ID = fmt.Sprintf("%s-%016x", about.Date, xxh3.HashString(fmt.Sprintf("%t\x00%s\x00%s", about.All, about.Tag, about.Agent)))[:len(about.Date)+9]
	stored := int64(0)
	for _, m := range all {
		about.Lines += m.Lines
		if !ask.All {
			about.Host = cmp.Or(about.Host, m.Host)
		}
		for i := range m.Files {
			for j := range m.Files[i].Parts {
				stored += m.Files[i].Parts[j].Stored
			}
		}
	}
	if err := r.mayHold(stored); err != nil {
		return Room{}, err
	}
	return about, r.begin(from, about, all)
}

// find returns the chain of a date.
func find(ctx context.Context, from target.Target, date, tag, own string) ([]Name, error) {
	if _, err := ParseDate(date); err != nil {
		return nil, err
	}
	names, err := Names(ctx, from, date)
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, n := range names {
		if !slices.Contains(tags, n.Tag) {
			tags = append(tags, n.Tag)
		}
	}
	if tag == "" && slices.Contains(tags, own) {
		tag = own
	}
	switch {
	case tag == "" && len(tags) > 1:
		return nil, fmt.Errorf("%w: %s was archived by several clusters: name one, %s", ErrInvalid, date, strings.Join(tags, ", "))
	case tag == "" && len(tags) == 1:
		tag = tags[0]
	}
	chain := Chain(names, date, tag)
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: %s is not in %s", ErrNotFound, date, from)
	}
	return chain, nil
}

// agents reads the manifests of what is asked for.
func agents(ctx context.Context, from target.Target, chain []Name, ask *Ask) (all []*Agent, err error) {
	for _, n := range chain {
		d, err := ReadDay(ctx, from, n)
		if err != nil {
			return nil, err
		}
		for i := range d.Agents {
			if e := &d.Agents[i]; !ask.All && e.Agent != ask.Agent && e.Dir != ask.Agent {
				continue
			}
			m, err := ReadAgent(ctx, from, d, d.Agents[i].Agent)
			if err != nil {
				return nil, err
			}
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: nothing of agent %.80q on %s", ErrNotFound, ask.Agent, ask.Date)
	}
	return all, nil
}

// mayHold refuses what the disk has no room for. A room takes about twice what the archive does; how much it is in the end is
// looked at while it is filled.
func (r *Rooms) mayHold(stored int64) error {
	total, free, err := r.cfg.Disk()
	if err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	if used := r.Bytes(); used+2*stored > total/roomShare {
		return fmt.Errorf("%w: rooms take %d bytes of this node, this one about %d more, and all together may take %d: remove one", ErrNoRoom, used, 2*stored, total/roomShare)
	}
	if free-2*stored < total/roomLeft {
		return fmt.Errorf("%w: the disk has %d bytes free, and %d must stay so", ErrNoRoom, free, total/roomLeft)
	}
	return nil
}

// begin makes the room and fills it in the background.
func (r *Rooms) begin(from target.Target, about Room, all []*Agent) error {
	ctx, cancel := context.WithCancel(r.ctx)
	o := &openRoom{about: about, cancel: cancel, ended: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.ctx.Err()
	if old := r.rooms[about.ID]; old != nil && old.about.State != RoomFailed {
		err = fmt.Errorf("room %s: %w", about.ID, ErrExists)
	} else if old == nil && len(r.rooms) >= MaxRooms {
		err = fmt.Errorf("%w: this node has %d rooms, no more are possible: remove one", ErrNoRoom, MaxRooms)
	}
	for id, other := range r.rooms {
		if err == nil && other.about.State == RoomImporting {
			err = fmt.Errorf("%w: room %s is still being filled: one after the other", ErrRunning, id)
		}
	}
	if err != nil {
		cancel()
		return err
	}
	r.rooms[about.ID] = o
	r.work.Go(func() {
		defer close(o.ended)
		defer cancel()
		s, bytes, err := r.fill(ctx, from, o, all)
		r.mu.Lock()
		defer r.mu.Unlock()
		if o.about.Bytes = bytes; err != nil {
			o.about.State, o.about.Error, o.about.Bytes = RoomFailed, clip(err.Error()), 0
			r.cfg.Log.Warn("import of an archived day failed", "room", about.ID, "err", err)
			return
		}
		o.about.State, o.store = RoomReady, s
		r.cfg.Log.Info("an archived day was brought back", "room", about.ID, "lines", about.Lines, "bytes", bytes)
	})
	return nil
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 500)], "") }

// fill makes the store of a room. When it fails nothing is left of it.
func (r *Rooms) fill(ctx context.Context, from target.Target, o *openRoom, all []*Agent) (s *logstore.Store, bytes int64, err error) {
	dir := filepath.Join(r.cfg.Dir, o.about.ID)
	if err := os.RemoveAll(dir); err != nil {
		return nil, 0, err
	}
	if err := os.Mkdir(dir, 0o750); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err == nil {
			return
		}
		if s != nil {
			err = errors.Join(err, s.Close())
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if s, err = r.open(o.about.ID); err != nil {
		return nil, 0, err
	}
	if err := r.load(ctx, from, s, o, all); err != nil {
		return s, 0, err
	}
	if err := check(ctx, s, all); err != nil {
		return s, 0, err
	}
	if err := s.Flush(ctx); err != nil {
		return s, 0, err
	}
	about := o.about
	about.State, about.Bytes = RoomReady, sizeOf(dir)
	body, err := json.Marshal(about)
	if err != nil {
		return s, 0, err
	}
	if err := syncFS(dir); err != nil {
		return s, 0, err
	}
	tmp := filepath.Join(dir, "."+roomFile)
	if err := os.WriteFile(tmp, body, 0o640); err != nil {
		return s, 0, err
	}
	if err := syncFS(dir); err != nil {
		return s, 0, err
	}
	if err := errors.Join(os.Rename(tmp, filepath.Join(dir, roomFile)), syncFS(dir)); err != nil {
		return s, 0, err
	}
	return s, about.Bytes, nil
}

// load puts the lines of the manifests into the store.
func (r *Rooms) load(ctx context.Context, from target.Target, s *logstore.Store, o *openRoom, all []*Agent) error {
	var rows []logstore.Row
	size, since := 0, 0
	flush := func(force bool) error {
		if len(rows) > 0 {
			if err := s.Load(rows); err != nil {
				return err
			}
			o.done.Add(int64(len(rows)))
			since += size
			clear(rows)
			rows, size = rows[:0], 0
		}
		if since < workBytes && !force {
			return nil
		}
		since = 0
		if err := s.Work(ctx, true); err != nil {
			return err
		}
		return r.stillHolds(filepath.Join(r.cfg.Dir, o.about.ID))
	}
	for _, m := range all {
		for i := range m.Files {
			for j := range m.Files[i].Parts {
				err := ReadPart(ctx, from, m, &m.Files[i], &m.Files[i].Parts[j], func(row *logstore.Row) error {
					rows = append(rows, *row)
					if size += bytesOf(row); size < loadBytes {
						return ctx.Err()
					}
					return flush(false)
				})
				if err != nil {
					return err
				}
			}
		}
	}
	return flush(true)
}

// stillHolds makes sure that a room that grows stays within its bounds.
func (r *Rooms) stillHolds(dir string) error {
	total, free, err := r.cfg.Disk()
	if err != nil {
		return err
	}
	if others, own := r.Bytes(), sizeOf(dir); others+own > total/roomShare {
		return fmt.Errorf("%w: it takes %d bytes so far, others %d, and all together may take %d", ErrNoRoom, own, others, total/roomShare)
	}
	if free < total/roomLeft {
		return fmt.Errorf("%w: the disk has %d bytes free, and %d must stay so", ErrNoRoom, free, total/roomLeft)
	}
	return nil
}

// check compares the store with what the manifests say.
func check(ctx context.Context, s *logstore.Store, all []*Agent) error {
	var want, got Total
	for _, m := range all {
		want.add(m.Total)
	}
	var sums hasher
	err := s.Each(ctx, -1<<63, 0, func(r *logstore.Row) error {
		got.add(Total{1, Sum{sums.sum(r)}})
		return nil
	})
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: %d lines came back of %d", ErrDamaged, got.Lines, want.Lines)
	}
	return nil
}

func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(f.Fd()))
	return errors.Join(err, f.Close())
}

// sizeOf is what files below a folder take of the disk.
func sizeOf(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil // files come and go while we look
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				n += st.Blocks * 512
			}
		}
		return nil
	})
	return n
}

func bytesOf(r *logstore.Row) int {
	n := len(r.Text) + 256
	for i := range r.Fields {
		n += len(r.Fields[i].Name) + len(r.Fields[i].Value) + 64
	}
	return n
}
