package raftstate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

const (
	raftDir  = "raft"
	metaName = "meta.db"
	// identityKey in raft's own storage tells a node's log from an empty one that took its place: a node that
	// lost its log but kept its state could vote twice in one term.
	identityKey = "triward.node"
)

// Node is one member of the cluster: its log, its state and the stores it feeds. All methods may be called from
// many goroutines.
type Node struct {
	cfg     Config
	log     *slog.Logger
	layout  snapshot.Layout
	state   *meta.Store
	store   *logfile.Store
	fsm     *fsm
	images  *images
	records recordings
	clock   *logClock
	metrics *metrics

	raft     atomic.Pointer[raft.Raft]
	caller   forward.Caller
	client   *forward.Client   // nil with Config.Transport
	listener *forward.Listener // nil with Config.Transport
	trans    raft.Transport
	proposer *proposer
	budget   budget
	peers    peers
	calls    leaderCalls

	// What follows is of repairs.
	rosterMu     sync.Mutex
	roster       []rosterMember // as it is in its file
	rosterSpoilt bool           // the file was not what was written, and is to be written anew
	leaving      []string       // generations that this start replaced and whose stores may still be closing
	hasRun       bool           // a node has run on the data directory before
	refusal      atomic.Pointer[string]
	pending      atomic.Pointer[Repaired] // is done once the probation ends
	giving       atomic.Bool              // an image is being given to a peer
	reinstalling atomic.Bool
	replaying    atomic.Bool
	askedSince   atomic.Pointer[time.Time] // when a repair first asked whom to take the state from
	inUseName    atomic.Pointer[string]    // generation, for those who may not wait for Apply
	dropping     atomic.Bool               // damaged entries are being dropped
	toldLog      atomic.Uint64             // the damaged entry behind the mark that was told of last

	questions questions // to raft

	fullVoters atomic.Pointer[fullVoters] // while this node leads
	changing   sync.Mutex                 // held by a change of membership: one at a time
	markedAt   atomic.Pointer[time.Time]
	cutsRest   atomic.Uint64 // log time before which nothing is cut
	aloneFrom  uint64        // with Config.alone: the last entry of the log before raft began
	logged     int64         // the newest stamp that the log held at the start

	generation   string // changed only with durable held and Apply standing still
	durably      chan struct{}
	mark         atomic.Pointer[meta.Mark]
	staged       atomic.Pointer[stagedImage]
	installing   atomic.Bool
	probation    atomic.Bool // see probation.go
	confirms     confirmations
	acknowledged atomic.Pointer[acknowledged]
	asking       atomic.Bool            // for that
	queuePeer    atomic.Pointer[string] // the member that served entries last
	ready        atomic.Uint64          // the term in which an entry of this leader was applied
	started      atomic.Bool
	startedAt    time.Time
	fatalErr     atomic.Pointer[error]

	ctx       context.Context // ends with closing
	cancel    context.CancelFunc
	closing   chan struct{}
	broken    chan struct{} // closed by the fatal error
	closeOnce sync.Once
	closeErr  error
	wg        sync.WaitGroup
	timersMu  sync.Mutex
	timers    map[*time.Timer]struct{}
}

// Open starts a node from what its data directory holds. The sinks belong to the node from then on, also when
// Open fails. Damage is a *FatalError with ExitDamaged. The context bounds the start only.
func Open(ctx context.Context, cfg Config, sinks Sinks) (*Node, error) {
	if err := cfg.complete(); err != nil {
		return nil, errors.Join(err, closeSinks(sinks))
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger.With("node", cfg.NodeID), layout: snapshot.NewLayout(cfg.DataDir),
		durably: make(chan struct{}, 1), closing: make(chan struct{}), broken: make(chan struct{}), startedAt: time.Now(),
		timers: make(map[*time.Timer]struct{}), metrics: newMetrics(),
	}
	n.clock = newLogClock(cfg.Now)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.budget.limit = cfg.MaxInFlight
	n.images = &images{n: n, mu: newGate()}
	n.mark.Store(&meta.Mark{})
	n.fsm = &fsm{sinks: sinks, log: n.log, fatal: n.fatal, closing: n.closing, restore: n.swap, recorded: n.recorded, mu: newGate()}
	n.proposer = newProposer(n)
	for _, step := range []func(context.Context) error{n.openMending, n.startRaft} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, n.shutdown())
		}
	}
	return n, nil
}

// openState opens metadata and stores of the current generation.
func (n *Node) openState(context.Context) error {
	generation, err := n.inUse()
	if err != nil {
		return refused("state", err)
	}
	if err := n.layout.Clean(append(n.leaving, generation)...); err != nil {
		return err
	}
	if generation == "" {
		if generation, err = n.layout.Next(); err != nil {
			return err
		}
		if err := n.layout.Flip(generation); err != nil {
			return err
		}
	}
	n.useGeneration(generation)
	file := n.layout.MetaFile(generation)
	if n.state, err = meta.Open(file, n.log); err != nil {
		return refused("metadata", err)
	}
	if format := n.state.Format(); format > n.cfg.format {
		return otherVersion("state", fmt.Errorf("the cluster's format is %d, this program knows up to %d", format, n.cfg.format))
	}
	n.fsm.store = n.state
	n.fsm.floors, n.fsm.format = [len(n.fsm.floors)]int64{}, 0
	n.mark.Store(&meta.Mark{})
	coder, err := wire.NewCoder()
	if err != nil {
		return err
	}
	n.fsm.machine = machine.New(n.state, coder, n.cfg.Limits)
	n.fsm.machine.TakeFrom(n.cfg.Decoded)
	if mark, ok := n.state.Mark(); ok {
		n.mark.Store(&mark)
		n.fsm.adopt(&mark)
		n.fsm.waiters.wake(mark.Index) // observers begin with what is there
	}
	if err := n.fsm.tellStores(true); err != nil {
		return err
	}
	n.fsm.sinks.Logs.Durable(n.mark.Load().Index)
	if err := n.openVerdicts(); err != nil {
		return err
	}
	if err := n.storesAreThere(); err != nil {
		return err
	}
	if err := n.openSinks(); err != nil {
		return err
	}
	if held, mark := n.fsm.sinks.Logs.Applied(), n.mark.Load().Index; held < mark {
		return damaged(partLogs, fmt.Errorf("it holds the log up to entry %d, the watermark says %d", held, mark))
	}
	return nil
}

func (n *Node) logOptions() logfile.Options {
	return logfile.Options{
		SegmentBytes: n.cfg.LogSegment, CacheBytes: n.cfg.LogCache, ReserveBytes: n.cfg.DiskReserve, FreeBytes: n.cfg.FreeBytes,
		HoldBytes: 4 * n.cfg.QueueBytes, Logger: newRaftLogger(n.log), Files: n.cfg.LogFiles,
	}
}

// openLog opens the log and holds it against the watermark.
func (n *Node) openLog(ctx context.Context) error {
	store, err := logfile.Open(filepath.Join(n.cfg.DataDir, raftDir), n.logOptions())
	if err != nil {
		return refused("log", err)
	}
	n.store = store
	if err := n.checkIdentity(); err != nil {
		return err
	}
	rest, err := store.GetUint64([]byte(cutsKey))
	if err != nil {
		return refused("log", err)
	}
	n.cutsRest.Store(rest)
	mark := n.mark.Load()
	first, err := store.FirstIndex()
	if err != nil {
		return refused("log", err)
	}
	last, err := store.LastIndex()
	if err != nil {
		return refused("log", err)
	}
	stale := last < mark.Index
	if !stale && mark.Index >= first && mark.Index > 0 {
		var l raft.Log
		switch err := store.GetLog(mark.Index, &l); {
		case errors.Is(err, logfile.ErrCorrupt):
			if first, err = n.dropAtMark(first, err); err != nil {
				return refused("log", err)
			}
			stale = last == mark.Index
		case err != nil:
			return refused("log", err)
		default:
			stale = l.Term != mark.Term
		}
	}
	if stale { // all it holds is in the state, or was overtaken by the image that was installed
		n.log.Info("log from before the watermark is cleared", "last", last, "watermark", mark.Index)
		if err := store.Clear(); err != nil {
			return brokenDisk("log", err)
		}
		return nil
	}
	if first > mark.Index+1 {
		return damaged("log", fmt.Errorf("it begins at entry %d, the state ends at %d: %w", first, mark.Index, errGap))
	}
	if err := store.Verify(ctx, mark.Index+1); err != nil {
		return refused("log", err)
	}
	if _, err := store.Follow(mark.Index, mark.Term, false); err != nil {
		return refused("log", err)
	}
	n.logged = n.lastStamp(mark.Index, last)
	return nil
}

// lastStamp returns the stamp of the newest command in the log behind the mark; 0 when there is none.
func (n *Node) lastStamp(mark, last uint64) int64 {
	var l raft.Log
	for i := last; i > mark; i-- {
		if n.store.GetLog(i, &l) != nil || l.Type != raft.LogCommand {
			continue
		}
		if e, err := command.Decode(l.Data); err == nil {
			return e.Stamp
		}
	}
	return 0
}

func (n *Node) checkIdentity() error {
	id, err := n.store.Get([]byte(identityKey))
	switch {
	case err != nil && err.Error() != "not found":
		return refused("log", err)
	case string(id) == n.cfg.NodeID:
		return nil
	case len(id) > 0:
		return &FatalError{
			Part: "log", Code: ExitDamaged, Hint: "give the node its own data directory, or the name that it has there",
			Err: fmt.Errorf("data directory %s belongs to node %q, this is node %q: %w", n.cfg.DataDir, id, n.cfg.NodeID, errForeign),
		}
	case n.mark.Load().Index > 0:
		return damaged("log", fmt.Errorf("the log in %s is gone while the state is there", n.store.Dir()))
	}
	if err := n.beginProbation(); err != nil {
		return err
	}
	if err := n.store.Set([]byte(identityKey), []byte(n.cfg.NodeID)); err != nil {
		return brokenDisk("log", err)
	}
	return nil
}

// startRaft connects the node to its peers and lets raft begin.
func (n *Node) startRaft(context.Context) error {
	if err := n.connect(); err != nil {
		return err
	}
	trans, err := n.cautious(n.trans)
	if err != nil {
		return err
	}
	n.trans = n.quiet(trans)
	g := &guard{Store: n.store, n: n}
	snaps := marks{n}
	old, err := raft.HasExistingState(g, g, snaps)
	if err != nil {
		return refused("log", err)
	}
	rc := n.cfg.raftConfig()
	if len(n.cfg.Bootstrap) > 0 && !old {
		if err := raft.BootstrapCluster(rc, g, g, snaps, n.trans, n.bootstrap()); err != nil {
			return fmt.Errorf("start a new cluster: %w", err)
		}
	}
	if n.cfg.alone {
		if err := n.makeAlone(g); err != nil {
			return err
		}
	}
	r, err := raft.NewRaft(rc, n.fsm, g, g, snaps, n.trans)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	n.raft.Store(r)
	n.retain()
	n.noteMembers()
	observer, changes := n.peers.observe(r), leaderChanges(r)
	n.started.Store(true)
	n.proposer.wg.Add(1)
	go n.proposer.run()
	n.wg.Go(func() { n.lead(r, observer) })
	n.wg.Go(func() { n.watchLeader(r, changes) })
	n.wg.Go(n.watchDisk)
	n.wg.Go(n.keepRoom)
	n.metrics.register(n)
	n.log.Info("node started", "watermark", n.mark.Load().Index, "log_last", r.LastIndex(), "generation", *n.inUseName.Load())
	return nil
}

func (n *Node) bootstrap() raft.Configuration {
	var c raft.Configuration
	for _, m := range n.cfg.Bootstrap {
		if m.ID == n.cfg.NodeID && m.Addr == "" {
			m.Addr = n.PeerAddr()
		}
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Addr)})
	}
	return c
}

// openSinks opens the stores of the current generation for the first time.
func (n *Node) openSinks() error {
	if err := n.fsm.sinks.Metrics.Open(n.layout.Dir(snapshot.KindMetrics, n.generation)); err != nil {
		return refusedStore(partMetrics, err)
	}
	if err := n.fsm.sinks.Logs.Open(n.layout.Dir(snapshot.KindLogs, n.generation)); err != nil {
		return refusedStore(partLogs, err)
	}
	return nil
}

// connect opens the peer port, or takes the transport of a test.
func (n *Node) connect() error {
	if n.trans != nil { // for a repair at the start
		return nil
	}
	if t := n.cfg.Transport; t != nil {
		n.trans, n.caller = t.Raft, t.Caller
		if t.Serve != nil && t.ServePages != nil {
			t.ServePages(n.pages())
		}
		if t.Serve != nil {
			t.Serve(n)
		}
		return nil
	}
	l, err := forward.Listen(n.cfg.Listen, n.cfg.Identity, n.log)
	if err != nil {
		return err
	}
	n.listener = l
	advertise := n.cfg.Advertise
	if advertise == "" {
		advertise = l.Addr().String()
	}
	n.client = forward.NewClient(n.cfg.Identity, n.address)
	n.caller = n.client
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: provider{n}, Logger: newRaftLogger(n.log), Stream: advertised{l.Stream(), peerAddr(advertise)},
		MaxPool: 3, MaxRPCsInFlight: 2, Timeout: 10 * time.Second,
	})
	l.Serve(n, n.pages())
	return nil
}

// address returns where the member id is reached.
func (n *Node) address(id string) (string, error) {
	if r := n.raft.Load(); r != nil {
		for _, s := range n.servers() {
			if string(s.ID) == id {
				return string(s.Address), nil
			}
		}
	}
	for _, m := range n.lastMembers() { // before raft has begun
		if m.ID == id {
			return m.Addr, nil
		}
	}
	return "", fmt.Errorf("node %s is no member known here", id)
}

// lead proposes a first entry when this node becomes the leader, so that what was acknowledged before is applied
// here, and moves the log time on when nothing else does.
func (n *Node) lead(r *raft.Raft, observations <-chan raft.Observation) {
	ticker := time.NewTicker(n.cfg.TickInterval)
	defer ticker.Stop()
	leading := false
	for {
		select {
		case <-n.closing:
			return
		case o := <-observations:
			n.peers.note(o)
		case leading = <-r.LeaderCh():
			n.log.Info("leadership", "leader", leading, "term", r.CurrentTerm())
			n.peers.reset()
			n.fullVoters.Store(nil)
			if leading {
				n.askClocksUntilKnown(r)
				n.tick(r)
			}
			if n.cfg.OnLeadership != nil {
				n.cfg.OnLeadership(leading)
			}
		case <-ticker.C:
			n.noteMembers()
			if leading {
				n.askClocks()
			}
			now, _ := n.clock.now()
			behind := now - n.state.LogTime()
			if leading && (n.ready.Load() != r.CurrentTerm() || behind > n.cfg.TickInterval.Milliseconds()) {
				n.tick(r)
			}
			if leading && n.fullDisk() != nil {
				n.yield(r)
			}
		}
	}
}

// tick proposes a Tick and notes the term in which it was applied.
func (n *Node) tick(r *raft.Raft) {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.TickInterval)
	defer cancel()
	c := command.NewTick(n.cfg.NodeID)
	n.budget.used.Add(int64(c.Size())) // beyond the bound: a busy node needs it too
	o, err := n.proposeHere(ctx, []command.Command{c})
	if err != nil {
		n.log.Debug("tick", "err", err)
		return
	}
	n.ready.Store(o.term)
}

// fatal stops applying and proposing and reports err, once.
func (n *Node) fatal(err error) {
	if !n.fatalErr.CompareAndSwap(nil, &err) {
		return
	}
	n.fsm.failed.Store(true)
	close(n.broken)
	n.log.Error("fatal", "err", err)
	go n.cfg.OnFatal(err) // it may call Close, which waits for the caller of this
}

// after runs do in d unless the node is closed before.
func (n *Node) after(d time.Duration, do func()) {
	n.timersMu.Lock()
	defer n.timersMu.Unlock()
	if n.timers == nil { // closed
		return
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		n.timersMu.Lock()
		_, live := n.timers[t]
		delete(n.timers, t)
		if live {
			n.wg.Add(1) // Close takes the timers away before it waits
		}
		n.timersMu.Unlock()
		if live {
			defer n.wg.Done()
			do()
		}
	})
	n.timers[t] = struct{}{}
}

// State returns the replicated state for reading. It stays valid, also over installs, until Close.
func (n *Node) State() *meta.Store { return n.state }

// PeerAddr returns the host:port at which this node tells its peers to reach it.
func (n *Node) PeerAddr() string { return string(n.trans.LocalAddr()) }

// PeerClient returns the client for HTTP requests to the PeerHandler of other members, https://<node id>/path;
// nil with Config.Transport.
func (n *Node) PeerClient() *forward.Client { return n.client }

// Close gives leadership away, makes a last mark, stops everything and closes the stores. It is idempotent.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		if r := n.raft.Load(); r != nil && n.fatalErr.Load() == nil {
			n.resign(r)
		}
		n.closeErr = n.shutdown()
	})
	return n.closeErr
}

// resign makes leaving cheap: for the others a leader at once, for the next start no log to apply again. Both are
// attempts.
func (n *Node) resign(r *raft.Raft) {
	if r.State() == raft.Leader && len(n.servers()) > 1 {
		if err := n.handOver(r, nil); err != nil {
			n.log.Info("leadership was not handed over", "err", err)
		}
	}
	if n.fsm.held.Load() == nil && !n.replaying.Load() {
		if err := n.unlessBroken(r.Snapshot()); err != nil && !quietMark(err) {
			n.log.Info("no last mark", "err", err)
		}
	}
}

// unlessBroken waits for raft's answer, which does not come any more once the node has met a fatal error (guard.halt). It must be
// one that comes after the shutdown at the latest, so that what waits for it ends then.
func (n *Node) unlessBroken(f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-n.broken:
		return ErrStopped
	}
}

// handOver gives leadership to the voter to, or to the one that knows most if nil, and returns once this node does not lead any
// more. Raft's own answer is not waited for: there is none, for ever, to a question that it has not taken from its channel when it
// stops (guard.halt).
func (n *Node) handOver(r *raft.Raft, to *raft.Server) error {
	left := make(chan raft.Observation, 1)
	o := raft.NewObserver(left, false, func(o *raft.Observation) bool {
		state, ok := o.Data.(raft.RaftState)
		return ok && state != raft.Leader
	})
	r.RegisterObserver(o)
	defer r.DeregisterObserver(o)
	if r.State() != raft.Leader {
		return raft.ErrNotLeader
	}
	if to == nil {
		r.LeadershipTransfer()
	} else {
		r.LeadershipTransferToServer(to.ID, to.Address)
	}
	limit := time.NewTimer(n.cfg.Election)
	defer limit.Stop()
	select {
	case <-left:
		return nil
	case <-limit.C:
		return fmt.Errorf("%w within %s", errNobodyTook, n.cfg.Election)
	case <-n.broken:
		return ErrStopped
	}
}

// shutdown stops the node as it is: what is on disk is as good as after a crash.
func (n *Node) shutdown() error {
	close(n.closing)
	n.cancel()
	close(n.proposer.stop)
	if n.raft.Load() != nil {
		n.settle()
	}
	var errs []error
	if n.cfg.Transport != nil && n.cfg.Transport.Serve != nil {
		n.cfg.Transport.Serve(nil)
	}
	if n.listener != nil {
		errs = append(errs, ignoreClosed(n.listener.Close()))
	}
	if r := n.raft.Load(); r != nil {
		errs = append(errs, r.Shutdown().Error())
	}
	if c, ok := n.trans.(raft.WithClose); ok {
		errs = append(errs, ignoreClosed(c.Close()))
	}
	if n.client != nil {
		n.client.Close()
	}
	n.timersMu.Lock()
	for t := range n.timers {
		t.Stop()
	}
	n.timers = nil
	n.timersMu.Unlock()
	n.images.close()
	n.proposer.wg.Wait()
	n.wg.Wait()
	n.metrics.unregister(n.cfg.Registerer)
	errs = append(errs, closeSinks(n.fsm.sinks))
	if n.state != nil {
		errs = append(errs, n.state.Close())
	}
	errs = append(errs, n.fsm.verdicts.Close())
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}

// settle waits for the entries and the questions on their way, as raft answers none of them once it is shut down.
func (n *Node) settle() {
	n.questions.end()
	done := make(chan struct{})
	go func() {
		n.proposer.wg.Wait()
		n.questions.wg.Wait()
		close(done)
	}()
	limit := time.NewTimer(3 * time.Second)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

func closeSinks(s Sinks) error {
	return errors.Join(wrap("close store of metrics", s.Metrics.Close()), wrap("close store of logs", s.Logs.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}
