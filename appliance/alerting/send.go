package alerting

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/common/model"

	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/state"
)

// Bounds of what is sent at once: a receiver that hangs holds up its own places alone.
const (
	sendsPerWay = 2
	sendsAtOnce = 256
)

// sends are the attempts under way and their results.
type sends struct {
	mu      sync.Mutex
	going   map[string]string // dedup key to way
	perWay  map[string]int
	results []*sendResult
}

type sendResult struct {
	claim *state.Claim
	err   error
}

func (s *sends) init() { s.going, s.perWay = make(map[string]string), make(map[string]int) }

// room reports whether one more message may be sent by the way now.
func (s *sends) room(way string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.perWay[way] < sendsPerWay && len(s.going) < sendsAtOnce
}

// under reports whether the message is being sent, or its result waits to be committed.
func (s *sends) under(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.going[key]
	return ok
}

func (s *sends) begin(c *state.Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	way := c.Receiver + "/" + c.Integration
	s.going[c.Key] = way
	s.perWay[way]++
}

// result notes how an attempt went; its place is free for the next.
func (s *sends) result(c *state.Claim, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	way := s.going[c.Key]
	if s.perWay[way]--; s.perWay[way] <= 0 {
		delete(s.perWay, way)
	}
	s.results = append(s.results, &sendResult{c, err})
}

func (s *sends) next() (*sendResult, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.results) == 0 {
		return nil, false
	}
	r := s.results[0]
	s.results = s.results[1:]
	return r, true
}

func (s *sends) again(r *sendResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append([]*sendResult{r}, s.results...)
}

func (s *sends) done(r *sendResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.going, r.claim.Key)
}

// send makes the attempt that was committed, in the background.
func (l *leader) send(c *state.Claim) {
	l.sends.begin(c)
	l.s.board.refresh()
	l.s.board.mu.RLock()
	mod := l.s.board.claims[c.Key].mod
	l.s.board.mu.RUnlock()
	m, in, err := l.s.message(c, l.now)
	l.work.Go(func() {
		if err == nil {
			// Not under the lease's context: what was begun is ended, so that it is known how it went.
			err = l.s.cfg.Send(context.Background(), in, m, l.gate(c, mod))
		}
		l.sends.result(c, err)
		poke(l.s.wake)
	})
}

// gate is asked immediately before the message is written: this node must still lead, hold the lease, and the claim be
// as it was committed (DESIGN D13).
func (l *leader) gate(c *state.Claim, mod uint64) notify.Gate {
	return func(ctx context.Context) error {
		if err := l.s.cfg.Leadership.Verify(ctx); err != nil {
			return err
		}
		if got, _ := l.s.cfg.Meta.Get(BucketLease, keyLeader); got.ModIndex != l.mod {
			return errDeposed
		}
		if got, _ := l.s.cfg.Meta.Get(BucketSends, c.Key); got.ModIndex != mod {
			return errors.New("the claim was changed")
		}
		return nil
	}
}

// message makes what a claim says, and finds the way to say it by.
func (s *Service) message(c *state.Claim, now int64) (*notify.Message, *route.Integration, error) {
	b := s.board
	b.mu.RLock()
	rt := b.routes
	m := &notify.Message{
		Key: c.Key, Receiver: c.Receiver, GroupKey: groupText(c), GroupLabels: c.Labels, Escalation: c.Escalation,
		Truncated: c.Truncated, ExternalURL: s.cfg.ExternalURL(), At: now,
	}
	for _, t := range c.Alerts {
		if a, ok := b.alerts[t.ID]; ok {
			m.Alerts = append(m.Alerts, s.alertMessage(a.rec, t, now))
		}
	}
	b.mu.RUnlock()
	cfg, err := s.openRoutes(&rt)
	if err != nil {
		return nil, nil, err
	}
	to := cfg.Receiver(c.Receiver)
	if to == nil {
		return nil, nil, fmt.Errorf("receiver %q: %w", c.Receiver, ErrNotFound)
	}
	ways := to.Integrations()
	at := slices.IndexFunc(ways, func(in route.Integration) bool { return in.Name == c.Integration })
	if at < 0 {
		return nil, nil, fmt.Errorf("receiver %q has no %s: %w", c.Receiver, c.Integration, ErrNotFound)
	}
	return m, &ways[at], nil
}

func groupText(c *state.Claim) string {
	kind := ""
	if c.Escalation {
		kind = "escalation:"
	}
	return kind + c.Group + "/" + c.Receiver
}

// alertMessage is an alert as the claim tells of it, whatever became of it since.
func (s *Service) alertMessage(a *state.Alert, t state.Told, now int64) notify.Alert {
	ls := make(model.LabelSet, len(a.Labels))
	for k, v := range a.Labels {
		ls[model.LabelName(k)] = model.LabelValue(v)
	}
	out := notify.Alert{
		Firing: t.Firing, Labels: a.Labels, Annotations: a.Annotations, StartsAt: a.FiredAt, Fingerprint: ls.Fingerprint().String(),
	}
	if base := s.cfg.ExternalURL(); base != "" {
		out.URL = base + "/alerts/" + a.ID
	}
	if !t.Firing {
		if out.EndsAt = a.ResolvedAt; out.EndsAt == 0 {
			out.EndsAt = now
		}
	}
	if a.Ack != nil && t.Firing {
		out.AckedBy = a.Ack.By
	}
	if a.Assigned != nil && t.Firing {
		out.AssignedTo = a.Assigned.To
	}
	return out
}

// testMessage is what receivers test sends.
func (s *Service) testMessage(receiver string, by string, now int64, unique string) *notify.Message {
	return &notify.Message{
		Key: "test-" + unique, Receiver: receiver, GroupKey: "test", GroupLabels: map[string]string{"alertname": "TriwardTest"},
		ExternalURL: s.cfg.ExternalURL(), Test: true, At: now,
		Alerts: []notify.Alert{{
			Firing: true, StartsAt: now, Fingerprint: strconv.FormatInt(now, 16),
			Labels:      map[string]string{"alertname": "TriwardTest", "severity": "info", "node": s.cfg.Node},
			Annotations: map[string]string{"summary": "A test message that " + by + " asked for. Nothing is wrong."},
		}},
	}
}
