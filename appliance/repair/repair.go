// Package repair knows what is damaged on a node and has it mended: it takes reports of damage from the stores, from the
// scrub and from the start, writes them down, tells of them, and has the whole state of the node taken from another
// member, one node at a time, as often as it takes.
//
// It owns the journal of the node's damage (a file in the data directory, so that damage found before a crash is known
// after it), decides when a repair is tried again, and knows what an operator has ordered. How a state is replaced is
// raftstate's; that only one node of the cluster does so at a time is a lease, which the App gives. Damage of a word
// index is only written down: its store makes the index again by itself.
//
// The package imports raftstate for the form of damage, and nothing of the stores.
package repair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/raftstate"
)

// Damage is a place of a node's data that is not what was written.
type Damage = raftstate.Damage

// Record is damage and what became of it. Times are milliseconds since 1970.
type Record struct {
	ID string `json:"id"` // the same whoever tells of it
	Damage
	FoundAt    int64  `json:"found_at"`
	RepairedAt int64  `json:"repaired_at,omitempty"`
	TookMs     int64  `json:"took_ms,omitempty"` // from the find to the end
	How        string `json:"how,omitempty"`     // see raftstate.Repaired
	From       string `json:"from,omitempty"`    // node that the data came from
	Index      uint64 `json:"index,omitempty"`
	Bytes      int64  `json:"bytes,omitempty"`
	Aside      string `json:"aside,omitempty"` // where what was damaged lies
	// replaced says that the data concerned is not in use any more, as its repair is about to end.
	replaced bool
}

// Open says that the damage is not repaired.
func (r *Record) Open() bool { return r.RepairedAt == 0 }

// States of a node's data.
const (
	StateWhole     = "whole"
	StateDamaged   = "damaged" // a repair is due
	StateRepairing = "repairing"
	StateRefused   = "refused" // nothing is done without a person
)

// Status is what a node says of its damage.
type Status struct {
	State   string   `json:"state"`
	Doing   string   `json:"doing,omitempty"`
	Done    int64    `json:"done_bytes,omitempty"`
	Total   int64    `json:"total_bytes,omitempty"`
	Refused string   `json:"refused,omitempty"` // why a repair is not done, or was not when it was tried last
	NextMs  int64    `json:"next_ms,omitempty"` // when it is tried again, milliseconds since 1970
	Damage  []Record `json:"damage,omitempty"`  // not repaired, at most maxShown
	More    int      `json:"more,omitempty"`    // further damage
	History []Record `json:"history,omitempty"` // repaired, the newest first
}

// Order is an operator's word that a node may take its state from another, whatever is damaged elsewhere.
type Order struct {
	From string `json:"from"`
	By   string `json:"by"`
	At   int64  `json:"at"` // log time in ms
}

// Bounds.
const (
	maxRecords = 200
	maxShown   = 20
	maxText    = 1 << 10
	// keepAside is how long what was set aside is kept after a repair.
	keepAside = 7 * 24 * time.Hour
)

// Config of a Service.
type Config struct {
	Node string
	Dir  string // data directory
	// Tell is told of records that were found and repaired, once each time that this process learns of it. It must not block.
	Tell func(node string, r Record)
	// TellRefused is told when a repair is refused for another reason than before. It must not block.
	TellRefused func(node, why string, d Damage)
	// Mend replaces the state of the running node. before is called immediately before the swap.
	Mend func(ctx context.Context, before func(ctx context.Context) error) error
	// MendLog has the node's log mended; nil when there is nothing to do, or when it is being done.
	MendLog func(ctx context.Context) error
	// Lease makes this node the only one that swaps its state, for span at least; it is given up by Release, with carried when
	// the state was replaced, which is all that an order asks for. Called again it extends. Release is also called again and
	// again while nothing is mended, as a lease that was not granted in time may be there later.
	Lease   func(ctx context.Context, span time.Duration) error
	Release func(ctx context.Context, carried bool)
	// Ordered is what an operator has ordered for this node in the replicated state; false when nothing, or not known yet.
	Ordered func() (Order, bool)
	// Recheck reads what is called damaged again, and has what is still damaged told to Found. Rechecks says that an operator
	// has ordered that, and Rechecked takes the order back.
	Recheck   func(ctx context.Context, list []Damage) error
	Rechecks  func() bool
	Rechecked func(ctx context.Context)
	// Whole compares what this node holds with what the cluster accepted.
	Whole func(ctx context.Context, asker []Damage) error
	// DropAside removes what was set aside before so long.
	DropAside func(olderThan time.Duration) error

	Retry, RetryMost time.Duration // 2 s, 2 min
	Now              func() time.Time
	Log              *slog.Logger
	Registerer       prometheus.Registerer
}

// Service implements raftstate.Repairs. Its methods may be called from any goroutine.
type Service struct {
	cfg     Config
	found   *prometheus.CounterVec
	mended  *prometheus.CounterVec
	seconds prometheus.Histogram
	wake    chan struct{}

	mu      sync.Mutex
	journal journal
	doing   string
	done    int64
	total   int64
	refused string
	next    time.Time
	waiting chan struct{}      // closed while the start of the node waits for another one's state
	file    string             // node that an order in a file names
	heard   map[string]heardOf // of other nodes, that ask for help
}

var _ raftstate.Repairs = (*Service)(nil)

// New reads what is known of the node's damage. A journal that cannot be read is begun anew: what is damaged is found
// again.
func New(cfg Config) (*Service, error) {
	cfg.Retry, cfg.RetryMost = cmp.Or(cfg.Retry, 2*time.Second), cmp.Or(cfg.RetryMost, 2*time.Minute)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg: cfg, wake: make(chan struct{}, 1), waiting: make(chan struct{}), heard: make(map[string]heardOf),
		found: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_damage_found_total", Help: "Damaged places of this node's data that were found.",
		}, []string{"part"}),
		mended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_repairs_total", Help: "Repairs of this node's data that ended, by what was done.",
		}, []string{"how"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "triward_repair_duration_seconds", Help: "Time from the find of damage to its repair.",
			Buckets: []float64{1, 5, 15, 60, 300, 900, 3600, 4 * 3600},
		}),
	}
	var err error
	if s.journal, err = readJournal(cfg.Dir); err != nil {
		cfg.Log.Warn("what is known of the node's damage cannot be read; it is found again", "err", err)
		s.begunAnew(err)
	}
	if s.file, err = readOrder(cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.Registerer != nil {
		gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "triward_damage_open", Help: "Damaged places of this node's data that are not repaired.",
		}, func() float64 { return float64(len(s.open(anyPart))) })
		for _, c := range []prometheus.Collector{s.found, s.mended, s.seconds, gauge} {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("register metrics of repairs: %w", err)
			}
		}
	}
	return s, nil
}

// Found implements raftstate.Repairs. Damage that is known already is passed over, unless the data that had it was
// replaced: then it is damage of what came in its place.
func (s *Service) Found(d Damage) {
	d.Err, d.Place = clip(d.Err), clip(d.Place)
	s.mu.Lock()
	known := slices.ContainsFunc(s.journal.Records, func(r Record) bool {
		return r.Open() && !r.replaced && r.Part == d.Part && r.Place == d.Place
	})
	if known || len(s.journal.Records) >= maxRecords && !s.journal.makeRoom() {
		s.mu.Unlock()
		return
	}
	at := s.cfg.Now().UnixMilli()
	d.FoundMs = at
	r := Record{ID: idOf(s.cfg.Node, &d), Damage: d, FoundAt: at}
	s.journal.Records = append(s.journal.Records, r)
	s.save()
	s.mu.Unlock()
	s.found.WithLabelValues(d.Part).Inc()
	s.cfg.Log.Error("damage was found", "part", d.Part, "place", d.Place, "err", d.Err)
	if s.cfg.Tell != nil {
		s.cfg.Tell(s.cfg.Node, r)
	}
	s.nudge()
}

func clip(text string) string { return text[:min(len(text), maxText)] }

// idOf names damage, the same on the node that has it and on one that was told of it.
func idOf(node string, d *Damage) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s", node, d.Part, d.Place)
	return fmt.Sprintf("%s/%s/%016x/%d", node, d.Part, h.Sum64(), d.FoundMs)
}

// Ordered has orders looked at now.
func (s *Service) Ordered() { s.nudge() }

func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// save writes the journal. It is called with mu held; a disk that is full or broken must not keep a repair from going on.
func (s *Service) save() {
	if err := s.journal.write(s.cfg.Dir); err != nil {
		s.cfg.Log.Warn("what is known of the node's damage is not written down", "err", err)
	}
}

// Known implements raftstate.Repairs.
func (s *Service) Known() []Damage {
	var list []Damage
	for _, r := range s.open(anyPart) {
		list = append(list, r.Damage)
	}
	return list
}

func anyPart(string) bool { return true }

// inImage reports whether damage of the part is mended by the state of another node.
func inImage(part string) bool {
	return part == raftstate.PartState || part == raftstate.PartMetrics || part == raftstate.PartLogs
}

func (s *Service) open(part func(string) bool) (list []Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.journal.Records {
		if r.Open() && part(r.Part) {
			list = append(list, r)
		}
	}
	return list
}

// Doing implements raftstate.Repairs.
func (s *Service) Doing(what string, done, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing, s.done, s.total = what, done, total
	select {
	case <-s.waiting:
		if what == "" {
			s.waiting = make(chan struct{})
		}
	default:
		if what != "" {
			close(s.waiting)
		}
	}
}

// Waiting returns a channel that is closed while a repair is under way.
func (s *Service) Waiting() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// Replacing implements raftstate.Repairs: the end of the repair closes what is known now, and nothing that is found
// later.
func (s *Service) Replacing(parts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.journal.Records {
		if e := &s.journal.Records[i]; e.Open() && slices.Contains(parts, e.Part) {
			e.replaced = true
		}
	}
}

// Done implements raftstate.Repairs: a repair has ended, and what it was about is mended.
func (s *Service) Done(r raftstate.Repaired) {
	s.mu.Lock()
	if r.How == raftstate.HowImage {
		s.refused, s.file = "", ""
		if err := removeOrder(s.cfg.Dir); err != nil {
			s.cfg.Log.Warn("the order of an operator is carried out and not removed", "err", err)
		}
	}
	if r.Places == nil { // else others may be under way
		s.doing, s.done, s.total = "", 0, 0
		select {
		case <-s.waiting:
			s.waiting = make(chan struct{})
		default:
		}
	}
	told := s.close(func(e *Record) bool {
		return slices.Contains(r.Parts, e.Part) && (r.How != raftstate.HowImage && r.How != raftstate.HowRecheck || e.replaced) && (r.Places == nil || slices.Contains(r.Places, e.Place))
	}, &r)
	s.mu.Unlock()
	s.tellClosed(told, r.How)
}

// Mended says that one place is not damaged any more without anything having been taken from elsewhere. A repair that is
// under way goes on.
func (s *Service) Mended(part, place, how string) {
	s.mu.Lock()
	told := s.close(func(e *Record) bool { return e.Part == part && e.Place == place }, &raftstate.Repaired{How: how})
	s.mu.Unlock()
	s.tellClosed(told, how)
}

// close ends the open records that match and returns them. It is called with mu held.
func (s *Service) close(match func(e *Record) bool, r *raftstate.Repaired) (told []Record) {
	now := s.cfg.Now().UnixMilli()
	for i := range s.journal.Records {
		e := &s.journal.Records[i]
		if !e.Open() || !match(e) {
			continue
		}
		e.RepairedAt, e.TookMs = now, max(now-e.FoundAt, 0)
		e.How, e.From, e.Index, e.Bytes, e.Aside = r.How, r.From, r.Index, r.Bytes, r.Aside
		told = append(told, *e)
	}
	if len(told) > 0 {
		s.save()
	}
	return told
}

func (s *Service) tellClosed(told []Record, how string) {
	for i := range told {
		s.mended.WithLabelValues(how).Inc()
		s.seconds.Observe(float64(told[i].TookMs) / 1000)
		if s.cfg.Tell != nil {
			s.cfg.Tell(s.cfg.Node, told[i])
		}
	}
}

// From implements raftstate.Repairs.
func (s *Service) From() string {
	s.mu.Lock()
	file := s.file
	s.mu.Unlock()
	if file != "" || s.cfg.Ordered == nil {
		return file
	}
	o, _ := s.cfg.Ordered()
	return o.From
}

// Whole implements raftstate.Repairs.
func (s *Service) Whole(ctx context.Context, asker []Damage) error {
	if s.cfg.Whole == nil {
		return errors.New("what this node holds cannot be compared")
	}
	return s.cfg.Whole(ctx, asker)
}

// maxHeard bounds the nodes that are remembered, heardFor is for how long what they said is worth telling.
const (
	maxHeard = 16
	heardFor = time.Minute
)

// heardOf is what another node said, and when.
type heardOf struct {
	said raftstate.PeerRepair
	at   time.Time
}

// Of is what another node said of itself lately when it asked for help; false when it did not.
func (s *Service) Of(node string) (Status, bool) {
	s.mu.Lock()
	h, ok := s.heard[node]
	s.mu.Unlock()
	if !ok || s.cfg.Now().Sub(h.at) > heardFor || len(h.said.Damage) == 0 {
		return Status{}, false
	}
	st := Status{State: StateRepairing, Doing: clip(h.said.Doing), Refused: clip(h.said.Refused)}
	if st.Refused != "" {
		st.State = StateRefused
	}
	for _, d := range h.said.Damage[:min(len(h.said.Damage), maxShown)] {
		st.Damage = append(st.Damage, Record{ID: idOf(node, &d), Damage: d, FoundAt: d.FoundMs})
	}
	return st, true
}

// Heard implements raftstate.Repairs: another node may not be able to tell by itself, as while it starts.
func (s *Service) Heard(node string, said raftstate.PeerRepair) {
	s.mu.Lock()
	old, known := s.heard[node]
	if known || len(s.heard) < maxHeard {
		s.heard[node] = heardOf{said, s.cfg.Now()}
	}
	s.mu.Unlock()
	for i, d := range said.Damage {
		if i < maxShown && d.FoundMs > 0 && s.cfg.Tell != nil {
			s.cfg.Tell(node, Record{ID: idOf(node, &d), Damage: d, FoundAt: d.FoundMs})
		}
	}
	if said.Refused != "" && said.Refused != old.said.Refused && len(said.Damage) > 0 && s.cfg.TellRefused != nil {
		s.cfg.TellRefused(node, clip(said.Refused), said.Damage[0])
	}
}

// Status is what there is to say of this node.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{State: StateWhole, Doing: s.doing, Done: s.done, Total: s.total, Refused: s.refused}
	for i := len(s.journal.Records) - 1; i >= 0; i-- {
		switch r := s.journal.Records[i]; {
		case r.Open() && len(st.Damage) < maxShown:
			st.Damage = append(st.Damage, r)
		case r.Open():
			st.More++
		case len(st.History) < maxShown:
			st.History = append(st.History, r)
		}
	}
	switch {
	case s.doing != "":
		st.State = StateRepairing
	case len(st.Damage) > 0 && s.refused != "":
		st.State = StateRefused
	case len(st.Damage) > 0:
		st.State = StateDamaged
	}
	if !s.next.IsZero() && len(st.Damage) > 0 {
		st.NextMs = s.next.UnixMilli()
	}
	return st
}

// Check is the node's check of that name: who asks it may be given less than there is.
func (s *Service) Check(context.Context) error {
	open := s.open(inImage)
	if len(open) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	what := cmp.Or(s.doing, s.refused, "a repair is due")
	if len(open) == 1 {
		return fmt.Errorf("damaged: %s: %s (%s)", open[0].Part, open[0].Place, what)
	}
	return fmt.Errorf("damaged: %s: %s and %d more places (%s)", open[0].Part, open[0].Place, len(open)-1, what)
}
