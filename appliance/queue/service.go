package queue

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
)

// Service is the queue on one node. Start it once the log is open and Close it before the log is.
type Service struct {
	cfg      Config
	log      *slog.Logger
	decoders sync.Pool
	readers  chan struct{}
	decoding chan struct{}
	cancel   context.CancelFunc
	work     sync.WaitGroup
	gaps     prometheus.Counter

	mu     sync.Mutex
	topics [4]trail
	began  uint64          // the first entry that Observe was told of
	told   map[string]tale // by consumer
	firsts oldest
}

// New makes a Service.
func New(cfg Config) (*Service, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	coder, err := wire.NewCoder()
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, log: cfg.Logger, readers: make(chan struct{}, maxReaders), decoding: make(chan struct{}, maxDecoding), told: make(map[string]tale),
		gaps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_queue_gaps_total", Help: "Consumers that retention of the log overtook, as noticed by this node while it led.",
		}),
	}
	series := &seriesCache{dict: cfg.Series}
	s.decoders.New = func() any { return &decoder{coder: coder, series: series} }
	if cfg.Registerer != nil {
		for _, c := range []prometheus.Collector{s.gaps, &collector{s}} {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// Start begins to look for consumers that were overtaken.
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

func (s *Service) run(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("consumers of the queue are not looked after", "err", err)
		}
	}
}

// oldest is the first entry that is still held anywhere, as it was found last.
type oldest struct {
	index  uint64
	silent []string
	at     time.Time
}

// look notes how far back the log goes and, on the leader, tells of consumers that it overtook.
func (s *Service) look(ctx context.Context) error {
	consumers := s.records()
	if len(consumers) == 0 {
		return nil
	}
	ask, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	first, silent, err := s.cfg.Log.OldestEntry(ask)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.firsts = oldest{first, silent, time.Now()}
	s.mu.Unlock()
	if !s.cfg.Leading() {
		return nil
	}
	for i := range consumers {
		c := &consumers[i]
		if c.Position.Index >= first || !s.mayTell(c, len(silent) > 0) {
			continue
		}
		g := Gap{From: c.Position, To: first - 1, FromTime: c.Time, ToTime: s.timeBefore(ask, Position{Index: first, Item: 1}), Next: Position{Index: first}}
		s.gaps.Inc()
		s.log.Warn("a consumer of the queue was overtaken by retention", "consumer", c.Name, "from", g.From, "to", g.To)
		if s.cfg.OnGap != nil {
			s.cfg.OnGap(c, g)
		}
	}
	return nil
}

// silence is how long a member that does not answer is waited for, since it may still hold what a consumer has not read.
const silence = 5 * time.Minute

// tale is what was told of a consumer that was overtaken.
type tale struct {
	index uint64 // where its cursor stands
	since time.Time
	told  bool
}

// mayTell reports whether the gap of a consumer is to be told now, which it is once by a node.
func (s *Service) mayTell(c *Consumer, silent bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.told[c.Name]
	if t.index != c.Position.Index {
		if len(s.told) > 2*maxConsumers {
			clear(s.told)
		}
		t = tale{index: c.Position.Index, since: time.Now()}
	}
	now := !t.told && (!silent || time.Since(t.since) > silence)
	t.told = t.told || now
	s.told[c.Name] = t
	return now
}
