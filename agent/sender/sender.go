package sender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

const (
	heartbeatPeriod  = 10 * time.Second
	unknownIDRetries = 5
)

// Config of a Sender. Spool stays the caller's.
type Config struct {
	Identity  Identity
	Nodes     []string // tried besides those of the identity
	Transport http.RoundTripper
	// Credentials, when set, are renewed at two thirds of their life; OnRenewed keeps what came, before it is used.
	Credentials *Credentials
	OnRenewed   func(certPEM, keyPEM string) error
	Spool       *spool.Spool
	Coder       *wire.Coder
	Version     string
	Log         *slog.Logger
	Heartbeat   func() any              // the status sent every 10 s; nil sends none
	Report      func(kind, text string) // tells of things an operator should know; may be nil
	OnNodes     func([]string)          // called when the cluster named new nodes; may be nil
	OnConfig    func(ConfigNotice)      // called with each heartbeat's answer; must not wait; may be nil
}

// Counters of a Sender, for its owner to publish. All only grow, except Clock and Connected.
type Counters struct {
	Requests, Failures, Batches, Bytes  atomic.Uint64
	Accepted, Duplicates, Rejected      atomic.Uint64
	SetAside, NewEpochs, LeftOut, Hello atomic.Uint64
	ClockOffsetMS                       atomic.Int64 // the cluster's clock minus ours
	Connected                           atomic.Bool
	Heard                               atomic.Bool  // a node has answered, so ClockOffsetMS means something
	LastAck                             atomic.Int64 // unix milliseconds
	Since                               atomic.Int64 // when something began to wait for the cluster, unix milliseconds
}

// Sender sends batches until its context ends.
type Sender struct {
	cfg    Config
	client *Client
	nodes  *nodeSet
	ids    *idTable
	asides *rate.Limiter
	strike int          // unknown_ids answers in a row
	last   atomic.Value // string: last failure

	limit, maxCount int // bytes and batches of a request that the gateway takes
	budget, count   int // of the next one: less after one was refused
	ceiling         int // of the budget, until
	ceilingUntil    time.Time
	suspects        [len(wire.Lanes) + 1]*suspect // by lane

	epochsMade int
	renewAfter time.Time // no new epoch before

	expired   atomic.Bool // a gateway said so of the certificate
	renewSoon chan struct{}

	period   atomic.Int64 // between heartbeats, nanoseconds
	beatSoon chan struct{}

	Counters Counters
}

// errAgain asks for a new hello at once: the epoch changed or must be looked at.
var errAgain = errors.New("say hello again")

// New makes a Sender; Run starts it.
func New(cfg Config) *Sender {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Report == nil {
		cfg.Report = func(string, string) {}
	}
	s := &Sender{
		cfg: cfg, client: NewClient(cfg.Transport), ids: newIDTable(cfg.Spool),
		nodes:     newNodeSet(append(append([]string{}, cfg.Nodes...), cfg.Identity.Nodes...)),
		asides:    rate.NewLimiter(rate.Every(asideEvery), asideBurst),
		renewSoon: make(chan struct{}, 1), beatSoon: make(chan struct{}, 1),
		limit: requestBytes, budget: requestBytes, maxCount: wire.MaxBatchesPerCall, count: wire.MaxBatchesPerCall,
	}
	s.last.Store("")
	s.period.Store(int64(heartbeatPeriod))
	return s
}

// LastFailure returns the newest failure, "" when sending works.
func (s *Sender) LastFailure() string { return s.last.Load().(string) }

// Node returns the address of the node in use.
func (s *Sender) Node() string { return s.nodes.currentURL() }

// Run sends until ctx ends. It returns an error only when the spool cannot be used any more.
func (s *Sender) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if s.cfg.Heartbeat != nil {
		wg.Go(func() { s.beat(ctx) })
	}
	if s.cfg.Credentials != nil {
		wg.Go(func() { s.renewals(ctx) })
	}
	again := 0
	for ctx.Err() == nil {
		node, wait := s.nodes.pick(time.Now())
		if wait > 0 {
			sleep(ctx, wait)
			continue
		}
		err := s.session(ctx, node)
		s.Counters.Connected.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errAgain) && again < 3 {
			again++
			continue
		}
		again = 0
		if ferr := s.cfg.Spool.Failed(); ferr != nil {
			return fmt.Errorf("spool cannot be used any more: %w", ferr)
		}
		if errors.Is(err, spool.ErrDamaged) {
			return err
		}
		s.failed(node, err)
	}
	return nil
}

func (s *Sender) failed(node string, err error) {
	s.Counters.Failures.Add(1)
	if s.last.Swap(err.Error()) != err.Error() {
		s.cfg.Log.Warn("sending failed", "node", node, "err", err)
	}
	var se *StatusError
	if !errors.As(err, &se) {
		s.nodes.failed(node, time.Now(), 0, false)
		return
	}
	switch se.Code {
	case http.StatusTooManyRequests, http.StatusInsufficientStorage:
		s.nodes.failed(node, time.Now(), se.RetryAfter, true)
	case http.StatusUnauthorized, http.StatusForbidden:
		if se.Type == TypeExpired {
			s.noteExpired()
		}
		s.nodes.failed(node, time.Now(), maxBackoff, true)
	default:
		s.nodes.failed(node, time.Now(), se.RetryAfter, false)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// session says hello to a node and sends until something fails.
func (s *Sender) session(ctx context.Context, node string) error {
	if err := s.greet(ctx, node); err != nil {
		return err
	}
	s.Counters.Connected.Store(true)
	s.cfg.Log.Debug("connected", "node", node)
	for {
		n, err := s.sendOnce(ctx, node)
		if err != nil {
			return err
		}
		s.nodes.succeeded(node)
		if s.wakeAfter(node, time.Now()) == 0 {
			s.last.Store("") // no lane is held up
		}
		if n > 0 {
			continue
		}
		if err := s.idle(ctx, node); err != nil {
			return err
		}
	}
}

// idle waits until there is something to send.
func (s *Sender) idle(ctx context.Context, node string) error {
	var wake <-chan time.Time
	if d := s.wakeAfter(node, time.Now()); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		wake = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.cfg.Spool.Notify():
	case <-wake:
	}
	if wake == nil { // nothing waited until now
		s.Counters.Since.Store(time.Now().UnixMilli())
	}
	return nil
}

// greet learns what the cluster has of our epoch and makes ours fit.
func (s *Sender) greet(ctx context.Context, node string) error {
	sp := s.cfg.Spool
	s.Counters.Hello.Add(1)
	h, err := s.client.hello(ctx, node, sp.Epoch(), s.cfg.Version, false)
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if h.ServerTimeMS != 0 {
		s.noteClock(h.ServerTimeMS)
	}
	s.obey(&h.Limits)
	if s.nodes.add(h.Nodes) && s.cfg.OnNodes != nil {
		s.cfg.OnNodes(s.nodes.urls())
	}
	fits, err := s.reconcile(&h)
	if err != nil {
		return err
	}
	if h.EpochState == "open" && fits {
		return nil
	}
	if h.EpochState != "new" || !fits {
		if err := s.newEpoch("the cluster holds the epoch as " + h.EpochState); err != nil {
			return err
		}
	}
	h, err = s.client.hello(ctx, node, sp.Epoch(), s.cfg.Version, true)
	if err != nil {
		return fmt.Errorf("open epoch: %w", err)
	}
	if h.EpochState != "open" {
		return fmt.Errorf("open epoch: the cluster answers epoch_state %q", h.EpochState)
	}
	return nil
}

// reconcile takes over what the cluster says it has and reports whether our epoch can go on.
func (s *Sender) reconcile(h *helloAnswer) (fits bool, err error) {
	fits = true
	sp := s.cfg.Spool
	for _, lane := range wire.Lanes {
		last := h.Last[lane.String()]
		acked, next := sp.Position(lane)
		switch {
		case last < acked:
			// The cluster lost what it had acknowledged (an older state was restored), or never knew us.
			fits = false
		case last >= next:
			// Our disk went back in time. What was spooled before this start went out then; what this process
			// made did not.
			fits = false
			if open := sp.NextAtOpen(lane); open > acked+1 {
				err = sp.Ack(lane, min(last, open-1))
			}
		default:
			err = sp.Ack(lane, last)
		}
		if err != nil {
			return fits, fmt.Errorf("take over acknowledgement: %w", err)
		}
	}
	return fits, nil
}

// newEpoch renames the spool's life. Two clones that share an identity close each other's epochs: the pauses
// between new ones grow, so that they do not fill the cluster with them.
func (s *Sender) newEpoch(why string) error {
	now := time.Now()
	if wait := s.renewAfter.Sub(now); wait > 0 {
		return fmt.Errorf("a new epoch is needed in %s: %s", wait.Round(time.Second), why)
	}
	if now.Sub(s.renewAfter) > time.Hour {
		s.epochsMade = 0
	}
	s.epochsMade = min(s.epochsMade+1, 9)
	s.renewAfter = now.Add(time.Second << s.epochsMade / 2)
	old := s.cfg.Spool.Epoch()
	e, err := s.cfg.Spool.NewEpoch()
	if err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	clear(s.suspects[:]) // sequences begin anew
	s.Counters.NewEpochs.Add(1)
	s.cfg.Log.Warn("new epoch", "old", old.String(), "new", e.String(), "because", why)
	s.cfg.Report("epoch", fmt.Sprintf("spool goes on as epoch %s instead of %s: %s", e, old, why))
	return nil
}

// pending reads what the next request takes: batches of all lanes that wait, each lane with its share, or one batch
// that must go alone. Events come first; which of the others does is left to chance, for what has no room is left out
// at the end.
func (s *Sender) pending(node string) ([]wire.Batch, error) {
	sp, now := s.cfg.Spool, time.Now()
	var waiting []wire.Lane
	for _, lane := range s.order() {
		acked, next := sp.Position(lane)
		if acked+1 >= next {
			s.suspects[lane] = nil
			continue
		}
		until, alone := s.held(lane, acked+1, node, now)
		if alone {
			return s.read(lane, 1, 0)
		}
		if until.IsZero() {
			waiting = append(waiting, lane)
		}
	}
	waiting = waiting[:min(len(waiting), s.count)]
	if len(waiting) == 0 {
		return nil, nil
	}
	var out []wire.Batch
	for _, lane := range waiting {
		batches, err := s.read(lane, max(1, s.count/len(waiting)), s.budget/len(waiting))
		if err != nil {
			return nil, err
		}
		out = append(out, batches...)
	}
	return out, nil
}

// order is the order in which lanes are asked for what waits.
func (s *Sender) order() []wire.Lane {
	out := make([]wire.Lane, 0, len(wire.Lanes))
	out = append(out, wire.LaneEvents)
	first := rand.IntN(len(wire.Lanes))
	for i := range wire.Lanes {
		if lane := wire.Lanes[(first+i)%len(wire.Lanes)]; lane != wire.LaneEvents {
			out = append(out, lane)
		}
	}
	return out
}

func (s *Sender) read(lane wire.Lane, count, size int) ([]wire.Batch, error) {
	acked, _ := s.cfg.Spool.Position(lane)
	batches, err := s.cfg.Spool.Read(lane, acked+1, count, size)
	if err != nil {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	return batches, nil
}

// sendOnce sends one request and takes over its results. n is the number of batches it carried.
func (s *Sender) sendOnce(ctx context.Context, node string) (n int, err error) {
	batches, err := s.pending(node)
	if err != nil || len(batches) == 0 {
		return 0, err
	}
	if batches, err = s.translate(ctx, node, batches); err != nil {
		return 0, err
	}
	batches = s.fit(batches)
	body := wire.AppendRequest(nil, s.cfg.Spool.Epoch(), batches)
	s.Counters.Requests.Add(1)
	results, err := s.client.batches(ctx, node, body)
	var se *StatusError
	if errors.As(err, &se) && refusesContent(se.Code) {
		return s.narrow(node, batches, len(body), se)
	}
	if err != nil {
		return 0, fmt.Errorf("send %d batches: %w", len(batches), err)
	}
	s.Counters.Batches.Add(uint64(len(batches)))
	s.Counters.Bytes.Add(uint64(len(body)))
	s.grow()
	return len(batches), s.takeOver(batches, results)
}

// translate gives metrics batches their cluster ids, registering series first where needed.
func (s *Sender) translate(ctx context.Context, node string, batches []wire.Batch) ([]wire.Batch, error) {
	var missing []uint64
	now := time.Now()
	for i := range batches {
		b := &batches[i]
		if !b.Lane.CarriesMetrics() {
			continue
		}
		var err error
		if missing, err = s.ids.missing(missing, s.cfg.Coder, b, now); err != nil {
			return nil, s.refuseLocal(b, err)
		}
	}
	if err := s.ids.register(ctx, s.client, node, missing, now); err != nil {
		if errors.Is(err, errSeriesUnknown) {
			for i := range batches {
				if s.namesUnknown(&batches[i]) {
					return nil, s.refuseLocal(&batches[i], err)
				}
			}
		}
		var unproven *unprovenError
		if errors.As(err, &unproven) {
			return s.withoutMetrics(node, batches, err, now)
		}
		return nil, err
	}
	for i := range batches {
		b := &batches[i]
		if !b.Lane.CarriesMetrics() {
			continue
		}
		out, left, err := s.ids.encode(s.cfg.Coder, b)
		if err == nil && out.RawLen > wire.MaxBatchRaw {
			err = fmt.Errorf("batch has %d bytes with cluster ids, at most %d are allowed", out.RawLen, wire.MaxBatchRaw)
		}
		if err != nil {
			return nil, s.refuseLocal(b, err)
		}
		s.Counters.LeftOut.Add(uint64(left))
		*b = out
	}
	return batches, nil
}

// withoutMetrics lets the lanes wait whose series this node does not register, and returns the batches of the others.
func (s *Sender) withoutMetrics(node string, batches []wire.Batch, cause error, now time.Time) ([]wire.Batch, error) {
	others := slices.DeleteFunc(batches, func(b wire.Batch) bool {
		if acked, _ := s.cfg.Spool.Position(b.Lane); b.Lane.CarriesMetrics() && b.Seq == acked+1 {
			s.suspect(b.Lane, b.Seq).perNode[node] = now.Add(tryAgain)
		}
		return b.Lane.CarriesMetrics()
	})
	if len(others) == 0 {
		return nil, cause
	}
	s.cfg.Log.Warn("metrics wait", "node", node, "because", cause)
	return others, nil
}

func (s *Sender) namesUnknown(b *wire.Batch) bool {
	if !b.Lane.CarriesMetrics() || s.ids.decode(s.cfg.Coder, b) != nil {
		return false
	}
	for _, sc := range s.ids.decoded.Scrapes {
		for _, n := range sc.IDs {
			if _, ok := s.cfg.Spool.SeriesLabels(n); !ok {
				return true
			}
		}
	}
	return false
}

// refuseLocal sets a batch aside that we cannot send ourselves.
func (s *Sender) refuseLocal(b *wire.Batch, cause error) error {
	if err := s.renew(s.refuse(b.Lane, b.Seq, cause.Error())); err != nil {
		return err
	}
	return errAgain
}

// refuse puts an empty batch in the place of one that will never be taken, and gives the epoch up when even the
// empty one is refused.
func (s *Sender) refuse(lane wire.Lane, seq uint64, reason string) error {
	sp := s.cfg.Spool
	if !sp.Given(lane, seq) {
		s.Counters.SetAside.Add(1)
		s.cfg.Log.Error("batch is set aside", "lane", lane.String(), "seq", seq, "reason", reason)
		s.cfg.Report("set-aside", fmt.Sprintf("batch %d of lane %s was refused and set aside: %s", seq, lane, reason))
		return sp.SetAside(lane, seq, reason)
	}
	if err := sp.Ack(lane, seq); err != nil {
		return err
	}
	return &renewError{"an empty batch in place of a refused one was refused: " + reason}
}

// renewError asks for a new epoch once all results of a request are taken over.
type renewError struct{ why string }

func (e *renewError) Error() string { return "a new epoch is needed: " + e.why }

// takeOver applies the results of a request, per lane in order up to the first that stops the lane.
func (s *Sender) takeOver(batches []wire.Batch, results []result) error {
	if len(results) != len(batches) {
		return fmt.Errorf("gateway answered %d results for %d batches", len(results), len(batches))
	}
	var stopped [len(wire.Lanes) + 1]bool
	var outcome error
	for i := range results {
		r, b := &results[i], &batches[i]
		if r.Lane != b.Lane.String() || r.Seq != b.Seq {
			return fmt.Errorf("result %d is for batch %d of lane %s, sent was %d of %s", i, r.Seq, r.Lane, b.Seq, b.Lane)
		}
		if stopped[b.Lane] {
			continue
		}
		stop, err := s.takeResult(b, r)
		stopped[b.Lane] = stop
		var renew *renewError
		if err != nil && (outcome == nil || errors.Is(outcome, errAgain) || errors.As(err, &renew)) {
			outcome = err
		}
	}
	return s.renew(outcome)
}

// renew begins the new epoch that err asks for; other errors pass through. The error stays, so that a cluster
// that refuses everything is met with back-off.
func (s *Sender) renew(err error) error {
	var r *renewError
	if !errors.As(err, &r) {
		return err
	}
	return errors.Join(err, s.newEpoch(r.why))
}

func (s *Sender) takeResult(b *wire.Batch, r *result) (stop bool, err error) {
	sp := s.cfg.Spool
	switch r.Status {
	case "ok", "duplicate":
		s.strike = 0
		s.Counters.Accepted.Add(r.Accepted)
		s.Counters.Duplicates.Add(r.Duplicates)
		s.Counters.Rejected.Add(r.Rejected)
		s.Counters.LastAck.Store(time.Now().UnixMilli())
		if r.Rejected > 0 {
			s.cfg.Log.Warn("cluster rejected items", "lane", r.Lane, "seq", r.Seq, "rejected", r.Rejected, "first", r.reason())
		}
		return false, sp.Ack(b.Lane, b.Seq)
	case "gap":
		acked, next := sp.Position(b.Lane)
		if r.Expected > acked && r.Expected <= next {
			return true, sp.Ack(b.Lane, r.Expected-1)
		}
		return true, errAgain // hello tells more and decides about the epoch
	case "unknown_ids":
		s.ids.forget(r.UnknownIDs)
		if s.strike++; s.strike > unknownIDRetries {
			s.strike = 0
			return true, fmt.Errorf("batch %d of lane %s: series ids stay unknown after registration", b.Seq, b.Lane)
		}
		return true, nil
	case "epoch_closed", "unknown_epoch":
		return true, errAgain
	case "cloned":
		return true, &renewError{"another spool with the same epoch sends: was this machine cloned?"}
	case "invalid", "limit":
		return true, s.condemn(b.Lane, b.Seq, r.reason())
	}
	return true, fmt.Errorf("gateway answered an unknown status %q: this agent is older than the cluster", r.Status)
}

// beat sends signs of life beside the batches.
func (s *Sender) beat(ctx context.Context) {
	for {
		if node := s.nodes.currentURL(); node != "" {
			a, err := s.client.heartbeat(ctx, node, s.cfg.Heartbeat())
			switch {
			case err != nil:
				s.cfg.Log.Debug("heartbeat failed", "node", node, "err", err)
			default:
				if a.ServerTimeMS != 0 {
					s.noteClock(a.ServerTimeMS)
				}
				if s.cfg.OnConfig != nil {
					s.cfg.OnConfig(a.ConfigNotice)
				}
			}
		}
		t := time.NewTimer(time.Duration(s.period.Load()))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-s.beatSoon:
			t.Stop()
		}
	}
}

func (s *Sender) noteClock(serverMS int64) {
	s.Counters.ClockOffsetMS.Store(serverMS - time.Now().UnixMilli())
	s.Counters.Heard.Store(true)
}

// SetHeartbeat sets how often a sign of life is sent.
func (s *Sender) SetHeartbeat(every time.Duration) { s.period.Store(int64(every)) }

// BeatSoon has the next sign of life sent now.
func (s *Sender) BeatSoon() {
	select {
	case s.beatSoon <- struct{}{}:
	default: // one is due already
	}
}

// Config asks the node in use for the configuration of the agent's group.
func (s *Sender) Config(ctx context.Context) (GroupConfig, error) {
	return s.client.config(ctx, s.nodes.currentURL(), s.cfg.Identity.AgentID)
}
