package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/triward/triward/raftstate"
)

// Bounds of reading.
const (
	// MaxItems is the most messages that one read returns, DefaultItems how many it does unless asked.
	MaxItems     = 10_000
	DefaultItems = 1000
	// MaxWait is the longest that a read waits for messages.
	MaxWait = 30 * time.Second
	// pageBytes is about how much a read returns, as JSON; a message more than that comes alone.
	pageBytes = 4 << 20
	// scanBytes and scanTime bound what of the log one read looks through for the topics that it wants.
	scanBytes = 128 << 20
	scanTime  = 2 * time.Second
	// readEntries and readBytes are what is taken from the log at once.
	readEntries = 64
	readBytes   = 1 << 20
	maxReaders  = 64 // reads at once, most of which wait
	maxDecoding = 4  // reads that work at once
)

// Ask is what a read wants. Exactly one of Sink's methods is called for each message, in order.
type Ask struct {
	Topics []Topic // all when empty
	Agent  string
	From   Position
	Max    int           // messages; DefaultItems when 0
	Wait   time.Duration // for the first message
	// Sink takes a message and returns its size in bytes. The item is valid during the call.
	Sink func(it *Item) int
}

// Progress is how far a read got.
type Progress struct {
	Next  Position // where to read on
	Head  uint64   // the last entry that this node has applied
	Count int
	More  bool // there is more of the log to look through now
}

// Read hands out messages from a position on. It returns *GapError when the position is not in the log any more, and
// nothing was handed out then.
func (s *Service) Read(ctx context.Context, a Ask) (Progress, error) {
	if a.Max <= 0 {
		a.Max = DefaultItems
	}
	a.Max = min(a.Max, MaxItems)
	pr := Progress{Next: a.From}
	if !take(s.readers) {
		return pr, fmt.Errorf("%w reads at once on this node", ErrTooMany)
	}
	defer func() { <-s.readers }()
	wait, cancel := context.WithTimeout(ctx, min(max(a.Wait, 0), MaxWait))
	defer cancel()
	f := newFilter(a.Topics, a.Agent)
	for {
		err := s.scan(ctx, &a, &f, &pr)
		pr.Head = s.cfg.Log.AppliedIndex()
		if err != nil {
			if pr.Count > 0 { // what was handed out counts; the next read meets the error again
				pr.More = true
				return pr, nil
			}
			return pr, s.gap(ctx, a.From, pr.Next, err)
		}
		pr.More = pr.Next.Index <= pr.Head
		if pr.Count > 0 || pr.More || a.Wait <= 0 {
			return pr, nil
		}
		if err := s.cfg.Log.WaitApplied(wait, pr.Next.Index); err != nil {
			if ctx.Err() != nil || wait.Err() == nil {
				return pr, fmt.Errorf("wait for entry %d: %w", pr.Next.Index, err)
			}
			return pr, nil // the time is up
		}
	}
}

func take(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// scan looks through the log once, within bounds.
func (s *Service) scan(ctx context.Context, a *Ask, f *filter, pr *Progress) error {
	select {
	case s.decoding <- struct{}{}:
		defer func() { <-s.decoding }()
	case <-ctx.Done():
		return ctx.Err()
	}
	d := s.decoders.Get().(*decoder)
	defer s.decoders.Put(d)
	began, looked, size := time.Now(), int64(0), 0
	emit := func(it *Item) bool {
		if pr.Count >= a.Max || pr.Count > 0 && size >= pageBytes {
			return false
		}
		size += a.Sink(it)
		pr.Count++
		return true
	}
	for looked < scanBytes && time.Since(began) < scanTime {
		entries, next, err := s.cfg.Log.ReadQueue(ctx, pr.Next.Index, readEntries, readBytes)
		if err != nil {
			return err
		}
		if next == pr.Next.Index {
			return nil
		}
		for i := range entries {
			e := &entries[i]
			looked += int64(e.Bytes) + 1
			item := uint64(0)
			if e.Index == pr.Next.Index {
				item = pr.Next.Item
			}
			stopped, all, err := d.entry(e, item, f, emit)
			if err != nil {
				return err
			}
			if !all {
				pr.Next = Position{Index: e.Index, Item: stopped}
				return nil
			}
			pr.Next = Position{Index: e.Index + 1}
		}
		if pr.Count >= a.Max || size >= pageBytes {
			return nil
		}
	}
	return nil
}

// gap makes a GapError of entries that are gone.
func (s *Service) gap(ctx context.Context, from, next Position, err error) error {
	var gone *raftstate.GoneError
	if !errors.As(err, &gone) {
		return err
	}
	if from != next { // part of the way was there: begin where it ends
		from = next
	}
	g := &GapError{Gap: Gap{From: from, To: gone.First - 1, Next: Position{Index: gone.First}}, Silent: gone.Silent}
	for index := gone.First; index < gone.First+8; index++ {
		entries, _, err := s.cfg.Log.ReadQueue(ctx, index, 1, 1)
		if err != nil || len(entries) == 0 {
			break
		}
		if g.ToTime = entries[0].Stamp; g.ToTime > 0 {
			break
		}
	}
	return g
}

// ReadAs reads for a consumer from its cursor on, or from another position that a read before returned. token, when it is
// not 0, must be the consumer's. The cursor does not move.
func (s *Service) ReadAs(ctx context.Context, name string, token uint64, from Position, a Ask) (Consumer, Progress, error) {
	c, _, err := s.get(name)
	if err != nil {
		return c, Progress{}, err
	}
	if token != 0 {
		if err := c.check(token); err != nil {
			return c, Progress{}, err
		}
	}
	a.Topics, a.Agent, a.From = c.Topics, c.Agent, c.Position
	if from.Index > 0 {
		a.From = from
	}
	pr, err := s.Read(ctx, a)
	var g *GapError
	if errors.As(err, &g) {
		g.FromTime = c.Time
	}
	return c, pr, err
}

// Place reads a place of the log as Replay does; without one it is back entries before the end, or the beginning.
func (s *Service) Place(ctx context.Context, from string, back uint64) (Position, error) {
	if from != "" {
		p, _, err := s.resolve(ctx, from)
		return p, err
	}
	first, _, err := s.cfg.Log.OldestEntry(ctx)
	if err != nil {
		return Position{}, fmt.Errorf("find the beginning of the log: %w", err)
	}
	head := s.cfg.Log.AppliedIndex()
	if head > back {
		first = max(first, head-back)
	}
	return Position{Index: first}, nil
}

// Incarnation names the life of the cluster in which the indexes mean what they say.
func (s *Service) Incarnation() string { return s.cfg.Incarnation() }
