package auth

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Config of a Service. Zero fields take the defaults named.
type Config struct {
	Meta Meta
	Log  *slog.Logger // default: discards

	Password      PasswordCost  // DefaultPasswordCost
	SessionIdle   time.Duration // 12 h: a session ends so long after its last renewal
	SessionMax    time.Duration // 7 d: and at last so long after its login
	TicketLife    time.Duration // 10 min
	MaxSessions   int           // 50 sessions of one user
	MaxUsers      int           // 1000
	MaxTokens     int           // 10000 of each kind
	LoginEvery    time.Duration // 6 s: an address or account gets another attempt
	LoginBurst    int           // 10 attempts at once
	MaxLimiterKey int           // 10000 addresses and accounts remembered
	InviteLife    time.Duration // 24 h: how long a set-up link is good for when nobody says otherwise
	NoteEvery     time.Duration // 5 min: this node adds another audit record of failed logins and refused requests
	NoteBurst     int           // 20 of these at once
}

func (c *Config) defaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Password == (PasswordCost{}) {
		c.Password = DefaultPasswordCost()
	}
	setDefault(&c.SessionIdle, 12*time.Hour)
	setDefault(&c.SessionMax, 7*24*time.Hour)
	setDefault(&c.TicketLife, 10*time.Minute)
	setDefault(&c.MaxSessions, 50)
	setDefault(&c.MaxUsers, 1000)
	setDefault(&c.MaxTokens, 10000)
	setDefault(&c.LoginEvery, 6*time.Second)
	setDefault(&c.LoginBurst, 10)
	setDefault(&c.MaxLimiterKey, 10000)
	setDefault(&c.InviteLife, 24*time.Hour)
	setDefault(&c.NoteEvery, 5*time.Minute)
	setDefault(&c.NoteBurst, 20)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Service answers every question about access on one node. It holds no state of its own that matters: a new one
// over the same metadata gives the same answers. Safe for concurrent use.
type Service struct {
	cfg      Config
	meta     Meta
	log      *slog.Logger
	hasher   *hasher
	byAddr   *limiter
	byUser   *limiter
	byResume *limiter
	refusals *limiter // of the same actor and route, for the audit log
	bounded  *notes
	agents   *agentCache

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	renewals sync.WaitGroup

	mu       sync.Mutex
	renewing map[string]bool // sessions being renewed now
	watchers map[chan struct{}]struct{}
	closed   bool
}

// New makes a Service over the metadata.
func New(cfg Config) *Service {
	cfg.defaults()
	ctx, cancel := context.WithCancel(context.Background())
	return &Service{
		cfg:      cfg,
		meta:     cfg.Meta,
		log:      cfg.Log,
		hasher:   newHasher(cfg.Password),
		byAddr:   newLimiter(cfg.LoginEvery, cfg.LoginBurst, cfg.MaxLimiterKey),
		byUser:   newLimiter(cfg.LoginEvery, cfg.LoginBurst, cfg.MaxLimiterKey),
		byResume: newLimiter(time.Second, 60, cfg.MaxLimiterKey),
		refusals: newLimiter(refusalEvery, 1, cfg.MaxLimiterKey),
		bounded:  newNotes(cfg.NoteEvery, cfg.NoteBurst),
		agents:   newAgentCache(),
		ctx:      ctx,
		cancel:   cancel,
		renewing: make(map[string]bool),
		watchers: make(map[chan struct{}]struct{}),
	}
}

// Close ends renewals and audit records that are under way and waits for them. It is idempotent.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.renewals.Wait()
	return nil
}

// Changed tells the service that keys of the bucket were applied. It never blocks, so that an observer may call
// it from the apply goroutine. Watchers are woken when access may have changed.
func (s *Service) Changed(bucket string) {
	switch bucket {
	case BucketSessions, BucketUsers, BucketAPITokens, BucketAgents:
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.watchers {
		select {
		case ch <- struct{}{}:
		default: // it has a wake-up waiting already
		}
	}
}

// Watch returns a channel that receives after sessions, users, tokens or agents may have changed. Wake-ups that
// are not taken are merged into one. stop releases the channel.
func (s *Service) Watch() (changes <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	s.watchers[ch] = struct{}{}
	s.mu.Unlock()
	return ch, func() {
		s.mu.Lock()
		delete(s.watchers, ch)
		s.mu.Unlock()
	}
}

// LogTime is the newest log time that this node has applied, in milliseconds since 1970.
func (s *Service) LogTime() int64 { return s.meta.LogTime() }
