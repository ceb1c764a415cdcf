package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
)

// Service tells the events of one node, and while it leads those of the cluster. Start it once the log is open and
// Close it before the log is.
type Service struct {
	cfg    Config
	cancel context.CancelFunc
	work   sync.WaitGroup
	told   prometheus.Counter
	lost   prometheus.Counter

	mu      sync.Mutex
	waiting []Event        // noticed by this node, not yet written down
	changed []bucketAndKey // records that may be events
	all     bool           // too many changed: look at all recent ones
	wake    chan struct{}

	// Of the goroutine that leads.
	leading   bool
	ledSince  time.Time
	askedAt   time.Time
	agentsAt  time.Time
	lastTrial error
}

type bucketAndKey struct{ bucket, key string }

// New makes a Service.
func New(cfg Config) *Service {
	if cfg.Interval == 0 {
		cfg.Interval = 2 * time.Second
	}
	s := &Service{
		cfg: cfg, wake: make(chan struct{}, 1),
		told: prometheus.NewCounter(prometheus.CounterOpts{Name: "triward_cluster_events_total", Help: "Events of the cluster that this node delivered."}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{Name: "triward_cluster_events_lost_total", Help: "Events of this node that found no room to wait."}),
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(s.told, s.lost)
	}
	return s
}

// Start begins to work.
func (s *Service) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.work.Go(func() { s.run(ctx) })
}

// Close ends the work and waits for it. It is idempotent.
func (s *Service) Close() error {
	if s.cancel != nil {
		s.cancel()
	}
	s.work.Wait()
	return nil
}

// Tell has an event written down that only this node notices. It never blocks; ID and Kind must be given.
func (s *Service) Tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.waiting, func(w Event) bool { return w.ID == e.ID }) {
		return
	}
	if len(s.waiting) >= maxWaiting {
		s.lost.Inc()
		return
	}
	s.waiting = append(s.waiting, e)
	s.nudge()
}

// Changed is told of every change to a bucket of Config.Buckets. It never blocks.
func (s *Service) Changed(bucket, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.changed) >= maxChanged {
		s.changed, s.all = nil, true
	}
	if !s.all {
		s.changed = append(s.changed, bucketAndKey{bucket, key})
	}
	s.nudge()
}

// Installed is told that anything may have changed.
func (s *Service) Installed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed, s.all = nil, true
	s.nudge()
}

func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) run(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
		if err := s.step(ctx); err != nil && ctx.Err() == nil {
			if s.lastTrial == nil { // an outage is told once, not with every try
				s.cfg.Log.Warn("events of the cluster are not told; trying again", "err", err)
			}
			s.lastTrial = err
			continue
		}
		s.lastTrial = nil
	}
}

// step does what is due.
func (s *Service) step(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if s.cfg.Meta.LogTime() == 0 {
		return nil // no entry yet
	}
	errs := []error{s.writeDown(ctx)}
	leads := s.cfg.Leading()
	if leads && !s.leading {
		s.ledSince, s.askedAt, s.agentsAt = time.Now(), time.Time{}, time.Time{}
		s.Installed() // what the leader before had not got to
	}
	if s.leading = leads; !leads {
		s.forgetChanges()
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, s.look(ctx), s.readChanges(ctx), s.deliver(ctx))...)
}

// forgetChanges drops the list of what changed: whoever leads looks at it, and who begins to lead looks at all.
func (s *Service) forgetChanges() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed, s.all = nil, false
}

// writeDown puts what this node noticed into the outbox.
func (s *Service) writeDown(ctx context.Context) error {
	for fresh := s.cfg.Fresh == nil; ; {
		s.mu.Lock()
		if len(s.waiting) == 0 {
			s.mu.Unlock()
			return nil
		}
		e := s.waiting[0]
		s.mu.Unlock()
		if !fresh {
			if err := s.cfg.Fresh(ctx); err != nil {
				return fmt.Errorf("write down %s: %w", e.Kind, err)
			}
			fresh = true
		}
		if err := s.once(ctx, e); err != nil {
			return err
		}
		s.mu.Lock()
		s.waiting = s.waiting[1:]
		s.mu.Unlock()
	}
}

// once puts an event into the outbox unless it was there before.
func (s *Service) once(ctx context.Context, e Event) error {
	id := name(e.ID)
	if _, done := s.cfg.Meta.Get(Bucket, prefixDone+id); done {
		return nil
	}
	now := s.cfg.Meta.LogTime()
	_, err := s.cfg.Meta.Commit(ctx, auth.Txn{
		Compares: []auth.Compare{{Bucket: Bucket, Key: prefixDone + id}},
		Ops: []auth.Op{
			{Bucket: Bucket, Key: prefixDone + id, Value: []byte("{}"), Expires: now + keepDone},
			s.out(e),
		},
	})
	if errors.Is(err, auth.ErrConflict) {
		return nil // another node, or this one before, was faster
	}
	if err != nil {
		return fmt.Errorf("write down %s: %w", e.Kind, err)
	}
	s.nudge()
	return nil
}

// out is the operation that puts an event into the outbox.
func (s *Service) out(e Event) auth.Op {
	e = e.bounded()
	if e.T == 0 {
		e.T = s.cfg.Meta.LogTime()
	}
	b, err := json.Marshal(&e)
	if err != nil { // plain fields: cannot fail
		panic(fmt.Sprintf("events: encode %s: %v", e.Kind, err))
	}
	return auth.Op{Bucket: Bucket, Key: prefixOut + name(e.ID), Value: b}
}

// name is an id as a key holds it.
func name(id string) string {
	if len(id) <= 200 {
		return id
	}
	return id[:180] + "#" + strconv.FormatUint(wire.HashContent([]byte(id)), 16)
}

// deliver brings what lies in the outbox into the log and empties it.
func (s *Service) deliver(ctx context.Context) error {
	for {
		var events []Event
		var keys []string
		var ops []auth.Op
		size := 0
		s.cfg.Meta.Scan(Bucket, prefixOut, func(key string, v auth.Value) bool {
			var e Event
			if err := json.Unmarshal(v.Data, &e); err == nil && e.Kind != "" {
				events = append(events, e)
			}
			keys = append(keys, key)
			size += len(v.Data)
			return len(keys) < perTick && size < perDelivery
		})
		if len(keys) == 0 {
			return nil
		}
		if len(events) > 0 {
			if err := s.cfg.Deliver(ctx, batch(events)); err != nil {
				return fmt.Errorf("deliver %d events: %w", len(events), err)
			}
			s.told.Add(float64(len(events)))
		}
		for _, k := range keys {
			ops = append(ops, auth.Op{Delete: true, Bucket: Bucket, Key: k})
		}
		if _, err := s.cfg.Meta.Commit(ctx, auth.Txn{Ops: ops}); err != nil {
			return fmt.Errorf("empty the outbox of events: %w", err)
		}
	}
}

// batch groups events by stream.
func batch(events []Event) *wire.LogBatch {
	b := &wire.LogBatch{}
	at := make(map[string]int)
	for i := range events {
		ls := events[i].stream()
		key := string(ls.AppendKey(nil))
		n, ok := at[key]
		if !ok {
			n = len(b.Streams)
			at[key] = n
			b.Streams = append(b.Streams, wire.LogStream{Kind: wire.StreamEvent, Labels: ls})
		}
		b.Streams[n].Lines = append(b.Streams[n].Lines, events[i].line())
	}
	return b
}

// readChanges makes events of records of other parts that changed.
func (s *Service) readChanges(ctx context.Context) error {
	s.mu.Lock()
	changed, all := s.changed, s.all
	s.changed, s.all = nil, false
	s.mu.Unlock()
	since := s.cfg.Meta.LogTime() - lookBack
	if all {
		changed = changed[:0]
		for _, bucket := range s.cfg.Buckets {
			for _, key := range s.cfg.Recent(bucket, since) {
				changed = append(changed, bucketAndKey{bucket, key})
			}
		}
	}
	for i, c := range changed {
		e, ok := s.cfg.Read(c.bucket, c.key, since)
		if !ok {
			continue
		}
		if err := s.once(ctx, e); err != nil {
			s.mu.Lock()
			s.changed = append(slices.Clone(changed[i:]), s.changed...)
			if len(s.changed) > maxChanged {
				s.changed, s.all = nil, true
			}
			s.mu.Unlock()
			return err
		}
	}
	return nil
}
