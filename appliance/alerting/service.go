package alerting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
)

// Config of a Service.
type Config struct {
	Node       string
	Meta       Meta
	Leadership Leadership
	Metrics    Metrics
	Logs       Logs
	Fleet      Fleet
	Sealer     Sealer   // nil: receivers with secrets are refused
	Recorder   Recorder // nil: recording rules are not evaluated, which they say
	// Send makes one attempt to send a message; notify.Sender's method is meant for it.
	Send func(ctx context.Context, in *route.Integration, m *notify.Message, gate notify.Gate) error
	// ExternalURL is the address of the cluster for people, "" for none.
	ExternalURL func() string
	// LogQL says whether all nodes can read rules in LogQL; nil: they can. Where it says no, none is taken.
	LogQL      func() bool
	Interval   time.Duration // between evaluations of groups that name none: 15 s
	Log        *slog.Logger  // default: discards
	Registerer prometheus.Registerer
}

// Service is the alerting of one node. Its methods may be called from any goroutine.
type Service struct {
	cfg     Config
	log     *slog.Logger
	board   *board
	metrics *serviceMetrics

	wake    chan struct{}
	leading chan bool
	stop    context.CancelFunc
	work    sync.WaitGroup

	changes atomic.Uint64

	openedMu sync.Mutex
	opened   *route.Config // routes with their secrets
	openedOf uint64        // the log index that wrote them
}

// New makes a service; Start lets it work.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 15 * time.Second
	}
	if cfg.ExternalURL == nil {
		cfg.ExternalURL = func() string { return "" }
	}
	if cfg.LogQL == nil {
		cfg.LogQL = func() bool { return true }
	}
	s := &Service{
		cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), leading: make(chan bool, 1), stop: func() {},
	}
	s.board = newBoard(cfg.Meta, s.parseStored, cfg.Log)
	s.metrics = newServiceMetrics(cfg.Registerer, s)
	return s
}

func (s *Service) parse(name string, body []byte) (*rules.File, error) {
	return rules.Parse(name, body, s.cfg.Metrics.Parser(), s.cfg.Logs)
}

func (s *Service) parseStored(name string, body []byte) (*rules.File, error) {
	return rules.ParseStored(name, body, s.cfg.Metrics.Parser(), s.cfg.Logs)
}

// Start begins to work in the background until Close.
func (s *Service) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.work.Go(func() { s.run(ctx) })
}

// Close ends the work and waits for it; messages under way are cut off and sent again by whoever leads next. It is
// idempotent.
func (s *Service) Close() error {
	s.stop()
	s.work.Wait()
	s.metrics.unregister()
	return nil
}

// Lead says that this node became or ceased to be the leader. It never blocks.
func (s *Service) Lead(leading bool) {
	for {
		select {
		case s.leading <- leading:
			return
		default:
		}
		select { // only the newest counts
		case <-s.leading:
		default:
		}
	}
}

// Changed says that a key of the metadata may have changed; an empty key says that everything may have. It never
// blocks.
func (s *Service) Changed(bucket, key string) {
	s.board.note(bucket, key)
	s.changes.Add(1)
	poke(s.wake)
}

// Generation counts what may have changed: while it stands, so does every answer about alerts.
func (s *Service) Generation() uint64 { return s.changes.Load() }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run steps while this node leads.
func (s *Service) run(ctx context.Context) {
	tick := time.NewTicker(stepEvery * time.Millisecond)
	defer tick.Stop()
	var l *leader
	defer func() { l.end() }()
	leads := false
	giveUp := func() {
		if old := l; old != nil {
			s.work.Go(old.end)
		}
		l = nil
	}
	for {
		select {
		case <-ctx.Done():
			return
		case leads = <-s.leading:
			if !leads {
				giveUp()
			}
		case <-tick.C:
		case <-s.wake:
			if l == nil {
				continue // only a leader acts at once; taking a lease waits for the tick
			}
		}
		if !leads {
			continue
		}
		if l == nil {
			var err error
			if l, err = s.takeLease(ctx); err != nil {
				if ctx.Err() == nil {
					s.log.Info("alerts are not evaluated here yet", "err", err)
				}
				continue
			}
		}
		switch err := l.step(ctx); {
		case errors.Is(err, errDeposed):
			s.log.Info("another node evaluates alerts now")
			giveUp()
		case err != nil && ctx.Err() == nil && !errors.Is(err, ErrConflict):
			s.log.Warn("alerts: a step was not finished", "err", err)
		}
	}
}

// external is the address of the cluster for people, parsed.
func (s *Service) external() *url.URL {
	u, err := url.Parse(s.cfg.ExternalURL())
	if err != nil {
		return new(url.URL)
	}
	return u
}

// openRoutes returns the routes with their secrets. Only who sends needs them.
func (s *Service) openRoutes(rt *heldRoutes) (*route.Config, error) {
	if rt.cfg == nil {
		return nil, fmt.Errorf("there are no routes: %w", ErrNotFound)
	}
	if len(rt.rec.Sealed) == 0 {
		return rt.cfg, nil
	}
	s.openedMu.Lock()
	defer s.openedMu.Unlock()
	if s.opened != nil && s.openedOf == rt.mod {
		return s.opened, nil
	}
	if s.cfg.Sealer == nil {
		return nil, ErrNoSealer
	}
	body, err := route.Join([]byte(rt.rec.Body), func(place string) (string, error) {
		plain, err := s.cfg.Sealer.Open(sealPurpose+place, rt.rec.Sealed[place])
		return string(plain), err
	})
	if err != nil {
		return nil, fmt.Errorf("open the secrets of receivers: %w", err)
	}
	cfg, err := route.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("routes with their secrets: %w", err)
	}
	s.opened, s.openedOf = cfg, rt.mod
	return cfg, nil
}

// sealPurpose begins the purpose of sealed secrets of receivers.
const sealPurpose = "alerting receiver "
