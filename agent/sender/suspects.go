package sender

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/triward/triward/agent/wire"
)

// A whole request that is refused (400, 413, 422) says little: a proxy, a time-out read as a bad body or a node with a
// fault answers like that too. Nothing is given up for it before there is proof that the content is to blame.
const (
	proofNodes = 2                // so many nodes refused the same, at least proofPause from first to last; or
	proofPause = 10 * time.Second //
	proofTimes = 5                // it was refused so often
	proofSpan  = 5 * time.Minute  // over such a time.
	tryAgain   = 30 * time.Second // how long a suspect waits before the same node is asked again
	asideBurst = 8                // batches that may be set aside at once
	asideEvery = time.Minute      // and one more each
)

func refusesContent(code int) bool {
	return code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge || code == http.StatusUnprocessableEntity
}

// charge counts who refused something.
type charge struct {
	first time.Time
	times int
	nodes []string
}

func (c *charge) add(node string, now time.Time) {
	if c.times == 0 {
		c.first = now
	}
	c.times++
	if !slices.Contains(c.nodes, node) && len(c.nodes) < proofNodes {
		c.nodes = append(c.nodes, node)
	}
}

func (c *charge) proven(now time.Time) bool {
	span := now.Sub(c.first)
	return len(c.nodes) >= proofNodes && span >= proofPause || c.times >= proofTimes && span >= proofSpan
}

// suspect is the first batch of a lane that holds it up. It is sent by itself, and meanwhile the lane waits.
type suspect struct {
	seq     uint64
	charge  charge
	until   time.Time            // for all nodes
	perNode map[string]time.Time // when each may be asked again
}

func (s *suspect) due(node string) time.Time {
	if t := s.perNode[node]; t.After(s.until) {
		return t
	}
	return s.until
}

// suspect returns the one of the lane, which is batch seq.
func (s *Sender) suspect(lane wire.Lane, seq uint64) *suspect {
	if sus := s.suspects[lane]; sus != nil && sus.seq == seq {
		return sus
	}
	sus := &suspect{seq: seq, perNode: map[string]time.Time{}}
	s.suspects[lane] = sus
	return sus
}

// held tells what is to be done with a lane whose first waiting batch is seq: wait until a time, or send that batch
// alone.
func (s *Sender) held(lane wire.Lane, seq uint64, node string, now time.Time) (until time.Time, alone bool) {
	sus := s.suspects[lane]
	if sus == nil {
		return time.Time{}, false
	}
	if sus.seq != seq {
		s.suspects[lane] = nil
		return time.Time{}, false
	}
	if due := sus.due(node); due.After(now) {
		return due, false
	}
	return time.Time{}, true
}

// wakeAfter is how long until a lane that is held up may be tried again; 0 when none is.
func (s *Sender) wakeAfter(node string, now time.Time) time.Duration {
	var first time.Duration
	for _, sus := range s.suspects {
		if sus == nil {
			continue
		}
		if d := max(sus.due(node).Sub(now), time.Millisecond); first == 0 || d < first {
			first = d
		}
	}
	return first
}

// narrow comes closer to what a whole request of size bytes was refused for: shorter requests, then fewer batches,
// then single ones. One that is refused alone is a suspect.
func (s *Sender) narrow(node string, batches []wire.Batch, size int, se *StatusError) (int, error) {
	now := time.Now()
	if se.Code == http.StatusRequestEntityTooLarge {
		s.ceiling, s.ceilingUntil = max(size*3/4, minRequestBytes), now.Add(sizeForget)
	}
	switch {
	case len(batches) == 1:
		return 1, s.accuse(node, &batches[0], se, now)
	case se.Code == http.StatusRequestEntityTooLarge && s.budget > minRequestBytes:
		s.budget = max(min(s.budget, size)/2, minRequestBytes)
	default:
		s.count = max(1, len(batches)/2)
	}
	return len(batches), nil
}

// accuse notes that a node refused a batch by itself, and sets it aside on proof. Without, the error sends us to
// another node.
func (s *Sender) accuse(node string, b *wire.Batch, se *StatusError, now time.Time) error {
	sus := s.suspect(b.Lane, b.Seq)
	sus.perNode[node] = now.Add(tryAgain)
	if s.cfg.Spool.Given(b.Lane, b.Seq) {
		return fmt.Errorf("an empty batch was refused, so content is not to blame: %w", se)
	}
	sus.charge.add(node, now)
	if se.Type == TypeContent || sus.charge.proven(now) {
		return s.renew(s.condemn(b.Lane, b.Seq, se.Error()))
	}
	return fmt.Errorf("batch %d of lane %s was refused by itself, %d times so far: %w", b.Seq, b.Lane, sus.charge.times, se)
}

// condemn sets a batch aside that the cluster will not take, as long as that does not happen too often: should a
// fault on the other side refuse everything, the lane waits and little is given up.
func (s *Sender) condemn(lane wire.Lane, seq uint64, reason string) error {
	now := time.Now()
	if !s.asides.AllowN(now, 1) {
		s.suspect(lane, seq).until = now.Add(asideEvery)
		s.cfg.Log.Warn("many batches were refused lately: the lane waits", "lane", lane.String(), "seq", seq, "reason", reason)
		return nil
	}
	s.suspects[lane] = nil
	return s.refuse(lane, seq, reason)
}
