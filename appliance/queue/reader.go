package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/triward/triward/appliance/auth"
)

// Reader is a consumer that runs in the process of a node, such as one that forwards or archives. It holds the consumer
// for as long as it commits. It serves one goroutine.
type Reader struct {
	s     *Service
	name  string
	token uint64
	next  Position
	done  Position
	at    time.Time // of the newest commit, by this node's clock
}

// OpenReader makes owner the reader of a consumer. ErrHeld while another one is.
func (s *Service) OpenReader(ctx context.Context, name, owner string) (*Reader, error) {
	c, err := s.Open(ctx, name, owner, DefaultLease, false, auth.AuditRecord{})
	if err != nil {
		return nil, err
	}
	return &Reader{s: s, name: name, token: c.Token, next: c.Position, done: c.Position, at: time.Now()}, nil
}

// Next gives fn messages behind those of the call before, at most limit of them (MaxItems), and waits up to wait for the
// first. What an item points to may be kept, the item itself must be copied. *GapError when retention has overtaken the
// reader: Skip goes on behind the gap.
func (r *Reader) Next(ctx context.Context, limit int, wait time.Duration, fn func(it *Item)) (Progress, error) {
	_, pr, err := r.s.ReadAs(ctx, r.name, r.token, r.next, Ask{Max: limit, Wait: wait, Sink: func(it *Item) int {
		fn(it)
		return it.size()
	}})
	if err == nil {
		r.next = pr.Next
	}
	return pr, err
}

// size is about how long a message is.
func (it *Item) size() int {
	n := 64
	if it.Line != nil {
		n += len(it.Line.Text)
		for i := range it.Line.Fields {
			n += len(it.Line.Fields[i].Name) + len(it.Line.Fields[i].Value)
		}
	}
	if it.Alert != nil {
		n += len(it.Alert.Raw)
	}
	return n
}

// Commit says that all that Next gave was dealt with. It may be called after each Next: without anything new it only keeps
// the consumer from being taken, and costs an entry of the log every half a lease. ErrFenced: somebody else reads.
func (r *Reader) Commit(ctx context.Context) error {
	// A reader that waits for a rare topic moves on over what is of others no more than twice in a lease.
	if r.next == r.done && time.Since(r.at) < DefaultLease/2 {
		return nil
	}
	c, err := r.s.Commit(ctx, r.name, r.token, r.next, false)
	if err != nil {
		return err
	}
	r.done, r.at = c.Position, time.Now()
	return nil
}

// Close lets others read as the consumer; what was not committed comes again.
func (r *Reader) Close(ctx context.Context) error {
	_, err := r.s.Commit(ctx, r.name, r.token, r.done, true)
	return err
}

// Skip goes on behind a gap.
func (r *Reader) Skip(g *GapError) error {
	if g == nil || !r.next.Less(g.Next) {
		return fmt.Errorf("skip a gap: %w", errors.New("it does not lie ahead"))
	}
	r.next = g.Next
	return nil
}

// Position is where the next message is looked for.
func (r *Reader) Position() Position { return r.next }
